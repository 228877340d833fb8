"""Accuracy against the number of examples, for examples, instruction and their ensemble (Luo et al. 2025, figure 6).

n examples are n/size contexts of `size` demonstrations each, which repeat no demonstration before the selection items
are used up; fewer than `size` are the first n of the first context. For each number n

    text          v_n = mean over the n/size contexts of the state at the dummy query's delimiter
    instruction   v_0 = the state at the end of the instruction; the same for every n
    ensemble      (v_n + v_0) / 2, as in the paper: weight one half each, whatever n is

are patched into bare test queries, and beside them stand prompts with the very same n examples in one context, without
and with the instruction before them; random vectors of the same norm; and other tasks' vectors of the same n. Every
kind of vector has one layer, chosen on selection items at n = size and used for every n.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.protocol.asking import (
    Arm,
    Asking,
    Candidate,
    answer_table,
    layer_curves,
    pooled_layers,
    random_like,
)
from interp.protocol.contexts import Context, draw_apart
from interp.protocol.plan import Plan
from interp.protocol.rates import comparison_rows, rate_table, with_holm
from interp.runs import Run

SOURCES = ("text", "instruction", "ensemble")
KEYS = ["query", "method", "source", "examples"]


def check_examples(examples: Sequence[int], size: int) -> None:
    """Raises CrosstaskError unless every number is below a context's size or a multiple of it, and none is twice."""
    for n in examples:
        if n < 0 or (n > size and n % size):
            raise CrosstaskError(
                f"--examples {n} does not fit contexts of {size}; expected numbers below {size} and multiples of it."
            )
    if len(set(examples)) < len(examples):
        raise CrosstaskError(f"--examples names a number twice: {' '.join(map(str, examples))}.")
    if not any(examples):
        raise CrosstaskError("--examples has no number above 0; a curve needs one.")


@dataclass(frozen=True)
class Unit:
    """One resumable piece of work: the layer curves, prompts or patches of a task under a seed."""

    kind: str
    query: str
    task: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.kind} / {self.query} / {self.task} / seed {self.seed}"


class EnsembleWork:
    """Performs the units and makes the tables.

    Args:
        plan: its `shots` are the size of a context; sources text and instruction.
        model: the model.
        run: the run folder.
        examples: the numbers of examples; 0 is the instruction alone, or nothing.

    Raises:
        CrosstaskError: a number of examples that contexts of this size cannot make.
    """

    def __init__(self, plan: Plan, model: Model, run: Run, examples: Sequence[int]) -> None:
        self.plan, self.run, self.asking = plan, run, Asking(plan, model)
        self.size = plan.settings.shots
        check_examples(examples, self.size)
        self.examples = tuple(sorted({0, *examples}))
        self.vectors = lru_cache(maxsize=64)(self._vectors)

    def units(self) -> list[Unit]:
        """Every unit in order."""
        s = self.plan.settings
        cells = [(query, task, seed) for seed in s.seeds for task in self.plan.tasks for query in s.queries]
        return [Unit(kind, *cell) for kind in ("layers", "prompt", "patch") for cell in cells]

    def perform(self, unit: Unit) -> None:
        """Do a unit unless the journal holds it."""
        if self.run.done(unit.key) is None:
            steps = {"layers": self._layers, "prompt": self._prompt, "patch": self._patch}
            self.run.record(unit.key, steps[unit.kind](unit))

    def contexts(self, task: str, seed: int) -> tuple[Context, ...]:
        """The contexts of the largest number of examples."""
        plan = self.plan.tasks.get(task) or self.plan.wrong_tasks[task]
        count = max(1, max(self.examples) // self.size)
        return draw_apart(plan.pool, shots=self.size, contexts=count, seed=seed, task=task)

    def shown(self, task: str, seed: int, n: int) -> tuple[Context, ...]:
        """The contexts that make n examples."""
        contexts = self.contexts(task, seed)
        return (contexts[0].first(n),) if n < self.size else contexts[: n // self.size]

    def _vectors(self, task: str, seed: int) -> dict[int, Float[Tensor, "L D"]]:
        """n -> the vector of n examples, and of the instruction for n = 0; also that of one whole context."""
        plan = self.plan.tasks.get(task) or self.plan.wrong_tasks[task]
        contexts = self.contexts(task, seed)
        few = [n for n in self.examples if 0 < n < self.size]
        every = [contexts[0].first(n) for n in few] + list(contexts)
        states = self.asking.states(plan.task, "text", every)
        found = dict(zip(few, states, strict=False))
        for n in {self.size, *(n for n in self.examples if n >= self.size)}:
            found[n] = states[len(few) : len(few) + n // self.size].mean(0)
        found[0] = self.asking.states(plan.task, "instruction", ())[0]
        return found

    def vector(self, task: str, seed: int, source: str, n: int) -> Float[Tensor, "L D"]:
        """The vector of a source at n examples."""
        found = self.vectors(task, seed)
        if source == "ensemble":
            return (found[n] + found[0]) / 2
        return found[0 if source == "instruction" else n]

    # Units

    def _layers(self, unit: Unit) -> dict[str, Any]:
        plan, first = self.plan.tasks[unit.task], self.contexts(unit.task, unit.seed)[0]
        clean = [item for item in plan.selection if item.input not in first.items]
        items = clean[: self.plan.settings.selection_items]
        candidates = {
            source: Candidate([self.vector(unit.task, unit.seed, source, self.size)] * len(items)) for source in SOURCES
        }
        return self.asking.per_layer(unit.task, unit.query, items, candidates)

    def _prompt(self, unit: Unit) -> dict[str, Any]:
        asking, task = self.asking, self.plan.tasks[unit.task].task
        answers = asking.majority(unit.task, {"method": "majority", "source": "", "examples": 0})
        for n in self.examples:
            shown = self.shown(unit.task, unit.seed, n) if n else self.contexts(unit.task, unit.seed)[:1]
            joined = Context(
                tuple(item for context in shown for item in context.demonstrations),
                tuple(output for context in shown for output in context.outputs),
                shown[0].dummy,
            )
            for source in ("text", "ensemble") if n else ("", "instruction"):
                labels = {"method": "prompt" if source else "no_context", "source": source, "examples": n}
                prompts = asking.prompts(task, unit.query, source, [joined])
                answers += asking.prompted(unit.task, prompts, labels)
        return {"answers": answers}

    def _patch(self, unit: Unit) -> dict[str, Any]:
        arms = list(self._arms(unit))
        count = len(self.plan.tasks[unit.task].test)
        return {"answers": self.asking.patched(unit.task, unit.query, [arms] * count)}

    def _arms(self, unit: Unit) -> Iterator[Arm]:
        """The patches of every test query: all vectors at all numbers, each with its controls."""
        task, seed, chosen = unit.task, unit.seed, self.chosen_layers()
        others = [name for name in {**self.plan.tasks, **self.plan.wrong_tasks} if name != task]
        for n in self.examples:
            for source in ("text", "ensemble") if n else ("instruction",):
                layer = chosen[source, unit.query]
                vector = self.vector(task, seed, source, n)
                wrong = torch.stack([self.vector(name, seed, source, n) for name in others]).mean(0)
                control = random_like(vector, f"{source}, {n}, {task}, {seed}")
                methods = {"patch": vector, "control_random": control, "control_wrong_task": wrong}
                for method, states in methods.items():
                    yield Arm({"method": method, "source": source, "examples": n}, layer, states[layer])

    # Tables

    def chosen_layers(self) -> dict[tuple[str, str], int]:
        """(source, query modality) -> layer; known when all layer units are done."""
        return pooled_layers(self.layer_curves())

    def layer_curves(self) -> pd.DataFrame:
        """Exact match on selection items at every layer, at one whole context."""
        units = [unit for unit in self.units() if unit.kind == "layers"]
        records = ((unit.query, unit.task, unit.seed, self.run.done(unit.key)) for unit in units)
        return layer_curves(self.plan, ((q, task, seed, record) for q, task, seed, record in records if record))

    def answers(self) -> pd.DataFrame:
        """Every answer."""
        units = [unit for unit in self.units() if unit.kind != "layers"]
        return answer_table(self.plan, self.run, ((u.query, u.task, u.seed, u.key) for u in units))


def curve_rates(answers: pd.DataFrame) -> pd.DataFrame:
    """One row per method, source, number of examples and task; see :func:`interp.protocol.rates.rate_table`."""
    return rate_table(answers, KEYS, carry=("layer",))


def curve_comparisons(answers: pd.DataFrame) -> pd.DataFrame:
    """At every number of examples: ensemble - examples, patched and prompted, and patch - prompt; Holm over all."""
    rows: list[dict[str, Any]] = []
    contrasts = [
        ("ensemble patch - text patch", ("patch", "ensemble"), ("patch", "text")),
        ("ensemble prompt - text prompt", ("prompt", "ensemble"), ("prompt", "text")),
        ("text patch - text prompt", ("patch", "text"), ("prompt", "text")),
        ("ensemble patch - ensemble prompt", ("patch", "ensemble"), ("prompt", "ensemble")),
        ("instruction patch - instruction prompt", ("patch", "instruction"), ("prompt", "instruction")),
        ("text patch - wrong task vector", ("patch", "text"), ("control_wrong_task", "text")),
    ]
    for (query, n), part in answers.groupby(["query", "examples"], sort=False):
        arms = dict(list(part.groupby(["method", "source"], sort=False)))
        for name, a, b in contrasts:
            if a in arms and b in arms:
                rows += comparison_rows(arms[a], arms[b], {"query": query, "comparison": name, "examples": n})
    return with_holm(rows, ["query"])
