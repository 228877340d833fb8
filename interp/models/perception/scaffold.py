"""What the decoder should look at, know and choose, and at which of a question's tokens.

An answer needs some steps: look at each option's mark (or picture), gather what is there, carry what is asked about to
the answer, and choose. Each can be taught on its own, since the truth is known:

    pointer   from the letter of "Point B", the word "REF", or the colour in "green cup" (which no other thing has, so
              that what was learnt of green cups holds for green boats), one head of an early block should look at the
              cell of the mark or thing; from "the second image" at that picture, or where it meets another
    fact      there the residual stream should half-way hold which part the mark is on, how far away it is, ...; read,
              like lessons, by linear maps that are thrown away
    carried   from the bracket before the answer's letter, one head of a middle block should look at the word "REF", or
              at "the first image"; what was gathered there should be readable at the bracket too, and so should the way
              from one thing of the question to the other
    verdict   where the options are yes and no, which of them is right should be readable at the bracket before a late
              block, and so should how far one thing is off the other in the direction that is asked about
    choice    from the same bracket, one head of a late block should look at the right option
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch

from interp.models.perception.lessons import GRID, WHOLE, Lesson
from interp.tasks.perception.items import LETTERS
from interp.tasks.perception.procedural.spatial_relation import RELATIONS

NAMED = ("mark", "colour", "kind", "shape", "tight box")
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


@dataclass(frozen=True)
class Pointer:
    """Where a token should look.

    Attributes:
        position: index of the token in the item's tokens.
        tokens: indices of the tokens that it should look at, of which any will do.
    """

    position: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Scaffold:
    """What is taught of one item besides its answer."""

    facts: tuple[Fact, ...] = ()
    pointers: tuple[Pointer, ...] = ()
    carried: tuple[Pointer, ...] = ()
    choices: tuple[Pointer, ...] = ()
    verdicts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class _Place:
    """A token of the text and what it names: a cell, a whole picture, or the cells of one where it meets another."""

    position: int
    image: int
    cell: int
    carried: bool = False
    border: tuple[int, ...] = ()


class Marker:
    """Finds the positions; made once for a tokenizer.

    Args:
        tokenizer: of the decoder.
        image_token: id of the token that stands for a cell.
    """

    def __init__(self, tokenizer: Any, image_token: int) -> None:
        self._tokenizer = tokenizer
        self._image_token = image_token
        self._newline = self._ids("\n")[0]

    def read(self, ids: torch.Tensor, labels: torch.Tensor, lessons: Sequence[Lesson]) -> Scaffold:
        """Everything that can be taught of an item.

        Args:
            ids: the item's tokens, [T].
            labels: what is predicted of them, below 0 elsewhere, [T].
            lessons: the item's.
        """
        tokens = ids.tolist()
        answer = int((labels >= 0).int().argmax())
        ends = [i for i, token in enumerate(tokens[:answer]) if token == self._newline]
        start = max((i for i in ends if self._follows(tokens, i, "(A")), default=None)
        if start is None:
            return Scaffold()
        lines = list(pairwise([start, *(i for i in ends if i > start)]))
        asked = [*self._in_question(tokens[:start], lessons)]
        places = [*asked, *(p for begin, line in lines for p in self._in_option(tokens, begin + 1, line, lessons))]
        facts = [fact for place in places for fact in _facts(place, lessons)]
        facts += self._counts(tokens[:start], lessons)
        carried = [place for place in asked if place.carried]
        for place in carried:
            facts += [replace(fact, position=answer) for fact in _facts(place, lessons)]
        way = _way(asked, lessons, answer)
        cells = [i for i, token in enumerate(tokens) if token == self._image_token]
        key = LETTERS.index(self._tokenizer.decode(tokens[answer + 1]).strip())
        return Scaffold(
            (*facts, *way),
            tuple(Pointer(place.position, _cells(place, cells)) for place in places),
            tuple(Pointer(answer, (place.position,)) for place in carried),
            (Pointer(answer, (lines[key][1] - 1,)),),
            (*self._verdict(tokens[lines[key][0] : lines[key][1]], answer), *self._along(tokens[:start], way)),
        )

    def _verdict(self, option: Sequence[int], answer: int) -> Iterator[Fact]:
        word = self._tokenizer.decode(option).strip()[len("(A) ") :]
        if word in ("yes", "no"):
            yield Fact("verdict", "class", answer, word)

    def _along(self, question: Sequence[int], way: Sequence[Fact]) -> Iterator[Fact]:
        """How far the first thing is off the second in the direction that the question names."""
        asked = [direction for name, direction in RELATIONS.items() if self._last(question, f" {name}")]
        if len(asked) == 1 and len(way) == 2:
            right, down = (float(fact.value) for fact in way)
            yield Fact("way asked for", "value", way[0].position, right * asked[0][0] + down * asked[0][1])

    def _in_option(self, tokens: Sequence[int], begin: int, end: int, lessons: Sequence[Lesson]) -> Iterator[_Place]:
        text = self._tokenizer.decode(tokens[begin:end])
        if mark := _MARK.search(text[3:]):
            for position in self._last(tokens[begin:end], f" {mark[1]}"):
                yield from _mark(begin + position, mark[1], lessons)
        elif picture := _PICTURE.search(text):
            image = ORDINALS.index(picture[1])
            yield _Place(end - 1, image, WHOLE, border=_border(image, lessons))

    def _in_question(self, tokens: Sequence[int], lessons: Sequence[Lesson]) -> Iterator[_Place]:
        for name in ("REF", *LETTERS[:4]):
            for position in self._last(tokens, f" {name}"):
                yield from (replace(place, carried=name == "REF") for place in _mark(position, name, lessons))
        for ordinal, word in enumerate(ORDINALS):
            for position in self._last(tokens, f" {word} image"):
                yield _Place(position, ordinal, WHOLE, carried=ordinal == 0, border=_border(ordinal, lessons))
        for colour in (le for le in lessons if le.head == "colour"):
            kinds = [le for le in lessons if le.head == "kind" and (le.image, le.cell) == (colour.image, colour.cell)]
            if len(kinds) == 1:
                later = len(self._ids(f" {kinds[0].value}"))
                for position in self._last(tokens, f" {colour.value} {kinds[0].value}"):
                    yield _Place(position - later, colour.image, colour.cell)

    def _counts(self, tokens: Sequence[int], lessons: Sequence[Lesson]) -> Iterator[Fact]:
        for lesson in lessons:
            if lesson.head.startswith("number of "):
                name = lesson.head.removeprefix("number of ")
                for position in self._last(tokens, f" {name} shapes"):
                    yield Fact("number", "class", position, str(lesson.value))

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


def _mark(position: int, name: str, lessons: Sequence[Lesson]) -> Iterator[_Place]:
    """A mark, if it has its cell for itself."""
    marks = [le for le in lessons if le.head == "mark"]
    taken = Counter((le.image, le.cell) for le in marks)
    for le in marks:
        if le.value == name and taken[le.image, le.cell] == 1:
            yield _Place(position, le.image, le.cell)


def _facts(place: _Place, lessons: Sequence[Lesson]) -> Iterator[Fact]:
    """What lessons say of the place; words that the question has itself are left out."""
    for lesson in lessons:
        if (lesson.image, lesson.cell) != (place.image, place.cell) or lesson.head in NAMED:
            continue
        if lesson.kind == "class" and not lesson.head.startswith("number of "):
            yield Fact(lesson.head, "class", place.position, str(lesson.value))
        elif lesson.kind == "value" and lesson.cell != WHOLE:
            yield Fact(lesson.head, "value", place.position, float(lesson.value))


def _border(image: int, lessons: Sequence[Lesson]) -> tuple[int, ...]:
    """Cells of a picture at which a piece of it is missing, or which are beside that place."""
    of_first = {le.cell for le in lessons if le.head == "border" and le.image == image}
    of_pieces = {cell for le in lessons if le.head == "border" for at, cell in le.places if at == image}
    return tuple(sorted(of_first | of_pieces))


def _way(places: Sequence[_Place], lessons: Sequence[Lesson], position: int) -> list[Fact]:
    """From the second thing of a question to the first: right and down, or nothing."""
    way = []
    for head in ("x", "y"):
        at = {(le.image, le.cell): float(le.value) for le in lessons if le.head == head}
        found = [at[place.image, place.cell] for place in places if (place.image, place.cell) in at]
        if len(found) == 2:
            way.append(Fact(f"d{head}", "value", position, found[0] - found[1]))
    return way


def _cells(place: _Place, cells: Sequence[int]) -> tuple[int, ...]:
    """The tokens of the place, among those of all pictures in order."""
    first = place.image * GRID * GRID
    if place.cell == WHOLE:
        return tuple(cells[first + cell] for cell in place.border or range(GRID * GRID))
    return (cells[first + place.cell],)
