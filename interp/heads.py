"""Attention heads: what each writes at the delimiter, which of them carry a task, and their sum as a vector.

A head ``(l, h)`` is read at the input of its layer's output projection, ``z_lh`` of width D_head; what it adds to the
residual stream is ``W_O[:, h] z_lh``. With ``m_lh`` the mean of ``z_lh`` at the delimiter over prompts with right
labels, the causal indirect effect of the head on a prompt with shuffled labels is

    CIE_lh = log p(answer | z_lh <- m_lh) - log p(answer)

at the first answer token, and its average over prompts and tasks (AIE) ranks the heads. The function vector of a set
of heads H is ``sum over (l, h) in H of W_O[:, h] m_lh``, to be added to the residual stream at one layer (Todd et al.
2024, section 2; they take differences of probabilities, which this module gives too).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp.batches import chunks, collate
from interp.errors import CrosstaskError
from interp.hooks import capture
from interp.memory import memory_plan, within_memory
from interp.models.base import Model
from interp.patching import RowPatch, sweep_logits
from interp.prompts import Prompt

Head = tuple[int, int]
"""Layer and head."""


@within_memory
def extract_heads(model: Model, prompts: Sequence[Prompt], *, budget: int | None = None) -> Float[Tensor, "P L H E"]:
    """Every head's state at each prompt's last delimiter, before the output projection.

    Args:
        model: the model to read from.
        prompts: P prompts, of any lengths and numbers of images.
        budget: tokens per forward pass; by default what memory allows.

    Returns:
        ``[P, L, H, D_head]`` on the CPU, in float32 (float64 for a float64 model).
    """
    dtype = torch.promote_types(model.dtype, torch.float32)
    states = torch.empty(len(prompts), model.n_layers, model.n_heads, model.head_width, dtype=dtype)
    for group in chunks(prompts, budget or memory_plan(model).tokens):
        batch = collate(model, [prompts[i] for i in group])
        with capture(model.projections, batch.positions, site="input") as captured:
            model.forward(batch.inputs, use_cache=False)
        states[group] = captured.states.transpose(0, 1).unflatten(-1, (model.n_heads, -1)).to("cpu", dtype)
    return states


def indirect_effects(
    model: Model,
    prompts: Sequence[Prompt],
    answers: Int[Tensor, " P"],
    means: Float[Tensor, "L H E"],
) -> tuple[Float[Tensor, "P L H"], Float[Tensor, "P L H"]]:
    """The causal indirect effect of every head on every prompt, from one prefill of each.

    Args:
        model: the model.
        prompts: P prompts whose labels do not tell the task.
        answers: the token id of each right answer's first token.
        means: each head's mean state at the delimiter of prompts that do.

    Returns:
        The gains in log-probability (nats) and in probability of the right first token, ``[P, L, H]`` each.

    Raises:
        CrosstaskError: if the means are not those of the model's heads, or there are not as many answers as prompts.
    """
    expected = (model.n_layers, model.n_heads, model.head_width)
    if tuple(means.shape) != expected:
        raise CrosstaskError(
            f"the mean head states have shape {tuple(means.shape)}; {model.name!r} has {expected[0]} layers of "
            f"{expected[1]} heads of width {expected[2]}"
        )
    if len(answers) != len(prompts):
        raise CrosstaskError(f"{len(prompts)} prompts, but {len(answers)} answers")
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    rows = [RowPatch(layer, means[layer, head], head=head) for layer, head in heads]
    gains = []
    for prompt, answer in zip(prompts, answers.tolist(), strict=True):
        (logits,) = sweep_logits(model, [prompt], [[RowPatch(0, None), *rows]], allow_noop=True)
        gains.append(functional.log_softmax(logits.float(), -1)[:, answer])
    scores = torch.stack(gains) if gains else torch.empty(0, 1 + len(rows))
    shape = (len(prompts), model.n_layers, model.n_heads)
    logs = (scores[:, 1:] - scores[:, :1]).view(shape)
    return logs, (scores[:, 1:].exp() - scores[:, :1].exp()).view(shape)


def strongest(effects: Float[Tensor, "L H"], count: int) -> list[Head]:
    """The heads with the greatest average indirect effect, greatest first; ties in the order of layers.

    Raises:
        CrosstaskError: unless 1 <= count <= L H.
    """
    if not 1 <= count <= effects.numel():
        raise CrosstaskError(f"asked for the {count} strongest heads of {effects.numel()}")
    order = effects.flatten().argsort(descending=True, stable=True)[:count].tolist()
    return [divmod(place, effects.shape[1]) for place in order]


def sum_of_heads(model: Model, means: Float[Tensor, "L H E"], heads: Sequence[Head]) -> Float[Tensor, " D"]:
    """The function vector of some heads: what they add to the residual stream together, ``[D]``, on the CPU.

    A bias of the output projection belongs to no head and is left out.
    """
    if not heads:
        raise CrosstaskError("a sum of heads needs at least one head")
    total = torch.zeros(model.width, dtype=means.dtype)
    for layer, head in heads:
        weight = model.family.projection_weight(model.projections[layer]).unflatten(1, (model.n_heads, -1))[:, head]
        total += weight.to("cpu", means.dtype) @ means[layer, head]
    return total
