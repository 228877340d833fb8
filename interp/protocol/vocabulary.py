"""The protocol behind `experiments.decode_vectors`: task vectors read as words (Luo et al. 2025, decoded task vectors).

The vector of a task and source is the mean over `contexts` contexts (one prompt, for an instruction). It and

    text minus base LLM         the same contexts read by the VLM and by the language model it was made from
    image minus text            the same contexts with pictures and with names
    <source> minus mean of tasks    what sets the task apart from the others

are read through the logit lens of the model, at every layer: the most probable tokens, and two numbers that need no
reading: the rank among the vocabulary of the most probable task word, and of the first tokens of the test items'
accepted answers (an item counts by its best; geometric mean over items). The norm before the unembedding takes a
vector's length off, so a difference is read by its direction. Where it is nothing but rounding, as before the first
block that fine-tuning has changed, it has no direction, and neither tokens nor ranks are given.

Controls: the same two ranks, for this task's tokens, in the vectors of the *other tasks* and in *random* directions
with the norm of the first source's vector. Intervals: of a task word's rank over resamples of contexts; of the answers'
over resamples of items; of controls over resamples of tasks and draws. Contexts are from the selection split.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor

from interp.errors import CrosstaskError
from interp.lens import best_rank, check_lens, first_token_ids, ranks, top_tokens, word_token_ids
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.prompts import Prompt, Template
from interp.protocol.bank import slug
from interp.protocol.contexts import draw, source_prompts
from interp.protocol.estimate import reading_seconds
from interp.protocol.settings import at_least, decisive, known, once
from interp.runs import Run
from interp.statistics import bootstrap_means, percentiles
from interp.tasks import Task
from interp.vectors import extract, norm_matched_random

SOURCES = ("text", "image", "instruction")
RESAMPLES = 100
"""Resamples of contexts for the rank of a task word; each costs the logits of a vector per layer."""
ROUNDING = 1e-5
"""A difference at most this long, as a share of the vector it is taken from, is rounding; more in half precision."""
WORDS, ANSWERS = "task words", "answers"
OTHERS, RANDOM = "other tasks", "random"


@dataclass(frozen=True)
class DecodeSettings:
    """One run. Attributes as in :class:`interp.protocol.settings.Settings`, and:

    Attributes:
        base: the language model whose text vectors are taken off the model's own; empty for none.
        top: tokens listed of each vector.
        draws: random vectors of a task.
    """

    model: str
    base: str
    tasks: tuple[str, ...]
    sources: tuple[str, ...]
    shots: int
    contexts: int
    top: int
    draws: int
    seed: int
    template: str
    loading: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        at_least(self, 1, "shots", "contexts", "top", "draws")
        once("--tasks", self.tasks)
        once("--source", self.sources)
        known("--source", self.sources, SOURCES)
        if self.base == self.model:
            raise CrosstaskError(f"--base and --model are both {self.model!r}, whose vectors do not differ.")
        if self.base and "text" not in self.sources:
            raise CrosstaskError(f"--base {self.base!r} is compared on text examples, so --source must name text.")

    @property
    def vectors(self) -> tuple[str, ...]:
        """The names of the vectors that are read, each of every task."""
        names = list(self.sources)
        names += ["text minus base LLM"] if self.base else []
        names += ["image minus text"] if {"text", "image"} <= set(self.sources) else []
        return (*names, *(f"{source} minus mean of tasks" for source in self.sources if len(self.tasks) > 1))

    def config(self) -> dict[str, Any]:
        """What decides the numbers."""
        return decisive(self)


class DecodeWork:
    """Performs the units of a run. Made, and so checked, before the run has a folder.

    Attributes:
        run: set before anything is performed.
    """

    run: Run

    def __init__(self, settings: DecodeSettings, tasks: Sequence[Task], model: Model, base: Model | None) -> None:
        if not model.takes_images and "image" in settings.sources:
            raise CrosstaskError(f"{model.name!r} takes no images; use --source text instruction.")
        if base is not None and (base.n_layers, base.width) != (model.n_layers, model.width):
            raise CrosstaskError(
                f"Vectors of {base.name!r} ({base.n_layers} layers of width {base.width}) cannot be taken off those of "
                f"{model.name!r} ({model.n_layers} layers of width {model.width}); choose another --base."
            )
        self.settings, self.tasks, self.model, self.base = settings, list(tasks), model, base
        self.template = Template.parse(settings.template)
        tokenizer = model.tokenizer
        self.words = {task.name: word_token_ids(tokenizer, task.words) for task in tasks}
        self.answers: dict[str, list[tuple[int, ...]]] = {}
        for task in tasks:
            if not task.split("test"):
                raise CrosstaskError(f"Task {task.name!r} has no test items; mark some with split=test.")
            self.answers[task.name] = [first_token_ids(tokenizer, item.outputs) for item in task.split("test")]
            (prompt,) = self._prompts(model, task, settings.sources[0])[:1]
            check_lens(model, prompt)

    def units(self) -> list[tuple[str, ...]]:
        """The keys of all units in order: states of every task come before the first vector is read."""
        s = self.settings
        names = [*((s.model, source) for source in s.sources), *([(s.base, "text")] if s.base else [])]
        units: list[tuple[str, ...]] = []
        units += [("states", model, source, task.name) for model, source in names for task in self.tasks]
        units += [("read", vector, task.name) for task in self.tasks for vector in s.vectors]
        return units

    def seconds(self) -> float:
        """How long the prompts that are not yet read should take, from reading two of each model and source."""
        left = [key[1:3] for key in self.units() if key[0] == "states" and self.run.done(key) is None]
        prompts = {kind: self._prompts(self._model(kind[0]), self.tasks[0], kind[1]) for kind in dict.fromkeys(left)}
        return reading_seconds(
            (self._model(kind[0]), found[:2], len(found) * left.count(kind)) for kind, found in prompts.items()
        )

    def perform(self, key: tuple[str, ...]) -> None:
        """Do a unit unless the journal holds it."""
        if self.run.done(key) is not None:
            return
        task = next(task for task in self.tasks if task.name == key[-1])
        self.run.record(key, self._extract(task, *key[1:3]) if key[0] == "states" else self._read(task, key[1]))

    def _prompts(self, model: Model, task: Task, source: str) -> list[Prompt]:
        s = self.settings
        contexts = draw(task.split("selection"), shots=s.shots, contexts=s.contexts, seed=s.seed, task=task.name)
        return source_prompts(model, task, source, contexts, template=self.template)

    def _model(self, name: str) -> Model:
        return self.base if self.base is not None and name == self.settings.base else self.model

    def _extract(self, task: Task, name: str, source: str) -> dict[str, Any]:
        model = self._model(name)
        prompts = self._prompts(model, task, source)
        self.run.write_safetensors(_path(name, source, task.name), {"states": extract(model, prompts)})
        return {"contexts": len(prompts), "tokens": sum(prompt.n_tokens for prompt in prompts)}

    def states(self, vector: str, task: str) -> Float[Tensor, "P L D"]:
        """A vector in each context; their mean over contexts is what is read."""
        first, _, second = vector.partition(" minus ")
        own = self._states(self.settings.model, first, task)
        if second == "base LLM":
            return own - self._states(self.settings.base, first, task)
        if second == "mean of tasks":
            every = [self._states(self.settings.model, first, other.name) for other in self.tasks]
            return own - torch.stack(every).mean(0)
        return own - self._states(self.settings.model, second, task) if second else own

    def _states(self, model: str, source: str, task: str) -> Float[Tensor, "P L D"]:
        return load_file(self.run.folder / _path(model, source, task))["states"]

    def _read(self, task: Task, vector: str) -> dict[str, Any]:
        """Top tokens, and the rows of the table of ranks, of one vector of one task."""
        contexts = self.states(vector, task.name)
        mean, words = contexts.mean(0), self.words[task.name]
        found = best_rank(self.model, mean, words).double().numpy()
        low, high = self._resampled_ranks(contexts, words)
        rows = [_row(WORDS, "", found, low, high, len(contexts), "contexts")]
        rows.append(self._answer_row(task, "", mean[None], "items"))
        silent = self._silent(vector, task.name, mean)
        rows = [_without_layers(row, silent) for row in rows]
        names = [other.name for other in self.tasks if other.name != task.name]
        if names:
            others = torch.stack([self.states(vector, name).mean(0) for name in names])
            mute = np.any([self._silent(vector, name, own) for name, own in zip(names, others, strict=True)], axis=0)
            rows += [_without_layers(row, mute) for row in self._control_rows(task, OTHERS, others, "tasks")]
        record: dict[str, Any] = {"tokens": self._top(mean, silent), "ranks": rows}
        if vector == self.settings.sources[0]:
            drawn = self._random(task.name, vector, mean)
            rows += self._control_rows(task, RANDOM, drawn, "draws")
            record["random_tokens"] = self._top(drawn[0], silent)
        return record

    def _silent(self, vector: str, task: str, mean: Float[Tensor, "L D"]) -> Bool[np.ndarray, " L"]:
        """The layers at which a difference is nothing but rounding, and so has no direction."""
        first, minus, _ = vector.partition(" minus ")
        if not minus:
            return np.zeros(len(mean), dtype=bool)
        own = self._states(self.settings.model, first, task).mean(0)
        least = max(ROUNDING, 2 * torch.finfo(self.model.dtype).eps)
        return (mean.norm(dim=-1) <= least * own.norm(dim=-1)).numpy()

    def _top(self, vectors: Float[Tensor, "L D"], silent: Bool[np.ndarray, " L"]) -> dict[str, Any]:
        ids, chances = top_tokens(self.model, vectors, self.settings.top)
        return {
            name: [[] if mute else row for row, mute in zip(values.tolist(), silent, strict=True)]
            for name, values in (("ids", ids), ("probabilities", chances))
        }

    def _random(self, task: str, vector: str, mean: Float[Tensor, "L D"]) -> Float[Tensor, "N L D"]:
        seed = zlib.crc32(f"{task}, {vector}, seed {self.settings.seed}".encode())
        return norm_matched_random(mean.expand(self.settings.draws, -1, -1), seed=seed)

    def _resampled_ranks(self, contexts: Float[Tensor, "P L D"], words: Sequence[int]) -> Any:
        """The bounds of the rank of a task word in the mean of resampled contexts; none for a single context."""
        if len(contexts) == 1:
            return None, None
        means = bootstrap_means(contexts.double().numpy(), resamples=RESAMPLES, seed=self.settings.seed)
        return percentiles(best_rank(self.model, torch.tensor(means).to(contexts), words).double().numpy())

    def _answer_ranks(self, task: Task, vectors: Float[Tensor, "N L D"]) -> Float[np.ndarray, "N L items"]:
        """The logarithm of each test item's best rank."""
        items = self.answers[task.name]
        tokens = sorted({token for own in items for token in own})
        place = {token: index for index, token in enumerate(tokens)}
        found = ranks(self.model, vectors, torch.tensor(tokens)).double().log().numpy()
        return np.stack([found[..., [place[token] for token in own]].min(-1) for own in items], axis=-1)

    def _answer_row(self, task: Task, control: str, vectors: Float[Tensor, "N L D"], over: str) -> dict[str, Any]:
        """The answers' geometric mean rank; one vector is resampled by items, several by vectors."""
        logs = self._answer_ranks(task, vectors)
        values = logs[0].T if over == "items" else logs.mean(-1)
        return _geometric_row(ANSWERS, control, values, over, self.settings.seed)

    def _control_rows(
        self, task: Task, control: str, vectors: Float[Tensor, "N L D"], over: str
    ) -> list[dict[str, Any]]:
        words = best_rank(self.model, vectors, self.words[task.name]).double().log().numpy()
        return [
            _geometric_row(WORDS, control, words, over, self.settings.seed),
            self._answer_row(task, control, vectors, over),
        ]

    def record(self, vector: str, task: Task) -> dict[str, Any]:
        """What was read of a vector: `tokens`, `ranks`, and for the first source `random_tokens`."""
        found = self.run.done(("read", vector, task.name))
        assert found is not None
        return found


def _geometric_row(tokens: str, control: str, logs: Float[np.ndarray, "n L"], over: str, seed: int) -> dict[str, Any]:
    low, high = percentiles(bootstrap_means(logs, seed=seed))
    return _row(tokens, control, np.exp(logs.mean(0)), np.exp(low), np.exp(high), len(logs), over)


def _row(tokens: str, control: str, rank: Any, low: Any, high: Any, n: int, over: str) -> dict[str, Any]:
    """One curve over layers; bounds may be missing."""
    curve = {"rank": rank, "low": low, "high": high}
    values = {name: None if value is None else np.asarray(value).tolist() for name, value in curve.items()}
    return {"tokens": tokens, "control": control, "n": n, "over": over, **values}


def _without_layers(row: dict[str, Any], silent: Bool[np.ndarray, " L"]) -> dict[str, Any]:
    """The row with no rank at some layers."""
    curves = {name: row[name] for name in ("rank", "low", "high") if row[name] is not None}
    return row | {
        name: [None if mute else value for value, mute in zip(values, silent, strict=True)]
        for name, values in curves.items()
    }


def _path(model: str, source: str, task: str) -> str:
    return f"states/{slug(model)}/{slug(task)}-{source}.safetensors"
