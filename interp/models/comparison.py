"""How far apart two models are, before a vector of one is patched into the other.

Weights: for each decoder block ``||W_target - W_source||_F / ||W_source||_F`` over the parameters that both have under
the same name and shape. A fine-tuned model sits at a few per cent, an unrelated one near or above sqrt(2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from interp.models.base import Model


@dataclass(frozen=True)
class Comparison:
    """What two models share.

    Attributes:
        same_tokenizer: the base vocabularies agree (added tokens such as ``<image>`` aside).
        same_width: the residual streams have the same width.
        same_depth: the models have the same number of blocks.
        block_distances: relative weight distance of each block, [L]; empty when depth or width differ, or when
            either model does not hold its weights as they are (they are elsewhere, put off, or quantised).
    """

    same_tokenizer: bool
    same_width: bool
    same_depth: bool
    block_distances: tuple[float, ...]

    @property
    def distance(self) -> float | None:
        """The mean over blocks, or None when the blocks cannot be compared."""
        return sum(self.block_distances) / len(self.block_distances) if self.block_distances else None


def compare(source: Model, target: Model) -> Comparison:
    """Compare the tokenizers and the decoder weights of two models."""
    alike = source.width == target.width and source.n_layers == target.n_layers
    comparable = alike and source.is_whole and target.is_whole
    return Comparison(
        same_tokenizer=source.base_vocabulary == target.base_vocabulary,
        same_width=source.width == target.width,
        same_depth=source.n_layers == target.n_layers,
        block_distances=tuple(_relative_distance(a, b) for a, b in zip(source.blocks, target.blocks, strict=True))
        if comparable
        else (),
    )


@torch.no_grad()
def _relative_distance(source: nn.Module, target: nn.Module) -> float:
    theirs = dict(target.named_parameters())
    gap = norm = 0.0
    for name, weight in source.named_parameters():
        other = theirs.get(name)
        if other is not None and other.shape == weight.shape:
            gap += (other.float() - weight.float().to(other.device)).square().sum().item()
            norm += weight.float().square().sum().item()
    return (gap / norm) ** 0.5 if norm else float("nan")
