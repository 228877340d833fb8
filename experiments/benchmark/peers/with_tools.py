"""nnsight and TransformerLens, through this package's backends for them.

That is each tool's best use that we know: one trace (or one ``run_with_hooks``) for a whole left-padded batch, in which
the delimiter's states of all layers are sliced and saved, or every row is patched at a layer of its own. One trace for
each query, as both tools' tutorials have it, gives the same numbers in more time. TransformerLens computes attention
eagerly, which it does not let one change.
"""

from __future__ import annotations

from experiments.benchmark.peers.base import Peer
from interp.backends import backend_for


class Nnsight(Peer):
    """``model.trace`` on padded batches."""

    package = "nnsight"

    def __init__(self) -> None:
        super().__init__(backend_for("nnsight"))


class TransformerLens(Peer):
    """A TransformerBridge and ``run_with_hooks`` on padded batches."""

    package = "transformer-lens"

    def __init__(self) -> None:
        super().__init__(backend_for("transformer_lens"))
