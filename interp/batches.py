"""Prompts side by side: left padding, and chunks of like lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from interp.models.base import Model
from interp.prompts import Prompt

BUSY_TOKENS = 512
"""Tokens that keep a processor busy; a batch of so many is not filled up with prompts that are much shorter."""
PADDING = 0.2
"""Most of a batch that may be padding, once it has so many tokens."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts side by side, padded on the left.

    Attributes:
        inputs: keyword arguments of the module: ``input_ids`` and ``attention_mask`` ``[B, T]``, ``position_ids`` and
            whatever else the family gives each token ``[.., B, T]``, and the vision inputs of all images in reading
            order.
        positions: the column of each row's last delimiter, ``[B]``.
        ends: its position id, from which those of the row's answer count on.
    """

    inputs: dict[str, Tensor]
    positions: Int[Tensor, " B"]
    ends: tuple[int, ...]


def collate(model: Model, prompts: Sequence[Prompt], *, spans: Sequence[slice] | None = None) -> Batch:
    """Pad prompts on the left and put them on the model's device.

    Args:
        model: gives the device, the dtype of the vision inputs, and the family's way of joining images.
        prompts: B of them, of any lengths.
        spans: the part of each prompt that is wanted, in tokens; all of it by default. It may not cut an image.

    Returns:
        A batch in which every row equals the row alone: padding is masked, and positions are the prompt's own.
    """
    spans = spans or [slice(0, prompt.n_tokens) for prompt in prompts]
    rows = [prompt.input_ids[span] for prompt, span in zip(prompts, spans, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([[model.pad_id] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    features = model.family.collate([i for p, span in zip(prompts, spans, strict=True) for i in p.images_in(span)])
    tokens = {
        name: torch.stack(
            [
                functional.pad(prompt.token_inputs[name][..., span], (width - len(row), 0))
                for prompt, span, row in zip(prompts, spans, rows, strict=True)
            ],
            dim=-2,
        )
        for name in prompts[0].token_inputs
    }
    vision = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in features.items()}
    inputs = {"input_ids": ids, "attention_mask": mask, **tokens, **vision}
    positions = torch.tensor([width - prompt.n_tokens + prompt.delimiter for prompt in prompts])
    ends = tuple(prompt.position for prompt in prompts)
    return Batch({name: tensor.to(model.device) for name, tensor in inputs.items()}, positions, ends)


def chunks(prompts: Sequence[Prompt], budget: int, *, keep_order: bool = False) -> Iterator[list[int]]:
    """Indices of prompts, in groups whose padded size stays within a budget of tokens.

    Like lengths go together, and a group that is large enough to keep a processor busy ends where going on would make
    more than `PADDING` of it padding; neither where the order is to be kept, because neighbours share a prefix.
    """
    group: list[int] = []
    longest = real = 0
    lengths = [prompt.n_tokens for prompt in prompts]
    for index in range(len(prompts)) if keep_order else sorted(range(len(prompts)), key=lambda i: -lengths[i]):
        padded = (len(group) + 1) * max(longest, lengths[index])
        wasteful = real >= BUSY_TOKENS and padded - real - lengths[index] > PADDING * padded
        if group and (padded > budget or (wasteful and not keep_order)):
            yield group
            group, longest, real = [], 0, 0
        group.append(index)
        longest, real = max(longest, lengths[index]), real + lengths[index]
    if group:
        yield group
