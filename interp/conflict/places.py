"""The parameters that every strategy of vision tuning has, so that gradients of different strategies can be compared.

A strategy that trains the whole tower and one that trains experts in its late half have different parameters. What they
have in common are the feed-forward networks (FFN) and the norms of some blocks. Where a strategy has put E copies of an
FFN in its place, a weight W stands for E weights W_n; as long as the copies are equal and the routing weights g_n sum
to one,

    dL/dW = sum_n dL/dW_n,

so gradients are *summed* over experts by default: at the start of training the sum is exactly the gradient that the
plain FFN has. *Apart*, the experts' gradients stand side by side, as an optimiser of the experts sees them: then
<g_i, g_j> is the product of the plain gradients weighted by how alike two examples are routed, and with uniform routing
it is that of the plain FFN again, but for a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from torch import nn

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.strategies.towers import tower_blocks, used_blocks

Layers: TypeAlias = Literal["late", "all"]
Part: TypeAlias = Literal["ffn", "norms"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, eq=False)
class Place:
    """A weight that all strategies have.

    Attributes:
        layer: block of the tower.
        name: in the block, without the expert, such as "mlp.fc1.weight".
        parameters: the weight itself, or its E copies.
    """

    layer: int
    name: str
    parameters: tuple[nn.Parameter, ...]


def chosen_layers(model: Model, layers: Layers | Sequence[int]) -> tuple[int, ...]:
    """Blocks by number: the late half of those that are used (U // 2 to U - 1, where CoVFT is by default), or all used.

    Raises:
        CrosstaskError: a number is out of range.
    """
    used = used_blocks(model)
    if layers == "late":
        return tuple(range(used // 2, used))
    if layers == "all":
        return tuple(range(used))
    if wrong := [layer for layer in layers if layer not in range(used)]:
        raise CrosstaskError(f"layer {wrong[0]} of the tower of {model.name!r}: expected 0 to {used - 1}")
    return tuple(sorted(set(layers)))


def common_places(model: Model, layers: Sequence[int], parts: Sequence[Part] = PARTS) -> list[Place]:
    """The weights in common, by layer and name.

    Args:
        model: with a strategy attached, or as it is.
        layers: blocks of the tower.
        parts: FFNs, norms, or both.

    Raises:
        CrosstaskError: a block has none of them.
    """
    blocks = tower_blocks(model)
    found: list[Place] = []
    for layer in layers:
        block, here = blocks[layer], []
        if "ffn" in parts:
            here += _ffn(layer, block.get_submodule("mlp"))
        if "norms" in parts:
            here += [
                Place(layer, f"{child}.{name}", (parameter,))
                for child, part in block.named_children()
                if "norm" in type(part).__name__.lower()
                for name, parameter in part.named_parameters()
            ]
        if not here:
            raise CrosstaskError(f"block {layer} of the tower of {model.name!r} has no {' and no '.join(parts)}")
        found += here
    return found


def _ffn(layer: int, mlp: nn.Module) -> list[Place]:
    """The weights of an FFN, or of the experts in its place."""
    experts = getattr(mlp, "experts", None)
    copies = [mlp] if experts is None else list(experts)
    each = [dict(copy.named_parameters()) for copy in copies]
    return [Place(layer, f"mlp.{name}", tuple(one[name] for one in each)) for name in each[0]]
