"""Counting: how many things of one kind a picture shows.

After BLINK's counting questions (Fu et al. 2024). A picture has four groups of shapes whose sizes are four consecutive
numbers, so the same picture is asked about any of its groups: neither the picture nor the text alone tells anything
about the key, and the amount of ink is the same whichever number is right.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import Canvas, Colour
from interp.tasks.perception.drawing.colour import hsv
from interp.tasks.perception.drawing.scenes import SHAPES, ground, placed
from interp.tasks.perception.items import PerceptionItem

HUES = {"red": 0.0, "orange": 0.075, "yellow": 0.145, "green": 0.35, "blue": 0.61, "purple": 0.77, "pink": 0.9}
FAR = ("red", "yellow", "green", "blue", "purple")
SHADES = range(64)


def shade_of(name: str, seed: int) -> Colour:
    """One of the many shades that a colour word names."""
    rng = np.random.default_rng([seed, list(HUES).index(name)])
    pale = 0.45 if name == "pink" else rng.uniform(0.8, 1.0)
    return hsv(HUES[name] + rng.uniform(-0.015, 0.015), pale, rng.uniform(0.78, 0.95))


def option_of_count(item: PerceptionItem) -> int:
    """The option that says how many there are of what is asked about, or whether as many as is claimed."""
    truth = item.meta["truth"]
    count = truth["counts"][truth["asked"]]
    if truth["claimed"] is None:
        return item.options.index(str(count))
    return item.options.index("yes" if count == truth["claimed"] else "no")


class Counting(PerceptionTask):
    """How many shapes of a colour (harder: of a colour and a filling) there are."""

    name, title, abbreviation = "counting", "Counting", "CN"
    level, granularity = "high", "image"
    forms: ClassVar = {"words": 4, "yes_no": 2}
    modules = frozenset({"objects", "counting"})

    def draw(self, request: Request) -> Draft:
        """Four groups of shapes; the key decides which of them is asked about, or which number is claimed."""
        rng = request.rng
        least = round(request.dial(0, 6)) + int(rng.integers(2))
        sizes = [least + i for i in range(4)]
        kinds = self._kinds(request)
        groups = {kinds[i]: sizes[place] for place, i in enumerate(rng.permutation(4))}
        of_size = {size: kind for kind, size in groups.items()}
        asked, other = (sizes[i] for i in rng.permutation(4)[:2])
        image, places = self._picture(request, groups)
        if request.form == "words":
            kind = of_size[sizes[request.key]]
            question, options, claimed = f"How many {kind} shapes are there?", [str(size) for size in sizes], None
        else:
            kind = of_size[asked]
            claimed = request.at_places([asked, other])[0]
            question, options = f"Is the number of {kind} shapes {claimed}?", ["yes", "no"]
        truth = {"counts": groups, "asked": kind, "claimed": claimed, "places": places}
        return Draft([image], question, options, {"truth": truth})

    def oracle(self, item: PerceptionItem) -> int:
        """The count of the kind that is asked about."""
        return option_of_count(item)

    def _kinds(self, request: Request) -> list[str]:
        rng = request.rng
        if rng.uniform() < request.difficulty * 0.8:
            colours = [str(name) for name in rng.permutation(list(HUES))[:2]]
            return [f"{filling} {colour}" for colour in colours for filling in ("solid", "hollow")]
        names = FAR if request.difficulty < 0.4 else tuple(HUES)
        return [str(name) for name in rng.permutation(names)[:4]]

    def _picture(self, request: Request, groups: dict[str, int]) -> tuple[Any, list[tuple[str, float, float]]]:
        """The picture, and the kind and centre (fractions of the side) of each shape."""
        rng = request.rng
        canvas = Canvas(request.size, ground(request))
        seed = request.choose(SHADES, salt="counting shades")
        shapes = [request.choose(list(SHAPES), salt="counting shapes") for _ in range(2)]
        kinds = [kind for kind, size in groups.items() for _ in range(size)]
        side = max(3, int(np.ceil(np.sqrt(len(kinds) * 1.15))))
        places = rng.permutation(side * side)[: len(kinds)]
        shift, room = request.dial(0.1, 0.3), 1 / side
        centres: list[tuple[str, float, float]] = []
        for kind, place in zip((kinds[i] for i in rng.permutation(len(kinds))), places, strict=True):
            x, y = (place % side + 0.5) * room, (place // side + 0.5) * room
            radius = room * rng.uniform(0.27, request.dial(0.36, 0.42))
            x, y = (
                float(np.clip(v + rng.uniform(-shift, shift) * room, radius * 1.3, 1 - radius * 1.3)) for v in (x, y)
            )
            centres.append((kind, x, y))
            turn = rng.uniform(-1, 1) * request.dial(0.2, 3)
            shape = SHAPES[shapes[int(rng.integers(2))]]
            colour = shade_of(kind.split()[-1], seed)
            outline = placed(shape, (x, y), radius, turn)
            if kind.startswith("hollow"):
                canvas.polygon(outline, None, outline=colour, width=max(0.012, radius * 0.22))
            else:
                canvas.polygon(outline, colour, outline=(40, 40, 40), width=0.005)
        return canvas.finish(), centres


TASK = Counting()
