"""Where in a question's tokens the decoder should know what, half-way through its blocks.

An answer needs two steps: gather what is at each option's mark (or in its picture), and compare. The first step can be
taught on its own, since the truth is known: at the letter of the option "Point B" the decoder should know which part
mark B is on, at the word "REF" what is at REF, at "green cup" where the green cup is. A fact names a position and what
should be readable there; like lessons, facts are read by linear maps that are thrown away.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch

from interp.models.perception.lessons import WHOLE, Lesson
from interp.tasks.perception.items import LETTERS

ORDINALS = ("first", "second", "third", "fourth")
_MARK = re.compile(rf"\b(?:Point |Box )?([{LETTERS[:4]}])\b(?!\))")
_PICTURE = re.compile(rf"the ({'|'.join(ORDINALS)}) image")


@dataclass(frozen=True)
class Fact:
    """Something that should be readable at a token.

    Attributes:
        head: what, such as "part of an animal"; a lesson's head.
        kind: class or value.
        position: index of the token in the item's tokens.
        value: the class's name, or the number.
    """

    head: str
    kind: Literal["class", "value"]
    position: int
    value: str | float


class Marker:
    """Finds the positions; made once for a tokenizer.

    Args:
        tokenizer: of the decoder.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._newline = self._ids("\n")[0]

    def facts(self, ids: torch.Tensor, labels: torch.Tensor, lessons: Sequence[Lesson]) -> list[Fact]:
        """What should be readable where.

        Args:
            ids: the item's tokens, [T].
            labels: what is predicted of them, below 0 elsewhere, [T].
            lessons: the item's.
        """
        tokens = ids.tolist()
        end = int((labels >= 0).int().argmax())
        ends = [i for i, token in enumerate(tokens[:end]) if token == self._newline]
        start = max((i for i in ends if self._follows(tokens, i, "(A")), default=None)
        if start is None:
            return []
        lines = [i for i in ends if i > start]
        found: list[Fact] = []
        for begin, line in pairwise([start, *lines]):
            found += self._of_option(tokens, begin + 1, line, lessons)
        found += self._of_question(tokens[:start], lessons)
        return found

    def _of_option(self, tokens: Sequence[int], begin: int, end: int, lessons: Sequence[Lesson]) -> Iterator[Fact]:
        text = self._tokenizer.decode(tokens[begin:end])
        if mark := _MARK.search(text[3:]):
            for position in self._last(tokens[begin:end], f" {mark[1]}"):
                yield from _at(_place(lessons, mark[1]), begin + position, lessons)
        elif picture := _PICTURE.search(text):
            image = ORDINALS.index(picture[1])
            yield from (
                Fact(le.head, "class", end - 1, str(le.value))
                for le in lessons
                if le.kind == "class" and (le.image, le.cell) == (image, WHOLE)
            )

    def _of_question(self, tokens: Sequence[int], lessons: Sequence[Lesson]) -> Iterator[Fact]:
        for position in self._last(tokens, " REF"):
            yield from _at(_place(lessons, "REF"), position, lessons)
        for letter in LETTERS[:4]:
            for position in self._last(tokens, f" {letter}"):
                yield from _at(_place(lessons, letter), position, lessons)
        for lesson in lessons:
            if lesson.head.startswith("number of "):
                name = lesson.head.removeprefix("number of ")
                for position in self._last(tokens, f" {name} shapes"):
                    yield Fact("number", "class", position, str(lesson.value))
        colours = [le for le in lessons if le.head == "colour"]
        for colour in colours:
            kinds = [le for le in lessons if le.head == "kind" and (le.image, le.cell) == (colour.image, colour.cell)]
            if len(kinds) == 1:
                for position in self._last(tokens, f" {colour.value} {kinds[0].value}"):
                    yield from (
                        Fact(le.head, "value", position, float(le.value))
                        for le in lessons
                        if le.kind == "value" and (le.image, le.cell) == (colour.image, colour.cell)
                    )

    def _last(self, tokens: Sequence[int], text: str) -> list[int]:
        """The position of the last token of the last place where the text stands, if it does."""
        wanted = self._ids(text)
        starts = [i for i in range(len(tokens) - len(wanted) + 1) if list(tokens[i : i + len(wanted)]) == wanted]
        return [starts[-1] + len(wanted) - 1] if starts else []

    def _follows(self, tokens: Sequence[int], i: int, text: str) -> bool:
        wanted = self._ids(text)
        return list(tokens[i + 1 : i + 1 + len(wanted)]) == wanted

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)


def _place(lessons: Sequence[Lesson], mark: str) -> tuple[int, int] | None:
    """Image and cell of a mark that has its cell for itself."""
    marks = [le for le in lessons if le.head == "mark"]
    taken = Counter((le.image, le.cell) for le in marks)
    places = [(le.image, le.cell) for le in marks if le.value == mark]
    return places[0] if places and taken[places[0]] == 1 else None


def _at(place: tuple[int, int] | None, position: int, lessons: Sequence[Lesson]) -> Iterator[Fact]:
    for lesson in lessons:
        if (lesson.image, lesson.cell) == place and lesson.head != "mark" and lesson.kind != "match":
            value = str(lesson.value) if lesson.kind == "class" else float(lesson.value)
            yield Fact(lesson.head, lesson.kind, position, value)
