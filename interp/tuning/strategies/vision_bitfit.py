"""Every bias term of the tower is trained, of linear layers and norms alike (Ben Zaken, Ravfogel and Goldberg 2022).

For CLIP ViT-L/14 these are 272,384 numbers. A convolutional stem has none here: its biases are folded batch norms.
"""

from __future__ import annotations

from interp.errors import CrosstaskError
from interp.tuning.strategies.registry import register
from interp.tuning.strategies.towers import tower_parameters
from interp.tuning.strategies.vision import VisionStrategy


@register
class VisionBitFit(VisionStrategy):
    """Every parameter of the tower that is called a bias."""

    name = "vision_bitfit"
    summary = "language model, projector and the bias terms of the vision tower"

    def attach_tower(self) -> None:
        found = {name: p for name, p in tower_parameters(self.model).items() if name.endswith("bias")}
        if not found:
            raise CrosstaskError(
                f"the vision tower of {self.model.name!r} has no bias terms, so strategy 'vision_bitfit' has nothing "
                "to train; use vision_lora"
            )
        self.train_whole(found)
