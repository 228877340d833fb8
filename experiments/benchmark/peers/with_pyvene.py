"""pyvene 0.1.8, as an ``IntervenableModel`` around a twin of the loaded model.

Its table of module paths for LLaVA is that of transformers 4 and leads nowhere in transformers 5, so the blocks are
named by path (``model.language_model.layers[3].output``), which pyvene allows for any module. A capture collects one
position per row at every block (``CollectIntervention``). A patch is a function of the states at each row's delimiter,
at every block; rows that are patched elsewhere get their own states back, so that rows of many layers share a batch.
``generate`` patches the prompt only (``intervene_on_prompt``). Before every run pyvene takes all forward hooks off the
model, those of transformers 5 included, without which LLaVA finds no image features; here it is kept from that, and
removes only its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.benchmark.peers.base import Peer
from interp.backends.base import PlainBackend, twin
from interp.backends.registry import needed_package
from interp.batches import Batch
from interp.decoding import Answers
from interp.hooks import Edit
from interp.models.base import Model


class PyveneBackend(PlainBackend):
    """Reads and writes through ``IntervenableModel``."""

    name = "pyvene"

    def __init__(self) -> None:
        self.pyvene = needed_package("pyvene", backend=self.name)
        self._made: WeakKeyDictionary[Model, tuple[Any, Any]] = WeakKeyDictionary()
        self._edits: Mapping[int, Edit] = {}

    @torch.no_grad()
    def read(self, model: Model, batch: Batch) -> Float[Tensor, "B L D"]:
        collector, _ = self._wrapped(model)
        (_, found), _ = collector(self._inputs(model, batch), unit_locations=self._columns(model, batch))
        return torch.stack([states.reshape(len(batch.positions), -1) for states in found], dim=1)

    @torch.no_grad()
    def predict(
        self, model: Model, batch: Batch, edits: Mapping[int, Edit], *, allow_noop: bool
    ) -> Float[Tensor, "B V"]:
        _, writer = self._wrapped(model)
        self._edits = edits
        _, output = writer(self._inputs(model, batch), unit_locations=self._columns(model, batch))
        return output.logits[:, -1]

    @torch.no_grad()
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
        _, writer = self._wrapped(model)
        self._edits = edits
        model.family.reset_state(writer.model)
        _, ids = writer.generate(
            {name: tensor for name, tensor in batch.inputs.items() if name != "position_ids"},
            unit_locations=self._columns(model, batch),
            intervene_on_prompt=True,
            max_new_tokens=answers.max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=sorted(model.stop_ids),
            pad_token_id=model.pad_id,
        )
        for step in ids[:, batch.inputs["input_ids"].shape[1] :].T.tolist():
            if not answers.push(rows, step):
                return

    def _inputs(self, model: Model, batch: Batch) -> dict[str, Any]:
        keep = {"logits_to_keep": 1} if "logits_to_keep" in model._accepts else {}
        return {**batch.inputs, **keep, "use_cache": False}

    def _columns(self, model: Model, batch: Batch) -> dict[str, list[list[list[int]]]]:
        """Each row's delimiter, for every block."""
        return {"base": [[[column] for column in batch.positions.tolist()]] * model.n_layers}

    def _wrapped(self, model: Model) -> tuple[Any, Any]:
        """What reads and what writes, made once."""
        if model not in self._made:
            path = next(name for name, module in model.module.named_modules() if module is model.blocks)
            places = [f"{path}[{layer}].output" for layer in range(model.n_layers)]
            readers = [
                {"component": place, "intervention": self.pyvene.CollectIntervention(embed_dim=model.width)}
                for place in places
            ]
            writers = [{"component": place, "intervention": self._write(n)} for n, place in enumerate(places)]
            made = [self.pyvene.IntervenableModel(given, twin(model.module)) for given in (readers, writers)]
            for wrapper in made:
                wrapper._remove_forward_hooks = _nothing
            self._made[model] = made[0], made[1]
        return self._made[model]

    def _write(self, layer: int) -> Callable[[Tensor, Any], Tensor | None]:
        def write(states: Float[Tensor, "B 1 D"], _source: Any) -> Float[Tensor, "B 1 D"] | None:
            if layer not in self._edits:
                return None
            edit, changed = self._edits[layer], states.clone()
            changed[edit.rows.to(states.device), 0] = edit.vectors.to(states)
            return changed

        return write


def _nothing() -> None:
    """In place of pyvene's clearing of all hooks: transformers 5 reads the vision tower by hooks of its own."""


class Pyvene(Peer):
    """pyvene, where it is installed."""

    package = "pyvene"

    def __init__(self) -> None:
        super().__init__(PyveneBackend())
