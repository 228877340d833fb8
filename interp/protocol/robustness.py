"""How far task vectors and prompts bear what is changed about them: five parts, each with its reference and controls.

template      a vector read under template A patched into queries under template B; A = B is the ceiling
instruction   instructions with typos, synonyms and unrelated words (:mod:`interp.protocol.noise`), as prompt and as
              vector, alone and with examples (the paper reports that instruction vectors are sensitive to such noise)
number        demonstrations in one context, in the prompt and behind the vector
labels        a share of the demonstrations' labels wrong, in the prompt and behind the vector
strength      the vector scaled, put in place of the state or added to it (Hendel et al. 2023 replace, Todd et al. 2024
              add)

Prompts and vectors see the same demonstrations: test query j has context j modulo the number of contexts, alone. Only
template and strength, which are about the patch itself, take the mean over contexts. Layers are chosen on selection
items with mean vectors: one for each query template, one for the instruction, one for the ensemble, one for adding.
Random vectors of the same norm and the other tasks' mean vectors stand beside every patch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.hooks import Mode
from interp.models.base import Model
from interp.prompts import Template
from interp.protocol.asking import (
    Arm,
    Asking,
    Candidate,
    answer_table,
    layer_curves,
    pooled_layers,
    random_like,
    with_instruction,
)
from interp.protocol.contexts import Context, draw, query_prompt, source_prompts, wrong_labels
from interp.protocol.noise import KINDS, noisy
from interp.protocol.plan import Plan
from interp.protocol.rates import WHERE, comparison_rows, rate_table, with_holm
from interp.protocol.settings import known
from interp.runs import Run
from interp.tasks import Task

PARTS = ("template", "instruction", "number", "labels", "strength")
KEYS = ["part", "query", "method", "source", "setting", "level", "query_template"]
MODES: tuple[Mode, ...] = ("replace", "add")
CLEAN = "clean"


@dataclass(frozen=True)
class Variations:
    """What is varied.

    Attributes:
        parts: which of PARTS.
        templates: of the template part; the first is that of all others.
        noise: shares of words of an instruction that are changed.
        numbers: demonstrations of a context.
        wrong: shares of wrong labels.
        label_shots: demonstrations of a context whose labels are made wrong.
        scales: factors of the vector.
    """

    parts: tuple[str, ...]
    templates: tuple[str, ...]
    noise: tuple[float, ...]
    numbers: tuple[int, ...]
    wrong: tuple[float, ...]
    label_shots: int
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        known("--parts", self.parts, PARTS)
        for name, values in asdict(self).items():
            if isinstance(values, tuple):
                if not values:
                    raise CrosstaskError(f"--{name} is empty; give at least one value.")
                if len(set(values)) < len(values):
                    raise CrosstaskError(f"--{name} names a value twice: {' '.join(map(str, values))}.")
        for name in ("noise", "wrong"):
            for share in getattr(self, name):
                if not 0 <= share <= 1:
                    raise CrosstaskError(f"--{name} {share} is no share; expected 0 to 1.")
        if "template" in self.parts and len(self.templates) < 2:
            raise CrosstaskError("--templates names one template; the part template compares two or more.")
        for n in (*self.numbers, self.label_shots):
            if n < 1:
                name = "label-shots" if n == self.label_shots else "numbers"
                raise CrosstaskError(f"--{name} is {n}; it must be at least 1.")
        for scale in self.scales:
            if not scale > 0:
                raise CrosstaskError(f"--scales {scale} is no factor of a vector; expected numbers above 0.")


@dataclass(frozen=True)
class Unit:
    """One resumable piece of work: the layer curves or one part, for a query modality, task and seed."""

    kind: str
    query: str
    task: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.kind} / {self.query} / {self.task} / seed {self.seed}"


class RobustnessWork:
    """Performs the units and makes the tables.

    Args:
        plan: under the first template; sources text and, for its part, instruction.
        model: the model.
        run: the run folder.
        variations: what is varied.

    Raises:
        CrosstaskError: for a template that the tokenizer cannot delimit, or too few selection items.
    """

    def __init__(self, plan: Plan, model: Model, run: Run, variations: Variations) -> None:
        self.plan, self.model, self.run, self.variations = plan, model, run, variations
        self.asking = Asking(plan, model)
        self.templates = templates_of(variations)
        self.text = lru_cache(maxsize=256)(self._text)
        self.instruction = lru_cache(maxsize=256)(self._instruction)

    def units(self) -> list[Unit]:
        """Every unit in order: layers first, then part by part."""
        s = self.plan.settings
        cells = [(query, task, seed) for seed in s.seeds for task in self.plan.tasks for query in s.queries]
        return [Unit(kind, *cell) for kind in ("layers", *self.variations.parts) for cell in cells]

    def perform(self, unit: Unit) -> None:
        """Do a unit unless the journal holds it."""
        if self.run.done(unit.key) is not None:
            return
        steps: dict[str, Callable[[Unit], Iterator[dict[str, Any]]]] = {
            "template": self._template_part,
            "instruction": self._instruction_part,
            "number": self._number_part,
            "labels": self._labels_part,
            "strength": self._strength_part,
        }
        if unit.kind == "layers":
            self.run.record(unit.key, self._layers(unit))
        else:
            plain = {"part": unit.kind, "setting": "", "level": 0.0, "query_template": 0, "source": ""}
            found = [*self._baselines(unit), *steps[unit.kind](unit)]
            self.run.record(unit.key, {"answers": [plain | answer for answer in found]})

    # Vectors

    def _task(self, name: str) -> Task:
        return (self.plan.tasks.get(name) or self.plan.wrong_tasks[name]).task

    def _text(self, task: str, seed: int, template: int) -> Float[Tensor, "P L D"]:
        contexts = self.plan.contexts(task, seed)
        return self.asking.states(self._task(task), "text", contexts, self.templates[template])

    def _instruction(self, task: str) -> Float[Tensor, "L D"]:
        return self.asking.states(self._task(task), "instruction", ())[0]

    def _others(self, task: str, vector: Callable[[str], Float[Tensor, "L D"]]) -> Float[Tensor, "L D"]:
        """The mean over the other tasks: the wrong-task control."""
        others = [name for name in {**self.plan.tasks, **self.plan.wrong_tasks} if name != task]
        return torch.stack([vector(name) for name in others]).mean(0)

    def _controls(
        self, unit: Unit, vector: Float[Tensor, "L D"], wrong: Float[Tensor, "L D"], layer: int, **labels: Any
    ) -> list[Arm]:
        """The two controls of a patch."""
        name = ", ".join(map(str, (unit.key, *labels.values())))
        return [
            Arm({"method": "control_random", **labels}, layer, random_like(vector, name)[layer]),
            Arm({"method": "control_wrong_task", **labels}, layer, wrong[layer]),
        ]

    # Layers

    def _layers(self, unit: Unit) -> dict[str, Any]:
        task, seed, parts = unit.task, unit.seed, self.variations.parts
        contexts = self.plan.contexts(task, seed)
        items = self.plan.selection_queries(task, seed)

        def means(template: int) -> list[Tensor]:
            return [self.asking.clean_mean(self.text(task, seed, template), contexts, item) for item in items]

        used = range(len(self.templates)) if "template" in parts else [0]
        found = {f"text, template {t}": Candidate(means(t), template=self.templates[t]) for t in used}
        first = found["text, template 0"].states
        if "instruction" in parts:
            words = self.instruction(task)
            found["instruction"] = Candidate([words] * len(items), template=self.templates[0])
            found["ensemble"] = Candidate([(state + words) / 2 for state in first], template=self.templates[0])
        if "strength" in parts:
            found["text, added"] = Candidate(first, mode="add", template=self.templates[0])
        return self.asking.per_layer(task, unit.query, items, found)

    def layer_curves(self) -> pd.DataFrame:
        """Exact match on selection items at every layer, for every kind of vector."""
        units = [unit for unit in self.units() if unit.kind == "layers"]
        records = ((unit.query, unit.task, unit.seed, self.run.done(unit.key)) for unit in units)
        return layer_curves(self.plan, ((q, task, seed, record) for q, task, seed, record in records if record))

    def chosen_layers(self) -> dict[tuple[str, str], int]:
        """(kind of vector, query modality) -> layer; known when all layer units are done."""
        return pooled_layers(self.layer_curves())

    # Parts

    def _baselines(self, unit: Unit) -> Iterator[dict[str, Any]]:
        """Nothing but the query, and the majority answer."""
        yield from self.asking.majority(unit.task, {"method": "majority"})
        used = range(len(self.templates)) if unit.kind == "template" else [0]
        for t in used:
            prompts = self.asking.bare(unit.task, unit.query, self.plan.tasks[unit.task].test, self.templates[t])
            labels = {"method": "no_context", "query_template": t, "setting": f"template {t}" if len(used) > 1 else ""}
            yield from self.asking.prompted(unit.task, prompts, labels)

    def _template_part(self, unit: Unit) -> Iterator[dict[str, Any]]:
        task, seed, layers = unit.task, unit.seed, self.chosen_layers()
        vectors = [self.text(task, seed, t).mean(0) for t in range(len(self.templates))]
        for t, template in enumerate(self.templates):
            layer, labels = layers[f"text, template {t}", unit.query], {"source": "text", "query_template": t}
            arms = [
                Arm({"method": "patch", **labels, "setting": f"template {read}"}, layer, vector[layer])
                for read, vector in enumerate(vectors)
            ]
            wrong = self._others(task, lambda name, t=t: self.text(name, seed, t).mean(0))  # type: ignore[misc]
            arms += self._controls(unit, vectors[t], wrong, layer, **labels, setting=f"template {t}")
            yield from self._patched(unit, [arms], template)
            contexts = self.plan.contexts(task, seed)
            prompts = self.asking.prompts(self._task(task), unit.query, "text", contexts, template)
            yield from self.asking.prompted(task, prompts, {"method": "prompt", **labels, "setting": f"template {t}"})

    def _instruction_part(self, unit: Unit) -> Iterator[dict[str, Any]]:
        task, seed, layers = self._task(unit.task), unit.seed, self.chosen_layers()
        contexts, examples = self.plan.contexts(unit.task, seed), self.text(unit.task, seed, 0)
        versions = {(CLEAN, 0.0): task.instruction}
        for kind in KINDS:
            for level in self.variations.noise:
                if level:
                    versions[kind, level] = noisy(task.instruction, kind, level, seed=seed)
        arms: list[list[Arm]] = [[] for _ in contexts]
        at = {source: layers[source, unit.query] for source in ("instruction", "ensemble")}
        for (kind, level), text in versions.items():
            changed, labels = with_instruction(task, text), {"setting": kind, "level": level, "instruction": text}
            for source in at:
                prompts = self.asking.prompts(changed, unit.query, source, contexts)
                yield from self.asking.prompted(unit.task, prompts, {"method": "prompt", "source": source, **labels})
            words = self.asking.states(changed, "instruction", ())[0]
            for row, state in zip(arms, examples, strict=True):
                for source, vector in (("instruction", words), ("ensemble", (state + words) / 2)):
                    row.append(Arm({"method": "patch", "source": source, **labels}, at[source], vector[at[source]]))
        clean = self.instruction(unit.task)
        wrong = self._others(unit.task, self.instruction)
        both = (examples.mean(0) + clean) / 2
        wrong_both = self._others(
            unit.task, lambda name: (self.text(name, seed, 0).mean(0) + self.instruction(name)) / 2
        )
        controls = self._controls(unit, clean, wrong, at["instruction"], source="instruction", setting=CLEAN)
        controls += self._controls(unit, both, wrong_both, at["ensemble"], source="ensemble", setting=CLEAN)
        yield from self._patched(unit, [[*row, *controls] for row in arms])

    def _number_part(self, unit: Unit) -> Iterator[dict[str, Any]]:
        numbers, pool = self.variations.numbers, self.plan.tasks[unit.task].pool
        count = self.plan.settings.contexts
        contexts = draw(pool, shots=max(numbers), contexts=count, seed=unit.seed, task=unit.task)
        levels = {float(n): [context.first(n) for context in contexts] for n in numbers}
        yield from self._compared(unit, levels)

    def _labels_part(self, unit: Unit) -> Iterator[dict[str, Any]]:
        shots, pool = self.variations.label_shots, self.plan.tasks[unit.task].pool
        count = self.plan.settings.contexts
        contexts = draw(pool, shots=shots, contexts=count, seed=unit.seed, task=unit.task)
        levels = {
            share: [
                wrong_labels(context, pool, wrong=round(share * shots), seed=unit.seed, task=unit.task)
                for context in contexts
            ]
            for share in self.variations.wrong
        }
        yield from self._compared(unit, levels)

    def _compared(self, unit: Unit, levels: dict[float, list[Context]]) -> Iterator[dict[str, Any]]:
        """Prompt and single-context patch at every level, and the controls of the plan's own vector."""
        task, layer = self._task(unit.task), self.chosen_layers()["text, template 0", unit.query]
        arms: list[list[Arm]] = [[] for _ in range(self.plan.settings.contexts)]
        for level, contexts in levels.items():
            labels = {"source": "text", "level": level}
            prompts = self.asking.prompts(task, unit.query, "text", contexts)
            yield from self.asking.prompted(unit.task, prompts, {"method": "prompt", **labels})
            for row, state in zip(arms, self.asking.states(task, "text", contexts), strict=True):
                row.append(Arm({"method": "patch", **labels}, layer, state[layer]))
        mean = self.text(unit.task, unit.seed, 0).mean(0)
        wrong = self._others(unit.task, lambda name: self.text(name, unit.seed, 0).mean(0))
        controls = self._controls(unit, mean, wrong, layer, source="text")
        yield from self._patched(unit, [[*row, *controls] for row in arms])

    def _strength_part(self, unit: Unit) -> Iterator[dict[str, Any]]:
        task, seed, layers = unit.task, unit.seed, self.chosen_layers()
        vector = self.text(task, seed, 0).mean(0)
        wrong = self._others(task, lambda name: self.text(name, seed, 0).mean(0))
        control = random_like(vector, unit.key)
        at = {
            "replace": layers["text, template 0", unit.query],
            "add": layers["text, added", unit.query],
        }
        arms = [
            Arm(
                {"method": method, "source": "text", "setting": mode, "level": scale},
                at[mode],
                scale * states[at[mode]],
                mode,
            )
            for mode in MODES
            for scale in self.variations.scales
            for method, states in (("patch", vector), ("control_random", control), ("control_wrong_task", wrong))
        ]
        yield from self._patched(unit, [arms])

    def _patched(
        self, unit: Unit, arms: Sequence[Sequence[Arm]], template: Template | None = None
    ) -> list[dict[str, Any]]:
        """Test query j under the arms of context j modulo their number."""
        count = len(self.plan.tasks[unit.task].test)
        rows = [arms[j % len(arms)] for j in range(count)]
        return self.asking.patched(unit.task, unit.query, rows, template)

    def answers(self) -> pd.DataFrame:
        """Every answer."""
        units = [unit for unit in self.units() if unit.kind != "layers"]
        return answer_table(self.plan, self.run, ((u.query, u.task, u.seed, u.key) for u in units))


def templates_of(variations: Variations) -> list[Template]:
    """The templates, parsed.

    Raises:
        CrosstaskError: for a template without a delimiter.
    """
    return [Template.parse(template) for template in variations.templates]


def check_variations(plan: Plan, model: Model, variations: Variations) -> None:
    """Renders one prompt under each template and draws the largest contexts, so that nothing fails later.

    Raises:
        CrosstaskError: for a template that the tokenizer cannot delimit, or too few selection items.
    """
    shots = [variations.label_shots] if "labels" in variations.parts else []
    shots += [max(variations.numbers)] if "number" in variations.parts else []
    seed = plan.settings.seeds[0]
    for name, task in plan.tasks.items():
        for n in shots:
            (context,) = draw(task.pool, shots=n, contexts=1, seed=seed, task=name)
            if n == variations.label_shots and "labels" in variations.parts:
                wrong_labels(context, task.pool, wrong=n, seed=seed, task=name)
        for template in templates_of(variations) if "template" in variations.parts else []:
            contexts = plan.contexts(name, seed)[:1]
            source_prompts(model, task.task, "text", contexts, template=template)
            for query in plan.settings.queries:
                item = task.test[0]
                query_prompt(model, task.task, item, query, source="", context=contexts[0], template=template)


def robustness_rates(answers: pd.DataFrame) -> pd.DataFrame:
    """One row per part, condition, arm and task; see :func:`interp.protocol.rates.rate_table`."""
    return rate_table(answers, KEYS, carry=("layer",))


REFERENCES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "template": lambda rows: rows["setting"].eq("template " + rows["query_template"].astype(str)),
    "instruction": lambda rows: rows["setting"].eq(CLEAN),
    "labels": lambda rows: rows["level"].eq(rows["level"].min()),
    "strength": lambda rows: rows["setting"].eq("replace") & rows["level"].eq(1.0),
}
"""The condition that the others of a part are compared with; numbers of demonstrations are not compared with one."""


def robustness_comparisons(answers: pd.DataFrame) -> pd.DataFrame:
    """Every condition against the reference of its part, and patch against prompt; Holm's over a part and query.

    References: the query's own template, the clean instruction, the smallest share of wrong labels, and replacing at
    scale 1.
    """
    rows: list[dict[str, Any]] = []
    arms = answers[answers["method"].isin(["prompt", "patch"])]
    condition = ["setting", "level", "query_template"]
    for (part, query), group in arms.groupby(["part", "query"], sort=False):
        for (method, source), arm in group.groupby(["method", "source"], sort=False):
            is_reference = REFERENCES[part](arm) if part in REFERENCES else pd.Series(False, index=arm.index)
            for values, here in arm[~is_reference].groupby(condition, sort=False):
                labels = {"part": part, "query": query, "method": method, "source": source}
                labels |= dict(zip(condition, values, strict=True))
                reference = arm[is_reference]
                reference = reference[reference["query_template"] == values[2]]
                rows += comparison_rows(here, reference, {**labels, "comparison": "condition - reference"})
        for values, here in group.groupby(["source", *condition], sort=False):
            patch, prompt = (here[here["method"] == method] for method in ("patch", "prompt"))
            labels = {"part": part, "query": query, "method": "patch"}
            labels |= dict(zip(["source", *condition], values, strict=True))
            if not patch.duplicated(WHERE).any():
                rows += comparison_rows(patch, prompt, {**labels, "comparison": "patch - prompt"})
    return with_holm(rows, ["part", "query", "comparison"])
