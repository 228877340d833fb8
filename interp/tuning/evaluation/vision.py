"""How pictures enter a batch: encoded once and kept, or from pixels in every pass.

Adapters and full updates of the language model leave tower and projector as they are, so what the language model reads
of a picture is the same for every variant, shift and item that shows it. Where a model is trained in its vision as
well, or an architecture is not covered (:func:`interp.tuning.features.uncovered`), the module encodes pixels each time.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.images import Image
from interp.models.base import Model
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.adapters import adapter_at_work
from interp.tuning.evaluation.packing import Pack, PackBatch, collate_packs
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.features import TOLERANCE, FeatureStore, embed, image_features, uncovered
from interp.tuning.text_context import context_text

TOWER_BATCH = 8
"""Pictures that go through the tower together."""
KEPT_SHARE = 0.25
"""Part of the free memory that features may take; pictures beyond that are encoded in every pass."""

logger = logging.getLogger(__name__)

_exact: WeakKeyDictionary[Model, bool] = WeakKeyDictionary()
"""Whether kept features have been found to give a model's own logits."""


class Vision(Protocol):
    """Turns pictures into what the module takes.

    Attributes:
        pictures: by key, and among how many each is shown.
    """

    pictures: Mapping[str, tuple[Image, int]]

    def join(self, inputs: dict[str, Tensor], keys: Sequence[str]) -> dict[str, Tensor]:
        """A batch's inputs with the pictures of these keys, in reading order."""


def asked(
    model: Model, items: Sequence[PerceptionItem], batch: PackBatch, vision: Vision
) -> AbstractContextManager[None]:
    """While a batch runs, the adapter at work is told what is asked of its pictures, if its tower reads that.

    The text is the question without its options (:func:`interp.tuning.text_context.context_text`), so that it is the
    same for all shifts of an item, whose pictures are then encoded once.

    Args:
        model: with whatever adapter is at work.
        items: of each row.
        batch: the rows.
        vision: has their pictures.
    """
    return told(model, [context_text(item.prompt) for item in items], batch, vision)


def told(model: Model, texts: Sequence[str], batch: PackBatch, vision: Vision) -> AbstractContextManager[None]:
    """As `asked`, with the text of each row."""
    adapter = adapter_at_work(model)
    if not adapter.reads_text or not batch.pictures:
        return nullcontext()
    shown = [vision.pictures[key] for key in batch.pictures]
    counts = [model.tower_images(image, among=among) for image, among in shown]
    return adapter.context(texts, [row for row, n in zip(batch.owner, counts, strict=True) for _ in range(n)])


class PixelVision:
    """The module encodes the pictures in every pass."""

    def __init__(self, model: Model, pictures: Mapping[str, tuple[Image, int]]) -> None:
        """Take pictures from a reader."""
        self.model, self.pictures = model, pictures

    def join(self, inputs: dict[str, Tensor], keys: Sequence[str]) -> dict[str, Tensor]:
        """A batch's inputs with the pictures of these keys, in reading order."""
        shown = [self.pictures[key] for key in keys]
        found = self.model.family.collate([self.model.image_inputs(i, among=among).features for i, among in shown])
        return inputs | {
            name: (tensor.to(self.model.dtype) if tensor.is_floating_point() else tensor).to(self.model.device)
            for name, tensor in found.items()
        }


class KeptVision:
    """Each picture goes through tower and projector once.

    Attributes:
        encoded: how many pictures went through the tower.
    """

    def __init__(
        self, model: Model, pictures: Mapping[str, tuple[Image, int]], *, store: FeatureStore | None = None
    ) -> None:
        """Take pictures from a reader.

        Args:
            model: whose tower and projector; they must not change.
            pictures: by key.
            store: where features are kept on disk as well; in memory alone if None.
        """
        self.model, self.pictures, self.store = model, pictures, store
        self.encoded = 0
        self._kept: dict[str, Tensor] = {}
        self._room = int(KEPT_SHARE * psutil.virtual_memory().available)

    def join(self, inputs: dict[str, Tensor], keys: Sequence[str]) -> dict[str, Tensor]:
        """A batch's inputs with the features of these pictures among its embeddings."""
        if not keys:
            return inputs
        missing = list(dict.fromkeys(key for key in keys if key not in self._kept))
        found = {key: self._kept[key] for key in keys if key in self._kept}
        for start in range(0, len(missing), TOWER_BATCH):
            found |= self._encode(missing[start : start + TOWER_BATCH])
        features = torch.cat([found[key] for key in keys]).to(self.model.device)
        return embed(self.model, inputs | {"image_features": features})

    def _encode(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Features of pictures, kept as long as there is room. (Dropping older ones would drop what is needed next.)"""
        images = [self.pictures[key][0] for key in keys]
        made = self.store.get(images) if self.store is not None else encode_pictures(self.model, images)
        found = dict(zip(keys, made, strict=True))
        self.encoded += len(found)
        size = sum(tensor.nbytes for tensor in made)
        if size <= self._room:
            self._room -= size
            self._kept |= found
        return found


@torch.no_grad()
def encode_pictures(model: Model, images: Sequence[Image]) -> list[Float[Tensor, "N D"]]:
    """What the language model reads of each picture, on the CPU; pictures of one size go through the tower together."""
    given = [model.image_inputs(image).features for image in images]
    shapes = {tuple((name, tensor.shape) for name, tensor in one.items()) for one in given}
    if len(images) > 1 and len(shapes) == 1:
        vision = {
            name: (t.to(model.dtype) if t.is_floating_point() else t).to(model.device)
            for name, t in model.family.collate(given).items()
        }
        found: Any = model.module.get_image_features(**vision, return_dict=True)
        pooled = getattr(found, "pooler_output", found)
        if len(pooled) == len(images):
            return [rows.reshape(-1, rows.shape[-1]).cpu() for rows in pooled]
    return [image_features(model, image).cpu() for image in images]


def vision_for(
    model: Model, reader: ItemReader, packs: Sequence[Pack], *, store: FeatureStore | None = None, keep: bool = True
) -> PixelVision | KeptVision:
    """The fastest way that is exact for a model: kept features if the logits of one sequence are the same from them.

    A model is tried once.

    Args:
        model: the model, without an adapter in its vision.
        reader: has read the items.
        packs: of which the first with a picture is tried.
        store: where features are kept on disk as well.
        keep: whether features may be kept at all.
    """
    pixels = PixelVision(model, reader.pictures)
    shown = next((pack for pack in packs if pack.pictures), None)
    if not keep or shown is None or uncovered(model):
        return pixels
    kept = KeptVision(model, reader.pictures, store=store)
    if model not in _exact:
        _exact[model] = _gives_own_logits(model, kept, pixels, shown)
    return kept if _exact[model] else pixels


def _gives_own_logits(model: Model, kept: KeptVision, pixels: PixelVision, shown: Pack) -> bool:
    """Whether a sequence's logits are the same from kept features as from pixels; says so if they are not."""
    try:
        batch = collate_packs([shown], pad_id=model.pad_id, dtype=model.dtype, device=model.device)
        ways = (way.join(batch.inputs, batch.pictures) for way in (kept, pixels))
        ours, theirs = (last_logits(model, inputs, batch.last) for inputs in ways)
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
    except (CrosstaskError, RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        logger.warning("Vision features of %s are not kept: %s", model.name, error)
        return False
    if not difference <= TOLERANCE.get(model.dtype, 1e-4):
        logger.warning("Vision features of %s are not kept: logits from them differ by %.2g", model.name, difference)
        return False
    return True


@torch.no_grad()
def last_logits(
    model: Model, inputs: dict[str, Tensor], columns: int, *, use_cache: bool = False, **options: Any
) -> Float[Tensor, "B columns V"]:
    """Logits of the last columns of a batch, given as token ids or as embeddings."""
    held = inputs["inputs_embeds" if "inputs_embeds" in inputs else "input_ids"]
    more: dict[str, Any] = {"use_cache": use_cache}
    if "logits_to_keep" in inspect.signature(model.module.forward).parameters:
        # An index, where a number would make a strided slice, of which a linear layer multiplies every row alone.
        more["logits_to_keep"] = torch.arange(held.shape[1] - columns, held.shape[1], device=held.device)
    return model.forward(inputs, logits=None, **more, **options).logits[:, -columns:]
