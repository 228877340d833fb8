"""Teach the decoder to answer with what the tower sees.

    loss = -log p(letter) + REST * next-token loss on the rest of the reply
           + weight * (sum over facts + verdicts + pointers + carried + choices)

Tower and projector are finished, so that the projected tokens of every picture are computed once. What is taught
besides answers is that of :mod:`interp.models.perception.scaffold`: facts are read from the residual stream half-way
through the blocks, verdicts before the block that chooses; the others are -log of the share of attention that the first
head of a block gives to the right tokens. A step's items come from all tasks and forms; they are cut into parts of like
length.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from interp.files import atomic_file
from interp.models.perception.heads import classes_of, compared_classes, compared_values
from interp.models.perception.optimise import Course, Log, averages, copy_weights, optimise
from interp.models.perception.scaffold import Fact, Marker, Pointer, Scaffold
from interp.models.perception.shards import Shard
from interp.models.perception.train_tower import projected

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

CHECKPOINT = "decoder.pt"
IGNORED = -100
REST = 0.2
ATTENTION = {"pointers": 1, "carried": 2, "choices": 4}
"""Blocks whose first heads are taught where to look."""
READ = ("facts", "verdicts")
"""What linear maps read: half-way through the blocks, and before the block of the choices."""
OTHER_FORMS = 0.15
"""How often another form of a task is asked, for each time that its own is."""
SELDOM = {
    "forensic_detection": 0.25,
    "multi_view_reasoning": 0.25,
    "counting": 0.5,
    "jigsaw": 0.5,
    "object_localization": 0.5,
}
"""How often tasks are asked, beside 1, of which little or nothing is taught besides the answer."""
WATCHED = 50
"""Watched items that run together."""
PICTURES = 512
"""Pictures that pass through the tower together."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A shard as the decoder reads it.

    Attributes:
        shard: its tokens and labels.
        tokens: the projected tokens of an item's pictures, one after another, [items, I * N, D].
        scaffolds: what is taught of each item besides its answer.
        weight: how often its items are drawn.
    """

    shard: Shard
    tokens: Float[torch.Tensor, "K N D"]
    scaffolds: list[Scaffold]
    weight: float


@torch.no_grad()
def see(model: LlavaForConditionalGeneration, shards: Sequence[Shard], marker: Marker, *, kept: Path) -> list[Seen]:
    """Pass every picture through tower and projector, in bfloat16; the model is left as it was, in float32.

    Args:
        model: with its finished tower and projector.
        shards: what is seen.
        marker: finds what should be readable where.
        kept: folder of the tokens; those that lie there are read and not computed again.
    """
    kept.mkdir(parents=True, exist_ok=True)
    exact = {name: parameter.clone() for name, parameter in model.named_parameters()}
    own = {shard.plan.task: shard.plan.form for shard in reversed(shards)}
    model.bfloat16()
    seen = []
    for shard in shards:
        file = kept / shard.plan.file
        if not file.exists():
            tokens = torch.cat([projected(model, cells) for cells in shard.cells.split(PICTURES)])
            with atomic_file(file) as draft:
                torch.save(tokens.unflatten(0, (len(shard), shard.n_images)).flatten(1, 2), draft)
        scaffolds = [marker.read(*item) for item in zip(shard.ids, shard.labels, shard.lessons, strict=True)]
        weight = len(shard) * SELDOM.get(shard.plan.task, 1.0)
        weight *= 1.0 if own[shard.plan.task] == shard.plan.form else OTHER_FORMS
        seen.append(Seen(shard, torch.load(file, weights_only=True, mmap=True), scaffolds, weight))
    model.float()
    copy_weights(list(exact.values()), [model.get_parameter(name) for name in exact])
    return seen


class Readers(nn.Module):
    """One linear map for each thing that facts say."""

    def __init__(self, facts: Sequence[Fact], width: int) -> None:
        super().__init__()
        self.classes = classes_of(facts)
        kinds = {fact.head: fact.kind for fact in facts}
        self.norm = nn.LayerNorm(width)
        self.maps = nn.ModuleDict({head: nn.Linear(width, len(self.classes.get(head, "1"))) for head in sorted(kinds)})

    def forward(
        self, states: Float[torch.Tensor, "B T D"], rows: Sequence[Sequence[Fact]]
    ) -> dict[str, tuple[torch.Tensor, float]]:
        """Head -> (loss, share right or correlation)."""
        states = self.norm(states)
        groups: dict[str, list[tuple[int, Fact]]] = defaultdict(list)
        for row, facts in enumerate(rows):
            for fact in facts:
                groups[fact.head].append((row, fact))
        compared = {}
        for head, found in groups.items():
            at = states[[row for row, _ in found], [fact.position for _, fact in found]]
            read = self.maps[head](at).float()
            if head in self.classes:
                wanted = torch.tensor([self.classes[head][str(fact.value)] for _, fact in found])
                compared[head] = compared_classes(read, wanted)
            else:
                compared[head] = compared_values(read[:, 0], torch.tensor([float(fact.value) for _, fact in found]))
        return compared


def train_decoder(
    model: LlavaForConditionalGeneration,
    seen: Sequence[Seen],
    course: Course,
    *,
    batch: int,
    parts: int,
    fact_weight: float,
    folder: Path,
    log: Log,
    watched: Sequence[Seen] = (),
) -> None:
    """Train the decoder's blocks in place; resumes from `folder` when a checkpoint lies there.

    Args:
        model: float32; its tower and projector are those that `seen` passed through.
        seen: what to learn from.
        course: how long and how fast.
        batch: items of a step.
        parts: into how many parts of like length they are cut.
        fact_weight: weight of facts, pointers and choices.
        folder: where the checkpoint lies.
        log: called with one dict a logged step.
        watched: items that are measured on from time to time.
    """
    torch.manual_seed(course.seed)
    scaffolds = [scaffold for one in (*seen, *watched) for scaffold in one.scaffolds]
    width = model.config.text_config.hidden_size
    readers = nn.ModuleList(
        Readers([fact for scaffold in scaffolds for fact in getattr(scaffold, name)], width) for name in READ
    )
    language_model = model.model.language_model
    weights = np.array([one.weight for one in seen])

    def losses(items: Sequence[tuple[Seen, int]]) -> tuple[torch.Tensor, dict[str, float]]:
        loss, right, compared = _loss(model, readers, items, fact_weight)
        by_task: dict[str, list[float]] = defaultdict(list)
        for (one, _), hit in zip(items, right.tolist(), strict=True):
            by_task[f"{one.shard.plan.task}/{one.shard.plan.form}"].append(float(hit))
        said = {name: sum(hits) / len(hits) for name, hits in by_task.items()}
        return loss, {**said, **{f"~{head}": value for head, value in compared.items() if not math.isnan(value)}}

    def of_step(step: int) -> list[functools.partial]:
        rng = np.random.default_rng([course.seed, step])
        chosen = [seen[i] for i in rng.choice(len(seen), size=batch, p=weights / weights.sum())]
        items = [(one, int(rng.integers(len(one.shard)))) for one in chosen]
        items.sort(key=lambda item: len(item[0].shard.ids[item[1]]))
        size = math.ceil(batch / parts)
        return [functools.partial(losses, items[i : i + size]) for i in range(0, batch, size)]

    def watch() -> dict[str, float]:
        return averages(
            losses([(one, row) for row in range(start, min(start + WATCHED, len(one.shard)))])[1]
            for one in watched
            for start in range(0, len(one.shard), WATCHED)
        )

    optimise(
        model,
        [language_model.layers, language_model.norm],
        readers,
        of_step,
        course,
        checkpoint=folder / CHECKPOINT,
        stage="decoder",
        log=log,
        watch=watch if watched else None,
    )


def _loss(
    model: LlavaForConditionalGeneration, readers: nn.ModuleList, items: Sequence[tuple[Seen, int]], fact_weight: float
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Loss, whether each item's letter is right, and how well facts are read."""
    ids = _padded([one.shard.ids[row] for one, row in items], 0)
    labels = _padded([one.shard.labels[row] for one, row in items], IGNORED)
    embedded = model.get_input_embeddings()(ids)
    pictures = torch.cat([one.tokens[row] for one, row in items]).to(embedded.dtype)
    embedded = embedded.masked_scatter((ids == model.config.image_token_id)[..., None], pictures)
    out = model.model.language_model(inputs_embeds=embedded, use_cache=False, output_hidden_states=True)
    blocks = (model.config.text_config.num_hidden_layers // 2, ATTENTION["choices"])
    scaffolds = [one.scaffolds[row] for one, row in items]
    compared: dict[str, tuple[torch.Tensor, float]] = {}
    for name, block, reader in zip(READ, blocks, readers, strict=True):
        compared |= reader(out.hidden_states[block], [getattr(scaffold, name) for scaffold in scaffolds])
    for name, block in ATTENTION.items():
        pointers = [(row, pointer) for row, scaffold in enumerate(scaffolds) for pointer in getattr(scaffold, name)]
        if pointers:
            compared[name] = pointed(model, block, out.hidden_states[block], pointers)
    wanted = labels[:, 1:] != IGNORED
    logits, answers = model.lm_head(out.last_hidden_state[:, :-1][wanted]).float(), labels[:, 1:][wanted]
    letters = torch.zeros_like(wanted)
    letters[torch.arange(len(items)), wanted.int().argmax(1) + 1] = True  # "(" comes first, then the letter
    of_letter = letters[wanted]
    lost = functional.cross_entropy(logits, answers, reduction="none")
    loss = lost[of_letter].mean() + REST * lost[~of_letter].mean()
    loss = loss + fact_weight * sum((one for one, _ in compared.values()), torch.zeros(()))
    right = (logits.argmax(-1) == answers)[of_letter]
    return loss, right, {head: value for head, (_, value) in compared.items()}


def pointed(
    model: LlavaForConditionalGeneration,
    block: int,
    states: Float[torch.Tensor, "B T D"],
    found: Sequence[tuple[int, Pointer]],
) -> tuple[torch.Tensor, float]:
    """-log of the share of a block's first head's attention on the right tokens, and its mean share."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    decoder = model.model.language_model
    attention = decoder.layers[block].self_attn
    states = decoder.layers[block].input_layernorm(states)
    turns = decoder.rotary_emb(states, torch.arange(states.shape[1])[None])
    query, key = (
        functional.linear(states, part.weight[: attention.head_dim])[:, None]
        for part in (attention.q_proj, attention.k_proj)
    )
    query, key = (one[:, 0] for one in apply_rotary_pos_emb(query, key, *turns))
    at = torch.tensor([row for row, _ in found])
    positions = torch.tensor([pointer.position for _, pointer in found])
    scores = (torch.einsum("ptd,pd->pt", key[at], query[at, positions]) * attention.scaling).float()
    scores = scores.masked_fill(torch.arange(states.shape[1]) > positions[:, None], -math.inf)
    wanted = torch.zeros_like(scores, dtype=torch.bool)
    for row, (_, pointer) in enumerate(found):
        wanted[row, list(pointer.tokens)] = True
    share = scores.masked_fill(~wanted, -math.inf).logsumexp(1) - scores.logsumexp(1)
    return -share.mean(), float(share.detach().exp().mean())


def _padded(rows: Sequence[torch.Tensor], fill: int) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)
