"""What a small step along one task's update does to another task's loss: the first-order gain.

    gain(i -> j) = - <grad_W L_j, dW_i> = - d/dt L_j(W + t dW_i) at t = 0

L_j is the mean cross entropy of task j's answers at the base model. It is positive where the update goes downhill for
the target, and it has a direction. The gradient of a linear layer is G^T X, with X its inputs and G the gradients of
its outputs, so that for dW = B A

    <G^T X, B A> = <G B, X A^T>

is a product of two thin matrices and no gradient of a weight is ever formed. Updates of whole weights take the
gradients of those weights; each is used when it is there and dropped at once, so that one is held at a time.
`gain_unit` is the gain per unit of |dW_i|, which leaves sizes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.batch import collate, keep_answers
from interp.tuning.dataset import Learnable, as_example, encode_all
from interp.updates.comparison import Measured, Part
from interp.updates.deltas import LowRank, chunks
from interp.updates.geometry import common_shape
from interp.updates.places import Place, places
from interp.updates.update import Update

Losses: TypeAlias = Callable[[], Iterable[Tensor]]
"""Gives parts of a loss one after another, each with its graph; the loss is their sum."""
Totals: TypeAlias = dict[Place, Float[np.ndarray, " K"]]


def gains(
    model: Model,
    updates: Sequence[Update],
    losses: Mapping[str, Losses],
    *,
    progress: Callable[[str], object] | None = None,
) -> dict[str, Totals]:
    """First-order gains of every update for every target, weight by weight.

    Args:
        model: the base model; it is as before afterwards.
        updates: K of them.
        losses: target -> its loss at the base model, in parts.
        progress: is told each target that is done.

    Returns:
        Target -> place of each weight -> gains of the K updates, in nats per answer token.

    Raises:
        CrosstaskError: an update has a weight that the model has not, or of another shape.
    """
    found = {}
    with watched(model, updates) as totals:
        for target, parts in losses.items():
            for values in totals.values():
                values[:] = 0.0
            for loss in parts():
                loss.backward()
            found[target] = {where: -values for where, values in totals.items()}
            if progress is not None:
                progress(target)
    return found


def answer_losses(model: Model, examples: Sequence[Learnable], *, batch: int = 8) -> Losses:
    """The mean cross entropy of the answers to some examples, as a training step has it, in parts of a batch each.

    Args:
        model: the model that reads them.
        examples: questions with answers.
        batch: how many are read together.

    Raises:
        CrosstaskError: an example cannot be read by the model.
    """
    from interp.tuning.trainer import answer_loss

    encoded = encode_all(model, [as_example(example) for example in examples])
    tokens = sum(one.n_answer_tokens for one in encoded)

    def parts() -> Iterator[Tensor]:
        for start in range(0, len(encoded), batch):
            inputs = keep_answers(model, collate(model, encoded[start : start + batch]))
            labels = inputs.pop("labels")
            model.reset_state()
            with torch.enable_grad():
                yield answer_loss(model.module(**inputs, use_cache=False), labels, tokens)
        model.reset_state()

    return parts


@contextmanager
def watched(model: Model, updates: Sequence[Update]) -> Iterator[Totals]:
    """While a loss is taken back through the model, add <grad_W L, dW_i> to the totals of each weight."""
    layers = {name: part for name, part in model.module.named_modules() if hasattr(part, "weight")}
    modules = {where: layers[name] for where, name in places(layers, of=f"model {model.name!r}").items()}
    parameters = _parameters(model.module)
    totals: Totals = {where: np.zeros(len(updates)) for update in updates for where in update.places}
    with ExitStack() as stack:
        for where, total in totals.items():
            deltas = {k: delta for k, update in enumerate(updates) if (delta := update.delta(where)) is not None}
            module = modules.get(where)
            thin = all(isinstance(delta, LowRank) and not delta.is_vector for delta in deltas.values())
            if thin and module is not None and not isinstance(module, nn.Embedding):
                _check_shape(module, where, deltas, model)
                factors = {k: delta for k, delta in deltas.items() if isinstance(delta, LowRank)}
                stack.callback(_on_layer(module, factors, total).remove)
            elif where in parameters:
                _on_parameter(parameters[where], where, deltas, total, stack)
            else:
                raise CrosstaskError(
                    f"update {str(updates[next(iter(deltas))].name)!r} has a weight at {where.name!r}, and model "
                    f"{model.name!r} has none there"
                )
        yield totals


def _parameters(module: nn.Module) -> dict[Place, nn.Parameter]:
    """Every parameter by its place; a tied head is its embedding, and once there."""
    found = dict(module.named_parameters())
    return {where: found[name] for where, name in places(found, of="the model").items()}


def _check_shape(module: nn.Module, where: Place, deltas: Mapping[int, Any], model: Model) -> None:
    """A quantised weight says its shape as features alone, a transposed one the other way round."""
    out, width = getattr(module, "out_features", None), getattr(module, "in_features", None)
    if out is None or width is None:
        width, out = getattr(module, "weight").shape  # GPT-2's Conv1D  # noqa: B009
    for delta in deltas.values():
        if delta.shape != (out, width):
            raise CrosstaskError(
                f"the update at {where.name!r} has shape {delta.shape}, and the layer of model {model.name!r} has "
                f"{(out, width)}"
            )


def _on_layer(module: nn.Module, factors: Mapping[int, LowRank], total: Float[np.ndarray, " K"]) -> Any:
    """Add <G B, X A^T> for each update when the gradient of a layer's output comes."""
    held: list[tuple[int, Tensor, Tensor]] = []

    def forward(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not torch.is_grad_enabled():
            return
        x = inputs[0].detach()
        if not output.requires_grad:
            output.requires_grad_(True)  # nothing before it has a gradient

        def backward(gradient: Tensor) -> None:
            if not held:
                for k, low in factors.items():
                    a, b = (torch.from_numpy(f).to(x.device, x.dtype) for f in (low.scale * low.right, low.left))
                    held.append((k, a, b))
            rows, grads = x.flatten(0, -2), gradient.flatten(0, -2)
            for k, a, b in held:
                total[k] += float(((grads @ b).double() * (rows @ a.T).double()).sum())

        output.register_hook(backward)

    return module.register_forward_hook(forward)


def _on_parameter(
    parameter: nn.Parameter,
    where: Place,
    deltas: Mapping[int, Any],
    total: Float[np.ndarray, " K"],
    stack: ExitStack,
) -> None:
    """Add <grad, dW> for each update when a weight's gradient is there, and drop the gradient."""
    shape = common_shape(list(deltas.values()))
    if shape[0] * shape[1] != parameter.numel():
        raise CrosstaskError(f"the update at {where.name!r} has shape {shape}, not {tuple(parameter.shape)}")

    def use(weight: Tensor) -> None:
        assert weight.grad is not None
        gradient = weight.grad.reshape(shape)
        for start, stop in chunks(shape):
            part = gradient[start:stop].double().cpu()
            for k, delta in deltas.items():
                total[k] += float((part * torch.from_numpy(delta.rows(start, stop))).sum())
        weight.grad = None

    before = parameter.requires_grad
    parameter.requires_grad_(True)
    handle = parameter.register_post_accumulate_grad_hook(use)
    stack.callback(parameter.requires_grad_, before)
    stack.callback(handle.remove)


def measured_gains(
    found: Mapping[str, Totals], updates: Sequence[Update], norms: Mapping[Place, Float[np.ndarray, " K"]]
) -> Iterator[Measured]:
    """Gains as measures of pairs of updates, for the tables: the column of an update is that of its task.

    Args:
        found: from :func:`gains`; targets that no update is of are left out.
        updates: K of them, in the order of the totals.
        norms: Frobenius norms of the updates of each weight.

    Returns:
        `gain` and `gain_unit` of the whole, of each layer and of each projection.
    """
    parts: dict[Part, list[Place]] = {}
    for where in next(iter(found.values())):
        inside = [Part(where.layer), Part(where.layer, where.projection)] if where.layer >= 0 else []
        for part in (Part(), Part("all", where.projection), *inside):
            parts.setdefault(part, []).append(where)
    k = len(updates)
    for part, wheres in parts.items():
        value = np.full((k, k), np.nan)
        for column, update in enumerate(updates):
            if update.name.task in found:
                value[:, column] = sum((found[update.name.task][where] for where in wheres), np.zeros(k))
        size = np.sqrt(sum((np.square(norms[where]) for where in wheres if where in norms), np.zeros(k)))[:, None]
        unit = np.divide(value, size, out=np.full((k, k), np.nan), where=size > 0)
        yield Measured("gain", part, False, value, np.zeros((k, k)))
        yield Measured("gain_unit", part, False, unit, np.zeros((k, k)))
