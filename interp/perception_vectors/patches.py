"""Patch vectors into items and see what is answered: many vectors and layers for each item, from one prefix.

A patch at the delimiter changes nothing before it. So each item is run once up to there, with all cyclic shifts of its
options in one sequence (:mod:`interp.tuning.evaluation.packing`); then, as one continuation of it,

    [delimiter, what all replies begin with]   for each patch and each shift

in which a token sees its own reading's prefix and its own patch's earlier tokens, at the positions that it has in the
reading alone. The blocks' outputs are patched by :mod:`interp.hooks`, in this one pass, and a patch that changes
nothing raises. Logits are read at the last tokens, and the letters are scored as in
:mod:`interp.tuning.evaluation.forced_choice`. Where a model is not exact for packed sequences, every patch of every
reading is a row with its whole prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from interp.decoding import new_cache
from interp.errors import CrosstaskError
from interp.memory import memory_plan
from interp.perception_vectors.settings import Position
from interp.prefix import Manner, RowPatch, patched
from interp.tuning.evaluation.forced_choice import Choices
from interp.tuning.evaluation.packing import Pack, Reading, collate_packs
from interp.tuning.evaluation.records import Record, choice_record
from interp.tuning.evaluation.vision import asked, last_logits

PADDING, SHARED = -2, -1
"""Owners of prefix columns that belong to no reading: no token, and what all readings begin with."""
Logits = Iterator[tuple[int, int, int, Float[Tensor, " V"]]]
"""Arm, sequence, reading, and the logits of the letter."""


@dataclass(frozen=True, eq=False)
class Arm:
    """What is patched into every item.

    Attributes:
        source: a task, or a control.
        layer: block whose output is patched.
        vectors: one vector for all items, `[1, D]`, or one for each, `[N, D]`; None leaves items as they are.
    """

    source: str
    layer: int
    vectors: Float[Tensor, "N D"] | None

    def patch(self, item: int) -> RowPatch:
        """For one item."""
        vector = None if self.vectors is None else self.vectors[item if len(self.vectors) > 1 else 0]
        return RowPatch(self.layer, vector)


@torch.no_grad()
def patch_answers(
    choices: Choices,
    arms: Sequence[Arm],
    *,
    position: Position,
    budget: int | None = None,
    shared: bool | None = None,
    allow_noop: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[list[Record]]:
    """The answers to items under every arm.

    Args:
        choices: the items, made ready by :func:`interp.tuning.evaluation.forced_choice.prepare`.
        arms: A of them.
        position: where vectors are written: at the end delimiter, or at the last token before the letter.
        budget: most tokens of a forward pass; by the memory that is free by default.
        shared: run prefixes once; where that is exact by default.
        allow_noop: permit a patch that changes nothing (for tests of identity).
        progress: is told the items that are done.

    Returns:
        For each arm one record for each item, in their order.

    Raises:
        CrosstaskError: the letters are more than one token each, so that they have no one place.
        HookError: a patch changes nothing.
    """
    model, reader = choices.model, choices.reader
    if not reader.single:
        raise CrosstaskError(
            f"the tokenizer of model {model.name!r} writes option letters with several tokens, so there is no token "
            "before the letter at which answers could be patched"
        )
    tail = 1 if position == "letter" else reader.common + 1
    longest = max(len(reading) for pack in choices.packs for reading in pack.readings)
    exact = model.family.packs(model.module, longest)
    engine = _shared if (exact if shared is None else shared) else _plain
    budget, manner = budget or memory_plan(model).tokens, Manner(allow_noop=allow_noop)
    scores: dict[tuple[int, int, int], np.ndarray] = {}
    for group in choices.groups:
        for arm, row, reading, logits in engine(choices, group, arms, tail, budget, manner):
            item, shift, _ = choices.sites[group[row]][reading]
            letters = [reply[0] for reply in reader.reply_ids(len(choices.items[item].options))]
            scores[arm, item, shift] = logits[letters].double().softmax(-1).cpu().numpy()
        if progress is not None:
            progress(len(group))
    return [
        [
            choice_record(item.name, item.key, np.stack([scores[arm, n, shift] for shift in _shifts(choices, n)]))
            for n, item in enumerate(choices.items)
        ]
        for arm in range(len(arms))
    ]


def _shifts(choices: Choices, item: int) -> list[int]:
    """The shifts in which an item is read."""
    return sorted(shift for sites in choices.sites for index, shift, _ in sites if index == item)


def _plain(
    choices: Choices, group: Sequence[int], arms: Sequence[Arm], tail: int, budget: int, manner: Manner
) -> Logits:
    """Every arm of every reading as a row of its own."""
    model = choices.model
    rows = [
        (arm, row, number)
        for row, index in enumerate(group)
        for number in range(len(choices.packs[index].readings))
        for arm in range(len(arms))
    ]
    step = max(1, budget // max(len(r) for index in group for r in choices.packs[index].readings))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        packs = [Pack((choices.packs[group[row]].readings[number],), 0) for _, row, number in part]
        batch = collate_packs(packs, pad_id=model.pad_id, dtype=model.dtype, device=model.device)
        patches = [arms[arm].patch(choices.sites[group[row]][number][0]) for arm, row, number in part]
        columns = [batch.inputs["input_ids"].shape[1] - tail] * len(part)
        shown = [choices.items[choices.sites[group[row]][number][0]] for _, row, number in part]
        with asked(model, shown, batch, choices.vision), patched(model, patches, range(len(part)), columns, manner):
            logits = last_logits(model, choices.vision.join(batch.inputs, batch.pictures), 1)[:, -1]
        for where, found in zip(part, logits, strict=True):
            yield *where, found


def _shared(
    choices: Choices, group: Sequence[int], arms: Sequence[Arm], tail: int, budget: int, manner: Manner
) -> Logits:
    """Prefixes once, and arms behind them, as many at a time as fit."""
    stems = _Stems(choices, group, tail)
    step = max(1, budget // (len(group) * stems.n_readings * tail))
    for start in range(0, len(arms), step):
        for arm, row, reading, logits in stems.run(arms[start : start + step], manner):
            yield start + arm, row, reading, logits


class _Stems:
    """Sequences of items up to the place that is patched, run once, and what comes after it.

    Attributes:
        owners: whose each prefix column is: a reading's, shared, or padding, `[B, T]`.
        n_readings: most readings of a sequence.
    """

    def __init__(self, choices: Choices, group: Sequence[int], tail: int) -> None:
        self.choices, self.model, self.tail = choices, choices.model, tail
        self.packs = [choices.packs[index] for index in group]
        self.items = [choices.sites[index][0][0] for index in group]
        self.n_readings = max(len(pack.readings) for pack in self.packs)
        stems = [_stem(pack, tail) for pack in self.packs]
        batch = collate_packs(stems, pad_id=self.model.pad_id, dtype=self.model.dtype, device=self.model.device)
        self.width = batch.inputs["input_ids"].shape[1]
        self.owners = torch.stack([_owners(stem, self.width) for stem in stems]).to(self.model.device)
        self.cache: DynamicCache = new_cache(self.model)
        with asked(self.model, [choices.items[item] for item in self.items], batch, choices.vision):
            inputs = choices.vision.join(batch.inputs, batch.pictures)
            last_logits(self.model, inputs, 1, use_cache=True, past_key_values=self.cache)

    def run(self, arms: Sequence[Arm], manner: Manner) -> Logits:
        """Continue every reading under every arm.

        A token's column is (place in the tail, reading, arm), in this order, so that the last tokens are last.
        """
        n, readings = len(arms), self.n_readings
        ids, tokens = self._tokens(n)
        inputs = {"input_ids": ids, "attention_mask": self._mask(n), **tokens}
        sites = [
            (arm, row, reading)
            for row, pack in enumerate(self.packs)
            for reading in range(len(pack.readings))
            for arm in range(n)
        ]
        patches = [arms[arm].patch(self.items[row]) for arm, row, _ in sites]
        columns = [reading * n + arm for arm, _, reading in sites]
        options = {}
        if "logits_to_keep" in inspect.signature(self.model.module.forward).parameters:
            width = ids.shape[1]
            options["logits_to_keep"] = torch.arange(width - readings * n, width, device=ids.device)
        with patched(self.model, patches, [row for _, row, _ in sites], columns, manner):
            output = self.model.forward(
                inputs, fresh=False, logits=None, past_key_values=self.cache, use_cache=True, **options
            )
        self.cache.crop(-ids.shape[1])
        last = output.logits[:, -readings * n :]
        for arm, row, reading in sites:
            yield arm, row, reading, last[row, reading * n + arm]

    def _tokens(self, n: int) -> tuple[Int[Tensor, "B Q"], dict[str, Tensor]]:
        """Ids of the continuation and what belongs to each token; readings that a row lacks repeat its first."""
        ids, inputs = [], []
        for pack in self.packs:
            read = [pack.readings[r if r < len(pack.readings) else 0] for r in range(self.n_readings)]
            ids.append([r.ids[len(r) - self.tail + i] for i in range(self.tail) for r in read for _ in range(n)])
            inputs.append(
                {
                    name: torch.cat(
                        [
                            r.token_inputs[name][..., len(r) - self.tail + i, None].repeat_interleave(n, dim=-1)
                            for i in range(self.tail)
                            for r in read
                        ],
                        dim=-1,
                    )
                    for name in read[0].token_inputs
                }
            )
        device = self.model.device
        stacked = {name: torch.stack([one[name] for one in inputs], dim=-2).to(device) for name in inputs[0]}
        return torch.tensor(ids, device=device), stacked

    def _mask(self, n: int) -> Float[Tensor, "B 1 Q T+Q"]:
        """Additive mask: a token sees its reading's prefix, and its own arm's tokens up to itself."""
        device, count = self.owners.device, self.n_readings * n
        slot = torch.arange(count, device=device).repeat(self.tail)
        place = torch.arange(self.tail, device=device).repeat_interleave(count)
        reading = slot // n
        seen: Bool[Tensor, "B Q T"] = self.owners[:, None, :] == reading[None, :, None]
        seen = seen | (self.owners == SHARED)[:, None, :]
        own: Bool[Tensor, "Q Q"] = (slot[:, None] == slot) & (place[:, None] >= place)
        allowed = torch.cat([seen, own.expand(len(self.owners), -1, -1)], dim=2)[:, None]
        mask = torch.zeros(allowed.shape, dtype=self.model.dtype, device=device)
        return mask.masked_fill_(~allowed, torch.finfo(mask.dtype).min)


def _stem(pack: Pack, tail: int) -> Pack:
    """A sequence without the last tokens of its readings."""
    readings = tuple(
        Reading(
            reading.ids[:-tail],
            {name: tensor[..., :-tail] for name, tensor in reading.token_inputs.items()},
            reading.pictures,
        )
        for reading in pack.readings
    )
    return Pack(readings, min(pack.shared, *(len(reading) - 1 for reading in readings)))


def _owners(stem: Pack, width: int) -> Int[Tensor, " T"]:
    """Whose each column of a padded sequence is, in the order of :attr:`Pack.ids`."""
    bodies = [n for n, reading in enumerate(stem.readings) for _ in reading.ids[stem.shared : -1]]
    owners = [SHARED] * stem.shared + bodies + list(range(len(stem.readings)))
    return torch.tensor([PADDING] * (width - len(owners)) + owners)
