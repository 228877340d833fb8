"""A fine-tuning run: from settings to an adapter with its record and its card.

<out>/config.json, environment.json   what was asked, and on what it ran
<out>/checkpoints/                    while it trains; the same command continues from the last
<out>/adapter/                        weights, run.json (the record) and README.md (the card), ready for the hub
<out>/snapshots/0.25/, ...            adapters of earlier steps, on request
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate.utils import broadcast_object_list
from torch import nn

from interp.environment import describe_environment
from interp.errors import CrosstaskError
from interp.files import atomic_file, sha256_of
from interp.models.base import Model
from interp.models.bundled.stem_memory import remembered
from interp.runs import Run
from interp.tuning.card import run_card
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import (
    Example,
    Learnable,
    OrderedData,
    as_example,
    data_fingerprint,
    encode_all,
    labels_fingerprint,
    task_file,
    training_examples,
    training_order,
)
from interp.tuning.encoding import Encoded
from interp.tuning.features import FeatureStore, covered_store
from interp.tuning.pixels import pixel_limits
from interp.tuning.quantised import unpacked
from interp.tuning.strategies import Strategy, strategy
from interp.tuning.surgery_trainer import SurgeryTrainer
from interp.tuning.trainer import (
    Progress,
    Snapshots,
    TuneTrainer,
    last_checkpoint,
    seconds_of,
    training_arguments,
)

ADAPTER, CHECKPOINTS, SNAPSHOTS, RECORD, CARD = "adapter", "checkpoints", "snapshots", "run.json", "README.md"

logger = logging.getLogger(__name__)

Tell = Callable[[int, int, float], None]


@dataclass(frozen=True)
class TunedRun:
    """A finished run.

    Attributes:
        folder: the run's folder.
        record: what run.json says.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def adapter(self) -> Path:
        """The folder with weights, record and card."""
        return self.folder / ADAPTER

    @property
    def snapshots(self) -> dict[float, Path]:
        """Part of the run -> the adapter's folder after it."""
        return {float(path.name): path for path in sorted((self.folder / SNAPSHOTS).glob("*")) if path.is_dir()}

    def to_frame(self) -> pd.DataFrame:
        """The loss curve: step, loss, learning_rate, grad_norm, seconds."""
        return pd.DataFrame(self.record["curve"])


def finetune(
    config: TuneConfig,
    out: Path | str,
    *,
    model: Model | None = None,
    examples: Sequence[Learnable] | None = None,
    tell: Tell | None = None,
) -> TunedRun:
    """Fine-tune a model on a task, or continue, or read a run that is finished.

    Args:
        config: what is trained, on what, and how.
        out: folder of the run; the same configuration continues a killed run to the same result.
        model: a loaded model, which is as before afterwards; by default the configuration's is loaded.
        examples: what to train on in place of the configuration's task, such as a mixture of tasks.
        tell: called after each step with (step, steps, loss).

    Returns:
        The finished run.

    Raises:
        CrosstaskError: the settings contradict the model or the folder, an example cannot be used (all are checked
            before the first step), the loss is no longer a number, or a package is missing.
    """
    out = Path(out)
    main = int(os.environ.get("RANK", 0)) == 0
    settings = config.settings() | _data_settings(config, examples)
    if (out / ADAPTER / RECORD).is_file():
        with Run.open(out, settings) if main else contextlib.nullcontext():
            return TunedRun(out, json.loads((out / ADAPTER / RECORD).read_text(encoding="utf-8")))
    model = model or _load(config, out)
    _warn_of_bfloat16(model, config)
    with contextlib.ExitStack() as stack:
        if main:
            stack.enter_context(Run.open(out, settings, seeds=(config.seed,), models={model.name: model.fingerprint}))
        stack.enter_context(pixel_limits(model, config.min_pixels, config.max_pixels))
        given = [as_example(e) for e in (training_examples(config, model) if examples is None else examples)]
        data = encode_all(model, given)
        stack.enter_context(without_dropout(model.module))
        stack.enter_context(unpacked(model.module))
        chosen = strategy(config.strategy)(model, config)
        stack.callback(_leave, chosen, model)
        _refuse_float16(chosen)
        _refuse_pictureless(chosen, given)
        if not chosen.trains:
            record = _record(config, model, given, data, chosen, {}, [])
            _write(chosen, out / ADAPTER, {}, record)
        else:
            record = _train(config, out, chosen, given, data, tell)
    return TunedRun(out, json.loads(json.dumps(record, default=str)))


def _data_settings(config: TuneConfig, examples: Sequence[Learnable] | None) -> dict[str, str]:
    """What else decides the numbers: data that the settings do not determine."""
    if examples is not None:
        given = [as_example(example) for example in examples]
        apart = {} if config.surgery == "none" else {"tasks": labels_fingerprint(given)}
        return {"data": data_fingerprint(given), **apart}
    path = task_file(config.task)
    return {"data": sha256_of(path)} if path is not None else {}


def _train(
    config: TuneConfig,
    out: Path,
    chosen: Strategy,
    examples: Sequence[Example],
    data: Sequence[Encoded],
    tell: Tell | None,
) -> dict[str, Any]:
    """Train, write the adapter, and return the record."""
    model = chosen.model
    steps = config.n_steps(len(data))
    arguments = training_arguments(config, out / CHECKPOINTS, steps=steps, autocast=chosen.autocast)
    with arguments.main_process_first(local=False, desc="vision features"):
        store = _store(config, chosen, data)
    order = training_order([e.n_tokens for e in data], steps=steps, batch=config.batch, seed=config.order_seed)
    kind = TuneTrainer if config.surgery == "none" else SurgeryTrainer
    trainer = kind(chosen, arguments, OrderedData(data, order), store, [])

    def write(folder: Path, curve: list[dict[str, float]]) -> dict[str, Any]:
        """Called by all processes; the main one writes, and its record is that of all."""
        state, record = trainer.trained_state(), {}
        if trainer.is_world_process_zero():
            assert state is not None
            record = _record(config, model, examples, data, chosen, state, curve, order=order)
            _write(chosen, folder, state, record)
        return broadcast_object_list([record])[0]

    if tell is not None:
        trainer.add_callback(Progress(tell))
    if config.snapshots:
        at = {max(1, round(part * steps)): part for part in config.snapshots}
        trainer.add_callback(Snapshots(at, lambda part: write(out / SNAPSHOTS / f"{part:g}", _curve(trainer))))
    resumed = last_checkpoint(out / CHECKPOINTS)
    if resumed is not None:
        trainer.seconds_before = seconds_of(resumed)
        logger.info("Continuing from %s.", resumed.name)
    stem = remembered(model.module) if store is None and config.features == "auto" else contextlib.nullcontext()
    with stem, compiled(model, config.compile_blocks), own_forward(chosen.module):
        trainer.train(resume_from_checkpoint=str(resumed) if resumed is not None else None)
    record = write(out / ADAPTER, _curve(trainer))
    if trainer.is_world_process_zero():
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return record


def _load(config: TuneConfig, out: Path) -> Model:
    """The configuration's model; each process of several on its own card."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from interp.models.base import load_model

    given = vars(config.loading).copy()
    if given["device"] == "auto" and given["device_map"] is None and torch.cuda.is_available():
        given["device"] = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    unset_hf_deepspeed_config()  # that of an earlier run in this process
    if config.deepspeed is None or strategy(config.strategy).needs_weights:
        return load_model(config.model, **given)
    held = training_arguments(config, out / CHECKPOINTS, steps=1)  # as long as it is held, ZeRO-3 divides what is read
    importlib.import_module("deepspeed").init_distributed()  # or it would take itself for the only process
    model = load_model(config.model, **given)
    del held
    return model


def _store(config: TuneConfig, chosen: Strategy, data: Sequence[Encoded]) -> FeatureStore | None:
    """Features of all pictures, computed now; None where pixels are used."""
    if config.features == "off" or chosen.touches_vision or config.deepspeed == "zero3":
        return None
    store = covered_store(chosen.model, config.features_at, data)
    if store is not None:
        for encoded in data:
            store.get(encoded.images)
    return store


def _refuse_pictureless(chosen: Strategy, examples: Sequence[Example]) -> None:
    """DeepSpeed adds up gradients in the order in which they come, which must be the same in all processes."""
    if chosen.config.deepspeed is None or not chosen.touches_vision:
        return
    bare = next((example.name for example in examples if not example.images), None)
    if bare is not None:
        raise CrosstaskError(
            f"example {bare!r} has no picture, and under DeepSpeed strategy {chosen.name!r}, which trains the vision, "
            "expects one in every example; leave out such examples, or deepspeed"
        )


def _leave(chosen: Strategy, model: Model) -> None:
    chosen.detach()
    model.module.requires_grad_(False).eval()
    model.reset_state()


def _curve(trainer: TuneTrainer) -> list[dict[str, float]]:
    kept = ("step", "loss", "learning_rate", "grad_norm", "seconds")
    return [{name: e[name] for name in kept if name in e} for e in trainer.state.log_history if "loss" in e]


def _record(
    config: TuneConfig,
    model: Model,
    examples: Sequence[Example],
    data: Sequence[Encoded],
    chosen: Strategy,
    state: dict[str, torch.Tensor],
    curve: list[dict[str, float]],
    *,
    order: Sequence[int] = (),
) -> dict[str, Any]:
    """What run.json says."""
    seen = [data[index] for index in order[: len(curve) * config.batch]]
    found = describe_environment()
    return {
        "config": config.settings(),
        "strategy": config.strategy,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "template": data[0].template,
        "data": {"examples": len(data), "sha256": data_fingerprint(examples)},
        "steps": len(curve),
        "examples_seen": len(seen),
        "tokens": sum(encoded.n_tokens for encoded in seen),
        "answer_tokens": sum(encoded.n_answer_tokens for encoded in seen),
        "seconds": curve[-1]["seconds"] if curve else 0.0,
        "trained_parameters": sum(tensor.numel() for tensor in state.values()),
        "update_norm": chosen.update_norm(state),
        "versions": found["versions"],
        "commit": found["commit"],
        "curve": curve,
    }


def _write(chosen: Strategy, folder: Path, state: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    """Weights and card, and the record last: a folder that has it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen.save(folder, state)
    with atomic_file(folder / CARD) as draft:
        draft.write_text(run_card(record, summary=chosen.summary), encoding="utf-8")
    with atomic_file(folder / RECORD) as draft:
        draft.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


def _warn_of_bfloat16(model: Model, config: TuneConfig) -> None:
    coarse = model.dtype == torch.bfloat16 and model.device.type == "cpu" and not config.compile_blocks
    if coarse and config.strategy == "lora":
        warnings.warn(
            "in bfloat16 on a CPU the sum of a frozen layer and its small LoRA update is rounded to the coarse grid of "
            "bfloat16, which loses the update; train in float32, or compile the blocks (--compile)",
            stacklevel=3,
        )


def _refuse_float16(chosen: Strategy) -> None:
    """Autocast of a CPU knows bfloat16 and float32, and fails in the middle of a pass at weights in float16."""
    model = chosen.model
    if chosen.trains and chosen.autocast and model.dtype == torch.float16 and model.device.type == "cpu":
        raise CrosstaskError(
            f"strategy {chosen.name!r} trains weights of {model.name!r}, which is in float16; on a CPU it expects "
            "float32 or bfloat16"
        )


@contextlib.contextmanager
def own_forward(module: nn.Module) -> Iterator[None]:
    """The module's forward is as before in the end; accelerate leaves it wrapped in autocast, with float32 outputs."""
    names = ("forward", "_original_forward")
    before = {name: module.__dict__[name] for name in names if name in module.__dict__}
    try:
        yield
    finally:
        for name in names:
            module.__dict__.pop(name, None)
        module.__dict__.update(before)


@contextlib.contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """The model's own dropout off, in training mode too: there is only what was asked for."""
    found: list[tuple[Any, str, float]] = []
    for part in module.modules():
        names = ("p",) if isinstance(part, nn.Dropout) else ("attention_dropout", "dropout", "hidden_dropout")
        for name in names:
            if isinstance(value := getattr(part, name, None), float) and value > 0:
                found.append((part, name, value))
                setattr(part, name, 0.0)
    try:
        yield
    finally:
        for part, name, value in found:
            setattr(part, name, value)


@contextlib.contextmanager
def compiled(model: Model, wanted: bool) -> Iterator[None]:
    """The decoder blocks compiled, one graph for all lengths."""
    if wanted:
        for block in model.blocks:
            block.compile(dynamic=True)
    try:
        yield
    finally:
        for block in model.blocks:
            block._compiled_call_impl = None
