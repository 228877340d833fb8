"""Test queries of a plan under any patches and prompts, scored: what `ensembles` and `robustness` ask.

The main protocol (`work`) has fixed arms. Here the caller brings the arms: for each test query a list of labelled
patches, all from one prefill, and any number of labelled sets of prompts, which are asked together.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp import vectors
from interp.hooks import Mode
from interp.models.base import Model
from interp.patching import RowPatch, generate, sweep
from interp.prompts import Prompt, Template
from interp.protocol.answers import Scorer, constant_answers
from interp.protocol.contexts import Context, query_prompt, source_prompts
from interp.protocol.plan import Plan
from interp.scoring import could_become
from interp.tasks import Item, Task

TOGETHER = 64
"""Prompts that are asked in one call, about: each holds its pictures."""
Labels = Mapping[str, Any]
"""How an arm appears in the tables."""


class Arm(NamedTuple):
    """A patch of one test query."""

    labels: Labels
    layer: int
    vector: Float[Tensor, " D"]
    mode: Mode = "replace"


class Asked(NamedTuple):
    """A prompt for each test query, in their order."""

    labels: Labels
    prompts: Sequence[Prompt]


class Candidate(NamedTuple):
    """Vectors of which the best layer is looked for: one for each selection query, all layers ``[L, D]``."""

    states: Sequence[Float[Tensor, "L D"]]
    mode: Mode = "replace"
    template: Template | None = None


class Asking:
    """Asks a model the items of a plan."""

    def __init__(self, plan: Plan, model: Model) -> None:
        self.plan, self.model, self.scorer = plan, model, Scorer(model.tokenizer)

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
            {**arm.labels, "layer": arm.layer, **self.scorer.answer(item, generation)}
            for item, row, generations in zip(plan.test, arms, found, strict=True)
            for arm, generation in zip(row, generations, strict=True)
        ]

    def prompted(self, task: str, asked: Iterable[Asked]) -> list[dict[str, Any]]:
        """The answers to sets of prompts, as many sets at once as keep a model busy."""
        plan, left, rows = self.plan.tasks[task], iter(asked), list[dict[str, Any]]()
        while together := list(islice(left, max(1, TOGETHER // len(plan.test)))):
            prompts = [prompt for one in together for prompt in one.prompts]
            found = generate(self.model, prompts, max_new_tokens=plan.max_new_tokens)
            answered = ((one.labels, item) for one in together for item in plan.test)
            rows += [
                {**labels, "layer": None, **self.scorer.answer(item, generation)}
                for (labels, item), generation in zip(answered, found, strict=True)
            ]
        return rows

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
                    [self.scorer.score(item, answer).exact for answer in answers]
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

    def majority(self, task: str, labels: Labels) -> list[dict[str, Any]]:
        """The answers of the baseline that always gives the commonest answer of the selection items."""
        plan = self.plan.tasks[task]
        return constant_answers(plan.test, plan.task.majority_answer, labels)


def random_like(vector: Float[Tensor, "L D"], name: str) -> Float[Tensor, "L D"]:
    """A random direction with the norm of the vector at each layer; the same for the same name."""
    return vectors.norm_matched_random(vector, seed=zlib.crc32(name.encode()))
