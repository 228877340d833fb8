"""The trainer with gradient surgery: each task's gradient is taken apart, and their combination is the step's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from interp.errors import CrosstaskError
from interp.tuning.dataset import OrderedData
from interp.tuning.encoding import IGNORED, Encoded
from interp.tuning.features import FeatureStore
from interp.tuning.strategies import Strategy
from interp.tuning.surgery import TaskGradients, task_numbers
from interp.tuning.trainer import Collator, TuneTrainer, answer_loss

TASKS = "task_numbers"
"""In a batch: the number of each row's task."""


class SurgeryTrainer(TuneTrainer):
    """One pass forward a micro-batch and one back for each task in it; see :mod:`interp.tuning.surgery`."""

    def __init__(
        self,
        strategy: Strategy,
        arguments: TrainingArguments,
        data: OrderedData,
        store: FeatureStore | None,
        callbacks: list[TrainerCallback],
    ) -> None:
        method = strategy.config.surgery
        numbers = task_numbers([row.task for row in data.data], method=method)
        if arguments.world_size > 1 or arguments.deepspeed:
            raise CrosstaskError(f"surgery {method!r} runs in one process, without DeepSpeed; launch it so")
        if getattr(strategy.options, "balance", 0):
            raise CrosstaskError(f"surgery {method!r} takes apart the loss of the answers alone; leave out balance")
        super().__init__(strategy, arguments, data, store, callbacks)
        collator = Collator(strategy.model, store, strategy)

        def labelled(rows: list[Encoded]) -> dict[str, Any]:
            return collator(rows) | {TASKS: torch.tensor([numbers[str(row.task)] for row in rows])}

        self.data_collator = labelled
        self.gradients = TaskGradients(method, [*strategy.trainable().values()])

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Gradients of each task's share of the loss; after the step's last micro-batch, what is made of them."""
        model.train()
        inputs = dict(self._prepare_inputs(inputs))
        numbers, labels = inputs.pop(TASKS), inputs["labels"]
        with self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch, return_outputs=True)
            if num_items_in_batch is None:
                num_items_in_batch = (labels != IGNORED).sum()
            present = sorted(set(numbers.tolist()))
            for place, number in enumerate(present, start=1):
                rows = numbers == number
                share = answer_loss(_Rows(outputs.logits[rows]), labels[rows], num_items_in_batch)
                self.gradients.add(number, share, keep=place < len(present))
        if self.accelerator.sync_gradients:
            seeds = self.strategy.config.start_seed, self.state.global_step
            self.gradients.finish(generator=np.random.default_rng(seeds))
        return loss.detach()


class _Rows:
    """Logits of some rows, as a loss takes them."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
