"""MRQAP as a table: what similarities add to covariates, and covariates to each other and to a similarity.

The null of each term permutes what the others leave of it (double semi-partialling, `interp.relation.permutation`).
Coefficients are standardised: of matrices scaled to a standard deviation of 1 after row and column effects are removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.relation.permutation import PERMUTATIONS, Tested, basis, centred_cells, qap

COVARIATES_ALONE = "covariates alone"


def similarity_terms(
    similarities: Float[np.ndarray, "N K K"],
    transfer: Float[np.ndarray, "K K"],
    covariates: Float[np.ndarray, "C K K"],
    *,
    groups: Sequence[str] | None = None,
    count: int = PERMUTATIONS,
    seed: int = 0,
) -> tuple[pd.DataFrame, Tested]:
    """Every similarity beside all covariates, in a model of its own.

    Args:
        similarities: of N models.
        transfer: what is explained.
        covariates: adjusted for.
        groups: of the similarities, for max-T within each.
        count: permutations from nine tasks on.
        seed: of the permutations.

    Returns:
        A table with columns coefficient, partial_r, t, degrees, share (of what row and column effects leave, by the
        whole model), added (by the similarity), p, p_maxt (max-T over all similarities); and the test.
    """
    tested = qap(similarities, transfer, covariates=covariates, groups=groups, count=count, seed=seed)
    y, x, z = centred_cells(transfer), centred_cells(similarities), centred_cells(covariates)
    fits = [_fit(y, x[n], z) for n in range(len(x))]
    table = pd.DataFrame(fits).assign(p=tested.p, p_maxt=tested.p_largest)
    table.loc[np.isnan(tested.r), ["coefficient", "partial_r", "t", "added"]] = np.nan
    return table, tested


def covariate_terms(
    covariates: Float[np.ndarray, "C K K"],
    transfer: Float[np.ndarray, "K K"],
    *,
    names: Sequence[str],
    beside: Float[np.ndarray, "K K"] | None = None,
    count: int = PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Every covariate beside the others, and perhaps beside a similarity.

    Args:
        covariates: C matrices.
        transfer: what is explained.
        names: of the covariates.
        beside: a similarity in the same model.
        count: permutations from nine tasks on.
        seed: of the permutations.

    Returns:
        A table with columns term and those of `similarity_terms`, without p_maxt.
    """
    tables = []
    for index, name in enumerate(names):
        others = np.delete(covariates, index, axis=0)
        if beside is not None:
            others = np.concatenate([others, beside[None]])
        table, _ = similarity_terms(covariates[index : index + 1], transfer, others, count=count, seed=seed)
        tables.append(table.drop(columns="p_maxt").assign(term=name))
    return pd.concat(tables, ignore_index=True)


def _fit(
    y: Float[np.ndarray, " cells"], x: Float[np.ndarray, " cells"], z: Float[np.ndarray, "C cells"]
) -> dict[str, float]:
    """Least squares of unit vectors: the coefficient of x beside z."""
    q = basis(z)
    side = round((1 + np.sqrt(1 + 4 * len(y))) / 2)
    degrees = len(y) - (2 * side - 1) - len(q) - 1
    e, left = x - (x @ q.T) @ q, y - (y @ q.T) @ q
    square, before = float(e @ e), float(left @ left)
    coefficient = float(e @ left) / square if square > 1e-12 else np.nan
    r = coefficient * np.sqrt(square / before) if before > 1e-12 else np.nan
    added = coefficient**2 * square
    return {
        "coefficient": coefficient,
        "partial_r": r,
        "t": r * np.sqrt(degrees / max(1 - r**2, 1e-300)) if degrees > 0 else np.nan,
        "degrees": degrees,
        "share": 1 - before + added,
        "added": added,
    }
