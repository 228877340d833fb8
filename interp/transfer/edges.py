"""Whether a fine-tuned model answers better or worse than the baseline, cell by cell, item by item.

Both models answer the same items. With one run the exact McNemar test asks whether the items that only one of them
gets right divide evenly. Runs of one source share their items, so that with several runs the item is what is drawn: its
runs' differences are summed, s_i = sum over runs of (right after - right before), and the signs of these sums flip
together, each with probability 1/2. The distribution of their total is computed exactly, one item after another, and
with one run it is McNemar's. Over cells the false discovery rate is held by Benjamini and Hochberg.

Four runs alone cannot decide an edge: a signed-rank test over them has no p below 0.125. Where no items are known,
`best_case_p` says how small the p of one run could be for so many items moved, if all moved the same way.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from interp.errors import CrosstaskError
from interp.transfer.names import BASELINE
from interp.transfer.pgf import paired_standard_error
from interp.transfer.tables import Measured

_PARTS = 20
"""Where answers are not right or wrong, differences are rounded to 1/20 (relative accuracy comes in tenths)."""
FAMILIES = ("transfer", "itself", "control", "extra")
"""Kinds of cells, within each of which discoveries are counted: a task on another task, a task on itself, a control
source, and a target that is no source."""


def sign_flip_p(sums: Int[np.ndarray, " items"]) -> float:
    """Two-sided exact p of a total of whole numbers under independent signs; McNemar's test if all are -1, 0 or 1."""
    sizes = np.abs(sums[sums != 0]).astype(int)
    if not len(sizes):
        return 1.0
    sizes //= np.gcd.reduce(sizes)
    chances = np.ones(1)  # of the totals -reach, ..., reach so far
    for size in sizes:
        longer = np.zeros(len(chances) + 2 * size)
        longer[: len(chances)] += chances / 2
        longer[2 * size :] += chances / 2
        chances = longer
    reach = sizes.sum()
    observed = abs(int(np.sum(np.sign(sums[sums != 0]) * sizes)))
    return float(min(1.0, chances[np.abs(np.arange(-reach, reach + 1)) >= observed].sum()))


def best_case_p(items: Float[np.ndarray, " ..."]) -> Float[np.ndarray, " ..."]:
    """The smallest p of an exact McNemar test for a net of so many items: all of them moved the same way."""
    return np.minimum(1.0, 2.0 ** (1 - np.abs(items)))


def discoveries(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Benjamini and Hochberg's adjusted p-values (1995); NaN stays NaN."""
    found = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        found[known] = stats.false_discovery_control(p[known])
    return found


def edge_table(measured: Measured, values: Float[np.ndarray, "S I J"]) -> pd.DataFrame:
    """Every cell: its factor over the runs, what moved, and the paired test where items are known.

    Args:
        measured: where the values come from.
        values: factors, or what stands in their place, of each run.

    Returns:
        A table with columns source, target, family, mean, sd (over runs), runs, same_sign (share of the runs that have
        the sign of the mean), accuracy, accuracy_sd, baseline, items, items_moved (net, mean over runs), best_case_p,
        only_tuned and only_baseline (discordant items over all runs), standard_error (paired, of the mean over runs),
        p, q. What is unknown is NaN.
    """
    mean = values.mean(0)
    runs = len(values)
    sd = values.std(0, ddof=1) if runs > 1 else np.full_like(mean, np.nan)
    same = (np.sign(values) == np.sign(mean)).mean(0)
    tests = paired_tests(measured) if measured.items is not None else {}
    rows = []
    for i, source in enumerate(measured.sources):
        for j, target in enumerate(measured.targets):
            row = {
                "source": source, "target": target, "family": _family(measured, source, target),
                "mean": mean[i, j], "sd": sd[i, j], "runs": runs, "same_sign": same[i, j],
            }  # fmt: skip
            rows.append(row | _accuracies(measured, i, j) | tests.get((source, target), _UNTESTED))
    table = pd.DataFrame(rows)
    table["q"] = np.nan
    for family in FAMILIES:
        chosen = table["family"] == family
        table.loc[chosen, "q"] = discoveries(table.loc[chosen, "p"].to_numpy(float))
    return table


_UNTESTED = dict.fromkeys(("only_tuned", "only_baseline", "standard_error", "p"), np.nan)


def _family(measured: Measured, source: str, target: str) -> str:
    if source in measured.controls:
        return "control"
    if target in measured.extras:
        return "extra"
    return "itself" if source == target else "transfer"


def _accuracies(measured: Measured, i: int, j: int) -> dict[str, float]:
    if measured.accuracy is None or measured.baseline is None:
        return dict.fromkeys(("accuracy", "accuracy_sd", "baseline", "items", "items_moved", "best_case_p"), np.nan)
    cell, base = measured.accuracy[:, i, j], measured.baseline[:, j]
    n = np.nan if measured.n is None else float(measured.n[j])
    moved = float((cell - base).mean() * n)
    return {
        "accuracy": float(cell.mean()),
        "accuracy_sd": float(cell.std(ddof=1)) if len(cell) > 1 else np.nan,
        "baseline": float(base.mean()),
        "items": n,
        "items_moved": moved,
        "best_case_p": float(best_case_p(np.array(moved))),
    }


def paired_tests(measured: Measured) -> dict[tuple[str, str], dict[str, float]]:
    """(source, target) -> discordant items, the paired standard error, and p.

    Raises:
        CrosstaskError: a cell lacks items that another has, or the baseline has none.
    """
    assert measured.items is not None
    items = measured.items.assign(name=measured.items["form"] + "/" + measured.items["item"])
    found = {}
    for target, rows in items.groupby("target", sort=False):
        if target not in measured.targets:
            continue
        before = _answers(rows[rows["source"] == BASELINE], measured, BASELINE, str(target))
        for source, answers in rows.groupby("source", sort=False):
            if source in measured.sources:
                after = _answers(answers, measured, str(source), str(target))
                found[str(source), str(target)] = _paired(before, after, measured, str(source), str(target))
    return found


def _answers(rows: pd.DataFrame, measured: Measured, source: str, target: str) -> pd.DataFrame:
    """Whether answers are right: a row for each item, a column for each run."""
    if rows.empty:
        raise CrosstaskError(f"{measured.path}: the items hold no answers of {source!r} to target {target!r}.")
    answers = rows.pivot_table(index="name", columns="seed", values="correct", aggfunc="first")
    if answers.isna().any(axis=None):
        name = answers.index[answers.isna().any(axis=1)][0]
        raise CrosstaskError(
            f"{measured.path}: source {source!r} answered item {name!r} of target {target!r} in some runs, not in all."
        )
    return answers


def _paired(
    before: pd.DataFrame, after: pd.DataFrame, measured: Measured, source: str, target: str
) -> dict[str, float]:
    if set(before.index) != set(after.index):
        odd = sorted(set(before.index) ^ set(after.index))[0]
        raise CrosstaskError(
            f"{measured.path}: item {odd!r} of target {target!r} was answered by one of baseline and {source!r} alone."
        )
    if before.shape[1] > 1 and set(before.columns) != set(after.columns):
        raise CrosstaskError(
            f"{measured.path}: the items of target {target!r} have the baseline's runs {', '.join(before.columns)} and "
            f"{', '.join(after.columns)} of {source!r}; expected one of the baseline, or the same."
        )
    right = after.to_numpy(float)
    was = before.loc[after.index, after.columns if before.shape[1] > 1 else before.columns]
    base = np.broadcast_to(was.to_numpy(float), right.shape)
    change = right - base
    scale = 1 if np.array_equal(change, np.rint(change)) else _PARTS
    # Over runs the items' sums are what varies; with one run their squares are the discordant items, b + c.
    error = paired_standard_error(np.square(change.mean(1)).sum(), np.array(0), (1 - base).sum(0).mean())
    gains, losses = int((change > 0).sum()), int((change < 0).sum())
    p = sign_flip_p(np.rint(scale * change.sum(1)).astype(int))
    return {
        "only_tuned": gains, "only_baseline": losses, "standard_error": float(error), "p": p
    }  # fmt: skip
