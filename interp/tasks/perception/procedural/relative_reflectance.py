"""Relative Reflectance: which of two marked surfaces is darker, apart from the light that falls on them?

Pieces of paper lie under a light with bars of shadow: luminance = albedo x light. The ratio of the two albedos equals
that of light to shadow, so that dark paper in the light is as bright as light paper in the shadow. There are two pieces
of each of the four kinds, and only pieces of these two kinds are marked: the picture without its marks says nothing
about the answer, nor do the marks' places, nor the luminance at the marks. What tells it is how a piece stands out
against the ground about it. Surfaces are the same up to a ratio of 1.10 (Intrinsic Images in the Wild, Bell et al.
2014).
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import FINER, Canvas, Point
from interp.tasks.perception.drawing.colour import noise
from interp.tasks.perception.items import PerceptionItem

SAME = 1.10
OPTIONS = ("A is darker", "B is darker", "About the same")
PAPERS = range(400)
"""Seeds of tints, outlines and grounds, which are divided among the splits."""
Piece = tuple[int, int]
"""Strip, and which of its two pieces."""
_STRIPS, _WIDE = 4, 0.235


class RelativeReflectance(PerceptionTask):
    """Which surface has the lower albedo."""

    name, title, abbreviation, level, granularity = "relative_reflectance", "Relative Reflectance", "RR", "low", "pixel"
    forms: ClassVar = {"marks": 3, "yes_no": 2}
    modules = frozenset({"illumination", "point"})

    def draw(self, request: Request) -> Draft:
        """Eight pieces of paper in four strips of light or shadow; the key decides which two are marked."""
        rng = request.rng
        step = math.log(request.dial(2.5, 1.25))
        lights = rng.permutation([0.0, 0.0, -step, -step])
        seed = request.choose(PAPERS, salt="papers")
        turn = float(rng.uniform(-0.2, 0.2) + rng.choice([0, math.pi / 2]))
        # In each strip a dark piece and a light one, in random order
        dark = np.array([rng.permutation([True, False]) for _ in range(_STRIPS)])
        along = rng.uniform(0.12, 0.26, (_STRIPS, 2)) * [-1, 1]
        albedo = np.where(dark, -step / 2, step / 2) + rng.uniform(-0.02, 0.02, dark.shape)
        across = (np.arange(_STRIPS) - 1.5) * _WIDE
        centres = np.stack([np.repeat(across[:, None], 2, axis=1), along], axis=-1)  # [strip, piece, (across, along)]
        pixels = _render(request, seed, turn, lights, centres, albedo)
        unlike, twins = _pairs(rng, lights, dark)
        asked = int(rng.integers(2)) if request.form == "yes_no" else 0
        marked = unlike if request.key == 0 else unlike[::-1]
        if request.form == "marks":
            marked = twins if request.key == 2 else marked
            question, options = "Ignoring the shadows, which surface is darker?", list(OPTIONS)
        else:
            names = "BA" if asked else "AB"
            question, options = f"Ignoring the shadows, is surface {names[0]} darker than {names[1]}?", ["yes", "no"]
            marked = marked[:: -1 if asked else 1]
        places = [_place(centres[at], turn) for at in marked]
        canvas = Canvas(request.size, pixels)
        canvas.marks(places, style=request.marks, radius=0.022)
        luminance = [float(pixels[int(y * len(pixels)), int(x * len(pixels))].mean()) for x, y in places]
        meta = {
            "truth": {"albedos": [float(np.exp(albedo[at])) for at in marked], "asked": asked},
            "marks": [list(place) for place in places],
            "cues": {"luminance": luminance},
            "contents": {"papers": [seed]},
        }
        return Draft([canvas.finish()], question, options, meta)

    def oracle(self, item: PerceptionItem) -> int:
        """The surface of lower albedo, or neither if their ratio is at most 1.10."""
        truth = item.meta["truth"]
        one, other = truth["albedos"]
        if item.meta["form"] == "yes_no":
            return item.options.index("yes" if (one < other) == (truth["asked"] == 0) else "no")
        if max(one / other, other / one) <= SAME:
            return item.options.index("About the same")
        return item.options.index("A is darker" if one < other else "B is darker")


def _pairs(
    rng: np.random.Generator, lights: Float[np.ndarray, " strips"], dark: Bool[np.ndarray, "strips 2"]
) -> tuple[list[Piece], list[Piece]]:
    """Dark paper in the light with light paper in the shadow, and two pieces of either kind, of different strips."""

    def piece(strip: int, darker: bool) -> Piece:
        return int(strip), int(np.flatnonzero(dark[strip] == darker)[0])

    lit, shaded = rng.permutation(np.flatnonzero(lights == 0)), rng.permutation(np.flatnonzero(lights < 0))
    unlike = [piece(lit[0], True), piece(shaded[0], False)]
    if rng.random() < 0.5:
        return unlike, [piece(strip, True) for strip in lit]
    return unlike, [piece(strip, False) for strip in shaded]


def _place(centre: Float[np.ndarray, " 2"], turn: float) -> Point:
    """A point of the picture from its place across and along the strips."""
    cos, sin = math.cos(turn), math.sin(turn)
    across, along = centre.tolist()
    return 0.5 + cos * across - sin * along, 0.5 + sin * across + cos * along


def _render(
    request: Request,
    seed: int,
    turn: float,
    lights: Float[np.ndarray, " strips"],
    centres: Float[np.ndarray, "strips pieces 2"],
    albedo: Float[np.ndarray, "strips pieces"],
) -> UInt8[np.ndarray, "fine fine 3"]:
    """The picture: exp(log albedo + log light), tinted, with a smooth gradient of the light."""
    rng, fine = request.rng, request.size * FINER
    paper = np.random.default_rng(seed)
    x, y = np.meshgrid(*[((np.arange(fine) + 0.5) / fine - 0.5).astype(np.float32)] * 2)
    cos, sin = math.cos(turn), math.sin(turn)
    across, along = cos * x + sin * y, cos * y - sin * x
    light = _bars(across, along, lights, waves=rng.uniform(0, 2 * np.pi, 3), blur=0.008)
    slope = rng.uniform(-1, 1, 2) * request.dial(0.15, 0.3)
    light += (slope[0] * x + slope[1] * y).astype(np.float32)
    roughness = request.dial(0.02, 0.3)
    clouds = Image.fromarray(noise(rng, 48, coarse=5, octaves=3).astype(np.float32))
    surface = roughness * (np.array(clouds.resize((fine, fine), Image.Resampling.BILINEAR)) - 0.5)
    power, stretch = float(paper.choice([1.6, 2.0, 4.0, 8.0])), float(paper.uniform(0.85, 1.15))
    tints = 1 + paper.uniform(-0.1, 0.1, (2, 3))
    colour = np.empty((fine, fine, 3), np.float32)
    colour[:] = tints[0]
    half = 0.088
    for (u, v), value in zip(centres.reshape(-1, 2).tolist(), albedo.ravel().tolist(), strict=True):
        place = _place(np.array([u, v]), turn)
        window = tuple(slice(max(int((p - 0.13) * fine), 0), int((p + 0.13) * fine)) for p in place[::-1])
        p, q = (across[window] - u) / half, (along[window] - v) / (half * stretch)
        inside = np.abs(p) ** power + np.abs(q) ** power < 1
        surface[window][inside] = value
        colour[window][inside] = tints[1]
    level = 145 * np.exp(surface + light)
    return np.clip(colour * level[..., None], 0, 255).astype(np.uint8)


def _bars(
    across: Float[np.ndarray, "fine fine"],
    along: Float[np.ndarray, "fine fine"],
    lights: Float[np.ndarray, " strips"],
    *,
    waves: Float[np.ndarray, " 3"],
    blur: float,
) -> Float[np.ndarray, "fine fine"]:
    """Log light: one level a strip, with soft and slightly wavy borders."""
    total = np.full_like(across, float(lights[0]))
    for border, wave in enumerate(waves):
        change = float(lights[border + 1] - lights[border])
        if change:
            at = (border - 1) * _WIDE + 0.008 * np.sin(9 * along + float(wave))
            total += change * np.clip((across - at) / (2 * blur) + 0.5, 0, 1)
    return total


TASK = RelativeReflectance()
