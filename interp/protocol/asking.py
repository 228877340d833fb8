"""Test queries of a plan under any patches and prompts, scored: what `ensembles` and `robustness` ask.

The main protocol (`work`) has fixed arms. Here the caller brings the arms: for each test query a list of labelled
patches, all from one prefill, or one prompt. Layers are chosen as there: the highest exact match on selection items,
the mean over tasks of the mean over seeds, ties to the lowest layer, with vectors of contexts that do not show the
item.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp import vectors
from interp.hooks import Mode
from interp.models.base import Model
from interp.patching import Generation, RowPatch, generate, sweep
from interp.prompts import Prompt, Template
from interp.protocol.contexts import Context, query_prompt, source_prompts
from interp.protocol.plan import Plan
from interp.protocol.tables import RULES, layer_table, wilson
from interp.runs import Run
from interp.scoring import could_become, first_tokens, score
from interp.tasks import Item, Task


class Arm(NamedTuple):
    """A patch of one test query, and how it appears in the tables."""

    labels: Mapping[str, Any]
    layer: int
    vector: Float[Tensor, " D"]
    mode: Mode = "replace"


class Candidate(NamedTuple):
    """Vectors of which the best layer is looked for: one for each selection query, all layers ``[L, D]``."""

    states: Sequence[Float[Tensor, "L D"]]
    mode: Mode = "replace"
    template: Template | None = None


class Asking:
    """Asks a model the items of a plan."""

    def __init__(self, plan: Plan, model: Model) -> None:
        self.plan, self.model = plan, model
        self._first_tokens = cache(lambda answers: first_tokens(model.tokenizer, answers))

    def states(
        self, task: Task, source: str, contexts: Sequence[Context], template: Template | None = None
    ) -> Float[Tensor, "P L D"]:
        """The delimiter states of contexts, or of the task's instruction (P = 1)."""
        prompts = source_prompts(self.model, task, source, contexts, template=template or self.plan.template)
        return vectors.extract(self.model, prompts)

    def bare(self, task: str, query: str, items: Iterable[Item], template: Template | None = None) -> list[Prompt]:
        """The queries alone."""
        plan = self.plan.tasks[task]
        nothing = Context((), (), plan.pool[0])
        return [
            query_prompt(
                self.model, plan.task, item, query, source="", context=nothing, template=template or self.plan.template
            )
            for item in items
        ]

    def prompts(
        self, task: Task, query: str, source: str, contexts: Sequence[Context], template: Template | None = None
    ) -> list[Prompt]:
        """The test queries after the instruction, demonstrations, or both; query j after context j modulo their
        number. The task may be one whose instruction was changed."""
        test = self.plan.tasks[task.name].test
        return [
            query_prompt(
                self.model,
                task,
                item,
                query,
                source=source,
                context=contexts[j % len(contexts)],
                template=template or self.plan.template,
            )
            for j, item in enumerate(test)
        ]

    def patched(
        self, task: str, query: str, arms: Sequence[Sequence[Arm]], template: Template | None = None
    ) -> list[dict[str, Any]]:
        """The answers of every test query under each of its arms, from one prefill a query."""
        plan = self.plan.tasks[task]
        found = sweep(
            self.model,
            self.bare(task, query, plan.test, template),
            [[RowPatch(arm.layer, arm.vector, mode=arm.mode) for arm in row] for row in arms],
            max_new_tokens=plan.max_new_tokens,
        )
        return [
            {**arm.labels, "layer": arm.layer, **self.answer(item, generation)}
            for item, row, generations in zip(plan.test, arms, found, strict=True)
            for arm, generation in zip(row, generations, strict=True)
        ]

    def prompted(self, task: str, prompts: Sequence[Prompt], labels: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The answers to prompts, one for each test query."""
        plan = self.plan.tasks[task]
        found = generate(self.model, prompts, max_new_tokens=plan.max_new_tokens)
        return [
            {**labels, "layer": None, **self.answer(item, generation)}
            for item, generation in zip(plan.test, found, strict=True)
        ]

    def answer(self, item: Item, generation: Generation) -> dict[str, Any]:
        """An answer with its scores."""
        found = score(generation.text, generation.first_token, item.outputs, self._first_tokens(item.outputs))
        return {"item": item.input, "answer": generation.text, "accepted": list(item.outputs), **asdict(found)}

    def per_layer(
        self, task: str, query: str, items: Sequence[Item], candidates: Mapping[str, Candidate]
    ) -> dict[str, Any]:
        """For each candidate the number of selection queries that its vector gets right at every layer of the plan."""
        layers = self.plan.settings.layers
        counts: dict[str, list[int]] = {}
        for template in dict.fromkeys(candidate.template for candidate in candidates.values()):
            names = [name for name, candidate in candidates.items() if candidate.template == template]
            rows = [
                [
                    RowPatch(layer, candidates[name].states[q][layer], mode=candidates[name].mode)
                    for name in names
                    for layer in layers
                ]
                for q in range(len(items))
            ]
            found = sweep(
                self.model,
                self.bare(task, query, items, template),
                rows,
                max_new_tokens=self.plan.tasks[task].max_new_tokens,
                keep=lambda q, row, text: could_become(text, items[q].outputs),
            )
            right = torch.tensor(
                [
                    [self.answer(item, answer)["exact"] for answer in answers]
                    for item, answers in zip(items, found, strict=True)
                ]
            )
            sums = right.view(len(items), len(names), len(layers)).sum(0).tolist()
            counts |= dict(zip(names, sums, strict=True))
        return {"n": len(items), "layers": list(layers), "counts": counts}

    def clean_mean(
        self, states: Float[Tensor, "P L D"], contexts: Sequence[Context], item: Item
    ) -> Float[Tensor, "L D"]:
        """The mean over the contexts that do not show the item."""
        return vectors.mean(states, items=[context.items for context in contexts], exclude=item.input)

    def majority(self, task: str, labels: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The answers of the baseline that always gives the commonest answer of the selection items."""
        plan = self.plan.tasks[task]
        answer = plan.task.majority_answer
        return [
            {
                **labels,
                "layer": None,
                "item": item.input,
                "answer": answer,
                "accepted": list(item.outputs),
                **asdict(score(answer, answer, item.outputs)),
            }
            for item in plan.test
        ]


def random_like(vector: Float[Tensor, "L D"], name: str) -> Float[Tensor, "L D"]:
    """A random direction with the norm of the vector at each layer; the same for the same name."""
    return vectors.norm_matched_random(vector, seed=zlib.crc32(name.encode()))


def with_instruction(task: Task, instruction: str) -> Task:
    """The task with another instruction."""
    return replace(task, instruction_text=instruction)


def layer_curves(plan: Plan, records: Iterable[tuple[str, str, int, dict[str, Any]]]) -> pd.DataFrame:
    """What :meth:`Asking.per_layer` counted, one row per candidate (source), query, task, seed and layer.

    Args:
        plan: whose model is patched.
        records: query modality, task, seed, and the record.
    """
    rows = []
    for query, task, seed, record in records:
        for name, counts in record["counts"].items():
            for layer, correct in zip(record["layers"], counts, strict=True):
                interval = wilson(correct, record["n"])
                rows.append(
                    {
                        "model": plan.settings.model,
                        "source_model": plan.settings.model,
                        "source": name,
                        "query": query,
                        "task": task,
                        "seed": seed,
                        "layer": layer,
                        "n": record["n"],
                        "correct": correct,
                        "exact": interval.value,
                        "wilson_low": interval.low,
                        "wilson_high": interval.high,
                    }
                )
    return pd.DataFrame(rows)


def pooled_layers(curves: pd.DataFrame) -> dict[tuple[str, str], int]:
    """(candidate, query modality) -> the chosen layer."""
    table = layer_table(curves)
    return {(row.source, row.query): int(row.layer) for row in table[table["task"] == "all"].itertuples()}


def answer_table(plan: Plan, run: Run, units: Iterable[tuple[str, str, int, str]]) -> pd.DataFrame:
    """All answers that the journal holds, one row each.

    Args:
        plan, run: of the run.
        units: query modality, task, seed and key of every unit that has answers.
    """
    rows = []
    for query, task, seed, key in units:
        where = {"model": plan.settings.model, "family": plan.tasks[task].task.family, "task": task}
        record = run.done(key)
        if record is None:
            raise LookupError(f"{key} is not in the journal")
        rows += [{**where, "query": query, "seed": seed, **answer} for answer in record["answers"]]
    return pd.DataFrame(rows).astype({"layer": "Int64", **dict.fromkeys(RULES, bool)})
