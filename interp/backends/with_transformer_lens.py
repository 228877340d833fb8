"""TransformerLens: a TransformerBridge around a twin of the loaded model, so no weight is held twice.

The bridge puts its own modules in place of the twin's and computes attention eagerly: scores of ``B x heads x T x T``
are held, float64 is refused (see :class:`~interp.models.base.Model`), and kernels differ from sdpa in the last digits.
Only architectures that it has an adapter for can be bridged. No tokenizer is given to it, since it would load one
again by its name: it gets tensors, with the positions and the mask of left padding.

``blocks.{l}.hook_out`` is the residual stream after block ``l``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from interp.backends.base import PlainBackend, refuse_noop, twin, written
from interp.backends.registry import needed_package
from interp.batches import Batch
from interp.decoding import Answers, decode, new_cache
from interp.errors import CrosstaskError
from interp.hooks import Edit, HookError
from interp.models.base import Model

Hooks = list[tuple[str, Callable[..., Any]]]


class TransformerLensBackend(PlainBackend):
    """Reads and writes through ``run_with_hooks``; decodes with the bridged modules."""

    name = "transformer_lens"

    def __init__(self) -> None:
        needed_package("transformer_lens", backend=self.name)
        self._bridged: WeakKeyDictionary[Model, tuple[Any, Model]] = WeakKeyDictionary()

    def bridge(self, model: Model) -> Any:
        """The TransformerBridge of a model, made once.

        Raises:
            CrosstaskError: if TransformerLens has no adapter for the architecture, or the model is in float64.
        """
        return self._bridge(model)[0]

    def read(self, model: Model, batch: Batch) -> Float[Tensor, "B L D"]:
        states: dict[int, Tensor] = {}
        rows = torch.arange(len(batch.positions))

        def reader(layer: int) -> Callable[..., None]:
            def hook(hidden: Tensor, hook: Any) -> None:
                states[layer] = hidden[rows, batch.positions]

            return hook

        self._run(model, batch, [(hook_name(layer), reader(layer)) for layer in range(model.n_layers)])
        _check_fired(states, range(model.n_layers))
        return torch.stack([states[layer].to(batch.inputs["input_ids"].device) for layer in sorted(states)], dim=1)

    def predict(
        self, model: Model, batch: Batch, edits: Mapping[int, Edit], *, allow_noop: bool
    ) -> Float[Tensor, "B V"]:
        return self._edited(model, batch, edits, allow_noop)

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
        bridged = self._bridge(model)[1]
        cache = new_cache(bridged)
        logits = self._edited(model, batch, edits, allow_noop, past_key_values=cache, use_cache=True)
        decode(bridged, answers, rows, cache, batch.inputs["attention_mask"], batch.ends, logits)

    def _edited(
        self, model: Model, batch: Batch, edits: Mapping[int, Edit], allow_noop: bool, **options: Any
    ) -> Float[Tensor, "B V"]:
        fired: dict[int, bool] = {}

        def writer(layer: int, edit: Edit) -> Callable[..., Tensor]:
            def hook(hidden: Tensor, hook: Any) -> Tensor:
                fired[layer] = True
                at = edit.rows.to(hidden.device), edit.columns.to(hidden.device)
                if not allow_noop:
                    refuse_noop(layer, edit, hidden[at])
                return hidden.index_put(at, written(edit, hidden[at]))

            return hook

        logits = self._run(
            model, batch, [(hook_name(layer), writer(layer, edit)) for layer, edit in edits.items()], **options
        )
        _check_fired(fired, edits)
        return logits

    @torch.no_grad()
    def _run(self, model: Model, batch: Batch, hooks: Hooks, **options: Any) -> Float[Tensor, "B V"]:
        """The last column's logits of one forward pass under hooks."""
        bridge, bridged = self._bridge(model)
        inputs = dict(batch.inputs)
        tokens = inputs.pop("input_ids")
        if "logits_to_keep" in bridged._accepts:
            options["logits_to_keep"] = 1
        bridged.reset_state()
        return bridge.run_with_hooks(tokens, fwd_hooks=hooks, **inputs, **{"use_cache": False, **options})[:, -1]

    def _bridge(self, model: Model) -> tuple[Any, Model]:
        if model not in self._bridged:
            from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
            from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

            architecture = type(model.module).__name__
            if architecture not in SUPPORTED_ARCHITECTURES:
                raise CrosstaskError(
                    f"TransformerLens has no adapter for {architecture}; for model {model.name!r} use backend hooks "
                    "or nnsight"
                )
            if model.is_remote:
                raise CrosstaskError(f"model {model.name!r} was loaded without weights, which only nnsight can use")
            if model.dtype == torch.float64:
                raise CrosstaskError(
                    "TransformerLens computes attention eagerly, whose softmax is in float32; "
                    "load the model in float32 or below"
                )
            module = twin(model.module)
            module.set_attn_implementation("eager")
            bridge = build_bridge_from_module(module, architecture, hf_config=module.config, model_name=model.name)
            self._bridged[model] = bridge, replace(model, module=module)
        return self._bridged[model]


def hook_name(layer: int) -> str:
    """What TransformerLens calls the residual stream after a block."""
    return f"blocks.{layer}.hook_out"


def _check_fired(fired: Mapping[int, object], expected: Sequence[int] | Mapping[int, Any] | range) -> None:
    if missing := [layer for layer in expected if layer not in fired]:
        raise HookError(f"{hook_name(missing[0])} did not fire, so layer {missing[0]} was neither read nor patched")


def make() -> TransformerLensBackend:
    """The backend; it has no options."""
    return TransformerLensBackend()
