"""A peer does a :class:`~experiments.benchmark.workloads.Call` and says how long it took.

Most peers are a backend of :mod:`interp.backends`: batches of like lengths within the budget of tokens that all share,
patches of many rows in one batch, the states of all layers from one forward pass.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from experiments.benchmark.workloads import NEW_TOKENS, Call
from interp.backends import Backend
from interp.models.base import Model
from interp.prefix import RowPatch

Role = Literal["ours", "variant", "reference", "peer"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Seconds, and the rows that the call said to keep (None where a peer has none to give)."""

    seconds: float
    kept: Shaped[Tensor, "N ..."] | None


class Peer:
    """Does calls through a backend, in this process.

    Attributes:
        role: ``ours``; a ``variant`` of ours; a ``reference`` whose result nobody looks at; or a ``peer``.
        package: whose version the tables state.
    """

    role: ClassVar[Role] = "peer"
    package: ClassVar[str] = ""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def version(self) -> str:
        with suppress(metadata.PackageNotFoundError):  # run from a checkout that is not installed
            return metadata.version(self.package) if self.package else ""
        return ""

    def does(self, call: Call) -> bool:
        """Whether such a call can be made at all."""
        return True

    def run(self, model: Model, call: Call) -> Outcome:
        """Do a call; only the work itself is timed."""
        kept, seconds = [], 0.0
        for portion in call.portions(model.module.config.get_text_config().vocab_size):
            _ = portion.patches  # made before the clock starts
            collect_garbage()
            synchronise(model)
            start = time.perf_counter()
            found = self.perform(model, portion)
            synchronise(model)
            seconds += time.perf_counter() - start
            if found is not None:
                kept += [found[row].cpu().clone() for row in portion.checked]
            del found
        return Outcome(seconds, torch.stack(kept) if kept else None)

    def perform(self, model: Model, call: Call) -> Sequence[Tensor] | Tensor | None:
        """The rows of a call."""
        if call.kind == "capture":
            return self.backend.extract(model, call.prompts)
        if call.kind == "sweep":
            return self.sweep(model, call)
        patches = [pair[0] for pair in call.patches]
        found = self.backend.generate(
            model,
            call.prompts,
            vectors=[patch.vector for patch in patches],
            layers=[patch.layer for patch in patches],
            max_new_tokens=NEW_TOKENS,
            stop=None,
        )
        return [torch.tensor([*answer.token_ids, *[-1] * (NEW_TOKENS - len(answer.token_ids))]) for answer in found]

    def sweep(self, model: Model, call: Call) -> Sequence[Tensor] | Tensor:
        """The logits under each patch: every patch a row with its whole prompt."""
        repeated, patches = in_rows(call)
        return self.backend.logits(model, repeated, patches)


def in_rows(call: Call) -> tuple[list, list[RowPatch]]:
    """A prompt and a patch for each row of a sweep."""
    pairs = [(prompt, patch) for prompt, patches in zip(call.prompts, call.patches, strict=True) for patch in patches]
    return [prompt for prompt, _ in pairs], [patch for _, patch in pairs]


def collect_garbage() -> None:
    """Collect, and take what is left out of later collections: models and tools hold millions of objects, which would
    otherwise be walked through again before, and now and then during, every measurement."""
    gc.collect()
    gc.freeze()


def synchronise(model: Model) -> None:
    """Wait for the device."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
