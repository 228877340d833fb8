"""Gradient checkpointing of blocks that read what is held beside the module.

Checkpointing runs a block a second time in the backward pass, when what was held for it has been let go, and perhaps
something else is held (gradient accumulation, gradients per task): without a word the gradients would be those of
another question. Each checkpointed call therefore keeps what was held when it was made, and is run again with that.
It works for both kinds of checkpointing, reentrant or not, since it wraps the function that a block of transformers
calls for it, for as long as the tower's forward pass lasts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import nn

from interp.tuning.strategies.graft import Graft

CHECKPOINT = "_gradient_checkpointing_func"
"""What transformers calls a block's checkpointing function."""


class Holder(Protocol):
    """Holds something while a block lasts."""

    def current(self) -> Any:
        """What is held."""

    def given(self, held: Any) -> contextlib.AbstractContextManager[None]:
        """Hold something."""


class _Keeping:
    """A checkpointing function whose calls are run again with what was held when they were made."""

    def __init__(self, function: Callable[..., Any], holder: Holder) -> None:
        self.function, self.holder = function, holder

    def __call__(self, block: Callable[..., Any], *args: Any, **named: Any) -> Any:
        held = self.holder.current()

        def kept(*again: Any, **more: Any) -> Any:
            with self.holder.given(held):
                return block(*again, **more)

        return self.function(kept, *args, **named)


def keep(blocks: Iterable[nn.Module], holder: Holder) -> None:
    """From now on checkpointed calls of these blocks keep what is held."""
    for block in blocks:
        if getattr(block, "gradient_checkpointing", False):
            function = getattr(block, CHECKPOINT)
            if not isinstance(function, _Keeping):
                setattr(block, CHECKPOINT, _Keeping(function, holder))


def let_go(blocks: Iterable[nn.Module]) -> None:
    """Give blocks their own checkpointing function back."""
    for block in blocks:
        if isinstance(function := getattr(block, CHECKPOINT, None), _Keeping):
            setattr(block, CHECKPOINT, function.function)


def keep_held(graft: Graft, tower: nn.Module, blocks: Iterable[nn.Module], holder: Holder) -> None:
    """Keep what is held for blocks of a tower, for as long as a graft is at work.

    Args:
        graft: takes the hooks.
        tower: during whose forward pass the blocks run.
        blocks: those that read what is held.
        holder: holds it, such as the slot of the context.
    """
    held = list(blocks)
    graft.hook(lambda: tower.register_forward_pre_hook(lambda *_: keep(held, holder)))
    graft.hook(lambda: tower.register_forward_hook(lambda *_: let_go(held), always_call=True))
