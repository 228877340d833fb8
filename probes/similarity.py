"""How alike two sets of states are: cosines, and the centred kernel alignment of states that belong together.

    cosine       cos(a_i, b_j), raw, or after each set's mean has been taken off
    linear CKA   <K, L> / (|K| |L|) with K the centred Gram matrix of A, L that of B (Kornblith et al. 2019, section 3):
                 which states are alike, compared between two representations of the same N contexts. It is 1 for
                 representations that differ by a rotation and a scale.

Centring takes row and column means off (the biased estimator, HSIC_0), which for N states of width D much above N puts
even unrelated representations near 1. The debiased estimator is built on the unbiased HSIC_1 (Song et al. 2012,
theorem 2; Murphy et al. 2024): diagonals are left out and the centring is Szekely & Rizzo's U-centring, with N - 2 and
(N - 1)(N - 2) in place of N and N^2, so that <K, L> / (N (N - 3)) is HSIC_1; it is about 0 for unrelated states.

A bootstrap draws a context twice, and the copies agree perfectly in both representations; so intervals of CKA are
jackknife intervals, which leave groups of contexts out instead.
"""

from __future__ import annotations

import itertools
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from interp.errors import CrosstaskError
from interp.statistics import Interval
from probes.shuffles import Labels, check_lengths, codes, p_value

Estimator: TypeAlias = Literal["biased", "debiased"]
EXACT = 6
"""Most tasks of which all orders are tried for p; of more, PERMUTED orders are drawn."""
PERMUTED = 999


def cosine_matrix(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"] | None = None, *, centred: bool = False
) -> Float[np.ndarray, "N M"]:
    """The cosine of every state of one set with every state of another (or the same).

    Args:
        a, b: the states; b is a by default.
        centred: take each set's mean off first.

    Raises:
        CrosstaskError: if the widths differ, or a state is zero (after centring) or not finite.
    """
    a = np.asarray(a, dtype=float)
    b = a if b is None else np.asarray(b, dtype=float)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise CrosstaskError(f"states of shapes {a.shape} and {b.shape}; expected [N, D] and [M, D] of one width")
    return _unit(a, centred) @ _unit(b, centred).T


def _unit(states: Float[np.ndarray, "N D"], centred: bool) -> Float[np.ndarray, "N D"]:
    moved = states - states.mean(axis=0) if centred else states
    norms = np.linalg.norm(moved, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise CrosstaskError("a state is zero or not finite, so it has no cosine with others")
    return moved / norms


def centred_gram(states: Float[np.ndarray, "N D"], *, estimator: Estimator = "debiased") -> Float[np.ndarray, "N N"]:
    """The centred Gram matrix whose products are HSIC: double-centred, or U-centred without the diagonal.

    Raises:
        CrosstaskError: for fewer states than the estimator needs (2 and 4), or states that are all the same.
    """
    states = np.asarray(states, dtype=float)
    n, least = len(states), 2 if estimator == "biased" else 4
    if states.ndim != 2 or n < least:
        raise CrosstaskError(f"states of shape {states.shape}; {estimator} CKA needs [N, D] with N of at least {least}")
    moved = states - states.mean(axis=0)  # changes neither estimator, and keeps the products small
    gram = moved @ moved.T
    if estimator == "biased":
        gram = gram - gram.mean(axis=0) - gram.mean(axis=1, keepdims=True) + gram.mean()
    else:
        np.fill_diagonal(gram, 0.0)
        rows = gram.sum(axis=1)
        gram = gram - (rows[:, None] + rows) / (n - 2) + gram.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(gram, 0.0)
    if not np.isfinite(gram).all() or np.linalg.norm(gram) <= 1e-12 * max(1.0, float(np.abs(states).max()) ** 2):
        raise CrosstaskError("the states are all the same, or not finite, so nothing can be aligned with them")
    return gram


def cka(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N E"], *, estimator: Estimator = "debiased") -> float:
    """Linear centred kernel alignment of two representations of the same N contexts, row by row.

    Args:
        a, b: the representations; their widths may differ.
        estimator: ``biased`` (Kornblith et al. 2019) or ``debiased`` (Murphy et al. 2024), which can be negative.

    Raises:
        CrosstaskError: if the numbers of contexts differ or are too small, or a representation is constant.
    """
    check_lengths(len(a), rows=b)
    return alignment(centred_gram(a, estimator=estimator), centred_gram(b, estimator=estimator))


def alignment(a: Float[np.ndarray, "N N"], b: Float[np.ndarray, "N N"]) -> float:
    """CKA from two centred Gram matrices."""
    return float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def cka_null(
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "N E"],
    *,
    estimator: Estimator = "debiased",
    strata: Labels | None = None,
    together: Labels | None = None,
    permutations: int = 199,
    seed: int = 0,
) -> Float[np.ndarray, " R"]:
    """CKA after the rows of b have been permuted: what unrelated contexts would give.

    Args:
        strata: rows change places within their own stratum only. With tasks as strata the null keeps what the tasks
            share, and asks whether single contexts agree beyond it.
        together: rows of equal value in different strata show the same items, so they change places alike: with the
            rows of one stratum all others that have its values are permuted in the same way.

    Raises:
        CrosstaskError: as :func:`cka`; or strata that share a value of `together` do not share all, once each.
    """
    check_lengths(len(a), rows=b, strata=strata, together=together)
    first, second = centred_gram(a, estimator=estimator), centred_gram(b, estimator=estimator)
    layers = np.zeros(len(first), dtype=int) if strata is None else codes(strata)
    bands = _bands([np.flatnonzero(layers == stratum) for stratum in np.unique(layers)], together)
    rng, values = np.random.default_rng(seed), []
    for _ in range(permutations):
        order = np.arange(len(first))
        for rows in bands:
            order[rows] = rows[:, rng.permutation(rows.shape[1])]
        values.append(alignment(first, second[np.ix_(order, order)]))
    return np.array(values)


def _bands(strata: list[Int[np.ndarray, " n"]], together: Labels | None) -> list[Int[np.ndarray, "strata n"]]:
    """The rows of the strata that are permuted alike, one row a stratum, items in the same order."""
    if together is None:
        return [rows[None] for rows in strata]
    items, bands = codes(together), dict[tuple[int, ...], list[Int[np.ndarray, " n"]]]()
    for rows in strata:
        ordered = rows[np.argsort(items[rows], kind="stable")]
        bands.setdefault(tuple(items[ordered].tolist()), []).append(ordered)
    named = [item for shown in bands for item in set(shown)]
    if any(len(set(shown)) < len(shown) for shown in bands) or len(set(named)) < len(named):
        raise CrosstaskError("rows that are permuted together must be once in each stratum that has one of them")
    return [np.stack(rows) for rows in bands.values()]


def cka_interval(
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "N E"],
    *,
    groups: Labels,
    estimator: Estimator = "debiased",
) -> Interval:
    """CKA with its 95 % jackknife interval over groups of contexts: value +- t * standard error, cut at -1 and 1."""
    from scipy.stats import t

    check_lengths(len(a), rows=b, groups=groups)
    index = codes(groups)
    count, value = index.max() + 1, cka(a, b, estimator=estimator)
    if count < 3:
        raise CrosstaskError(f"{count} groups of contexts; a jackknife interval needs three")
    without = np.array([cka(a[index != g], b[index != g], estimator=estimator) for g in range(count)])
    half = t.ppf(0.975, count - 1) * np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2))
    return Interval(value, float(max(-1.0, value - half)), float(min(1.0, value + half)))


def basic_interval(
    value: float, resampled: Float[np.ndarray, " R"], *, least: float = -1.0, most: float = 1.0
) -> Interval:
    """The 95 % basic bootstrap interval, [2 v - q_97.5, 2 v - q_2.5], cut at `least` and `most`."""
    low, high = (2 * value - q for q in np.quantile(resampled, [0.975, 0.025]))
    return Interval(value, float(max(least, low)), float(min(most, high)))


def matching_p_value(cosines: Float[np.ndarray, "K K"], *, seed: int = 0) -> float:
    """The share of all ways to match tasks with tasks whose mean cosine is at least that of the right one.

    Of more than six tasks 999 ways are drawn, and the right one is counted among them.
    """
    k = len(cosines)
    if k <= EXACT:
        orders = np.array(list(itertools.permutations(range(k))))  # the first is the right one
    else:
        rng = np.random.default_rng(seed)
        orders = np.array([np.arange(k), *(rng.permutation(k) for _ in range(PERMUTED))])
    means = cosines[np.arange(k), orders].mean(axis=1)
    return p_value(float(means[0]), means[1:])
