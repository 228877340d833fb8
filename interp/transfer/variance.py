"""What a transfer matrix is made of: the social relations model on its cells off the diagonal.

    mu_ij = mean + source_i + target_j + symmetric_ij + antisymmetric_ij

Sources and targets are fitted by least squares; what is left splits exactly into a part that is the same in both
directions of a pair and one that turns its sign. Shares are of the sum of squares around the mean. Unstructured noise
gives every part a share as well, in proportion to its degrees of freedom: K - 1 for sources and for targets,
K (K - 3) / 2 for the symmetric part and (K - 1)(K - 2) / 2 for the antisymmetric one, of K (K - 1) - 1.

A similarity of tasks that has no direction can correlate with what is left by sqrt(symmetric share of it) at most.
Reliability is the correlation of what is left in two halves of the runs, mean over all ways to halve them, stepped up
to all runs by Spearman and Brown: 2r / (1 + r).

Warner, Kenny & Stoto (1979); Dekker, Krackhardt & Snijders (2007) on centring before matrices are correlated.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.transfer.cliques import off_diagonal

SMALLEST = 4
"""Fewest tasks with which anything is left beyond sources and targets in both directions of a pair."""


def additive(mu: Float[np.ndarray, "... K K"]) -> Float[np.ndarray, "... K K"]:
    """Mean, source and target effects fitted to the cells off the diagonal, filled in for all cells.

    Raises:
        CrosstaskError: there are fewer than four tasks, or a cell off the diagonal is NaN.
    """
    side = mu.shape[-1]
    if side < SMALLEST:
        raise CrosstaskError(f"There are {side} tasks; a decomposition into sources and targets needs {SMALLEST}.")
    cells = mu[..., off_diagonal(side)]
    if np.isnan(cells).any():
        raise CrosstaskError("The matrix has undefined cells; a decomposition needs them all.")
    design, inverse = _design(side)
    return (cells @ inverse.T @ design.T).reshape(mu.shape)


def residual(mu: Float[np.ndarray, "... K K"]) -> Float[np.ndarray, "... K K"]:
    """What sources and targets leave (double-centred); 0 on the diagonal."""
    return np.where(off_diagonal(mu.shape[-1]), mu - additive(mu), 0.0)


def split(left: Float[np.ndarray, "... K K"]) -> tuple[Float[np.ndarray, "... K K"], Float[np.ndarray, "... K K"]]:
    """The symmetric and the antisymmetric part, which add up to the whole."""
    turned = np.swapaxes(left, -1, -2)
    return (left + turned) / 2, (left - turned) / 2


def reciprocity(mu: Float[np.ndarray, "... K K"]) -> Float[np.ndarray, " ..."]:
    """Correlation of the two directions of a pair, over ordered pairs; NaN where nothing varies."""
    mask = off_diagonal(mu.shape[-1])
    return correlation(mu[..., mask], np.swapaxes(mu, -1, -2)[..., mask])


def correlation(a: Float[np.ndarray, "... n"], b: Float[np.ndarray, "... n"]) -> Float[np.ndarray, " ..."]:
    """Pearson correlation over the last axis; NaN where one of the two does not vary."""
    x, y = (values - values.mean(-1, keepdims=True) for values in (a, b))
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 1e-24, (x * y).sum(-1) / scale, np.nan)


def variance_shares(runs: Float[np.ndarray, "S K K"]) -> pd.DataFrame:
    """Shares of the variance of the mean matrix off the diagonal.

    Args:
        runs: factors of each run.

    Returns:
        A table with columns part, share, chance (the share of unstructured noise), meaning. The rows target,
        source_after_target, symmetric and antisymmetric add up to 1. run_noise is an estimate of how much of the whole
        is the spread of the runs alone, and is part of the others; NaN with a single run.
    """
    mu = runs.mean(0)
    side = len(mu)
    mask = off_diagonal(side)
    cells = mu[mask]
    total = float(((cells - cells.mean()) ** 2).sum())
    left = residual(mu)
    both = _explained(cells, _design(side)[0][mask.ravel()])
    target, source = (_explained(cells, _one_way(side, axis)[mask.ravel()]) for axis in (1, 0))
    symmetric, antisymmetric = ((part**2).sum() / total if total > 0 else np.nan for part in split(left))
    noise = (runs[:, mask].var(0, ddof=1) / len(runs)).sum() / total if len(runs) > 1 and total > 0 else np.nan
    freedom = side * (side - 1) - 1
    one, pairs, turned = side - 1, side * (side - 3) / 2, (side - 1) * (side - 2) / 2
    rows = [
        ("target", target, one, "which task is tested, whatever was trained"),
        ("source", source, one, "which task was trained, whatever is tested"),
        ("source_after_target", both - target, one, "what sources add to targets"),
        ("target_after_source", both - source, one, "what targets add to sources"),
        ("additive", both, 2 * one, "sources and targets together"),
        ("symmetric", symmetric, pairs, "pairs, the same in both directions"),
        ("antisymmetric", antisymmetric, turned, "pairs, opposite in the two directions"),
    ]
    table = pd.DataFrame(
        {"part": part, "share": share, "chance": degrees / freedom, "meaning": meaning}
        for part, share, degrees, meaning in rows
    )
    table.loc[len(table)] = ["run_noise", noise, np.nan, "spread of the runs alone, within the parts above"]
    return table


def reliability(runs: Float[np.ndarray, "S K K"]) -> tuple[float, float]:
    """Split-half correlation of what sources and targets leave, and its Spearman-Brown step-up; NaN with one run."""
    n = len(runs)
    if n < 2:
        return np.nan, np.nan
    mask = off_diagonal(runs.shape[-1])
    found = []
    for half in combinations(range(n), n // 2):
        other = [run for run in range(n) if run not in half]
        if n % 2 == 0 and 0 not in half:
            continue  # the same two halves, named the other way round
        one, two = (residual(runs[list(part)].mean(0))[mask] for part in (half, other))
        found.append(float(correlation(one, two)))
    r = float(np.mean(found))
    return r, 2 * r / (1 + r) if r > -1 else np.nan


def symmetric_ceiling(mu: Float[np.ndarray, "K K"]) -> float:
    """The most that a similarity without direction can correlate with what sources and targets leave."""
    left = residual(mu)
    whole = (left**2).sum()
    return float(np.sqrt((split(left)[0] ** 2).sum() / whole)) if whole > 1e-24 else np.nan


def _explained(cells: Float[np.ndarray, " n"], design: Float[np.ndarray, "n p"]) -> float:
    """R squared of a least-squares fit."""
    centred = cells - cells.mean()
    total = (centred**2).sum()
    if not total > 0:
        return np.nan
    fitted = design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    return float(1 - ((centred - fitted) ** 2).sum() / total)


def _one_way(side: int, axis: int) -> Float[np.ndarray, "cells K"]:
    """A column for each source (axis 0) or target (axis 1)."""
    return np.eye(side)[np.indices((side, side))[axis].ravel()]


@cache
def _design(side: int) -> tuple[Float[np.ndarray, "cells p"], Float[np.ndarray, "p off"]]:
    """Columns for mean, sources and targets over all cells, and the inverse of those off the diagonal."""
    design = np.hstack([np.ones((side * side, 1)), _one_way(side, 0), _one_way(side, 1)])
    return design, np.linalg.pinv(design[off_diagonal(side).ravel()])
