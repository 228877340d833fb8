"""What a CoVFT tower knows of an item: its contextual vectors, and what they are made of, each alone.

    context/<l>      c of layer l: text-queried attention over the picture's tokens, and the text (Zhou et al. 2026)
    routing/<l>      softmax weights of the experts, [E]
    neutral/<l>      c with one and the same sentence in place of every question: the picture alone
    blank/<l>        c with a grey picture in place of every picture: the question alone
    text             the question as the text encoder gives it, before any CoVFT layer
    features         mean over tokens of what the language model reads of the pictures, under the adapter
    frozen           the same of the model before fine-tuning

All are means over an item's pictures. A context that only repeats `text` clusters by wording, without any tower; what
CoVFT adds is what `context` has beyond `text` and `frozen`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from PIL import Image as Pillow
from torch import Tensor

from interp.errors import CrosstaskError
from interp.images import Image
from interp.models.base import Model
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.adapters import adapter_at_work, attached
from interp.tuning.evaluation.vision import TOWER_BATCH
from interp.tuning.text_context import context_text, owners

Vectors: TypeAlias = dict[str, Float[Tensor, "N D"]]
NEUTRAL = "What is in the picture?"
"""Asked of every item where the picture alone should decide."""
GREY = (128, 128, 128)


def context_strategy(model: Model) -> Any:
    """The CoVFT strategy whose adapter is at work on a model.

    Raises:
        CrosstaskError: none is at work, or one of another strategy, which has no contextual vectors.
    """
    chosen = getattr(adapter_at_work(model), "strategy", None)
    if not (hasattr(chosen, "context_vectors") and hasattr(chosen, "routing")):
        what = f"strategy {chosen.name!r}" if chosen is not None else "a strategy that leaves the tower alone"
        raise CrosstaskError(f"the adapter at work is of {what}; contextual vectors are those of a covft adapter")
    return chosen


def read_items(model: Model, items: Sequence[PerceptionItem], folder: Path | str, *, neutral: str = NEUTRAL) -> Vectors:
    """Every representation of items.

    Args:
        model: the base model, which is as before in the end.
        items: N of them.
        folder: with a CoVFT adapter.
        neutral: the sentence that stands for every question in `neutral/<l>`.

    Returns:
        Name -> N vectors, on the CPU in float32 at least.

    Raises:
        CrosstaskError: the folder holds no CoVFT adapter of this model.
    """
    texts = [context_text(item.prompt) for item in items]
    with attached(model, {"covft": folder}) as held:
        frozen = read_features(model, items, texts)
        with held.use("covft"):
            found = read_contexts(model, items, texts)
            found |= {"features": found.pop("mean"), "frozen": frozen}
            same = read_contexts(model, items, [neutral] * len(items))
            blank = read_contexts(model, [_greyed(item) for item in items], texts)
            for name, vectors in (("neutral", same), ("blank", blank)):
                found |= {
                    key.replace("context/", f"{name}/"): one
                    for key, one in vectors.items()
                    if key.startswith("context/")
                }
            found["text"] = context_strategy(model).encoder.encode(texts).detach().cpu().float()
    return found


@torch.no_grad()
def read_contexts(model: Model, items: Sequence[PerceptionItem], texts: Sequence[str]) -> Vectors:
    """Contexts and routing of every CoVFT layer, and the mean features (`mean`), under the adapter at work.

    Args:
        model: with a CoVFT adapter at work.
        items: N of them.
        texts: what the tower is told of each.
    """
    chosen = context_strategy(model)
    if not chosen.options.routes:
        raise CrosstaskError(
            f"the adapter at work routes {chosen.options.routing!r}, without a context; contextual vectors are those "
            "of dense or sparse routing"
        )
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(items), TOWER_BATCH):
        some = items[start : start + TOWER_BATCH]
        parts.setdefault("mean", []).append(_features(model, some, texts[start : start + TOWER_BATCH]))
        given = {f"context/{layer}": vectors for layer, vectors in chosen.context_vectors().items()}
        given |= {f"routing/{layer}": weights for layer, weights in chosen.routing().items()}
        owner = owners(model, [item.images for item in some])
        for name, vectors in given.items():
            parts.setdefault(name, []).append(_of_items(vectors, owner, len(some)))
    return {name: torch.cat(found) for name, found in parts.items()}


@torch.no_grad()
def read_features(model: Model, items: Sequence[PerceptionItem], texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """Mean over tokens and pictures of what the language model reads, with whatever adapter is at work."""
    found = []
    for start in range(0, len(items), TOWER_BATCH):
        some = items[start : start + TOWER_BATCH]
        found.append(_features(model, some, texts[start : start + TOWER_BATCH]))
    return torch.cat(found)


def _features(model: Model, items: Sequence[PerceptionItem], texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """The mean feature of every item's pictures: one pass of the tower, told the texts."""
    given = [model.image_inputs(image, among=len(item.images)).features for item in items for image in item.images]
    vision = {
        name: (tensor.to(model.dtype) if tensor.is_floating_point() else tensor).to(model.device)
        for name, tensor in model.family.collate(given).items()
    }
    tiles = owners(model, [item.images for item in items])
    with adapter_at_work(model).context(list(texts), tiles):
        found: Any = model.module.get_image_features(**vision, return_dict=True)
    pooled = getattr(found, "pooler_output", found)
    pictures = [index for index, item in enumerate(items) for _ in item.images]
    owner = next((each for each in (pictures, tiles) if len(each) == len(pooled)), None)
    if owner is None:
        raise CrosstaskError(
            f"model {model.name!r} gives {len(pooled)} rows of features for {len(pictures)} pictures, so they cannot "
            "be told apart"
        )
    means = torch.stack([rows.reshape(-1, rows.shape[-1]).mean(0) for rows in pooled])
    return _of_items(means, owner, len(items))


def _of_items(vectors: Float[Tensor, "I D"], owner: Sequence[int], n: int) -> Float[Tensor, "N D"]:
    """Means over the pictures (or tiles) of each item."""
    kept = vectors.detach().cpu().to(torch.promote_types(vectors.dtype, torch.float32))
    index = torch.tensor(owner)
    sums = torch.zeros(n, kept.shape[1], dtype=kept.dtype).index_add_(0, index, kept)
    return sums / torch.bincount(index, minlength=n)[:, None]


def _greyed(item: PerceptionItem) -> PerceptionItem:
    """The item with a grey picture of the same size in place of each of its own."""
    from dataclasses import replace

    grey = tuple(Image(pixels=Pillow.new("RGB", image.load().size, GREY)) for image in item.images)
    return replace(item, images=grey)


def layers_of(vectors: Vectors | Sequence[str], kind: str = "context") -> list[int]:
    """The layers that there are vectors of a kind for, in order."""
    return sorted(int(name.partition("/")[2]) for name in vectors if name.startswith(f"{kind}/"))
