"""Visual Correspondence: which point of a second shot is the marked point of the first?

A plane with figures is seen through two homographies, the second under another light. Where the point is seen in the
first picture and where in the second are drawn independently, so that its place tells nothing; the wrong points are
centres of figures like the right one, any of which could have been it. With growing difficulty the camera turns and
tilts further, the light changes more, and fewer kinds of figures recur more often, until only what stands about a
point tells it from its likes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import Point
from interp.tasks.perception.drawing.pairs import Candidate, marked_pair, option_of
from interp.tasks.perception.drawing.planes import Figure, Homography, homography, plane, project, relit
from interp.tasks.perception.items import PerceptionItem

LOOKS, GROUNDS = range(400), range(1000, 1400)
"""Seeds of figures and of textures, which are divided among the splits."""
MARGIN = 0.14
"""How far from the border points are marked."""


class VisualCorrespondence(PerceptionTask):
    """The same point in two shots of a plane."""

    name, title, abbreviation = "visual_correspondence", "Visual Correspondence", "VC"
    level, granularity = "low", "pixel"
    forms: ClassVar = {"marks": 4, "yes_no": 2}
    modules = frozenset({"point", "match", "objects"})

    def draw(self, request: Request) -> Draft:
        """Two shots; REF in the first, the right and three wrong points in the second."""
        rng = request.rng
        looks, ground = request.choose(LOOKS, salt="figures"), request.choose(GROUNDS, salt="textures")
        kinds = round(request.dial(12, 5))
        wall = plane(rng, looks=looks, ground=ground, kinds=kinds, spacing=request.dial(0.32, 0.22), reach=1.8)
        middle = [figure for figure in wall.figures if max(map(abs, figure.centre)) < 0.4]
        while True:
            target = middle[int(rng.integers(len(middle)))]
            here, there = self._place(rng), self._place(rng)
            second_view = self._view(request, target.centre, there)
            wrong = self._others(request, wall.figures, target, second_view)
            if len(wrong) == 3:
                break
        first_view = self._view(request, target.centre, here)
        first, second = wall.seen(request.size, first_view), wall.seen(request.size, second_view)
        second = relit(second, rng, strength=request.dial(0.15, 1.0))
        places = [there, *(project(second_view, [figure.centre])[0] for figure in wrong)]
        facts = [list(figure.centre) for figure in (target, *wrong)]
        return marked_pair(
            request,
            first,
            second,
            reference=Candidate(here, facts[0]),
            candidates=[Candidate(place, fact) for place, fact in zip(places, facts, strict=True)],
            which="Which point in the second image is the point REF of the first?",
            whether="Are point A and point REF the same place?",
            contents={"figures": [looks], "textures": [ground]},
        )

    def oracle(self, item: PerceptionItem) -> int:
        """The point at REF's coordinates on the plane."""
        truth = item.meta["truth"]
        return option_of(item, right=[math.dist(point, truth["reference"]) < 1e-6 for point in truth["points"]])

    def _place(self, rng: np.random.Generator) -> Point:
        x, y = rng.uniform(MARGIN, 1 - MARGIN, 2).tolist()
        return x, y

    def _view(self, request: Request, point: Point, to: Point) -> Homography:
        rng = request.rng
        turn = float(rng.uniform(-1, 1)) * request.dial(0.1, 1.2)
        scale = math.exp(float(rng.uniform(-1, 1)) * request.dial(0.05, 0.25))
        tilt = request.dial(0.02, 0.3)
        return homography(point, to, turn=turn, scale=scale, tilt=tilt, towards=float(rng.uniform(0, 2 * math.pi)))

    def _others(self, request: Request, figures: Sequence[Figure], target: Figure, view: Homography) -> list[Figure]:
        """Three of the other figures in view, far enough from one another for their marks; fewer if there are none.

        Two of one kind are less likely the easier it is to be.
        """
        alike = request.rng.random() < request.difficulty
        seen = project(view, [figure.centre for figure in figures])
        taken, chosen = [project(view, [target.centre])[0]], [target]
        for number in request.rng.permutation(len(figures)):
            figure = figures[number]
            x, y = seen[number]
            inside = MARGIN <= x <= 1 - MARGIN and MARGIN <= y <= 1 - MARGIN
            known = not alike and figure.kind in {other.kind for other in chosen}
            if inside and not known and len(chosen) < 4 and all(math.dist((x, y), other) > 0.2 for other in taken):
                taken.append((x, y))
                chosen.append(figure)
        return chosen[1:]


TASK = VisualCorrespondence()
