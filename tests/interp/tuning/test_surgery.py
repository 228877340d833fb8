"""Gradient surgery: steps that can be computed by hand, and trainings in which it changes nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.options import LoadOptions
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import Example
from interp.tuning.run import finetune
from interp.tuning.surgery import TaskGradients, cagrad_weights, pcgrad_weights, task_numbers
from tests.tiny import picture, tiny_llava


def step(method: str, *gradients: list[float]) -> np.ndarray:
    """The step that is made of gradients in the plane."""
    rows = np.array(gradients)
    gram = rows @ rows.T
    weights = pcgrad_weights(gram, generator=np.random.default_rng(0)) if method == "pcgrad" else cagrad_weights(gram)
    return weights @ rows


def test_pcgrad_of_two_conflicting_gradients_by_hand() -> None:
    # (1, 0) and (-1, 1): each loses its projection on the other.
    # (1, 0) + 1/2 (-1, 1) = (1/2, 1/2); (-1, 1) + 1 (1, 0) = (0, 1).
    np.testing.assert_allclose(step("pcgrad", [1, 0], [-1, 1]), [0.5, 1.5])


@pytest.mark.parametrize("gradients", [([1, 0], [1, 1]), ([1, 0], [0, 2]), ([3, 4],)])
def test_pcgrad_without_conflict_is_the_sum(gradients: tuple[list[float], ...]) -> None:
    np.testing.assert_allclose(step("pcgrad", *gradients), np.sum(gradients, 0))


def test_pcgrad_of_three_projects_in_the_order_that_is_drawn_and_on_unchanged_gradients() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
    gram = rows @ rows.T
    # Task 0 meets 1 first: (1/2, 1/2), which has -1 with (-1, -1) of squared length 2: (0, 0). The other order alike.
    # Task 1 meets 0: (0, 1), then 2: dot -1, so (-1/2, 1/2). Or 2 first (dot 0), then 0: (0, 1).
    first, second = np.array([-0.5, 0.5]), np.array([0.0, 1.0])
    third = {True: np.array([-0.5, -0.5]), False: np.array([0.0, -1.0])}
    allowed = [a + b for a in (first, second) for b in third.values()]
    seen = [pcgrad_weights(gram, generator=np.random.default_rng(seed)) @ rows for seed in range(20)]
    assert all(any(np.allclose(one, other) for other in allowed) for one in seen)
    assert len({tuple(np.round(one, 6)) for one in seen}) > 1


def test_cagrad_of_two_gradients_by_hand() -> None:
    # (1, 0) and (-1, 0.5): mean (0, 0.25), of length 1/4. The dual in one variable, on a fine grid of its own.
    rows = np.array([[1.0, 0.0], [-1.0, 0.5]])
    mean = rows.mean(0)

    def dual(w: float) -> float:
        mixed = np.array([w, 1 - w]) @ rows
        return float(mixed @ mean + 0.5 * np.linalg.norm(mean) * np.linalg.norm(mixed))

    w = minimize_scalar(dual, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x
    mixed = np.array([w, 1 - w]) @ rows
    expected = 2 * (mean + 0.5 * np.linalg.norm(mean) / np.linalg.norm(mixed) * mixed) / 1.5
    np.testing.assert_allclose(step("cagrad", [1, 0], [-1, 0.5]), expected, atol=1e-4)


def test_cagrad_of_perpendicular_gradients_of_one_length_is_the_sum() -> None:
    # By symmetry w = (1/2, 1/2), so the step is 2 (g0 + c g0) / (1 + c).
    np.testing.assert_allclose(step("cagrad", [1, 0], [0, 1]), [1, 1], atol=1e-5)


def test_cagrad_helps_the_task_that_the_mean_harms() -> None:
    harmed = np.array([-1.0, 0.2])
    mean = np.array([3.0, 0.2]) + harmed
    assert mean @ harmed < step("cagrad", [3.0, 0.2], [-1.0, 0.2]) @ harmed


def test_cagrad_without_aversion_or_gradients_is_the_sum() -> None:
    gram = np.array([[1.0, -0.5], [-0.5, 2.0]])
    np.testing.assert_allclose(cagrad_weights(gram, c=0.0), [1, 1])
    np.testing.assert_allclose(cagrad_weights(np.zeros((2, 2))), [1, 1])


def test_gradients_add_up_over_micro_batches_and_are_combined() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)), torch.nn.Parameter(torch.zeros(1))]
    gradients = TaskGradients("pcgrad", parameters)
    for part in (0.25, 0.75):
        gradients.add(7, part * parameters[0][0])
        gradients.add(2, part * (parameters[0][1] - parameters[0][0]), keep=False)
    np.testing.assert_allclose(gradients.gram(), [[2, -1], [-1, 1]])
    gradients.finish(generator=np.random.default_rng(0))
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.5, 1.5], dtype=torch.float64))
    assert parameters[1].grad is None  # nothing reaches it


def test_examples_without_a_task_are_refused() -> None:
    assert task_numbers(["b", "a", "b"], method="pcgrad") == {"a": 0, "b": 1}
    with pytest.raises(CrosstaskError, match="'cagrad' needs the task of every example, and 1 of 2 examples have none"):
        task_numbers(["a", None], method="cagrad")


def mixture(*tasks: str | None, clash: bool = False) -> list[Example]:
    """Eight examples that take turns at the tasks, with questions of their own.

    With `clash` tasks ask the same of the same pictures, and the first wants the answer that the others do not.
    """
    found = []
    for number in range(8):
        task = tasks[number % len(tasks)]
        answer = "(A)" if (number % len(tasks) if clash else number % 3) else "(B)"
        shown = number // len(tasks) if clash else number
        found.append(Example(f"e{number}", (picture(shown),), ((f"Which {'' if clash else task}?", answer),), task))
    return found


@cache
def model():
    return tiny_llava()


def trained(folder: Path, surgery: str, examples: list[Example], **changes: object) -> dict[str, Tensor]:
    settings = {"steps": 2, "batch": 8, "micro_batch": 4, "learning_rate": 1e-2, "features": "off", "warmup": 0.0}
    config = TuneConfig(
        "RD", "tiny-llava", "vision_bitfit", surgery=surgery, loading=LoadOptions("cpu"), **settings | changes
    )  # type: ignore[arg-type]
    return load_file(finetune(config, folder, model=model(), examples=examples).adapter / "vision_model.safetensors")


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def test_with_one_task_surgery_is_plain_training(tmp_path: Path) -> None:
    examples = mixture("a")
    plain = trained(tmp_path / "plain", "none", examples)
    for method in ("pcgrad", "cagrad"):
        assert distance(trained(tmp_path / method, method, examples), plain) < 1e-6


def test_two_tasks_are_taken_apart_in_training(tmp_path: Path) -> None:
    """Their gradients agree at first, so that PCGrad is plain training, and differ, so that CAGrad is not."""
    plain = trained(tmp_path / "plain", "none", mixture("a", "b"))
    assert distance(trained(tmp_path / "pcgrad", "pcgrad", mixture("a", "b")), plain) < 1e-6
    assert distance(trained(tmp_path / "cagrad", "cagrad", mixture("a", "b")), plain) > 1e-5


def test_tasks_that_clash_are_projected_in_training(tmp_path: Path) -> None:
    """One wants (A), the other (B) of the same pictures: once they know that a letter comes, gradients conflict."""
    clashing, fast = mixture("a", "b", clash=True), {"steps": 12, "learning_rate": 5e-2}
    plain = trained(tmp_path / "plain", "none", clashing, **fast)
    assert distance(trained(tmp_path / "pcgrad", "pcgrad", clashing, **fast), plain) > 1e-3


def test_run_of_examples_without_a_task_is_refused_before_it_trains(tmp_path: Path) -> None:
    with pytest.raises(CrosstaskError, match="needs the task of every example"):
        trained(tmp_path / "run", "pcgrad", mixture(None))


def test_settings_without_surgery_are_as_they_were() -> None:
    assert "surgery" not in TuneConfig("RD").settings()
    assert TuneConfig("RD", surgery="cagrad").settings()["surgery"] == "cagrad"
