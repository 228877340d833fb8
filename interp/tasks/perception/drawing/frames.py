"""Frames of a camera that goes along a strip of ground with named things on it.

The strip is [0, length] x [0, 1]; a frame shows a square [start, start + 1] x [0, 1] of it. Neighbouring frames
overlap, so that what they share (things, stones, the shading of the ground) tells which way the camera went.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from PIL import Image

from interp.tasks.perception.base import Request
from interp.tasks.perception.drawing.canvas import Canvas, Point, blob
from interp.tasks.perception.drawing.colour import blend, noise
from interp.tasks.perception.drawing.things import Thing

GROUNDS = range(3000, 3400)
"""Seeds of grounds, which are divided among the splits."""
_CELLS = 40


@dataclass(frozen=True)
class Placed:
    """A thing on the strip; size is its longer side."""

    thing: Thing
    place: Point
    size: float
    mirrored: bool = False


class Strip:
    """Ground and what lies on it.

    Args:
        request: chooses the ground and scatters the stones.
        length: of the strip, 1 or more.
        stones: how many for each unit of length.
    """

    def __init__(self, request: Request, length: float, *, stones: int = 6) -> None:
        self.size, self.length = request.size, length
        self.ground = request.choose(GROUNDS, salt="grounds of strips")
        rng = np.random.default_rng(self.ground)
        units = ceil(length)
        field = noise(rng, _CELLS * units, coarse=4 * units, octaves=3)[:_CELLS, : round(_CELLS * length)]
        low, tint = rng.uniform(115, 165), rng.uniform(-14, 14, 3)
        self.pixels = blend(field, tuple(low - 40 + tint), tuple(low + 40 + tint))
        self.things: list[Placed] = []
        self.stones = []
        for x, y in request.rng.uniform(0, 1, (round(stones * length), 2)).tolist():
            grey = int(request.rng.integers(50, 215))
            radius = float(request.rng.uniform(0.012, 0.03))
            self.stones.append((blob(request.rng, (x * length, y), radius, n=9), (grey, grey, grey)))

    def frame(self, start: float) -> Image.Image:
        """What the camera sees at a place."""
        left = round(start * _CELLS)
        canvas = Canvas(self.size, self.pixels[:, left : left + _CELLS])
        for outline, grey in self.stones:
            if start - 0.1 < outline[0][0] < start + 1.1:
                canvas.polygon([(x - start, y) for x, y in outline], grey)
        for placed in self.things:
            x, y = placed.place[0] - start, placed.place[1]
            if -placed.size < x < 1 + placed.size:
                placed.thing.draw(canvas, placed.thing.box((x, y), placed.size), mirrored=placed.mirrored)
        return canvas.finish()


def frames_of(request: Request) -> int:
    """How many frames there are: 3, or 4 in the harder half."""
    return 3 if request.difficulty < 0.5 else 4


def starts(request: Request, *, step: float, n: int) -> list[float]:
    """Where the camera is in each frame; it goes to the right or, half of the time, to the left."""
    going = [step * number for number in range(n)]
    return going if request.rng.random() < 0.5 else going[::-1]


def free_place(request: Request, taken: Sequence[Point], *, low: Point, high: Point, gap: float) -> Point:
    """A random place in a box, at least a gap from the places taken if a few tries find one, else the best found."""
    best: tuple[float, Point] = (-1.0, low)
    for x, y in request.rng.uniform(low, high, (30, 2)).tolist():
        nearest = min((((x - a) ** 2 + (y - b) ** 2) ** 0.5 for a, b in taken), default=2 * gap)
        if best[0] < gap:
            best = max(best, (nearest, (x, y)))
    return best[1]
