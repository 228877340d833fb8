"""Task vectors: the residual stream at a prompt's last delimiter, after every block.

A context that ends in a *dummy query* gives ``v_l = h_l[delimiter]``, ``[L, D]``: by causality the state has seen the
demonstrations and the dummy input, never the query it will be patched into (Hendel et al. 2023, section 3; Luo et al.
2025, section 3). Over contexts it is averaged with a leak mask, ``v = mean over {c : query not in items(c)} of v_c``,
and over kinds of specification it is ensembled with equal weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.batches import chunks, collate
from interp.errors import CrosstaskError
from interp.files import atomic_file
from interp.hooks import capture
from interp.memory import memory_plan, within_memory
from interp.models.base import Model
from interp.prompts import Prompt

FORMAT = "crosstask.task_vectors.1"


@dataclass(frozen=True)
class Provenance:
    """Where a vector comes from, in full.

    Attributes:
        model: name of the model it was read from.
        fingerprint: sha256 over that model's weights.
        tokenizer: sha256 over that model's base vocabulary.
        task: name of the task.
        kind: kind of specification: ``examples``, ``instruction``, ``mixture``; joined by ``+`` in an ensemble;
            ``heads`` is a sum of heads over examples, the same at every layer, to be added.
        modality: modality of the examples' inputs: ``text``, ``image``, ``mixed``, ``none``.
        template: the template as text.
        delimiter: the delimiter's characters.
        demonstrations: complete demonstrations (input and output) seen in all contexts together.
        contexts: number of contexts averaged over.
        seeds: seeds of the draws of examples.
        items: every item that any context contained, for the leak mask of later users.
    """

    model: str
    fingerprint: str
    tokenizer: str
    task: str
    kind: str
    modality: str
    template: str
    delimiter: str
    demonstrations: int
    contexts: int
    seeds: tuple[int, ...] = ()
    items: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model, **rest: Any) -> Provenance:
        """A provenance whose model fields are filled in."""
        return cls(model=model.name, fingerprint=model.fingerprint, tokenizer=model.tokenizer_fingerprint, **rest)


@dataclass(frozen=True, eq=False)
class TaskVectors:
    """One vector per layer, with its provenance.

    Attributes:
        states: ``[L, D]``, on the CPU; row ``l`` is read after block ``l`` and is patched there.
        provenance: where it comes from.
    """

    states: Float[Tensor, "L D"]
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or not torch.isfinite(self.states).all():
            raise CrosstaskError(f"task vectors must be finite and [L, D], got shape {tuple(self.states.shape)}")

    def layer(self, layer: int) -> Float[Tensor, " D"]:
        """The vector of one layer.

        Raises:
            CrosstaskError: if the layer is out of range (layers are not counted from the end).
        """
        if not 0 <= layer < len(self.states):
            raise CrosstaskError(f"layer {layer} is out of range; the vectors have layers 0 to {len(self.states) - 1}")
        return self.states[layer]

    def save(self, path: Path | str) -> None:
        """Write a safetensors file with the provenance in its header; whole or not at all."""
        header = {"format": FORMAT, "provenance": json.dumps(asdict(self.provenance), ensure_ascii=False)}
        with atomic_file(Path(path)) as draft:
            save_file({"states": self.states.contiguous()}, draft, metadata=header)

    @classmethod
    def load(cls, path: Path | str) -> TaskVectors:
        """Read what :meth:`save` wrote.

        Raises:
            CrosstaskError: if the file is missing, damaged, or holds something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise CrosstaskError(f"{str(path)!r} holds no task vectors (format {header.get('format')!r})")
                stored = json.loads(header["provenance"])
                states = file.get_tensor("states")
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            if isinstance(error, CrosstaskError):
                raise
            raise CrosstaskError(f"task vectors {str(path)!r} cannot be read: {error}") from error
        known = {f.name for f in fields(Provenance)}
        if set(stored) - known:
            raise CrosstaskError(f"{str(path)!r} holds unknown provenance: {', '.join(sorted(set(stored) - known))}")
        stored |= {name: tuple(stored.get(name, ())) for name in ("seeds", "items")}
        return cls(states, Provenance(**stored))

    def compatible_with(self, model: Model) -> list[str]:
        """Whether the vectors may be patched into a model.

        Returns:
            Remarks that belong beside the result: other weights, another tokenizer. Empty for the same model.

        Raises:
            CrosstaskError: if the residual stream has another width, or the model another number of blocks.
        """
        layers, width = self.states.shape
        source = self.provenance
        if (layers, width) != (model.n_layers, model.width):
            raise CrosstaskError(
                f"vectors of {source.model!r} ({layers} layers of width {width}) cannot be patched into {model.name!r} "
                f"({model.n_layers} layers of width {model.width})"
            )
        remarks = []
        if source.fingerprint != model.fingerprint:
            remarks.append(f"the vectors come from other weights ({source.model}) than {model.name}'s")
        if source.tokenizer != model.tokenizer_fingerprint:
            remarks.append(f"the vectors come from another tokenizer ({source.model}) than {model.name}'s")
        return remarks


@within_memory
def extract(model: Model, prompts: Sequence[Prompt], *, budget: int | None = None) -> Float[Tensor, "P L D"]:
    """The states at each prompt's last delimiter after every block, in as few forward passes as fit.

    Args:
        model: the model to read from.
        prompts: P contexts, of any lengths and numbers of images.
        budget: tokens per forward pass; by default what memory allows.

    Returns:
        ``[P, L, D]`` on the CPU, in float32 (float64 for a float64 model).
    """
    dtype = torch.promote_types(model.dtype, torch.float32)
    states = torch.empty(len(prompts), model.n_layers, model.width, dtype=dtype)
    for group in chunks(prompts, budget or memory_plan(model).tokens):
        batch = collate(model, [prompts[i] for i in group])
        with capture(model.blocks, batch.positions) as captured:
            model.forward(batch.inputs, use_cache=False)
        states[group] = captured.states.transpose(0, 1).to("cpu", dtype)
    return states


def mean(
    contexts: Float[Tensor, "P L D"], *, items: Sequence[Collection[str]], exclude: str | None
) -> Float[Tensor, "L D"]:
    """The mean over the contexts that do not contain an item.

    Args:
        contexts: states of P contexts.
        items: for each context the names of all items in it, its dummy query included.
        exclude: the item that the vector will be tested on, or None to average over all.

    Raises:
        CrosstaskError: if every context contains the item.
    """
    if len(items) != len(contexts):
        raise CrosstaskError(f"{len(contexts)} contexts, but the items of {len(items)}")
    kept = [index for index, names in enumerate(items) if exclude is None or exclude not in names]
    if not kept:
        raise CrosstaskError(f"all {len(contexts)} contexts contain the query item {exclude!r}; draw more contexts")
    return contexts[kept].mean(0)


def ensemble(vectors: Sequence[TaskVectors]) -> TaskVectors:
    """The elementwise mean of several vectors of one model and task, with weight 1/n each (Luo et al., section 4.3).

    Raises:
        CrosstaskError: if the vectors come from different models or tasks, or there are none.
    """
    if not vectors:
        raise CrosstaskError("an ensemble needs at least one vector")
    sources = [v.provenance for v in vectors]
    for name in ("fingerprint", "task"):
        values = {getattr(source, name) for source in sources}
        if len(values) > 1:
            raise CrosstaskError(f"an ensemble is over one {name}, got {', '.join(sorted(values))}")
    joined = {
        name: "+".join(dict.fromkeys(getattr(s, name) for s in sources)) for name in ("kind", "modality", "template")
    }
    provenance = replace(
        sources[0],
        **joined,
        demonstrations=sum(s.demonstrations for s in sources),
        contexts=sum(s.contexts for s in sources),
        seeds=tuple(sorted({seed for s in sources for seed in s.seeds})),
        items=tuple(sorted({item for s in sources for item in s.items})),
    )
    return TaskVectors(torch.stack([v.states for v in vectors]).mean(0), provenance)


def norm_matched_random(states: Float[Tensor, "... D"], seed: int) -> Float[Tensor, "... D"]:
    """A control: random directions, uniform on the sphere, each with the norm of the vector it stands in for."""
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scale = states.double().norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return (noise * scale).to(states)
