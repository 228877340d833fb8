"""What the units of a study do with models: fine-tune on a mixture, evaluate on its tasks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.covft.plan import Unit, evaluation_job, training_job
from interp.models.base import Model
from interp.models.bundled.stem_memory import ROOMY_BYTES, StemMemory, remembered
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import Example
from interp.tuning.evaluation.evaluate import evaluate
from interp.tuning.evaluation.records import Record
from interp.tuning.matrix.work import ModelWork, mixed_examples, scoring_options, target_items, tune_config
from interp.tuning.run import RECORD, finetune


@dataclass
class StudyWork:
    """The work of a study's units in this process; see :class:`interp.covft.units.Work`.

    Attributes:
        models: the model, and where and how fast.
        keep: whether adapters are kept when their unit is finished; their records and cards are in any case.
        stem: what the frozen stem of one of our own models makes of pictures, for all units.
    """

    models: ModelWork
    keep: bool = True
    stem: StemMemory = field(default_factory=lambda: StemMemory(ROOMY_BYTES), repr=False)
    _mixture: tuple[str, list[Example]] | None = field(default=None, repr=False)
    _items: dict[str, list[PerceptionItem]] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> Model:
        return self.models.model

    def config(self, unit: Unit) -> TuneConfig:
        """The runner's configuration of a unit."""
        return tune_config(training_job(unit), self.models.how)

    def examples(self, unit: Unit) -> Sequence[Example]:
        """The mixture of a unit; arms of one mixture and seed follow each other, so the last one is held."""
        job, config = training_job(unit), self.config(unit)
        sides = (job.config["shares"], job.config["difficulties"], config.n_examples, config.order_seed, config.size)
        key = json.dumps(sides)
        if self._mixture is None or self._mixture[0] != key:
            self._mixture = key, mixed_examples(job, config, self.model)
        return self._mixture[1]

    def train(self, unit: Unit, folder: Path) -> dict[str, Any]:
        """Fine-tune on the unit's mixture."""
        examples = self.examples(unit)
        with remembered(self.model.module, self.stem):
            run = finetune(self.config(unit), folder, model=self.model, examples=examples, tell=self.models.tell)
        return {
            "adapter": run.adapter.relative_to(folder).as_posix(),
            "examples": run.record["data"]["examples"],
            "data": run.record["data"]["sha256"],
            **{name: run.record[name] for name in ("steps", "tokens", "trained_parameters", "update_norm", "seconds")},
        }

    def evaluate(self, unit: Unit, task: str, adapter: Path | None) -> list[Record]:
        """Evaluate on a task; its items are drawn once."""
        job = evaluation_job(unit, task)
        key = json.dumps(job.config, sort_keys=True)
        if key not in self._items:
            self._items[key] = target_items(job, self.model)
        options = scoring_options(job, self.models.how)
        with remembered(self.model.module, self.stem):
            ((_, records),) = evaluate(
                self.model, self._items[key], {"arm": adapter}, options, progress=self.models.progress
            )
        return records

    def discard(self, adapter: Path) -> None:
        """Remove the weights, and leave record and card."""
        for path in adapter.iterdir() if not self.keep and adapter.is_dir() else ():
            if path.name != RECORD and path.suffix != ".md":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
