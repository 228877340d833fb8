"""transformers' Trainer with what our runs need besides: answers alone in the loss, kept features, exact resuming.

The loss of a step is the mean over the answer tokens of all its examples, however they are accumulated or shared:

    loss = - sum over answer tokens of log p(token | what comes before it) / number of answer tokens in the step
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.batch import collate, keep_answers
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import OrderedData
from interp.tuning.encoding import IGNORED, Encoded
from interp.tuning.features import FeatureStore, embed
from interp.tuning.strategies import Strategy
from interp.tuning.text_context import context_text, owners, without_context

TRAINED = "trained.safetensors"
"""In a checkpoint: the trained parameters by name."""
STATE = "trainer_state.json"
"""The last file of a checkpoint that the Trainer writes."""


def answer_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross entropy of the answer tokens, in float32 at least.

    Args:
        outputs: the model's, with logits `[B, T', V]` of at least the last T columns.
        labels: `[B, T]`.
        num_items_in_batch: answer tokens of the whole step; those of this micro-batch if None.
    """
    logits = outputs.logits[:, -labels.shape[1] : -1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = labels[:, 1:]
    count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    total = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / count


class Collator:
    """Batches of encoded examples, with features where there is a store of them, else with pixels.

    For a tower that reads the question, each batch holds the context of its images as well.
    """

    def __init__(self, model: Model, store: FeatureStore | None, strategy: Strategy | None = None) -> None:
        self.model, self.store = model, store
        self.strategy = strategy if strategy is not None and strategy.reads_text else None

    def __call__(self, rows: list[Encoded]) -> dict[str, Any]:
        features = None if self.store is None else [self.store.get(row.images) for row in rows]
        batch = keep_answers(self.model, collate(self.model, rows, features=features, device="cpu"))
        if self.strategy is not None:
            owner = owners(self.model, [row.images for row in rows])
            batch |= self.strategy.text_inputs([context_text(row.questions) for row in rows], owner)
        return batch


class TuneTrainer(Trainer):
    """The Trainer on a strategy's module."""

    def __init__(
        self,
        strategy: Strategy,
        arguments: TrainingArguments,
        data: OrderedData,
        store: FeatureStore | None,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.strategy = strategy
        self.begun, self.seconds_before = time.monotonic(), 0.0
        super().__init__(
            model=strategy.module,
            args=arguments,
            train_dataset=data,
            data_collator=Collator(strategy.model, store, strategy),
            compute_loss_func=answer_loss,
            callbacks=callbacks,
        )
        self.model_accepts_loss_kwargs = False  # the loss is ours, so the model's forward need not hear of it
        for chatty in (PrinterCallback, ProgressCallback):
            self.remove_callback(chatty)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        """The order is laid out already."""
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        with self.strategy.context(inputs):
            bare = embed(self.strategy.model, without_context(inputs))
            found = super().compute_loss(model, bare, *given, **named)
        idle = "pixel_values" not in inputs or (self.args.world_size > 1 and not self.is_deepspeed_enabled)
        if self.strategy.touches_vision and idle and isinstance(found, Tensor):
            # Without a picture the tower is idle, and some towers have blocks that are trained and read by nothing. The
            # gradient is then zero, not absent: processes that train together wait for each other's, and what a step
            # does must not depend on how its examples are shared out.
            found = found + 0 * sum(parameter.sum() for parameter in self.strategy.trainable().values())
        penalty = self.strategy.penalty()
        if penalty is None or not isinstance(found, Tensor):
            return found
        return found + penalty / self.current_gradient_accumulation_steps

    def log(self, logs: dict[str, float], *given: Any, **named: Any) -> None:
        """Note the time, over all sittings; a loss that is no number ends the run."""
        if not math.isfinite(logs.get("loss", 0.0)):
            raise CrosstaskError(
                f"the loss is {logs['loss']} at step {self.state.global_step}: lower the learning rate "
                f"({self.args.learning_rate}), or train in float32 or bfloat16"
            )
        logs["seconds"] = self.seconds_before + time.monotonic() - self.begun
        super().log(logs, *given, **named)

    def trained_state(self) -> dict[str, Tensor] | None:
        """The trained parameters by name, gathered where DeepSpeed has divided them. All processes call it together;
        ZeRO-3 gathers in the main one, and others get None."""
        names = self.strategy.trainable()
        if self.is_deepspeed_enabled:
            whole = self.accelerator.get_state_dict(self.model_wrapped)
            return None if whole is None else {name: whole[name].detach().cpu() for name in names}
        return {name: parameter.detach().cpu().contiguous() for name, parameter in names.items()}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """A checkpoint holds what is trained, whatever the strategy; the base model is where it was."""
        if not self.args.should_save:
            return  # under DeepSpeed all processes come here, after they have gathered together
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        names = self.strategy.trainable()
        state = self.trained_state() if state_dict is None else {n: state_dict[n].detach().cpu() for n in names}
        assert state is not None
        save_file(state, folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / TRAINED)
        with torch.no_grad():
            for name, parameter in self.strategy.trainable().items():
                parameter.copy_(state[name])


class Progress(TrainerCallback):
    """Calls back after each step with (step, steps, loss)."""

    def __init__(self, tell: Callable[[int, int, float], None]) -> None:
        self.tell = tell

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        if logs and "loss" in logs and state.is_world_process_zero:
            self.tell(state.global_step, state.max_steps, logs["loss"])


class Snapshots(TrainerCallback):
    """Calls back after some of the steps, to keep what has been learnt until then."""

    def __init__(self, steps: dict[int, float], keep: Callable[[float], object]) -> None:
        self.steps, self.keep = steps, keep

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        """A step is logged after it was taken, and before its checkpoint."""
        if logs and "loss" in logs and state.global_step in self.steps:
            self.keep(self.steps[state.global_step])


def training_arguments(config: TuneConfig, folder: Path, *, steps: int, autocast: bool = False) -> TrainingArguments:
    """The Trainer's settings.

    Args:
        config: the run's settings.
        folder: for checkpoints.
        steps: optimiser steps.
        autocast: compute in bfloat16 with weights in float32.
    """
    from accelerate import PartialState

    cpu = config.loading.device == "cpu" or not (torch.cuda.is_available() or config.loading.device == "mps")
    micro, accumulation = config.accumulation(PartialState(cpu=cpu).num_processes)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup_steps(steps),
        lr_scheduler_type=config.lr_scheduler,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        seed=config.start_seed,
        data_seed=config.order_seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_every or max(1, math.ceil(steps / 10)),
        save_total_limit=config.keep_checkpoints,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not cpu,
        label_names=["labels"],
        use_cpu=cpu,
        bf16=autocast or bool(config.deepspeed and config.loading.dtype == "bfloat16"),
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        ddp_find_unused_parameters=False,
        deepspeed=deepspeed_file(config),
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = (
            1  # else one process would use all cards through DataParallel, which splits along dimension 0
        )
    return arguments


def deepspeed_file(config: TuneConfig) -> str | None:
    """The DeepSpeed configuration that a run uses.

    Raises:
        CrosstaskError: there is no such file, it is no JSON, or DeepSpeed is not installed.
    """
    if config.deepspeed is None:
        return None
    shipped = Path(__file__).with_name("deepspeed") / f"{config.deepspeed}.json"
    path = shipped if shipped.is_file() else Path(config.deepspeed)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in shipped.parent.glob("*.json")))
        raise CrosstaskError(f"deepspeed {config.deepspeed!r} is neither {known} nor a file")
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CrosstaskError(f"the DeepSpeed configuration {path} is no JSON: {error}") from error
    from transformers.integrations import is_deepspeed_available

    if not is_deepspeed_available():
        raise CrosstaskError(
            f"deepspeed {config.deepspeed!r} needs the package deepspeed, which is not installed; "
            "pip install deepspeed, or train without it (--deepspeed none)"
        )
    return str(path)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    if not folder.is_dir():
        return None
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.rpartition("-")[2])):
        try:
            json.loads((path / STATE).read_text(encoding="utf-8"))
            return path
        except (OSError, ValueError):
            continue
    return None


def seconds_of(checkpoint: Path) -> float:
    """How long the run had taken when a checkpoint was written."""
    history = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["log_history"]
    return max((entry.get("seconds", 0.0) for entry in history), default=0.0)
