"""Dominant directions and conflicts, against the definitions written out and against gradients made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from interp.conflict.alignment import aligned, between, mean_cosine, pair, within
from interp.errors import CrosstaskError

TASKS = [task for task in "abc" for _ in range(5)]


def gradients(shared: float, own: float, *, seed: int = 0, width: int = 400) -> np.ndarray:
    """Noise of length 1, and a part that all have in common, and one of each task."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(len(TASKS), width)) / np.sqrt(width)
    common = rng.normal(size=width) / np.sqrt(width)
    of_task = {task: rng.normal(size=width) / np.sqrt(width) for task in "abc"}
    return noise + shared * common + own * np.stack([of_task[task] for task in TASKS])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_definitions_are_what_they_say() -> None:
    rows = gradients(0.4, 0.7) * np.random.default_rng(1).uniform(0.5, 2, (len(TASKS), 1))
    gram = rows @ rows.T
    rest = [cosine(row, rows.sum(0) - row) for row in rows]
    np.testing.assert_allclose(aligned(gram, TASKS, "mean").cosines, rest)
    others = [
        cosine(row, np.sum([r for r, t in zip(rows, TASKS, strict=True) if t != task], axis=0))
        for row, task in zip(rows, TASKS, strict=True)
    ]
    np.testing.assert_allclose(aligned(gram, TASKS, "others").cosines, others)
    direction = np.linalg.svd(rows, full_matrices=False)[2][0]
    direction *= np.sign(direction @ rows.sum(0))
    np.testing.assert_allclose(aligned(gram, TASKS, "principal").cosines, [cosine(row, direction) for row in rows])


def test_unrelated_gradients_are_at_chance_and_shared_ones_above_it() -> None:
    rows = gradients(0.0, 0.0, width=4000)
    for definition in ("mean", "others", "principal"):
        none = aligned(rows @ rows.T, TASKS, definition)
        assert none.mean.value < none.chance_high + 0.02
        assert none.p_value > 0.02
    assert abs(aligned(rows @ rows.T, TASKS, "mean").mean.value) < 0.03
    shared = gradients(1.0, 0.0)
    found = aligned(shared @ shared.T, TASKS, "mean")
    assert found.mean.value > found.chance_high + 0.3
    assert found.p_value < 0.01


def test_what_tasks_have_of_their_own_counts_for_the_mean_and_not_for_other_tasks() -> None:
    rows = gradients(0.0, 1.5, width=4000)
    gram = rows @ rows.T
    assert aligned(gram, TASKS, "mean").mean.value > 0.2
    assert abs(aligned(gram, TASKS, "others").mean.value) < 0.06


def test_opposed_tasks_conflict_always_and_a_task_never_with_itself() -> None:
    rng = np.random.default_rng(0)
    way = rng.normal(size=300)
    rows = np.stack([way * (1 if task == "a" else -1) + 0.1 * rng.normal(size=300) for task in "aaabbb"])
    gram, tasks = rows @ rows.T, list("aaabbb")
    assert between(gram, tasks).rate == (1.0, 1.0, 1.0)
    assert within(gram, tasks).rate == (0.0, 0.0, 0.0)
    assert mean_cosine(gram, tasks, "a", "b") < -0.98
    assert pair(gram, tasks, "a", "a").cosine.value > 0.9


def test_pair_of_micro_batches_is_the_mean_over_pairs_of_the_two_tasks() -> None:
    rows = gradients(0.3, 0.5)
    expected = np.mean([cosine(a, b) for a in rows[:5] for b in rows[5:10]])
    found = pair(rows @ rows.T, TASKS, "a", "b").cosine
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high


def test_one_task_alone_has_no_others() -> None:
    rows = gradients(0.3, 0.5)[:5]
    with pytest.raises(CrosstaskError, match="needs a second task"):
        aligned(rows @ rows.T, ["a"] * 5, "others")


@pytest.mark.parametrize("tasks", ["bac", "cab", "abc"])
def test_order_of_single_micro_batches_does_not_matter(tasks: str) -> None:
    rows = np.random.default_rng(2).normal(size=(3, 8))
    found = aligned(rows @ rows.T, list(tasks), "others").cosines
    np.testing.assert_allclose(found, [cosine(row, rows.sum(0) - row) for row in rows])


def test_chance_and_p_are_those_of_the_signs_that_are_drawn() -> None:
    rows = gradients(0.3, 0.0)
    n, draws = len(rows), 99
    signs = np.random.default_rng([0, n]).choice([-1.0, 1.0], size=(draws, n))
    null = []
    for drawn in signs:
        turned = rows * drawn[:, None]
        null.append(np.mean([cosine(row, turned.sum(0) - row) for row in turned]))
    found = aligned(rows @ rows.T, TASKS, "mean", draws=draws, seed=0)
    assert found.chance == pytest.approx(np.mean(null))
    assert found.chance_high == pytest.approx(np.quantile(null, 0.95))
    assert found.std == pytest.approx(np.std(found.cosines, ddof=1))
    assert found.p_value == (np.sum(np.array(null) >= found.mean.value) + 1) / (draws + 1)


def test_within_and_mean_cosine_are_means_by_hand() -> None:
    rows = gradients(0.5, 1.0) * np.random.default_rng(1).uniform(0.5, 2, (len(TASKS), 1))
    gram, labels = rows @ rows.T, np.array(TASKS)
    pairs = [
        cosine(rows[i], rows[j])
        for i in range(len(rows))
        for j in range(len(rows))
        if i != j and labels[i] == labels[j]
    ]
    assert within(gram, TASKS).cosine.value == pytest.approx(np.mean(pairs))
    expected = cosine(rows[labels == "a"].sum(0), rows[labels == "b"].sum(0))
    assert mean_cosine(gram, TASKS, "a", "b") == pytest.approx(expected)
