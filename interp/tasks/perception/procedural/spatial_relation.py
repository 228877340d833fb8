"""Spatial Relation: is one thing left of, right of, above or below another?

Three things form an L: two corners of it differ along one axis, the third is off along the other axis. The picture
without the question therefore says nothing about the answer, nor does the question without the picture: the same
sentence is true or false as the two things stand one way or the other (Visual Spatial Reasoning, Liu et al. 2023).
"""

from __future__ import annotations

from typing import Any, ClassVar

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import Point
from interp.tasks.perception.drawing.things import choose_things, ground
from interp.tasks.perception.items import PerceptionItem

RELATIONS: dict[str, Point] = {
    "left of": (-1.0, 0.0),
    "right of": (1.0, 0.0),
    "above": (0.0, -1.0),
    "below": (0.0, 1.0),
}
"""Relation -> direction from the second thing to the first; y points down."""
NAMES = tuple(RELATIONS)


class SpatialRelation(PerceptionTask):
    """Where two named things stand to one another."""

    name, title, abbreviation, level, granularity = "spatial_relation", "Spatial Relation", "SR", "mid", "image"
    forms: ClassVar = {"yes_no": 2, "words": 4}
    modules = frozenset({"objects", "layout"})

    def draw(self, request: Request) -> Draft:
        """Three things at the corners of an L, and some small ones about them as it gets harder."""
        rng = request.rng
        clutter = round(request.dial(0, 3))
        first, second, third, *others = choose_things(request, 3 + clutter)
        asked = int(rng.integers(4))
        if request.form == "yes_no":
            direction = RELATIONS[NAMES[asked]]
            if request.key == 1:
                direction = (-direction[0], -direction[1])
            question, options = f"Is the {first} {NAMES[asked]} the {second}?", ["yes", "no"]
        else:
            direction = RELATIONS[NAMES[request.key]]
            question, options = f"Where is the {first}, seen from the {second}?", list(NAMES)
        size = request.dial(0.25, 0.13)
        places = _corners(request, direction)
        canvas = ground(request, roughness=request.dial(0.2, 1.0))
        taken = list(places)
        for other in others:
            place = _free(request, taken, gap=0.17)
            taken.append(place)
            other.draw(canvas, other.box(place, 0.09))
        for thing, place in zip((first, second, third), places, strict=True):
            thing.draw(canvas, thing.box(place, size * rng.uniform(0.9, 1.1)), mirrored=rng.random() < 0.5)
        truth: dict[str, Any] = {"first": list(places[0]), "second": list(places[1])}
        if request.form == "yes_no":
            truth["asked"] = NAMES[asked]
        contents = [str(thing) for thing in (first, second, third, *others)]
        return Draft([canvas.finish()], question, options, {"truth": truth, "contents": contents})

    def oracle(self, item: PerceptionItem) -> int:
        """The relation along the axis on which the two differ more; yes if it is the one asked for."""
        truth = item.meta["truth"]
        dx, dy = (truth["first"][axis] - truth["second"][axis] for axis in (0, 1))
        if "asked" in truth:
            right, down = RELATIONS[truth["asked"]]
            return item.options.index("yes" if dx * right + dy * down > 0 else "no")
        if abs(dx) > abs(dy):
            return item.options.index("left of" if dx < 0 else "right of")
        return item.options.index("above" if dy < 0 else "below")


def _corners(request: Request, direction: Point) -> tuple[Point, Point, Point]:
    """Places of the first, second and third thing. The first is off the second along the direction, and a little along
    the other axis; the third is off one of the two along the other axis, as far."""
    rng = request.rng
    least = request.dial(0.38, 0.16)
    along, across = rng.uniform(least, least + 0.12, 2)
    slant, third_slant = (rng.uniform(-1, 1, 2) * request.dial(0.1, 0.85)).tolist()
    corner, side = int(rng.integers(2)), int(rng.choice([-1, 1]))
    dx, dy = direction
    first = (dx * along + abs(dy) * slant * along, dy * along + abs(dx) * slant * along)
    second = (0.0, 0.0)
    base = (first, second)[corner]
    third = (
        base[0] + abs(dy) * side * across + abs(dx) * third_slant * across,
        base[1] + abs(dx) * side * across + abs(dy) * third_slant * across,
    )
    places = (first, second, third)
    margin = 0.15
    moved: list[list[float]] = [[], [], []]
    where = rng.random(2)
    for axis in (0, 1):
        low, high = min(p[axis] for p in places), max(p[axis] for p in places)
        room = 1 - 2 * margin - (high - low)
        shift = margin - low + (room * where[axis] if room > 0 else room / 2)
        for place, result in zip(places, moved, strict=True):
            result.append(place[axis] + float(shift))
    return (moved[0][0], moved[0][1]), (moved[1][0], moved[1][1]), (moved[2][0], moved[2][1])


def _free(request: Request, taken: list[Point], *, gap: float) -> Point:
    best: tuple[float, Point] = (-1.0, (0.5, 0.5))
    for x, y in request.rng.uniform(0.08, 0.92, (12, 2)).tolist():
        nearest = min((x - a) ** 2 + (y - b) ** 2 for a, b in taken) ** 0.5
        if best[0] < gap:
            best = max(best, (nearest, (x, y)))
    return best[1]


TASK = SpatialRelation()
