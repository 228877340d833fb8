"""Visual prompt tuning, deep (Jia et al. 2022, section 3.2): P learned tokens a block, the tower itself frozen.

    block l reads [x_CLS, P_l, x_1 .. x_N] and what it makes of P_l is dropped before anything else reads it

Prompts stand after the class token, or first where a tower has none; they are drawn from N(0, 1), as in the baseline of
CoVFT's release (50 a block: 1,228,800 numbers for CLIP ViT-L/14). So the model is not as before at the start.

A hook before each block puts its prompts in and one after it takes them out, before those of transformers that record
hidden states: features have the base model's shape. Towers whose tokens stand in one row for all images (Qwen-VL), or
whose blocks are told positions or masks of fixed width, have no room for more tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.tuning.strategies.registry import register
from interp.tuning.strategies.towers import leading_tokens, no_more_tokens, tower_blocks, tower_width
from interp.tuning.strategies.vision import VisionOptions, VisionStrategy


@dataclass(frozen=True)
class VptOptions(VisionOptions):
    """The prompts."""

    prompts: int = 50
    """Prompts P of each block."""

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise CrosstaskError(f"option prompts of vpt is at least 1, and was given as {self.prompts}")


class Prompts(nn.Module):
    """The prompts of one block."""

    def __init__(self, count: int, width: int, *, first: int, like: Tensor) -> None:
        """Draw them.

        Args:
            count: P.
            width: D.
            first: how many tokens stand before them.
            like: gives dtype and device.
        """
        super().__init__()
        self.first = first
        self.weight = nn.Parameter(torch.randn(count, width).to(like))

    def into(self, x: Float[Tensor, "I N D"]) -> Float[Tensor, "I N+P D"]:
        """Tokens with the prompts among them."""
        prompts = self.weight.to(x.dtype).expand(len(x), -1, -1)
        return torch.cat([x[:, : self.first], prompts, x[:, self.first :]], 1)

    def out_of(self, x: Float[Tensor, "I N+P D"]) -> Float[Tensor, "I N D"]:
        """Tokens without them."""
        return torch.cat([x[:, : self.first], x[:, self.first + len(self.weight) :]], 1)


@register
class Vpt(VisionStrategy):
    """Prompts in every block of the tower."""

    name = "vpt"
    summary = "language model, projector and learned prompts in every block of the vision tower"
    Options = VptOptions

    def attach_tower(self) -> None:
        if reason := no_more_tokens(self.model):
            raise CrosstaskError(f"the vision tower of {self.model.name!r} has no room for prompts: {reason}")
        first, width = leading_tokens(self.model), tower_width(self.model)
        for block in tower_blocks(self.model):
            prompts = Prompts(self.options.prompts, width, first=first, like=next(block.parameters()))
            self.graft.put(block, "prompts", prompts)
            self.graft.hook(partial(block.register_forward_pre_hook, partial(_put_in, prompts), with_kwargs=True))
            self.graft.hook(partial(block.register_forward_hook, partial(_take_out, prompts), prepend=True))


def _put_in(
    prompts: Prompts, block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not given or any(isinstance(value, Tensor) for value in (*given[1:], *named.values())):
        raise CrosstaskError("the vision tower masks its tokens for this picture, which leaves no room for prompts")
    return (prompts.into(given[0]), *given[1:]), named


def _take_out(prompts: Prompts, block: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, tuple):
        return (prompts.out_of(output[0]), *output[1:])
    return prompts.out_of(output)
