"""How well the bundled VLM sees: the numbers of its model card.

Recognition is the greedy answer to ``<image>\\nName:``, normalised and compared with the name and its aliases. Beside
it stands what raw pixels do (the nearest neighbour, by centred 16 x 16 RGB, among the drawings that training saw), and
what a blank picture does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from interp.models.bundled.pictures import Drawing, Entity
from interp.models.smollm2 import BOS_TEXT
from interp.scoring import normalise

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

FAMILIES = ("country", "animal", "food")


def on_white(drawing: Drawing) -> Image.Image:
    """A drawing as an RGB picture on a white ground."""
    ground = Image.new("RGBA", drawing.pixels.shape[1::-1], "white")
    ground.alpha_composite(Image.fromarray(drawing.pixels))
    return ground.convert("RGB")


def is_named(text: str, entity: Entity) -> bool:
    """Does the text give the entity's name or an alias, exactly once normalised?"""
    return normalise(text) in {normalise(n) for n in (entity.name, *entity.aliases)}


@torch.no_grad()
def answers(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    prompts: Sequence[str],
    pictures: Sequence[Sequence[Image.Image]],
    *,
    batch: int = 24,
) -> list[str]:
    """Greedy answers up to the end of the line; prompts of one call may differ in length (left padding)."""
    tokenizer, out = processor.tokenizer, []
    tokenizer.padding_side = "left"
    for start in range(0, len(prompts), batch):
        shown = [p for row in pictures[start : start + batch] for p in row]
        texts = [BOS_TEXT + p for p in prompts[start : start + batch]]
        inputs = processor(images=shown or None, text=texts, padding=True, return_tensors="pt")
        new = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=10,
            pad_token_id=tokenizer.pad_token_id or 0,
            stop_strings=["\n"],
            tokenizer=tokenizer,
        )
        out += [
            tokenizer.decode(r, skip_special_tokens=True).split("\n")[0] for r in new[:, inputs["input_ids"].shape[1] :]
        ]
    return out


def recognition(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, drawings: Sequence[Drawing]
) -> dict[str, float]:
    """Share of drawings that the model names, per style and family ("circle-flags country": 0.8)."""
    said = answers(model, processor, ["<image>\nName:"] * len(drawings), [[on_white(d)] for d in drawings])
    return _shares(drawings, [is_named(text, d.entity) for text, d in zip(said, drawings, strict=True)])


def pixel_baseline(drawings: Sequence[Drawing], known: Sequence[Drawing]) -> dict[str, float]:
    """Share of drawings whose nearest training drawing, by centred 16 x 16 RGB, shows the same entity."""

    def pixels(some: Sequence[Drawing]) -> np.ndarray:
        small = [np.asarray(on_white(d).resize((16, 16), Image.Resampling.BOX), dtype=np.float32).ravel() for d in some]
        return np.stack(small)

    gallery, queries = pixels(known), pixels(drawings)
    mean = gallery.mean(0)
    unit = [(x - mean) / (np.linalg.norm(x - mean, axis=1, keepdims=True) + 1e-6) for x in (gallery, queries)]
    nearest = (unit[1] @ unit[0].T).argmax(1).tolist()
    right = [known[n].entity.name == d.entity.name for n, d in zip(nearest, drawings, strict=True)]
    return _shares(drawings, right)


def blank_recognition(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, drawings: Sequence[Drawing]
) -> dict[str, float]:
    """What recognition would be if the model saw a white picture each time."""
    blank = Image.new("RGB", (160, 160), "white")
    said = answers(model, processor, ["<image>\nName:"], [[blank]])[0]
    return _shares(drawings, [is_named(said, d.entity) for d in drawings])


def kth_of_five(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    drawings: Sequence[Drawing],
    *,
    prompts: int,
    seed: int,
) -> dict[str, float]:
    """Naming the k-th of five pictures: the share right, and the share that names another of the five instead."""
    rng = np.random.default_rng(seed)
    texts, pictures, rows = [], [], []
    for number in range(prompts):
        chosen = [drawings[i] for i in rng.choice(len(drawings), 5, replace=False)]
        k = number % 5
        texts.append("".join(f"Image {i}: <image>\n" for i in range(1, 6)) + f"Image {k + 1} shows:")
        pictures.append([on_white(d) for d in chosen])
        rows.append((k, chosen))
    said = answers(model, processor, texts, pictures, batch=10)
    right = [is_named(t, chosen[k].entity) for t, (k, chosen) in zip(said, rows, strict=True)]
    others = [
        any(is_named(t, d.entity) for i, d in enumerate(chosen) if i != k)
        for t, (k, chosen) in zip(said, rows, strict=True)
    ]
    return {"right": sum(right) / prompts, "another of the five": sum(others) / prompts}


def quick(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, drawings: Sequence[Drawing]
) -> Callable[[], dict]:
    """An evaluation for the training log: recognition on every fourth drawing."""
    return lambda: {"recognition": {k: round(v, 3) for k, v in recognition(model, processor, drawings[::4]).items()}}


def _shares(drawings: Sequence[Drawing], right: Sequence[bool]) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for drawing, ok in zip(drawings, right, strict=True):
        found.setdefault(f"{drawing.style} {drawing.entity.family}", []).append(ok)
    return {key: sum(values) / len(values) for key, values in sorted(found.items())}
