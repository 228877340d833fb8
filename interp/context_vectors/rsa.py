"""Are the same tasks alike in the tower's contextual vectors and in the decoder's states? Representational similarity.

    D_ij = 1 - cos(m_i - m, m_j - m)          distances of the K tasks' means, without the mean over tasks
    rho  = Spearman's correlation of D of a tower layer and D of a decoder layer, over pairs of tasks

(Kriegeskorte, Mur and Bandettini 2008). No map is fitted, so the two need not have a linear code in common. The means
of tower and decoder are of different items of each task, so that they do not agree in what single items have.

Null: tasks of one matrix are permuted (Mantel's test); pairs are not independent, tasks are. Both may be like a third
thing, the wording above all: `partial` is the correlation of ranks that is left when the text embedding's distances are
taken out of both, with the same null. Intervals are percentiles over resampled items of each task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from interp.context_vectors.clusters import centred_cosines, pearson
from interp.errors import CrosstaskError
from interp.statistics import Interval

RESAMPLES = 200
PERMUTATIONS = 999


@dataclass(frozen=True)
class Alike:
    """How alike two representations find the same tasks.

    Attributes:
        rho: Spearman's correlation over pairs of tasks, with its percentile interval over items.
        p: two-sided, over permuted tasks.
        partial: the same without what a third representation explains; NaN without one.
        partial_p: two-sided, likewise.
    """

    rho: Interval
    p: float
    partial: float
    partial_p: float


def task_distances(means: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "K K"]:
    """1 - cosine of all pairs of tasks, without the mean over tasks."""
    return 1 - centred_cosines(means)


def alike(
    one: Float[np.ndarray, "N D"],
    other: Float[np.ndarray, "N E"],
    tasks: Int[np.ndarray, " N"],
    *,
    given: Float[np.ndarray, "N C"] | None = None,
    permutations: int = PERMUTATIONS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Alike:
    """Compare two representations of the same items by which tasks are alike in them.

    Args:
        one, other: of N items; the first half of each task's items gives the means of `one`, the second of `other`.
        tasks: of each.
        given: a third representation, whose distances are taken out.
        permutations: of the tasks.
        resamples: of the items of each task.
        seed: of both.

    Raises:
        CrosstaskError: there are fewer than four tasks, or a task has fewer than two items.
    """
    names, counts = np.unique(tasks, return_counts=True)
    if len(names) < 4 or counts.min() < 2:
        raise CrosstaskError(
            f"{len(names)} tasks with {counts.min()} items or more: expected four tasks of two items, one for each side"
        )
    rows = [np.flatnonzero(tasks == name) for name in names]
    first, second = [own[: len(own) // 2] for own in rows], [own[len(own) // 2 :] for own in rows]
    upper = np.triu_indices(len(names), 1)
    a, b = (_ranked(vectors, part, upper) for vectors, part in ((one, first), (other, second)))
    c = None if given is None else _ranked(given, rows, upper)
    rng = np.random.default_rng(seed)
    value, partial = pearson(a, b), float("nan") if c is None else _partial(a, b, c)
    permuted = [_permuted(b, upper, rng.permutation(len(names))) for _ in range(permutations)]
    p = _share(value, [pearson(a, moved) for moved in permuted])
    partial_p = float("nan") if c is None else _share(partial, [_partial(a, moved, c) for moved in permuted])
    drawn = []
    for _ in range(resamples):
        x, y = ([rng.choice(own, len(own)) for own in part] for part in (first, second))
        drawn.append(pearson(_ranked(one, x, upper), _ranked(other, y, upper)))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Alike(Interval(value, float(low), float(high)), p, partial, partial_p)


def _ranked(
    vectors: Float[np.ndarray, "N D"], rows: list[Int[np.ndarray, " n"]], upper: tuple[np.ndarray, ...]
) -> Float[np.ndarray, " pairs"]:
    """Ranks of the distances of all pairs of tasks, from the means of some rows."""
    means = np.stack([np.asarray(vectors, dtype=np.float64)[own].mean(0) for own in rows])
    return stats.rankdata(np.round(task_distances(means)[upper], 12))


def _permuted(
    ranks: Float[np.ndarray, " pairs"], upper: tuple[np.ndarray, ...], order: Int[np.ndarray, " K"]
) -> Float[np.ndarray, " pairs"]:
    full = np.zeros((len(order), len(order)))
    full[upper] = ranks
    full += full.T
    return full[np.ix_(order, order)][upper]


def _partial(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Correlation of a and b without what c explains of each."""
    ab, ac, bc = pearson(a, b), pearson(a, c), pearson(b, c)
    left = (1 - ac**2) * (1 - bc**2)
    return float((ab - ac * bc) / np.sqrt(left)) if left > 1e-12 else float("nan")


def _share(value: float, null: list[float]) -> float:
    """Two-sided p: the share of permutations that reach the value, the value itself among them."""
    if not np.isfinite(value):
        return float("nan")
    return (int((np.abs(null) >= abs(value) - 1e-9).sum()) + 1) / (len(null) + 1)
