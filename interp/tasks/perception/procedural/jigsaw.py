"""Jigsaw: which picture is the missing lower right corner of the first.

After BLINK's jigsaw questions (Fu et al. 2024). The wrong piece is the right one turned or mirrored (easier), or one
of the same world a little beside it (harder). The world looks the same from all sides, so each piece alone is as likely
right as wrong: colours, histogram and edges are the same, and only what goes on across the border decides.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import Canvas, blob
from interp.tasks.perception.drawing.colour import blend, noise, palette
from interp.tasks.perception.drawing.scenes import SHAPES, placed
from interp.tasks.perception.items import PerceptionItem

OPTIONS = ("the second image", "the third image")
TURNS = ("half turn", "mirrored", "upside down")
MARGIN = 0.3
"""Room around the first picture, a share of its side, into which wrong pieces may reach."""
PALETTES = range(200)


def turned(pixels: UInt8[np.ndarray, "H W 3"], how: str) -> UInt8[np.ndarray, "H W 3"]:
    """A piece by a half turn, mirrored or upside down; none of them moves its values' histogram."""
    if how == "half turn":
        return pixels[::-1, ::-1]
    return pixels[:, ::-1] if how == "mirrored" else pixels[::-1]


def border_gap(one: UInt8[np.ndarray, "H W 3"], other: UInt8[np.ndarray, "H W 3"]) -> float:
    """How much two pieces differ along the left and upper border, in grey levels; the same from either side."""
    sides = [np.abs(one[:, 0].astype(float) - other[:, 0]), np.abs(one[0].astype(float) - other[0])]
    return float(np.mean(sides))


class Jigsaw(PerceptionTask):
    """The first picture lacks its lower right quarter."""

    name, title, abbreviation = "jigsaw", "Jigsaw", "JG"
    level, granularity = "mid", "crop"
    forms: ClassVar = {"pictures": 2, "yes_no": 2}
    modules = frozenset({"continuity"})

    def draw(self, request: Request) -> Draft:
        """A world with a margin, the picture in its middle, the corner cut out, and a wrong piece."""
        rng, size = request.rng, request.size
        for _ in range(4):
            world = self._world(request)
            edge = (len(world) - 2 * size) // 2
            whole = world[edge : edge + 2 * size, edge : edge + 2 * size]
            right = whole[size:, size:]
            gaps = {how: border_gap(right, turned(right, how)) for how in TURNS}
            how = max(gaps, key=lambda how: gaps[how])
            if gaps[how] >= request.dial(60, 20):
                break
        angle, step = rng.uniform(0, 2 * np.pi), 2 * size * request.dial(0.2, 0.04)
        if rng.uniform() >= request.difficulty:
            wrong = turned(right, how)
        else:
            how = "beside"
            down, along = (round(edge + size + step * float(turn(angle))) for turn in (np.sin, np.cos))
            wrong = world[down : down + size, along : along + size]
        first = whole.copy()
        first[size:, size:] = 0
        reference = Image.fromarray(first).resize((size, size), Image.Resampling.BOX)
        pieces = request.at_places([right, wrong])
        shown = pieces if request.form == "pictures" else pieces[:1]
        off = [float(np.abs(piece.astype(float) - right).mean()) for piece in shown]
        meta = {"truth": {"off": off}, "wrong": how}
        images = [reference, *(Image.fromarray(np.ascontiguousarray(piece)) for piece in shown)]
        if request.form == "pictures":
            return Draft(images, "Which image is the missing lower right corner of the first image?", OPTIONS, meta)
        return Draft(images, "Is the second image the missing corner of the first image?", ("yes", "no"), meta)

    def oracle(self, item: PerceptionItem) -> int:
        """The piece that does not differ from what was cut out."""
        off = item.meta["truth"]["off"]
        if len(off) == 1:
            return item.options.index("yes" if off[0] == 0 else "no")
        return item.options.index(OPTIONS[off.index(min(off))])

    def _world(self, request: Request) -> UInt8[np.ndarray, "H W 3"]:
        """Ground, patches, bands and shapes that look the same from all sides; twice as fine as the picture."""
        rng = request.rng
        colours = palette(request.choose(PALETTES, salt="jigsaw palettes"), 6)
        shapes = [request.choose(list(SHAPES), salt="jigsaw shapes") for _ in range(2)]
        ground = blend(noise(rng, 64, octaves=4, coarse=8), *colours[:2])
        canvas = Canvas(round(request.size * (1 + 2 * MARGIN)), ground)
        big = request.dial(1.0, 0.7)
        for _ in range(20):  # small enough for their places to be gone in a blurred picture
            colour = colours[int(rng.integers(2, 6))]
            canvas.polygon(blob(rng, tuple(rng.uniform(0, 1, 2)), rng.uniform(0.06, 0.12) * big), colour)
        for _ in range(round(request.dial(3, 6))):
            self._band(rng, canvas, colours[int(rng.integers(2, 6))], rng.uniform(0.03, 0.05) * big)
        for _ in range(8):
            shape = SHAPES[shapes[int(rng.integers(2))]]
            outline = placed(shape, tuple(rng.uniform(0, 1, 2)), rng.uniform(0.03, 0.06) * big, rng.uniform(0, 6.3))
            canvas.polygon(outline, colours[int(rng.integers(2, 6))])
        return np.asarray(canvas.image)

    @staticmethod
    def _band(rng: np.random.Generator, canvas: Canvas, colour: tuple[int, int, int], width: float) -> None:
        angle, (x, y) = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8, 2)
        along, bend = np.linspace(-1.5, 1.5, 40), rng.uniform(-0.5, 0.5)
        across = bend * along**2
        points = np.stack(
            [x + np.cos(angle) * along - np.sin(angle) * across, y + np.sin(angle) * along + np.cos(angle) * across], 1
        )
        canvas.line([tuple(point) for point in points.tolist()], colour, width=width)


TASK = Jigsaw()
