"""All readings of one item as one sequence: what they begin with alike is run once.

The cyclic shifts of an item's options show the same pictures and question, and differ in the lines of the options
alone. So the sequence of an item is

    [what all readings begin with] [rest of reading 1] ... [rest of reading n] [last token of 1] ... [last token of n]

in which, by a 4-D mask, each token sees the common beginning and the earlier tokens of its own reading, at the position
ids that it has in the reading alone (the tree attention of speculative decoding, as in :mod:`interp.prefix`). It is
exact for models of which the family says so (`Family.packs`). The last tokens stand at the end, so the logits that are
wanted are those of the last columns whatever the lengths; the sequences of a batch are padded on the left.

Readings with other pictures (letters that are drawn in a picture, redrawn for each shift) have little in common, and
are sequences of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

PADDING = 0.05
"""Most of a batch that may be padding once it has tokens enough to keep its processor busy."""
BUSY_TOKENS = {"cpu": 256}
"""By kind of device, tokens that keep it busy: a CPU gains nothing from larger matrices, only pays for padding."""
GPU_BUSY_TOKENS = 8192
"""Of any other device."""
WORTH_SHARING = 0.25
"""Readings are packed if they share at least this part of the first: a mask that is mostly false costs time."""


@dataclass(frozen=True)
class Shown:
    """A picture's tokens in a reading.

    Attributes:
        key: of the picture's content.
        start: first token.
        stop: one past the last.
    """

    key: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Reading:
    """One prompt of T tokens, up to the token before the answer.

    Attributes:
        ids: token ids, pictures expanded.
        token_inputs: what the module takes for each token besides its id, ``[.., T]``: ``position_ids`` at least.
        pictures: in reading order.
    """

    ids: tuple[int, ...]
    token_inputs: Mapping[str, Int[Tensor, "... T"]]
    pictures: tuple[Shown, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self) -> list[tuple[int, str | None]]:
        """Each token with the picture that it stands for: two are the same only if their pictures are."""
        owners: list[str | None] = [None] * len(self.ids)
        for shown in self.pictures:
            owners[shown.start : shown.stop] = [f"{shown.key} {shown.start}"] * (shown.stop - shown.start)
        return list(zip(self.ids, owners, strict=True))


@dataclass(frozen=True, eq=False)
class Pack:
    """n readings as one sequence of T tokens.

    Attributes:
        readings: the readings.
        shared: how many tokens they begin with alike; less than the length of the shortest, and not in the middle of a
            picture.
    """

    readings: tuple[Reading, ...]
    shared: int

    @property
    def n_tokens(self) -> int:
        return self.shared + sum(len(reading) - self.shared for reading in self.readings)

    @property
    def ids(self) -> list[int]:
        """Token ids of the sequence."""
        bodies = [token for reading in self.readings for token in reading.ids[self.shared : -1]]
        return [*self.readings[0].ids[: self.shared], *bodies, *(reading.ids[-1] for reading in self.readings)]

    @property
    def pictures(self) -> list[str]:
        """Keys of the pictures in the order of the sequence; those of the beginning once."""
        first, *_ = self.readings
        common = [shown.key for shown in first.pictures if shown.start < self.shared]
        rest = [shown.key for reading in self.readings for shown in reading.pictures[len(common) :]]
        return common + rest

    def token_inputs(self) -> dict[str, Int[Tensor, "... T"]]:
        """Position ids and whatever else belongs to a token, in the order of the sequence."""
        given = [reading.token_inputs for reading in self.readings]
        return {
            name: torch.cat(
                [
                    given[0][name][..., : self.shared],
                    *(inputs[name][..., self.shared : -1] for inputs in given),
                    *(inputs[name][..., -1:] for inputs in given),
                ],
                dim=-1,
            )
            for name in given[0]
        }

    def sees(self) -> Bool[Tensor, "T T"]:
        """Which tokens each token sees: the beginning, and what comes before it in its own reading."""
        bodies = [n for n, reading in enumerate(self.readings) for _ in reading.ids[self.shared : -1]]
        owner = torch.tensor([-1] * self.shared + bodies + list(range(len(self.readings))))
        return ((owner[:, None] == owner) | (owner == -1)).tril()


def packed(readings: Sequence[Reading], *, together: bool) -> list[Pack]:
    """Readings of one item as few sequences as is worth while.

    Args:
        readings: the readings of an item.
        together: whether the model is exact for packed sequences.
    """
    shared = _common(readings) if together and len(readings) > 1 else 0
    if shared < WORTH_SHARING * len(readings[0]) or not shared:
        return [Pack((reading,), 0) for reading in readings]
    return [Pack(tuple(readings), shared)]


def _common(readings: Sequence[Reading]) -> int:
    """How many tokens all begin with alike, cut back to the beginning of a picture that would be cut through."""
    n = 0
    for column in zip(*(reading.tokens()[:-1] for reading in readings), strict=False):
        if len(set(column)) > 1:
            break
        n += 1
    cut = [shown.start for reading in readings for shown in reading.pictures if shown.start < n < shown.stop]
    return min([n, *cut])


@dataclass(frozen=True, eq=False)
class PackBatch:
    """Packs side by side, padded on the left.

    Attributes:
        inputs: ``input_ids`` ``[B, T]``, ``attention_mask`` (``[B, T]``, or ``[B, 1, T, T]`` and additive where a row
            holds several readings) and the inputs of each token, ``[.., B, T]``.
        pictures: keys of all pictures in reading order, row by row.
        last: how many last columns hold last tokens; each row holds its own in the last ones.
        n_readings: readings of each row.
        owner: the row of each picture.
    """

    inputs: dict[str, Tensor]
    pictures: list[str]
    last: int
    n_readings: tuple[int, ...]
    owner: tuple[int, ...] = ()

    def of_rows(self, logits: Float[Tensor, "B N V"]) -> list[Float[Tensor, "n V"]]:
        """For each row the logits of its readings."""
        return [row[len(row) - n :] for row, n in zip(logits, self.n_readings, strict=True)]


def collate_packs(
    packs: Sequence[Pack], *, pad_id: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> PackBatch:
    """Pad packs on the left.

    Args:
        packs: B of them.
        pad_id: fills up; it is masked.
        dtype: of the additive mask.
        device: of the inputs.
    """
    width = max(pack.n_tokens for pack in packs)
    short = [width - pack.n_tokens for pack in packs]
    ids = torch.tensor([[pad_id] * by + pack.ids for pack, by in zip(packs, short, strict=True)])
    each = [pack.token_inputs() for pack in packs]
    tokens = {
        name: torch.stack([functional.pad(given[name], (by, 0)) for given, by in zip(each, short, strict=True)], dim=-2)
        for name in each[0]
    }
    last = max(len(pack.readings) for pack in packs)
    if last == 1:
        mask = torch.tensor([[0] * by + [1] * (width - by) for by in short])
    else:
        allowed = torch.zeros(len(packs), 1, width, width, dtype=torch.bool)
        for row, pack, by in zip(allowed, packs, short, strict=True):
            row[0, by:, by:] = pack.sees()
        mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
    inputs = {"input_ids": ids, "attention_mask": mask, **tokens}
    return PackBatch(
        {name: tensor.to(device) for name, tensor in inputs.items()},
        [key for pack in packs for key in pack.pictures],
        last,
        tuple(len(pack.readings) for pack in packs),
        tuple(row for row, pack in enumerate(packs) for _ in pack.pictures),
    )


def batches(packs: Sequence[Pack], budget: int, *, device: str = "cpu") -> Iterator[list[int]]:
    """Indices of packs in groups of like lengths whose padded size stays within a budget of tokens, longest first.

    Args:
        packs: what is to be run.
        budget: most tokens of a group, padding included; a pack that is longer is a group of its own.
        device: kind of device, which says from how many tokens on padding is not worth while.
    """
    busy = BUSY_TOKENS.get(device, GPU_BUSY_TOKENS)
    lengths = [pack.n_tokens for pack in packs]
    group: list[int] = []
    real = 0
    for index in sorted(range(len(packs)), key=lambda i: (-lengths[i], i)):
        padded = (len(group) + 1) * (lengths[group[0]] if group else lengths[index])
        wasteful = real >= busy and padded - real - lengths[index] > PADDING * padded
        if group and (padded > budget or wasteful):
            yield group
            group, real = [], 0
        group.append(index)
        real += lengths[index]
    if group:
        yield group
