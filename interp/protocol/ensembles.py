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
from functools import lru_cache, partial
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.protocol.asking import Arm, Asked, Candidate, random_like
from interp.protocol.contexts import Context, draw_apart, query_prompt
from interp.protocol.estimate import Seconds
from interp.protocol.plan import Plan
from interp.protocol.rates import comparison_rows, rate_table, with_holm
from interp.protocol.study import LAYERS, Study, Unit
from interp.runs import Run
from interp.tasks import Item

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


def contexts_for(plan: Plan, task: str, seed: int, examples: Sequence[int]) -> tuple[Context, ...]:
    """The contexts that make the largest of these numbers of examples."""
    size = plan.settings.shots
    pool, count = plan.either(task).pool, max(1, max(examples) // size)
    return draw_apart(pool, shots=size, contexts=count, seed=seed, task=task)


def in_one(contexts: Sequence[Context]) -> Context:
    """The demonstrations of all contexts in one, with the first one's dummy query."""
    demonstrations = tuple(item for context in contexts for item in context.demonstrations)
    outputs = tuple(output for context in contexts for output in context.outputs)
    return Context(demonstrations, outputs, contexts[0].dummy)


def check_length(plan: Plan, model: Model, examples: Sequence[int]) -> None:
    """Renders the longest prompt of every task and query modality, so that none is too long later.

    Raises:
        CrosstaskError: a prompt is longer than the model takes.
    """
    for name, task in plan.tasks.items():
        shown = in_one(contexts_for(plan, name, plan.settings.seeds[0], examples))
        for query in plan.settings.queries:
            query_prompt(
                model, task.task, task.test[0], query, source="ensemble", context=shown, template=plan.template
            )


class EnsembleStudy(Study):
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
        super().__init__(plan, model, run, ("prompt", "patch"))
        self.size = plan.settings.shots
        check_examples(examples, self.size)
        self.examples = tuple(sorted({0, *examples}))
        self.vectors = lru_cache(maxsize=64)(self._vectors)

    def contexts(self, task: str, seed: int) -> tuple[Context, ...]:
        """The contexts of the largest number of examples."""
        return contexts_for(self.plan, task, seed, self.examples)

    def shown(self, task: str, seed: int, n: int) -> tuple[Context, ...]:
        """The contexts that make n examples."""
        contexts = self.contexts(task, seed)
        return (contexts[0].first(n),) if n < self.size else contexts[: n // self.size]

    def _vectors(self, task: str, seed: int) -> dict[int, Float[Tensor, "L D"]]:
        """n -> the vector of n examples, and of the instruction for n = 0; also that of one whole context."""
        plan, contexts = self.plan.either(task), self.contexts(task, seed)
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

    def candidates(self, unit: Unit) -> tuple[Sequence[Item], dict[str, Candidate]]:
        """The three vectors at one whole context, on queries that it does not show."""
        first = self.contexts(unit.task, unit.seed)[0]
        clean = [item for item in self.plan.tasks[unit.task].selection if item.input not in first.items]
        items = clean[: self.plan.settings.selection_items]
        vectors = {source: self.vector(unit.task, unit.seed, source, self.size) for source in SOURCES}
        return items, {source: Candidate([vector] * len(items)) for source, vector in vectors.items()}

    def answered(self, unit: Unit) -> list[dict[str, Any]]:
        """Prompts at every number of examples with the baselines, or patches with their controls."""
        if unit.kind == "prompt":
            baseline = self.asking.majority(unit.task, {"method": "majority", "source": "", "examples": 0})
            return baseline + self.asking.prompted(unit.task, self._prompts(unit))
        arms = list(self._arms(unit))
        return self.asking.patched(unit.task, unit.query, [arms] * len(self.plan.tasks[unit.task].test))

    def _prompts(self, unit: Unit) -> Iterator[Asked]:
        task = self.plan.tasks[unit.task].task
        for n in self.examples:
            for source in ("text", "ensemble") if n else ("", "instruction"):
                labels = {"method": "prompt" if source else "no_context", "source": source, "examples": n}
                shown = in_one(self.shown(unit.task, unit.seed, n))
                yield Asked(labels, self.asking.prompts(task, unit.query, source, [shown]))

    def seconds(self, unit: Unit, pace: Seconds) -> float:
        """About how long a unit takes."""
        items, numbers = len(self.plan.tasks[unit.task].test), len(self.examples)
        if unit.kind == LAYERS:
            contexts = len(self.contexts(unit.task, unit.seed))
            queries = min(len(self.plan.tasks[unit.task].selection), self.plan.settings.selection_items or 10**6)
            return pace.read(contexts, self.size) + pace.swept(unit.query, queries, len(SOURCES))
        if unit.kind == "prompt":
            return 2 * (pace.read(1, sum(self.examples)) + pace.asked(unit.query, items * numbers))
        return pace.patched(unit.query, items, 3 * (2 * numbers - 1))

    def _arms(self, unit: Unit) -> Iterator[Arm]:
        """The patches of every test query: all vectors at all numbers, each with its controls."""
        task, seed = unit.task, unit.seed
        for n in self.examples:
            for source in ("text", "ensemble") if n else ("instruction",):
                layer = self.layers[source, unit.query]
                vector = self.vector(task, seed, source, n)
                wrong = self.mean_of_others(task, partial(self.vector, seed=seed, source=source, n=n))
                control = random_like(vector, f"{source}, {n}, {task}, {seed}")
                methods = {"patch": vector, "control_random": control, "control_wrong_task": wrong}
                for method, states in methods.items():
                    yield Arm({"method": method, "source": source, "examples": n}, layer, states[layer])


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
