"""Read-outs that lessons are taught through, and that are thrown away afterwards.

A class of a cell is read as a word: its logit is the product of the projected token with the embedding of the class's
name, of which the mean over the head's names is taken away. A cell that shows the mark "B" on an ear thus becomes alike
to the words "B" and "ear", which a decoder over the same embeddings can match with a question's words. A class of a
whole picture, and a value, are read by one linear map, a match by the cosines of linearly mapped tokens.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional

from interp.models.perception.lessons import WHOLE, Lesson
from interp.models.perception.scaffold import Fact

MATCH_WIDTH, MATCH_SHARPNESS = 64, 8.0
CLASS_SHARPNESS = 4.0
VALUE_WEIGHT = 2.0
WEIGHTS = {"mark": 4.0}
"""Of families in the sum; letters are small, and half of the tasks need them."""

_SIDE = re.compile("(left|top|right|bottom) of ")

Words = Callable[[str], torch.Tensor]
"""A name to its embedding, [D]."""


def classes_of(taught: Sequence[Lesson | Fact]) -> dict[str, dict[str, int]]:
    """Head -> class name -> index, for lessons or facts whose kind is a class."""
    names: dict[str, set[str]] = defaultdict(set)
    for lesson in taught:
        if lesson.kind == "class":
            names[lesson.head].add(str(lesson.value))
    return {head: {name: i for i, name in enumerate(sorted(found))} for head, found in sorted(names.items())}


def compared_classes(read: Float[torch.Tensor, "N C"], wanted: Int[torch.Tensor, " N"]) -> tuple[torch.Tensor, float]:
    """Cross entropy, and the share that is right."""
    return functional.cross_entropy(read, wanted), float((read.argmax(-1) == wanted).float().mean())


def compared_values(read: Float[torch.Tensor, " N"], values: Float[torch.Tensor, " N"]) -> tuple[torch.Tensor, float]:
    """Weighted smooth L1, and the correlation (NaN for fewer than three values)."""
    loss = VALUE_WEIGHT * functional.smooth_l1_loss(read, values)
    if len(values) < 3 or float(values.std()) == 0:
        return loss, math.nan
    return loss, float(np.corrcoef(read.detach().numpy(), values.numpy())[0, 1])


class Heads(nn.Module):
    """One read-out of projected tokens for each thing that lessons teach."""

    def __init__(self, taught: Sequence[Lesson], width: int, words: Words) -> None:
        super().__init__()
        self.classes = classes_of(taught)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        wide = {"value": 1, "match": MATCH_WIDTH}
        as_words = {lesson.head for lesson in taught if lesson.kind == "class" and lesson.cell != WHOLE}
        kinds = {lesson.head: lesson.kind for lesson in taught if lesson.head not in as_words}
        self.maps = nn.ModuleDict(
            {head: nn.Linear(width, wide.get(kind) or len(self.classes[head])) for head, kind in sorted(kinds.items())}
        )
        self.sharpness = nn.ParameterDict({head: torch.tensor(CLASS_SHARPNESS) for head in sorted(as_words)})
        self.names = {
            head: _apart(torch.stack([words(name) for name in self.classes[head]])) for head in sorted(as_words)
        }

    def forward(
        self, tokens: Float[torch.Tensor, "I N D"], items: Sequence[tuple[int, Sequence[Lesson]]]
    ) -> dict[str, tuple[torch.Tensor, float]]:
        """Compare a batch's lessons.

        Args:
            tokens: projected tokens of all pictures of the batch.
            items: for each item the index of its first picture, and its lessons.

        Returns:
            Head -> (loss, share right or correlation).
        """
        tokens = self.norm(tokens)
        tokens = torch.cat([tokens, tokens.mean(1, keepdim=True)], 1)  # index -1 is WHOLE
        groups: dict[tuple[str, int], list[tuple[int, Lesson]]] = defaultdict(list)
        for first, taught in items:
            for lesson in taught:
                groups[lesson.head, len(lesson.places)].append((first, lesson))
        return {head: self._compare(head, tokens, found) for (head, _), found in groups.items()}

    def _compare(
        self, head: str, tokens: Float[torch.Tensor, "I N D"], found: Sequence[tuple[int, Lesson]]
    ) -> tuple[torch.Tensor, float]:
        kind = found[0][1].kind
        firsts = torch.tensor([first for first, _ in found])
        at = tokens[[first + lesson.image for first, lesson in found], [lesson.cell for _, lesson in found]]
        if kind == "class":
            wanted = torch.tensor([self.classes[head][str(lesson.value)] for _, lesson in found])
            if head not in self.names:
                return compared_classes(self.maps[head](at).float(), wanted)
            return compared_classes((at @ self.names[head].to(at.dtype).T).float() * self.sharpness[head], wanted)
        read = self.maps[head](at).float()
        if kind == "value":
            return compared_values(read[:, 0], torch.tensor([float(lesson.value) for _, lesson in found]))
        places = torch.tensor([lesson.places for _, lesson in found])  # [n, candidates, 2]
        others = self.maps[head](tokens[firsts[:, None] + places[..., 0], places[..., 1]]).float()
        cosines = functional.cosine_similarity(read[:, None], others, dim=-1) * MATCH_SHARPNESS
        return compared_classes(cosines, torch.tensor([int(lesson.value) for _, lesson in found]))


def words_of(tokenizer: Any, embeddings: Float[torch.Tensor, "V D"]) -> Words:
    """A name -> the mean embedding of its tokens, as they stand after a space."""

    def word(name: str) -> torch.Tensor:
        return embeddings[tokenizer(" " + name, add_special_tokens=False).input_ids].detach().float().mean(0)

    return word


def _apart(rows: Float[torch.Tensor, "C D"]) -> Float[torch.Tensor, "C D"]:
    """Rows without what they share, each of length 1."""
    apart = rows - rows.mean(0) if len(rows) > 1 else rows
    return functional.normalize(apart, dim=-1)


def total(compared: Mapping[str, tuple[torch.Tensor, float]]) -> torch.Tensor:
    """Weighted sum of the losses, where heads of one family (numbers of each kind, sides of each box) count as one."""
    families: dict[str, list[torch.Tensor]] = defaultdict(list)
    for head, (loss, _) in compared.items():
        families["number" if head.startswith("number of") else "side" if _SIDE.match(head) else head].append(loss)
    weighted = (torch.stack(losses).mean() * WEIGHTS.get(name, 1.0) for name, losses in families.items())
    return sum(weighted, torch.zeros(()))


def summary(compared: Mapping[str, tuple[torch.Tensor, float]]) -> dict[str, float]:
    """What is logged of compared lessons."""
    return {head: value for head, (_, value) in compared.items() if not math.isnan(value)}
