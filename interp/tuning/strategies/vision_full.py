"""The whole tower is trained, besides language model and projector.

Our own models' towers read a convolutional stem with ImageNet's weights, whose batch norms are folded. It stays frozen
unless `stem=true`, so that what is trained are the transformer, the patch embedding and the positions, as with CLIP.
"""

from __future__ import annotations

from dataclasses import dataclass

from interp.tuning.strategies.registry import register
from interp.tuning.strategies.towers import tower_parameters
from interp.tuning.strategies.vision import VisionOptions, VisionStrategy


@dataclass(frozen=True)
class VisionFullOptions(VisionOptions):
    """What is trained of the tower."""

    stem: bool = False
    """Whether a convolutional stem below the tower is trained as well."""


@register
class VisionFull(VisionStrategy):
    """All of the tower's weights: also those of blocks that nothing reads, which get no gradient."""

    name = "vision_full"
    summary = "language model, projector and all weights of the vision tower"
    Options = VisionFullOptions

    def attach_tower(self) -> None:
        self.train_whole(tower_parameters(self.model, stem=self.options.stem))
