"""Teach the tower and the projector what pictures show: marks, parts, distances, styles, borders, counts.

    loss = sum over lessons of a picture, read from its projected tokens

The decoder is left out: before a mark can be seen there is nothing to be read.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from interp.models.perception.heads import Heads, Words, summary, total
from interp.models.perception.optimise import Course, Log, averages, optimise
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
        batch: items of a step, of all tasks and forms.
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
    items = [(shard, row) for shard in shards for row, found in enumerate(shard.lessons) if found]

    def losses(chosen: Sequence[tuple[Shard, int]]) -> tuple[torch.Tensor, dict[str, float]]:
        cells = torch.cat([shard.pictures(row) for shard, row in chosen])
        firsts = [0, *itertools.accumulate(shard.n_images for shard, _ in chosen)]
        lessons = [shard.lessons[row] for shard, row in chosen]
        compared = heads(projected(model, cells), list(zip(firsts, lessons, strict=False)))
        return total(compared), summary(compared)

    def of_step(step: int) -> list[functools.partial]:
        rng = np.random.default_rng([course.seed, step])
        chosen = [items[i] for i in rng.choice(len(items), size=min(batch, len(items)), replace=False)]
        return [functools.partial(losses, chosen)]

    def watch() -> dict[str, float]:
        return averages(
            losses([(shard, row) for row in range(len(shard))])[1] for shard in watched if any(shard.lessons)
        )

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
