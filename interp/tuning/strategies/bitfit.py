"""Only the bias terms of the language model are trained (Ben Zaken, Ravfogel and Goldberg 2022)."""

from __future__ import annotations

from torch import nn

from interp.errors import CrosstaskError
from interp.tuning.strategies.base import DeltaStrategy, language_parameters
from interp.tuning.strategies.registry import register


@register
class BitFit(DeltaStrategy):
    """Every parameter of the language model that is called a bias, of linear layers and norms alike."""

    name = "bitfit"
    summary = "the bias terms of the language model"

    def choose(self) -> dict[str, nn.Parameter]:
        found = {name: p for name, p in language_parameters(self.model).items() if name.endswith("bias")}
        if not found:
            raise CrosstaskError(
                f"the language model of {self.model.name!r} has no bias terms, so strategy 'bitfit' has nothing to "
                "train; use lora"
            )
        return found
