"""Time and peak memory of prompting and of patching, by number of examples (Luo et al. 2025, their cost table).

prompt    n examples and the query in one context, then the answer
patch     the bare query, one vector put in place of the delimiter's state, then the answer; n examples are behind the
          vector, which was read before
extract   reading that vector: n examples and a dummy query, once a task, however many queries follow

With no examples the prompt is the bare query and the vector is the instruction's. Prompts and pictures are made ready
before the clock starts. `queries` of them can be asked at once: prompts with the same examples then share what comes
before the query (:mod:`interp.prefix`), so that the time a query is the fair price of prompting for many.

Seconds are medians of repeats after one warm-up. Memory is that of one query, in a process of its own, above what it
held with the model loaded and warmed up (:func:`interp.memory.peak_memory`).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp.errors import CrosstaskError
from interp.memory import peak_memory
from interp.models.base import Model, load_model
from interp.models.options import LoadOptions
from interp.patching import generate
from interp.prompts import Template
from interp.protocol.contexts import Context, draw_apart, query_prompt, source_prompts
from interp.protocol.settings import known
from interp.runs import Run
from interp.tasks import Task, load_task
from interp.vectors import extract

METHODS = ("prompt", "patch", "extract")
ROOT = Path(__file__).parents[2]
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Freed memory goes back to the system, so that what is held follows what is used."""


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
        work_of(model, settings, task, Case("prompt", modality, most), 1)
        work_of(model, settings, task, Case("extract", modality, most), 1)
    return task


def work_of(model: Model, settings: CostSettings, task: Task, case: Case, queries: int) -> Callable[[], object]:
    """The work of a case on so many queries, with its prompts made ready.

    Returns:
        A function that does it; its number of tokens is the attribute ``tokens``.
    """
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
    if case.method == "extract":
        prompts = source_prompts(model, task, source, [context], template=template)

        def work() -> object:
            return extract(model, prompts)
    elif case.method == "prompt":

        def work() -> object:
            return generate(model, prompts, max_new_tokens=settings.new_tokens, stop=None)
    else:
        read = source_prompts(model, task, source, [context], template=template)
        layer = model.n_layers // 2
        vector = extract(model, read)[0, layer]

        def work() -> object:
            return generate(
                model,
                prompts,
                vectors=[vector] * len(prompts),
                layers=[layer] * len(prompts),
                max_new_tokens=settings.new_tokens,
                stop=None,
            )

    work.tokens = prompts[0].n_tokens  # type: ignore[attr-defined]
    return work


def _context(task: Task, n: int) -> Context:
    """n examples and a dummy query; where the items are fewer, they come again."""
    pool = task.split("selection")
    size = max(1, min(n, len(pool) - 2))
    drawn = draw_apart(pool, shots=size, contexts=-(-max(n, 1) // size), seed=0, task=task.name)
    shown = [item for context in drawn for item in context.demonstrations][:n]
    return Context(tuple(shown), tuple(item.outputs[0] for item in shown), drawn[-1].dummy)


def seconds(model: Model, settings: CostSettings, task: Task, case: Case) -> dict[str, Any]:
    """Tokens of the first prompt, and seconds of every repeat by the number of queries."""
    times: dict[str, list[float]] = {}
    for queries in settings.queries if case.method != "extract" else (1,):
        work = work_of(model, settings, task, case, queries)
        work()
        times[str(queries)] = [_timed(model, work) for _ in range(settings.repeats)]
    return {"tokens": work.tokens, "seconds": times}  # type: ignore[attr-defined]


def _timed(model: Model, work: Callable[[], object]) -> float:
    def settle() -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    settle()
    start = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - start


def memory(settings: CostSettings, case: Case) -> dict[str, int]:
    """Peak bytes of a case, above what was held before it and in all, measured in a new process.

    Raises:
        CrosstaskError: if that process fails.
    """
    request = asdict(settings) | {"case": asdict(case)}
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "interp.protocol.prompting_cost", json.dumps(request)],
        capture_output=True,
        text=True,
        env={**os.environ, **MALLOC, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(settings.threads)},
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise CrosstaskError(f"the process that measures memory ended with code {done.returncode}: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured_here(request: dict[str, Any]) -> dict[str, int]:
    """What :func:`memory` asks the new process."""
    case, loading = Case(**request.pop("case")), LoadOptions(**request.pop("loading"))
    settings = CostSettings(**request, loading=loading)
    torch.set_num_threads(settings.threads)
    model, task = load_model(settings.model, **asdict(loading)), load_task(settings.task)
    work_of(model, settings, task, Case("prompt", "none", 0), 1)()  # what libraries set up at first use
    above, total = peak_memory(model, work_of(model, settings, task, case, 1))
    return {"above": above, "total": total}


def cost_table(settings: CostSettings, run: Run) -> pd.DataFrame:
    """One row per case and number of queries.

    Returns:
        method, modality, examples, tokens (of the first prompt), queries, seconds (median a query), low and high
        (fastest and slowest repeat), repeats, above_mb and total_mb (peak memory of one query in MiB; missing for
        several), times_patch (seconds over those of patching with as many examples and queries).
    """
    rows = []
    for case in settings.cases():
        timed, held = run.done(f"seconds / {case.key}"), run.done(f"memory / {case.key}")
        if timed is None or (held is None and settings.memory):
            raise LookupError(f"{case.key} is not in the journal")
        for queries, times in timed["seconds"].items():
            each = np.array(times) / int(queries)
            bytes_held = held if int(queries) == 1 else None
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


if __name__ == "__main__":
    print(json.dumps(measured_here(json.loads(sys.argv[1]))))
