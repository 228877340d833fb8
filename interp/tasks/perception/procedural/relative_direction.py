"""Relative Direction: a person faces one thing; is another one to the left or to the right?

After the relative directions of VSI-Bench (Yang et al. 2025). A camera turns on the spot, to the right or to the left;
a frame is a part of what is seen all round, and neighbouring frames overlap. Which of two things is asked from which
decides the key, so neither the frames nor the question tell it. With growing difficulty the two things are in no frame
together, and less of each frame is in the next one.
"""

from __future__ import annotations

from typing import ClassVar

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import Point
from interp.tasks.perception.drawing.frames import Placed, Strip, frames_of, free_place, starts
from interp.tasks.perception.drawing.things import choose_things
from interp.tasks.perception.items import PerceptionItem

SIDES = ("left", "right")


class RelativeDirection(PerceptionTask):
    """On which side a thing is for someone who faces another one."""

    name, title, abbreviation = "relative_direction", "Relative Direction", "DI"
    level, granularity = "high", "image"
    forms: ClassVar = {"words": 2, "yes_no": 2}
    modules = frozenset({"objects", "layout", "match", "order"})
    core = False

    def draw(self, request: Request) -> Draft:
        """Two things that are asked about and others for orientation."""
        rng, n = request.rng, frames_of(request)
        step = request.dial(0.35, 0.6)
        length = 1 + step * (n - 1)
        apart = float(rng.uniform(request.dial(0.4, 1.0), request.dial(0.8, length - 0.3)))
        strip = Strip(request, length, stones=round(request.dial(10, 6)))
        size = request.dial(0.26, 0.15)
        first = float(rng.uniform(0.15, length - 0.15 - apart))
        heights = rng.uniform(0.2, 0.8, 2).tolist()
        two: list[Point] = [(first, heights[0]), (first + apart, heights[1])]
        others = round(request.dial(1, 3))
        left, right, *more = choose_things(request, 2 + others)
        places = list(two)
        for _ in range(others):
            places.append(free_place(request, places, low=(0.12, 0.15), high=(length - 0.12, 0.85), gap=1.5 * size))
        for thing, place in zip((left, right, *more), places, strict=True):
            strip.things.append(Placed(thing, place, size * float(rng.uniform(0.9, 1.1)), bool(rng.random() < 0.5)))
        camera = starts(request, step=step, n=n)
        pictures = [strip.frame(start) for start in camera]
        asked = int(rng.integers(2))
        side = request.key if request.form == "words" else (asked + request.key) % 2
        faced, sought = (left, right) if side else (right, left)
        if request.form == "words":
            question, options = f"You face the {faced}. On which side is the {sought}?", list(SIDES)
        else:
            question, options = f"You face the {faced}. Is the {sought} on your {SIDES[asked]}?", ["yes", "no"]
        truth = {
            "at": {str(thing): place[0] for thing, place in zip((left, right), two, strict=True)},
            "starts": camera,
            "faced": str(faced),
            "sought": str(sought),
            "asked": SIDES[asked] if request.form == "yes_no" else None,
        }
        contents = {"things": [str(thing) for thing in (left, right, *more)], "grounds": [strip.ground]}
        return Draft(pictures, question, options, {"truth": truth, "contents": contents})

    def oracle(self, item: PerceptionItem) -> int:
        """The side to which one turns from the one thing to the other."""
        truth = item.meta["truth"]
        side = SIDES[int(truth["at"][truth["sought"]] > truth["at"][truth["faced"]])]
        if truth["asked"] is None:
            return item.options.index(side)
        return item.options.index("yes" if side == truth["asked"] else "no")


TASK = RelativeDirection()
