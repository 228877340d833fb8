"""Accuracies with intervals, and what each adapter changed, item by item.

A rate has its Wilson interval; a mean relative accuracy, which is no rate, its bootstrap interval over items. An
adapter is compared with the frozen model on the same items: the difference with its bootstrap interval, the exact
McNemar test of the items that only one of them gets right, and Holm's correction over all comparisons of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from interp.statistics import Interval, bootstrap_mean, compare_paired, holm, wilson
from interp.tuning.evaluation.flags import summarise
from interp.tuning.evaluation.records import Record

FROZEN = "frozen"
COLUMNS = (
    "task", "form", "model", "n", "accuracy", "low", "high", "difference", "difference_low", "difference_high",
    "only_model", "only_frozen", "p_value", "p_holm", "plain_accuracy", "exact_accuracy", "mean_log_p", "brier",
    "entropy", "mass", "constant_letter", "equals_key_count",
)  # fmt: skip


def comparison_table(records: Mapping[tuple[str, str, str], Sequence[Record]], *, frozen: str = FROZEN) -> pd.DataFrame:
    """One row for each task, form and model.

    Args:
        records: (task, form, model) -> records, the same items for all models of a task and form.
        frozen: the model that the others are compared with.

    Returns:
        The table with `COLUMNS`; differences are empty for the frozen model and where it is missing.
    """
    rows = []
    for (task, form, model), found in records.items():
        summary = summarise(found)
        rate = rate_of(found)
        row = {"task": task, "form": form, "model": model, **vars(summary), "low": rate.low, "high": rate.high}
        base = records.get((task, form, frozen))
        if base is not None and model != frozen:
            row |= _difference(found, base)
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    tested = table["p_value"].notna()
    table["p_holm"] = table["p_holm"].astype(float)
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p_value"].astype(float).tolist())
    return table


def rate_of(records: Sequence[Record]) -> Interval:
    """Accuracy with its interval."""
    scores = [record.correct for record in records]
    if set(scores) <= {0.0, 1.0}:
        return wilson(round(sum(scores)), len(scores))
    return bootstrap_mean(scores)


def _difference(found: Sequence[Record], base: Sequence[Record]) -> dict[str, float]:
    """What a model changed; items are matched by name."""
    before = {record.item: record.correct for record in base}
    after = {record.item: record.correct for record in found}
    names = [name for name in after if name in before]
    ours, theirs = np.array([after[name] for name in names]), np.array([before[name] for name in names])
    if set(ours) | set(theirs) <= {0.0, 1.0}:
        compared = compare_paired(ours.astype(bool).tolist(), theirs.astype(bool).tolist())
        interval, p_value = compared.difference, compared.p_value
    else:
        interval, p_value = bootstrap_mean(ours - theirs), float("nan")
    return {
        "difference": interval.value,
        "difference_low": interval.low,
        "difference_high": interval.high,
        "only_model": int(np.sum(ours > theirs)),
        "only_frozen": int(np.sum(ours < theirs)),
        "p_value": p_value,
    }
