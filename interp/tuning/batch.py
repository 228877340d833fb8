"""Conversations side by side: padded on the left, so that all answers stand in the last columns."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interp.models.base import Model
from interp.tuning.encoding import IGNORED, Encoded

Batch: TypeAlias = dict[str, Any]


def collate(
    model: Model,
    rows: Sequence[Encoded],
    *,
    features: Sequence[Sequence[Float[Tensor, "N D"]]] | None = None,
    device: torch.device | str | None = None,
) -> Batch:
    """Pad conversations on the left and join their pictures.

    Args:
        model: gives the padding, the dtype of pixels and the family's way of joining images.
        rows: B conversations of any lengths.
        features: for each row the projected features of its pictures, in place of their pixels.
        device: where to; the model's by default.

    Returns:
        Keyword arguments of the module: `input_ids`, `attention_mask`, `labels` `[B, T]`, what the family gives each
        token (`position_ids` at least), and the vision inputs of all images in reading order, or `image_features`
        `[sum N, D]`, which :func:`interp.tuning.features.embed` takes.
    """
    width = max(row.n_tokens for row in rows)

    def padded(tensor: Tensor, value: int) -> Tensor:
        return functional.pad(tensor, (width - tensor.shape[-1], 0), value=value)

    batch: Batch = {
        "input_ids": torch.stack([padded(row.input_ids, model.pad_id) for row in rows]),
        "attention_mask": torch.stack([padded(torch.ones_like(row.input_ids), 0) for row in rows]),
        "labels": torch.stack([padded(row.labels, IGNORED) for row in rows]),
    }
    for name in rows[0].token_inputs:
        batch[name] = torch.stack([padded(row.token_inputs[name], 0) for row in rows], dim=-2)
    if features is None:
        vision = model.family.collate(
            [model.image_inputs(image, among=len(row.images)).features for row in rows for image in row.images]
        )
        batch |= {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in vision.items()}
    elif found := [tensor for row in features for tensor in row]:
        batch["image_features"] = torch.cat(list(found))
    place = model.device if device is None else device
    return {name: tensor.to(place) for name, tensor in batch.items()}


def keep_answers(model: Model, batch: Batch) -> Batch:
    """Ask for the logits of the last columns alone, from the one before the first answer: the head is a large matrix.

    Labels are cut to the same columns; their first is never labelled, so a loss may shift them by one.
    """
    labelled = (batch["labels"] != IGNORED).any(dim=0).nonzero()
    width = batch["labels"].shape[1]
    first = max(int(labelled[0]) - 1, 0) if len(labelled) else width - 1
    batch = {**batch, "labels": batch["labels"][:, first:]}
    if "logits_to_keep" in inspect.signature(model.module.forward).parameters:
        # An index, where a number would make a strided slice, of which a linear layer multiplies every row alone.
        batch["logits_to_keep"] = torch.arange(first, width, device=batch["labels"].device)
    return batch
