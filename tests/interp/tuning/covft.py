"""What the tests of CoVFT share: towers, batches of conversations about pictures, and a strategy on a tiny model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.images import Image
from interp.models.base import Model
from interp.tuning.config import TuneConfig
from interp.tuning.encoding import encode
from interp.tuning.strategies import strategy
from interp.tuning.strategies.covft import CoVFT
from interp.tuning.trainer import Collator
from tests.tiny import picture

Asked = tuple[str, Sequence[Image]]
ASKED: tuple[Asked, ...] = (
    ("How many dots are there?", (picture(1), picture(2))),
    ("Is the moon left of the tree?", (picture(3),)),
)


def config(**options: Any) -> TuneConfig:
    return TuneConfig("RD", strategy="covft", options={"text": "hashing", "layers": "all"} | options)


@contextlib.contextmanager
def covft(model: Model, **options: Any) -> Iterator[CoVFT]:
    """The strategy at work on a model, which is as before afterwards."""
    found = strategy("covft")(model, config(**options))
    assert isinstance(found, CoVFT)
    try:
        yield found
    finally:
        found.detach()


def batch(model: Model, asked: Sequence[Asked], *, reads: CoVFT | None = None) -> dict[str, Tensor]:
    """Conversations as the trainer gets them, answered with "(A)"."""
    rows = [encode(model, images, [(question, "(A)")]) for question, images in asked]
    return Collator(model, None, reads)(rows)


def logits(model: Model, inputs: dict[str, Tensor], reads: CoVFT | None = None) -> Tensor:
    """Of the columns of the answers."""
    bare = {name: t for name, t in inputs.items() if name != "labels" and not name.startswith("context_")}
    with contextlib.nullcontext() if reads is None else reads.context(inputs):
        return model.module(**bare).logits


def loss(model: Model, inputs: dict[str, Tensor], reads: CoVFT) -> Tensor:
    """Any function of the logits whose gradient is not zero."""
    found = logits(model, inputs, reads)
    target = torch.randn(found.shape, generator=torch.Generator().manual_seed(7), dtype=found.dtype)
    return (found * target).sum()


def part_experts(found: CoVFT, *, scale: float = 0.1, seed: int = 3) -> None:
    """Make the experts unlike each other, as training does."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for mixture in found.mixtures.values():
            for parameter in mixture.experts.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=drawn, dtype=parameter.dtype))


def tower_output(model: Model, inputs: dict[str, Tensor], found: CoVFT) -> list[Tensor]:
    """What the language model reads of each image."""
    vision = {
        name: t for name, t in inputs.items() if name in ("pixel_values", "image_grid_thw", "pixel_attention_mask")
    }
    with found.context(inputs), torch.no_grad():
        made: Any = model.module.get_image_features(**vision, return_dict=True)
    return list(getattr(made, "pooler_output", made))
