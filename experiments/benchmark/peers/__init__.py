"""Who is measured. A peer is one entry here and one class; each is imported when it is made."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.benchmark.peers.base import Peer

_HERE = "experiments.benchmark.peers"
PEERS = {
    "ours": f"{_HERE}.ours:Ours",
    "ours_copied": f"{_HERE}.ours:OursCopied",
    "bare": f"{_HERE}.plain:Bare",
    "plain": f"{_HERE}.plain:Plain",
    "plain_cached": f"{_HERE}.plain:PlainCached",
    "nnsight": f"{_HERE}.with_tools:Nnsight",
    "transformer_lens": f"{_HERE}.with_tools:TransformerLens",
    "pyvene": f"{_HERE}.with_pyvene:Pyvene",
}
ELSEWHERE = {"pyvene": "pyvene==0.1.8"}
"""Peers that run in an environment of their own, and what is installed there."""


def make_peer(name: str) -> Peer:
    """Make a peer in this process.

    Raises:
        CrosstaskError: if its package is missing.
    """
    home, _, kind = PEERS[name].partition(":")
    return getattr(import_module(home), kind)()
