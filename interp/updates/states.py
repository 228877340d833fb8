"""How an update moves hidden states, and whether two updates move them the same way.

The change under update i is the mean over prompts of h_i - h_0, where h is the residual stream at the end of a prompt
(the token whose next one begins the answer) and h_0 that of the base model. Two changes are compared by

    cosine        <c_i, c_j> / (|c_i| |c_j|)
    projection    <c_i, c_j> / |c_j|^2       how much of j's change i makes; directional

Updates that are orthogonal as weights may move states alike, since many weights write to the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.batch import collate
from interp.tuning.dataset import Learnable, as_example
from interp.tuning.encoding import Encoded, encode
from interp.updates.comparison import Measured, Part, cosines

States: TypeAlias = Callable[[str | None], Float[np.ndarray, "N L D"]]
"""States of N prompts under the update of that name, or of the base model (None)."""


def state_changes(names: Sequence[str], states: States) -> Float[np.ndarray, "K L D"]:
    """The mean change of the states under each of K updates.

    Args:
        names: of the updates.
        states: gives the states of the same prompts under each.

    Raises:
        CrosstaskError: an update gives other prompts or layers than the base model, or changes nothing.
    """
    base = np.asarray(states(None), dtype=np.float64)
    changes = []
    for name in names:
        moved = np.asarray(states(name), dtype=np.float64)
        if moved.shape != base.shape:
            raise CrosstaskError(f"update {name!r} gives states of shape {moved.shape}, the base model {base.shape}")
        changes.append((moved - base).mean(axis=0))
        if not changes[-1].any():
            raise CrosstaskError(f"update {name!r} moves no state")
    return np.stack(changes)


def measured_changes(
    changes: Float[np.ndarray, "K L D"], *, centre: Float[np.ndarray, "K K"] | None = None
) -> Iterator[Measured]:
    """Cosines and projections of changes, layer by layer and over all layers, with and without the common change.

    Args:
        changes: from :func:`state_changes`.
        centre: what takes the common change off (:func:`interp.updates.comparison.centring`); by default all updates
            weigh the same in it.

    Returns:
        `state_cosine`, and `state_projection` whose rows are projected on its columns. Over all layers, each layer
        counts alike: states grow with depth.
    """
    k, layers, _ = changes.shape
    if centre is None:
        centre = np.eye(k) - 1 / k
    unrelated = centre @ centre.T
    for centred in (False, True):
        moved = np.einsum("ik,kld->ild", centre, changes) if centred else changes
        chance = unrelated if centred else np.eye(k)
        grams = np.einsum("ild,jld->lij", moved, moved)
        for layer in range(layers):
            yield from _measured(grams[layer], Part(layer), centred, chance)
        sizes = np.einsum("lii->l", grams) / k
        alike = grams[sizes > 0] / sizes[sizes > 0, None, None]
        yield from _measured(alike.sum(axis=0), Part(), centred, chance)


def _measured(
    gram: Float[np.ndarray, "K K"], part: Part, centred: bool, unrelated: Float[np.ndarray, "K K"]
) -> Iterator[Measured]:
    """Both measures of inner products, with those of unrelated changes of one size."""
    yield Measured("state_cosine", part, centred, cosines(gram), cosines(unrelated))
    yield Measured("state_projection", part, centred, _projections(gram), _projections(unrelated))


def _projections(gram: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    size = np.broadcast_to(np.diag(gram)[None, :], gram.shape)
    return np.divide(gram, size, out=np.full(gram.shape, np.nan), where=size > 0)


def end_states(
    model: Model, folders: Mapping[str, Path], examples: Sequence[Learnable], *, batch: int = 8
) -> tuple[States, Callable[[], object]]:
    """States at the end of the questions of examples, under adapters that are attached side by side.

    Args:
        model: the base model.
        folders: name -> adapter; adapters of peft or of our runner.
        examples: whose questions are asked; their answers are not shown.
        batch: how many are read together.

    Returns:
        The states, and what takes the adapters off again.
    """
    from contextlib import ExitStack

    from interp.tuning.adapters import attached

    found = [as_example(example) for example in examples]
    encoded = [encode(model, one.images, [*one.turns[:-1], (one.turns[-1][0], None)]) for one in found]
    stack = ExitStack()
    adapters = stack.enter_context(attached(model, folders))

    def states(name: str | None) -> Float[np.ndarray, "N L D"]:
        with adapters.use(name):
            parts = [_read(model, encoded[start : start + batch]) for start in range(0, len(encoded), batch)]
        return np.concatenate(parts)

    return states, stack.close


@torch.no_grad()
def _read(model: Model, rows: Sequence[Encoded]) -> Float[np.ndarray, "B L D"]:
    """The residual stream after each block at the last token; rows are padded on the left."""
    seen: list[Float[Tensor, "B D"]] = []

    def keep(block: nn.Module, inputs: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[:, -1])

    handles = [block.register_forward_hook(keep) for block in model.blocks]
    try:
        inputs = collate(model, rows)
        del inputs["labels"]
        model.forward(inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([one.cpu() for one in seen], dim=1).double().numpy()
