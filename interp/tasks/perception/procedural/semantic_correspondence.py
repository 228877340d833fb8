"""Semantic Correspondence: which point of one animal is the same part as the marked point of another?

Two animals of different proportions, pose and coat, each turned by any angle, one of a pair mirrored in half of the
items; the marks are on keypoints (nose, ear, tail, paws, ...), of which any could have been the right one. With growing
difficulty the animals are less alike, they are seen from above more often, and a part's twin, which only the rest of
the body tells from it, is more often among the points: the hind paw for the front paw, the left ear for the right one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import ClassVar

import numpy as np

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.animals import SINGLES, TWINS, Plan, Stance, animal, between, coat, species
from interp.tasks.perception.drawing.canvas import Canvas, Point
from interp.tasks.perception.drawing.colour import blend, hsv, noise
from interp.tasks.perception.drawing.pairs import Candidate, marked_pair, option_of
from interp.tasks.perception.items import PerceptionItem

SPECIES, COATS, GROUNDS = range(400), range(1000, 1400), range(2000, 2400)
"""Seeds of proportions, coats and grounds, which are divided among the splits."""
APART = 0.13
"""Least distance between two marks."""


class SemanticCorrespondence(PerceptionTask):
    """The same part of two animals."""

    name, title, abbreviation = "semantic_correspondence", "Semantic Correspondence", "SC"
    level, granularity = "high", "pixel"
    forms: ClassVar = {"marks": 4, "yes_no": 2}
    modules = frozenset({"point", "match", "parts"})

    def draw(self, request: Request) -> Draft:
        """Two animals; REF on the first, the same part and three others marked on the second."""
        rng = request.rng
        plan: Plan = "top" if rng.random() < request.dial(0.1, 0.6) else "side"
        kinds = [request.choose(SPECIES, salt="species") for _ in range(2)]
        coats = [request.choose(COATS, salt="coats") for _ in range(2)]
        grounds = [request.choose(GROUNDS, salt="grounds of animals") for _ in range(2)]
        gap = request.dial(0.1, 1.0)
        first, second = species(kinds[0]), between(species(kinds[0]), species(kinds[1]), gap)
        mirrored = rng.random(2) < 0.5
        canvases, found = [], []
        names = self._names(request, plan)
        for number, kind in enumerate((first, second)):
            flip = bool(mirrored[number]) and plan == "side"
            canvas = _ground(request.size, grounds[number])
            while True:
                one = animal(kind, coat(coats[number]), plan, rng, limber=request.dial(0.3, 1.0))
                stance = _stance(rng, one.keypoints, flip)
                places = stance([one.keypoints[name] for name in names])
                if all(math.dist(a, b) > APART for a, b in combinations(places, 2)):
                    break
            canvases.append(canvas)
            found.append(one.draw(canvas, stance))
        return marked_pair(
            request,
            *canvases,
            reference=Candidate(found[0][names[0]], names[0]),
            candidates=[Candidate(found[1][name], name) for name in names],
            which="Which point is the same body part as REF?",
            whether="Is point A the same body part as REF?",
            contents={"species": kinds, "coats": coats, "grounds": grounds},
        )

    def oracle(self, item: PerceptionItem) -> int:
        """The point on the part that REF is on."""
        truth = item.meta["truth"]
        return option_of(item, right=[name == truth["reference"] for name in truth["points"]])

    def _names(self, request: Request, plan: Plan) -> list[str]:
        """Four keypoints in random order, with a pair of twins among them the more likely the harder it is to be."""
        rng = request.rng
        twins = TWINS[plan]
        pair = list(twins[int(rng.integers(len(twins)))])
        others = [*SINGLES[plan], *(other[int(rng.integers(2))] for other in twins if list(other) != pair)]
        if rng.random() >= request.difficulty:
            others.append(pair[int(rng.integers(2))])
            pair = []
        picked = [others[i] for i in rng.permutation(len(others))[: 4 - len(pair)]]
        return [[*pair, *picked][i] for i in rng.permutation(4)]


def _stance(rng: np.random.Generator, keypoints: Mapping[str, Point], mirrored: bool) -> Stance:
    """A random turn, and the largest size about the middle of the picture, or a little less."""
    turn = float(rng.uniform(-math.pi, math.pi))
    points = np.array(Stance((0.0, 0.0), turn, 1.0, mirrored)(list(keypoints.values())))
    low, high = points.min(axis=0), points.max(axis=0)
    scale = float(rng.uniform(0.85, 1.0) * 0.8 / (high - low).max())
    free = 0.8 - scale * (high - low)
    x, y = (0.1 - scale * low + free * rng.uniform(0, 1, 2)).tolist()
    return Stance((x, y), turn, scale, mirrored)


def _ground(size: int, seed: int) -> Canvas:
    rng = np.random.default_rng(seed)
    hue, light = rng.uniform(), rng.uniform(0.25, 0.5)
    dark = hsv(hue, rng.uniform(0.1, 0.5), light)
    pale = hsv(hue + rng.uniform(-0.1, 0.1), rng.uniform(0.1, 0.5), light + 0.15)
    return Canvas(size, blend(noise(rng, 40, coarse=4, octaves=3), dark, pale))


TASK = SemanticCorrespondence()
