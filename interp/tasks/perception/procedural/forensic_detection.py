"""Forensic Detection: which picture is consistent with itself.

After BLINK's forensic questions (Fu et al. 2024), which ask for the one real photograph among generated ones. Nothing
here is a photograph: the "real" picture is one whose shadows, reflections, ground and grain agree, and each other has
one contradiction (see `drawing.shore`). That is detection of inconsistency, and no more. The kinds of contradiction are
shared by the splits; the ways in which they occur are not.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from interp.tasks.perception.base import Draft, PerceptionTask, Request, pool
from interp.tasks.perception.drawing.colour import palette
from interp.tasks.perception.drawing.scenes import SHAPES
from interp.tasks.perception.drawing.shore import BREAKS, NOISES, Look, shore
from interp.tasks.perception.items import PerceptionItem

OPTIONS = ("the first image", "the second image", "the third image", "the fourth image")
PALETTES = range(200)


class ForensicDetection(PerceptionTask):
    """One consistent picture, and pictures with one contradiction each."""

    name, title, abbreviation = "forensic_detection", "Forensic Detection", "FD"
    level, granularity = "high", "image"
    forms: ClassVar = {"pictures": 4, "yes_no": 2}
    modules = frozenset({"consistency", "illumination", "texture"})

    def draw(self, request: Request) -> Draft:
        """Pictures of the same things, colours and grain in arrangements of their own."""
        rng = request.rng
        look = Look(
            shapes=[request.choose(list(SHAPES), salt="forensic shapes") for _ in range(3)],
            colours=palette(request.choose(PALETTES, salt="forensic palettes"), 9),
            texture=rng.uniform(0.2, 0.3),
            grain=rng.uniform(0.06, 0.1),
            noise=str(rng.choice(NOISES)),
            ways={kind: pool(ways, request.split, salt=f"forensic {kind}")[0] for kind, ways in BREAKS.items()},
            strength=request.dial(1.0, 0.2),
        )
        kinds = [kind for kind in BREAKS if kind not in NOISES or kind == look.noise]
        wrongs = [None, *(kinds[i] for i in rng.permutation(len(kinds))[: self.forms[request.form] - 1])]
        seeds = rng.integers(1 << 32, size=len(wrongs))
        shown = request.at_places(list(zip(seeds, wrongs, strict=True)))
        if request.form == "yes_no":
            shown = shown[:1]
        images = [shore(np.random.default_rng(seed), request.size, look, wrong) for seed, wrong in shown]
        broken = [None if wrong is None else f"{wrong}: {look.ways[wrong]}" for _, wrong in shown]
        meta = {"truth": {"broken": broken}}
        if request.form == "pictures":
            return Draft(images, "Which image is most likely real, with nothing faked?", OPTIONS, meta)
        return Draft(images, "Is this image real, with nothing faked?", ("yes", "no"), meta)

    def oracle(self, item: PerceptionItem) -> int:
        """The picture without a contradiction."""
        broken = item.meta["truth"]["broken"]
        if len(broken) == 1:
            return item.options.index("yes" if broken[0] is None else "no")
        return item.options.index(OPTIONS[broken.index(None)])


TASK = ForensicDetection()
