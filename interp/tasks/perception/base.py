"""A procedural perception task: draws items with exact ground truth from a seed.

Every item depends on (task, form, split, index, seed) alone. Content (shapes, palettes, textures, ...) is divided into
one pool for each split, so that no content of a training item returns in a test item. Keys are exactly balanced: every
run of n items that begins at a multiple of n has each of the n letters once.

A skill is asked in two forms or more, and a form is shared by several skills, so that skill transfer and format
transfer can be told apart:

    pictures   options are pictures of the item ("the second image")
    marks      options are letters drawn in a picture ("Point A", "Box B", "A is closer")
    words      options are words or numbers ("left", "3")
    yes_no     a statement about the pictures, options yes and no
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
from PIL import Image as Pillow

from interp.errors import CrosstaskError
from interp.images import Image
from interp.tasks.perception.items import PerceptionItem

Split = Literal["train", "selection", "test", "build"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""`build` is the content that the bundled perception model was made with; no study trains, chooses or scores on it."""
Form = Literal["pictures", "marks", "words", "yes_no"]
Level = Literal["low", "mid", "high"]
Granularity = Literal["pixel", "crop", "image"]
MarkStyle = Literal["red", "neutral"]

MODULES = {
    "objects": "tell things apart by shape and colour",
    "counting": "count",
    "layout": "where things are in the picture",
    "mask": "the extent of a thing",
    "depth": "distance from perspective, occlusion, texture and shading",
    "view": "camera motion from two pictures",
    "illumination": "albedo apart from light",
    "texture": "the statistics of a surface",
    "style": "how a picture is rendered",
    "parts": "parts of a thing and their roles",
    "point": "read a marked point",
    "match": "find the same thing in another picture",
    "continuity": "lines and gradients that go on across a border",
    "consistency": "what contradicts the rest of a picture",
    "order": "time order over frames",
}
"""What an observer may need; the overlap of two tasks' modules is a relatedness that is known beforehand."""

Content = TypeVar("Content")


def generator(*what: object) -> np.random.Generator:
    """A random generator that depends on its arguments alone."""
    digest = hashlib.sha256("\n".join(map(str, what)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def pool(contents: Sequence[Content], split: Split, *, salt: str) -> list[Content]:
    """The part of some content that belongs to a split: a quarter each, disjoint, the same for every seed.

    Args:
        contents: at least four things, such as names of shapes or seeds of palettes.
        split: whose part.
        salt: names the kind of content, so that two kinds are divided independently.

    Raises:
        CrosstaskError: there is no such split, or there are fewer things than splits.
    """
    if split not in SPLITS:
        raise CrosstaskError(f"there is no split {split!r}; expected {', '.join(SPLITS)}")
    if len(contents) < len(SPLITS):
        raise CrosstaskError(f"{len(contents)} contents of {salt!r} cannot be divided among {len(SPLITS)} splits")
    order = generator("pool", salt).permutation(len(contents))
    return [contents[i] for i in sorted(order[SPLITS.index(split) :: len(SPLITS)])]


def balanced_key(index: int, n: int, *, of: Sequence[object]) -> int:
    """The key of an item: every run of n items that begins at a multiple of n has each key once, in random order."""
    block, place = divmod(index, n)
    return int(generator("key", *of, block).permutation(n)[place])


@dataclass(frozen=True)
class Request:
    """What a task is asked to draw.

    Attributes:
        form: which of the task's forms.
        split: which content to draw from; see `pool`.
        key: index of the right option. It decides where things stand among the options and nothing else: with the
            same random numbers another key gives the same contents, moved on by as many letters.
        difficulty: 0 (easiest) to 1 (hardest).
        size: side of a picture in pixels.
        marks: how points and boxes are marked.
        rng: all randomness comes from here.
    """

    form: Form
    split: Split
    key: int
    difficulty: float
    size: int
    marks: MarkStyle
    rng: np.random.Generator

    def place(self, candidate: int, n: int) -> int:
        """The option at which candidate c (0 is the right one) of n stands."""
        return (candidate + self.key) % n

    def at_places(self, candidates: Sequence[Content]) -> list[Content]:
        """The candidates (the first is the right one) in the order of the options."""
        n = len(candidates)
        return [candidates[(place - self.key) % n] for place in range(n)]

    def dial(self, easy: float, hard: float) -> float:
        """A quantity between its easiest and its hardest value, by the difficulty."""
        return easy + (hard - easy) * self.difficulty

    def choose(self, contents: Sequence[Content], *, salt: str) -> Content:
        """One of the contents of this split, at random."""
        mine = pool(contents, self.split, salt=salt)
        return mine[int(self.rng.integers(len(mine)))]


@dataclass(frozen=True)
class Draft:
    """What a task draws: pictures, the question and its options in order, and facts for oracle and shortcuts.

    `meta` should hold, as JSON values: "truth" (the measured quantities that decide the answer, from which the oracle
    answers without the key), and for marked points and boxes "marks" ([[x, y], ...] in fractions of the side, in the
    order of the letters; boxes as [x0, y0, x1, y1]).
    """

    images: Sequence[Pillow.Image]
    question: str
    options: Sequence[str]
    meta: Mapping[str, Any] = field(default_factory=dict)


class PerceptionTask(ABC):
    """A task with its facts as class attributes; a subclass draws one item."""

    name: ClassVar[str]
    title: ClassVar[str]
    abbreviation: ClassVar[str]
    level: ClassVar[Level]
    granularity: ClassVar[Granularity]
    forms: ClassVar[Mapping[Form, int]]
    """Form -> number of options; the first form is BLINK's own."""
    modules: ClassVar[frozenset[str]]
    """What an observer needs: see `MODULES`. The overlap of two tasks is a known relatedness."""
    core: ClassVar[bool] = True
    """Whether it is one of the thirteen; the others are extra targets or control sources."""

    @property
    def form(self) -> Form:
        """BLINK's own form of the task."""
        return next(iter(self.forms))

    def item(
        self,
        split: Split,
        index: int,
        *,
        form: Form | None = None,
        difficulty: float = 0.5,
        size: int = 224,
        seed: int = 0,
        marks: MarkStyle = "red",
    ) -> PerceptionItem:
        """Draw one item.

        Args:
            split: content pool.
            index: number of the item, from 0.
            form: the task's first one by default.
            difficulty: 0 to 1.
            size: side of each picture in pixels, at least 32.
            seed: of the whole data set.
            marks: style of marks.

        Raises:
            CrosstaskError: a form that the task does not have, or a value out of range.
        """
        form = form or self.form
        self._check(split, form, index, difficulty, size)
        what = (self.name, form, split, seed)
        n = self.forms[form]
        draw = partial(self._draft, (*what, index), form, split, difficulty, size, marks)
        key = balanced_key(index, n, of=what)
        draft = draw(key)
        if len(draft.options) != n:
            raise ValueError(f"{self.name} drew {len(draft.options)} options in form {form!r}, but declares {n}")

        def redraw(key: int) -> tuple[Image, ...]:
            return tuple(Image(pixels=picture) for picture in draw(key).images)

        return PerceptionItem(
            name=f"{self.name}/{form}/{split}/{seed}/{index}",
            task=self.name,
            images=tuple(Image(pixels=picture) for picture in draft.images),
            question=draft.question,
            options=tuple(draft.options),
            key=key,
            meta={**draft.meta, "form": form, "split": split, "difficulty": difficulty},
            redraw=redraw if form == "marks" else None,
        )

    def items(self, split: Split, n: int, *, start: int = 0, **given: Any) -> list[PerceptionItem]:
        """Items `start` to `start + n`; see :meth:`item` for the options."""
        return [self.item(split, start + i, **given) for i in range(n)]

    @abstractmethod
    def draw(self, request: Request) -> Draft:
        """Draw what is asked for."""

    @abstractmethod
    def oracle(self, item: PerceptionItem) -> int:
        """The right option, found from the item's `meta["truth"]` and options without looking at its key."""

    def _draft(
        self,
        what: tuple[object, ...],
        form: Form,
        split: Split,
        difficulty: float,
        size: int,
        marks: MarkStyle,
        key: int,
    ) -> Draft:
        rng = generator("item", *what)
        return self.draw(Request(form, split, key, difficulty, size, marks, rng))

    def _check(self, split: Split, form: Form, index: int, difficulty: float, size: int) -> None:
        if split not in SPLITS:
            raise CrosstaskError(f"there is no split {split!r}; expected {', '.join(SPLITS)}")
        if form not in self.forms:
            raise CrosstaskError(f"{self.name} has no form {form!r}; it has {', '.join(self.forms)}")
        if not 0 <= difficulty <= 1:
            raise CrosstaskError(f"the difficulty {difficulty} is out of range; expected 0 (easiest) to 1 (hardest)")
        if size < 32:
            raise CrosstaskError(f"a picture of {size} pixels is too small; expected at least 32")
        if index < 0:
            raise CrosstaskError(f"an item's index is 0 or more, not {index}")
