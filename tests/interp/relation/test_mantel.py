"""Mantel's test against brute force with SciPy's correlations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import squareform

from interp.errors import CrosstaskError
from interp.relation.mantel import mantel, symmetric_part
from interp.relation.permutation import qap


def distances(side: int, seed: int) -> np.ndarray:
    drawn = np.abs(np.random.default_rng(seed).normal(size=side * (side - 1) // 2))
    return squareform(drawn)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_mantel_equals_brute_force(method: str) -> None:
    """The algorithm of scikit-bio: condensed distances, two-sided, (b + 1) / (B + 1)."""
    one, two = distances(6, 0), distances(6, 1) + distances(6, 0)
    statistic = getattr(stats, f"{method}r")
    observed = statistic(squareform(one), squareform(two)).statistic
    drawn = [
        statistic(squareform(one[np.ix_(order, order)]), squareform(two)).statistic
        for order in list(permutations(range(6)))[1:]
    ]
    found = mantel(one, two, method=method)  # type: ignore[arg-type]
    assert found.exact
    assert found.r == pytest.approx(observed)
    assert found.p == pytest.approx((np.sum(np.abs(drawn) >= abs(observed) - 1e-12) + 1) / 720)


def test_centred_mantel_is_qap_of_the_symmetric_part() -> None:
    rng = np.random.default_rng(0)
    s, y = distances(10, 2), rng.normal(size=(10, 10))
    pairs = qap(s[None], symmetric_part(y), count=499)
    found = mantel(s, symmetric_part(y), centre=True, count=499)
    assert found.r == pytest.approx(pairs.r[0])
    assert found.p == pytest.approx(pairs.p[0])


def test_matrices_with_a_direction_are_refused() -> None:
    turned = np.random.default_rng(0).normal(size=(6, 6))
    with pytest.raises(CrosstaskError, match="not symmetric"):
        mantel(turned, distances(6, 0))
    holed = distances(6, 0)
    holed[1, 2] = holed[2, 1] = np.nan
    with pytest.raises(CrosstaskError, match="NaN off its diagonal"):
        mantel(holed, distances(6, 0))


def test_a_constant_matrix_has_no_correlation() -> None:
    found = mantel(np.ones((6, 6)), distances(6, 0))
    assert np.isnan(found.r)
    assert np.isnan(found.p)
