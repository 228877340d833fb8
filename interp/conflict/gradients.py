"""Gradients of micro-batches on the common parameters, as the inner products of all pairs.

    G_ij = <g_i, g_j>,    g_i = gradient of the mean loss over the answer tokens of micro-batch i

Everything that is asked of gradients (norms, cosines, their mean, their principal direction) follows from G, which is
small. The gradients themselves are n rows of a few million numbers: they wait in a temporary file, layer by layer, and
G is summed over slices of columns, so memory does not grow with the tower. Layers add up: G of all is the sum of G of
each.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.conflict.places import Place
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.batch import Batch, collate, keep_answers
from interp.tuning.encoding import Encoded
from interp.tuning.trainer import answer_loss

Experts: TypeAlias = Literal["summed", "apart"]
Grams: TypeAlias = dict[tuple[Experts, int], Float[np.ndarray, "n n"]]
"""Inner products by how experts are treated and layer; `apart` is there only where there are experts."""
Context: TypeAlias = Callable[[Sequence[Encoded]], AbstractContextManager[object]]
"""Gives the tower the text of some conversations for as long as it is entered."""
COLUMNS = 2**20
"""Numbers of a row that are multiplied at once."""


def no_context(rows: Sequence[Encoded]) -> AbstractContextManager[object]:
    """For towers that read no text."""
    return contextlib.nullcontext()


@contextlib.contextmanager
def trainable(places: Sequence[Place], model: Model) -> Iterator[None]:
    """Gradients of the common parameters and of nothing else."""
    module = model.module
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.requires_grad_(False)
    for place in places:
        for parameter in place.parameters:
            parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, was in before.items():
            parameter.grad = None
            parameter.requires_grad_(was)


def gradient_grams(
    model: Model,
    micro_batches: Sequence[Sequence[Encoded]],
    places: Sequence[Place],
    *,
    context: Context = no_context,
    folder: Path | None = None,
) -> tuple[Grams, list[float]]:
    """Inner products of the gradients of micro-batches.

    Args:
        model: with a strategy or an adapter at work.
        micro_batches: n of them, of equally many conversations: cosines rise with the size.
        places: from :func:`interp.conflict.places.common_places`.
        context: gives the tower its text.
        folder: where gradients wait; the system's for temporary files by default.

    Returns:
        The inner products, and the loss of each micro-batch.

    Raises:
        CrosstaskError: micro-batches differ in size, there are fewer than two, or a gradient is zero or not a number.
    """
    sizes = {len(rows) for rows in micro_batches}
    if len(micro_batches) < 2 or len(sizes) > 1:
        raise CrosstaskError(
            f"{len(micro_batches)} micro-batches of {', '.join(map(str, sorted(sizes)))} conversations: expected two "
            "or more of one size, since cosines of gradients rise with it"
        )
    losses = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".gradients-") as kept, trainable(places, model):
        store = _Store(Path(kept), places, len(micro_batches))
        for number, rows in enumerate(micro_batches):
            model.module.zero_grad(set_to_none=True)
            batch = keep_answers(model, collate(model, rows))
            with context(rows):
                loss = batch_loss(model, batch)
            loss.backward()
            losses.append(float(loss.detach()))
            store.write(number)
        return store.grams(), losses


def batch_loss(model: Model, batch: Batch) -> Float[Tensor, ""]:
    """The mean loss of a batch over its answer tokens, with gradients."""
    model.reset_state()
    given = {name: value for name, value in batch.items() if name != "labels"}
    with torch.enable_grad():
        return answer_loss(model.module(**given), batch["labels"])


class _Store:
    """Rows of gradients on disk."""

    def __init__(self, folder: Path, places: Sequence[Place], n: int) -> None:
        self.n = n
        self.layers = {
            layer: [place for place in places if place.layer == layer]
            for layer in sorted({place.layer for place in places})
        }
        self.apart = any(len(place.parameters) > 1 for place in places)
        self.files = {
            (experts, layer): np.memmap(
                folder / f"{experts}-{layer}",
                dtype=np.float64 if own[0].parameters[0].dtype == torch.float64 else np.float32,
                mode="w+",
                shape=(n, sum(_size(place, experts) for place in own)),
            )
            for experts in self._ways()
            for layer, own in self.layers.items()
        }

    def _ways(self) -> tuple[Experts, ...]:
        return ("summed", "apart") if self.apart else ("summed",)

    def write(self, number: int) -> None:
        """Keep the gradients that are there now."""
        for (experts, layer), rows in self.files.items():
            row = np.concatenate([_gradient(place, experts) for place in self.layers[layer]])
            if not np.isfinite(row).all():
                raise CrosstaskError(f"a gradient in layer {layer} of the tower is no number: the training diverged")
            rows[number] = row

    def grams(self) -> Grams:
        found: Grams = {}
        for key, rows in self.files.items():
            gram = np.zeros((self.n, self.n))
            for start in range(0, rows.shape[1], COLUMNS):
                part = rows[:, start : start + COLUMNS].astype(np.float64)
                gram += part @ part.T
            if not (np.diag(gram) > 0).all():
                raise CrosstaskError(f"a gradient in layer {key[1]} of the tower is zero, so it has no direction")
            found[key] = gram
        return found


def _size(place: Place, experts: Experts) -> int:
    each = place.parameters[0].numel()
    return each if experts == "summed" else each * len(place.parameters)


def _gradient(place: Place, experts: Experts) -> Float[np.ndarray, " size"]:
    """The gradient of a weight; a weight that took no part has none, which is 0."""
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in place.parameters]
    joined = torch.stack(found).sum(0) if experts == "summed" else torch.stack(found)
    if joined.dtype not in (torch.float32, torch.float64):
        joined = joined.float()
    return joined.detach().reshape(-1).cpu().numpy()
