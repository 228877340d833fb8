"""How the question reaches the mixtures deep in the tower, forward and when gradient checkpointing runs a block again.

When the tower is called, a hook takes the context from the slot, counts the images, and holds both for the blocks of
this one pass; when the tower is done they are let go. So nothing can be read that belongs to another pass. Towers that
take the tokens of all images in one row (Qwen-VL) say by `grid_thw` which token is whose.

When gradient checkpointing runs a block again, it does so in the pass that it ran in at first
(:mod:`interp.tuning.strategies.checkpoints`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.tuning.strategies.checkpoints import keep, let_go
from interp.tuning.text_context import ContextSlot


@dataclass(frozen=True, eq=False)
class Pass:
    """One call of the tower.

    Attributes:
        n_images: I.
        text: the question's vector for each image; None for a tower that reads none.
        counts: tokens of each image, where they stand in one row.
        mask: which tokens are there, where the tower fills up images of unlike sizes (Idefics2); None for all.
    """

    n_images: int
    text: Float[Tensor, "I C"] | None = None
    counts: Int[Tensor, " I"] | None = None
    mask: Bool[Tensor, "I N"] | None = None
    _been: set[int] = field(default_factory=set)

    @cached_property
    def segments(self) -> Int[Tensor, " T"] | None:
        """The image of each token, where tokens stand in one row."""
        return None if self.counts is None else torch.arange(self.n_images).repeat_interleave(self.counts)

    def first_for(self, block: nn.Module) -> bool:
        """Whether a block is run for the first time in this pass, and not again by gradient checkpointing."""
        first = id(block) not in self._been
        self._been.add(id(block))
        return first

    def by_image(self, tokens: Tensor) -> tuple[Float[Tensor, "I N D"], Bool[Tensor, "I N"] | None]:
        """The tokens of each image, and which are there if they are not equally many.

        Raises:
            CrosstaskError: there are tokens of more or fewer images.
        """
        if self.counts is None:
            if tokens.dim() != 3 or len(tokens) != self.n_images:
                raise CrosstaskError(
                    f"a block of the vision tower was given tokens of shape {tuple(tokens.shape)} for "
                    f"{self.n_images} images; expected [{self.n_images}, tokens, width]"
                )
            return tokens, None if self.mask is None else self.mask.to(tokens.device)
        counts = self.counts.tolist()
        if tokens.dim() != 2 or len(tokens) != sum(counts):
            raise CrosstaskError(
                f"a block of the vision tower was given tokens of shape {tuple(tokens.shape)} for images of {counts} "
                f"tokens; expected [{sum(counts)}, width]"
            )
        if len(set(counts)) == 1:
            return tokens.unflatten(0, (len(counts), -1)), None
        padded = nn.utils.rnn.pad_sequence(list(tokens.split(counts)), batch_first=True)
        places = torch.arange(padded.shape[1], device=tokens.device)
        return padded, places < self.counts.to(tokens.device)[:, None]

    def to_tokens(self, weights: Float[Tensor, " I"]) -> Tensor:
        """A number for each image as one that multiplies its tokens."""
        if self.segments is None:
            return weights[:, None, None]
        return weights[self.segments.to(weights.device)][:, None]


class TowerPasses:
    """The pass that the tower is in. It stands beside the module, and copies of the module share it."""

    def __init__(self, tower: nn.Module, blocks: Iterable[nn.Module], slot: ContextSlot | None) -> None:
        """Watch a tower.

        Args:
            tower: whose calls are passes.
            blocks: its blocks that ask for the pass.
            slot: where the context is found; None for a tower that reads no text.
        """
        self.tower, self.blocks, self.slot = tower, list(blocks), slot
        self._now: list[Pass] = []

    def current(self) -> Pass:
        """The pass that the tower is in.

        Raises:
            CrosstaskError: the tower was not called, as when a block is called by itself.
        """
        if not self._now:
            raise CrosstaskError(
                "a block of the vision tower was called outside a call of the tower, so that it is not known which "
                "question its images belong to"
            )
        return self._now[-1]

    @contextlib.contextmanager
    def given(self, one: Pass) -> Iterator[None]:
        """Run something in a pass."""
        self._now.append(one)
        try:
            yield
        finally:
            self._now.pop()

    def enter(self, tower: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Hook before the tower's forward.

        Raises:
            CrosstaskError: there is no context, or one for another number of images, or threads would share it.
        """
        if getattr(tower, "_is_replica", False):
            raise CrosstaskError(
                "the vision tower was called under DataParallel, whose threads would share one context: start one "
                "process for each card, as torch.distributed.run does"
            )
        named = _named(tower, args, given)
        grid = named.get("grid_thw")
        if grid is not None:
            counts = grid.prod(dim=-1).cpu()
            images = len(counts)
        else:
            counts, images = None, len(named.get("pixel_values", next(iter(named.values()))))
        shown = named.get("patch_attention_mask")
        mask = None if shown is None or bool(shown.all()) else shown.flatten(1).bool()
        text = None
        if self.slot is not None:
            text = self.slot.current(images).of_images
            self.slot.encodes("videos" if grid is not None and bool((grid[:, 0] > 1).any()) else "images")
        self._now = [Pass(images, text, counts, mask)]  # what a pass that failed may have left is gone
        keep(self.blocks, self)

    def leave(self, *_: Any) -> None:
        """Hook after the tower's forward, also when it failed."""
        self._now = []
        let_go(self.blocks)

    def __deepcopy__(self, memo: dict[int, Any]) -> TowerPasses:
        return self


def _named(tower: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
    names = inspect.signature(tower.forward).parameters
    return dict(zip(names, args, strict=False)) | given
