"""Shapes of equal area, scenes made of them, and pictures given one another's colours.

Every shape is an outline about (0, 0) with the area of the unit circle, so that no amount of ink tells shapes apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from interp.tasks.perception.base import Request
from interp.tasks.perception.drawing.canvas import Canvas, Colour, Point, regular
from interp.tasks.perception.drawing.colour import blend, noise

Outline = list[Point]


def _polar(*waves: tuple[int, float], n: int = 72) -> Outline:
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    radii = np.ones(n)
    for wave, height in waves:
        radii += height * np.cos(wave * angles)
    return [(r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True)]


def _crescent() -> Outline:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.9, 2 * np.pi - 0.9, 40)]
    inner = [(0.38 + 0.82 * math.cos(a), 0.82 * math.sin(a)) for a in np.linspace(2 * np.pi - 1.25, 1.25, 30)]
    return [*outer, *inner]


def _heart() -> Outline:
    turns = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return [
        (16 * math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) - 2)
        for t in turns
    ]


def _of_circle_area(outline: Outline) -> Outline:
    points = np.array(outline, float)
    x, y = points[:, 0], points[:, 1]
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    middle = (points.max(0) + points.min(0)) / 2
    return [tuple(point) for point in ((points - middle) * math.sqrt(math.pi / area)).tolist()]


_PLAIN: dict[str, Outline] = {
    "circle": _polar((1, 0.0)),
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": regular(3, (0, 0), 1),
    "diamond": [(0, -1.4), (0.8, 0), (0, 1.4), (-0.8, 0)],
    "pentagon": regular(5, (0, 0), 1),
    "hexagon": regular(6, (0, 0), 1),
    "star": regular(5, (0, 0), 1, inner=0.42),
    "spark": regular(4, (0, 0), 1, inner=0.36),
    "sun": regular(9, (0, 0), 1, inner=0.66),
    "cross": [
        *[(-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)],
        *[(0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)],
    ],
    "heart": _heart(),
    "crescent": _crescent(),
    "clover": _polar((4, 0.32)),
    "trefoil": _polar((3, 0.34)),
    "drop": _polar((1, 0.42), (2, 0.22)),
    "gear": _polar((8, 0.13)),
    "egg": _polar((1, 0.12), (2, 0.2)),
    "arrow": [(0, -1.2), (1, -0.1), (0.42, -0.1), (0.42, 1.1), (-0.42, 1.1), (-0.42, -0.1), (-1, -0.1)],
    "chevron": [(-1, -0.8), (0, -0.2), (1, -0.8), (1, 0.2), (0, 0.8), (-1, 0.2)],
    "bolt": [(0.25, -1.3), (-0.75, 0.15), (-0.1, 0.15), (-0.35, 1.3), (0.75, -0.3), (0.1, -0.3)],
    "house": [(0, -1.2), (1, -0.3), (0.75, -0.3), (0.75, 1), (-0.75, 1), (-0.75, -0.3), (-1, -0.3)],
    "trapezium": [(-0.5, -0.8), (0.5, -0.8), (1.1, 0.8), (-1.1, 0.8)],
    "corner": [(-1, -1), (-0.15, -1), (-0.15, 0.15), (1, 0.15), (1, 1), (-1, 1)],
    "bone": _polar((2, 0.45), (4, -0.14)),
}
SHAPES: dict[str, Outline] = {name: _of_circle_area(outline) for name, outline in _PLAIN.items()}
"""Name -> outline with the area of the unit circle."""


def placed(outline: Outline, centre: Point, radius: float, turn: float = 0.0) -> Outline:
    """A shape with the area of a circle of some radius, about a point; turn in radians."""
    cos, sin = math.cos(turn) * radius, math.sin(turn) * radius
    return [(centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y) for x, y in outline]


def ground(
    request: Request, *, dark: Colour = (205, 205, 205), light: Colour = (245, 245, 245)
) -> UInt8[np.ndarray, "H W 3"]:
    """A faint smooth background between two colours."""
    return blend(noise(request.rng, 48, octaves=2, coarse=2), dark, light)


def still_life(
    rng: np.random.Generator, size: int, shapes: Sequence[str], colours: Sequence[Colour]
) -> Float[np.ndarray, "H W 3"]:
    """A random scene without any style, as numbers from 0 to 1: two grounds and shapes that overlap.

    A smooth light lies over it, so that no area is of one colour and pictures can exchange colours value by value.
    """
    order = [colours[i] for i in rng.permutation(len(colours))]
    canvas = Canvas(size, order[0])
    horizon, slope = rng.uniform(0.45, 0.75), rng.uniform(-0.15, 0.15)
    canvas.polygon([(0, horizon), (1, horizon + slope), (1, 1), (0, 1)], order[1])
    places = [((i + 0.5) / 3, (j + 0.5) / 2) for i in range(3) for j in range(2)]
    for i, place in enumerate(rng.permutation(6)[:5]):
        x, y = np.array(places[place]) + rng.uniform(-0.1, 0.1, 2)
        outline = SHAPES[shapes[int(rng.integers(len(shapes)))]]
        canvas.polygon(
            placed(outline, (x, y), rng.uniform(0.1, 0.2), rng.uniform(0, 6.3)), order[2 + i % (len(order) - 2)]
        )
    pixels = np.asarray(canvas.finish(), np.float32) / 255
    return pixels * shade(rng, size)[..., None]


def shade(rng: np.random.Generator, size: int, *, depth: float = 0.3) -> Float[np.ndarray, "H W"]:
    """A light that falls off smoothly across the picture in some direction."""
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    turn = rng.uniform(0, 2 * np.pi)
    slope = np.cos(turn) * x + np.sin(turn) * y + rng.uniform(-0.5, 0.5) * x * y
    return (1 - depth * (slope - slope.min()) / (slope.max() - slope.min())).astype(np.float32)


_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def tones(colours: Sequence[Colour], n: int) -> Float[np.ndarray, "n 3"]:
    """n colours from the darkest to the lightest of some, evenly between them, as numbers from 0 to 1."""
    known = np.array(sorted(colours, key=lambda colour: float(np.dot(colour, _LUMINANCE))), np.float32) / 255
    at = np.linspace(0, len(known) - 1, n)
    return np.stack([np.interp(at, np.arange(len(known)), known[:, channel]) for channel in range(3)], 1)


def toned(pixels: Float[np.ndarray, "H W 3"], ramp: Float[np.ndarray, "pixels 3"]) -> Float[np.ndarray, "H W 3"]:
    """A picture with the colours of a ramp in the order of its own light: every such picture has the same colours.

    Not only the histograms of the channels are equal then, but the number of pixels of each colour.
    """
    steps = (np.clip(pixels @ _LUMINANCE, 0, 1) * 65535).astype(np.uint16)  # sorted by radix, much faster than floats
    result = np.empty(ramp.shape, np.float32)
    result[np.argsort(steps.ravel(), kind="stable")] = ramp
    return result.reshape(pixels.shape)


def rgb(colour: Float[np.ndarray, " channel"]) -> Colour:
    """Numbers from 0 to 255 as a colour."""
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def picture(pixels: Float[np.ndarray, "H W 3"]) -> Image.Image:
    """Numbers from 0 to 1 as a picture."""
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))
