"""Silhouette, purity and cosine distributions on made-up states."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

from interp.errors import CrosstaskError
from probes.clusters import (
    cluster_scores,
    cosine_distances,
    cosine_distribution,
    neighbours,
    purity,
    relations,
    silhouette,
)


def made(by: str, seed: int = 0, strength: float = 3.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """States of 4 tasks x 6 blocks x 2 modalities x 2 orders, drawn towards a direction for each value of `by`."""
    rng = np.random.default_rng(seed)
    task, block, modality, order = np.array(list(np.ndindex(4, 6, 2, 2))).T
    index = {"task": task, "block": task // 2 * 6 + block, "modality": modality, "order": order}
    index |= {"family": task // 2, "context": task * 6 + block}
    directions = rng.normal(size=(100, 30))
    return rng.normal(size=(len(task), 30)) + strength * directions[index[by]], index


def test_silhouette_without_left_out_pairs_is_that_of_scikit_learn() -> None:
    states, index = made("task", strength=0.5)
    distances = cosine_distances(states)
    expected = silhouette_samples(states, index["task"], metric="cosine")
    assert silhouette(distances, index["task"]) == pytest.approx(expected, abs=1e-9)


def test_states_drawn_to_tasks_cluster_by_task_and_not_by_modality() -> None:
    states, index = made("task")
    options = {"groups": index["block"], "permutations": 49}
    by_task = cluster_scores(states, index["task"], types=index["context"], **options)
    by_modality = cluster_scores(
        states, index["modality"], types=2 * index["context"] + index["modality"], strata=index["context"], **options
    )
    assert by_task["silhouette"].value.low > 0.5
    assert by_task["purity"].value.value == 1.0
    assert by_task["purity"].chance == pytest.approx(0.25, abs=0.05)
    assert by_task["silhouette"].p_value == pytest.approx(1 / 50)
    assert by_modality["silhouette"].value.value < by_modality["silhouette"].chance_high + 0.02
    assert by_modality["purity"].value.value == pytest.approx(by_modality["purity"].chance, abs=0.12)


def test_states_that_share_items_do_not_vouch_for_each_other() -> None:
    """Contexts drawn towards their items alone: with pairs of one block left in, they would seem to cluster by task."""
    states, index = made("context")
    distances = cosine_distances(states)
    assert purity(distances, index["task"], k=3).mean() == 1.0
    found = cluster_scores(states, index["task"], groups=index["block"], types=index["context"], k=3, permutations=19)
    assert found["purity"].value.value < 0.5
    assert found["silhouette"].value.value < 0.1


def test_among_the_other_modality_only_a_shared_direction_counts() -> None:
    states, index = made("context", strength=0.0)
    rng = np.random.default_rng(1)
    states += (
        3 * rng.normal(size=(8, 30))[2 * index["task"] + index["modality"]]
    )  # a direction for each task and modality
    other = index["modality"][:, None] != index["modality"]
    options = {"groups": index["block"], "types": index["context"], "permutations": 19}
    assert cluster_scores(states, index["task"], **options)["purity"].value.value == 1.0
    assert cluster_scores(states, index["task"], allowed=other, **options)["purity"].value.value < 0.6


def test_nearest_neighbours_are_nearest_first_and_never_oneself() -> None:
    distances = np.array([[0, 3, 1], [3, 0, 2], [1, 2, 0]], dtype=float)
    assert neighbours(distances, k=2).tolist() == [[2, 1], [2, 0], [0, 1]]
    with pytest.raises(CrosstaskError, match="3 nearest neighbours were asked for"):
        neighbours(distances, k=3)


def test_label_without_another_state_is_refused() -> None:
    with pytest.raises(CrosstaskError, match="no state of its label"):
        silhouette(cosine_distances(np.eye(3)), ["a", "a", "b"])
    with pytest.raises(CrosstaskError, match="a state is zero"):
        cosine_distances(np.zeros((3, 2)))


def test_mean_cosine_leaves_out_pairs_of_one_group_and_its_interval_holds_it() -> None:
    cosines = np.full((6, 6), 0.2)
    groups = [0, 0, 1, 1, 2, 2]
    for a in range(0, 6, 2):
        cosines[a, a + 1] = cosines[a + 1, a] = 1.0
    found = cosine_distribution(cosines, np.ones((6, 6), dtype=bool), groups=groups)
    assert found.pairs == 12
    assert found.mean.value == pytest.approx(0.2)
    assert found.quantiles == pytest.approx([0.2] * 5)
    rng = np.random.default_rng(0)
    noisy = rng.normal(size=(6, 6))
    found = cosine_distribution(noisy + noisy.T, np.ones((6, 6), dtype=bool), groups=groups)
    assert found.mean.low < found.mean.value < found.mean.high
    with pytest.raises(CrosstaskError, match="no pair of states"):
        cosine_distribution(cosines, np.ones((6, 6), dtype=bool), groups=[0] * 6)


def test_every_pair_has_one_relation() -> None:
    _, index = made("task")
    found = relations(index["task"], index["family"], index["modality"])
    assert set(found) == {
        f"{task}, {modality}"
        for task in ("same task", "same family", "other family")
        for modality in ("same modality", "other modality")
    }
    assert (np.sum([pairs for _, _, pairs in found.values()], axis=0) == 1).all()


def test_a_label_that_every_block_shows_once_is_compared_with_permutations_that_keep_it_so() -> None:
    """Blocks that lie apart and two tasks that do not: labels that split blocks unevenly would widen the null."""
    states, index = made("block", strength=6.0)
    family = index["family"]
    found = cluster_scores(
        states, index["task"], groups=index["block"], types=index["context"], strata=family,
        allowed=family[:, None] == family, permutations=99,
    )["silhouette"]  # fmt: skip
    assert abs(found.value.value) < 0.05
    assert found.chance_high < 0.03
    assert found.p_value > 0.05


def test_value_and_its_baseline_are_means_over_groups_alike() -> None:
    """Labels that no permutation may move have themselves as baseline, also where groups are of different sizes."""
    states, index = made("task", strength=0.5)
    kept = index["task"] != 3  # the second family has one task left, and its blocks half as many states
    index = {name: values[kept] for name, values in index.items()}
    found = cluster_scores(
        states[kept], index["task"], groups=index["block"], types=index["context"], strata=index["context"],
        permutations=3,
    )  # fmt: skip
    for score in found.values():
        assert score.chance == pytest.approx(score.value.value)
        assert score.p_value == 1.0
    distances, apart = cosine_distances(states[kept]), index["block"][:, None] != index["block"]
    values = purity(distances, index["task"], allowed=apart)
    means = [values[index["block"] == block].mean() for block in np.unique(index["block"])]
    assert found["purity"].value.value == pytest.approx(np.mean(means))
    assert abs(np.mean(means) - values.mean()) > 1e-3
