"""Accuracies from factors alone, where the factors give them away.

With ceiling 1 and no epsilon a factor is (k - k0) / m: items gained over the m that the baseline gets wrong. The
smallest m <= n by which the factors of a target are all whole numbers is m itself unless every gain has a common
divisor with it; then Acc = 1 - (m / n)(1 - mu). The published matrices are of this kind.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from interp.transfer.names import find_task
from interp.transfer.tables import Measured

_WHOLE = 1e-6


def rebuilt(measured: Measured) -> Measured:
    """Factors of known tasks with the accuracies that they were made from, or as they are where that fails.

    Items are those of BLINK's validation split, so that every target has to be one of the thirteen.
    """
    known = [find_task(target) for target in measured.targets]
    if measured.pgf is None or measured.accuracy is not None or not all(known):
        return measured
    n = np.array([task.n for task in known if task])
    wrong = np.array([[wrong_items(row[:, j], int(n[j])) for j in range(len(n))] for row in measured.pgf], dtype=float)
    if np.isnan(wrong).any():
        return measured
    accuracy = 1 - (wrong / n)[:, None] * (1 - measured.pgf)
    return replace(measured, accuracy=accuracy, baseline=1 - wrong / n, n=n.astype(float), rebuilt=True)


def wrong_items(factors: Float[np.ndarray, " I"], n: int) -> float:
    """The smallest number of wrong items of the baseline that makes every factor a whole number of items, or NaN.

    Args:
        factors: of all sources on one target, one seed.
        n: items of the target.
    """
    m = np.arange(1, n + 1)
    gains = np.outer(m, factors)
    whole = np.abs(gains - np.rint(gains)).max(1) < _WHOLE * n
    right = np.rint(gains).max(1) <= m  # nobody gets more right than there are
    possible = np.rint(gains).min(1) >= m - n  # nor fewer than none
    fits = whole & right & possible
    return float(m[fits.argmax()]) if fits.any() else np.nan
