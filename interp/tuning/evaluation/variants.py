"""The models that are compared: the frozen one and its adapters, at work one after another.

An adapter's update is added to the weights (`merge`), and the weights are put back afterwards, bit by bit, so that a
pass costs what the frozen model's does. In 16 bits the sum would be rounded to the weights' coarse grid, and quantised
weights take no sum; there the adapter stays beside the weights (`beside`), as it was trained.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.adapters import RECORD, attached
from interp.tuning.strategies.base import VISION_CONFIG

How = Literal["auto", "merge", "beside"]


def variants(model: Model, folders: Mapping[str, Path | None], *, how: How = "auto") -> Iterator[str]:
    """Put each variant to work in turn; the model is as before in the end.

    Args:
        model: the base model.
        folders: name -> folder with an adapter; None stands for the model itself.
        how: add updates to the weights, leave them beside, or (auto) add them where the sum is exact enough.

    Yields:
        The name of the variant that is at work until the next is asked for.

    Raises:
        CrosstaskError: a folder holds no adapter, it matches none or only part of the model's weights, it was trained
            on another model, or its weights are no numbers.
    """
    adapters = {name: folder for name, folder in folders.items() if folder is not None}
    merge = _merges(model) if how == "auto" else how == "merge"
    with attached(model, adapters) as held:
        for name in folders:
            with held.use(name if name in adapters else None), merged(model) if merge else contextlib.nullcontext():
                yield name


@contextlib.contextmanager
def merged(model: Model) -> Iterator[None]:
    """The adapter that is at work added to the weights, which are put back as they were.

    Raises:
        CrosstaskError: the sum is not a number.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = (part for part in model.module.modules() if isinstance(part, BaseTunerLayer))
    layers = [layer for layer in found if not layer.disable_adapters]
    before = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)  # a new tensor, so that the old one can be put back
        yield
    except ValueError as error:
        if "NaNs detected" not in str(error):
            raise
        raise CrosstaskError(f"an adapter of model {model.name!r} has weights that are no numbers") from error
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.merged_adapters.clear()
            layer.get_base_layer().weight.data = weight


def _merges(model: Model) -> bool:
    return model.is_whole and model.dtype in (torch.float32, torch.float64)


def changes_vision(folder: Path | None) -> bool:
    """Whether an adapter changes tower or projector, so that features of pictures cannot be shared with others."""
    if folder is None:
        return False
    if (folder / VISION_CONFIG).is_file():
        return True
    if not (folder / RECORD).is_file():
        return False
    config = json.loads((folder / RECORD).read_text(encoding="utf-8")).get("config", {})
    return bool(config.get("train_tower") or config.get("train_projector"))
