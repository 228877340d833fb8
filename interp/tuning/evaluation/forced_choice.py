"""Forced choice: the likelihood of each option letter, in the surface form that training teaches.

With replies such as "(A)" the model has read the question and the reply up to the letter, and the softmax over the
letters' tokens is its choice:

    p_k(letter) = softmax over the item's letters of the logits after "... (", options moved on by k

1. Every item is read once for each cyclic shift of its options; what its readings begin with alike is run once
   (:mod:`interp.tuning.evaluation.packing`).
2. Sequences of like length go together, in the same batches for every variant of the model.
3. Each picture is encoded once, however many items, shifts and variants show it.
4. Where a tokenizer does not give each letter one token, whole replies are scored: the sum of the log-probabilities of
   their tokens, in rows of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.memory import memory_plan
from interp.models.base import Model
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.evaluation.packing import Pack, Reading, batches, collate_packs, packed
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.records import Record, choice_record
from interp.tuning.evaluation.vision import Vision, asked, last_logits, vision_for
from interp.tuning.features import FeatureStore

Progress = Callable[[int], object]
Site: TypeAlias = tuple[int, int, int]
"""Whose reading it is: item, shift, and letter, which is -1 where one reading serves all letters."""


@dataclass(frozen=True, eq=False)
class Choices:
    """Items made ready for any number of variants of a model.

    Attributes:
        model: the model.
        items: N of them.
        reader: how they are read.
        vision: how pictures enter.
        packs: all sequences.
        sites: for each sequence that of each of its readings.
        budget: most tokens of a forward pass.
    """

    model: Model
    items: tuple[PerceptionItem, ...]
    reader: ItemReader
    vision: Vision
    packs: tuple[Pack, ...]
    sites: tuple[tuple[Site, ...], ...]
    budget: int
    groups: tuple[tuple[int, ...], ...] = field(init=False)
    """Sequences that run together, by index."""
    tail: int = field(init=False)
    """Tokens of the longest reply that tells one letter from another; one, as a rule."""

    def __post_init__(self) -> None:
        groups = batches(self.packs, self.budget, device=self.model.device.type)
        object.__setattr__(self, "groups", tuple(map(tuple, groups)))
        counts = {len(item.options) for item in self.items}
        tail = max((len(reply) for n in counts for reply in self.reader.reply_ids(n)), default=1)
        object.__setattr__(self, "tail", tail)

    @property
    def n_tokens(self) -> int:
        """Tokens that a variant runs, without padding."""
        return sum(pack.n_tokens for pack in self.packs)


def prepare(
    model: Model,
    items: Sequence[PerceptionItem],
    *,
    reader: ItemReader,
    vision: Vision | None = None,
    store: FeatureStore | None = None,
    shifts: bool = True,
    share: bool = True,
    budget: int | None = None,
) -> Choices:
    """Read items and lay them out in batches.

    Args:
        model: the model.
        items: multiple-choice items of any tasks, of unique names.
        reader: how they are read.
        vision: how pictures enter; by default each is encoded once, where that is exact.
        store: where the features of pictures are kept on disk as well.
        shifts: every cyclic shift of the options, or the items as they are alone.
        share: run what the readings of an item have in common once, where that is exact.
        budget: most tokens of a forward pass; by the memory that is free by default.

    Raises:
        CrosstaskError: an item has no options.
    """
    packs: list[Pack] = []
    sites: list[tuple[Site, ...]] = []
    for index, item in enumerate(items):
        if not item.options:
            raise CrosstaskError(f"item {item.name!r} has no options to choose among; evaluate it by generation")
        readings: list[Reading] = []
        where: list[Site] = []
        for shift in range(len(item.options) if shifts else 1):
            found = reader.readings(item.shifted(shift))
            readings += found
            where += [(index, shift, letter if len(found) > 1 else -1) for letter in range(len(found))]
        together = share and where[0][2] < 0 and model.family.packs(model.module, sum(map(len, readings)))
        at = {id(reading): site for reading, site in zip(readings, where, strict=True)}
        for pack in packed(readings, together=together):
            packs.append(pack)
            sites.append(tuple(at[id(reading)] for reading in pack.readings))
    budget = budget or memory_plan(model).tokens
    vision = vision or vision_for(model, reader, packs, store=store)
    return Choices(model, tuple(items), reader, vision, tuple(packs), tuple(sites), budget)


@torch.no_grad()
def choose(choices: Choices, *, progress: Progress | None = None) -> list[Record]:
    """Score the model as it stands, with whatever adapter is applied to it.

    Args:
        choices: the items, made ready.
        progress: is told the tokens of each batch.

    Returns:
        One record for each item, in their order.
    """
    scores: dict[tuple[int, int], np.ndarray] = {}
    mass: dict[tuple[int, int], float] = {}
    for group in choices.groups:
        for (index, shift, letter), logits in _run(choices, group):
            replies = choices.reader.reply_ids(len(choices.items[index].options))
            if letter < 0:
                row, ids = logits[-1].double(), [reply[0] for reply in replies]
                scores[index, shift] = row[ids].cpu().numpy()
                mass[index, shift] = float((row[ids].logsumexp(0) - row.logsumexp(0)).exp())
            else:
                held = scores.setdefault((index, shift), np.zeros(len(replies)))
                held[letter] = _log_p(logits, replies[letter])
        if progress is not None:
            progress(sum(choices.packs[index].n_tokens for index in group))
    records = []
    for index, item in enumerate(choices.items):
        shifts = [shift for shift in range(len(item.options)) if (index, shift) in scores]
        p = np.stack([_softmax(scores[index, shift]) for shift in shifts])
        masses = [mass[index, shift] for shift in shifts if (index, shift) in mass]
        records.append(choice_record(item.name, item.key, p, mass=masses))
    return records


def _run(choices: Choices, group: Sequence[int]) -> Iterator[tuple[Site, Float[Tensor, "n V"]]]:
    """Run a batch; for each reading its site and the logits of its last tokens."""
    model, packs = choices.model, [choices.packs[index] for index in group]
    batch = collate_packs(packs, pad_id=model.pad_id, dtype=model.dtype, device=model.device)
    columns = max(batch.last, choices.tail)
    with asked(model, [choices.items[choices.sites[index][0][0]] for index in group], batch, choices.vision):
        logits = last_logits(model, choices.vision.join(batch.inputs, batch.pictures), columns)
    for index, row in zip(group, logits, strict=True):
        sites = choices.sites[index]
        if len(sites) == 1:
            yield sites[0], row
        else:
            yield from zip(sites, row[len(row) - len(sites) :, None], strict=True)


def _log_p(logits: Float[Tensor, "n V"], reply: Sequence[int]) -> float:
    """Log-probability of a reply whose last token is predicted at the last column."""
    logs = logits[len(logits) - len(reply) :].double().log_softmax(-1)
    return float(logs[range(len(reply)), list(reply)].sum())


def _softmax(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    p = np.exp(scores - scores.max())
    return p / p.sum()
