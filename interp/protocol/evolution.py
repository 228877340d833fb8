"""The protocol behind `experiments.token_evolution`: what the delimiter says, block by block (Luo et al. 2025).

An example set is `shots` demonstrations from the selection split and one query from the test split. The state at the
query's delimiter is read through the logit lens after every block, and three sets of tokens share the probability:

input    what a bare delimiter says early: the most probable token, over the first quarter of the blocks, after bare
         queries of the selection split (the mean over at most 8 of each task, of the modality in question). The paper
         takes such a token too, chosen by eye. With --input name: the first tokens of the query's own name instead.
task     the tokens of the task's words, such as capital and city (:attr:`interp.tasks.Task.words`)
answer   the first tokens of the query's accepted answers, with and without a space before

A token of two sets belongs to the later one. Nothing is chosen on the scored queries. Beside the three stand

other_answer   the share that another item's answers would have in the answer's place
other_task     the share that another task's words would have in the task's place, the mean over the other tasks
shuffled       the whole again with the labels permuted among the demonstrations

The *switch* from one curve to the next is the layer s that tells them apart best: the greatest
``sum over l >= s of (after_l - before_l) - sum over l < s of (after_l - before_l)``. For curves that cross once it is
the first layer at which `after` is above. There is none where one of the two never leads on its side by .05, as
where the task is never said.
Intervals are percentiles over resamples of queries (all sets of a query go together); a switch is found anew in each.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file

from interp.errors import CrosstaskError
from interp.lens import check_lens, first_token_ids, log_probabilities, project, word_token_ids
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.prompts import Prompt, Template
from interp.protocol.bank import slug
from interp.protocol.contexts import Context, draw, query_prompt, shuffle_labels
from interp.protocol.estimate import reading_seconds
from interp.protocol.settings import at_least, decisive, known, once
from interp.runs import Run
from interp.tasks import Item, Task
from interp.vectors import extract

LABELS = ("right", "shuffled")
BARE_QUERIES = 8
"""Bare queries of a task, at most, that decide on the input token."""


@dataclass(frozen=True)
class EvolutionSettings:
    """One run. Attributes as in :class:`interp.protocol.settings.Settings`, and:

    Attributes:
        queries: modalities of the query.
        source: modality of the demonstrations; `same` is the query's.
        input: the input token is what the bare `delimiter` says, or the query's `name`.
        sets: example sets a task.
    """

    model: str
    tasks: tuple[str, ...]
    queries: tuple[str, ...]
    source: str
    input: str
    shots: int
    sets: int
    seed: int
    template: str
    loading: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        at_least(self, 1, "shots", "sets")
        once("--tasks", self.tasks)
        once("--query", self.queries)
        known("--query", self.queries, ("text", "image"))
        known("--source", (self.source,), ("same", "text", "image"))
        known("--input", (self.input,), ("delimiter", "name"))

    def source_of(self, query: str) -> str:
        """The modality of the demonstrations before a query."""
        return query if self.source == "same" else self.source

    def config(self) -> dict[str, Any]:
        """What decides the numbers."""
        return decisive(self)


class EvolutionWork:
    """Performs the units of a run. Made, and so checked, before the run has a folder.

    Attributes:
        run: set before anything is performed.
    """

    run: Run

    def __init__(self, settings: EvolutionSettings, tasks: Sequence[Task], model: Model) -> None:
        if not model.takes_images and "image" in (*settings.queries, settings.source):
            raise CrosstaskError(f"{model.name!r} takes no images; use --query text --source text.")
        self.settings, self.tasks, self.model = settings, list(tasks), model
        self.template = Template.parse(settings.template)
        self.words = {task.name: word_token_ids(model.tokenizer, task.words) for task in tasks}
        for task in tasks:
            if not task.split("test"):
                raise CrosstaskError(f"Task {task.name!r} has no test items; mark some with split=test.")
            for query in settings.queries:
                check_lens(model, self._prompt(task, *self.example_sets(task)[0], query))

    def units(self) -> list[tuple[str, ...]]:
        """The keys of all units in order: the input token of each modality, then the sets of each task."""
        inputs = [("input", query) for query in self.settings.queries]
        return inputs + [
            (task.name, query, labels) for query in self.settings.queries for task in self.tasks for labels in LABELS
        ]

    def seconds(self) -> float:
        """How long the prompts of the units that are not done should take, from reading two of each modality."""
        left = [key for key in self.units() if self.run.done(key) is None and key[0] != "input"]
        first = self.tasks[0]
        return reading_seconds(
            (
                self.model,
                [self._prompt(first, *given, query) for given in self.example_sets(first)[:2]],
                self.settings.sets * sum(key[1] == query for key in left),
            )
            for query in dict.fromkeys(key[1] for key in left)
        )

    def perform(self, key: tuple[str, ...]) -> None:
        """Do a unit unless the journal holds it."""
        if self.run.done(key) is not None:
            return
        if key[0] == "input" and len(key) == 2:
            self.run.record(key, self._input(key[1]))
            return
        task = next(task for task in self.tasks if task.name == key[0])
        self.run.record(key, self._read(task, key[1], key[2]))

    def example_sets(self, task: Task) -> list[tuple[Context, Item]]:
        """The demonstrations and the query of each set; queries go round the test items, in an order of the family."""
        s = self.settings
        contexts = draw(task.split("selection"), shots=s.shots, contexts=s.sets, seed=s.seed, task=task.name)
        items = list(task.split("test"))
        random.Random(f"{task.family}, seed {s.seed}, queries").shuffle(items)
        return [(context, items[index % len(items)]) for index, context in enumerate(contexts)]

    def token_sets(self, task: Task, item: Item, others: Sequence[Item], query: str) -> list[tuple[int, ...]]:
        """Disjoint token ids of input, task, answer, another item's answer, and each other task's words."""
        tokenizer = self.model.tokenizer
        answer = first_token_ids(tokenizer, item.outputs)
        words = _without(self.words[task.name], answer)
        given = (
            first_token_ids(tokenizer, [item.caption or item.input])
            if self.settings.input == "name"
            else self.input_tokens(query)
        )
        begun = _without(given, answer, words)
        answers = (_without(first_token_ids(tokenizer, other.outputs), answer, words, begun) for other in others)
        wrong = next((found for found in answers if found), ())
        foreign = [self.words[other.name] for other in self.tasks if other.name != task.name]
        return [begun, words, answer, wrong, *(_without(found, answer, words, begun) for found in foreign)]

    def input_tokens(self, query: str) -> tuple[int, ...]:
        """What the bare delimiter says early after queries of a modality."""
        return tuple(self._record(("input", query))["tokens"])

    def _input(self, query: str) -> dict[str, Any]:
        nothing = Context((), (), self.tasks[0].items[0])
        prompts = [
            query_prompt(self.model, task, item, query, source="", context=nothing, template=self.template)
            for task in self.tasks
            for item in task.split("selection")[:BARE_QUERIES]
        ]
        early = extract(self.model, prompts)[:, : max(1, self.model.n_layers // 4)]
        chances = torch.stack([project(self.model, states).softmax(-1).mean(0) for states in early]).mean(0)
        best = chances.max(0)
        return {"tokens": [int(best.indices)], "probability": float(best.values), "queries": len(prompts)}

    def _prompt(self, task: Task, context: Context, item: Item, query: str) -> Prompt:
        source = self.settings.source_of(query)
        return query_prompt(self.model, task, item, query, source=source, context=context, template=self.template)

    def _read(self, task: Task, query: str, labels: str) -> dict[str, Any]:
        sets, seed = self.example_sets(task), self.settings.seed
        if labels == "shuffled":
            sets = [(shuffle_labels(context, seed=seed), item) for context, item in sets]
        states = extract(self.model, [self._prompt(task, context, item, query) for context, item in sets])
        items = [item for _, item in sets]
        pool = {item.input: item for item in (*items, *task.split("test"))}
        tokens = [
            self.token_sets(task, item, [pool[name] for name in _after(list(pool), item.input)], query)
            for item in items
        ]
        found = log_probabilities(self.model, states, tokens)
        self.run.write_safetensors(_path(task.name, query, labels), {"log_probabilities": found})
        return {"queries": [item.input for item in items], "sizes": [list(map(len, own)) for own in tokens]}

    def logs(self, task: Task, query: str, labels: str) -> Float[np.ndarray, "S L C"]:
        """Log-probabilities of the token sets in the order of :meth:`token_sets`, in nats."""
        return load_file(self.run.folder / _path(task.name, query, labels))["log_probabilities"].double().numpy()

    def queries(self, task: Task, query: str) -> list[str]:
        """The query of each example set."""
        return self._record((task.name, query, LABELS[0]))["queries"]

    def _record(self, key: tuple[str, ...]) -> dict[str, Any]:
        record = self.run.done(key)
        assert record is not None
        return record


def _without(tokens: Sequence[int], *taken: Sequence[int]) -> tuple[int, ...]:
    gone = {token for own in taken for token in own}
    return tuple(token for token in tokens if token not in gone)


def _after(names: list[str], name: str) -> list[str]:
    """The other names, from the next one on, round the end."""
    place = names.index(name)
    return names[place + 1 :] + names[:place]


def _path(task: str, query: str, labels: str) -> str:
    return f"probabilities/{slug(task)}-{query}-{labels}.safetensors"
