"""Patch task vectors into queries and let the model answer.

``generate`` patches each prompt once, in the prefill, at its delimiter, and decodes with the cache: the patched state
reaches the cache of all later blocks, so nothing has to be patched again (Luo et al. re-patch at every step with the
cache off; the tests hold the two equal).

``sweep`` runs many patches of the same queries, layers x vectors, from one prefill each; see :mod:`interp.prefix`. A
separate forward per row costs rows x T tokens and rows passes of the vision tower; the sweep costs T + rows and one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from interp.batches import chunks, collate
from interp.decoding import Answers, Generation, decode, new_cache
from interp.errors import CrosstaskError
from interp.hooks import Mode
from interp.memory import PACKED_ROWS, SHARED_ROWS, memory_plan, within_memory
from interp.models.base import Model
from interp.prefix import CopiedRows, Manner, PackedRows, Prefix, RowPatch, patched
from interp.prompts import Prompt

__all__ = ["Generation", "RowPatch", "choose_engine", "generate", "sweep", "sweep_logits"]

logger = logging.getLogger(__name__)

Engine: TypeAlias = Literal["auto", "packed", "copied", "plain"]


@within_memory
def generate(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    vectors: Sequence[Float[Tensor, " D"] | None] | None = None,
    layers: Sequence[int] | None = None,
    mode: Mode = "replace",
    scale: float = 1.0,
    max_new_tokens: int = 12,
    stop: str | None = "\n",
    budget: int | None = None,
    allow_noop: bool = False,
) -> list[Generation]:
    """Answer each prompt greedily, patched at its delimiter or not.

    Args:
        model: the model.
        prompts: P prompts of any lengths; they are batched with left padding, like lengths together.
        vectors: for each prompt the vector to patch, or None for none; no patching at all by default.
        layers: for each prompt the block to patch (ignored where the vector is None).
        mode: ``replace`` the state by ``scale * vector``, or ``add`` that to it.
        scale: factor of all vectors.
        max_new_tokens: longest answer, in tokens.
        stop: an answer ends before this string.
        budget: tokens per forward pass; by default what memory allows.
        allow_noop: do not raise if a vector equals the state it replaces (for tests).

    Returns:
        One generation per prompt, in order.

    Raises:
        CrosstaskError: for a layer out of range, or a vector that is not finite or not of the model's width.
        HookError: if a patch changes nothing.
    """
    patches = row_patches(prompts, vectors, layers)
    check_patches(model, patches)
    manner = Manner(mode, scale, allow_noop)
    answers = Answers(model, len(prompts), max_new_tokens=max_new_tokens, stop=stop)
    for run, group in _prompt_runs(model, prompts, budget or memory_plan(model).tokens, max_new_tokens):
        run.decode(answers, run.start([patches[i] for i in group], manner))
    return answers.results()


@within_memory
def sweep(
    model: Model,
    prompts: Sequence[Prompt],
    rows: Sequence[Sequence[RowPatch]],
    *,
    engine: Engine = "auto",
    mode: Mode = "replace",
    scale: float = 1.0,
    max_new_tokens: int = 12,
    stop: str | None = "\n",
    keep: Callable[[int, int, str], bool] | None = None,
    max_rows: int | None = None,
    budget: int | None = None,
) -> list[list[Generation]]:
    """Answer each query under each of its patches, from one prefill per query.

    Args:
        model: the model.
        prompts: Q queries, each ending in its delimiter.
        rows: for each query its patches, in any number.
        engine: ``packed``, ``copied``, or ``plain`` (a separate forward per row); ``auto`` takes the first that is
            exact for this model.
        mode: as in :func:`generate`.
        scale: as in :func:`generate`.
        max_new_tokens: as in :func:`generate`.
        stop: as in :func:`generate`.
        keep: called with (query, row, text so far) after each token; False ends the row, for text that can no longer
            become a right answer.
        max_rows: rows per forward pass; by default what memory allows.
        budget: prefix tokens per forward pass; by default what memory allows.

    Returns:
        For each query one generation per patch, in order.

    Raises:
        CrosstaskError: for a layer out of range, a vector that is not finite or not of the model's width, or an engine
            that is not exact for this model.
        HookError: if a patch changes nothing.
    """
    first = list(accumulate(map(len, rows), initial=0))
    owner = [(q, r) for q, patches in enumerate(rows) for r in range(len(patches))]
    answers = Answers(
        model,
        len(owner),
        max_new_tokens=max_new_tokens,
        stop=stop,
        keep=None if keep is None else lambda answer, text: keep(*owner[answer], text),
    )
    manner = Manner(mode, scale)
    for run, members in _runs(model, prompts, rows, engine, max_rows, budget, max_new_tokens):
        run.decode(answers, run.start([rows[q][r] for q, r in map(owner.__getitem__, members)], manner))
    results = answers.results()
    return [results[start:end] for start, end in pairwise(first)]


@within_memory
def sweep_logits(
    model: Model,
    prompts: Sequence[Prompt],
    rows: Sequence[Sequence[RowPatch]],
    *,
    engine: Engine = "auto",
    mode: Mode = "replace",
    scale: float = 1.0,
    max_rows: int | None = None,
    budget: int | None = None,
    allow_noop: bool = False,
) -> list[Float[Tensor, "R V"]]:
    """The logits of the first answer token under each patch, for each query ``[R, V]`` on the CPU.

    Arguments and errors are those of :func:`sweep`; ``allow_noop`` permits patches that change nothing.
    """
    owner = [(q, r) for q, patches in enumerate(rows) for r in range(len(patches))]
    found: list[list[Tensor]] = [[] for _ in rows]  # for each query its rows, in portions
    manner = Manner(mode, scale, allow_noop)
    for run, members in _runs(model, prompts, rows, engine, max_rows, budget, 1):
        pairs = [owner[member] for member in members]
        logits = run.start([rows[q][r] for q, r in pairs], manner).cpu()
        counts = Counter(q for q, _ in pairs)
        for q, portion in zip(counts, logits.split(list(counts.values())), strict=True):
            found[q].append(portion)
    return [portions[0] if len(portions) == 1 else torch.cat(portions or [torch.empty(0)]) for portions in found]


def choose_engine(model: Model, engine: Engine, n_tokens: int) -> Engine:
    """The engine to use for sequences of this length.

    Raises:
        CrosstaskError: if the engine asked for would not be exact.
    """
    exact = {
        "packed": model.family.packs(model.module, n_tokens),
        "copied": model.family.continues(model.module),
        "plain": True,
    }
    if engine == "auto":
        _say_if_nothing_is_shared(model.name, model.family.causal_prefix)
        return next(name for name in ("packed", "copied", "plain") if exact[name])
    if not exact.get(engine, False):
        known = ", ".join(name for name, fits in exact.items() if fits)
        raise CrosstaskError(f"engine {engine!r} is not exact for model {model.name!r}; use one of: auto, {known}")
    return engine


@cache
def _say_if_nothing_is_shared(name: str, causal: bool) -> None:
    """Once for each model whose prompts cost more than those of others."""
    if not causal:
        logger.warning(
            "the tokens of a prompt of model %r see later ones, so no prefix is shared: every patch takes a whole "
            "forward pass",
            name,
        )


class _PlainRows:
    """Separate rows, each with its whole prompt."""

    def __init__(self, model: Model, prompts: Sequence[Prompt], answers: Sequence[int]) -> None:
        self.model, self.rows = model, list(answers)
        self.batch, self.cache = collate(model, prompts), new_cache(model)

    def start(self, patches: Sequence[RowPatch], manner: Manner) -> Float[Tensor, "N V"]:
        with patched(self.model, patches, range(len(patches)), self.batch.positions.tolist(), manner):
            output = self.model.forward(self.batch.inputs, past_key_values=self.cache, use_cache=True)
        return output.logits[:, -1]

    def decode(self, answers: Answers, logits: Float[Tensor, "N V"]) -> None:
        mask = self.batch.inputs["attention_mask"]
        decode(self.model, answers, self.rows, self.cache, mask, self.batch.ends, logits)


def _prompt_runs(
    model: Model, prompts: Sequence[Prompt], budget: int, max_new_tokens: int
) -> Iterator[tuple[CopiedRows | _PlainRows, list[int]]]:
    """Cut prompts into forward passes that fit; prompts that begin alike share what comes before the query."""
    stems: dict[tuple, list[int]] = {}
    for index, prompt in enumerate(prompts):
        stem = slice(0, prompt.stem)
        key = (prompt.input_ids[stem], tuple(id(image) for image in prompt.images_in(stem)))
        stems.setdefault(key, []).append(index)
    tokens = sum(prompt.n_tokens for prompt in prompts)
    saved = sum((len(alike) - 1) * prompts[alike[0]].stem for alike in stems.values())
    longest = max((prompt.n_tokens for prompt in prompts), default=0) + max_new_tokens
    images = any(prompt.images_in(slice(prompt.stem, None)) for prompt in prompts)
    exact = model.family.packs(model.module, longest) and (not images or model.family.continues_with_images)
    _say_if_nothing_is_shared(model.name, model.family.causal_prefix or not saved)
    worth_it = 2 * saved >= tokens  # a second forward pass costs something too
    if not (exact and worth_it and all(prompt.stem for prompt in prompts)):
        for group in chunks(prompts, budget):
            yield _PlainRows(model, [prompts[i] for i in group], group), group
        return
    ordered = sorted(stems.values(), key=lambda alike: -max(prompts[i].n_tokens for i in alike))
    order = [i for alike in ordered for i in alike]
    owner = {i: number for number, alike in enumerate(ordered) for i in alike}
    for places in chunks([prompts[i] for i in order], budget, keep_order=True):
        group = [order[place] for place in places]
        here = list(dict.fromkeys(owner[i] for i in group))
        first = [prompts[ordered[number][0]] for number in here]
        prefix = Prefix(model, first, [prompt.stem for prompt in first])
        pairs = [(here.index(owner[i]), i) for i in group]
        yield CopiedRows(prefix, pairs, [prompts[i] for i in group]), group


def _runs(
    model: Model,
    prompts: Sequence[Prompt],
    rows: Sequence[Sequence[RowPatch]],
    engine: Engine,
    max_rows: int | None,
    budget: int | None,
    max_new_tokens: int,
) -> Iterator[tuple[PackedRows | CopiedRows | _PlainRows, list[int]]]:
    """Cut the sweep into forward passes that fit, each with the answers (counted through) that it writes."""
    if len(prompts) != len(rows):
        raise CrosstaskError(f"{len(prompts)} queries, but patches for {len(rows)}")
    check_patches(model, [item for patches in rows for item in patches])
    first = list(accumulate(map(len, rows), initial=0))
    longest = max((prompt.n_tokens for prompt in prompts), default=0) + max_new_tokens
    chosen = choose_engine(model, engine, longest)
    plan = memory_plan(model)
    tokens, room = budget or plan.tokens, max_rows or plan.rows
    busy = [q for q, patches in enumerate(rows) if patches]
    for group in chunks([prompts[q] for q in busy], tokens):
        most = max(len(rows[busy[i]]) for i in group)
        together = max(1, room // (min(most, SHARED_ROWS) if chosen == "packed" else most))
        for start in range(0, len(group), together):
            queries = [busy[i] for i in group[start : start + together]]
            here = [prompts[q] for q in queries]
            counts = [len(rows[q]) for q in queries]
            prefix = None if chosen == "plain" else Prefix(model, here)
            if chosen == "packed":
                parts = _packs(counts, min(PACKED_ROWS, max(1, room // len(queries))))
            else:
                parts = _in_turn(counts, min(room, max(1, tokens // max(p.n_tokens for p in here))))
            for part in parts:
                pairs = [(i, first[queries[i]] + r) for i, r in part]
                members = [answer for _, answer in pairs]
                if prefix is None:
                    yield _PlainRows(model, [here[i] for i, _ in pairs], members), members
                else:
                    yield (PackedRows if chosen == "packed" else CopiedRows)(prefix, pairs), members


def _packs(counts: Sequence[int], most: int) -> Iterator[list[tuple[int, int]]]:
    """The rows (query, row) of queries in even parts, each with at most so many rows of every query."""
    parts = -(-max(counts) // most)
    step = -(-max(counts) // parts)
    for at in range(0, max(counts), step):
        yield [(i, r) for i, count in enumerate(counts) for r in range(at, min(at + step, count))]


def _in_turn(counts: Sequence[int], most: int) -> Iterator[list[tuple[int, int]]]:
    """The rows (query, row) of queries one after another, at most so many at once."""
    every = [(i, r) for i, count in enumerate(counts) for r in range(count)]
    yield from (every[at : at + most] for at in range(0, len(every), most))


def row_patches(
    prompts: Sequence[Prompt],
    vectors: Sequence[Float[Tensor, " D"] | None] | None,
    layers: Sequence[int] | None,
) -> list[RowPatch]:
    """One patch per prompt, from what :func:`generate` was given."""
    given = vectors if vectors is not None else [None] * len(prompts)
    where = layers if layers is not None else [0] * len(prompts)
    if not len(given) == len(where) == len(prompts):
        raise CrosstaskError(f"{len(prompts)} prompts, but {len(given)} vectors and {len(where)} layers")
    if vectors is not None and layers is None:
        raise CrosstaskError("vectors to patch were given, but no layers to patch them at")
    return [RowPatch(layer, vector) for layer, vector in zip(where, given, strict=True)]


def check_patches(model: Model, patches: Sequence[RowPatch]) -> None:
    """Layers in range, vectors finite and of the model's width."""
    for item in patches:
        if item.vector is None:
            continue
        if not 0 <= item.layer < model.n_layers:
            raise CrosstaskError(
                f"layer {item.layer} is out of range; model {model.name!r} has blocks 0 to {model.n_layers - 1}"
            )
        if item.head is not None and not 0 <= item.head < model.n_heads:
            raise CrosstaskError(
                f"head {item.head} is out of range; model {model.name!r} has heads 0 to {model.n_heads - 1}"
            )
        where, width = ("residual stream", model.width) if item.head is None else ("heads", model.head_width)
        if item.vector.shape != (width,):
            raise CrosstaskError(
                f"a vector of shape {tuple(item.vector.shape)} cannot be patched into the {where} of model "
                f"{model.name!r}, which {'has' if item.head is None else 'have'} width {width}"
            )
    for width in {len(item.vector) for item in patches if item.vector is not None}:
        given = [item.vector for item in patches if item.vector is not None and len(item.vector) == width]
        if not torch.isfinite(torch.stack(given)).all():
            raise CrosstaskError("a vector to patch holds values that are not finite")
