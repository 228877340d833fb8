"""What is measured: prompts of the bundled tasks, task vectors, and which vector is patched where.

    capture_text     states at the delimiter after every block, of five-shot text prompts (the language model)
    capture_images   the same of five-shot image prompts (the vision-language model, as in all that follow)
    sweep_bare       bare image queries, one vector patched at every layer in turn
    sweep_long       the same after a long context of another task (task override), text and image by turns
    generate         bare image queries, each patched at one layer, five tokens each
    sweep_vectors    bare image queries, many vectors at every layer

The number of queries is cut to what the slowest peer can do in the time allowed, the same for all. Queries are laid out
so that any beginning of the list is spread over tasks and lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, cycle, islice
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.prefix import RowPatch
from interp.prompts import Prompt, Specification, Template, render
from interp.protocol.contexts import Context, content, draw, query_prompt, source_prompts
from interp.tasks import Item, Task
from interp.vectors import extract

Kind: TypeAlias = Literal["capture", "sweep", "generate"]
NEW_TOKENS = 5
SHOTS = 5
CHECKED = 12
"""Rows of a workload that are compared with a plain full forward, spread over all of them."""
LOGIT_BYTES = 2**29
"""Logits that a peer is asked for at once; a longer call is made in portions."""
GOLDEN = 0.6180339887498949
"""Multiples of it, modulo 1, are spread evenly however many are taken."""


@dataclass(frozen=True)
class Workload:
    """One kind of work.

    Attributes:
        title: as tables and figures show it.
        model: which of the pair does it: ``vlm`` or ``llm``.
        queries: how many queries (or prompts) if the time allows.
        least: how many at least.
    """

    name: str
    title: str
    kind: Kind
    model: Literal["vlm", "llm"]
    queries: int
    least: int = 1


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("capture_text", "capture, all layers, text prompts", "capture", "llm", 512),
        Workload("capture_images", "capture, all layers, five-image prompts", "capture", "vlm", 128),
        Workload("sweep_bare", "patch at every layer, bare image queries", "sweep", "vlm", 64, least=48),
        Workload("sweep_long", "patch at every layer, long contexts", "sweep", "vlm", 64, least=2),
        Workload("generate", "patch and generate 5 tokens", "generate", "vlm", 64),
        Workload("sweep_vectors", "many vectors at every layer", "sweep", "vlm", 64, least=2),
    )
}


@dataclass(frozen=True, eq=False)
class Call:
    """Work as it is handed to a peer.

    Attributes:
        kind: ``capture`` has a row of states ``[L, D]`` for each prompt; ``sweep`` a row of logits ``[V]`` of the first
            answer token for each site; ``generate`` a row of token ids for each prompt.
        prompts: Q queries, each ending in its delimiter.
        vectors: ``[K, L, D]``; row ``l`` is patched after block ``l``. Empty for a capture.
        sites: for each query the pairs (k, l) that are patched, each in a run of its own.
        checked: rows of the result that are kept and compared.
    """

    kind: Kind
    prompts: tuple[Prompt, ...]
    vectors: Float[Tensor, "K L D"]
    sites: tuple[tuple[tuple[int, int], ...], ...]
    checked: tuple[int, ...]

    @cached_property
    def rows(self) -> int:
        """Rows of the result."""
        return sum(map(len, self.sites)) if self.kind == "sweep" else len(self.prompts)

    @cached_property
    def patches(self) -> list[list[RowPatch]]:
        """For each query its patches."""
        return [[RowPatch(layer, self.vectors[k, layer]) for k, layer in pairs] for pairs in self.sites]

    def begun(self, queries: int, sites: int | None = None) -> Call:
        """The first queries, each with its first sites, with rows of its own to be checked."""
        cut = tuple(pairs[:sites] for pairs in self.sites[:queries])
        return spread(replace(self, prompts=self.prompts[:queries], sites=cut))

    def alone(self) -> Call:
        """Only the checked rows, in their order."""
        owners = [(query, n) for query, pairs in enumerate(self.sites) for n in range(len(pairs))]
        chosen = [owners[row] for row in self.checked] if self.kind == "sweep" else [(row, 0) for row in self.checked]
        prompts = tuple(self.prompts[query] for query, _ in chosen)
        sites = tuple((self.sites[query][n],) if self.sites[query] else () for query, n in chosen)
        return replace(self, prompts=prompts, sites=sites, checked=tuple(range(len(chosen))))

    def portions(self, vocabulary: int) -> Iterator[Call]:
        """The call in parts whose logits fit into memory, cut between queries."""
        if self.kind != "sweep":
            yield self
            return
        room = max(1, LOGIT_BYTES // (4 * vocabulary))
        first = list(accumulate(map(len, self.sites), initial=0))
        start = 0
        while start < len(self.prompts):
            stop = start + 1
            while stop < len(self.prompts) and first[stop + 1] - first[start] <= room:
                stop += 1
            here = tuple(row - first[start] for row in self.checked if first[start] <= row < first[stop])
            yield replace(self, prompts=self.prompts[start:stop], sites=self.sites[start:stop], checked=here)
            start = stop


def spread(call: Call, count: int = CHECKED) -> Call:
    """The call with at most ``count`` of its rows to be checked, the first and the last among them."""
    last, steps = call.rows - 1, max(1, min(count, call.rows) - 1)
    return replace(call, checked=tuple(dict.fromkeys(round(step * last / steps) for step in range(steps + 1))))


@dataclass(frozen=True)
class Materials:
    """What calls are built from.

    Attributes:
        tasks: the tasks that prompts are drawn from.
        template: the frame of every example.
        lengths: shortest and longest prompt of the long contexts, in tokens.
        vectors: how many vectors the sweep over vectors has.
        seed: of the draws.
    """

    tasks: tuple[Task, ...]
    template: Template
    lengths: tuple[int, int]
    vectors: int
    seed: int
    _extracted: dict[tuple[Model, int], Tensor] = field(default_factory=dict, repr=False)

    def call(self, workload: Workload, model: Model, queries: int) -> Call:
        """The first queries of a workload."""
        if workload.kind == "capture":
            modality = "text" if workload.model == "llm" else "image"
            prompts = self._contexts(model, modality, queries)
            return spread(Call("capture", prompts, torch.empty(0), ((),) * len(prompts), ()))
        vectors = self._vectors(model, self.vectors if workload.name == "sweep_vectors" else 1)
        layers = range(model.n_layers)
        everywhere = tuple((k, layer) for k in range(len(vectors)) for layer in layers)
        prompts = self._long(model, queries) if workload.name == "sweep_long" else self._bare(model, queries)
        sites = (everywhere,) * len(prompts)
        if workload.kind == "generate":  # a layer each, from the middle on, going round
            sites = tuple(((0, (len(layers) // 2 + 7 * query) % len(layers)),) for query in range(len(prompts)))
        return spread(Call(workload.kind, prompts, vectors, sites, ()))

    def _contexts(self, model: Model, modality: str, count: int) -> tuple[Prompt, ...]:
        """Five demonstrations and a dummy query, from the tasks in turn."""
        each = -(-count // len(self.tasks))
        by_task = [
            source_prompts(model, task, modality, self._drawn(task, each), template=self.template)
            for task in self.tasks
        ]
        return tuple(prompt for together in zip(*by_task, strict=True) for prompt in together)[:count]

    def _drawn(self, task: Task, contexts: int, shots: int = SHOTS) -> Sequence[Context]:
        return draw(task.split("selection"), shots=shots, contexts=contexts, seed=self.seed, task=task.name)

    def _vectors(self, model: Model, count: int) -> Float[Tensor, "K L D"]:
        """Task vectors of text contexts, from the tasks in turn."""
        if (model, count) not in self._extracted:
            self._extracted[model, count] = extract(model, self._contexts(model, "text", count))
        return self._extracted[model, count]

    def _pictured(self) -> Iterator[tuple[Task, Item]]:
        """Items with a picture, from the tasks in turn, without end."""
        turns = [cycle([item for item in task.items if item.image is not None]) for task in self.tasks]
        if not all(any(item.image for item in task.items) for task in self.tasks):
            raise CrosstaskError("the benchmark needs tasks whose items have pictures")
        for task, items in cycle(list(zip(self.tasks, turns, strict=True))):
            yield task, next(items)

    def _bare(self, model: Model, count: int) -> tuple[Prompt, ...]:
        items = islice(self._pictured(), count)
        return tuple(render(model, Specification(), content(i, "image"), template=self.template) for _, i in items)

    def _long(self, model: Model, count: int) -> tuple[Prompt, ...]:
        """Queries after contexts of lengths spread over the range; text and image demonstrations by turns."""
        low, high = self.lengths
        aims = [low + (high - low) * ((0.05 + index * GOLDEN) % 1.0) for index in range(count)]
        turns = zip(aims, self._pictured(), cycle(("text", "image")), strict=False)
        return tuple(self._of_length(model, task, item, modality, aim) for aim, (task, item), modality in turns)

    def _of_length(self, model: Model, task: Task, item: Item, modality: str, aim: float) -> Prompt:
        """The query of an item after as many demonstrations as come nearest to a length in tokens."""
        pool = [other for other in task.split("selection") if other.input != item.input]

        def prompt(shots: int) -> Prompt:
            demonstrations = tuple(islice(cycle(pool), shots))
            context = Context(demonstrations, tuple(shown.outputs[0] for shown in demonstrations), item)
            return query_prompt(model, task, item, modality, source=modality, context=context, template=self.template)

        one, three = prompt(1).n_tokens, prompt(3).n_tokens
        shots = max(1, round(1 + (aim - one) / max(1.0, (three - one) / 2)))
        found = prompt(shots)
        while found.n_tokens > self.lengths[1] and shots > 1:
            shots -= 1
            found = prompt(shots)
        while found.n_tokens < self.lengths[0]:
            shots += 1
            found = prompt(shots)
        return found
