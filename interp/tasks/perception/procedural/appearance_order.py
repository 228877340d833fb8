"""Appearance Order: in which order do things come into view for the first time?

After the appearance order of VSI-Bench (Yang et al. 2025). The wrong orders are three of the other five orders of the
same three things, so that the options do not tell the right one. With growing difficulty things are smaller, others
come and go among them, and things that have been seen leave and come back.
"""

from __future__ import annotations

from itertools import permutations
from typing import ClassVar

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import Point
from interp.tasks.perception.drawing.frames import Placed, Strip, frames_of, free_place
from interp.tasks.perception.drawing.things import choose_things
from interp.tasks.perception.items import PerceptionItem


class AppearanceOrder(PerceptionTask):
    """The order in which three things first appear."""

    name, title, abbreviation = "appearance_order", "Appearance Order", "AO"
    level, granularity = "high", "image"
    forms: ClassVar = {"words": 4, "yes_no": 2}
    modules = frozenset({"objects", "order"})
    core = False

    def draw(self, request: Request) -> Draft:
        """Frames of one place, in each of which other things are there."""
        rng, n = request.rng, frames_of(request)
        others = round(request.dial(0, 3))
        things = choose_things(request, 3 + others)
        comes = sorted(rng.permutation(n)[:3].tolist())
        comes += rng.integers(0, n, others).tolist()
        stays = rng.random((3 + others, n)) < request.dial(0.0, 0.6)
        strip = Strip(request, 1.0)
        size = request.dial(0.42, 0.2)
        pictures = []
        for frame in range(n):
            taken: list[Point] = []
            strip.things = []
            here = [i for i in range(3 + others) if frame == comes[i] or (frame > comes[i] and stays[i, frame])]
            for i in (here[place] for place in rng.permutation(len(here))):
                margin = size * 0.6
                place = free_place(request, taken, low=(margin,) * 2, high=(1 - margin,) * 2, gap=1.4 * size)
                taken.append(place)
                strip.things.append(Placed(things[i], place, size, bool(rng.random() < 0.5)))
            pictures.append(strip.frame(0.0))
        names = [str(thing) for thing in things[:3]]
        wrong = list(permutations(names))[1:]
        orders = [tuple(names), *(wrong[i] for i in rng.permutation(5)[:3])]
        early, late = sorted(rng.permutation(3)[:2].tolist())
        if request.form == "words":
            question = "In which order do they first appear?"
            options = [", ".join(order) for order in request.at_places(orders)]
            asked = None
        else:
            asked = [names[early], names[late]][:: -1 if request.key else 1]
            question, options = f"Does the {asked[0]} appear before the {asked[1]}?", ["yes", "no"]
        truth = {"first": dict(zip(names, comes, strict=False)), "asked": asked}
        contents = {"things": [str(thing) for thing in things], "grounds": [strip.ground]}
        return Draft(pictures, question, options, {"truth": truth, "contents": contents})

    def oracle(self, item: PerceptionItem) -> int:
        """Things by the frame in which they first are."""
        truth = item.meta["truth"]
        first = truth["first"]
        if truth["asked"] is None:
            return item.options.index(", ".join(sorted(first, key=first.__getitem__)))
        early, late = truth["asked"]
        return item.options.index("yes" if first[early] < first[late] else "no")


TASK = AppearanceOrder()
