"""Mantel's test: the correlation of two symmetric task matrices, over pairs, with the tasks of one permuted.

It reads one triangle. On matrices that have a direction it would silently drop half of the data, and is refused:
`symmetric_part` makes the choice explicit. Node effects in both matrices inflate its error (Guillot & Rousset 2013), so
that it is used here on what row and column effects leave.

Mantel (1967). p = (b + 1) / (B + 1), two-sided; all permutations below nine tasks.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from interp.errors import CrosstaskError
from interp.relation.permutation import PERMUTATIONS, is_exact, node_orders
from interp.transfer.variance import residual

_TIE = 1e-9


class Mantel(NamedTuple):
    """A correlation over pairs, its two-sided p, how many permutations that is from, and whether these are all."""

    r: float
    p: float
    permutations: int
    exact: bool


def mantel(
    one: Float[np.ndarray, "K K"],
    two: Float[np.ndarray, "K K"],
    *,
    method: Literal["pearson", "spearman"] = "pearson",
    centre: bool = False,
    count: int = PERMUTATIONS,
    seed: int = 0,
) -> Mantel:
    """Correlate two symmetric matrices.

    Args:
        one: a symmetric matrix; its diagonal is not looked at.
        two: likewise.
        method: of the values, or of their ranks.
        centre: whether row and column effects are removed first.
        count: permutations from nine tasks on; below nine all are done.
        seed: of the permutations.

    Raises:
        CrosstaskError: a matrix is not symmetric, or has a NaN off its diagonal.
    """
    for matrix in (one, two):
        if not is_symmetric(matrix):
            raise CrosstaskError(
                "Mantel's test reads one triangle, and a matrix is not symmetric; expected two that are."
            )
    if centre:
        one, two = residual(one), residual(two)
    side = len(one)
    rows, columns = np.triu_indices(side, 1)
    ranked = stats.rankdata if method == "spearman" else np.asarray
    x, y = (_standard(ranked(matrix[rows, columns])) for matrix in (one, two))
    if np.isnan(x).any() or np.isnan(y).any():
        return Mantel(np.nan, np.nan, 0, False)
    filled = np.zeros((side, side))
    filled[rows, columns] = filled[columns, rows] = y
    orders = node_orders(side, count=count, seed=seed)
    drawn = filled.ravel()[orders[:, rows] * side + orders[:, columns]] @ x
    r = float(x @ y)
    reached = int((np.abs(drawn) >= abs(r) - _TIE).sum())
    return Mantel(r, (reached + 1) / (len(orders) + 1), len(orders), is_exact(side, orders))


def symmetric_part(matrix: Float[np.ndarray, "... K K"]) -> Float[np.ndarray, "... K K"]:
    """The mean of both directions of each pair."""
    return (matrix + np.swapaxes(matrix, -1, -2)) / 2


def is_symmetric(matrix: Float[np.ndarray, "K K"]) -> bool:
    """Whether both directions of every pair have the same value, but for rounding.

    Raises:
        CrosstaskError: a cell off the diagonal is NaN.
    """
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    if np.isnan(off).any():
        raise CrosstaskError("A matrix has a NaN off its diagonal; expected a value for every pair of tasks.")
    return bool(np.allclose(off, matrix.T[~np.eye(len(matrix), dtype=bool)], rtol=1e-5, atol=1e-6 * np.ptp(off)))


def _standard(values: Float[np.ndarray, " pairs"]) -> Float[np.ndarray, " pairs"]:
    """Centred, of length 1; NaN where nothing varies."""
    centred = values - values.mean()
    length = np.linalg.norm(centred)
    return centred / length if length > 1e-9 * max(np.abs(values).max(), 1e-300) else np.full_like(centred, np.nan)
