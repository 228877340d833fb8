"""Both vectors of an item: the tower's contextual vector, and the decoder's state at the end delimiter.

An item is asked as in training and evaluation, and its answer is left open; the last token is the end delimiter
(:mod:`interp.perception_vectors.contexts`), whose states after every block are `delimiter/<m>`. Both are read under the
same adapter, from the same pictures and the same question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from interp.context_vectors.reading import Vectors, read_items
from interp.models.base import Model
from interp.perception_vectors.contexts import read_context
from interp.perception_vectors.settings import Position
from interp.perception_vectors.states import read_states
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.adapters import attached
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.vision import PixelVision
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
        states = item_states(model, items)
    return found | {f"delimiter/{layer}": states[:, layer].contiguous() for layer in range(states.shape[1])}


def item_states(
    model: Model, items: Sequence[PerceptionItem], position: Position = "delimiter"
) -> Float[Tensor, "N L D"]:
    """The residual stream after each block where open items end, under whatever adapter is at work, from their pixels.

    Args:
        model: the model.
        items: N of them.
        position: the end delimiter, or the last token before the letter.
    """
    reader = ItemReader(model)
    readings = [read_context(reader, "item", [item], position) for item in items]
    texts = [context_text(item.prompt) for item in items]
    return read_states(model, readings, PixelVision(model, reader.pictures), texts=texts)
