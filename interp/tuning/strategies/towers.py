"""Where a model's vision is: its tower, the tower's blocks, the projector, and a stem that is not the tower's own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from interp.errors import CrosstaskError
from interp.tuning.strategies.full import PROJECTOR

if TYPE_CHECKING:
    from interp.models.base import Model

FIXED = {
    "cu_seqlens": "its blocks take the tokens of all images in one row",
    "position_embeddings": "its blocks are told the position of each token",
}
"""Argument of a tower's block -> why it can read no more tokens than an image has."""


def vision_tower(model: Model) -> tuple[str, nn.Module]:
    """The vision tower and its name in the module.

    Raises:
        CrosstaskError: the model has none.
    """
    tower = model.module.get_encoder(modality="image") if model.takes_images else model.module
    name = next((name for name, part in model.module.named_modules() if part is tower), "")
    if not name or not any(True for _ in _block_lists(tower)):
        raise CrosstaskError(f"model {model.name!r} has no vision tower of blocks that could be fine-tuned")
    return name, tower


def tower_blocks(model: Model) -> nn.ModuleList:
    """The tower's blocks, in order.

    Raises:
        CrosstaskError: the model has no tower.
    """
    return next(_block_lists(vision_tower(model)[1]))


def used_blocks(model: Model) -> int:
    """How many of the tower's blocks are read: LLaVA takes the output of an earlier one (`vision_feature_layer`).

    A tower of 24 blocks of which hidden state -2 is read uses 23.
    """
    blocks = len(tower_blocks(model))
    layer = getattr(model.module.config, "vision_feature_layer", None)
    if layer is None:
        return blocks
    layers = layer if isinstance(layer, (list, tuple)) else [layer]
    return max(index if index >= 0 else blocks + 1 + index for index in layers)


def tower_parameters(model: Model, *, stem: bool = False) -> dict[str, nn.Parameter]:
    """Parameters of the tower by their names in the module, without a projector that lies in it (Qwen's merger).

    Args:
        model: whose tower.
        stem: also those of a convolutional stem, which our own models keep as ImageNet left it.
    """
    name, tower = vision_tower(model)
    left_out = set() if stem else {id(p) for part in _stems(tower) for p in part.parameters()}
    found = {f"{name}.{key}": p for key, p in tower.named_parameters() if id(p) not in left_out}
    return {key: p for key, p in found.items() if not _between(key)}


def projector_parameters(model: Model) -> dict[str, nn.Parameter]:
    """Parameters of what stands between tower and language model.

    Raises:
        CrosstaskError: there are none.
    """
    found = {name: p for name, p in model.module.named_parameters() if _between(name)}
    if not found:
        raise CrosstaskError(f"model {model.name!r} has no projector to train; give the option projector=false")
    return found


def projector(model: Model) -> tuple[str, nn.Module]:
    """The projector as one module behind the tower, and its name.

    Raises:
        CrosstaskError: there is none, or it lies in the tower.
    """
    tower, _ = vision_tower(model)
    for name, part in model.module.named_modules():
        if _between(name):
            if name.startswith(f"{tower}."):
                raise CrosstaskError(
                    f"the projector of {model.name!r} lies in its tower and takes all images in one row"
                )
            return name, part
    raise CrosstaskError(f"model {model.name!r} has no projector")


def tower_width(model: Model) -> int:
    """Width D of the tower's tokens."""
    return int(vision_tower(model)[1].config.hidden_size)  # type: ignore[union-attr, arg-type]


def leading_tokens(model: Model) -> int:
    """How many tokens stand before the image's: the class token, where there is one."""
    names = (name.rpartition(".")[2] for name, _ in vision_tower(model)[1].named_parameters())
    return int(any(name in ("class_embedding", "cls_token") for name in names))


def no_more_tokens(model: Model) -> str:
    """Why the tower's blocks cannot read more tokens than an image has; empty if they can."""
    taken = inspect.signature(tower_blocks(model)[0].forward).parameters
    return next((reason for name, reason in FIXED.items() if name in taken), "")


def _between(name: str) -> bool:
    return any(part in name for part in PROJECTOR)


def _block_lists(tower: nn.Module) -> Iterator[nn.ModuleList]:
    """Lists of blocks with a feed-forward part, the longest first."""
    found = [m for m in tower.modules() if isinstance(m, nn.ModuleList) and len(m) and hasattr(m[0], "mlp")]
    return iter(sorted(found, key=len, reverse=True))


def _stems(tower: nn.Module) -> list[nn.Module]:
    from interp.models.bundled.tower import Convolution

    return [part for part in tower.modules() if isinstance(part, Convolution)]
