"""Perfection Gap Factors: how much of the room above the baseline a fine-tuned model fills (Sachdeva et al. 2025, A.1).

    mu(i -> j) = [Acc(M(T_i), T_j) - Acc(M, T_j)] / [U_j - Acc(M, T_j) + epsilon]

Rows are sources, columns targets. With U = 1 a PGF is at most 1 and moves by 1/m an item, m the number of items that
the baseline gets wrong; its paired standard error is sqrt(b + c) / m, b and c the items that only one of the two models
gets right. Where the room U_j - Acc is under one item the factor has no meaning and is NaN.

Chance correction replaces Acc by (Acc - c) / (1 - c). That is affine, and a PGF is the same under affine maps: the two
differ only through accuracies below chance, which the corrected one takes to be at chance.

The smooth factors put a mean over items in the place of accuracy, for which one item is no step: log p of the key
(ceiling 0), and the Brier score, which falls (floor 0). The log-odds difference has no ceiling and treats gains and
losses alike.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from interp.errors import CrosstaskError

Array: TypeAlias = np.ndarray
_SLACK = 1e-9


def pgf(
    accuracy: Float[Array, "... J"],
    baseline: Float[Array, "... J"],
    *,
    ceiling: float | Float[Array, " J"] = 1.0,
    epsilon: float = 0.0,
    n: Float[Array, " J"] | None = None,
) -> Float[Array, "... J"]:
    """The Perfection Gap Factor.

    Args:
        accuracy: of fine-tuned models, 0 to 1.
        baseline: accuracy of the frozen model on the same items, broadcast against `accuracy`.
        ceiling: U, for all targets or for each.
        epsilon: added to the room.
        n: items of each target: where the room is under one item the result is NaN. Without it that is so where there
            is no room at all.

    Returns:
        Factors, of the shape of `accuracy`.

    Raises:
        CrosstaskError: epsilon is negative, or a ceiling is not in (0, 1].
    """
    if not epsilon >= 0:
        raise CrosstaskError(f"epsilon is {epsilon:g}; expected 0 or more.")
    upper = np.asarray(ceiling, dtype=float)
    if not np.all((upper > 0) & (upper <= 1)):
        wrong = upper[~((upper > 0) & (upper <= 1))].flat[0]
        raise CrosstaskError(f"A ceiling is {wrong:g}; expected a share of right answers, above 0 and at most 1.")
    room = upper - baseline
    least = 1 / np.asarray(n, dtype=float) if n is not None else np.full_like(room, 2 * _SLACK)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(room >= least - _SLACK, (accuracy - baseline) / (room + epsilon), np.nan)


def best_bound(accuracy: Float[Array, "S I J"], baseline: Float[Array, "S J"]) -> Float[Array, " J"]:
    """The best accuracy seen on each target (means over seeds), or the baseline's where that is higher: U of A.10."""
    return np.maximum(accuracy.mean(0).max(0), baseline.mean(0))


def chance_corrected(accuracy: Float[Array, "... J"], chance: Float[Array, " J"]) -> Float[Array, "... J"]:
    """(Acc - c) / (1 - c): 0 at chance or below, 1 for all right."""
    return np.maximum(0.0, (accuracy - chance) / (1 - chance))


def smooth_log_p(mean_log_p: Float[Array, "... J"], baseline: Float[Array, "... J"]) -> Float[Array, "... J"]:
    """The factor on the mean log p of the key, whose ceiling is 0: the share of the surprise that is gone."""
    return _share(mean_log_p - baseline, -baseline)


def smooth_brier(brier: Float[Array, "... J"], baseline: Float[Array, "... J"]) -> Float[Array, "... J"]:
    """The factor on the Brier score, whose floor is 0: the share of the squared error that is gone."""
    return _share(baseline - brier, baseline)


def log_odds_difference(
    accuracy: Float[Array, "... J"], baseline: Float[Array, "... J"], n: Float[Array, " J"]
) -> Float[Array, "... J"]:
    """logit of the accuracy minus that of the baseline, half an item added to right and to wrong answers."""

    def logit(share: Array) -> Array:
        right = share * n
        return np.log((right + 0.5) / (n - right + 0.5))

    return logit(accuracy) - logit(baseline)


def paired_standard_error(
    only_tuned: Float[Array, " ..."], only_baseline: Float[Array, " ..."], wrong: Float[Array, " ..."]
) -> Float[Array, " ..."]:
    """sqrt(b + c) / m: the spread of a PGF over draws of items if neither model were better.

    Args:
        only_tuned: b, items that only the fine-tuned model gets right.
        only_baseline: c, items that only the baseline gets right.
        wrong: m, items that the baseline gets wrong.
    """
    return _share(np.sqrt(np.add(only_tuned, only_baseline, dtype=float)), np.asarray(wrong, dtype=float))


def _share(part: Array, whole: Array) -> Array:
    """part / whole, NaN where there is no whole."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, np.nan)
