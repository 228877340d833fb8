"""Semantic Correspondence: which point of one animal is the same part as the marked point of another?

Two animals of different proportions, pose and coat, each turned by any angle, one of a pair mirrored in half of the
items; the marks are on keypoints at the ends of the body (nose, ear, tail, paws), of which any could have been the
right one, so that where REF is tells nothing. With growing difficulty the animals are less alike, they are seen from
above more often, and a part's twin, which only the rest of the body tells from it, is more often among the points: the
hind paw for the front paw, the left ear for the right one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.animals import (
    SINGLES,
    TWINS,
    Animal,
    Plan,
    Species,
    Stance,
    animal,
    between,
    coat,
    species,
)
from interp.tasks.perception.drawing.canvas import Canvas, Point
from interp.tasks.perception.drawing.colour import blend, hsv, noise
from interp.tasks.perception.drawing.pairs import Candidate, marked_pair, option_of
from interp.tasks.perception.items import PerceptionItem

SPECIES, COATS, GROUNDS = range(400), range(1000, 1400), range(2000, 2400)
"""Seeds of proportions, coats and grounds, which are divided among the splits."""
APART = 0.14
"""Distance between two marks, at least, where the animal has room."""


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
        names = self._names(request, plan)
        one, other = (
            _posed(request, plan, kind, colours, names) for kind, colours in zip((first, second), coats, strict=True)
        )
        canvases = [_ground(request.size, ground) for ground in grounds]
        for canvas, drawn in zip(canvases, (one, other), strict=True):
            drawn.animal.draw(canvas, drawn.stance)
        return marked_pair(
            request,
            *canvases,
            reference=Candidate(one.places[names[0]], names[0]),
            candidates=[Candidate(other.places[name], name) for name in names],
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


@dataclass(frozen=True)
class _Posed:
    """An animal, where it is, and where its keypoints are."""

    animal: Animal
    stance: Stance
    places: dict[str, Point]


def _posed(request: Request, plan: Plan, kind: Species, colours: int, names: Sequence[str]) -> _Posed:
    """An animal in a random pose, turned at random, with these keypoints apart; from the side it may be mirrored."""
    rng = request.rng
    mirrored = plan == "side" and bool(rng.random() < 0.5)
    apart = APART
    while True:
        one = animal(kind, coat(colours), plan, rng, limber=request.dial(0.3, 1.0))
        stance = _stance(rng, list(one.keypoints.values()), mirrored)
        places = dict(zip(one.keypoints, stance(list(one.keypoints.values())), strict=True))
        if all(math.dist(places[a], places[b]) > apart for a, b in combinations(names, 2)):
            return _Posed(one, stance, places)
        apart *= 0.98  # small ears and bent limbs may not leave so much room


def _stance(rng: np.random.Generator, keypoints: Sequence[Point], mirrored: bool) -> Stance:
    """A random turn and size, anywhere in the picture."""
    turn = float(rng.uniform(-math.pi, math.pi))
    points = np.array(Stance((0.0, 0.0), turn, 1.0, mirrored)(keypoints))
    low, high = points.min(axis=0), points.max(axis=0)
    scale = float(rng.uniform(0.75, 1.0) * 0.8 / (high - low).max())
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
