"""Vectors of perception tasks: mean states of contexts, and how reliable they are.

    v_j = mean over contexts c of h_l(c)[position],   [L, D]

Each vector comes in two halves, means over the first and over the other half of its contexts, which share no item. The
cosine of the two halves is what a vector can have in common with anything measured on as few contexts; for the mean of
both, reliability is 2 r / (1 + r) (Spearman 1910, Brown 1910). States of all tasks have much in common, so reliability
is given without the mean over tasks too, which is the ceiling of what tells tasks apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.hooks import capture
from interp.memory import memory_plan
from interp.models.base import Model
from interp.tuning.adapters import adapter_at_work
from interp.tuning.evaluation.packing import Pack, Reading, batches, collate_packs
from interp.tuning.evaluation.vision import Vision, last_logits, told


@torch.no_grad()
def read_states(
    model: Model,
    readings: Sequence[Reading],
    vision: Vision,
    *,
    texts: Sequence[str] | None = None,
    budget: int | None = None,
) -> Float[Tensor, "N L D"]:
    """The residual stream after each block at the last token of each reading, on the CPU.

    Args:
        model: the model, with whatever adapter is at work.
        readings: N of them, of any lengths.
        vision: how their pictures enter.
        texts: what an adapter whose vision tower reads the question is told of each reading
            (:func:`interp.tuning.text_context.context_text`); other adapters need none.
        budget: most tokens of a forward pass; by the memory that is free by default.

    Raises:
        CrosstaskError: the tower of the adapter at work reads texts, and there are none.
    """
    if adapter_at_work(model).reads_text and texts is None:
        raise CrosstaskError(
            "the vision tower of the adapter at work reads the question: give the text of each reading"
        )
    packs = [Pack((reading,), 0) for reading in readings]
    dtype = torch.promote_types(model.dtype, torch.float32)
    states = torch.empty(len(packs), model.n_layers, model.width, dtype=dtype)
    for group in batches(packs, budget or memory_plan(model).tokens, device=model.device.type):
        batch = collate_packs(
            [packs[index] for index in group], pad_id=model.pad_id, dtype=model.dtype, device=model.device
        )
        last = torch.full((len(group),), batch.inputs["input_ids"].shape[1] - 1)
        asked = told(model, [texts[index] for index in group], batch, vision) if texts else nullcontext()
        with asked, capture(model.blocks, last) as captured:
            last_logits(model, vision.join(batch.inputs, batch.pictures), 1)
        states[group] = captured.states.transpose(0, 1).to("cpu", dtype)
    return states


def halves(states: Float[Tensor, "N L D"]) -> Float[Tensor, "2 L D"]:
    """Means over the first and over the second half of the contexts.

    Raises:
        CrosstaskError: a state is not a number.
    """
    if not torch.isfinite(states).all():
        raise CrosstaskError("states of the model are no numbers: it has diverged")
    return torch.stack([half.double().mean(0) for half in states.chunk(2)]).to(states.dtype)


def reliability(vectors: Mapping[str, Float[np.ndarray, "K 2 L D"]], tasks: Sequence[str]) -> pd.DataFrame:
    """Cosines of the two halves of every vector.

    Args:
        vectors: setting -> the halves of all K tasks.
        tasks: their names.

    Returns:
        Rows of setting, layer, task, raw and centred (cosines of the halves), raw_full and centred_full (of the whole
        vector, by Spearman and Brown), and identified: whether the task whose second half is nearest to the first, by
        centred cosine, is the task itself.
    """
    rows = []
    for setting, found in vectors.items():
        split = np.asarray(found, dtype=np.float64)
        centred = split - split.mean(0, keepdims=True)
        for layer in range(split.shape[2]):
            raw = cosines(split[:, 0, layer], split[:, 1, layer])
            alike = cosines(centred[:, 0, layer], centred[:, 1, layer])
            for place, task in enumerate(tasks):
                own, without = raw[place, place], alike[place, place]
                rows.append(
                    {
                        "setting": setting,
                        "layer": layer,
                        "task": task,
                        "raw": own,
                        "centred": without,
                        "raw_full": 2 * own / (1 + own),
                        "centred_full": 2 * without / (1 + without) if without > -0.5 else np.nan,
                        "identified": float(np.argmax(alike[place]) == place),
                    }
                )
    return pd.DataFrame(rows)


def most_reliable_layer(table: pd.DataFrame, setting: str) -> int:
    """The layer at which the halves of a setting's centred vectors agree best, on average over tasks."""
    shown = table[table["setting"] == setting]
    return int(shown.groupby("layer")["centred"].mean().idxmax())


def cosines(a: Float[np.ndarray, "K D"], b: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "K M"]:
    """Cosines of all rows with all rows; 0 where a row is zero."""
    sizes = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return np.divide(a @ b.T, sizes, out=np.zeros_like(sizes), where=sizes > 0)
