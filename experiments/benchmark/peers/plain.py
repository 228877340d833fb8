"""Plain PyTorch, as papers' code does it: forward hooks, and a whole forward pass for every patch.

    bare           one forward pass of each query, in the same batches, with nothing read and nothing patched
    plain          Luo et al.'s code: whole outputs of the blocks are kept and indexed afterwards; the cache is off, so
                   that every new token runs the whole prompt again, images included, and is patched again
plain_cached   the same with the cache on: `generate` patched in its prefill. A sweep over layers gains nothing from
               it, since every (query, layer) still runs its whole prompt; it is `plain` there, and not run again

Unlike Luo et al.'s code, which takes one query at a time, rows are batched. The reference that all others are compared
with is ``plain`` on one query at a time, so without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.benchmark.peers.base import Peer, Role
from experiments.benchmark.workloads import Call
from interp.backends.base import PlainBackend
from interp.batches import Batch, chunks, collate
from interp.decoding import Answers
from interp.hooks import Edit
from interp.memory import memory_plan
from interp.models.base import Model


@contextmanager
def hooked(blocks: nn.ModuleList, actions: Mapping[int, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """Hand each block's output to an action; what it returns takes the output's place."""

    def hook_of(action: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            changed = action(output[0] if isinstance(output, tuple) else output)
            if changed is None:
                return None
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    handles = [blocks[layer].register_forward_hook(hook_of(action)) for layer, action in actions.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def writer(edit: Edit) -> Callable[[Tensor], Tensor | None]:
    """An action that replaces states wherever the sequence reaches the columns (so not in cached decoding steps)."""
    needed = int(edit.columns.max()) + 1

    def write(hidden: Tensor) -> Tensor | None:
        if hidden.shape[1] < needed:
            return None
        changed = hidden.clone()
        changed[edit.rows.to(hidden.device), edit.columns.to(hidden.device)] = edit.vectors.to(hidden)
        return changed

    return write


class PlainForwards(PlainBackend):
    """Whole forward passes under plain hooks."""

    def __init__(self, *, use_cache: bool) -> None:
        self.name = "plain_cached" if use_cache else "plain"  # type: ignore[misc]
        self.use_cache = use_cache

    def read(self, model: Model, batch: Batch) -> Float[Tensor, "B L D"]:
        outputs: dict[int, Tensor] = {}
        actions = {layer: partial(outputs.__setitem__, layer) for layer in range(model.n_layers)}
        with hooked(model.blocks, actions):
            model.forward(batch.inputs, use_cache=self.use_cache)
        rows = torch.arange(len(batch.positions), device=model.device)
        columns = batch.positions.to(model.device)
        return torch.stack([outputs[layer][rows, columns] for layer in range(model.n_layers)], dim=1)

    def predict(
        self, model: Model, batch: Batch, edits: Mapping[int, Edit], *, allow_noop: bool
    ) -> Float[Tensor, "B V"]:
        with hooked(model.blocks, {layer: writer(edit) for layer, edit in edits.items()}):
            return model.forward(batch.inputs, use_cache=self.use_cache).logits[:, -1]

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
        with hooked(model.blocks, {layer: writer(edit) for layer, edit in edits.items()}), torch.no_grad():
            tokens = self._generated(model, batch, answers) if self.use_cache else self._again(model, batch, answers)
            for step in tokens:
                if not answers.push(rows, step):
                    return

    def _generated(self, model: Model, batch: Batch, answers: Answers) -> list[list[int]]:
        """By transformers' own loop, with the cache."""
        model.reset_state()
        inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "position_ids"}
        ids = model.module.generate(
            **inputs,
            max_new_tokens=answers.max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=sorted(model.stop_ids),
            pad_token_id=model.pad_id,
        )
        return ids[:, batch.inputs["input_ids"].shape[1] :].T.tolist()

    def _again(self, model: Model, batch: Batch, answers: Answers) -> Iterator[list[int]]:
        """The whole sequence at every step, under the patch each time."""
        inputs = dict(batch.inputs)
        for _ in range(answers.max_new_tokens):
            tokens = model.forward(inputs, use_cache=False).logits[:, -1].argmax(-1)
            yield tokens.tolist()
            last = inputs["position_ids"][..., -1:] + 1
            grown = {"input_ids": tokens[:, None], "attention_mask": tokens[:, None] * 0 + 1, "position_ids": last}
            inputs |= {name: torch.cat([inputs[name], tail], dim=-1) for name, tail in grown.items()}


class Plain(Peer):
    """Whole forward passes with the cache off."""

    package = "transformers"

    def __init__(self) -> None:
        super().__init__(PlainForwards(use_cache=False))


class PlainCached(Peer):
    """Whole forward passes with the cache on."""

    package = "transformers"

    def __init__(self) -> None:
        super().__init__(PlainForwards(use_cache=True))

    def does(self, call: Call) -> bool:
        return call.kind != "sweep"


class Bare(Plain):
    """One forward pass of each query, nothing read and nothing patched."""

    role: ClassVar[Role] = "reference"

    def does(self, call: Call) -> bool:
        return call.kind != "generate"

    def perform(self, model: Model, call: Call) -> None:
        for group in chunks(call.prompts, memory_plan(model).tokens):
            model.forward(collate(model, [call.prompts[index] for index in group]).inputs, use_cache=False)
