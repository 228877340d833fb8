"""The tower stays frozen: language model and projector alone are trained, LLaVA-1.5's own recipe."""

from __future__ import annotations

from interp.tuning.strategies.registry import register
from interp.tuning.strategies.vision import VisionStrategy


@register
class VisionFreeze(VisionStrategy):
    """The row that every other strategy of the tower is compared with."""

    name = "vision_freeze"
    summary = "language model and projector; the vision tower is frozen"

    @property
    def touches_vision(self) -> bool:
        return bool(self.options.projector)

    def attach_tower(self) -> None:
        """Nothing of the tower is trained."""
