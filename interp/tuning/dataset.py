"""Training examples, checked and encoded before the model trains, in an order that depends on the seed alone.

The order is laid out for the whole run: one permutation an epoch. Within a step examples are sorted by length, which
makes micro-batches of like lengths and leaves the step's gradient as it is, since its loss is the mean over all answer
tokens of the step. The same examples make a step however many processes share it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from torch.utils.data import Dataset

from interp.errors import CrosstaskError
from interp.images import Image
from interp.models.base import Model
from interp.tasks.perception.base import Form, generator
from interp.tasks.perception.conversations import Conversation
from interp.tasks.perception.datasets import training_data
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.config import TuneConfig
from interp.tuning.encoding import Encoded, encode

SIDE = 224
"""Side of pictures for a model that takes any."""


@dataclass(frozen=True, eq=False)
class Example:
    """A conversation about pictures to learn from.

    Attributes:
        name: how errors call it.
        images: shown first.
        turns: (question, answer) pairs.
        task: the name of the task in a mixture of several, for gradient surgery.
    """

    name: str
    images: tuple[Image, ...]
    turns: tuple[tuple[str, str], ...]
    task: str | None = None


Learnable: TypeAlias = Example | PerceptionItem | Conversation


def as_example(learnable: Learnable) -> Example:
    """A perception item or a conversation of a file as an example."""
    if isinstance(learnable, PerceptionItem):
        return Example(learnable.name, learnable.images, ((learnable.prompt, learnable.answer),), learnable.task)
    if isinstance(learnable, Conversation):
        return Example(learnable.where, learnable.images, learnable.turns)
    return learnable


def training_examples(config: TuneConfig, model: Model | None = None) -> Sequence[Learnable]:
    """What a configuration trains on, drawn or read when it is used.

    Args:
        config: its task, and how much of it.
        model: gives the size of pictures where the configuration does not.

    Raises:
        CrosstaskError: there is no such task, or a file's entry is wrong.
    """
    return training_data(
        config.task,
        n=config.examples if task_file(config.task) else config.n_examples,
        form=cast("Form | None", config.form),
        difficulty=config.difficulty,
        wording=config.wording,
        size=config.size or (picture_side(model) if model is not None else SIDE),
        seed=config.order_seed,
        image_folder=config.image_folder,
    )


def task_file(task: str) -> Path | None:
    """The file that a task's name stands for, if it is one; `%50` behind its name takes half of it."""
    for name in (task, task.rpartition("%")[0]):
        if name and Path(name).expanduser().is_file():
            return Path(name).expanduser()
    return None


def picture_side(model: Model) -> int:
    """The side of pictures that the model's tower takes, or 224 where it takes any."""
    vision = getattr(model.module.config, "vision_config", None)
    side = getattr(vision, "image_size", None)
    side = side[0] if isinstance(side, list | tuple) else side
    return max(int(side), 32) if side else SIDE


def encode_all(model: Model, examples: Iterable[Example], *, tick: Callable[[], None] | None = None) -> list[Encoded]:
    """Every example as tokens, or the first error with the example's name.

    Args:
        model: the model.
        examples: at least one.
        tick: called after each.

    Raises:
        CrosstaskError: there is no example, or one cannot be encoded or has no answer.
    """
    found: list[Encoded] = []
    for number, example in enumerate(examples, start=1):
        try:
            if not example.turns or example.turns[-1][1] is None:
                raise CrosstaskError("it has no answer")
            found.append(replace(encode(model, example.images, example.turns), task=example.task))
        except CrosstaskError as error:
            raise CrosstaskError(f"training example {number} ({example.name!r}) cannot be used: {error}") from error
        if tick is not None:
            tick()
    if not found:
        raise CrosstaskError("there is nothing to train on: the data has no examples")
    return found


def data_fingerprint(examples: Sequence[Example]) -> str:
    """sha256 over names, texts and pictures of the examples, in their order."""
    total = hashlib.sha256()
    for example in examples:
        total.update(json.dumps([example.name, example.turns, [image.key for image in example.images]]).encode())
    return total.hexdigest()


def labels_fingerprint(examples: Sequence[Example]) -> str:
    """sha256 over the tasks of the examples, which decide what is learnt only under gradient surgery."""
    return hashlib.sha256(json.dumps([example.task for example in examples]).encode()).hexdigest()


def training_order(lengths: Sequence[int], *, steps: int, batch: int, seed: int) -> list[int]:
    """Indices of examples for a whole run, `steps * batch` of them.

    Args:
        lengths: tokens of each example.
        steps: optimiser steps.
        batch: examples a step.
        seed: of the permutations, one an epoch.
    """
    n, wanted = len(lengths), steps * batch
    epochs = [generator("order", seed, epoch).permutation(n) for epoch in range(math.ceil(wanted / n))]
    order = np.concatenate(epochs)[:wanted].tolist()
    groups = (order[start : start + batch] for start in range(0, wanted, batch))
    return [index for group in groups for index in sorted(group, key=lambda i: (-lengths[i], i))]


class OrderedData(Dataset):
    """Encoded examples in the order of a run."""

    def __init__(self, data: Sequence[Encoded], order: Sequence[int]) -> None:
        self.data, self.order = data, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Encoded:
        return self.data[self.order[place]]
