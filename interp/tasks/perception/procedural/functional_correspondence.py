"""Functional Correspondence: which part of one tool serves a named action as the marked part of another one does?

REF is on a part that serves two actions, such as a knife's blade (cut, poke); the second tool has for each of the two a
part of its own, and two parts for other actions. The same two pictures asked about the other action therefore have
another key, and where a part is on its tool is drawn at random. With growing difficulty the families' shapes differ
more, arms bend, and parts are smaller.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import Canvas
from interp.tasks.perception.drawing.colour import blend, hsv, noise
from interp.tasks.perception.drawing.pairs import Candidate, marked_pair, option_of
from interp.tasks.perception.drawing.tools import DOUBLE, SINGLE, Arm, draw_tool, family
from interp.tasks.perception.items import PerceptionItem

FAMILIES, GROUNDS = range(400), range(1000, 1400)
"""Seeds of families of tools and of grounds, which are divided among the splits."""


class FunctionalCorrespondence(PerceptionTask):
    """The part of another tool that does the same."""

    name, title, abbreviation = "functional_correspondence", "Functional Correspondence", "FC"
    level, granularity = "high", "pixel"
    forms: ClassVar = {"marks": 4, "yes_no": 2}
    modules = frozenset({"point", "match", "parts"})

    def draw(self, request: Request) -> Draft:
        """Two tools; REF on a part of the first, four parts of the second marked."""
        rng = request.rng
        pairs = list(DOUBLE)
        pair = pairs[int(rng.integers(len(pairs)))]
        asked = int(rng.integers(2))
        action, other = pair[asked], pair[1 - asked]
        rest = [name for name in SINGLE if name not in pair]
        rest = [rest[i] for i in rng.permutation(len(rest))]
        families = [request.choose(FAMILIES, salt="families of tools") for _ in range(2)]
        grounds = [request.choose(GROUNDS, salt="grounds of tools") for _ in range(2)]
        first, (reference, *_) = self._tool(
            request, families[0], grounds[0], [DOUBLE[pair], *map(SINGLE.get, rest[:2])]
        )
        actions = [action, other, *rest[2:4]]
        second, places = self._tool(request, families[1], grounds[1], [SINGLE[name] for name in actions])
        return marked_pair(
            request,
            first,
            second,
            reference=Candidate(reference, action),
            candidates=[Candidate(place, name) for place, name in zip(places, actions, strict=True)],
            which=f"Action: {action}. Which point does what REF does?",
            whether=f"Action: {action}. Does point A do what REF does?",
            contents={"families": families, "grounds": grounds},
        )

    def oracle(self, item: PerceptionItem) -> int:
        """The point on the part for the action asked about."""
        truth = item.meta["truth"]
        return option_of(item, right=[action == truth["reference"] for action in truth["points"]])

    def _tool(self, request: Request, seed: int, ground: int, parts: list) -> tuple[Canvas, list]:
        """A tool with these parts at arms in random order round its hub; returns also a point on each part."""
        rng, n = request.rng, len(parts)
        kind = family(seed, variety=request.dial(0.2, 1.0))
        source = np.random.default_rng(ground)
        hue, light = source.uniform(), source.uniform(0.3, 0.75)
        dark, pale = hsv(hue, 0.2, light), hsv(hue + 0.05, 0.2, light + 0.12)
        canvas = Canvas(request.size, blend(noise(source, 40, coarse=4, octaves=3), dark, pale))
        slots = rng.permutation(n)
        turn = float(rng.uniform(-math.pi, math.pi))
        hub = (0.5 + float(rng.uniform(-0.03, 0.03)), 0.5 + float(rng.uniform(-0.03, 0.03)))
        arms = [
            Arm(
                turn + 2 * math.pi * (slot + float(rng.uniform(-0.12, 0.12))) / n,
                float(rng.uniform(0.15, 0.21)),
                float(rng.uniform(-0.6, 0.6)) * request.difficulty,
                part,
            )
            for slot, part in zip(slots.tolist(), parts, strict=True)
        ]
        size = request.dial(0.23, 0.15)
        points = draw_tool(canvas, kind, arms, hub=hub, radius=0.07, size=size, hole=dark)
        return canvas, points


TASK = FunctionalCorrespondence()
