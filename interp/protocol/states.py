"""States of many contexts, for probes: which items they show, what is read from them, and where they are kept.

Contexts of :mod:`interp.protocol.contexts` share items with each other, so that a probe could tell tasks by items. Here
a family's items are dealt into *blocks* of `shots` + 1, and a context shows one block and nothing else: two blocks
never share an item. Every task of the family and every modality reads the same blocks, each in `orders` orders with
another dummy query, so that a block is a group whose members are never compared with each other. Blocks of the
selection split choose layers, those of the test split are scored.

Of a context two states are kept, at every layer:

    task_vector         the state at the delimiter after the dummy query, as everywhere in this package
    context_embedding   the mean of the states at the tokens of the demonstrations' inputs, texts or images; of an
                        instruction, at its own tokens

(Luo et al. 2025, figure 2, set embeddings of the context against task vectors.) The inputs are what differs between
the modalities. Outputs are left out, since they name the answers in words whatever the modality, and so is the
sequence's first token, an attention sink whose norm is many times that of the others and would fill the mean.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from interp.batches import chunks, collate
from interp.errors import CrosstaskError
from interp.hooks import capture
from interp.memory import memory_plan, within_memory
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.prompts import Prompt, Template
from interp.protocol.bank import slug
from interp.protocol.contexts import Context, picture, source_prompts
from interp.protocol.estimate import reading_seconds
from interp.protocol.settings import at_least, decisive, once
from interp.runs import Run
from interp.tasks import Item, Split, Task
from interp.tasks.base import SPLITS

Kind: TypeAlias = Literal["context_embedding", "task_vector"]
KINDS: tuple[Kind, ...] = ("context_embedding", "task_vector")
CAPTURED_BYTES = 2**29
"""Most memory for the states of one forward pass; a single prompt may take more."""


@dataclass(frozen=True)
class StateSettings:
    """Which contexts are read.

    Attributes:
        model: the model, as loaded.
        tasks: names of the tasks; at least two.
        shots: demonstrations of a context.
        blocks: most scored blocks a family. All families have as many, so that all tasks have as many contexts.
        choice_blocks: most blocks a family that choose layers.
        orders: contexts read from a block for each task and modality, each with another dummy query.
        seed: of the blocks and orders, and of all that is drawn later.
        template: how an example is written.
        loading: how models are loaded.
    """

    model: str
    tasks: tuple[str, ...]
    shots: int
    blocks: int
    choice_blocks: int
    orders: int
    seed: int
    template: str
    loading: LoadOptions = field(default_factory=LoadOptions, kw_only=True)

    def __post_init__(self) -> None:
        at_least(self, 1, "shots")
        at_least(self, 2, "blocks", "choice_blocks", "orders")
        if self.orders > self.shots + 1:
            raise CrosstaskError(
                f"--orders is {self.orders}, but a block of {self.shots} demonstrations and a dummy query has "
                f"{self.shots + 1} items that can be the dummy query; use --orders {self.shots + 1}."
            )
        if len(self.tasks) < 2:
            raise CrosstaskError(f"--tasks names {len(self.tasks)} task; tasks are told apart, so name two or more.")
        once("--tasks", self.tasks)

    def config(self) -> dict[str, Any]:
        """What decides the numbers."""
        return decisive(self)


@dataclass(frozen=True)
class States:
    """States of N contexts with what they are states of.

    Attributes:
        index: N rows with columns task, family, modality, block (unique over families), order.
        by_kind: kind of state -> ``[N, L, D]``.
    """

    index: pd.DataFrame
    by_kind: dict[Kind, Float[Tensor, "N L D"]]

    def of(self, kind: Kind, layer: int) -> Any:
        """The states of one kind and layer as a float64 array [N, D]."""
        return self.by_kind[kind][:, layer].double().numpy()


@dataclass(frozen=True)
class StateUnit:
    """One resumable extraction: the contexts of a task in one split, or (split "") its instruction."""

    model: str
    task: str
    modality: str
    split: str

    @property
    def key(self) -> str:
        return " / ".join(filter(None, ("states", self.model, self.task, self.modality, self.split)))

    @property
    def path(self) -> str:
        name = "-".join(filter(None, (slug(self.task), self.modality, self.split)))
        return f"states/{slug(self.model)}/{name}.safetensors"


class StatePlan:
    """Which contexts a run reads: the tasks, their items in blocks, and how they are written.

    Attributes:
        blocks: split -> family -> blocks of inputs, as many for each family.
    """

    def __init__(self, settings: StateSettings, tasks: Sequence[Task]) -> None:
        self.settings = settings
        self.tasks = {task.name: task for task in tasks}
        self.template = Template.parse(settings.template)
        self.blocks: dict[str, dict[str, list[list[str]]]] = {
            split: deal_blocks(tasks, split, settings) for split in SPLITS
        }

    def contexts(self, task: Task, split: str) -> list[Context]:
        """The contexts of a task: all orders of the first block, then of the second, and so on."""
        items = {item.input: item for item in task.items}
        return [
            arrange([items[name] for name in block], order, seed=self.settings.seed)
            for block in self.blocks[split][task.family]
            for order in range(self.settings.orders)
        ]

    def config(self) -> dict[str, Any]:
        """What the run folder is bound to: the settings, and the items with their outputs."""
        shown = {
            (name, split): [[(i.input, i.outputs) for i in _shown(c)] for c in self.contexts(task, split)]
            for name, task in self.tasks.items()
            for split in SPLITS
        }
        digest = hashlib.sha256(json.dumps(sorted(shown.items())).encode()).hexdigest()
        return {**self.settings.config(), "items_sha256": digest}

    def check(self, model: Model, modalities: Sequence[str]) -> None:
        """Finds what is wrong with pictures, instructions or the template before anything is computed.

        Raises:
            CrosstaskError: for a model that takes no images, a picture that is missing or cannot be read, a task
                without an instruction, or a template that the tokenizer cannot delimit.
        """
        if "image" in modalities and not model.takes_images:
            raise CrosstaskError(f"{model.name!r} takes no images, so contexts cannot be given as images; use text.")
        for task in self.tasks.values():
            contexts = {split: self.contexts(task, split) for split in SPLITS}
            if "image" in modalities:
                shown = {item.input: item for found in contexts.values() for c in found for item in _shown(c)}
                for item in shown.values():
                    picture(item).load()
            for modality in modalities:
                source_prompts(model, task, modality, contexts["test"][:1], template=self.template)


class StateBank:
    """Extracts states, keeps them in the run folder, and puts them together."""

    def __init__(self, plan: StatePlan, run: Run, models: Callable[[str], Model]) -> None:
        self.plan, self.run, self.models = plan, run, models

    def units(self, modalities: dict[str, Sequence[str]]) -> Iterator[StateUnit]:
        """The extractions for some models and their modalities; an instruction is read once, whatever the split."""
        for model, wanted in modalities.items():
            for modality in wanted:
                for task in self.plan.tasks:
                    for split in [""] if modality == "instruction" else SPLITS:
                        yield StateUnit(model, task, modality, split)

    def perform(self, unit: StateUnit) -> None:
        """Extract a unit's states, unless the journal and the folder hold them."""
        done, path = self.run.done(unit.key), self.run.folder / unit.path
        if done is not None and path.exists():
            return
        prompts = self._prompts(unit, self._contexts(unit))
        found = extract_states(self.models(unit.model), prompts)
        self.run.write_safetensors(unit.path, {str(kind): values for kind, values in found.items()})
        if done is None:
            self.run.record(unit.key, {"contexts": len(prompts), "tokens": sum(p.n_tokens for p in prompts)})

    def seconds(self, units: Iterable[StateUnit]) -> float:
        """How long the extractions that are not done should take, from reading some contexts of each kind."""
        left: dict[tuple[str, str], list[StateUnit]] = {}
        for unit in units:
            if self.run.done(unit.key) is None:
                left.setdefault((unit.model, unit.modality), []).append(unit)
        return reading_seconds(
            (
                self.models(model),
                self._prompts(found[0], self._contexts(found[0])[:2]),
                sum(max(1, len(self._contexts(unit))) for unit in found),
            )
            for (model, _), found in left.items()
        )

    def _contexts(self, unit: StateUnit) -> list[Context]:
        """None for an instruction, which is a prompt without any."""
        return self.plan.contexts(self.plan.tasks[unit.task], unit.split) if unit.split else []

    def _prompts(self, unit: StateUnit, contexts: Sequence[Context]) -> list[Prompt]:
        task = self.plan.tasks[unit.task]
        return source_prompts(self.models(unit.model), task, unit.modality, contexts, template=self.plan.template)

    def states(self, model: str, modalities: Sequence[str], split: Split) -> States:
        """The extracted states of a model: modalities in the order given, and within them tasks, blocks and orders."""
        rows: list[dict[str, Any]] = []
        parts: dict[Kind, list[Tensor]] = {kind: [] for kind in KINDS}
        for modality in modalities:
            for name, task in self.plan.tasks.items():
                once = modality == "instruction"
                unit = StateUnit(model, name, modality, "" if once else split)
                self.perform(unit)  # again, if its file is lost
                found = load_file(self.run.folder / unit.path)
                for kind in KINDS:
                    parts[kind].append(found[kind])
                blocks = [f"{task.family} {block}" for block in range(len(self.plan.blocks[split][task.family]))]
                orders = [0] if once else range(self.plan.settings.orders)
                place = {"task": name, "family": task.family, "modality": modality}
                for block in [f"{name}, instruction"] if once else blocks:
                    rows += [place | {"block": block, "order": order} for order in orders]
        return States(pd.DataFrame(rows), {kind: torch.cat(values) for kind, values in parts.items()})


def deal_blocks(tasks: Sequence[Task], split: Split, settings: StateSettings) -> dict[str, list[list[str]]]:
    """Deal each family's items into blocks of `shots` + 1, as many for each family.

    Items count that all tasks of the family have in this split.

    Returns:
        Family -> blocks of inputs.

    Raises:
        CrosstaskError: if a family has too few items for two blocks.
    """
    families: dict[str, list[Task]] = {}
    for task in tasks:
        families.setdefault(task.family, []).append(task)
    size, most = settings.shots + 1, settings.blocks if split == "test" else settings.choice_blocks
    dealt = {}
    for family, members in families.items():
        shared = set.intersection(*({item.input for item in task.split(split)} for task in members))
        if len(shared) < 2 * size:
            raise CrosstaskError(
                f"Task {members[0].name!r} has {len(shared)} {split} items"
                f"{' that all tasks of its family have' if len(members) > 1 else ''}; two blocks of {settings.shots} "
                f"demonstrations and a dummy query need {2 * size}. Use fewer --shots or add items."
            )
        names = sorted(shared)
        random.Random(f"blocks, {family}, {split}, seed {settings.seed}").shuffle(names)
        dealt[family] = [names[at : at + size] for at in range(0, len(names) - size + 1, size)]
    count = min(most, *(len(blocks) for blocks in dealt.values()))
    return {family: blocks[:count] for family, blocks in dealt.items()}


def arrange(block: Sequence[Item], order: int, *, seed: int) -> Context:
    """A block in one of its orders: item number `order` is the dummy query, the others stand in a random order."""
    dummy, others = block[order], [item for at, item in enumerate(block) if at != order]
    random.Random(f"order {order}, seed {seed}, " + ", ".join(item.input for item in block)).shuffle(others)
    return Context(tuple(others), tuple(item.outputs[0] for item in others), dummy)


def _shown(context: Context) -> tuple[Item, ...]:
    return (*context.demonstrations, context.dummy)


@within_memory
def extract_states(
    model: Model, prompts: Sequence[Prompt], *, budget: int | None = None
) -> dict[Kind, Float[Tensor, "P L D"]]:
    """Both states of every prompt, from one capture at several columns.

    Args:
        model: the model to read from.
        prompts: P contexts, of any lengths.
        budget: tokens per forward pass; by default what memory allows.

    Returns:
        Kind -> ``[P, L, D]`` on the CPU, in float32 (float64 for a float64 model).
    """
    dtype = torch.promote_types(model.dtype, torch.float32)
    shape = (len(prompts), model.n_layers, model.width)
    states: dict[Kind, Tensor] = {kind: torch.empty(shape, dtype=dtype) for kind in KINDS}
    fits = CAPTURED_BYTES // (model.n_layers * model.width * model.dtype.itemsize)
    for group in chunks(prompts, budget or min(memory_plan(model).tokens, max(1, fits))):
        batch = collate(model, [prompts[i] for i in group])
        tokens = [embedded_tokens(prompts[i]) for i in group]
        # Column 0 is the delimiter; rows with fewer tokens than others repeat it, and weigh it with zero.
        columns = batch.positions[:, None].repeat(1, 1 + max(map(len, tokens)))
        weights = torch.zeros(columns.shape, dtype=dtype)
        for row, (index, at) in enumerate(zip(group, tokens, strict=True)):
            columns[row, 1 : 1 + len(at)] = at + int(batch.positions[row]) - prompts[index].delimiter
            weights[row, 1 : 1 + len(at)] = 1 / len(at)
        with capture(model.blocks, columns) as captured:
            model.forward(batch.inputs, use_cache=False)
        found = captured.states
        states["task_vector"][group] = found[:, :, 0].transpose(0, 1).to("cpu", dtype)
        for layer in range(model.n_layers):  # one at a time, so that only one is ever widened to float32
            mean = torch.einsum("bkd,bk->bd", found[layer].to("cpu", dtype), weights)
            states["context_embedding"][group, layer] = mean
    return states


def embedded_tokens(prompt: Prompt) -> Int[Tensor, " K"]:
    """The tokens of a context embedding: of the demonstrations' inputs, or of a lone instruction.

    The sequence's first token and the delimiter are left out.
    """
    wanted = [s for s in prompt.segments if s.role == "input" and s.example is not None]
    wanted = wanted or [s for s in prompt.segments if s.role == "instruction"]
    tokens = [t for s in wanted for t in range(s.start, s.stop) if 0 < t != prompt.delimiter]
    if not tokens:
        raise CrosstaskError(f"the prompt {prompt.text!r} has no tokens of demonstrations or of an instruction")
    return torch.tensor(tokens)
