"""What a backend does, and the plain way of doing it: every row a whole forward pass of its own.

    extract    h_l[delimiter] of each prompt, ``[P, L, D]``
    logits     of the first answer token, one patch per prompt, ``[P, V]``
    generate   greedy answers, patched in the prefill only
    sweep      many patches of the same queries

Batches are collated by :func:`interp.batches.collate`, left-padded, with explicit positions and masks and the vision
inputs of all images; edits are :class:`interp.hooks.Edit`. A tool has to run them, and nothing of ours runs in between:
:class:`PlainBackend` is told by each tool how it reads, predicts and answers one batch. A tool that changes the module
it wraps gets a :func:`twin`, so that what it does never shows in our own runs.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import ClassVar, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.batches import Batch, chunks, collate
from interp.decoding import Answers, Generation
from interp.errors import CrosstaskError
from interp.hooks import Edit, HookError, Mode
from interp.memory import memory_plan
from interp.models.base import Model
from interp.patching import check_patches, row_patches
from interp.prefix import Manner, RowPatch, edits_of
from interp.prompts import Prompt

Module = TypeVar("Module", bound=nn.Module)


class Backend(Protocol):
    """Captures and patches; arguments, results and errors are those of the functions of the same names in
    :mod:`interp.vectors` and :mod:`interp.patching`."""

    def extract(
        self, model: Model, prompts: Sequence[Prompt], *, budget: int | None = None
    ) -> Float[Tensor, "P L D"]: ...

    def logits(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        patches: Sequence[RowPatch],
        *,
        mode: Mode = "replace",
        scale: float = 1.0,
        budget: int | None = None,
        allow_noop: bool = False,
    ) -> Float[Tensor, "P V"]:
        """Logits of the first answer token, on the CPU, one patch (or none: ``vector=None``) per prompt."""
        ...

    def generate(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        *,
        vectors: Sequence[Float[Tensor, " D"] | None] | None = None,
        layers: Sequence[int] | None = None,
        mode: Mode = "replace",
        scale: float = 1.0,
        max_new_tokens: int = 12,
        stop: str | None = "\n",
        budget: int | None = None,
        allow_noop: bool = False,
    ) -> list[Generation]: ...

    def sweep(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        rows: Sequence[Sequence[RowPatch]],
        *,
        mode: Mode = "replace",
        scale: float = 1.0,
        max_new_tokens: int = 12,
        stop: str | None = "\n",
        keep: Callable[[int, int, str], bool] | None = None,
        budget: int | None = None,
    ) -> list[list[Generation]]: ...


class PlainBackend(ABC):
    """A tool without prefix reuse: a subclass says how one batch is read, predicted and answered in it."""

    name: ClassVar[str]

    @abstractmethod
    def read(self, model: Model, batch: Batch) -> Float[Tensor, "B L D"]:
        """The states after every block at each row's delimiter."""

    @abstractmethod
    def predict(
        self, model: Model, batch: Batch, edits: Mapping[int, Edit], *, allow_noop: bool
    ) -> Float[Tensor, "B V"]:
        """Logits of the first answer token of a batch with edits, by layer."""

    @abstractmethod
    def answer(
        self,
        model: Model,
        batch: Batch,
        edits: Mapping[int, Edit],
        answers: Answers,
        rows: Sequence[int],
        *,
        allow_noop: bool,
    ) -> None:
        """Decode a batch greedily, edited in the prefill; row ``b`` writes the answer ``rows[b]``."""

    def extract(self, model: Model, prompts: Sequence[Prompt], *, budget: int | None = None) -> Float[Tensor, "P L D"]:
        """As :func:`interp.vectors.extract`."""
        dtype = torch.promote_types(model.dtype, torch.float32)
        states = torch.empty(len(prompts), model.n_layers, model.width, dtype=dtype)
        for group in chunks(prompts, budget or memory_plan(model).tokens):
            found = self.read(model, collate(model, [prompts[i] for i in group]))
            states[group] = found.to("cpu", dtype)
        return states

    def logits(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        patches: Sequence[RowPatch],
        *,
        mode: Mode = "replace",
        scale: float = 1.0,
        budget: int | None = None,
        allow_noop: bool = False,
    ) -> Float[Tensor, "P V"]:
        """As :meth:`Backend.logits`."""
        check_lengths(prompts, patches)
        found: list[Tensor] = [torch.empty(0)] * len(prompts)
        for group, batch, edits in self._batches(model, prompts, patches, Manner(mode, scale), budget):
            logits = self.predict(model, batch, edits, allow_noop=allow_noop)
            for index, row in zip(group, logits.cpu(), strict=True):
                found[index] = row
        return torch.stack(found)

    def generate(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        *,
        vectors: Sequence[Float[Tensor, " D"] | None] | None = None,
        layers: Sequence[int] | None = None,
        mode: Mode = "replace",
        scale: float = 1.0,
        max_new_tokens: int = 12,
        stop: str | None = "\n",
        budget: int | None = None,
        allow_noop: bool = False,
    ) -> list[Generation]:
        """As :func:`interp.patching.generate`."""
        patches = row_patches(prompts, vectors, layers)
        answers = Answers(model, len(prompts), max_new_tokens=max_new_tokens, stop=stop)
        for group, batch, edits in self._batches(model, prompts, patches, Manner(mode, scale), budget):
            self.answer(model, batch, edits, answers, group, allow_noop=allow_noop)
        return answers.results()

    def sweep(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        rows: Sequence[Sequence[RowPatch]],
        *,
        mode: Mode = "replace",
        scale: float = 1.0,
        max_new_tokens: int = 12,
        stop: str | None = "\n",
        keep: Callable[[int, int, str], bool] | None = None,
        budget: int | None = None,
    ) -> list[list[Generation]]:
        """As :func:`interp.patching.sweep`, from a prefill per row."""
        check_lengths(prompts, rows)
        owner = [(q, r) for q, patches in enumerate(rows) for r in range(len(patches))]
        answers = Answers(
            model,
            len(owner),
            max_new_tokens=max_new_tokens,
            stop=stop,
            keep=None if keep is None else lambda answer, text: keep(*owner[answer], text),
        )
        repeated, patches = [prompts[q] for q, _ in owner], [rows[q][r] for q, r in owner]
        for group, batch, edits in self._batches(model, repeated, patches, Manner(mode, scale), budget):
            self.answer(model, batch, edits, answers, group, allow_noop=False)
        results, first = answers.results(), list(accumulate(map(len, rows), initial=0))
        return [results[start:end] for start, end in pairwise(first)]

    def _batches(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        patches: Sequence[RowPatch],
        manner: Manner,
        budget: int | None,
    ) -> Iterator[tuple[list[int], Batch, dict[int, Edit]]]:
        """Forward passes that fit: which prompts are in one, its batch, and what is written where."""
        check_patches(model, patches)
        for group in chunks(prompts, budget or memory_plan(model).tokens):
            batch = collate(model, [prompts[i] for i in group])
            edits = edits_of([patches[i] for i in group], range(len(group)), batch.positions.tolist(), manner)
            if len(edits) > 1 or any(site == "input" for site, _ in edits):
                raise CrosstaskError(
                    f"backend {self.name!r} patches whole states, all in one mode; use backend hooks for more"
                )
            yield group, batch, dict(sorted(next(iter(edits.values()), {}).items()))


def twin(module: Module) -> Module:
    """The same module once more, for a tool to change: every parameter and buffer is shared, nothing else is."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def written(edit: Edit, old: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """What an edit leaves where ``old`` was."""
    new = edit.vectors.to(old) * edit.scale
    return old + new if edit.mode == "add" else new


def refuse_noop(layer: int, edit: Edit, old: Float[Tensor, "N D"]) -> None:
    """Raise a HookError if an edit leaves a row as it was."""
    unchanged: Bool[Tensor, " N"] = (written(edit, old) == old).all(-1).cpu()
    if unchanged.any():
        raise HookError(f"layer {layer}: the patch changes nothing in rows {edit.rows[unchanged].tolist()}")


def check_lengths(prompts: Sequence[Prompt], patches: Sequence[object]) -> None:
    """Raise a CrosstaskError unless there are as many patches (or rows of them) as prompts."""
    if len(prompts) != len(patches):
        raise CrosstaskError(f"{len(prompts)} queries, but patches for {len(patches)}")
