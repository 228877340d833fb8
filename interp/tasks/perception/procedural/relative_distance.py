"""Relative Distance: which of four things is nearest to another one?

After the relative distances of VSI-Bench (Yang et al. 2025). A camera flies over a strip of ground with five things,
to the right or to the left; its frames overlap. Which of the four is the nearest is drawn at random, and so is on
which side of the fifth each of them is. The nearest one is always 1 / ratio as far as the next one; the ratio falls
with growing difficulty, and the things are in fewer frames together.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import Point
from interp.tasks.perception.drawing.frames import Placed, Strip, frames_of, starts
from interp.tasks.perception.drawing.things import choose_things
from interp.tasks.perception.items import PerceptionItem


class RelativeDistance(PerceptionTask):
    """The nearest of four things."""

    name, title, abbreviation = "relative_distance", "Relative Distance", "DS"
    level, granularity = "high", "image"
    forms: ClassVar = {"words": 4, "yes_no": 2}
    modules = frozenset({"objects", "layout", "match"})
    core = False

    def draw(self, request: Request) -> Draft:
        """A thing, four others about it, and the frames of a flight over them."""
        rng, n = request.rng, frames_of(request)
        step = request.dial(0.3, 0.5)
        length = 1 + step * (n - 1)
        size = request.dial(0.2, 0.13)
        things = choose_things(request, 5)
        places = _places(rng, length, margin=size * 0.6, gap=1.25 * size, ratio=request.dial(1.7, 1.15))
        strip = Strip(request, length)
        for thing, place in zip(things, places, strict=True):
            strip.things.append(Placed(thing, place, size * float(rng.uniform(0.9, 1.1)), bool(rng.random() < 0.5)))
        pictures = [strip.frame(start) for start in starts(request, step=step, n=n)]
        names = [str(thing) for thing in things]
        asked = None
        if request.form == "words":
            question, options = f"Which is nearest to the {names[0]}?", request.at_places(names[1:])
        else:
            other = 2 + int(rng.integers(3))
            asked = [names[1], names[other]][:: -1 if request.key else 1]
            question = f"Is the {asked[0]} nearer to the {names[0]} than the {asked[1]}?"
            options = ["yes", "no"]
        distances = {name: math.dist(place, places[0]) for name, place in zip(names[1:], places[1:], strict=True)}
        contents = {"things": names, "grounds": [strip.ground]}
        return Draft(
            pictures, question, options, {"truth": {"distances": distances, "asked": asked}, "contents": contents}
        )

    def oracle(self, item: PerceptionItem) -> int:
        """The thing of the smallest distance."""
        truth = item.meta["truth"]
        distances = truth["distances"]
        if truth["asked"] is None:
            return item.options.index(min(distances, key=distances.__getitem__))
        near, far = truth["asked"]
        return item.options.index("yes" if distances[near] < distances[far] else "no")


def _places(rng: np.random.Generator, length: float, *, margin: float, gap: float, ratio: float) -> list[Point]:
    """Places of a thing, of the nearest other one, and of three more that are at least ratio times as far from it."""
    while True:
        tries = rng.uniform((margin, margin), (length - margin, 1 - margin), (60, 5, 2))
        apart = np.linalg.norm(tries[:, :, None] - tries[:, None], axis=-1) + 9 * np.eye(5)
        distances = np.sort(apart[:, 0, 1:], axis=1)
        fits = (apart.min(axis=(1, 2)) > gap) & (distances[:, 1] > ratio * distances[:, 0])
        fits &= distances[:, 1] < 1.35 * ratio * distances[:, 0]
        if fits.any():
            chosen = int(np.argmax(fits))
            order = [0, 1 + int(np.argmin(apart[chosen, 0, 1:]))]
            order += [i for i in range(1, 5) if i != order[1]]
            return [(float(x), float(y)) for x, y in tries[chosen][order]]


TASK = RelativeDistance()
