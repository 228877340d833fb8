"""Items of the `build` split, drawn once and kept as what training reads: stem features, tokens and lessons.

A shard is one task in one form: `<task>-<form>-<start>.pt` with the items' token ids and labels, their lessons, and the
stem's cells of every picture in reading order. Drawing and the frozen stem are most of the cost of an item, so they are
done by several processes, and never twice.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from interp.files import atomic_file
from interp.models.base import Model
from interp.models.perception.assemble import IMAGE_SIZE
from interp.models.perception.lessons import Lesson, lessons
from interp.models.perception.tower import MultiScaleEmbeddings
from interp.tasks.perception.base import Form, generator
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.registry import perception_task, perception_tasks

PICTURES = 32
"""Pictures that pass through the stem together."""


@dataclass(frozen=True)
class ShardPlan:
    """Which items a shard holds.

    Attributes:
        task: name of the task.
        form: form of the questions.
        start: index of the first item.
        n: how many.
        difficulties: lowest and highest; an item's is drawn evenly between them.
        split: build to train on, selection to see how it goes on other content.
    """

    task: str
    form: Form
    start: int
    n: int
    difficulties: tuple[float, float]
    split: Literal["build", "selection"] = "build"

    @property
    def file(self) -> str:
        return f"{'' if self.split == 'build' else self.split + '-'}{self.task}-{self.form}-{self.start}.pt"

    def items(self) -> Iterator[PerceptionItem]:
        """The items as they are drawn, each at a difficulty of its own."""
        task = perception_task(self.task)
        for index in range(self.start, self.start + self.n):
            rng = generator(self.split, self.task, self.form, index)
            low, high = self.difficulties
            difficulty = round(float(rng.uniform(low, high)), 3)
            yield task.item(self.split, index, form=self.form, difficulty=difficulty, size=IMAGE_SIZE)


@dataclass(frozen=True, eq=False)
class Shard:
    """Items as training reads them.

    Attributes:
        plan: what was drawn.
        ids, labels: for each item its tokens and what is to be predicted.
        lessons: for each item.
        n_images: pictures of an item; the same for all of them.
        cells: the stem's features of all pictures, in the order of the items.
    """

    plan: ShardPlan
    ids: list[torch.Tensor]
    labels: list[torch.Tensor]
    lessons: list[list[Lesson]]
    n_images: int
    cells: Float[torch.Tensor, "I N C"]

    def __len__(self) -> int:
        return len(self.ids)

    def pictures(self, row: int) -> Float[torch.Tensor, "I N C"]:
        """The cells of an item's pictures."""
        return self.cells[row * self.n_images : (row + 1) * self.n_images]


def plans(n: int, *, others: int, difficulties: tuple[float, float], per_shard: int = 500) -> list[ShardPlan]:
    """n items of each task's own form, and fewer of its other form, in shards."""
    return [
        ShardPlan(name, form, start, min(per_shard, most - start), difficulties)
        for start in range(0, max(n, others), per_shard)
        for name, task in perception_tasks().items()
        for form, most in zip(task.forms, (n, others), strict=True)
        if start < most
    ]


def watched_plans(n: int, *, difficulties: tuple[float, float]) -> list[ShardPlan]:
    """n selection items of each task's own form, in one shard."""
    return [
        ShardPlan(name, next(iter(task.forms)), 0, n, difficulties, "selection")
        for name, task in perception_tasks().items()
    ]


def draw_shards(
    folder: Path,
    wanted: Sequence[ShardPlan],
    make_model: Callable[[], Model],
    *,
    processes: int = 1,
    log: Callable[[dict[str, Any]], None] = lambda record: None,
) -> None:
    """Draw the shards that are not in the folder yet.

    Args:
        folder: where they are kept.
        wanted: which.
        make_model: makes the model whose stem and tokenizer are used; called once in each process.
        processes: how many draw at a time.
        log: told of each shard.
    """
    left = [plan for plan in wanted if not (folder / plan.file).exists()]
    if not left:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        model = make_model()
        for plan in left:
            _draw(folder, plan, model)
            log({"stage": "draw", "shard": plan.file})
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(make_model,)) as pool:
        running = {pool.submit(_draw_here, folder, plan): plan for plan in left}
        for done in as_completed(running):
            done.result()
            log({"stage": "draw", "shard": running[done].file})


def load_shard(folder: Path, plan: ShardPlan) -> Shard:
    """Read a shard; only tensors and plain values are in it."""
    state = torch.load(folder / plan.file, weights_only=True, mmap=True)  # more than memory may hold
    taught = [
        [Lesson(**{**row, "places": tuple(map(tuple, row["places"]))}) for row in rows] for rows in state["lessons"]
    ]
    return Shard(plan, state["ids"], state["labels"], taught, state["n_images"], state["cells"])


_model: Model | None = None


def _begin(make_model: Callable[[], Model]) -> None:
    global _model
    torch.set_num_threads(1)
    _model = make_model()


def _draw_here(folder: Path, plan: ShardPlan) -> None:
    assert _model is not None
    _draw(folder, plan, _model)


@torch.no_grad()
def _draw(folder: Path, plan: ShardPlan, model: Model) -> None:
    from interp.tuning.encoding import encode

    embeddings: MultiScaleEmbeddings = model.module.model.vision_tower.embeddings
    ids, labels, taught, cells, waiting = [], [], [], [], []
    n_images = 0
    for item in plan.items():
        n_images = len(item.images)
        taught.append([vars(lesson) for lesson in lessons(item)])
        waiting += [_pixels(np.asarray(image.load())) for image in item.images]
        if item.redraw is None:
            item = item.shifted(int(generator("shift", item.name).integers(len(item.options))))
        encoded = encode(model, item.images, [(item.prompt, item.answer)])
        ids.append(encoded.input_ids)
        labels.append(encoded.labels)
        if len(waiting) >= PICTURES:
            cells.append(_cells(embeddings, waiting))
            waiting = []
    if waiting:
        cells.append(_cells(embeddings, waiting))
    state = {"ids": ids, "labels": labels, "lessons": taught, "n_images": n_images, "cells": torch.cat(cells)}
    with atomic_file(folder / plan.file) as draft:
        torch.save(state, draft)


def _pixels(picture: np.ndarray) -> torch.Tensor:
    """As the image processor scales them; items are drawn at the tower's size."""
    return (torch.from_numpy(picture.copy()).permute(2, 0, 1).float() - 127) / 128


def _cells(embeddings: MultiScaleEmbeddings, pictures: Sequence[torch.Tensor]) -> Float[torch.Tensor, "I N C"]:
    pixels = torch.stack(list(pictures)).contiguous(memory_format=torch.channels_last)
    return embeddings.cells(pixels.to(embeddings.stem.weight.dtype)).to(torch.bfloat16)
