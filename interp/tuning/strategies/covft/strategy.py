"""CoVFT as a strategy: mixtures in the tower's later half, its norms, and what every tower strategy trains besides.

Trained: experts, context and router of the chosen blocks; the two norms of every block (CLIP-L: 24 blocks, 98,304
numbers), also of blocks that nothing reads; projector and language model as the options say. Frozen: attention
everywhere, the feed-forward parts of the other blocks, embeddings, the norms before and after the blocks, and the
question's encoder, which is no part of the model.

The released code trains the whole language model (`language=full`); here LoRA is the default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.tuning.strategies.covft.mixture import Mixture
from interp.tuning.strategies.covft.options import CoVFTOptions
from interp.tuning.strategies.covft.tower import TowerPasses
from interp.tuning.strategies.graft import Graft
from interp.tuning.strategies.registry import register
from interp.tuning.strategies.text import ReadsText
from interp.tuning.strategies.towers import tower_blocks, used_blocks, vision_tower
from interp.tuning.strategies.vision import VisionStrategy
from interp.tuning.text_context import ContextSlot


@register
class CoVFT(ReadsText, VisionStrategy):
    """Context-aware visual fine-tuning.

    Attributes:
        mixtures: by the number of their block.
    """

    name = "covft"
    summary = "language model, projector, and experts of the vision tower that the question chooses among"
    Options: ClassVar[type] = CoVFTOptions
    mixtures: dict[int, Mixture]

    @property
    def reads_text(self) -> bool:
        return self.options.reads_text

    def attach_tower(self) -> None:
        _, tower = vision_tower(self.model)
        blocks = tower_blocks(self.model)
        layers = self.options.chosen(used_blocks(self.model), len(blocks))
        width = self.encoder.width if self.options.reads_text else TEXTLESS
        self.mixtures = graft_mixtures(
            self.graft, tower, blocks, layers, self.options, slot=self.slot if self.reads_text else None, text=width
        )
        if self.options.train_norms:
            self.train_whole(block_norms(blocks))

    @contextlib.contextmanager
    def context(self, inputs: Mapping[str, Tensor]) -> Iterator[None]:
        self._balances()  # of a pass whose loss nobody asked for
        with super().context(inputs):
            yield

    def penalty(self) -> Tensor | None:
        """The balancing loss of the last pass, a mean over blocks; None without one, or after a pass without images.

        Raises:
            CrosstaskError: its gradient is lost, as under reentrant checkpointing, whose first pass keeps none.
        """
        found = self._balances()
        if not found:
            return None
        if torch.is_grad_enabled() and not all(loss.requires_grad for loss in found):
            raise CrosstaskError(
                f"balance={self.options.balance} needs the gradient of the tower's first pass, which reentrant "
                "checkpointing does not keep: checkpoint with use_reentrant=False, or leave out balance"
            )
        return self.options.balance * sum(found[1:], found[0]) / len(found)

    def _balances(self) -> list[Tensor]:
        """The balancing losses of the last pass, once."""
        return [loss for mixture in self.mixtures.values() if (loss := mixture.take_balance()) is not None]

    def routing(self) -> dict[int, Tensor]:
        """Block -> weights of the experts `[I, E]` for each image of the last pass."""
        return {n: mixture.weights for n, mixture in self.mixtures.items() if mixture.weights is not None}

    def context_vectors(self) -> dict[int, Tensor]:
        """Block -> contextual vector `[I, W]` of each image of the last pass; empty for routing without context."""
        return {n: mixture.vectors for n, mixture in self.mixtures.items() if mixture.vectors is not None}


TEXTLESS = 384
"""Width of contextual vectors where there is no text to give one: that of the default encoder."""


def graft_mixtures(
    graft: Graft,
    tower: nn.Module,
    blocks: nn.ModuleList,
    layers: list[int],
    options: CoVFTOptions,
    *,
    slot: ContextSlot | None,
    text: int,
) -> dict[int, Mixture]:
    """Put mixtures into blocks of a tower, and the hooks that tell them whose question it is.

    Args:
        graft: takes the changes.
        tower: whose calls are passes.
        blocks: the tower's blocks.
        layers: numbers of those that are changed.
        options: of the mixtures.
        slot: where the context will be; None for options that read no text.
        text: width of the question's vector.

    Raises:
        CrosstaskError: a block has no norm from which the width can be read.
    """
    passes = TowerPasses(tower, (blocks[n] for n in layers), slot)
    found: dict[int, Mixture] = {}
    for n in layers:
        found[n] = Mixture(blocks[n].mlp, passes, options, image=block_width(blocks[n]), text=text)  # type: ignore[arg-type]
        graft.put(blocks[n], "mlp", found[n])
    graft.hook(lambda: tower.register_forward_pre_hook(passes.enter, with_kwargs=True))
    graft.hook(lambda: tower.register_forward_hook(passes.leave, always_call=True))
    return found


def norms_of(block: nn.Module) -> dict[str, nn.Module]:
    """The norms of a block, by name.

    Raises:
        CrosstaskError: it has none.
    """
    found = {name: part for name, part in block.named_children() if "norm" in name.lower()}
    if not found:
        raise CrosstaskError(f"a block of the vision tower, {type(block).__name__}, has no norm")
    return found


def block_width(block: nn.Module) -> int:
    """Width D of a block's tokens, as its norms have it: a tower's configuration may call another width its own.

    Raises:
        CrosstaskError: it has no norm.
    """
    return len(next(p for norm in norms_of(block).values() for p in norm.parameters()))


def block_norms(blocks: nn.ModuleList) -> dict[str, nn.Parameter]:
    """Parameters of the norms of all blocks."""
    return {
        f"{n}.{name}.{key}": parameter
        for n, block in enumerate(blocks)
        for name, part in norms_of(block).items()
        for key, parameter in part.named_parameters()
    }
