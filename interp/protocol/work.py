"""Performing the units of a plan; each returns the JSON record that the run's journal keeps.

1. extract     delimiter states of every context, source and source model.
2. selection   for each selection query, one prefix-cached sweep over all layers x arms with leak-masked mean vectors;
               rows whose text can no longer become an accepted answer end early, which changes no exact match.
3. choose      per (source model, source, query modality) the layer with the highest exact match, the mean over tasks
               and seeds (primary, "pooled") and per task ("task"); ties go to the lowest layer.
4. prompt      test queries after demonstrations, the instruction, both, or bare.
5. patch       for each test query, one sweep whose rows are all arms and controls at their chosen layers. Query j is
               patched with the single context j modulo the number of contexts, and prompted with the same one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.backends.base import Backend
from interp.hooks import Mode
from interp.models.base import Model
from interp.patching import RowPatch
from interp.protocol.answers import Scorer
from interp.protocol.bank import Bank
from interp.protocol.contexts import query_prompt
from interp.protocol.plan import Plan, Unit
from interp.protocol.settings import HEADS
from interp.protocol.tables import chosen_layers
from interp.runs import Run
from interp.scoring import could_become
from interp.tasks import Item

Arm = tuple[str, str]  # source model, source
Layers = dict[tuple[str, str, str, str], int]  # (source model, source, query, task or "all") -> layer


@dataclass(frozen=True)
class Row:
    """A patched row of the test sweep: which vector, at which layer, and how it appears in the tables."""

    method: str
    source_model: str
    source: str
    layer: int
    layer_choices: tuple[str, ...]
    demonstrations: int
    budget: str
    vector: Float[Tensor, " D"]

    @property
    def patch(self) -> RowPatch:
        return RowPatch(self.layer, self.vector, self.method, mode=_mode(self.source))


class Work:
    """Performs units in the plan's order and keeps their records."""

    def __init__(self, plan: Plan, run: Run, models: Callable[[str], Model], backend: Backend | None = None) -> None:
        self.plan, self.run, self.models = plan, run, models
        self.bank = Bank(plan, run, models, backend)
        self.backend = self.bank.backend
        self.scorer = Scorer(models(plan.settings.model).tokenizer)

    def perform(self, unit: Unit) -> dict[str, Any]:
        """The unit's record: from the journal when it is there, otherwise by doing the work."""
        record = self.run.done(unit.key)
        if record is None:
            steps = {
                "extract": self.bank.extract,
                "selection": self._selection,
                "prompt": self._prompt,
                "patch": self._patch,
            }
            record = steps[unit.kind](unit)
            self.run.record(unit.key, record)
        return record

    @cached_property
    def layers(self) -> Layers:
        """The chosen layers; known when all selection units are done."""
        return chosen_layers(self.plan, self.run)

    def _selection(self, unit: Unit) -> dict[str, Any]:
        plan, model = self.plan, self.models(self.plan.settings.model)
        task, arms, layers = plan.tasks[unit.task], plan.arms(), plan.settings.layers
        queries = plan.selection_queries(unit.task, unit.seed)
        rows = []
        for item in queries:
            states = {arm: self.bank.vector(*arm, unit.task, unit.seed, exclude=item.input) for arm in arms}
            rows.append([RowPatch(layer, states[arm][layer], mode=_mode(arm[1])) for arm in arms for layer in layers])
        generations = self.backend.sweep(
            model,
            [self._bare(model, unit, item) for item in queries],
            rows,
            max_new_tokens=task.max_new_tokens,
            keep=lambda query, row, text: could_become(text, queries[query].outputs),
        )
        scores = [[self.scorer.score(item, g) for g in found] for item, found in zip(queries, generations, strict=True)]
        counts = {}
        for index, (source_model, source) in enumerate(arms):
            columns = range(index * len(layers), (index + 1) * len(layers))
            counts[f"{source_model} / {source}"] = {
                rule: [sum(getattr(found[column], rule) for found in scores) for column in columns]
                for rule in ("exact", "first_token", "prefix")
            }
        return {"n": len(queries), "layers": list(layers), "counts": counts}

    def _prompt(self, unit: Unit) -> dict[str, Any]:
        plan, model = self.plan, self.models(self.plan.settings.model)
        task, contexts = plan.tasks[unit.task], plan.contexts(unit.task, unit.seed)
        prompts = [
            query_prompt(
                model, task.task, item, unit.query,
                source=unit.source, context=contexts[j % len(contexts)], template=plan.template,
            )
            for j, item in enumerate(task.test)
        ]  # fmt: skip
        generations = self.backend.generate(model, prompts, max_new_tokens=task.max_new_tokens)
        shown = plan.settings.shots if unit.source in ("text", "image", "ensemble") else 0
        arm = {
            "method": "prompt" if unit.source else "no_context",
            "source_model": "",
            "source": unit.source,
            "layer_choice": "",
            "layer": None,
            "demonstrations": shown,
            "budget": "matched" if unit.source else "",
        }
        return {"answers": [arm | self.scorer.answer(item, g) for item, g in zip(task.test, generations, strict=True)]}

    def _patch(self, unit: Unit) -> dict[str, Any]:
        model, task = self.models(self.plan.settings.model), self.plan.tasks[unit.task]
        layers = self.layers
        shared = list(self._shared_rows(unit, layers))
        rows = [[*self._single_rows(unit, layers, j), *shared] for j in range(len(task.test))]
        generations = self.backend.sweep(
            model,
            [self._bare(model, unit, item) for item in task.test],
            [[row.patch for row in query] for query in rows],
            max_new_tokens=task.max_new_tokens,
        )
        answers = [
            {
                "method": row.method,
                "source_model": row.source_model,
                "source": row.source,
                "layer_choice": choice,
                "layer": row.layer,
                "demonstrations": row.demonstrations,
                "budget": row.budget,
            }
            | self.scorer.answer(item, generation)
            for item, query, found in zip(task.test, rows, generations, strict=True)
            for row, generation in zip(query, found, strict=True)
            for choice in row.layer_choices
        ]
        return {"answers": answers}

    def _single_rows(self, unit: Unit, layers: Layers, j: int) -> Iterator[Row]:
        """Test query j patched with one context's vector, at the pooled and at the task's own layer."""
        settings = self.plan.settings
        for arm in self.plan.arms():
            if arm[1] == HEADS:
                continue  # chosen on many contexts, so nothing of theirs has seen one alone
            vector = self.bank.vector(*arm, unit.task, unit.seed, context=j % settings.contexts)
            shots = 0 if arm[1] == "instruction" else settings.shots
            for layer, choices in _chosen(layers, arm, unit):
                yield Row("patch_single", *arm, layer, choices, shots, "matched", vector[layer])

    def _shared_rows(self, unit: Unit, layers: Layers) -> Iterator[Row]:
        """The rows every test query has: mean vectors, and the controls at the pooled layer."""
        bank, cell = self.bank, (unit.task, unit.seed)
        many = self.plan.settings.shots * self.plan.settings.contexts
        for arm in self.plan.arms():
            pooled, here = layers[(*arm, unit.query, "all")], ("pooled",)
            if arm[1] != "instruction":
                mean = bank.vector(*arm, *cell)
                shown = 2 * many if arm[1] == HEADS else many  # with the trials that chose the heads
                for layer, choices in _chosen(layers, arm, unit):
                    yield Row("patch_mean", *arm, layer, choices, shown, "unmatched", mean[layer])
            yield Row("control_random", *arm, pooled, here, 0, "", bank.random(*arm, *cell)[pooled])
            yield Row("control_wrong_task", *arm, pooled, here, 0, "", bank.wrong_task(*arm, *cell)[pooled])
            if arm[1] in ("text", "image"):
                shuffled = bank.vector(*arm, *cell, shuffled=True)
                yield Row("control_shuffled", *arm, pooled, here, many, "", shuffled[pooled])

    def _bare(self, model: Model, unit: Unit, item: Item) -> Any:
        task, context = self.plan.tasks[unit.task].task, self.plan.contexts(unit.task, unit.seed)[0]
        return query_prompt(model, task, item, unit.query, source="", context=context, template=self.plan.template)


def _mode(source: str) -> Mode:
    """A sum of heads is what they add to the stream, and a state at the delimiter is the stream."""
    return "add" if source == HEADS else "replace"


def _chosen(layers: Layers, arm: Arm, unit: Unit) -> list[tuple[int, tuple[str, ...]]]:
    """The arm's layers with what chose them; one row serves both when they agree."""
    pooled, own = layers[(*arm, unit.query, "all")], layers[(*arm, unit.query, unit.task)]
    return [(pooled, ("pooled", "task"))] if pooled == own else [(pooled, ("pooled",)), (own, ("task",))]
