"""Art Style: which of two pictures is rendered like the first.

After BLINK's art style questions (Fu et al. 2024). A style is a rendering procedure with an angle and a scale, over
independent random scenes. Content and palette tell nothing: the three pictures have the very same values in each colour
channel, and where a candidate shows the scene of the first picture, it is as often the wrong one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from interp.tasks.perception.base import Draft, PerceptionTask, Request, pool
from interp.tasks.perception.drawing.colour import palette
from interp.tasks.perception.drawing.scenes import SHAPES, picture, still_life, with_values_of
from interp.tasks.perception.drawing.styles import STYLES, rendered
from interp.tasks.perception.items import PerceptionItem

OPTIONS = ("the second image", "the third image")
PALETTES = range(200)


class ArtStyle(PerceptionTask):
    """Styles of rendering, apart from what is shown."""

    name, title, abbreviation = "art_style", "Art Style", "AS"
    level, granularity = "high", "image"
    forms: ClassVar = {"pictures": 2, "yes_no": 2}
    modules = frozenset({"style"})

    def draw(self, request: Request) -> Draft:
        """A reference, one picture of its style, one of another."""
        rng, size = request.rng, request.size
        colours = palette(request.choose(PALETTES, salt="style palettes"), 6)
        shapes = [request.choose(list(SHAPES), salt="style shapes") for _ in range(3)]
        mine = pool(list(STYLES), request.split, salt="styles")
        same, other = (mine[i] for i in rng.permutation(len(mine))[:2])
        scenes = [still_life(rng, size, shapes, colours) for _ in range(4)]
        if rng.uniform() < request.difficulty:
            scenes[1 + int(rng.integers(2))] = scenes[0]
        values = scenes[3]
        looks: list[dict[str, Any]] = [self._look(rng, same), self._look(rng, other)]
        strengths = [request.dial(1.0, 0.18) * rng.uniform(0.85, 1) for _ in range(3)]
        drawn = []
        for scene, look, strength in zip(scenes, (looks[0], looks[0], looks[1]), strengths, strict=False):
            drawn.append(picture(with_values_of(rendered(scene, **look, strength=strength, rng=rng), values)))
        pairs = request.at_places([(drawn[1], looks[0]), (drawn[2], looks[1])])
        shown = pairs if request.form == "pictures" else pairs[:1]
        meta = {"truth": {"styles": [looks[0]["style"], *(look["style"] for _, look in shown)]}}
        images = [drawn[0], *(image for image, _ in shown)]
        if request.form == "pictures":
            return Draft(images, "Which image has the same art style as the first image?", OPTIONS, meta)
        return Draft(images, "Do the two images have the same art style?", ("yes", "no"), meta)

    def oracle(self, item: PerceptionItem) -> int:
        """The picture with the reference's style."""
        reference, *shown = item.meta["truth"]["styles"]
        if len(shown) == 1:
            return item.options.index("yes" if shown[0] == reference else "no")
        return item.options.index(OPTIONS[shown.index(reference)])

    @staticmethod
    def _look(rng: np.random.Generator, style: str) -> dict[str, Any]:
        return {"style": style, "angle": float(rng.uniform(0, np.pi)), "scale": float(rng.uniform(0.08, 0.13))}


TASK = ArtStyle()
