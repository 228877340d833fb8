"""Clusters, their agreement with labels, and routing, on vectors whose structure is known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from interp.context_vectors.clusters import (
    agreements,
    centred_cosines,
    cluster,
    principal_plane,
    random_routers,
    similarity_correlation,
)
from interp.errors import CrosstaskError

TASKS = [task for task in "abcd" for _ in range(20)]


def vectors(*, apart: float, seed: int = 0, width: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = {task: rng.normal(size=width) for task in "abcd"}
    return rng.normal(size=(len(TASKS), width)) * 0.2 + apart * np.stack([centres[task] for task in TASKS])


def test_clusters_of_tasks_agree_with_tasks_and_with_nothing_else() -> None:
    rng = np.random.default_rng(3)
    labels = {"task": TASKS, "nothing": rng.permutation(TASKS).tolist()}
    _, found = agreements(vectors(apart=3.0), labels, 4, shuffles=50)
    assert found["task"].ami.value == pytest.approx(1.0)
    assert found["task"].ami.low > found["task"].shuffled_high
    assert abs(found["nothing"].ami.value) < 0.1
    assert found["nothing"].ami.low <= found["nothing"].shuffled_high


def test_agreement_of_structureless_vectors_is_none_whatever_the_number_of_clusters() -> None:
    """Plain mutual information would rise with the number."""
    for k in (2, 10, 30):
        _, found = agreements(vectors(apart=0.0), {"task": TASKS}, k, shuffles=20)
        assert abs(found["task"].ami.value) < 0.12
        assert abs(found["task"].shuffled) < 0.05


def test_nearest_are_in_order_of_distance_and_of_their_own_cluster() -> None:
    given = vectors(apart=2.0)
    whole = cluster(given, 4)
    nearest = whole.nearest(2, 5)
    apart = np.linalg.norm(given - whole.centres[2], axis=1)
    assert set(whole.labels[nearest]) == {2}
    assert nearest == sorted(np.flatnonzero(whole.labels == 2), key=lambda i: apart[i])[:5]
    assert 0 < whole.inertia < 0.5


def test_plane_has_the_shares_of_a_singular_value_decomposition() -> None:
    given = vectors(apart=1.0)
    places, shares = principal_plane(given)
    values = np.linalg.svd(given - given.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(shares, values[:2] / values.sum())
    assert places.shape == (len(given), 2)


def test_a_router_of_the_context_routes_like_contexts_alike_and_a_router_of_something_else_does_not() -> None:
    context, other = vectors(apart=1.0), vectors(apart=1.0, seed=5)[np.random.default_rng(1).permutation(len(TASKS))]
    weights = np.exp(context @ np.random.default_rng(2).normal(size=(12, 4)))
    weights /= weights.sum(1, keepdims=True)
    own, permuted = similarity_correlation(context, weights, permutations=49)
    assert own.value > 0.3 > permuted
    assert own.low < own.value < own.high
    none, _ = similarity_correlation(other, weights, permutations=9)
    assert abs(none.value) < 0.2
    drawn = random_routers(context, weights, routers=20)
    assert drawn.min() < own.value < drawn.max() + 0.1  # it is such a router itself


def test_cosines_are_without_the_mean() -> None:
    given = vectors(apart=1.0) + 100
    cosines = centred_cosines(given)
    moved = given - given.mean(0)
    assert cosines[0, 5] == pytest.approx(moved[0] @ moved[5] / np.linalg.norm(moved[0]) / np.linalg.norm(moved[5]))


@pytest.mark.parametrize("k", [1, 80])
def test_impossible_numbers_of_clusters_are_refused(k: int) -> None:
    with pytest.raises(CrosstaskError, match=f"{k} clusters of 80 items"):
        cluster(vectors(apart=1.0), k)


def test_vectors_that_are_all_alike_have_no_clusters() -> None:
    with pytest.raises(CrosstaskError, match="all alike"):
        cluster(np.ones((10, 3)), 2)


def test_vectors_of_which_fewer_differ_have_fewer_clusters_without_a_warning() -> None:
    given = np.repeat(np.eye(3)[:2], 5, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(set(cluster(given, 4).labels.tolist())) == 2
