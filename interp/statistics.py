"""Intervals and paired comparisons for rates of right answers.

A rate of k right answers out of n gets the Wilson score interval (Wilson, 1927). Two methods are compared on the same
queries: with one answer per query by the exact McNemar test, which asks whether the queries that only one of them gets
right divide evenly; with several answers per query (seeds, contexts), which are not independent, by flipping the signs
of the queries' mean differences. A mean of such answers gets a bootstrap interval that resamples whole queries.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from interp.errors import CrosstaskError

_CONFIDENCE = 0.95
_BOOTSTRAP_RESAMPLES = 5000
_ROUNDING = 1e-12
_PERMUTATIONS = 9999


class Interval(NamedTuple):
    """A value between 0 and 1 (or a difference, between -1 and 1) with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Method A against method B on the same queries.

    Attributes:
        n: queries (groups, where there are several answers to each).
        difference: rate of A minus rate of B, with its bootstrap interval over queries.
        only_a: answers that A gets right and B wrong.
        only_b: answers that B gets right and A wrong.
        p_value: two-sided, against the methods being equally good.
    """

    n: int
    difference: Interval
    only_a: int
    only_b: int
    p_value: float


def wilson(k: int, n: int, *, confidence: float = _CONFIDENCE) -> Interval:
    """A rate with its Wilson score interval.

    Args:
        k: right answers.
        n: answers; independent of each other.
        confidence: coverage of the interval.

    Raises:
        CrosstaskError: n is not positive, or k is not between 0 and n.
    """
    from scipy.stats import binomtest

    if n < 1 or not 0 <= k <= n:
        raise CrosstaskError(
            f"No rate can be made of {k} right answers out of {n}; expected 0 <= right <= answers, 1 <= answers."
        )
    bounds = binomtest(int(k), int(n)).proportion_ci(confidence, method="wilson")
    return Interval(k / n, float(bounds.low), float(bounds.high))


def compare_paired(
    a: Sequence[bool], b: Sequence[bool], *, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> Comparison:
    """Compare two methods that answered the same queries, answer by answer.

    Args:
        a: whether method A's answers are right.
        b: whether method B's answers are right, in the same order.
        groups: which query each answer belongs to; needed when a query is answered more than once.
        seed: of the resampling; the exact McNemar test has no randomness.

    Returns:
        The comparison. The p-value is the exact McNemar test's without `groups`, and the sign-flip test's with them.

    Raises:
        CrosstaskError: unequal lengths, or nothing to compare.
    """
    if len(a) != len(b):
        raise CrosstaskError(
            f"A paired comparison needs the same queries on both sides; got {len(a)} and {len(b)} answers."
        )
    right_a, right_b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    differences = group_means(right_a.astype(float) - right_b, groups)
    p_value = _mcnemar(only_a, only_b) if groups is None else _sign_flip(differences, seed)
    return Comparison(len(differences), bootstrap_mean(differences, seed=seed), only_a, only_b, p_value)


def bootstrap_mean(
    values: Sequence[float] | Float[np.ndarray, " n"],
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = _CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """A mean with its percentile bootstrap interval.

    Args:
        values: for instance whether answers are right, or differences of such.
        groups: which query each value belongs to; whole queries are resampled, each with the same weight.
        confidence: coverage of the interval.
        seed: of the resampling.

    Raises:
        CrosstaskError: there is no value, or not one group for each.
    """
    from scipy.stats import bootstrap

    means = group_means(np.asarray(values, dtype=float), groups)
    value = float(means.mean())
    if np.ptp(means) == 0:  # nothing varies, and SciPy would answer with NaN and a warning
        return _interval(value, value, value, of=means)
    found = bootstrap(
        (means,), np.mean, confidence_level=confidence, n_resamples=_BOOTSTRAP_RESAMPLES, method="percentile",
        rng=np.random.default_rng(seed), batch=500,
    )  # fmt: skip
    return _interval(value, found.confidence_interval.low, found.confidence_interval.high, of=means)


def bootstrap_means(
    values: Float[np.ndarray, "n ..."],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "resamples ..."]:
    """Means of whole arrays, such as curves over layers, in bootstrap resamples of them.

    One resample serves every entry, so that a statistic of the whole mean curve has an interval too.

    Args:
        values: n arrays of one shape.
        groups: which query each array belongs to; whole queries are resampled, each with the same weight.
        resamples: how many.
        seed: of the resampling.

    Raises:
        CrosstaskError: there is no array, or not one group for each.
    """
    means = group_means(np.asarray(values, dtype=float), groups)
    n = len(means)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n
    return np.tensordot(weights, means, axes=1)


def percentiles(
    resampled: Float[np.ndarray, "resamples ..."], *, confidence: float = _CONFIDENCE
) -> tuple[Float[np.ndarray, " ..."], Float[np.ndarray, " ..."]]:
    """The bounds of the percentile interval, over the first axis."""
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def bootstrap_crossed(
    values: Sequence[float] | Float[np.ndarray, " n"],
    *,
    tasks: Sequence[Hashable],
    items: Sequence[Hashable],
    seeds: Sequence[Hashable],
    confidence: float = _CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """The mean over tasks, each with the same weight, of answers to items under seeds; resamples items and seeds.

    Args:
        values: whether answers are right, or differences of such.
        tasks: of each value.
        items: of each value; tasks with the same items are resampled together.
        seeds: of each value; every item of a task has one value under every seed.
        confidence: coverage of the interval.
        seed: of the resampling. Calls with as many items and seeds resample alike.

    Raises:
        CrosstaskError: there is no value, or a task lacks an item under a seed, or has it twice.
    """
    cells = _crossed(values, tasks, items, seeds)
    value = float(np.mean([cell.mean() for _, cell in cells]))
    if all(np.ptp(cell) == 0 for _, cell in cells):
        return _interval(value, value, value, of=np.asarray(values, dtype=float))
    draws = {names: index for index, names in enumerate(dict.fromkeys(names for names, _ in cells))}
    n_seeds = cells[0][1].shape[1]
    of_seeds = _weights(n_seeds, seed, -1)
    means = np.mean(
        [((_weights(len(cell), seed, draws[names]) @ cell) * of_seeds).sum(1) / cell.size for names, cell in cells],
        axis=0,
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return _interval(value, low, high, of=np.asarray(values, dtype=float))


def bootstrap_two_way(
    values: Sequence[float] | Float[np.ndarray, " n"],
    *,
    rows: Sequence[Hashable],
    columns: Sequence[Hashable],
    confidence: float = _CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """The mean over the cells of a table, of which some may be empty; resamples rows and columns (Owen 2007).

        sum_rc w_r v_c x_rc / sum_rc w_r v_c,    w and v how often each row and each column is drawn, by themselves

    For a transfer matrix, say, whose sources and targets are both a sample, and whose diagonal is left out. The
    interval is, if anything, too wide: a cell's own noise is counted with its row's and with its column's.

    Args:
        values: of cells; several of one cell are averaged first.
        rows: the row of each value.
        columns: the column of each value.
        confidence: coverage of the interval.
        seed: of the resampling.

    Raises:
        CrosstaskError: there is no value, or not one row and column for each.
    """
    if len(rows) != len(columns):
        raise CrosstaskError(f"Each value needs its row and its column; got {len(rows)} rows, {len(columns)} columns.")
    places = list(zip(rows, columns, strict=True))
    cells, means = list(dict.fromkeys(places)), group_means(np.asarray(values, dtype=float), places)
    value = float(means.mean())
    if np.ptp(means) == 0:
        return _interval(value, value, value, of=means)
    drawn = np.ones((_BOOTSTRAP_RESAMPLES, len(cells)))
    for axis in (0, 1):
        names = {name: index for index, name in enumerate(dict.fromkeys(cell[axis] for cell in cells))}
        drawn *= _weights(len(names), seed, axis)[:, [names[cell[axis]] for cell in cells]]
    total = drawn.sum(1)
    resampled = (drawn @ means)[total > 0] / total[total > 0]  # rows may be drawn that have no cell in any column drawn
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return _interval(value, low, high, of=means)


def compare_crossed(
    a: Sequence[float],
    b: Sequence[float],
    *,
    tasks: Sequence[Hashable],
    items: Sequence[Hashable],
    seeds: Sequence[Hashable],
    seed: int = 0,
) -> Comparison:
    """Compare two methods over tasks, items and seeds; arguments and errors are those of :func:`bootstrap_crossed`.

    Answers are right or wrong, or have a score between 0 and 1; then only_a counts those that A scores higher.

    Returns:
        The comparison: the interval resamples items and seeds, and the p-value flips the signs of items (an item's
        difference is its share of the mean over tasks, so seeds are averaged over and tasks weigh the same).
    """
    if len(a) != len(b):
        raise CrosstaskError(
            f"A paired comparison needs the same queries on both sides; got {len(a)} and {len(b)} answers."
        )
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    interval = bootstrap_crossed(difference, tasks=tasks, items=items, seeds=seeds, seed=seed)
    shares: dict[Hashable, float] = {}
    cells = _crossed(difference, tasks, items, seeds)
    for names, cell in cells:
        for name, row in zip(names, cell, strict=True):
            shares[name] = shares.get(name, 0.0) + float(row.sum()) / cell.size / len(cells)
    p_value = _sign_flip(np.array(list(shares.values())), seed)
    return Comparison(len(shares), interval, int(np.sum(difference > 0)), int(np.sum(difference < 0)), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given: max over the smaller ones of (m - rank) p, at most 1."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return adjusted.tolist()


def group_means(
    values: Float[np.ndarray, "n ..."],
    groups: Sequence[Hashable] | None,
) -> Float[np.ndarray, "groups ..."]:
    """Mean value (or array) of each group, in the order in which groups are first seen; without groups the values.

    Raises:
        CrosstaskError: there is no value, or not one group for each.
    """
    if not len(values):
        raise CrosstaskError("There are no answers to take a mean of.")
    if groups is None:
        return values
    if len(groups) != len(values):
        raise CrosstaskError(f"Each answer needs its group; got {len(values)} answers and {len(groups)} groups.")
    index: dict[Hashable, int] = {}
    codes = np.array([index.setdefault(group, len(index)) for group in groups])
    totals = np.zeros((len(index), *values.shape[1:]))
    np.add.at(totals, codes, values)
    return totals / np.bincount(codes).reshape(-1, *[1] * (values.ndim - 1))


def _crossed(
    values: Sequence[float] | Float[np.ndarray, " n"],
    tasks: Sequence[Hashable],
    items: Sequence[Hashable],
    seeds: Sequence[Hashable],
) -> list[tuple[tuple[Hashable, ...], Float[np.ndarray, "items seeds"]]]:
    """For each task the names of its items, sorted, and its values."""
    if not len(values):
        raise CrosstaskError("There are no answers to take a mean of.")
    found: dict[Hashable, dict[tuple[Hashable, Hashable], float]] = {}
    for value, task, item, number in zip(values, tasks, items, seeds, strict=True):
        cell = found.setdefault(task, {})
        if (item, number) in cell:
            raise CrosstaskError(f"Item {item!r} of task {task!r} has two answers under seed {number!r}.")
        cell[item, number] = float(value)
    every = sorted({number for cell in found.values() for _, number in cell}, key=str)
    crossed = []
    for task, cell in found.items():
        names = tuple(sorted({item for item, _ in cell}, key=str))
        if len(cell) < len(names) * len(every):
            raise CrosstaskError(
                f"Task {task!r} has {len(cell)} answers to {len(names)} items under {len(every)} seeds; every item "
                "needs an answer under every seed."
            )
        crossed.append((names, np.array([[cell[name, number] for number in every] for name in names])))
    return crossed


def _interval(value: float, low: float, high: float, *, of: Float[np.ndarray, " *n"]) -> Interval:
    """With zeros where rounding leaves less than 1e-12 of the largest of the values that it is of, whose sign would
    decide whether zero is in the interval."""
    least = _ROUNDING * float(np.abs(of).max())
    return Interval(*(0.0 if abs(bound) < least else float(bound) for bound in (value, low, high)))


@cache
def _weights(n: int, seed: int, draw: int) -> Float[np.ndarray, "resamples n"]:
    """How often each of n is drawn, in each resample."""
    rng = np.random.default_rng([seed, n, draw + 1])
    return rng.multinomial(n, np.full(n, 1 / n), size=_BOOTSTRAP_RESAMPLES).astype(float)


def _mcnemar(only_a: int, only_b: int) -> float:
    from scipy.stats import binomtest

    discordant = only_a + only_b
    return float(binomtest(only_a, discordant).pvalue) if discordant else 1.0


def _sign_flip(differences: Float[np.ndarray, " groups"], seed: int) -> float:
    """Two-sided p-value of the mean under independent signs; exact when there are few groups."""
    from scipy.stats import permutation_test

    def mean(x: Any, axis: int = -1) -> Any:
        return np.mean(x, axis=axis)

    if not differences.any():
        return 1.0
    found = permutation_test(
        (differences,), mean, permutation_type="samples", vectorized=True, n_resamples=_PERMUTATIONS, batch=1000,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)
