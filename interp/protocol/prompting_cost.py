"""Time and peak memory of prompting and of patching, by number of examples (Luo et al. 2025, their cost table).

prompt    n examples and the query in one context, then the answer
patch     the bare query, one vector put in place of the delimiter's state, then the answer; n examples are behind the
          vector, which was read before
extract   reading that vector: n examples and a dummy query, once a task, however many queries follow

With no examples the prompt is the bare query and the vector is the instruction's. Prompts and pictures are made ready
before the clock starts. `queries` of them can be asked at once: prompts with the same examples then share what comes
before the query (:mod:`interp.prefix`), so that the time a query is the fair price of prompting for many.

Seconds are medians of repeats after one warm-up. Memory is that of one query, above what was held with the model loaded
and warmed up (:mod:`interp.protocol.prompting_memory`).
"""

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.patching import generate
from interp.prompts import Template
from interp.protocol.contexts import Context, query_prompt, source_prompts
from interp.protocol.settings import known
from interp.runs import Run
from interp.tasks import Task, load_task
from interp.vectors import extract

METHODS = ("prompt", "patch", "extract")


@dataclass(frozen=True)
class CostSettings:
    """What is measured.

    Attributes:
        model: bundled, bundled-llm, a hub id or a folder.
        task: whose items are the examples and queries.
        query: modality of the query, image or text.
        text, image: numbers of text and of image examples.
        queries: numbers of queries asked at once.
        repeats: timed calls of each case.
        new_tokens: length of an answer; the paper generates one token.
        memory: whether memory is measured.
        threads: of the CPU.
        template: as in :class:`interp.protocol.settings.Settings`.
        loading: how the model is loaded.
    """

    model: str
    task: str
    query: str
    text: tuple[int, ...]
    image: tuple[int, ...]
    queries: tuple[int, ...]
    repeats: int
    new_tokens: int
    memory: bool
    threads: int
    template: str
    loading: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        known("--query", (self.query,), ("image", "text"))
        for name in ("repeats", "new_tokens", "threads"):
            if getattr(self, name) < 1:
                raise CrosstaskError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")
        for name, least in (("text", 0), ("image", 0), ("queries", 1)):
            values = getattr(self, name)
            if any(value < least for value in values):
                raise CrosstaskError(f"--{name} {min(values)} is too small; expected {least} or more.")
            if len(set(values)) < len(values):
                raise CrosstaskError(f"--{name} names a number twice: {' '.join(map(str, values))}.")
        if not self.queries or not (self.text or self.image):
            raise CrosstaskError("There is nothing to measure: give --queries, and --text or --image.")

    def config(self) -> dict[str, Any]:
        """What decides the numbers, apart from the machine; here the device is part of it."""
        given = asdict(self)
        del given["loading"]
        return given | self.loading.config() | {"device": self.loading.device}

    def units(self) -> list["Unit"]:
        """Every measurement in order."""
        kinds = ("seconds", "memory") if self.memory else ("seconds",)
        return [Unit(kind, case) for kind in kinds for case in self.cases()]

    def cases(self) -> list["Case"]:
        """Every case; no examples are one case, whatever they would be."""
        sizes = [("none", 0)] * (0 in (*self.text, *self.image))
        sizes += [(name, n) for name in ("text", "image") for n in sorted(getattr(self, name)) if n]
        return [Case(method, modality, n) for modality, n in sizes for method in METHODS]


@dataclass(frozen=True)
class Case:
    """A method with so many examples of a modality; "none" for none."""

    method: str
    modality: str
    examples: int

    @property
    def key(self) -> str:
        return f"{self.method} / {self.modality} / {self.examples}"


NOTHING = Case("prompt", "none", 0)
"""The bare query."""


@dataclass(frozen=True)
class Unit:
    """One resumable measurement: the seconds or the memory of a case."""

    kind: str
    case: Case

    @property
    def key(self) -> str:
        return f"{self.kind} / {self.case.key}"


def check(settings: CostSettings, model: Model) -> Task:
    """The task, if the model can be asked all of this.

    Raises:
        CrosstaskError: images asked of a model that takes none or one only, or too few items.
    """
    images = settings.query == "image" or any(settings.image)
    if images and not model.takes_images:
        raise CrosstaskError(f"{settings.model!r} takes no images; use --query text and leave --image empty.")
    if any(settings.image) and not model.family.several_images:
        raise CrosstaskError(f"{settings.model!r} takes one image a prompt; leave --image empty.")
    task = load_task(settings.task)
    if len(task.split("test")) < max(settings.queries):
        raise CrosstaskError(
            f"--queries is {max(settings.queries)}, and task {task.name!r} has {len(task.split('test'))} test items."
        )
    for modality in {case.modality for case in settings.cases()}:
        most = max(case.examples for case in settings.cases() if case.modality == modality)
        for method in ("prompt", "extract"):
            work_of(model, settings, task, Case(method, modality, most), max(settings.queries))
    return task


@dataclass(frozen=True)
class Work:
    """Something to measure: call it to do it. `tokens` are those of its first prompt."""

    do: Callable[[], object]
    tokens: int

    def __call__(self) -> None:
        self.do()


def work_of(model: Model, settings: CostSettings, task: Task, case: Case, queries: int) -> Work:
    """The work of a case on so many queries, with its prompts made ready."""
    template = Template.parse(settings.template)
    context, source = _context(task, case.examples), "instruction" if case.modality == "none" else case.modality
    prompts = [
        query_prompt(
            model,
            task,
            item,
            settings.query,
            source=case.modality if case.method == "prompt" and case.examples else "",
            context=context,
            template=template,
        )
        for item in task.split("test")[:queries]
    ]
    if case.method == "prompt":
        answer = partial(generate, model, prompts, max_new_tokens=settings.new_tokens, stop=None)
        return Work(answer, prompts[0].n_tokens)
    read = source_prompts(model, task, source, [context], template=template)
    if case.method == "extract":
        return Work(partial(extract, model, read), read[0].n_tokens)
    layer = model.n_layers // 2
    vectors, layers = [extract(model, read)[0, layer]] * len(prompts), [layer] * len(prompts)
    patched = partial(
        generate, model, prompts, vectors=vectors, layers=layers, max_new_tokens=settings.new_tokens, stop=None
    )
    return Work(patched, prompts[0].n_tokens)


def _context(task: Task, n: int) -> Context:
    """n examples and a dummy query; where the selection items are fewer, they come again.

    Raises:
        CrosstaskError: there are no selection items.
    """
    pool = task.split("selection")
    if not pool:
        raise CrosstaskError(f"Task {task.name!r} has no selection items, and examples are taken from them.")
    order = random.Random(task.name).sample(pool, len(pool))
    *shown, dummy = (order[i % len(order)] for i in range(n + 1))
    return Context(tuple(shown), tuple(item.outputs[0] for item in shown), dummy)


def seconds(model: Model, settings: CostSettings, task: Task, case: Case) -> dict[str, Any]:
    """Tokens of the first prompt, and seconds of every repeat by the number of queries."""
    times: dict[str, list[float]] = {}
    for queries in settings.queries if case.method != "extract" else (1,):
        work = work_of(model, settings, task, case, queries)
        work()
        times[str(queries)] = [_timed(model, work) for _ in range(settings.repeats)]
    return {"tokens": work.tokens, "seconds": times}


def _timed(model: Model, work: Callable[[], object]) -> float:
    def settle() -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    settle()
    start = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - start


def forecast(model: Model, settings: CostSettings, task: Task, *, loading: float) -> Callable[[Unit], float]:
    """Times one of the longest prompts, and returns the seconds that a unit should take.

    Args:
        model, settings, task: of the run.
        loading: seconds that the model took to load, which it does once more to measure memory.
    """
    bare = work_of(model, settings, task, NOTHING, 1)
    bare()
    each, rate = {"none": 0.0}, 0.0  # tokens an example, seconds a token
    for modality in ("text", "image"):
        if most := max(getattr(settings, modality), default=0):
            work = work_of(model, settings, task, Case("prompt", modality, most), 1)
            each[modality] = (work.tokens - bare.tokens) / most
            rate = max(rate, _timed(model, work) / work.tokens)
    rate = rate or _timed(model, bare) / bare.tokens
    first = next((unit for unit in settings.units() if unit.kind == "memory"), None)

    def of(unit: Unit) -> float:
        short = bare.tokens
        long = short + unit.case.examples * each[unit.case.modality]
        if unit.kind == "memory":
            return 2 * rate * long + (loading if unit == first else 0)
        if unit.case.method == "extract":
            return (settings.repeats + 1) * rate * long
        asked = long if unit.case.method == "prompt" else short
        return (settings.repeats + 1) * rate * sum(asked + (count - 1) * short for count in settings.queries)

    return of


def cost_table(settings: CostSettings, run: Run) -> pd.DataFrame:
    """One row per case and number of queries.

    Returns:
        method, modality, examples, tokens (of the first prompt), queries, seconds (median a query), low and high
        (fastest and slowest repeat), repeats, above_mb and total_mb (peak memory of one query in MiB; in
        the row of the fewest queries), times_patch (seconds over those of patching with as many examples and queries).
    """
    rows = []
    for case in settings.cases():
        timed, held = run.done(f"seconds / {case.key}"), run.done(f"memory / {case.key}")
        if timed is None or (held is None and settings.memory):
            raise LookupError(f"{case.key} is not in the journal")
        for queries, times in timed["seconds"].items():
            each = np.array(times) / int(queries)
            bytes_held = held if queries == min(timed["seconds"], key=int) else None
            rows.append(
                {
                    "method": case.method,
                    "modality": case.modality,
                    "examples": case.examples,
                    "tokens": timed["tokens"],
                    "queries": int(queries),
                    "seconds": float(np.median(each)),
                    "low": float(each.min()),
                    "high": float(each.max()),
                    "repeats": len(times),
                    "above_mb": bytes_held["above"] / 2**20 if bytes_held else np.nan,
                    "total_mb": bytes_held["total"] / 2**20 if bytes_held else np.nan,
                }
            )
    table = pd.DataFrame(rows)
    keys = ["modality", "examples", "queries"]
    patch = table[table["method"] == "patch"].set_index(keys)["seconds"].rename("patch_seconds")
    table = table.join(patch, on=keys)
    table["times_patch"] = table["seconds"] / table.pop("patch_seconds")
    return table
