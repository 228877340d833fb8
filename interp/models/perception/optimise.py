"""Train some weights of a model that is held in float32 and used in bfloat16; a killed training goes on.

bfloat16 products are about twice as fast on a CPU with AVX-512 BF16. What a step sees depends on the seed and the
step's number alone, so that a resumed training sees what an unbroken one would have.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

CHECKPOINT_EVERY = 250  # steps
LOG_EVERY = 50  # steps
WARM_UP = 100  # steps
DECAY = 0.05
MEMORY = 0.98
"""Weight of what was seen before in a logged average."""

Log = Callable[[dict[str, Any]], None]
Part = Callable[[], tuple[torch.Tensor, dict[str, float]]]
"""A part of a step's items -> loss and what is logged of it."""


@dataclass(frozen=True)
class Course:
    """How long and how fast.

    Attributes:
        steps: optimiser steps.
        peak: peak learning rate; it rises linearly and falls as half a cosine to a fiftieth.
        seed: fixes read-outs and order.
        stop: last step that is made; by default all are.
    """

    steps: int
    peak: float
    seed: int
    stop: int | None = None

    @property
    def last(self) -> int:
        return self.steps if self.stop is None else min(self.stop, self.steps)

    def learning_rate(self, step: int) -> float:
        falling = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.peak * min(1.0, (step + 1) / WARM_UP) * max(0.02, falling)


def optimise(
    model: nn.Module,
    trained: Sequence[nn.Module],
    heads: nn.Module,
    parts_of_step: Callable[[int], Sequence[Part]],
    course: Course,
    *,
    checkpoint: Path,
    stage: str,
    log: Log,
    watch: Callable[[], dict[str, float]] | None = None,
    watch_every: int = 500,
) -> None:
    """Train in place.

    Args:
        model: float32; left in float32 and evaluation mode with the trained weights, nothing requiring gradients.
        trained: parts of the model whose weights are trained.
        heads: read-outs, trained along.
        parts_of_step: number of a step -> its parts, whose losses are averaged.
        course: how long and how fast.
        checkpoint: file; its folder exists.
        stage: name in the log.
        log: called with one dict a logged step.
        watch: measures the model on other items.
        watch_every: steps between two such measurements.
    """
    model.requires_grad_(False)
    used = [p.requires_grad_(True) for part in (*trained, heads) for p in part.parameters()]
    held = [p.detach().clone().requires_grad_(True) for p in used]
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    model.bfloat16(), heads.bfloat16()
    groups = [{"params": [h for h in held if (h.ndim > 1) == wide], "weight_decay": DECAY * wide} for wide in (1, 0)]
    optimiser = torch.optim.AdamW(groups, lr=course.peak, betas=(0.9, 0.98))
    first = _resume(checkpoint, held, optimiser)
    recent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    began = time.monotonic()
    for step in range(first, course.last):
        copy_weights(held, used)
        for group in optimiser.param_groups:
            group["lr"] = course.learning_rate(step)
        parts = parts_of_step(step)
        for part in parts:
            loss, said = part()
            (loss / len(parts)).backward()
            for name, value in {**said, "loss": float(loss.detach())}.items():
                total = recent[name]
                total[0], total[1] = MEMORY * total[0] + value, MEMORY * total[1] + 1
        for held_one, used_one in zip(held, used, strict=True):
            held_one.grad = None if used_one.grad is None else used_one.grad.float()
            used_one.grad = None
        nn.utils.clip_grad_norm_([h for h in held if h.grad is not None], 1.0)
        optimiser.step()
        done = step + 1
        if done % CHECKPOINT_EVERY == 0 or done == course.last:
            _save(checkpoint, held, optimiser, done)
        if done % LOG_EVERY == 0 or done == course.last:
            shown = {name: round(total / count, 3) for name, (total, count) in sorted(recent.items())}
            log({"stage": stage, "step": done, "seconds": round(time.monotonic() - began, 1), **shown})
        if watch is not None and (done % watch_every == 0 or done == course.last):
            copy_weights(held, used)
            with torch.no_grad():
                log({"stage": f"{stage}, other items", "step": done, **watch()})
    model.float()
    copy_weights(held, used)
    copy_weights(list(frozen.values()), [model.get_parameter(name) for name in frozen])  # as before bfloat16
    model.requires_grad_(False).eval()


def averages(said: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each name over the records that have it."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in said:
        for name, value in record.items():
            found[name].append(value)
    return {name: round(sum(values) / len(values), 3) for name, values in sorted(found.items())}


@torch.no_grad()
def copy_weights(source: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> None:
    """Copy each tensor of the first into that of the second."""
    for one, other in zip(source, target, strict=True):
        other.copy_(one)


def _save(file: Path, held: Sequence[torch.Tensor], optimiser: torch.optim.Optimizer, step: int) -> None:
    draft = file.with_suffix(".tmp")
    torch.save({"held": [h.data for h in held], "optimiser": optimiser.state_dict(), "step": step}, draft)
    draft.rename(file)


def _resume(file: Path, held: Sequence[torch.Tensor], optimiser: torch.optim.Optimizer) -> int:
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    for one, stored in zip(held, state["held"], strict=True):
        one.data.copy_(stored)
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
