"""Low-rank updates of the tower's attention (Hu et al. 2022): query, key, value and output projections of all blocks.

    W -> W + (alpha / r) B A,    r (d_in + d_out) numbers a layer

CoVFT's baselines are r = 8 and, with about as many parameters as its own, r = 512; the release takes alpha = 2 r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from interp.errors import CrosstaskError
from interp.tuning.strategies.registry import register
from interp.tuning.strategies.towers import tower_blocks
from interp.tuning.strategies.vision import VisionOptions, VisionStrategy

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj", "o_proj", "projection_layer", "qkv", "proj")
"""What towers call the linear layers of their attention: CLIP and SigLIP, InternVL, Qwen-VL."""


@dataclass(frozen=True)
class VisionLoraOptions(VisionOptions):
    """The tower's update."""

    r: int = 8
    """Rank of the tower's updates; `rank` of the run is the language model's."""
    alpha: float | None = None
    """The tower's update is scaled by alpha / r; 2 r if none is given."""

    def __post_init__(self) -> None:
        if self.r < 1:
            raise CrosstaskError(f"option r of vision_lora is at least 1, and was given as {self.r}")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise CrosstaskError(f"option alpha of vision_lora is a number above 0, and was given as {self.alpha}")


@register
class VisionLora(VisionStrategy):
    """Through peft's own layers."""

    name = "vision_lora"
    summary = "language model, projector and low-rank updates of the vision tower's attention"
    Options = VisionLoraOptions

    def attach_tower(self) -> None:
        r, alpha = self.options.r, self.options.alpha
        own = {id(part) for part in tower_blocks(self.model).modules() if isinstance(part, nn.Linear)}
        found = {name: p for name, p in self.model.module.named_modules() if id(p) in own and _attends(name)}
        if not found:
            raise CrosstaskError(f"found no attention projections in the vision tower of {self.model.name!r}")
        self.train_lora(found, rank=r, alpha=2 * r if alpha is None else alpha)


def _attends(name: str) -> bool:
    part, _, layer = name.rpartition(".")
    return layer in PROJECTIONS and part.endswith(("attn", "attention"))
