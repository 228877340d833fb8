"""Two pictures, a point REF in the first and lettered points in the second: what the correspondence tasks share.

A task draws the pictures and says which place of the second one corresponds to REF, and which three others do not. In
the form "marks" all four are lettered; in "yes_no" one of the right and the first wrong one is, and the statement is
that it is the right one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.tasks.perception.base import Draft, Request
from interp.tasks.perception.drawing.canvas import Canvas, Point
from interp.tasks.perception.items import LETTERS, PerceptionItem


@dataclass(frozen=True)
class Candidate:
    """A place of the second picture and a fact about it, as a JSON value, which tells whether it corresponds."""

    place: Point
    fact: Any


def marked_pair(
    request: Request,
    first: Canvas,
    second: Canvas,
    *,
    reference: Candidate,
    candidates: Sequence[Candidate],
    which: str,
    whether: str,
    contents: Mapping[str, Sequence[Any]],
) -> Draft:
    """Mark REF in the first picture and the candidates in the second.

    Args:
        request: its form is "marks" or "yes_no".
        first: the picture of REF, not yet finished.
        second: the picture of the candidates.
        reference: where REF is, and the fact that the right candidate shares or is next to.
        candidates: four, the right one first.
        which: question of the form "marks".
        whether: statement of the form "yes_no", about point A.
        contents: kind -> what was drawn from the split's pools.
    """
    shown = request.at_places(candidates) if request.form == "marks" else request.at_places(candidates[:2])[:1]
    first.mark(reference.place, "REF", style=request.marks)
    second.marks([candidate.place for candidate in shown], style=request.marks)
    meta = {
        "truth": {"reference": reference.fact, "points": [candidate.fact for candidate in shown]},
        "marks": [list(candidate.place) for candidate in shown],
        "reference": list(reference.place),
        "contents": {kind: list(values) for kind, values in contents.items()},
    }
    if request.form == "marks":
        return Draft([first.finish(), second.finish()], which, [f"Point {letter}" for letter in LETTERS[:4]], meta)
    return Draft([first.finish(), second.finish()], whether, ["yes", "no"], meta)


def option_of(item: PerceptionItem, *, right: Sequence[bool]) -> int:
    """The option that names the right point, or says whether point A is."""
    if item.meta["form"] == "marks":
        return item.options.index(f"Point {LETTERS[list(right).index(True)]}")
    return item.options.index("yes" if right[0] else "no")
