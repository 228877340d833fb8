"""Nothing is trained: the baseline that every other strategy is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from interp.tuning.strategies.base import Strategy
from interp.tuning.strategies.registry import register


@register
class Freeze(Strategy):
    """Writes a card and no weights."""

    name = "freeze"
    trains = False
    summary = "nothing: the frozen model is the baseline"

    def attach(self) -> nn.Module:
        return self.model.module

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """There is nothing to write."""

    def update_norm(self, state: Mapping[str, Tensor]) -> float:
        return 0.0

    def detach(self) -> None:
        """Nothing was attached."""
