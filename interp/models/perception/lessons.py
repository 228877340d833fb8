"""What a picture of a perception task teaches the tower besides the answer to its question.

The truth of a drawing is known, so the tower need not find out from letters alone what a mark, a part or a distance
is. A lesson names a place (a cell, or the whole picture) and what stands there:

    class    one of some names: the letter of a mark, the part it is on, a style, a count
    value    a number: log distance at a mark, log albedo
    match    which of several places looks at the same thing as another one

Places are cells of the tower's grid; lessons come from `meta` and never from a question's wording.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from interp.tasks.perception.items import LETTERS, PerceptionItem

GRID = 5
WHOLE = -1
"""In the place of a cell: the mean over all cells of the picture."""


@dataclass(frozen=True)
class Lesson:
    """One thing that is true of an item.

    Attributes:
        head: what is taught, such as "mark" or "part of animal"; each has its own linear read-out.
        kind: how it is compared.
        image: index of the picture.
        cell: cell of the grid in reading order, or `WHOLE`.
        value: the class's name, or the number; of a match the index of the right place.
        places: of a match, (image, cell) of the candidates.
    """

    head: str
    kind: Literal["class", "value", "match"]
    image: int
    cell: int
    value: str | float | int
    places: tuple[tuple[int, int], ...] = ()


def cell_of(place: Sequence[float]) -> int:
    """The cell that a point (x, y, fractions of the side) lies in."""
    column, row = (min(GRID - 1, max(0, int(value * GRID))) for value in place[:2])
    return row * GRID + column


def lessons(item: PerceptionItem) -> list[Lesson]:
    """Everything that an item's truth teaches; the item must be as it was drawn (marks not moved since)."""
    teach = _TEACHERS.get(item.task)
    return [*_marks(item), *(teach(item, item.meta["truth"]) if teach else ())]


def _marks(item: PerceptionItem) -> Iterator[Lesson]:
    places = item.meta.get("marks") or ()
    last = len(item.images) - 1
    if item.meta.get("reference") is not None:
        yield Lesson("mark", "class", 0, cell_of(item.meta["reference"]), "REF")
    for letter, place in zip(LETTERS, places, strict=False):
        if len(place) == 2:  # boxes have four
            yield Lesson("mark", "class", last, cell_of(place), letter)


def _parts(head: str) -> Callable[[PerceptionItem, dict[str, Any]], Iterator[Lesson]]:
    def teach(item: PerceptionItem, truth: dict[str, Any]) -> Iterator[Lesson]:
        yield Lesson(head, "class", 0, cell_of(item.meta["reference"]), truth["reference"])
        for part, place in zip(truth["points"], item.meta["marks"], strict=True):
            yield Lesson(head, "class", 1, cell_of(place), part)

    return teach


def _values(head: str, key: str) -> Callable[[PerceptionItem, dict[str, Any]], Iterator[Lesson]]:
    def teach(item: PerceptionItem, truth: dict[str, Any]) -> Iterator[Lesson]:
        for value, place in zip(truth[key], item.meta["marks"], strict=True):
            yield Lesson(head, "value", 0, cell_of(place), math.log(value))

    return teach


def _correspondence(item: PerceptionItem, truth: dict[str, Any]) -> Iterator[Lesson]:
    if len(item.options) == len(item.meta["marks"]):
        places = tuple((1, cell_of(place)) for place in item.meta["marks"])
        yield Lesson("same place", "match", 0, cell_of(item.meta["reference"]), item.key, places)


def _styles(item: PerceptionItem, truth: dict[str, Any]) -> Iterator[Lesson]:
    for image, style in enumerate(truth["styles"]):
        yield Lesson("style", "class", image, WHOLE, style)


def _similarity(item: PerceptionItem, truth: dict[str, Any]) -> Iterator[Lesson]:
    nearest = min(range(2), key=truth["distances"].__getitem__)
    yield Lesson("similar picture", "match", 0, WHOLE, nearest, ((1, WHOLE), (2, WHOLE)))


def _forgeries(item: PerceptionItem, truth: dict[str, Any]) -> Iterator[Lesson]:
    for image, broken in enumerate(truth["broken"]):
        yield Lesson("forgery", "class", image, WHOLE, str(broken or "none").split(":")[0])


def _counts(item: PerceptionItem, truth: dict[str, Any]) -> Iterator[Lesson]:
    for kind, count in truth["counts"].items():
        yield Lesson(f"number of {kind}", "class", 0, WHOLE, str(count))
    in_cell = Counter(cell_of((x, y)) for _, x, y in truth["places"])
    for kind, x, y in truth["places"]:
        if in_cell[cell_of((x, y))] == 1:
            yield Lesson("shape", "class", 0, cell_of((x, y)), kind)


def _things(item: PerceptionItem, truth: dict[str, Any]) -> Iterator[Lesson]:
    named = sorted((thing for thing in item.meta["contents"] if thing in item.question), key=item.question.index)
    for thing, place in zip(named, (truth["first"], truth["second"]), strict=False):
        colour, _, kind = thing.partition(" ")
        yield Lesson("colour", "class", 0, cell_of(place), colour)
        yield Lesson("kind", "class", 0, cell_of(place), kind)
        yield Lesson("x", "value", 0, cell_of(place), _centred(place[0]))
        yield Lesson("y", "value", 0, cell_of(place), _centred(place[1]))


def _boxes(item: PerceptionItem, truth: dict[str, Any]) -> Iterator[Lesson]:
    left, top, right, bottom = truth["thing"]
    middle = cell_of(((left + right) / 2, (top + bottom) / 2))
    colour, _, kind = item.meta["contents"][0].partition(" ")
    yield Lesson("colour", "class", 0, middle, colour)
    yield Lesson("kind", "class", 0, middle, kind)
    boxes = {"thing": truth["thing"]}
    if item.meta["form"] == "marks":
        boxes |= dict(zip(LETTERS, truth["boxes"], strict=False))
        yield Lesson("tight box", "class", 0, WHOLE, LETTERS[item.key])
    for name, box in boxes.items():
        for side, value in zip(("left", "top", "right", "bottom"), box, strict=True):
            yield Lesson(f"{side} of {name}", "value", 0, WHOLE, _centred(value))


def _borders(item: PerceptionItem, truth: dict[str, Any]) -> Iterator[Lesson]:
    if len(item.images) < 3:
        return
    near = min(range(2), key=truth["off"].__getitem__)
    for (row, column), (there, across) in _SEAMS.items():
        places = tuple((image, there * GRID + across) for image in (1, 2))
        yield Lesson("border", "match", 0, row * GRID + column, near, places)


def _centred(fraction: float) -> float:
    return 4 * float(fraction) - 2


_SEAMS = {(3, 2): (1, 0), (4, 2): (3, 0), (2, 3): (0, 1), (2, 4): (0, 3)}
"""Cell (row, column) beside the missing quarter -> cell of the piece, at twice the scale, that touches it."""


_TEACHERS: dict[str, Callable[[PerceptionItem, dict[str, Any]], Iterator[Lesson]]] = {
    "semantic_correspondence": _parts("part of an animal"),
    "functional_correspondence": _parts("part of a tool"),
    "relative_depth": _values("distance", "depths"),
    "relative_reflectance": _values("albedo", "albedos"),
    "visual_correspondence": _correspondence,
    "art_style": _styles,
    "visual_similarity": _similarity,
    "forensic_detection": _forgeries,
    "counting": _counts,
    "spatial_relation": _things,
    "object_localization": _boxes,
    "jigsaw": _borders,
}
