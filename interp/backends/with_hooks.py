"""The default backend: our own hooks, prefix reuse included."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp import patching, vectors
from interp.backends.base import check_lengths
from interp.hooks import Mode
from interp.models.base import Model
from interp.prefix import RowPatch
from interp.prompts import Prompt


class HooksBackend:
    """:mod:`interp.vectors` and :mod:`interp.patching`, as they are."""

    name = "hooks"
    extract = staticmethod(vectors.extract)
    generate = staticmethod(patching.generate)
    sweep = staticmethod(patching.sweep)

    def logits(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        patches: Sequence[RowPatch],
        *,
        mode: Mode = "replace",
        scale: float = 1.0,
        budget: int | None = None,
        allow_noop: bool = False,
    ) -> Float[Tensor, "P V"]:
        """As :meth:`interp.backends.base.Backend.logits`."""
        check_lengths(prompts, patches)
        rows = [[patch] for patch in patches]
        found = patching.sweep_logits(
            model, prompts, rows, mode=mode, scale=scale, budget=budget, allow_noop=allow_noop
        )
        return torch.cat(found)


def make() -> HooksBackend:
    """The backend; it has no options."""
    return HooksBackend()
