"""First stage: the tower as a classifier, a hundred times cheaper a step than through the language model.

Loss = cross-entropy of the entity's name from the mean over tokens
     + per-token cross-entropies on procedural scenes: the kind and the colour of the shape whose centre lies in the
       token's cell (or none), and the letter that marks a point there (or none).

The heads are thrown away; what stays is a tower whose tokens say what is where.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from interp.models.bundled.augment import augmented, normalise, plain
from interp.models.bundled.pictures import Drawing, entities
from interp.models.bundled.scenes import COLOURS, MARKS, SHAPES, Scene, cell, draw_scene
from interp.models.bundled.tower import ConvStemVisionModel

FROZEN_BLOCKS = (
    5  # the stem and the first blocks keep their ImageNet weights: half the cost, a twentieth of the weights
)


class Heads(nn.Module):
    """Linear readouts that exist only during this stage."""

    def __init__(self, width: int, names: int):
        super().__init__()
        self.name = nn.Linear(width, names)
        self.kind = nn.Linear(width, len(SHAPES) + 1)
        self.colour = nn.Linear(width, len(COLOURS) + 1)
        self.mark = nn.Linear(width, len(MARKS) + 1)


def scene_targets(scenes: list[Scene], cells: int) -> dict[str, torch.Tensor]:
    """What each cell of each scene holds, 0 for nothing: tensors [I, cells * cells] for kind, colour and mark."""
    targets = {name: torch.zeros(len(scenes), cells * cells, dtype=torch.long) for name in ("kind", "colour", "mark")}
    colours = list(COLOURS)
    for row, scene in enumerate(scenes):
        for shape in scene.shapes:
            at = cell(shape.x, shape.y, cells)
            targets["kind"][row, at] = 1 + SHAPES.index(shape.kind)
            targets["colour"][row, at] = 1 + colours.index(shape.colour)
        for mark in scene.marks:
            targets["mark"][row, cell(mark.x, mark.y, cells)] = 1 + MARKS.index(mark.letter)
    return targets


def name_index() -> dict[tuple[str, str], int]:
    """The class of each entity, by family and name."""
    return {(e.family, e.name): i for i, e in enumerate(entities())}


def _batches(drawings: list[Drawing], size: int, generator: torch.Generator) -> Iterator[list[Drawing]]:
    """Endless batches in which every entity is equally frequent, whatever the number of its drawings."""
    by_entity: dict[tuple[str, str], list[Drawing]] = {}
    for drawing in drawings:
        by_entity.setdefault((drawing.entity.family, drawing.entity.name), []).append(drawing)
    groups = list(by_entity.values())
    queue: list[Drawing] = []
    while True:
        while len(queue) < size:
            order = torch.randperm(len(groups), generator=generator).tolist()
            pick = torch.rand(len(groups), generator=generator).tolist()
            queue += [groups[k][int(pick[k] * len(groups[k]))] for k in order]
        yield queue[:size]
        queue = queue[size:]


def learning_rate(step: int, steps: int, *, warm: float = 0.05) -> float:
    """Warm-up, then a half cosine to 2 percent of the peak."""
    progress = step / steps
    return (
        progress / warm if progress < warm else 0.02 + 0.49 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))
    )


@torch.no_grad()
def classify(tower: ConvStemVisionModel, heads: Heads, drawings: list[Drawing], side: int) -> list[bool]:
    """Is each drawing, plainly shown, given its own name?"""
    classes, right = name_index(), []
    for start in range(0, len(drawings), 64):
        chunk = drawings[start : start + 64]
        guess = heads.name(tower(plain(chunk, side)).pooler_output).argmax(-1).tolist()
        right += [g == classes[d.entity.family, d.entity.name] for g, d in zip(guess, chunk, strict=True)]
    return right


def by_family(drawings: list[Drawing], right: list[bool]) -> dict[str, float]:
    """The share of right answers per family of entities."""
    out = {}
    for family in ("country", "animal", "food"):
        chosen = [r for d, r in zip(drawings, right, strict=True) if d.entity.family == family]
        if chosen:
            out[family] = sum(chosen) / len(chosen)
    return out


def train_tower(
    tower: ConvStemVisionModel,
    train: list[Drawing],
    watch: list[Drawing],
    *,
    steps: int,
    batch: int,
    scenes: int,
    peak: float,
    seed: int,
    folder: Path,
    log: Callable[[dict[str, Any]], None],
) -> None:
    """Train in place; resumes from `folder` when a checkpoint lies there, and leaves `tower.safetensors` in it.

    Args:
        tower: A tower whose stem holds the ImageNet weights.
        train: Drawings of the training styles.
        watch: Drawings of the held-out styles: looked at for the log only, never used for a choice.
        steps: Optimiser steps.
        batch: Drawings a step.
        scenes: Procedural scenes a step.
        peak: Peak learning rate of the transformer and the heads; the stem gets a third of it.
        seed: Fixes initial heads, order, augmentation and scenes.
        folder: Checkpoints.
        log: Called with one dict a logged step.
    """
    side = tower.config.image_size
    cells = side // tower.config.patch_size
    classes = name_index()
    torch.manual_seed(seed)
    heads = Heads(tower.config.hidden_size, len(classes))
    tower.train()
    embeddings = tower.embeddings
    for module in (embeddings.stem, *embeddings.blocks[:FROZEN_BLOCKS]):
        module.requires_grad_(False)
    stem = [
        p
        for n, p in tower.named_parameters()
        if p.requires_grad and n.startswith(("embeddings.blocks", "embeddings.head"))
    ]
    rest = [
        p
        for n, p in tower.named_parameters()
        if p.requires_grad and not n.startswith(("embeddings.blocks", "embeddings.head"))
    ]
    groups: list[dict[str, Any]] = [
        {"params": stem, "scale": 1 / 3},
        {"params": [*rest, *heads.parameters()], "scale": 1.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=peak, weight_decay=0.05)
    first, checkpoint = 0, folder / "tower-checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        tower.load_state_dict(state["tower"]), heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    began = time.monotonic()
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)  # a step's data depends on its number alone
        rng = np.random.default_rng([seed, step])
        shown = next(_batches(train, batch, generator))
        drawn = [draw_scene(rng, side=side) for _ in range(scenes)]
        pixels = torch.cat(
            [
                augmented(shown, side, generator),
                normalise(torch.from_numpy(np.stack([s.pixels for s in drawn])).permute(0, 3, 1, 2).float() / 255),
            ]
        ).contiguous(memory_format=torch.channels_last)
        output = tower(pixels)
        target = torch.tensor([classes[d.entity.family, d.entity.name] for d in shown])
        logits = heads.name(output.pooler_output[:batch])
        loss = functional.cross_entropy(logits, target, label_smoothing=0.1)
        tokens = tower.post_layernorm(output.last_hidden_state[batch:])
        dense = torch.zeros(())
        for name, wanted in scene_targets(drawn, cells).items():
            head = getattr(heads, name)
            weight = torch.ones(head.out_features)
            weight[0] = 0.2  # most cells are empty
            dense = dense + functional.cross_entropy(head(tokens).flatten(0, 1), wanted.flatten(), weight)
        for group in optimiser.param_groups:
            group["lr"] = peak * group["scale"] * learning_rate(step, steps)
        optimiser.zero_grad()
        (loss + 0.3 * dense).backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimiser.step()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            record = {
                "stage": "tower",
                "step": step + 1,
                "loss": round(loss.item(), 4),
                "scene_loss": round(dense.item(), 4),
                "seconds": round(time.monotonic() - began, 1),
                "train_accuracy": round((logits.argmax(-1) == target).float().mean().item(), 3),
            }
            if (step + 1) % 200 == 0 or step + 1 == steps:
                tower.eval()
                record["held_out"] = {
                    k: round(v, 3) for k, v in by_family(watch, classify(tower, heads, watch, side)).items()
                }
                tower.train()
                torch.save(
                    {
                        "tower": tower.state_dict(),
                        "heads": heads.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step + 1,
                    },
                    checkpoint.with_suffix(".tmp"),
                )
                checkpoint.with_suffix(".tmp").rename(checkpoint)
            log(record)
    tower.eval()
    save_file({k: v.contiguous() for k, v in tower.state_dict().items()}, folder / "tower.safetensors")


def load_tower(tower: ConvStemVisionModel, folder: Path) -> bool:
    """Load a finished tower from `folder`; False when there is none."""
    file = folder / "tower.safetensors"
    if not file.exists():
        return False
    tower.load_state_dict(load_file(file))
    tower.eval()
    return True
