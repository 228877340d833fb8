"""Gradient surgery: one step of several tasks whose gradients conflict (PCGrad, CAGrad), as optimisers' baselines.

The step's loss is the sum of its tasks' shares, L = sum_k L_k, where L_k is the sum over the answer tokens of task k
divided by all answer tokens of the step. With g_k the gradient of L_k, plain training takes the sum of all g_k, and

    PCGrad   (Yu et al. 2020, algorithm 1): for each i, for the other j in random order, where g_i . g_j < 0
                 g_i <- g_i - (g_i . g_j / |g_j|^2) g_j        with the unchanged g_j;  then the sum of all g_i
    CAGrad   (Liu et al. 2021, algorithm 1): with g_0 the mean of the K gradients, c = 0.5, and g_w = sum_k w_k g_k
                 w = argmin over the simplex of  g_w . g_0 + c |g_0| |g_w|
                 K (g_0 + c |g_0| / |g_w| g_w) / (1 + c)

Both are sums of the g_k with weights that depend on their dot products alone, so only the K x K matrix of these is
looked at. Where nothing conflicts PCGrad is plain training; with one task both are. The factor K makes CAGrad a sum as
well, so that a limit on the gradient's norm means the same. Each g_k needs memory of the size of what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from interp.errors import CrosstaskError
from interp.tuning.config import Surgery

CONFLICT_AVERSION = 0.5
"""c of CAGrad, as in its release."""

Gram: TypeAlias = Float[np.ndarray, "K K"]
Weights: TypeAlias = Float[np.ndarray, " K"]


def pcgrad_weights(gram: Gram, *, generator: np.random.Generator) -> Weights:
    """Weight of each task's gradient in PCGrad's step.

    Args:
        gram: dot products of the tasks' gradients.
        generator: of the orders in which a task meets the others.
    """
    tasks = len(gram)
    made = np.eye(tasks)  # row i: the projected gradient of task i as a sum of all
    for i in range(tasks):
        for j in generator.permutation([j for j in range(tasks) if j != i]).astype(int):
            dot = made[i] @ gram[:, j]
            if dot < 0:
                made[i, j] -= dot / gram[j, j]
    return made.sum(0)


def cagrad_weights(gram: Gram, *, c: float = CONFLICT_AVERSION) -> Weights:
    """Weight of each task's gradient in CAGrad's step.

    Args:
        gram: dot products of the tasks' gradients.
        c: how far the step may leave the mean, as a part of its length; with 0 it is the mean.
    """
    tasks = len(gram)
    mean = np.full(tasks, 1 / tasks)
    scale = float(np.trace(gram)) / tasks
    if scale <= 0:
        return np.ones(tasks)
    scaled = gram / scale
    length = float(np.sqrt(max(mean @ scaled @ mean, 0.0)))

    def objective(w: Weights) -> float:
        return float(w @ scaled @ mean + c * length * np.sqrt(max(w @ scaled @ w, 0.0) + 1e-12))

    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1}
    found = minimize(objective, mean, bounds=[(0, 1)] * tasks, constraints=simplex, options={"ftol": 1e-12})
    w = np.clip(found.x, 0, 1)
    norm = float(np.sqrt(max(w @ scaled @ w, 0.0)))
    moved = mean + (c * length / norm * w if norm > 1e-8 else 0.0)  # no length: the tasks are at a Pareto point
    return tasks * moved / (1 + c)


class TaskGradients:
    """The gradients of one optimiser step, apart for each task, over all of its micro-batches."""

    def __init__(self, method: Surgery, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Begin a step.

        Args:
            method: pcgrad or cagrad.
            parameters: what is trained.
        """
        self.method, self.parameters = method, list(parameters)
        self._sums: dict[int, list[Tensor | None]] = {}

    def add(self, task: int, share: Tensor, *, keep: bool = True) -> None:
        """Add the gradient of a micro-batch's share of the loss.

        Args:
            task: number of the task.
            share: its loss.
            keep: whether the graph is needed again, for another task.
        """
        found = torch.autograd.grad(share, self.parameters, retain_graph=keep, allow_unused=True)
        before = self._sums.get(task, [None] * len(found))
        self._sums[task] = [
            new if old is None else old if new is None else old + new for old, new in zip(before, found, strict=True)
        ]

    def finish(self, *, generator: np.random.Generator) -> None:
        """Write the step's gradient into the parameters, and forget the tasks'.

        Args:
            generator: of PCGrad's orders.
        """
        tasks = sorted(self._sums)
        gram = self.gram()
        weights = pcgrad_weights(gram, generator=generator) if self.method == "pcgrad" else cagrad_weights(gram)
        for index, parameter in enumerate(self.parameters):
            parts = [(w, self._sums[k][index]) for w, k in zip(weights, tasks, strict=True)]
            there = [float(w) * part for w, part in parts if part is not None]
            parameter.grad = torch.stack(there).sum(0) if there else None
        self._sums = {}

    def gram(self) -> Gram:
        """Dot products of the tasks' gradients, tasks in the order of their numbers."""
        tasks = sorted(self._sums)
        made = np.zeros((len(tasks), len(tasks)))
        for index in range(len(self.parameters)):
            parts = [self._sums[k][index] for k in tasks]
            there = [row for row, part in enumerate(parts) if part is not None]
            if there:
                flat = torch.stack([part.flatten().double() for part in parts if part is not None])
                made[np.ix_(there, there)] += (flat @ flat.T).cpu().numpy()
        return made


def task_numbers(labels: Sequence[str | None], *, method: Surgery) -> dict[str, int]:
    """A number for each task of a mixture.

    Raises:
        CrosstaskError: an example has no label.
    """
    missing = sum(label is None for label in labels)
    if missing:
        raise CrosstaskError(
            f"surgery {method!r} needs the task of every example, and {missing} of {len(labels)} examples have none: "
            "give examples with a task, such as a mixture of perception tasks"
        )
    return {name: number for number, name in enumerate(sorted({str(label) for label in labels}))}
