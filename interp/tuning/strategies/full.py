"""All weights of the language model are trained; on request the projector's and the tower's as well."""

from __future__ import annotations

from torch import nn

from interp.tuning.strategies.base import DeltaStrategy, language_parameters
from interp.tuning.strategies.registry import register

PROJECTOR = ("projector", "connector", "merger", "modality_projection", "perceiver")
"""What architectures call the part between tower and language model."""


@register
class Full(DeltaStrategy):
    """Embeddings, blocks, final norm and head; `train_projector` and `train_tower` add to them."""

    name = "full"
    summary = "all weights of the language model"

    @property
    def touches_vision(self) -> bool:
        return self.config.train_tower or self.config.train_projector

    def choose(self) -> dict[str, nn.Parameter]:
        chosen = language_parameters(self.model)
        for name, parameter in self.model.module.named_parameters():
            if name in chosen:
                continue
            between = any(part in name for part in PROJECTOR)
            if self.config.train_projector if between else self.config.train_tower:
                chosen[name] = parameter
        return chosen
