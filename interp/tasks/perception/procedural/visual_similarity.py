"""Visual Similarity: which of two pictures is more like the first, in a declared metric.

After BLINK's visual similarity questions (Fu et al. 2024), whose judgements are human; here the metric is declared. A
scene is three latent vectors on spheres: the outlines of three shapes (weight 5/12), their places (1/3) and the
direction of the stripes behind them (1/4). A candidate is the reference turned by some angle towards another scene
in each, and

    distance^2 = sum over the three of weight * angle^2

A turned scene is as likely as any other scene by itself. Colours, sizes and shifts say nothing: each picture draws them
anew, from the same palette, so that in half of the items the far picture is closer pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from PIL import Image

from interp.tasks.perception.base import Draft, PerceptionTask, Request, pool
from interp.tasks.perception.drawing.canvas import Canvas, Colour
from interp.tasks.perception.drawing.colour import palette
from interp.tasks.perception.items import PerceptionItem

OPTIONS = ("the second image", "the third image")
WEIGHTS = {"outlines": 5 / 12, "places": 1 / 3, "stripes": 1 / 4}
N = 3
WAVES = np.arange(2, 5)
SIZES = {"outlines": N * 2 * len(WAVES), "places": N * 2, "stripes": 2}
SCENES, PALETTES = range(800), range(200)
TRIES, SKETCH = 5, 40
Vector = Float[np.ndarray, " d"]


@dataclass(frozen=True)
class Look:
    """What a picture of a scene adds that says nothing: colours, size, shift, and the stripes' phase and contrast."""

    colours: Sequence[Colour]
    radius: float
    shift: Float[np.ndarray, " xy"]
    phase: float
    contrast: float

    @classmethod
    def of(cls, request: Request, colours: Sequence[Colour]) -> Look:
        """A random look with colours of a palette."""
        rng = request.rng
        return cls(
            colours=[colours[i] for i in rng.permutation(len(colours))],
            radius=rng.uniform(0.14, 0.17),
            shift=rng.uniform(-1, 1, 2) * request.dial(0.03, 0.07),
            phase=rng.uniform(0, 2 * np.pi),
            contrast=rng.uniform(0.12, 0.22),
        )


@dataclass(frozen=True)
class Scene:
    """A point in the declared space: one unit vector for each of its three kinds of content."""

    vectors: Mapping[str, Vector]

    @classmethod
    def of(cls, seed: int) -> Scene:
        """The scene of a seed."""
        rng = np.random.default_rng([seed, 71])
        vectors = {name: rng.normal(size=size) for name, size in SIZES.items()}
        return cls({name: vector / np.linalg.norm(vector) for name, vector in vectors.items()})

    def towards(self, other: Scene, angles: Mapping[str, float]) -> Scene:
        """This scene turned towards another by an angle (radians) in each kind of content."""
        turned = {}
        for name, vector in self.vectors.items():
            across = other.vectors[name] - vector * (vector @ other.vectors[name])
            across /= np.linalg.norm(across)
            turned[name] = np.cos(angles[name]) * vector + np.sin(angles[name]) * across
        return Scene(turned)

    def distance(self, other: Scene) -> float:
        """The declared distance, in radians."""
        cosines = {name: float(vector @ other.vectors[name]) for name, vector in self.vectors.items()}
        return sum(WEIGHTS[name] * float(np.arccos(np.clip(c, -1, 1))) ** 2 for name, c in cosines.items()) ** 0.5

    @cached_property
    def outlines(self) -> Float[np.ndarray, "shape corner 2"]:
        """The three outlines about (0, 0), of the same area and the same roughness."""
        waves = self.vectors["outlines"].reshape(N, 2, len(WAVES)) / np.sqrt(WAVES)
        waves /= np.sqrt((waves**2).sum((1, 2), keepdims=True))
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        radii = 1 + 0.5 * (
            waves[:, 0] @ np.cos(np.outer(WAVES, angles)) + waves[:, 1] @ np.sin(np.outer(WAVES, angles))
        )
        radii = np.maximum(radii, 0.25)
        radii /= np.sqrt((radii**2).mean(1, keepdims=True))
        return np.stack([radii * np.cos(angles), radii * np.sin(angles)], -1)

    @cached_property
    def places(self) -> Float[np.ndarray, "shape 2"]:
        """Where the shapes are, 0 to 1, pushed apart so that they hardly overlap."""
        points = 0.5 + 0.6 * self.vectors["places"].reshape(N, 2)
        for _ in range(12):
            apart = points[:, None] - points[None]
            away = np.linalg.norm(apart, axis=-1) + np.eye(N)
            push = np.maximum(0.42 - away, 0) * (1 - np.eye(N))
            points = np.clip(points + 0.5 * (apart / away[..., None] * push[..., None]).sum(1), 0.22, 0.78)
        return points

    def stripes(self) -> float:
        """Direction of the stripes in radians."""
        x, y = self.vectors["stripes"]
        return float(np.arctan2(y, x)) / 2

    def drawn(self, look: Look, size: int) -> Image.Image:
        """A picture of the scene."""
        turn, ground = self.stripes(), np.array(look.colours[0], float)
        x, y = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size))
        wave = np.sin(24 * (np.cos(turn) * x + np.sin(turn) * y) + look.phase)
        stripes = 1 - look.contrast * (1 + np.tanh(3 * wave))
        canvas = Canvas(size, (ground * stripes[..., None]).astype(np.uint8))
        for outline, place, colour in zip(self.outlines, self.places, look.colours[1:], strict=False):
            points = outline * look.radius + place + look.shift
            canvas.polygon([tuple(p) for p in points.tolist()], colour, outline=(20, 20, 20), width=0.008)
        return canvas.finish()


def pixel_distances(
    one: Float[np.ndarray, "H W 3"], other: Float[np.ndarray, "H W 3"]
) -> Float[np.ndarray, " measure"]:
    """Root mean square difference of two pictures' pixels (as a share of white), and 1 - their correlation."""
    correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    return np.array([np.sqrt(((one - other) ** 2).mean()) / 255, 1 - correlation])


def _fair_looks(request: Request, scenes: Sequence[Scene], colours: Sequence[Colour]) -> list[Look]:
    """Looks of the reference, the near and the far scene with which pixels do not tell which is near.

    Of several looks of the two, those are taken whose pixels are about as far from the reference's; a coin decides
    which of the two is closer.
    """
    rng = request.rng
    looks = [[Look.of(request, colours) for _ in range(tries)] for tries in (1, TRIES, TRIES)]
    small = [
        [np.asarray(scene.drawn(look, SKETCH), np.float32) for look in tries]
        for scene, tries in zip(scenes, looks, strict=True)
    ]
    near, far = (np.array([pixel_distances(small[0][0], one) for one in tries]) for tries in small[1:])
    gaps = near[:, None] - far[None]
    wanted = (np.sign(gaps) == rng.choice([-1, 1])).sum(-1)
    i, j = np.unravel_index(np.argmax(wanted - np.abs(gaps).sum(-1)), wanted.shape)
    return [looks[0][0], looks[1][i], looks[2][j]]


class VisualSimilarity(PerceptionTask):
    """Shapes and layout, apart from colour."""

    name, title, abbreviation = "visual_similarity", "Visual Similarity", "VS"
    level, granularity = "high", "image"
    forms: ClassVar = {"pictures": 2, "yes_no": 2}
    modules = frozenset({"objects", "layout"})

    def draw(self, request: Request) -> Draft:
        """A reference, a scene near it and one farther away."""
        rng = request.rng
        mine = pool(SCENES, request.split, salt="similarity scenes")
        reference, one, other = (Scene.of(mine[i]) for i in rng.choice(len(mine), 3, replace=False))
        far = np.radians(request.dial(80, 60)) * rng.uniform(0.9, 1.1)
        near = far / (8 * (1.15 / 8) ** request.difficulty)
        scenes = [
            reference.towards(one, self._angles(request, near)),
            reference.towards(other, self._angles(request, far)),
        ]
        scenes.sort(key=reference.distance)
        colours = palette(request.choose(PALETTES, salt="similarity palettes"), 6)
        looks = _fair_looks(request, [reference, *scenes], colours)
        pictures = [scene.drawn(look, request.size) for scene, look in zip([reference, *scenes], looks, strict=True)]
        shown = request.at_places(list(zip(pictures[1:], scenes, strict=True)))
        meta = {"truth": {"distances": [reference.distance(scene) for _, scene in shown]}}
        images = [pictures[0], *(picture for picture, _ in shown)]
        if request.form == "pictures":
            question = "Which image is most similar to the first image in shapes and layout?"
            return Draft(images, question, OPTIONS, meta)
        question = "Is the second image more similar to the first image than the third is?"
        return Draft(images, question, ("yes", "no"), meta)

    def oracle(self, item: PerceptionItem) -> int:
        """The picture at the smaller distance."""
        second, third = item.meta["truth"]["distances"]
        if item.meta["form"] == "yes_no":
            return item.options.index("yes" if second < third else "no")
        return item.options.index(OPTIONS[0 if second < third else 1])

    @staticmethod
    def _angles(request: Request, distance: float) -> dict[str, float]:
        """An angle for each kind of content that makes up the distance; the harder, the more they differ."""
        spread = request.dial(0.0, 0.35)
        shares = {name: float(request.rng.uniform(1 - spread, 1 + spread)) for name in WEIGHTS}
        total = sum(WEIGHTS[name] * share**2 for name, share in shares.items()) ** 0.5
        return {name: distance * share / total for name, share in shares.items()}


TASK = VisualSimilarity()
