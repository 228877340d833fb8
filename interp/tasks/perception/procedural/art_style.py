"""Art Style: which of two pictures is rendered like the first.

After BLINK's art style questions (Fu et al. 2024). A style is a rendering procedure with an angle and a scale, over
independent random scenes. Content and palette tell nothing: the three pictures have the very same values in each colour
channel, and where a candidate shows the scene of the first picture, it is as often the wrong one.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from interp.tasks.perception.base import Draft, PerceptionTask, Request, pool
from interp.tasks.perception.drawing.colour import palette
from interp.tasks.perception.drawing.scenes import SHAPES, picture, still_life, with_values_of
from interp.tasks.perception.drawing.styles import ENERGY, STYLES, aged, rendered
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
        angles = rng.uniform(0, np.pi, 2)
        strength = request.dial(1.0, 0.18)
        drawn = []
        for scene, style, angle in zip(scenes, (same, same, other), angles[[0, 0, 1]], strict=False):
            energy = request.dial(8, 5) / size * float(np.exp(rng.uniform(-0.25, 0.25)))
            scale = float(np.clip(1.25 * ENERGY[style] / energy / size, 0.06, 0.24))
            look = rendered(scene, style, angle=angle + rng.uniform(-0.2, 0.2), scale=scale, strength=strength, rng=rng)
            old = aged(with_values_of(look, scenes[3]), energy, rng=rng)
            drawn.append(picture(with_values_of(old, scenes[3])))
        pairs = request.at_places([(drawn[1], same), (drawn[2], other)])
        shown = pairs if request.form == "pictures" else pairs[:1]
        meta = {"truth": {"styles": [same, *(style for _, style in shown)]}}
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


TASK = ArtStyle()
