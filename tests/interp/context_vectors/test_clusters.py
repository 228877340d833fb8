"""Clusters, their agreement with labels, and routing, on vectors whose structure is known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from interp.context_vectors import ClusterSettings, clusters
from interp.context_vectors.clusters import (
    agreements,
    centred_cosines,
    cluster,
    jackknife,
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


def test_items_that_are_there_twice_are_left_out_and_permuted_together() -> None:
    one, other = vectors(apart=0.3), vectors(apart=0.3, seed=4)
    groups = [f"{n:02}" for n in range(len(one))]
    single, null = similarity_correlation(one, other, groups=groups, permutations=99)
    plain, plain_null = similarity_correlation(one, other, permutations=99)
    assert (single.value, null) == pytest.approx((plain.value, plain_null))
    twice, again = (np.concatenate([given, given]) for given in (one, other))
    known, known_null = similarity_correlation(twice, again, groups=groups * 2, permutations=99)
    blind, blind_null = similarity_correlation(twice, again, permutations=99)
    assert known.high - known.low > blind.high - blind.low
    assert known_null > blind_null


def test_jackknife_is_student_s_interval_of_the_values_without_each_part() -> None:
    left = np.array([0.3, 0.5, 0.4, 0.6])
    spread = np.sqrt(3 / 4 * np.sum((left - left.mean()) ** 2))
    found = jackknife(0.45, left)
    assert found.high - found.value == pytest.approx(min(0.55, 3.182446305284263 * spread))
    assert found.low == pytest.approx(0.45 - 3.182446305284263 * spread)
    assert np.isnan(jackknife(float("nan"), left)[1:]).all()
    assert np.isnan(jackknife(0.3, np.array([0.1, np.nan]))[1:]).all()


def test_null_of_similarity_moves_rows_and_columns_together() -> None:
    one, other = vectors(apart=1.0)[::8], vectors(apart=1.0, seed=2)[::8]
    first, second = centred_cosines(one), centred_cosines(other)
    upper = np.triu_indices(len(one), 1)
    rng, null = np.random.default_rng(7), []
    for _ in range(29):
        order = rng.permutation(len(one))
        null.append(np.corrcoef(first[upper], second[np.ix_(order, order)][upper])[0, 1])
    assert similarity_correlation(one, other, permutations=29, seed=7)[1] == pytest.approx(np.quantile(null, 0.95))


def test_random_routers_spread_as_the_real_one_and_are_none_of_sparse_routing(monkeypatch: pytest.MonkeyPatch) -> None:
    context = vectors(apart=1.0)
    logits = 0.3 * context @ np.random.default_rng(2).normal(size=(12, 4))
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    seen = []
    plain = clusters.centred_cosines
    monkeypatch.setattr(clusters, "centred_cosines", lambda given: (seen.append(given), plain(given))[1])
    random_routers(context, weights, routers=5)
    for drawn in seen[1:]:
        spread = [(np.log(w) - np.log(w).mean(1, keepdims=True)).std(0).mean() for w in (drawn, weights)]
        assert spread[0] == pytest.approx(spread[1], rel=0.3)
    kept = np.where(weights >= np.sort(weights, 1)[:, 2:3], weights, 0)
    assert np.isnan(random_routers(context, kept / kept.sum(1, keepdims=True), routers=3)).all()


def test_clusters_leave_room_for_the_jackknife() -> None:
    tasks = ("counting", "relative_depth", "jigsaw", "art_style", "visual_similarity", "spatial_relation")
    with pytest.raises(CrosstaskError, match="11 clusters of 12 items, of which the jackknife leaves 10"):
        ClusterSettings("m", "sha", tasks, items=2, clusters=11)
    ClusterSettings("m", "sha", tasks, items=2, clusters=9)
