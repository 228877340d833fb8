"""This package: prefixes run once, rows packed into one sequence. And its second engine, which copies the cache.

``ours_copied`` is what prefilling once gives without packing: the cache is copied for each row, and the delimiter is
run under each patch. No peer does that by itself, so it is shown beside ours and counts as no peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from experiments.benchmark.peers.base import Peer, Role
from experiments.benchmark.workloads import Call
from interp.backends import backend_for
from interp.models.base import Model
from interp.patching import Engine, sweep_logits


class Ours(Peer):
    """The hooks backend, with prefix reuse."""

    role: ClassVar[Role] = "ours"
    package = "crosstask"
    engine: ClassVar[Engine] = "auto"

    def __init__(self) -> None:
        super().__init__(backend_for("hooks"))

    def sweep(self, model: Model, call: Call) -> Sequence[Tensor]:
        found = sweep_logits(model, call.prompts, call.patches, engine=self.engine)
        return [row for logits in found for row in logits]


class OursCopied(Ours):
    """The engine for models that take no 4-D mask."""

    role: ClassVar[Role] = "variant"
    engine: ClassVar[Engine] = "copied"

    def does(self, call: Call) -> bool:
        return call.kind == "sweep"
