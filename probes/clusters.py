"""Do states cluster by task or by modality? Silhouette, nearest-neighbour purity, and cosines within and between.

With the cosine distance d(i, j) = 1 - cos(x_i, x_j), over the pairs that may be compared:

    silhouette   s_i = (b_i - a_i) / max(a_i, b_i): a_i the mean distance to states of the same label, b_i the least
                 mean distance to those of another (Rousseeuw 1987); between -1 and 1, 0 where clusters overlap
    purity       share of a state's k nearest states that have its label

Which pairs may be compared is what makes these numbers mean something. States that show a common item are never
compared, or items would count as tasks. Among states of the *other modality* alone, purity asks whether the nearest
image contexts of a text context do its task. Within a *family* of tasks over the same items, it cannot be had by
telling countries from animals. Every value has its baseline: the labels permuted over contexts, those that show the
same items together (:mod:`probes.shuffles`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from interp.errors import CrosstaskError
from interp.statistics import Interval, bootstrap_mean, group_means
from probes.shuffles import Labels, check_lengths, codes, p_value, shuffled
from probes.similarity import cosine_matrix

NEIGHBOURS = 5
RESAMPLES = 2000


@dataclass(frozen=True)
class ClusterScore:
    """A measure of clustering with its baseline.

    Attributes:
        n: states.
        value: mean over groups, with its bootstrap interval over groups; where states lie is held fixed.
        chance: mean of the measure over permuted labels.
        chance_high: its 95th percentile over permuted labels.
        p_value: share of permuted labellings that reach the value.
    """

    n: int
    value: Interval
    chance: float
    chance_high: float
    p_value: float


def cosine_distances(states: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N N"]:
    """1 - cos of every pair of states.

    Raises:
        CrosstaskError: if a state is zero or not finite.
    """
    return 1 - cosine_matrix(states)


def silhouette(
    distances: Float[np.ndarray, "N N"], labels: Labels, *, allowed: Bool[np.ndarray, "N N"] | None = None
) -> Float[np.ndarray, " N"]:
    """The silhouette coefficient of every state. Without `allowed` it is scikit-learn's, which has no such choice.

    Args:
        distances: of every pair.
        labels: of the states.
        allowed: pairs that may be compared; all by default.

    Raises:
        CrosstaskError: if a state may be compared with no state of its label, or none of another.
    """
    pairs = _pairs(len(distances), labels, allowed)
    kinds = codes(labels)
    return _silhouette(np.where(pairs, distances, 0.0), pairs.astype(float), kinds)


def _silhouette(
    distances: Float[np.ndarray, "N N"], pairs: Float[np.ndarray, "N N"], kinds: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    one_hot = np.eye(kinds.max() + 1)[kinds]
    counts = pairs @ one_hot
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(counts > 0, (distances @ one_hot) / counts, np.inf)
    rows = np.arange(len(kinds))
    own = means[rows, kinds].copy()
    means[rows, kinds] = np.inf
    other = means.min(axis=1)
    if not np.isfinite(own).all() or not np.isfinite(other).all():
        raise CrosstaskError("a state may be compared with no state of its label, or with none of another label")
    return (other - own) / np.maximum(np.maximum(own, other), np.finfo(float).tiny)


def neighbours(
    distances: Float[np.ndarray, "N N"], *, k: int = NEIGHBOURS, allowed: Bool[np.ndarray, "N N"] | None = None
) -> Int[np.ndarray, "N k"]:
    """The k nearest states of every state, nearest first, among those it may be compared with; never itself.

    Raises:
        CrosstaskError: if a state may be compared with fewer than k others.
    """
    pairs = _pairs(len(distances), None, allowed)
    if k < 1 or pairs.sum(axis=1).min() < k:
        raise CrosstaskError(
            f"{k} nearest neighbours were asked for, but a state may be compared with {pairs.sum(axis=1).min()}"
        )
    return np.argsort(np.where(pairs, distances, np.inf), axis=1, kind="stable")[:, :k]


def purity(
    distances: Float[np.ndarray, "N N"],
    labels: Labels,
    *,
    k: int = NEIGHBOURS,
    allowed: Bool[np.ndarray, "N N"] | None = None,
) -> Float[np.ndarray, " N"]:
    """The share of every state's k nearest neighbours that have its label.

    Raises:
        CrosstaskError: as :func:`neighbours`.
    """
    check_lengths(len(distances), labels=labels)
    kinds = codes(labels)
    return (kinds[neighbours(distances, k=k, allowed=allowed)] == kinds[:, None]).mean(axis=1)


def cluster_scores(
    states: Float[np.ndarray, "N D"],
    labels: Labels,
    *,
    groups: Labels,
    types: Labels,
    strata: Labels | None = None,
    allowed: Bool[np.ndarray, "N N"] | None = None,
    k: int = NEIGHBOURS,
    permutations: int = 199,
    seed: int = 0,
) -> dict[str, ClusterScore]:
    """Silhouette and purity of labelled states with their baselines.

    Args:
        states: N states.
        labels: tasks, or modalities.
        groups: which items each shows. States of one group are not compared, the interval resamples groups, and
            permuted labels are permuted within a group and among whole groups (:func:`probes.shuffles.shuffled`).
        types: which context each is a state of; permuted labels stay the same within a type.
        strata: within which labels are permuted, by default among all.
        allowed: pairs that may be compared, besides that they are of different groups.
        k: neighbours; at most as many as every state has of its own label.
        permutations: labellings behind the baseline.
        seed: of the permutations and the bootstrap.

    Returns:
        "silhouette" and "purity".

    Raises:
        CrosstaskError: if a state has nothing of its label to be compared with, or nothing of another; or every
            permuted labelling leaves one so.
    """
    check_lengths(len(states), labels=labels, groups=groups, types=types, strata=strata)
    apart = codes(groups)[:, None] != codes(groups)
    pairs = _pairs(len(states), labels, apart if allowed is None else apart & allowed)
    distances, kinds = cosine_distances(states), codes(labels)
    own = (pairs & (kinds[:, None] == kinds)).sum(axis=1).min()
    if own < 1:
        raise CrosstaskError("a state has no state of its label with other items to be compared with; use more blocks")
    nearest = neighbours(distances, k=min(k, own), allowed=pairs)
    masked, weights = np.where(pairs, distances, 0.0), pairs.astype(float)

    def pure(found: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        return (found[nearest] == found[:, None]).mean(axis=1)

    def silhouettes(found: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        return _silhouette(masked, weights, found)

    measures: dict[str, Callable[[Int[np.ndarray, " N"]], Float[np.ndarray, " N"]]]
    measures = {"silhouette": silhouettes, "purity": pure}
    rng = np.random.default_rng(seed)
    drawn = [shuffled(kinds, types=types, groups=groups, strata=strata, rng=rng) for _ in range(permutations)]
    scores = {}
    for name, measure in measures.items():
        value = bootstrap_mean(measure(kinds), groups=list(groups), seed=seed)
        null = np.array([_mean_if_any(measure, found, list(groups)) for found in drawn])
        null = null[np.isfinite(null)]
        if not len(null):
            raise CrosstaskError("every permuted labelling leaves a state with nothing to be compared with")
        high = float(np.quantile(null, 0.95))
        scores[name] = ClusterScore(len(kinds), value, float(null.mean()), high, p_value(value.value, null))
    return scores


def _mean_if_any(
    measure: Callable[[Int[np.ndarray, " N"]], Float[np.ndarray, " N"]],
    labels: Int[np.ndarray, " N"],
    groups: list[Any],
) -> float:
    """The mean over groups with permuted labels; NaN where they leave a state with nothing to be compared with."""
    try:
        return float(group_means(measure(labels), groups).mean())
    except CrosstaskError:
        return float("nan")


@dataclass(frozen=True)
class CosineDistribution:
    """Cosines of some pairs of states.

    Attributes:
        pairs: how many.
        mean: with its bootstrap interval over groups.
        quantiles: at 5, 25, 50, 75 and 95 %.
    """

    pairs: int
    mean: Interval
    quantiles: tuple[float, ...]


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def cosine_distribution(
    cosines: Float[np.ndarray, "N N"], pairs: Bool[np.ndarray, "N N"], *, groups: Labels, seed: int = 0
) -> CosineDistribution:
    """How alike the states of some pairs are; pairs of one group are left out.

    Args:
        cosines: of every pair.
        pairs: which count, given for (i, j) and (j, i).
        groups: which items each state shows; the interval resamples groups, and with them their pairs.
        seed: of the bootstrap.

    Raises:
        CrosstaskError: if no pair is left.
    """
    check_lengths(len(cosines), groups=groups)
    index = codes(groups)
    counted = np.triu(pairs & (index[:, None] != index), k=1)
    if not counted.any():
        raise CrosstaskError("no pair of states with different items is left to be compared")
    values = cosines[counted]
    one_hot = np.eye(index.max() + 1)[index]
    sums = one_hot.T @ np.where(counted, cosines, 0.0) @ one_hot
    counts = one_hot.T @ counted.astype(float) @ one_hot
    m = len(sums)
    weights = np.random.default_rng(seed).multinomial(m, [1 / m] * m, size=RESAMPLES).astype(float)
    totals = np.einsum("ri,ij,rj->r", weights, counts, weights)
    means = np.einsum("ri,ij,rj->r", weights, sums, weights)[totals > 0] / totals[totals > 0]
    low, high = np.quantile(means, [0.025, 0.975])
    quantiles = tuple(float(q) for q in np.quantile(values, QUANTILES))
    return CosineDistribution(len(values), Interval(float(values.mean()), float(low), float(high)), quantiles)


def relations(
    tasks: Labels, families: Labels, modalities: Labels
) -> dict[str, tuple[str, str, Shaped[np.ndarray, "N N"]]]:
    """The kinds of pairs: "same task, other modality" and so on -> task relation, modality relation, which pairs."""
    task, family, modality = (codes(values) for values in (tasks, families, modalities))
    same_task = task[:, None] == task
    same_family = (family[:, None] == family) & ~same_task
    by_task = {"same task": same_task, "same family": same_family, "other family": ~same_task & ~same_family}
    same = modality[:, None] == modality
    by_modality = {"same modality": same, "other modality": ~same}
    return {
        f"{first}, {second}": (first, second, a & b)
        for first, a in by_task.items()
        for second, b in by_modality.items()
        if (a & b).any()
    }


def _pairs(n: int, labels: Labels | None, allowed: Bool[np.ndarray, "N N"] | None) -> Bool[np.ndarray, "N N"]:
    check_lengths(n, labels=labels)
    if allowed is not None and allowed.shape != (n, n):
        raise CrosstaskError(f"{n} states, but pairs {allowed.shape}; expected {(n, n)}")
    different = ~np.eye(n, dtype=bool)
    return different if allowed is None else different & allowed
