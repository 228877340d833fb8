"""QAP: is the correlation of two task matrices more than that of the same matrices with the tasks permuted?

1. Row and column effects are removed from both matrices by least squares on the cells off the diagonal (which is exact
   with an empty diagonal; `interp.transfer.variance.residual`): what is left is double-centred.
2. r is the correlation of what is left, over cells off the diagonal.
3. Null: the tasks of one matrix are permuted, rows and columns together. A permuted residual is the residual of the
   permuted matrix, so that a permutation is a gather, and all matrices are compared by one matrix product.
4. p = (b + 1) / (B + 1), two-sided: b of B permutations reach |r|. Below nine tasks all permutations are done, and
   ties count whatever the rounding.
5. Many matrices (layers, measures): the largest |r| of each permutation gives p-values that hold for the best of them
   (max-T, Westfall & Young 1993), whatever layer looked best.

With covariates it is MRQAP with double semi-partialling (Dekker, Krackhardt & Snijders 2007): the part of a similarity
that neither covariates nor row and column effects explain is permuted, and the fit is made anew each time. By Frisch,
Waugh and Lovell its t rises with the partial correlation

    r = <P e, y'> / sqrt(1 - |Q^T P e|^2),

e and y' the unit vectors of what covariates leave of similarity and transfer, Q an orthonormal basis of the covariates;
<P e, y'> = <e, P^-1 y'>, so that once more one gather serves all similarities.

Krackhardt (1988). Why to centre first: with 13 tasks and 90 % of the variance in the targets, cell-wise tests of
unrelated matrices are significant in a fifth of the cases, and QAP of raw matrices has hardly any power; the tests
simulate both.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations as every_order
from math import factorial

import numpy as np
from jaxtyping import Float, Int

from interp.errors import CrosstaskError
from interp.transfer.cliques import off_diagonal
from interp.transfer.variance import residual

EXACT_BELOW = 9
"""With fewer tasks all permutations are done: 40,320 with eight."""
PERMUTATIONS = 9999
_TIE = 1e-9
_NOTHING = 1e-9
"""Share of a matrix's norm under which what is left of it is rounding."""
_CHUNK = 2**22
"""Numbers gathered or compared at once: 32 MB."""


@dataclass(frozen=True, eq=False)
class Tested:
    """Correlations of N matrices with one, against permuted tasks.

    Attributes:
        r: (partial) correlations of what row and column effects and covariates leave; NaN where nothing is left.
        p: two-sided.
        p_largest: two-sided, for the largest of all N (max-T).
        p_group: likewise for the largest of the matrix's group.
        null: 95th percentile of |r| under the null.
        null_largest: likewise of the largest of all N.
        null_group: likewise of the largest of the matrix's group.
        permutations: B.
        exact: whether these are all there are.
    """

    r: Float[np.ndarray, " N"]
    p: Float[np.ndarray, " N"]
    p_largest: Float[np.ndarray, " N"]
    p_group: Float[np.ndarray, " N"]
    null: Float[np.ndarray, " N"]
    null_largest: float
    null_group: Float[np.ndarray, " N"]
    permutations: int
    exact: bool


def node_orders(side: int, *, count: int = PERMUTATIONS, seed: int = 0) -> Int[np.ndarray, "B K"]:
    """Permutations of the tasks: all but the identity below nine tasks, else so many random ones.

    Args:
        side: K, tasks.
        count: B from nine tasks on.
        seed: of the randomness.

    Raises:
        CrosstaskError: count is not positive.
    """
    if count < 1:
        raise CrosstaskError(f"{count} permutations were asked for; expected 1 or more.")
    return _node_orders(side, None if side < EXACT_BELOW else count, seed)


@lru_cache(maxsize=4)
def _node_orders(side: int, count: int | None, seed: int) -> Int[np.ndarray, "B K"]:
    """All but the identity (count None), or so many random ones; every test of a study asks for the same."""
    if count is None:
        orders = np.array(list(every_order(range(side))))[1:]
    else:
        rng = np.random.default_rng(seed)
        orders = rng.permuted(np.broadcast_to(np.arange(side), (count, side)), axis=1)
    orders.setflags(write=False)
    return orders


def is_exact(side: int, orders: Int[np.ndarray, "B K"]) -> bool:
    """Whether these are all permutations but the identity."""
    return side < EXACT_BELOW and len(orders) == factorial(side) - 1


def permuted(matrices: Float[np.ndarray, "C K K"], orders: Int[np.ndarray, "B K"]) -> Float[np.ndarray, "B C cells"]:
    """Cells off the diagonal of matrices with rows and columns permuted together."""
    side = matrices.shape[-1]
    rows, columns = np.nonzero(off_diagonal(side))
    cells = orders[:, rows] * side + orders[:, columns]
    return np.moveaxis(matrices.reshape(len(matrices), -1)[:, cells], 0, 1)


def centred_cells(matrices: Float[np.ndarray, "... K K"]) -> Float[np.ndarray, "... cells"]:
    """What row and column effects leave of the cells off the diagonal, as unit vectors; NaN where nothing is left.

    Raises:
        CrosstaskError: there are fewer than four tasks, or a cell off the diagonal is NaN.
    """
    mask = off_diagonal(matrices.shape[-1])
    cells = matrices[..., mask]
    whole = np.linalg.norm(cells, axis=-1)
    return _unit(residual(matrices)[..., mask], whole)


def qap(
    similarities: Float[np.ndarray, "N K K"],
    transfer: Float[np.ndarray, "K K"],
    *,
    covariates: Float[np.ndarray, "C K K"] | None = None,
    groups: Sequence[Hashable] | None = None,
    centre: bool = True,
    count: int = PERMUTATIONS,
    seed: int = 0,
) -> Tested:
    """Correlate task matrices with one task matrix.

    Args:
        similarities: the matrices; diagonals are not looked at.
        transfer: the matrix whose tasks are permuted.
        covariates: matrices that are adjusted for (MRQAP with double semi-partialling).
        groups: of each similarity, for p_group; by default all are one.
        centre: whether row and column effects are removed; without it means alone are (for comparison: such a test
            has little power where the targets differ).
        count: permutations from nine tasks on; below nine all are done.
        seed: of the permutations.

    Raises:
        CrosstaskError: a cell off the diagonal is NaN, there are too few tasks, nothing of the transfer matrix is
            left to explain, or there is no permutation.
    """
    side = transfer.shape[-1]
    unit = centred_cells if centre else _mean_centred_cells
    y, e, q = _partialled(unit(transfer), unit(similarities), None if covariates is None else unit(covariates))
    r = e @ y
    orders = node_orders(side, count=count, seed=seed)
    labels = list(dict.fromkeys(groups)) if groups is not None else [None]
    members = [np.array([group == label for group in groups or [None] * len(e)]) for label in labels]
    reached, sizes = np.zeros(len(r)), np.empty((len(orders), len(r)), np.float32)
    largest = np.empty((len(orders), len(labels)))
    stack = _matrices(np.vstack([y[None], q]), side)
    step = max(1, _CHUNK // (len(stack) * max(side * side, len(e))))
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, len(orders), step):
            drawn = permuted(stack, orders[start : start + step]) @ e.T
            left = 1 - (drawn[:, 1:] ** 2).sum(1)
            found = np.abs(np.where(left > _NOTHING, drawn[:, 0] / np.sqrt(left), 0.0))
            found[:, np.isnan(r)] = np.nan
            reached += (found >= np.abs(r) - _TIE).sum(0)
            sizes[start : start + step] = found
            for index, member in enumerate(members):
                largest[start : start + step, index] = np.fmax.reduce(found[:, member], axis=1)
    whole = np.fmax.reduce(largest, axis=1)
    group = np.argmax(np.array(members), axis=0)
    p_group = np.array([_p(largest[:, at], value) for at, value in zip(group, r, strict=True)])
    return Tested(
        r=r,
        p=np.where(np.isnan(r), np.nan, (reached + 1) / (len(orders) + 1)),
        p_largest=np.array([_p(whole, value) for value in r]),
        p_group=p_group,
        null=np.quantile(sizes, 0.95, axis=0).astype(float),
        null_largest=float(np.quantile(whole, 0.95)),
        null_group=np.quantile(largest, 0.95, axis=0)[group],
        permutations=len(orders),
        exact=is_exact(side, orders),
    )


def _p(drawn: Float[np.ndarray, " B"], value: float) -> float:
    """(b + 1) / (B + 1), b of B reaching the size of the value."""
    return float(((drawn >= abs(value) - _TIE).sum() + 1) / (len(drawn) + 1)) if np.isfinite(value) else np.nan


def _partialled(
    y: Float[np.ndarray, " cells"], x: Float[np.ndarray, "N cells"], z: Float[np.ndarray, "C cells"] | None
) -> tuple[Float[np.ndarray, " cells"], Float[np.ndarray, "N cells"], Float[np.ndarray, "R cells"]]:
    """Unit vectors of what covariates leave of both, and an orthonormal basis of the covariates."""
    if np.isnan(y).any():
        raise CrosstaskError("The transfer matrix has row and column effects alone; there is nothing left to explain.")
    if z is None or not len(z):
        return y, x, np.empty((0, y.shape[-1]))
    q = basis(z)
    left = y - (y @ q.T) @ q
    if np.linalg.norm(left) < _NOTHING:
        raise CrosstaskError("The covariates explain the whole transfer matrix; there is nothing left to explain.")
    return _unit(left, 1.0), _unit(x - (x @ q.T) @ q, np.ones(len(x))), q


def basis(vectors: Float[np.ndarray, "C cells"]) -> Float[np.ndarray, "R cells"]:
    """An orthonormal basis of what the unit vectors span; those that are NaN, and what others explain, are left out."""
    known = vectors[~np.isnan(vectors).any(1)]
    if not len(known):
        return np.empty((0, vectors.shape[-1]))
    _, sizes, turned = np.linalg.svd(known, full_matrices=False)
    return turned[sizes > 1e-6]


def _unit(
    cells: Float[np.ndarray, "... cells"], whole: float | Float[np.ndarray, " ..."]
) -> Float[np.ndarray, "... cells"]:
    """Vectors of length 1; NaN where nothing but rounding is left of the whole."""
    length = np.linalg.norm(cells, axis=-1)
    kept = length > _NOTHING * np.maximum(whole, 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(kept[..., None], cells / length[..., None], np.nan)


def _mean_centred_cells(matrices: Float[np.ndarray, "... K K"]) -> Float[np.ndarray, "... cells"]:
    cells = matrices[..., off_diagonal(matrices.shape[-1])]
    return _unit(cells - cells.mean(-1, keepdims=True), np.linalg.norm(cells, axis=-1))


def _matrices(cells: Float[np.ndarray, "C cells"], side: int) -> Float[np.ndarray, "C K K"]:
    """Matrices with these cells off the diagonal and 0 on it."""
    filled = np.zeros((len(cells), side, side))
    filled[:, off_diagonal(side)] = cells
    return filled
