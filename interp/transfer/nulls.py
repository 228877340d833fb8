"""How many cliques, and how high scores, matrices without any pair-specific transfer give.

Three matrices to hold the measured one against:

    shuffle         the factors of every target are dealt anew to the sources: targets keep all their values
    additive        sources and targets as fitted, and what they leave dealt anew to all cells
    additive_noise  sources and targets as fitted, and normal noise of the size of the runs' spread of the mean

Statistics of each sign: reciprocal pairs, maximal cliques of three or more, size of the largest, and the largest sum
of absolute factors within a clique; and the reciprocity of what sources and targets leave. For each task, its
transferability against `shuffle`, and its malleability against the same with rows and columns exchanged.

p = (b + 1) / (B + 1), b of B random matrices reaching the observed value or more. p_family is the same for the largest
of all tasks (max-T, Westfall & Young 1993), which holds for the best of them as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.errors import CrosstaskError
from interp.transfer.cliques import SIGNS, SMALLEST, maximal, off_diagonal, reciprocal
from interp.transfer.scores import SCORES, score_arrays
from interp.transfer.variance import additive, reciprocity, residual

NULLS = ("shuffle", "additive", "additive_noise")
CLIQUE_STATISTICS = ("pairs", "cliques", "largest", "heaviest")
_PAIRWISE = "residual_reciprocity"


def shuffled_columns(
    mu: Float[np.ndarray, "K K"], *, count: int, rng: np.random.Generator
) -> Float[np.ndarray, "B K K"]:
    """Matrices in which each column's values off the diagonal are dealt anew to the rows."""
    side = len(mu)
    mask = off_diagonal(side)
    columns = mu.T[mask].reshape(side, side - 1)
    order = rng.random((count, side, side - 1)).argsort(-1)
    dealt = np.take_along_axis(np.broadcast_to(columns, order.shape), order, -1)
    drawn = np.broadcast_to(mu.T, (count, side, side)).copy()
    drawn[:, mask] = dealt.reshape(count, -1)
    return np.swapaxes(drawn, 1, 2)


def null_matrices(
    runs: Float[np.ndarray, "S K K"], null: str, *, count: int, rng: np.random.Generator
) -> Float[np.ndarray, "B K K"]:
    """Random matrices without pair-specific transfer.

    Args:
        runs: factors of each run.
        null: one of NULLS.
        count: B, how many.
        rng: all randomness comes from here.

    Raises:
        CrosstaskError: there is no such null.
    """
    mu = runs.mean(0)
    mask = off_diagonal(len(mu))
    if null == "shuffle":
        return shuffled_columns(mu, count=count, rng=rng)
    fitted = np.where(mask, additive(mu), mu)
    drawn = np.broadcast_to(fitted, (count, *mu.shape)).copy()
    if null == "additive":
        left = residual(mu)[mask]
        drawn[:, mask] += rng.permuted(np.broadcast_to(left, (count, len(left))), axis=1)
    elif null == "additive_noise":
        spread = runs[:, mask].std(0, ddof=1) / np.sqrt(len(runs))
        drawn[:, mask] += rng.normal(size=(count, len(spread))) * spread
    else:
        raise CrosstaskError(f"There is no null {null!r}; they are {', '.join(NULLS)}.")
    return drawn


def clique_statistics(matrices: Float[np.ndarray, "B K K"], sign: str) -> dict[str, Float[np.ndarray, " B"]]:
    """CLIQUE_STATISTICS of each matrix."""
    graphs = reciprocal(matrices, sign)
    found = np.array([_of_cliques(pairs, np.abs(mu)) for pairs, mu in zip(graphs, matrices, strict=True)])
    values = (graphs.sum((1, 2)) / 2, *found.T)
    return dict(zip(CLIQUE_STATISTICS, values, strict=True))


def _of_cliques(pairs: Bool[np.ndarray, "K K"], sizes: Float[np.ndarray, "K K"]) -> tuple[float, float, float]:
    """Number of maximal cliques, members of the largest, and the largest weight of one; pairs count as size 2."""
    members = maximal(pairs, smallest=SMALLEST)
    if not members:
        return 0.0, 2.0 if pairs.any() else 0.0, 0.0
    chosen = np.zeros((len(members), len(pairs)))
    chosen[np.repeat(np.arange(len(members)), [len(m) for m in members]), [i for m in members for i in m]] = 1
    weights = ((chosen @ np.where(pairs, sizes, 0)) * chosen).sum(1)
    return float(len(members)), float(chosen.sum(1).max()), float(weights.max())


def null_tests(
    runs: Float[np.ndarray, "S K K"], *, permutations: int = 999, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cliques of the measured matrix against those of random ones.

    Args:
        runs: factors of each run; every cell off the diagonal is defined.
        permutations: B, random matrices of each kind.
        seed: of the randomness.

    Returns:
        The tests: statistic, sign, null, observed, null_mean, null_low and null_high (5 and 95 %), p (reached or more),
        p_fewer (reached or less), permutations. And the random values behind the clique statistics: null, sign,
        statistic, value, count.

    Raises:
        CrosstaskError: permutations is not positive.
    """
    _check(permutations)
    mu = runs.mean(0)
    rows: list[dict[str, object]] = []
    histograms: list[dict[str, object]] = []
    for null in NULLS if len(runs) > 1 else NULLS[:-1]:
        rng = np.random.default_rng([seed, NULLS.index(null)])
        drawn = null_matrices(runs, null, count=permutations, rng=rng)
        for sign in SIGNS:
            observed, random = clique_statistics(mu[None], sign), clique_statistics(drawn, sign)
            for statistic, values in random.items():
                rows.append({"statistic": statistic, "sign": sign} | _test(null, float(observed[statistic][0]), values))
                histograms += _histogram(null, sign, statistic, values)
        left = float(reciprocity(residual(mu))), reciprocity(residual(drawn))
        rows.append({"statistic": _PAIRWISE, "sign": ""} | _test(null, *left))
    return pd.DataFrame(rows), pd.DataFrame(histograms)


def score_tests(
    mu: Float[np.ndarray, "K K"], names: Sequence[str], *, permutations: int = 999, seed: int = 0
) -> pd.DataFrame:
    """Each task's transferability with the values of every target dealt anew, and its malleability likewise.

    Args:
        mu: mean factors, every cell off the diagonal defined.
        names: of the tasks.
        permutations: B, random matrices.
        seed: of the randomness.

    Returns:
        A table with columns statistic, task, null, observed, null_mean, null_low, null_high, p, p_fewer, p_family,
        permutations, as in `null_tests`; p is of sizes, so that it is of strong negative scores as well.

    Raises:
        CrosstaskError: permutations is not positive.
    """
    _check(permutations)
    observed, rows = score_arrays(mu), []
    for axis, (null, matrix) in enumerate((("shuffle", mu), ("shuffle_sources", mu.T))):
        rng = np.random.default_rng([seed, len(NULLS) + axis])
        drawn = shuffled_columns(matrix, count=permutations, rng=rng)
        random = score_arrays(drawn if axis == 0 else np.swapaxes(drawn, 1, 2))
        for score in SCORES[2 * axis : 2 * axis + 2]:
            sizes = np.abs(random[score])
            sign = -1 if score.endswith("negative") else 1
            for index, name in enumerate(names):
                value = float(observed[score][index])
                row = {"statistic": score, "task": name} | _test(null, abs(value), sizes[:, index])
                row |= {key: sign * float(row[key]) for key in ("observed", "null_mean", "null_low", "null_high")}
                rows.append(row | {"p_family": _p(abs(value), sizes.max(1))})
    return pd.DataFrame(rows)


def _check(permutations: int) -> None:
    if permutations < 1:
        raise CrosstaskError(f"{permutations} permutations were asked for; expected 1 or more.")


def _test(null: str, observed: float, values: Float[np.ndarray, " B"]) -> dict[str, Any]:
    low, high = np.quantile(values, (0.05, 0.95))
    return {
        "null": null, "observed": observed, "null_mean": float(np.mean(values)), "null_low": float(low),
        "null_high": float(high), "p": _p(observed, values), "p_fewer": _p(-observed, -values),
        "permutations": len(values),
    }  # fmt: skip


def _p(observed: float, values: Float[np.ndarray, " B"]) -> float:
    """(b + 1) / (B + 1); a value that rounding alone sets apart counts as reached."""
    if np.isnan(observed):
        return np.nan
    return float((np.sum(values >= observed - 1e-12) + 1) / (len(values) + 1))


def _histogram(null: str, sign: str, statistic: str, values: Float[np.ndarray, " B"]) -> list[dict[str, object]]:
    """How often each value came; weights are not counted, for each comes once."""
    if statistic == "heaviest":
        return []
    found, counts = np.unique(values, return_counts=True)
    return [
        {"null": null, "sign": sign, "statistic": statistic, "value": float(value), "count": int(count)}
        for value, count in zip(found, counts, strict=True)
    ]
