"""A connector whose experts are weighted by the question, in the manner of Q-MoE (ACM MM 2024); the tower is frozen.

    g = softmax(W t + b) in R^E,    out = sum_e g_e C_e(x)

t is the question's vector, x the tower's features of a picture, and each C_e a copy of the pretrained projector. All
tokens of a picture share g. Our reading: of the paper we know that text drives the routing of a connector, and neither
how many experts it has nor how they are made; E = 4 and dense routing are CoVFT's, so that the two differ in where the
question enters (behind the tower or within it). Copies and weights that sum to one leave the model as it was at the
start. A router of zeros would keep the experts equal for ever, so it begins at random.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.tuning.strategies.registry import register
from interp.tuning.strategies.text import ReadsText
from interp.tuning.strategies.towers import projector
from interp.tuning.strategies.vision import VisionOptions, VisionStrategy
from interp.tuning.text_context import ContextSlot


@dataclass(frozen=True)
class TextConnectorOptions(VisionOptions):
    """The experts."""

    num_experts: int = 4
    """Copies E of the projector."""
    text: str = "minilm"
    """Encoder of the question: minilm, hashing, or a hub id."""

    def __post_init__(self) -> None:
        if self.num_experts < 2:
            raise CrosstaskError(f"option num_experts is at least 2, and was given as {self.num_experts}")
        if not self.projector:
            raise CrosstaskError("text_connector trains the projector's copies, so projector=false leaves it nothing")


class RoutedConnector(nn.Module):
    """In the place of the projector."""

    def __init__(self, connector: nn.Module, slot: ContextSlot, *, experts: int, text_width: int) -> None:
        """Copies of a projector, and a router."""
        super().__init__()
        self._slot = slot
        self.experts = nn.ModuleList(deepcopy(connector).requires_grad_(True) for _ in range(experts))
        self.router = nn.Linear(text_width, experts).to(next(connector.parameters()))

    def forward(self, features: Float[Tensor, "I N D"], *args: Any, **kwargs: Any) -> Float[Tensor, "I M D_out"]:
        texts = self._slot.current(len(features)).of_images
        scores = self.router(texts.to(self.router.weight.dtype))
        weights = torch.softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)), -1)  # [I, E]
        total: Any = 0
        for index, expert in enumerate(self.experts):
            made = expert(features, *args, **kwargs)
            share = weights[:, index].to(made.dtype).reshape(-1, *[1] * (made.ndim - 1))
            total = total + share * made
        return total


@register
class TextConnector(ReadsText, VisionStrategy):
    """Several projectors, mixed by what is asked."""

    name = "text_connector"
    summary = "language model and several copies of the projector, mixed by the question; the vision tower is frozen"
    Options = TextConnectorOptions

    def attach_tower(self) -> None:
        """The tower stays as it is."""

    def attach_projector(self) -> None:
        """Experts in place of the projector."""
        name, connector = projector(self.model)
        routed = RoutedConnector(connector, self.slot, experts=self.options.num_experts, text_width=self.encoder.width)
        parent, _, child = name.rpartition(".")
        self.graft.put(self.model.module.get_submodule(parent), child, routed)
