"""Named things: flat outlines that fill a box exactly, each in a named colour ("the red star").

A thing is a pair (colour, shape). The pairs are divided among the splits, so that a test item shows pairs which no
training item shows, while its question uses words that occur in every split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from interp.tasks.perception.base import Request, pool
from interp.tasks.perception.drawing.canvas import Canvas, Colour, Point, regular
from interp.tasks.perception.drawing.colour import NAMED, blend, noise

Box = tuple[float, float, float, float]
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")


def _heart() -> list[Point]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _moon() -> list[Point]:
    t = np.linspace(0.6, 2 * np.pi - 0.6, 32)
    outer = [(math.cos(a), math.sin(a)) for a in t]
    inner = [(0.45 + 0.71 * math.cos(a), 0.71 * math.sin(a)) for a in np.linspace(2 * np.pi - 1.0, 1.0, 24)]
    return [*outer, *inner]


def _corners(numbers: str) -> list[Point]:
    return [(float(x), float(y)) for x, y in (corner.split(",") for corner in numbers.split())]


OUTLINES: dict[str, list[Point]] = {
    "ball": regular(40, (0, 0), 1),
    "star": regular(5, (0, 0), 1, inner=0.42),
    "heart": _heart(),
    "moon": _moon(),
    "house": _corners("0,4 0,9 8,9 8,4 7,3 7,.5 6,.5 6,2 4,0"),
    "tree": _corners("4,0 7,4 5.5,4 8,8 4.8,8 4.8,10 3.2,10 3.2,8 0,8 2.5,4 1,4"),
    "fish": _corners("0,3 1.5,1.2 4,.4 6.5,1.6 8,2.6 10,0 9.4,3 10,6 8,3.4 6.5,4.6 4,5.6 1.5,4.8"),
    "car": _corners(
        "0,4.2 .4,2.8 2.4,2.4 3.8,0 7.4,0 8.8,2.4 10,2.8 10,5 8.9,5 8.5,6 7.1,6 6.7,5 3.3,5 2.9,6 1.5,6 1.1,5 0,5"
    ),
    "cup": _corners("0,0 6,0 6,1 8.6,1 8.6,5 6,5 6,4 7.6,4 7.6,2 6,2 6,7 5,8 1,8 0,7"),
    "boat": _corners("4.4,0 8.5,5 4.9,5 4.9,6 10,6 8,9 2,9 0,6 4.4,6"),
    "arrow": _corners("0,3 5,0 5,2 10,2 10,4 5,4 5,6"),
    "bottle": _corners("3,0 5,0 5,3 7,5 7,12 1,12 1,5 3,3"),
}
"""Name -> outline in units of its own."""


@dataclass(frozen=True)
class Thing:
    """A colour and a shape, both by name."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def rgb(self) -> Colour:
        """The colour."""
        return NAMED[self.colour]

    @property
    def aspect(self) -> float:
        """Width over height of the outline."""
        xs, ys = zip(*OUTLINES[self.shape], strict=True)
        return (max(xs) - min(xs)) / (max(ys) - min(ys))

    def outline(self, box: Box, *, mirrored: bool = False) -> list[Point]:
        """The outline stretched to a box (x0, y0, x1, y1), whose four sides it touches."""
        xs, ys = (np.array(values, float) for values in zip(*OUTLINES[self.shape], strict=True))
        xs, ys = (xs - xs.min()) / np.ptp(xs), (ys - ys.min()) / np.ptp(ys)
        if mirrored:
            xs = 1 - xs
        x0, y0, x1, y1 = box
        return list(zip((x0 + xs * (x1 - x0)).tolist(), (y0 + ys * (y1 - y0)).tolist(), strict=True))

    def draw(self, canvas: Canvas, box: Box, *, mirrored: bool = False, width: float = 0.008) -> None:
        """Draw the thing in a box, with a dark outline, or a light one round a black thing."""
        edge = (235, 235, 235) if self.colour == "black" else (20, 20, 20)
        canvas.polygon(self.outline(box, mirrored=mirrored), self.rgb, outline=edge, width=width)

    def box(self, centre: Point, size: float) -> Box:
        """A box about a centre which keeps the outline's proportions; size is its longer side."""
        width, height = (size, size / self.aspect) if self.aspect > 1 else (size * self.aspect, size)
        return centre[0] - width / 2, centre[1] - height / 2, centre[0] + width / 2, centre[1] + height / 2


ALL = [Thing(colour, shape) for colour, shape in product(COLOURS, OUTLINES)]


def choose_things(request: Request, n: int) -> list[Thing]:
    """n things of the request's split, no two alike in colour or shape."""
    mine = pool(ALL, request.split, salt="things")
    while True:
        chosen: list[Thing] = []
        for i in request.rng.permutation(len(mine)):
            if all(mine[i].colour != other.colour and mine[i].shape != other.shape for other in chosen):
                chosen.append(mine[i])
            if len(chosen) == n:
                return chosen


def ground(request: Request, *, roughness: float) -> Canvas:
    """A canvas with a muted, cloudy ground on which every named colour is visible; roughness 0 to 1."""
    rng = np.random.default_rng(request.choose(range(400), salt="grounds"))
    tint, low = rng.uniform(-14, 14, 3), rng.uniform(105, 175)
    dark = np.clip(low - 45 * roughness + tint, 0, 255)
    light = np.clip(low + 45 * roughness + tint, 0, 255)
    field = noise(rng, 48, coarse=4, octaves=3)
    return Canvas(request.size, blend(field, tuple(dark), tuple(light)))
