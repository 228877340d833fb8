"""What studies of a plan have in common: resumable units, layers chosen on items that are not scored, and tables.

Units come in this order: for each query modality, task and seed the accuracy of every layer on selection queries, then
the study's own kinds of units, which answer the test queries. Layers are chosen as in the main protocol (`work`): the
highest exact match, the mean over tasks of the mean over seeds, ties to the lowest layer, with vectors of contexts that
do not show the query.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.base import Model
from interp.protocol.asking import Asking, Candidate
from interp.protocol.estimate import Seconds
from interp.protocol.plan import Plan
from interp.protocol.tables import RULES, layer_table, wilson
from interp.runs import Run
from interp.tasks import Item

LAYERS = "layers"


@dataclass(frozen=True)
class Unit:
    """One resumable piece of work: the layer curves, or one kind of answers, of a query modality, task and seed."""

    kind: str
    query: str
    task: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.kind} / {self.query} / {self.task} / seed {self.seed}"


class Study(ABC):
    """Performs units and makes their tables.

    Args:
        plan: items, layers and settings.
        model: the model.
        run: the run folder, whose journal holds the units.
        kinds: the kinds of units that answer test queries.
    """

    def __init__(self, plan: Plan, model: Model, run: Run, kinds: Sequence[str]) -> None:
        self.plan, self.model, self.run, self.kinds = plan, model, run, tuple(kinds)
        self.asking = Asking(plan, model)

    @abstractmethod
    def candidates(self, unit: Unit) -> tuple[Sequence[Item], Mapping[str, Candidate]]:
        """The selection queries of a unit, and the vectors whose layer they choose."""

    @abstractmethod
    def answered(self, unit: Unit) -> Iterable[dict[str, Any]]:
        """The answers of a unit, with the labels of their arms."""

    @abstractmethod
    def seconds(self, unit: Unit, pace: Seconds) -> float:
        """About how long a unit takes."""

    def units(self) -> list[Unit]:
        """Every unit in order."""
        s = self.plan.settings
        cells = [(query, task, seed) for seed in s.seeds for task in self.plan.tasks for query in s.queries]
        return [Unit(kind, *cell) for kind in (LAYERS, *self.kinds) for cell in cells]

    def perform(self, unit: Unit) -> None:
        """Do a unit unless the journal holds it."""
        if self.run.done(unit.key) is not None:
            return
        if unit.kind == LAYERS:
            items, candidates = self.candidates(unit)
            self.run.record(unit.key, self.asking.per_layer(unit.task, unit.query, items, candidates))
        else:
            self.run.record(unit.key, {"answers": list(self.answered(unit))})

    def mean_of_others(self, task: str, vector: Callable[[str], Float[Tensor, "L D"]]) -> Float[Tensor, "L D"]:
        """The mean of the other tasks' vectors: the wrong-task control."""
        return torch.stack([vector(name) for name in self.plan.others(task)]).mean(0)

    @cached_property
    def layers(self) -> dict[tuple[str, str], int]:
        """(candidate, query modality) -> the chosen layer; known when all layer units are done."""
        table = layer_table(self.layer_curves())
        return {(row.source, row.query): int(row.layer) for row in table[table["task"] == "all"].itertuples()}

    def layer_curves(self) -> pd.DataFrame:
        """Exact match on selection queries: one row per candidate (source), query, task, seed and layer."""
        model, rows = self.plan.settings.model, []
        for unit in (unit for unit in self.units() if unit.kind == LAYERS):
            record = self._record(unit)
            for name, counts in record["counts"].items():
                where: dict[str, Any] = {"model": model, "source_model": model, "source": name, "query": unit.query}
                where |= {"task": unit.task, "seed": unit.seed}
                for layer, correct in zip(record["layers"], counts, strict=True):
                    n, interval = record["n"], wilson(correct, record["n"])
                    bounds = {"wilson_low": interval.low, "wilson_high": interval.high}
                    rows.append(
                        {**where, "layer": layer, "n": n, "correct": correct, "exact": interval.value, **bounds}
                    )
        return pd.DataFrame(rows)

    def answers(self) -> pd.DataFrame:
        """All answers to test queries, one row each."""
        rows = []
        for unit in (unit for unit in self.units() if unit.kind != LAYERS):
            family = self.plan.tasks[unit.task].task.family
            where: dict[str, Any] = {"model": self.plan.settings.model, "family": family, "task": unit.task}
            where |= {"query": unit.query, "seed": unit.seed}
            rows += [{**where, **answer} for answer in self._record(unit)["answers"]]
        return pd.DataFrame(rows).astype({"layer": "Int64", **dict.fromkeys(RULES, bool)})

    def _record(self, unit: Unit) -> dict[str, Any]:
        record = self.run.done(unit.key)
        if record is None:
            raise LookupError(f"{unit.key} is not in the journal")
        return record
