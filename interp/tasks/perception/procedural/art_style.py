"""Art Style: which of two pictures is rendered like the first.

After BLINK's art style questions (Fu et al. 2024). A style is a rendering procedure with an angle and a scale, over
independent random scenes. Content and palette tell nothing: the three pictures have as many pixels of each colour, and
where a candidate shows the scene of the first picture, it is as often the wrong one.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image

from interp.tasks.perception.base import Draft, PerceptionTask, Request, pool
from interp.tasks.perception.drawing.colour import palette
from interp.tasks.perception.drawing.scenes import SHAPES, picture, still_life, toned, tones
from interp.tasks.perception.drawing.styles import ENERGY, STYLES, Pixels, aged, rendered
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
        rng = request.rng
        colours = palette(request.choose(PALETTES, salt="style palettes"), 6)
        shapes = [request.choose(list(SHAPES), salt="style shapes") for _ in range(3)]
        mine = pool(list(STYLES), request.split, salt="styles")
        same, other = (mine[i] for i in rng.permutation(len(mine))[:2])
        scenes = [still_life(rng, request.size, shapes, colours) for _ in range(3)]
        if rng.uniform() < request.difficulty:
            scenes[1 + int(rng.integers(2))] = scenes[0]
        angles = rng.uniform(0, np.pi, 2)
        seeds, ramp = rng.integers(1 << 32, size=3), tones(colours, request.size**2)

        def drawn(which: int) -> Image.Image:
            style, angle = (other, angles[1]) if which == 2 else (same, angles[0])
            return self._picture(request, np.random.default_rng(seeds[which]), scenes[which], style, angle, ramp)

        candidates = request.at_places([1, 2])
        shown = candidates if request.form == "pictures" else candidates[:1]
        meta = {"truth": {"styles": [same if which < 2 else other for which in (0, *shown)]}}
        images = [drawn(which) for which in (0, *shown)]
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
    def _picture(
        request: Request, rng: np.random.Generator, scene: Pixels, style: str, angle: float, ramp: np.ndarray
    ) -> Image.Image:
        """A scene in a style, at a scale that gives it the edges of any other style, in the colours of a ramp."""
        energy = request.dial(6, 4.5) / request.size * float(np.exp(rng.uniform(-0.45, 0.45)))
        scale = float(np.clip(1.25 * ENERGY[style] / energy / request.size, 0.06, 0.28))
        given = {"angle": angle + rng.uniform(-0.2, 0.2), "scale": scale, "strength": request.dial(1.0, 0.18)}
        look = rendered(scene, style, **given, rng=rng)
        return picture(toned(aged(toned(look, ramp), energy, rng=rng), ramp))


TASK = ArtStyle()
