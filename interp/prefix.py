"""Run a prompt up to its delimiter once, then the delimiter under many patches: the engines of the sweep.

A patch at the last token cannot change what comes before it, so all rows of a query share the keys and values of its
prefix. Nor does a query change the examples before it, so prompts with the same examples share theirs. Two ways:

- :class:`PackedRows`: the rows are tokens of *one* sequence. All have the position id of the delimiter; by a 4-D mask
  each sees the whole prefix and, of the rest, only itself (the tree attention of speculative decoding). Decoding goes
  on in the same way, a row seeing its own earlier tokens. One copy of the cache, exact. Below its patch a row equals
  the bare delimiter, so it joins the first step only at the block where its patch begins to show.
- :class:`CopiedRows`: the cache is copied for every row; for models that take no 4-D mask, and for different queries
  after the same examples.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from interp.batches import collate
from interp.decoding import Answers, decode, new_cache
from interp.hooks import Edit, Mode, Site, narrow, patch
from interp.models.base import Model
from interp.prompts import Prompt


@dataclass(frozen=True, eq=False)
class RowPatch:
    """One row of a sweep.

    Attributes:
        layer: the block whose output is patched.
        vector: ``[D]``, or None for a row that is left as it is (the bare query).
        label: for the caller's own bookkeeping.
        head: an attention head of the layer: the vector ``[D_head]`` goes into the input of its output projection.
        mode: how this row's vector is written; None is as the call says.
    """

    layer: int
    vector: Float[Tensor, " D"] | None
    label: str = ""
    head: int | None = None
    mode: Mode | None = None


@dataclass(frozen=True)
class Manner:
    """How vectors are written: replace or add, the factor, and whether a patch may change nothing (in tests)."""

    mode: Mode = "replace"
    scale: float = 1.0
    allow_noop: bool = False


def edits_of(
    patches: Sequence[RowPatch], rows: Sequence[int], columns: Sequence[int], manner: Manner
) -> dict[tuple[Site, Mode], dict[int, Edit]]:
    """What patches write, by layer: into the outputs of the blocks, or into heads (the inputs of the projections)."""
    groups: dict[tuple[Site, Mode], dict[int, list[int]]] = {}
    for n, item in enumerate(patches):
        if item.vector is not None:
            site: Site = "output" if item.head is None else "input"
            groups.setdefault((site, item.mode or manner.mode), {}).setdefault(item.layer, []).append(n)
    return {
        (site, mode): {
            layer: Edit(
                rows=torch.tensor([rows[n] for n in members]),
                columns=torch.tensor([columns[n] for n in members]),
                vectors=torch.stack([patches[n].vector for n in members]),  # type: ignore[misc]
                heads=torch.tensor([patches[n].head for n in members]) if site == "input" else None,
                mode=mode,
                scale=manner.scale,
            )
            for layer, members in by_layer.items()
        }
        for (site, mode), by_layer in groups.items()
    }


@contextmanager
def patched(
    model: Model, patches: Sequence[RowPatch], rows: Sequence[int], columns: Sequence[int], manner: Manner
) -> Iterator[None]:
    """Hold patches in place; number ``n`` is written at ``(rows[n], columns[n])`` in the first pass that covers it."""
    with ExitStack() as stack:
        for (site, _), edits in edits_of(patches, rows, columns, manner).items():
            modules = model.blocks if site == "output" else model.projections
            stack.enter_context(patch(modules, edits, allow_noop=manner.allow_noop, site=site))
        yield


class Prefix:
    """The beginnings of prompts, left padded, run once.

    Attributes:
        lengths: how many tokens of each prompt they are.
        cache: keys and values of the prefix.
        mask: which columns are real tokens, ``[B, T]``.
        delimiters: the delimiter's token id in each row, ``[B]``.
    """

    def __init__(self, model: Model, prompts: Sequence[Prompt], lengths: Sequence[int] | None = None) -> None:
        """Run the first ``lengths`` tokens of each prompt; all but the delimiter by default."""
        self.model, self.prompts = model, list(prompts)
        self.lengths = list(lengths) if lengths is not None else [prompt.n_tokens - 1 for prompt in prompts]
        batch = collate(model, prompts, spans=[slice(0, length) for length in self.lengths])
        self.cache = new_cache(model)
        model.forward(batch.inputs, past_key_values=self.cache, use_cache=True)
        self.mask: Int[Tensor, "B T"] = batch.inputs["attention_mask"]
        self.delimiters = torch.tensor([prompt.input_ids[-1] for prompt in prompts], device=model.device)

    def reopened(self, rows: Int[Tensor, " N"] | None = None) -> DynamicCache:
        """The cache as it was after the prefix, to be continued; with ``rows``, those rows of it, copied."""
        cache = DynamicCache()
        for done in self.cache.layers:
            keys, values = done.keys, done.values
            if rows is not None:
                keys, values = keys[rows.to(keys.device)], values[rows.to(values.device)]
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values  # shared: continuing concatenates, and so leaves them as they are
            cache.layers.append(layer)
        return cache


Pairs = Sequence[tuple[int, int]]
"""Rows to run, each as (row of the prefix, answer that it writes)."""


class CopiedRows:
    """Each row with its own copy of the prefix's cache, going on to the end of its prompt."""

    def __init__(self, prefix: Prefix, pairs: Pairs, prompts: Sequence[Prompt] | None = None) -> None:
        """Rows of these prompts, which begin like the prefix; by default the prefix's own."""
        self.prefix, self.model = prefix, prefix.model
        self.answers = [answer for _, answer in pairs]
        self.rows = torch.tensor([query for query, _ in pairs], device=prefix.mask.device)
        self.prompts = prompts if prompts is not None else [prefix.prompts[query] for query, _ in pairs]
        self.tails = [slice(prefix.lengths[query], None) for query, _ in pairs]

    def start(self, patches: Sequence[RowPatch], manner: Manner) -> Float[Tensor, "N V"]:
        """Run the rest of each row under its patch; the logits of the first answer token."""
        tail = collate(self.model, self.prompts, spans=self.tails).inputs
        seen = self.prefix.mask[self.rows]
        self.cache = self.prefix.reopened(self.rows)
        self.mask = torch.cat([seen, tail["attention_mask"]], dim=1)
        step = tail | {"attention_mask": self.mask}
        n, width = tail["input_ids"].shape
        with patched(self.model, patches, range(n), [width - 1] * n, manner):
            output = self.model.forward(step, fresh=False, past_key_values=self.cache, use_cache=True)
        return output.logits[:, -1]

    def decode(self, answers: Answers, logits: Float[Tensor, "N V"]) -> None:
        """Write the answers out."""
        decode(self.model, answers, self.answers, self.cache, self.mask, [p.position for p in self.prompts], logits)


_BARE = -2


def _first_block(item: RowPatch, n_layers: int) -> int:
    """The first block that runs otherwise under a patch; none does under no patch."""
    if item.vector is None:
        return n_layers
    return item.layer + 1 if item.head is None else item.layer


@dataclass(frozen=True, eq=False)
class _Pack:
    """Which answer each packed token belongs to; -1 fills up the shorter rows of the batch.

    Attributes:
        slots: the tokens of this step, ``[B, R]``; -2 is the bare row.
        tail: the tokens of earlier steps, in the order of the cache behind the prefix, ``[B, S]``.
    """

    slots: Int[Tensor, "B R"]
    tail: Int[Tensor, "B S"]


class PackedRows:
    """All rows of a query as tokens of one sequence.

    Up to the block that a row is patched at it equals the bare delimiter, so the first step runs the rows in the order
    of their blocks behind one bare row, each from the block on that first sees its patch.
    """

    def __init__(self, prefix: Prefix, pairs: Pairs) -> None:
        self.prefix, self.model, self.pairs = prefix, prefix.model, pairs
        self.position = torch.tensor([[prompt.position] for prompt in prefix.prompts], device=prefix.mask.device)

    def start(self, patches: Sequence[RowPatch], manner: Manner) -> Float[Tensor, "N V"]:
        """Run the delimiter under each row's patch; the logits of the first answer token, in the order of the pairs."""
        n_layers = self.model.n_layers
        first = [_first_block(item, n_layers) for item in patches]
        by_query: list[list[int]] = [[] for _ in self.prefix.prompts]
        for n in sorted(range(len(patches)), key=first.__getitem__):
            by_query[self.pairs[n][0]].append(n)
        longest = max(map(len, by_query))
        entered = [sorted(first[n] for n in members) for members in by_query]
        widths = [1 + max(bisect_right(layers, layer) for layers in entered) for layer in range(n_layers)]
        narrowed = self.model.family.narrows(self.model.module) and sum(widths) < n_layers * longest
        columns = {n: column + narrowed for members in by_query for column, n in enumerate(members)}
        slots = _padded([[self.pairs[n][1] for n in members] for members in by_query]).to(self.prefix.mask.device)
        if narrowed:
            slots = torch.cat([torch.full_like(slots[:, :1], _BARE), slots], dim=1)
        self.sites = [(self.pairs[n][0], columns[n]) for n in range(len(patches))]
        self.pack, self.cache = _Pack(slots, slots[:, :0]), self.prefix.reopened()
        rows, places = [query for query, _ in self.sites], [column for _, column in self.sites]
        with ExitStack() as stack:
            if narrowed:
                stack.enter_context(narrow(self.model.blocks, widths))
            stack.enter_context(patched(self.model, patches, rows, places, manner))
            logits = self._step(self.prefix.delimiters[:, None].expand_as(slots), logits=longest).flatten(0, 1)
        if narrowed:
            self._complete_cache(widths)
        order = [query * longest + column - narrowed for query, column in self.sites]
        return logits if order == list(range(len(logits))) else logits[order]

    def _complete_cache(self, widths: Sequence[int]) -> None:
        """Give the columns that a block did not run the keys and values of the bare row, which are theirs."""
        bare, total = self.prefix.mask.shape[1], self.pack.slots.shape[1]
        for layer, width in zip(self.cache.layers, widths, strict=True):
            for name in ("keys", "values"):
                full: Tensor = getattr(layer, name)
                same = full[:, :, bare : bare + 1].expand(-1, -1, total - width, -1)
                setattr(layer, name, torch.cat([full, same], dim=2))

    def decode(self, answers: Answers, logits: Float[Tensor, "N V"]) -> None:
        """Write the answers out, dropping finished rows from the pack and their tokens from the cache."""
        tokens = torch.zeros_like(self.pack.slots)
        tokens[[q for q, _ in self.sites], [s for _, s in self.sites]] = logits.argmax(-1).to(tokens.device)
        while True:
            real = (self.pack.slots >= 0).nonzero()
            held = self.pack.slots[real[:, 0], real[:, 1]].tolist()
            going = real[answers.push(held, tokens[real[:, 0], real[:, 1]].tolist())]
            if len(going) == 0:
                return
            columns = _padded([going[going[:, 0] == q, 1].tolist() for q in range(len(tokens))]).to(tokens.device)
            slots = self.pack.slots.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, -1)
            tokens = tokens.gather(1, columns.clamp(min=0))
            self.pack = replace(self.pack, slots=slots)
            self._drop_finished()
            tokens = self._step(tokens).argmax(-1)

    def _step(self, tokens: Int[Tensor, "B R"], logits: int | None = None) -> Float[Tensor, "B R V"]:
        """Run one token of every row; the logits of the last rows, or of all."""
        slots = self.pack.slots
        self.pack = replace(self.pack, tail=torch.cat([self.pack.tail, slots], dim=1))
        step = {
            "input_ids": tokens,
            "attention_mask": self._mask(),
            "position_ids": self.position.expand_as(tokens),
        }
        self.position = self.position + 1
        output = self.model.forward(step, fresh=False, logits=logits, past_key_values=self.cache, use_cache=True)
        return output.logits if logits is None else output.logits[:, -logits:]

    def _mask(self) -> Float[Tensor, "B 1 R T+S"]:
        """Additive mask: 0 on the row's prefix and on the row's own tokens, the dtype's minimum elsewhere."""
        slots, tail = self.pack.slots, self.pack.tail
        own: Bool[Tensor, "B R S"] = slots[:, :, None] == tail[:, None, :]
        seen = self.prefix.mask.bool()[:, None, :].expand(-1, slots.shape[1], -1)
        allowed = torch.cat([seen, own], dim=2)[:, None]
        mask = torch.zeros(allowed.shape, dtype=self.model.dtype, device=allowed.device)
        return mask.masked_fill_(~allowed, torch.finfo(mask.dtype).min)

    def _drop_finished(self) -> None:
        """Take the tokens of finished rows out of the cache when they are at least half of what the rows wrote."""
        tail, start = self.pack.tail, self.prefix.mask.shape[1]
        alive = (tail[:, :, None] == self.pack.slots[:, None, :]).any(-1) & (tail >= 0)
        kept = _padded([row.nonzero()[:, 0].tolist() for row in alive]).to(tail.device)  # [B, S']
        if 2 * kept.shape[1] > tail.shape[1]:
            return
        index = kept.clamp(min=0)
        for layer in self.cache.layers:
            where = index[:, None, :, None].to(layer.keys.device)
            for name in ("keys", "values"):
                full: Tensor = getattr(layer, name)
                own = full[:, :, start:].gather(2, where.expand(-1, full.shape[1], -1, full.shape[3]))
                setattr(layer, name, torch.cat([full[:, :, :start], own], dim=2))
        self.pack = replace(self.pack, tail=tail.gather(1, index).masked_fill(kept < 0, -1))


def _padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "B R"]:
    """Ragged rows as a rectangle, -1 where a row has ended."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], dtype=torch.long)
