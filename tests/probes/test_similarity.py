"""Cosines, and CKA in the cases where its value is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from interp.errors import CrosstaskError
from probes.similarity import (
    basic_interval,
    centred_gram,
    cka,
    cka_interval,
    cka_null,
    cosine_matrix,
    matching_p_value,
)

RNG = np.random.default_rng(0)
N, D = 24, 200
A, B = RNG.normal(size=(N, D)), RNG.normal(size=(N, D))
ROTATION = np.linalg.qr(RNG.normal(size=(D, D)))[0]


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_cka_is_1_for_identical_states_and_blind_to_rotation_scale_and_shift(estimator: str) -> None:
    assert cka(A, A, estimator=estimator) == pytest.approx(1.0, abs=1e-9)
    assert cka(A, 7.5 * A @ ROTATION + 3.0, estimator=estimator) == pytest.approx(1.0, abs=1e-9)
    mixed = A + B
    assert cka(A, mixed @ ROTATION, estimator=estimator) == pytest.approx(cka(A, mixed, estimator=estimator), abs=1e-9)


def test_unrelated_states_have_debiased_cka_near_0_and_biased_cka_near_1() -> None:
    pairs = [np.random.default_rng(seed).normal(size=(2, N, D)) for seed in range(30)]
    assert np.mean([cka(a, b) for a, b in pairs]) == pytest.approx(0, abs=0.02)
    assert np.mean([cka(a, b, estimator="biased") for a, b in pairs]) > 0.8


def test_biased_cka_is_the_ratio_of_frobenius_norms() -> None:
    """Kornblith et al. 2019, equation 4: |Y'X|^2 / (|X'X| |Y'Y|) of centred features."""
    x, y = A - A.mean(0), (A + B) - (A + B).mean(0)
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert cka(A, A + B, estimator="biased") == pytest.approx(expected, abs=1e-9)


def test_debiased_cka_is_made_of_song_and_others_unbiased_hsic() -> None:
    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        one, n = np.ones(len(k)), len(k)
        terms = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return float((terms - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3)))

    x, y = A @ A.T, (A + B) @ (A + B).T
    assert cka(A, A + B) == pytest.approx(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)), abs=1e-9)
    product = np.sum(centred_gram(A) * centred_gram(A + B)) / (N * (N - 3))
    assert product == pytest.approx(hsic(x, y), rel=1e-9)


def test_null_is_that_of_permuted_contexts_and_keeps_strata() -> None:
    labels = np.arange(N) % 3
    a = A + 3 * RNG.normal(size=(3, D))[labels]
    b = B + 3 * RNG.normal(size=(3, D))[labels]  # alike in what their labels share, in nothing else
    value = cka(a, b)
    assert (cka_null(a, b) < value).all()
    within = cka_null(a, b, strata=labels)
    assert within.min() < value < within.max()
    assert cka(a, b[np.random.default_rng(0).permutation(N)]) == pytest.approx(
        cka_null(a, b, permutations=1, seed=0)[0], abs=1e-9
    )


def test_contexts_of_common_items_change_places_together() -> None:
    """Two tasks over the same three blocks: permuted together there are six arrangements, and 36 otherwise."""
    a, b, tasks, blocks = A[:6], B[:6], [0, 0, 0, 1, 1, 1], list("xyzzyx")
    options: dict = {"strata": tasks, "permutations": 100}
    together = cka_null(a, b, together=blocks, **options)
    orders = [[*p, *(5 - p[2 - at] for at in range(3))] for p in itertools.permutations(range(3))]
    assert set(together.round(9)) == {round(cka(a, b[order]), 9) for order in orders}
    assert len(set(cka_null(a, b, **options).round(9))) > 6
    assert len(set(cka_null(a, b, together=list("xyzuvw"), **options).round(9))) > 6
    with pytest.raises(CrosstaskError, match="once in each stratum"):
        cka_null(a, b, together=list("xyzxyw"), **options)


def test_jackknife_interval_holds_the_value_and_narrows_with_more_contexts() -> None:
    widths = []
    for n in (12, 96):
        rng = np.random.default_rng(1)
        a = rng.normal(size=(n, 5))
        found = cka_interval(a, a + rng.normal(size=(n, 5)), groups=np.arange(n))
        assert found.low <= found.value <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0]
    same = cka_interval(A, A, groups=np.arange(N))
    assert same == pytest.approx((1, 1, 1), abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (A[:3], B[:3], "debiased CKA needs .* at least 4"),
        (A, B[:5], "24 states, but 5 rows"),
        (np.ones((6, 3)), A[:6], "all the same"),
    ],
)
def test_what_has_no_cka_is_refused(a: np.ndarray, b: np.ndarray, said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        cka(a, b)


def test_centred_cosines_do_not_see_what_all_states_share() -> None:
    shared = A + 100.0
    assert cosine_matrix(shared).min() > 0.9
    assert cosine_matrix(shared, centred=True) == pytest.approx(cosine_matrix(A, centred=True), abs=1e-9)
    assert cosine_matrix(A, B)[2, 5] == pytest.approx(A[2] @ B[5] / np.linalg.norm(A[2]) / np.linalg.norm(B[5]))
    with pytest.raises(CrosstaskError, match="of one width"):
        cosine_matrix(A, B[:, :5])


def test_basic_interval_mirrors_resamples_about_the_value() -> None:
    resampled = np.linspace(0.5, 0.7, 1001)
    assert basic_interval(0.7, resampled) == pytest.approx((0.7, 0.705, 0.895), abs=1e-3)
    assert basic_interval(0.8, resampled).high == 1.0
    assert basic_interval(0.8, resampled, most=2).high == pytest.approx(1.095, abs=1e-3)


def test_matching_is_tested_against_all_ways_to_match() -> None:
    assert matching_p_value(np.eye(4)) == pytest.approx(1 / 24)
    assert matching_p_value(np.ones((4, 4))) == 1.0
    assert matching_p_value(np.eye(9)) < 0.01
