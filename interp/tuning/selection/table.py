"""What selected data gained: paired over test items, with random mixtures as the comparison that matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.statistics import bootstrap_crossed, compare_crossed
from interp.tuning.matrix.jobs import read_records
from interp.tuning.matrix.plan import Job, Variant
from interp.tuning.selection.plan import DIRECT, GUIDED, RANDOM, SelectionSettings, sources_of

FROZEN = "frozen"
AGAINST = (FROZEN, RANDOM, DIRECT)
COLUMNS = (
    "target", "arm", "sources", "draws", "seeds", "n", "accuracy", "low", "high",
    *(f"over_{name}{end}" for name in AGAINST for end in ("", "_low", "_high", "_p")),
)  # fmt: skip

Scores = Float[np.ndarray, "items seeds"]


def selection_table(root: Path, settings: SelectionSettings, jobs: Sequence[Job]) -> pd.DataFrame:
    """One row for each target and arm; random mixtures as their mean, and each by itself below.

    Args:
        root: folder of the comparison, its jobs finished.
        settings: of the comparison.
        jobs: its jobs.

    Returns:
        The table with `COLUMNS`. Intervals resample items and seeds; p-values flip the signs of items.
    """
    rows = []
    for target, arms in settings.arms.items():
        found, names = _scores(root, settings, jobs, target)
        drawn = [found[arm.name] for arm in arms if arm.name.startswith(RANDOM)]
        if drawn:
            found[RANDOM] = np.mean(drawn, axis=0)
        sources = {arm.name: sources_of(arm) for arm in arms}
        order = [FROZEN, GUIDED, *([RANDOM] if drawn else []), DIRECT]
        order += [arm.name for arm in arms if arm.name not in order]
        for arm in order:
            rows.append(
                {
                    "target": target,
                    "arm": arm,
                    "sources": sources.get(arm, ""),
                    "draws": len(drawn) if arm == RANDOM else 1,
                    "seeds": len(settings.seeds),
                    "n": len(names),
                    **_row(arm, found, names, settings.seeds),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(arm: str, found: Mapping[str, Scores], names: Sequence[str], seeds: Sequence[int]) -> dict[str, float]:
    """Accuracy with its interval, and differences from what it is compared with."""
    where: dict[str, Any] = {
        "tasks": ["target"] * len(names) * len(seeds),
        "items": [name for name in names for _ in seeds],
        "seeds": [seed for _ in names for seed in seeds],
    }
    rate = bootstrap_crossed(found[arm].ravel(), **where)
    row = {"accuracy": rate.value, "low": rate.low, "high": rate.high}
    for other in AGAINST:
        if other in found and other != arm and not (other == RANDOM and arm.startswith(RANDOM)):
            compared = compare_crossed(found[arm].ravel().tolist(), found[other].ravel().tolist(), **where)
            difference = compared.difference
            row |= {f"over_{other}": difference.value, f"over_{other}_low": difference.low}
            row |= {f"over_{other}_high": difference.high, f"over_{other}_p": compared.p_value}
    return row


def _scores(
    root: Path, settings: SelectionSettings, jobs: Sequence[Job], target: str
) -> tuple[dict[str, Scores], list[str]]:
    """Scores of each arm by item and seed, and the names of the items."""
    columns: dict[str, dict[int, list[float]]] = {}
    names: list[str] = []
    for job in jobs:
        if job.kind != "evaluate" or job.config["target"] != target:
            continue
        for variant in job.variants:
            records = read_records(root, job, variant)
            names = [record.item for record in records]
            scores = [record.correct for record in records]
            if variant == Variant():
                columns[FROZEN] = dict.fromkeys(settings.seeds, scores)
            else:
                columns.setdefault(variant.source, {})[variant.seed] = scores
    found = {arm: np.array([by_seed[seed] for seed in settings.seeds]).T for arm, by_seed in columns.items()}
    return found, names
