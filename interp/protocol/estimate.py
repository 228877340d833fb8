"""How long a plan will take, from a short timing of the model on its own prompts."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from interp.backends.base import Backend
from interp.heads import extract_heads, indirect_effects
from interp.models.base import Model
from interp.patching import RowPatch
from interp.prompts import Prompt
from interp.protocol.contexts import query_prompt, source_prompts
from interp.protocol.plan import Plan, Unit
from interp.protocol.settings import HEADS
from interp.vectors import extract

PROBES = 4  # prompts per timing
PATCHES = 6  # patches of a timed query, for each arm: about those of the main protocol


@dataclass(frozen=True)
class Seconds:
    """Measured seconds.

    Attributes:
        source: of reading a prompt of `shots` demonstrations and a dummy query, by modality, and the instruction.
        decode: of generating an answer to a prompt.
        selection: of a query swept over all layers of the plan by `arms` vectors, by modality of the query.
        patch: of a query answered under PATCHES x `arms` patches, by modality of the query.
        shots, arms: of the plan.
    """

    source: dict[str, float]
    decode: float
    selection: dict[str, float]
    patch: dict[str, float]
    shots: int
    arms: int

    def of(self, plan: Plan, unit: Unit) -> float:
        """Seconds that a unit of the main protocol should take."""
        settings = plan.settings
        if unit.kind == "extract":
            count = 1 if unit.source == "instruction" else settings.contexts
            return count * self.source[unit.source]
        if unit.kind == "selection":
            return self.swept(unit.query, len(plan.selection_queries(unit.task, unit.seed)), self.arms)
        items = len(plan.tasks[unit.task].test)
        if unit.kind == "patch":
            return self.patched(unit.query, items, PATCHES * self.arms)
        shown = {"": 0.0, "ensemble": self.source["text"]}.get(unit.source, self.source.get(unit.source, 0.0))
        contexts = min(items, settings.contexts)  # read once for all queries after them
        return contexts * shown + self.asked(unit.query, items)

    def read(self, contexts: int, demonstrations: float) -> float:
        """Seconds of reading contexts of so many text demonstrations."""
        return contexts * demonstrations * self.source["text"] / (self.shots + 1)

    def asked(self, query: str, prompts: int) -> float:
        """Seconds of answering prompts, what stands before their queries not counted."""
        return prompts * (self.source[query] / (self.shots + 1) + self.decode)

    def swept(self, query: str, queries: int, vectors: int) -> float:
        """Seconds of trying so many vectors at every layer of the plan."""
        return queries * self.selection[query] * vectors / self.arms

    def patched(self, query: str, queries: int, patches: int) -> float:
        """Seconds of answering each query under so many patches."""
        return queries * self.patch[query] * patches / (PATCHES * self.arms)


def measure(plan: Plan, models: Callable[[str], Model], backend: Backend) -> Seconds:
    """Times a few prompts of the first task on the patched model; takes a few seconds on the bundled pair."""
    settings, model = plan.settings, models(plan.settings.model)
    name, task = next(iter(plan.tasks.items()))
    seed, arms, layers = settings.seeds[0], len(plan.arms()), settings.layers
    contexts = (plan.contexts(name, seed) * PROBES)[:PROBES]
    modalities = {"text", "instruction", *settings.queries, *settings.sources} - {"ensemble", HEADS}

    def prompts(query: str, source: str, count: int) -> list:
        items = (task.test * count)[:count]
        return [
            query_prompt(model, task.task, item, query, source=source, context=context, template=plan.template)
            for item, context in zip(items, contexts, strict=False)
        ]

    source: dict[str, float] = {}
    for modality in ("text", *sorted(modalities)):  # text twice: the first call warms up
        read = source_prompts(model, task.task, modality, contexts, template=plan.template)
        source[modality] = _timed(backend.extract, model, read) / len(read)
    if HEADS in settings.sources:
        read = source_prompts(model, task.task, "text", contexts[:1], template=plan.template)
        states, answer = extract_heads(model, read)[0], torch.zeros(1, dtype=torch.long)
        source[HEADS] = 2 * source["text"] + _timed(indirect_effects, model, read, answer, states)
    longest = task.max_new_tokens
    asked = prompts(settings.queries[0], "text", PROBES)
    generated = _timed(backend.generate, model, asked, max_new_tokens=longest) / PROBES
    vector = torch.randn(model.width)
    curve = [[RowPatch(layer, vector) for layer in layers] * arms]
    rows = [[RowPatch(layers[-1], vector)] * (PATCHES * arms)]
    selection, patch = {}, {}
    for query in settings.queries:
        bare = prompts(query, "", 1)
        selection[query] = _timed(
            backend.sweep, model, bare, curve, max_new_tokens=longest, keep=lambda q, r, text: False
        )
        patch[query] = _timed(backend.sweep, model, bare, rows, max_new_tokens=longest)
    return Seconds(source, max(0.0, generated - source["text"]), selection, patch, settings.shots, arms)


def reading_seconds(parts: Iterable[tuple[Model, Sequence[Prompt], int]]) -> float:
    """Seconds that reading the states of many prompts should take, from reading a few like them.

    Args:
        parts: a model, some prompts, and how many prompts like these it is to read.
    """
    total = 0.0
    for model, prompts, count in parts:
        extract(model, prompts[:1])  # the first call warms up
        total += count * _timed(extract, model, prompts) / len(prompts)
    return total


def _timed(work: Callable[..., object], *arguments: object, **options: object) -> float:
    start = time.perf_counter()
    work(*arguments, **options)
    return time.perf_counter() - start
