"""nnsight: traces of a twin of the loaded model, so no weight is held twice; or of a model that NDIF holds.

One trace is one forward pass, or one greedy generation by transformers' own loop, with a batch that is padded already:
a trace with images may hold one invoke only, and that one is it. Rows and columns are indexed inside the trace.

With ``remote`` the trace is sent to NDIF, with the key that nnsight itself reads: the variable ``NDIF_API_KEY``, or
what ``nnsight.login()`` stored. ``load_model(name, device="remote")`` loads everything but the weights, and such a
model is traced remotely without being asked. ``remote="local"`` is nnsight's dry run: the request is written and read
again with our own modules hidden, and runs on the loaded weights. The bodies of the traces therefore use nothing but
torch and plain values.

Importing nnsight puts a method ``save`` on every object of the process; that is its design, and ends with the process.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from interp.backends.base import PlainBackend, refuse_noop, twin
from interp.backends.registry import needed_package
from interp.batches import Batch
from interp.decoding import Answers
from interp.errors import CrosstaskError
from interp.hooks import Edit, HookError
from interp.models.base import Model

Remote: TypeAlias = bool | Literal["local"]
KEY = "NDIF_API_KEY"


class NnsightBackend(PlainBackend):
    """Reads and writes inside ``with model.trace(...)``."""

    name = "nnsight"

    def __init__(self, *, remote: Remote | None = None) -> None:
        self.nnsight = needed_package("nnsight", backend=self.name)
        self.remote = remote
        self._wrapped: WeakKeyDictionary[Model, Any] = WeakKeyDictionary()

    def wrapped(self, model: Model) -> Any:
        """nnsight's wrapper of a model, made once: an ``NNsight``, or for remote runs a ``TransformersModel``."""
        if model not in self._wrapped:
            self._wrapped[model] = self._remote_wrapper(model) if self._goes(model) else self._local_wrapper(model)
        return self._wrapped[model]

    def read(self, model: Model, batch: Batch) -> Float[Tensor, "B L D"]:
        lens, save, columns = self.wrapped(model), self.nnsight.save, batch.positions
        blocks, rows = self._blocks(model), torch.arange(len(batch.positions))
        states: Any = None
        with self._errors(model), torch.no_grad(), lens.trace(**self._inputs(model, batch)) as tracer:  # noqa: F841
            found = []
            for block in blocks:
                output = block.output
                hidden = output[0] if isinstance(output, tuple) else output
                found.append(hidden[rows.to(hidden.device), columns.to(hidden.device)].cpu())
            states = save(found)
        return torch.stack(states, dim=1)

    def predict(
        self, model: Model, batch: Batch, edits: Mapping[int, Edit], *, allow_noop: bool
    ) -> Float[Tensor, "B V"]:
        lens, save, blocks = self.wrapped(model), self.nnsight.save, self._blocks(model)
        writes = [(blocks[layer], *_values(edit)) for layer, edit in edits.items()]
        replaced: Any = None
        logits: Any = None
        with self._errors(model), torch.no_grad(), lens.trace(**self._inputs(model, batch)) as tracer:
            before = []
            for block, rows, columns, vectors, added in writes:
                output = block.output
                hidden = output[0] if isinstance(output, tuple) else output
                at = rows.to(hidden.device), columns.to(hidden.device)
                old = hidden[at]
                new = old + vectors.to(hidden) if added else vectors.to(hidden)
                changed = hidden.index_put(at, new)
                block.output = (changed, *output[1:]) if isinstance(output, tuple) else changed
                before.append(old.cpu())
            replaced = save(before)
            logits = save(tracer.result.logits[:, -1].cpu())
        _check(edits, replaced, allow_noop)
        return logits

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
        lens, save, blocks = self.wrapped(model), self.nnsight.save, self._blocks(model)
        writes = [(blocks[layer], *_values(edit)) for layer, edit in edits.items()]
        inputs = self._inputs(model, batch, answers=answers)
        replaced: Any = None
        ids: Any = None
        with self._errors(model), torch.no_grad(), lens.trace(**inputs) as tracer:
            before = []
            for block, where, columns, vectors, added in writes:
                output = block.output  # the first call of a block, which is the prefill
                hidden = output[0] if isinstance(output, tuple) else output
                at = where.to(hidden.device), columns.to(hidden.device)
                old = hidden[at]
                new = old + vectors.to(hidden) if added else vectors.to(hidden)
                changed = hidden.index_put(at, new)
                block.output = (changed, *output[1:]) if isinstance(output, tuple) else changed
                before.append(old.cpu())
            replaced = save(before)
            ids = save(tracer.result.cpu())
        _check(edits, replaced, allow_noop)
        new_ids = ids[:, batch.inputs["input_ids"].shape[1] :]
        held, kept = list(rows), list(range(len(rows)))
        for step in range(new_ids.shape[1]):
            going = answers.push(held, new_ids[kept, step].tolist())
            held, kept = [held[i] for i in going], [kept[i] for i in going]

    def _inputs(self, model: Model, batch: Batch, *, answers: Answers | None = None) -> dict[str, Any]:
        """Keywords of a trace: one forward pass, or one greedy generation."""
        lens, inputs = self.wrapped(model), dict(batch.inputs)
        where = {"remote": self._goes(model)} if self._goes(model) else {}
        if not where:
            model.family.reset_state(lens._module)
        if answers is None:
            keep = {"logits_to_keep": 1} if "logits_to_keep" in model._accepts else {}
            return {**inputs, **keep, **where, "use_cache": False}
        return {
            **inputs,
            **where,
            "fn": "generate",
            "max_new_tokens": answers.max_new_tokens,
            "do_sample": False,
            "num_beams": 1,
            "repetition_penalty": 1.0,
            "eos_token_id": sorted(model.stop_ids),
            "pad_token_id": model.pad_id,
        }

    def _blocks(self, model: Model) -> list[Any]:
        """The envoys of the decoder blocks."""
        path = next(name for name, module in model.module.named_modules() if module is model.blocks)
        return list(self.wrapped(model).get(path))

    def _goes(self, model: Model) -> Remote:
        """Where traces of a model run."""
        if model.is_remote and self.remote in (False, "local"):
            raise CrosstaskError(f"model {model.name!r} was loaded without weights, so it can only be traced remotely")
        return model.is_remote if self.remote is None else self.remote

    def _local_wrapper(self, model: Model) -> Any:
        return self.nnsight.NNsight(twin(model.module))

    def _remote_wrapper(self, model: Model) -> Any:
        """A TransformersModel that names the model to the server; its weights, if there are any, are shared."""
        if self._goes(model) is True:
            self._read_key(model)
        lens = self.nnsight.TransformersModel(
            twin(model.module),
            task="image-text-to-text" if model.takes_images else "text-generation",
            tokenizer=copy.deepcopy(model.tokenizer),  # nnsight sets its padding
            processor=copy.deepcopy(model.processor),
            revision=getattr(model.module, "remote_revision", None),
            device=model.module.device,
        )
        lens.repo_id = model.name
        return lens

    def _read_key(self, model: Model) -> None:
        settings = self.nnsight.CONFIG.API
        settings.APIKEY = os.environ.get(KEY) or settings.APIKEY  # the variable may be younger than the import
        if not settings.APIKEY:
            raise CrosstaskError(
                f"a remote run of {model.name!r} needs your NDIF key in the environment variable {KEY} "
                "(https://login.ndif.us), and there is none"
            )

    @contextmanager
    def _errors(self, model: Model) -> Iterator[None]:
        """What goes wrong on the way to NDIF or there, as one sentence."""
        try:
            yield
        except (CrosstaskError, HookError):
            raise
        except Exception as error:
            if self._goes(model) is not True:
                raise
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CrosstaskError(f"the remote run of {model.name!r} through NDIF failed: {reason.strip()}") from error


def _values(edit: Edit) -> tuple[Tensor, Tensor, Tensor, bool]:
    """An edit as plain values: rows, columns, scaled vectors, and whether they are added."""
    return edit.rows, edit.columns, edit.vectors * edit.scale, edit.mode == "add"


def _check(edits: Mapping[int, Edit], replaced: Sequence[Tensor] | None, allow_noop: bool) -> None:
    """The trace is over; its edits are judged by what they replaced."""
    if replaced is None or len(replaced) != len(edits):
        raise HookError(f"of {len(edits)} layers to patch, nnsight reached {len(replaced or ())}")
    if not allow_noop:
        for (layer, edit), old in zip(edits.items(), replaced, strict=True):
            refuse_noop(layer, edit, old)


def make(*, remote: Remote | None = None) -> NnsightBackend:
    """The backend.

    Args:
        remote: True sends every trace to NDIF, ``"local"`` rehearses that, False never does; by default models loaded
            with ``device="remote"`` are traced there, and all others here.
    """
    return NnsightBackend(remote=remote)
