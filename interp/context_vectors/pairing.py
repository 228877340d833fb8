"""Both vectors of an item: the tower's contextual vector, and the decoder's state at the end delimiter.

An item is asked as in training and evaluation, and its answer is left open; the last token is the end delimiter
(:mod:`interp.perception_vectors.contexts`), whose states after every block are `delimiter/<m>`. Both are read under the
same adapter, from the same pictures and the same question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from interp.context_vectors.reading import Vectors, read_items
from interp.hooks import capture
from interp.models.base import Model
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.adapters import adapter_at_work, attached
from interp.tuning.batch import collate
from interp.tuning.encoding import encode
from interp.tuning.evaluation.vision import TOWER_BATCH, last_logits
from interp.tuning.text_context import context_text


def read_pairs(model: Model, items: Sequence[PerceptionItem], folder: Path | str, *, neutral: str) -> Vectors:
    """Everything that :func:`interp.context_vectors.reading.read_items` reads, and `delimiter/<m>`.

    Args:
        model: the base model, which is as before in the end.
        items: N of them.
        folder: with a CoVFT adapter.
        neutral: see there.
    """
    found = read_items(model, items, folder, neutral=neutral)
    with attached(model, {"covft": folder}) as held, held.use("covft"):
        states = read_delimiters(model, items)
    return found | {f"delimiter/{layer}": states[:, layer].contiguous() for layer in range(states.shape[1])}


@torch.no_grad()
def read_delimiters(model: Model, items: Sequence[PerceptionItem]) -> Float[Tensor, "N L D"]:
    """The residual stream after each block at the end delimiter of open items, under whatever adapter is at work."""
    found = []
    for start in range(0, len(items), TOWER_BATCH):
        some = items[start : start + TOWER_BATCH]
        rows = [encode(model, item.images, [(item.prompt, None)]) for item in some]
        batch = {name: value for name, value in collate(model, rows).items() if name != "labels"}
        last = torch.full((len(some),), batch["input_ids"].shape[1] - 1)
        owner = [index for index, item in enumerate(some) for _ in item.images]
        texts = [context_text(item.prompt) for item in some]
        with adapter_at_work(model).context(texts, owner), capture(model.blocks, last) as captured:
            last_logits(model, batch, 1)
        dtype = torch.promote_types(model.dtype, torch.float32)
        found.append(captured.states.transpose(0, 1).to("cpu", dtype))
    return torch.cat(found)
