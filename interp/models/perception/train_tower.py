"""Teach the tower and the projector what pictures show: marks, parts, distances, styles, borders, counts.

    loss = sum over lessons of a picture, read from its projected tokens

The decoder is left out: before a mark can be seen there is nothing to be read.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from interp.models.perception.heads import Heads, Words, summary
from interp.models.perception.optimise import Course, Log, optimise
from interp.models.perception.shards import Shard

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

CHECKPOINT = "tower.pt"


def train_tower(
    model: LlavaForConditionalGeneration,
    shards: Sequence[Shard],
    course: Course,
    *,
    words: Words,
    batch: int,
    parts: int,
    folder: Path,
    log: Log,
    watched: Sequence[Shard] = (),
) -> None:
    """Train in place; resumes from `folder` when a checkpoint lies there.

    Args:
        model: float32, freshly assembled, its stem with ImageNet weights.
        shards: what to learn from.
        course: how long and how fast.
        words: embeddings of names.
        batch: items of a step.
        parts: in how many parts, each from one shard.
        folder: where the checkpoint lies.
        log: called with one dict a logged step.
        watched: shards that are measured on from time to time.
    """
    torch.manual_seed(course.seed)
    taught = [lesson for shard in (*shards, *watched) for rows in shard.lessons for lesson in rows]
    heads = Heads(taught, model.config.text_config.hidden_size, words)
    tower = model.model.vision_tower
    trained = [tower.encoder, tower.pre_layrnorm, model.model.multi_modal_projector]
    trained += [tower.embeddings.patch_embedding, tower.embeddings.position_embedding]
    with_lessons = [shard for shard in shards if any(shard.lessons)]

    def losses(shard: Shard, rows: Sequence[int]) -> tuple[torch.Tensor, dict[str, float]]:
        tokens = projected(model, shard.cells[_pictures(shard, rows)]).unflatten(0, (len(rows), shard.n_images))
        compared = heads(tokens, [shard.lessons[row] for row in rows])
        return sum((loss for loss, _ in compared.values()), torch.zeros(())), summary(compared)

    def of_step(step: int) -> list[functools.partial]:
        rng = np.random.default_rng([course.seed, step])
        chosen = [with_lessons[i] for i in rng.integers(len(with_lessons), size=parts)]
        return [
            functools.partial(
                losses, shard, rng.choice(len(shard), size=min(batch // parts, len(shard)), replace=False).tolist()
            )
            for shard in chosen
        ]

    def watch() -> dict[str, float]:
        seen: dict[str, list[float]] = defaultdict(list)
        for shard in watched:
            if any(shard.lessons):
                for head, value in losses(shard, range(len(shard)))[1].items():
                    seen[head].append(value)
        return {head: round(math.fsum(values) / len(values), 3) for head, values in sorted(seen.items())}

    optimise(
        model,
        trained,
        heads,
        of_step,
        course,
        checkpoint=folder / CHECKPOINT,
        stage="tower",
        log=log,
        watch=watch if watched else None,
    )


def projected(model: LlavaForConditionalGeneration, cells: Float[torch.Tensor, "I N C"]) -> torch.Tensor:
    """Cells of the stem to tokens as the decoder reads them, [I, N, D]."""
    tower = model.model.vision_tower
    tokens = tower.encoder(inputs_embeds=tower.pre_layrnorm(tower.embeddings.tokens(cells))).last_hidden_state
    return model.model.multi_modal_projector(tokens)


def _pictures(shard: Shard, rows: Sequence[int]) -> list[int]:
    return [row * shard.n_images + image for row in rows for image in range(shard.n_images)]
