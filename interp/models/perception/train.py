"""Train tower, projector and decoder together on drawn items, from truths and from answers.

    loss = next-token loss on the replies + weight * sum over lessons of a picture

Lessons are read from the tower's tokens by one linear head each (cross entropy for classes, smooth L1 for values, a
softmax over cosines for matches); the heads are thrown away afterwards. For the first part of training the decoder is
left out, since before a mark can be seen there is nothing to be read.

Weights are held in float32 and used in bfloat16, whose products are about twice as fast on a CPU with AVX-512 BF16. A
step's data depends on the seed and the step's number alone, so that a resumed run sees what an unbroken one would have.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from interp.models.perception.lessons import Lesson
from interp.models.perception.shards import Shard

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

IGNORED = -100
MATCH_WIDTH, MATCH_SHARPNESS = 64, 8.0
LOG_EVERY, CHECKPOINT_EVERY = 50, 250  # steps
WARM_UP = 100  # steps


class Heads(nn.Module):
    """One linear read-out for each thing that lessons teach."""

    def __init__(self, taught: Sequence[Lesson], width: int) -> None:
        super().__init__()
        kinds = {lesson.head: lesson.kind for lesson in taught}
        names = defaultdict(set)
        for lesson in taught:
            if lesson.kind == "class":
                names[lesson.head].add(lesson.value)
        self.classes = {
            head: {name: i for i, name in enumerate(sorted(found, key=str))} for head, found in names.items()
        }
        wide = {
            "class": lambda head: len(self.classes[head]),
            "value": lambda head: 1,
            "match": lambda head: MATCH_WIDTH,
        }
        self.norm = nn.LayerNorm(width)
        self.maps = nn.ModuleDict({head: nn.Linear(width, wide[kind](head)) for head, kind in sorted(kinds.items())})

    def forward(self, tokens: Float[torch.Tensor, "B I N D"], rows: Sequence[Sequence[Lesson]]) -> dict[str, Any]:
        """Head -> (loss, share right or correlation) over a batch's lessons."""
        tokens = self.norm(tokens)
        tokens = torch.cat([tokens, tokens.mean(2, keepdim=True)], 2)  # index -1 is WHOLE
        groups: dict[tuple[str, int], list[tuple[int, Lesson]]] = defaultdict(list)
        for row, taught in enumerate(rows):
            for lesson in taught:
                groups[lesson.head, len(lesson.places)].append((row, lesson))
        return {head: self._compare(head, tokens, found) for (head, _), found in groups.items()}

    def _compare(
        self, head: str, tokens: Float[torch.Tensor, "B I N D"], found: Sequence[tuple[int, Lesson]]
    ) -> tuple[torch.Tensor, float]:
        kind = found[0][1].kind
        rows = torch.tensor([row for row, _ in found])
        at = tokens[rows, [lesson.image for _, lesson in found], [lesson.cell for _, lesson in found]]
        read = self.maps[head](at).float()
        if kind == "class":
            wanted = torch.tensor([self.classes[head][lesson.value] for _, lesson in found])
            return functional.cross_entropy(read, wanted), float((read.argmax(-1) == wanted).float().mean())
        if kind == "value":
            values = torch.tensor([float(lesson.value) for _, lesson in found])
            return functional.smooth_l1_loss(read[:, 0], values), float(
                np.corrcoef(read[:, 0].detach().numpy(), values.numpy())[0, 1]
            )
        places = torch.tensor([lesson.places for _, lesson in found])  # [n, candidates, 2]
        others = self.maps[head](tokens[rows[:, None], places[..., 0], places[..., 1]]).float()
        cosines = functional.cosine_similarity(read[:, None], others, dim=-1) * MATCH_SHARPNESS
        wanted = torch.tensor([int(lesson.value) for _, lesson in found])
        return functional.cross_entropy(cosines, wanted), float((cosines.argmax(-1) == wanted).float().mean())


def train(
    model: LlavaForConditionalGeneration,
    shards: Sequence[Shard],
    *,
    steps: int,
    lessons_only: int,
    batch: int,
    groups: int,
    peak: float,
    lesson_weight: float,
    seed: int,
    folder: Path,
    log: Callable[[dict[str, Any]], None],
) -> None:
    """Train in place; resumes from `folder` when a checkpoint lies there.

    Args:
        model: float32, freshly assembled, its stem with ImageNet weights; left in float32 with the trained weights.
        shards: what to train on.
        steps: optimiser steps.
        lessons_only: how many of them, the first, leave the decoder out.
        batch: items of one shard that run together.
        groups: such batches a step.
        peak: peak learning rate.
        lesson_weight: weight of the lessons once the decoder learns.
        seed: fixes heads and order.
        folder: where the checkpoint lies.
        log: called with one dict a logged step.
    """
    torch.manual_seed(seed)
    llava = model.model
    heads = Heads(
        [le for shard in shards for rows in shard.lessons for le in rows], llava.vision_tower.config.hidden_size
    )
    model.requires_grad_(False)
    trained = [llava.vision_tower.encoder, llava.vision_tower.pre_layrnorm, llava.multi_modal_projector]
    trained += [llava.vision_tower.embeddings.patch_embedding, llava.vision_tower.embeddings.position_embedding]
    trained += [llava.language_model.layers, llava.language_model.norm, heads]
    used = [parameter.requires_grad_(True) for part in trained for parameter in part.parameters()]
    held = [parameter.detach().clone().requires_grad_(True) for parameter in used]
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    model.bfloat16(), heads.bfloat16()
    decay = [
        {"params": [h for h in held if (h.ndim > 1) == wide], "weight_decay": 0.05 * wide} for wide in (True, False)
    ]
    optimiser = torch.optim.AdamW(decay, lr=peak, betas=(0.9, 0.98))
    first = _resume(folder / "checkpoint.pt", held, optimiser)
    began = time.monotonic()
    recent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for step in range(first, steps):
        _copy(held, used)
        for group in optimiser.param_groups:
            group["lr"] = peak * learning_rate(step, lessons_only, steps)
        rng = np.random.default_rng([seed, step])
        for shard in (shards[i] for i in rng.integers(len(shards), size=groups)):
            rows = rng.choice(len(shard), size=min(batch, len(shard)), replace=False).tolist()
            loss, said = _loss(model, heads, shard, rows, speaks=step >= lessons_only, weight=lesson_weight)
            (loss / groups).backward()
            for name, value in said.items():
                total = recent[name]
                total[0], total[1] = 0.98 * total[0] + value, 0.98 * total[1] + 1
        for held_one, used_one in zip(held, used, strict=True):
            held_one.grad = None if used_one.grad is None else used_one.grad.float()
            used_one.grad = None
        nn.utils.clip_grad_norm_([h for h in held if h.grad is not None], 1.0)
        optimiser.step()
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            _save(folder / "checkpoint.pt", held, optimiser, step + 1)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            shown = {name: round(total / count, 3) for name, (total, count) in sorted(recent.items())}
            log({"stage": "train", "step": step + 1, "seconds": round(time.monotonic() - began, 1), **shown})
    model.float()
    _copy(held, used)
    _copy(list(frozen.values()), [model.get_parameter(name) for name in frozen])  # as they were before bfloat16
    model.requires_grad_(False).eval()


def learning_rate(step: int, lessons_only: int, steps: int) -> float:
    """Share of the peak: a linear warm-up, then half a cosine down to a fiftieth, in each of the two parts anew."""
    begin, end = (0, lessons_only) if step < lessons_only else (lessons_only, steps)
    done = step - begin
    return min(1.0, (done + 1) / WARM_UP) * max(0.02, 0.5 * (1 + math.cos(math.pi * done / (end - begin))))


def _loss(
    model: LlavaForConditionalGeneration,
    heads: Heads,
    shard: Shard,
    rows: Sequence[int],
    *,
    speaks: bool,
    weight: float,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of some items of a shard, and what is logged of it."""
    llava, tower = model.model, model.model.vision_tower
    pictures = [row * shard.n_images + image for row in rows for image in range(shard.n_images)]
    tokens = tower.embeddings.tokens(shard.cells[pictures])
    tokens = tower.encoder(inputs_embeds=tower.pre_layrnorm(tokens)).last_hidden_state
    compared = heads(tokens.unflatten(0, (len(rows), shard.n_images)), [shard.lessons[row] for row in rows])
    said = {head: value for head, (_, value) in compared.items() if not math.isnan(value)}
    loss = sum((part for part, _ in compared.values()), torch.zeros(()))
    if not speaks:
        return loss + 0 * tokens.sum(), said
    ids, labels = _padded([shard.ids[row] for row in rows], 0), _padded([shard.labels[row] for row in rows], IGNORED)
    embedded = llava.get_input_embeddings()(ids)
    projected = llava.multi_modal_projector(tokens).flatten(0, 1).to(embedded.dtype)
    embedded = embedded.masked_scatter((ids == model.config.image_token_id)[..., None], projected)
    states = llava.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != IGNORED
    logits, answers = model.lm_head(states[:, :-1][wanted]).float(), labels[:, 1:][wanted]
    letters = torch.zeros_like(wanted)
    letters[torch.arange(len(rows)), wanted.int().argmax(1) + 1] = True  # "(" comes first, then the letter
    right = (logits.argmax(-1) == answers)[letters[wanted]]
    said[f"{shard.plan.task}/{shard.plan.form}"] = float(right.float().mean())
    return functional.cross_entropy(logits, answers) + weight * loss, said


def _padded(rows: Sequence[torch.Tensor], fill: int) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)


@torch.no_grad()
def _copy(source: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> None:
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
