"""Projected vision features, computed once and kept on disk.

While the tower and the projector are frozen, what the language model reads of a picture never changes:

    features(picture) = projector(tower(pixels)),  [N, D]

so it is computed once for a picture, a model and the processor's settings, whose hash names the file. A batch then
takes features in place of pixels: they are put among the token embeddings where the model itself would put them.

Not every architecture is covered: some feed vision into later blocks as well, or process a picture otherwise when it
is alone. :func:`covers` compares the logits of both ways on a conversation of the data, and what differs is trained
and evaluated from pixels.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from platformdirs import user_cache_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import CrosstaskError
from interp.files import atomic_file
from interp.images import Image
from interp.models.base import Model
from interp.tuning.batch import Batch, collate
from interp.tuning.encoding import Encoded

MEMORY_BYTES = 512 * 2**20
"""Features kept in memory as well, since an epoch comes back to each picture."""
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Largest difference of logits, relative to the largest of them, at which both ways are held to be the same."""

logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """Where features are kept if nothing else is said: a folder of the user's cache."""
    return user_cache_path("crosstask") / "features"


class FeatureStore:
    """The projected features of pictures under one model.

    Attributes:
        model: whose tower and projector; they must not change while the store is used.
        folder: one file a picture, under a folder for what the features depend on besides.
        computed: how many pictures went through the tower so far.
    """

    def __init__(self, model: Model, folder: Path | None = None) -> None:
        """Make a store; nothing is computed yet.

        Args:
            model: whose tower and projector.
            folder: where files are kept; `default_folder()` if None.

        Raises:
            CrosstaskError: the model takes no images, or the architecture is known not to be covered.
        """
        if reason := uncovered(model):
            raise CrosstaskError(f"vision features of model {model.name!r} cannot be kept: {reason}")
        self.model = model
        self.folder = (folder or default_folder()) / _settings_key(model)
        self.computed = 0
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    @torch.no_grad()
    def get(self, images: Iterable[Image]) -> list[Float[Tensor, "N D"]]:
        """Features of each picture, on the CPU, from memory, from disk, or from the tower."""
        return [self._get(image) for image in images]

    def _get(self, image: Image) -> Tensor:
        key = image.key
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        path = self.folder / key[:2] / f"{key}.safetensors"
        found = _read(path)
        if found is None:
            found = image_features(self.model, image).cpu().contiguous()
            self.computed += 1
            with atomic_file(path) as draft:
                save_file({"features": found}, draft)
        self._held[key] = found
        self._bytes += found.nbytes
        while self._bytes > MEMORY_BYTES and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return found


def _read(path: Path) -> Tensor | None:
    """What a file holds; a missing or torn one is computed again."""
    try:
        return load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None


def uncovered(model: Model) -> str:
    """Why features of this architecture cannot be kept, as far as it is known beforehand; empty if they may be."""
    if not model.takes_images:
        return "it takes no images"
    if model.family.vision_between_blocks:
        return f"the {model.family.name} family feeds vision into later blocks as well"
    if model.family.alone_differs:
        return f"the {model.family.name} family processes a picture otherwise when it is alone in its prompt"
    if not hasattr(model.module, "get_image_features"):
        return f"{type(model.module).__name__} has no get_image_features"
    return ""


@torch.no_grad()
def image_features(model: Model, image: Image) -> Float[Tensor, "N D"]:
    """What the language model reads of one picture, straight from the tower and the projector."""
    vision = model.family.collate([model.image_inputs(image).features])
    vision = {name: (t.to(model.dtype) if t.is_floating_point() else t).to(model.device) for name, t in vision.items()}
    found: Any = model.module.get_image_features(**vision, return_dict=True)
    pooled = getattr(found, "pooler_output", found)
    rows = pooled if isinstance(pooled, Tensor) else torch.cat(list(pooled))
    return rows.reshape(-1, rows.shape[-1])


def embed(model: Model, batch: Batch) -> Batch:
    """A batch whose features stand among its token embeddings.

    Args:
        model: whose embeddings.
        batch: from `collate(..., features=...)`.

    Returns:
        The batch with `inputs_embeds` `[B, T, D]` in place of `input_ids` and `image_features`; attention mask,
        position ids and labels stay. A batch without features is returned as it is.

    Raises:
        CrosstaskError: there are more or fewer features than places for them.
    """
    if "image_features" not in batch:
        return batch
    rest = dict(batch)
    ids, features = rest.pop("input_ids"), rest.pop("image_features")
    places = ids == model.module.config.image_token_id
    if int(places.sum()) != len(features):
        raise CrosstaskError(
            f"the batch has {int(places.sum())} places for vision features, but {len(features)} features were given"
        )
    embeddings = model.module.get_input_embeddings()
    rows = embeddings(ids.masked_fill(places, 0))  # the placeholder may lie outside the vocabulary
    rows = rows.masked_scatter(places[..., None], features.to(rows))
    return {"inputs_embeds": rows, **rest}


@torch.no_grad()
def covers(store: FeatureStore, encoded: Encoded) -> bool:
    """Whether a conversation's logits are the same from kept features as from pixels; says so if they are not."""
    model = store.model
    try:
        kept = embed(model, collate(model, [encoded], features=[store.get(encoded.images)]))
        pixels = collate(model, [encoded])
        model.reset_state()
        ours, theirs = (model.module(**{k: v for k, v in b.items() if k != "labels"}).logits for b in (kept, pixels))
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
    except (CrosstaskError, RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        logger.warning("Vision features of %s are not kept: %s", model.name, error)
        return False
    if difference > TOLERANCE.get(model.dtype, 1e-4):
        logger.warning(
            "Vision features of %s are not kept: logits from them differ by %.2g of the largest", model.name, difference
        )
        return False
    return True


def covered_store(model: Model, folder: Path | None, data: Sequence[Encoded]) -> FeatureStore | None:
    """A store for the pictures of some conversations, or None, with a remark, if the model is not covered."""
    shown = next((encoded for encoded in data if encoded.images), None)
    if shown is None:
        return None
    if reason := uncovered(model):
        logger.info("Vision features of %s are not kept (%s); pixels are used.", model.name, reason)
        return None
    store = FeatureStore(model, folder)
    return store if covers(store, shown) else None


def _settings_key(model: Model) -> str:
    """Hash of everything but the pixels that features depend on."""
    processor: Any = model.processor
    settings = json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str)
    given = json.dumps(getattr(processor, "images_kwargs", None) or {}, sort_keys=True, default=str)
    total = hashlib.sha256(f"{type(model.module).__name__} {model.dtype} {settings} {given}".encode())
    config = model.module.config
    for name in ("vision_feature_layer", "vision_feature_select_strategy"):
        total.update(f"{name} {getattr(config, name, None)}".encode())
    decoder = {id(tensor) for tensor in model.module.get_decoder().state_dict(keep_vars=True).values()}
    head = {id(tensor) for tensor in model.head.state_dict(keep_vars=True).values()}
    for name, tensor in sorted(model.module.state_dict(keep_vars=True).items()):
        if id(tensor) not in decoder | head:  # what is left is tower and projector
            total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]
