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
