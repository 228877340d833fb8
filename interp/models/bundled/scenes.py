"""Procedural scenes with exact ground truth: shapes of known kind, colour, size and place, some of them marked.

They teach the tower what the drawings do not: how many, where, in which colour, and which point a letter marks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "hexagon")
COLOURS = {
    "red": (214, 40, 40),
    "green": (44, 150, 60),
    "blue": (40, 90, 210),
    "yellow": (245, 205, 40),
    "orange": (240, 130, 30),
    "purple": (135, 60, 170),
    "black": (25, 25, 25),
    "pink": (245, 140, 185),
    "brown": (125, 80, 45),
}
MARKS = ("A", "B", "C", "D")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Shape:
    """One object of a scene; centre and radius as fractions of the side."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float

    @property
    def place(self) -> str:
        """Where its centre lies, in a three by three grid ("top left", "centre", "bottom", ...)."""
        row = ("top", "", "bottom")[min(2, int(self.y * 3))]
        column = ("left", "", "right")[min(2, int(self.x * 3))]
        return f"{row} {column}".strip() or "centre"


@dataclass(frozen=True)
class Mark:
    """A small ringed point with a letter beside it, as perception benchmarks draw them."""

    letter: str
    x: float
    y: float


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture (uint8 [side, side, 3]) and everything that is in it."""

    pixels: np.ndarray
    shapes: tuple[Shape, ...]
    marks: tuple[Mark, ...]


def _outline(shape: Shape, side: int, turn: float) -> list[tuple[float, float]]:
    corners = {"square": 4, "triangle": 3, "star": 10, "diamond": 4, "hexagon": 6, "cross": 12}[shape.kind]
    points = []
    for k in range(corners):
        angle, length = turn + 2 * math.pi * k / corners - math.pi / 2, 1.0
        if shape.kind == "square":
            angle += math.pi / 4
        if shape.kind == "star" and k % 2:
            length = 0.42
        if shape.kind == "cross":  # a plus sign: three points an arm
            arm, step = divmod(k, 3)
            angle = turn + arm * math.pi / 2 + (-0.32, 0.32, math.pi / 4)[step]
            length = (1.0, 1.0, 0.45)[step]
        if shape.kind == "diamond" and k % 2:
            length = 0.62
        points.append(
            (
                (shape.x + length * shape.radius * math.cos(angle)) * side,
                (shape.y + length * shape.radius * math.sin(angle)) * side,
            )
        )
    return points


def _free(x: float, y: float, radius: float, taken: list[tuple[float, float, float]]) -> bool:
    return all(math.hypot(x - a, y - b) > radius + r + 0.02 for a, b, r in taken)


def draw_scene(rng: np.random.Generator, *, side: int, most: int = 6, marked: float = 0.35) -> Scene:
    """Draw a random scene.

    Args:
        rng: Source of chance; the same state gives the same scene.
        side: Pixels a side.
        most: Largest number of shapes; at least one is drawn.
        marked: Probability that two to four points are marked with letters.

    Returns:
        The scene; shapes and marks do not overlap.
    """
    ground = tuple(int(v) for v in rng.integers(205, 256, 3)) if rng.random() < 0.6 else (255, 255, 255)
    picture = Image.new("RGB", (side * 2, side * 2), ground)
    canvas = ImageDraw.Draw(picture)
    same = rng.random() < 0.4  # countable: all of one kind and colour
    kind, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
    taken: list[tuple[float, float, float]] = []
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(1, most + 1))):
        for _ in range(20):
            radius = float(rng.uniform(0.07, 0.2 if most > 1 else 0.3))
            x, y = (float(v) for v in rng.uniform(radius + 0.01, 1 - radius - 0.01, 2))
            if _free(x, y, radius, taken):
                break
        else:
            continue
        if not same:
            kind, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
        shape = Shape(str(kind), str(colour), x, y, radius)
        taken.append((x, y, radius))
        shapes.append(shape)
        jitter = np.clip(np.array(COLOURS[shape.colour]) + rng.integers(-12, 13, 3), 0, 255)
        fill = tuple(int(v) for v in jitter)
        if shape.kind == "circle":
            box = [(x - radius) * 2 * side, (y - radius) * 2 * side, (x + radius) * 2 * side, (y + radius) * 2 * side]
            canvas.ellipse(box, fill=fill)
        else:
            canvas.polygon(_outline(shape, 2 * side, float(rng.uniform(-0.15, 0.15))), fill=fill)
    marks: list[Mark] = []
    if rng.random() < marked:
        font = ImageFont.load_default(size=side * 0.17)
        for letter in MARKS[: int(rng.integers(2, 5))]:
            for _ in range(20):
                x, y = (float(v) for v in rng.uniform(0.08, 0.86, 2))
                if _free(x, y, 0.05, taken):
                    break
            taken.append((x, y, 0.06))
            marks.append(Mark(letter, x, y))
            r = 0.025
            canvas.ellipse(
                [(x - r) * 2 * side, (y - r) * 2 * side, (x + r) * 2 * side, (y + r) * 2 * side],
                outline=(230, 20, 20),
                width=max(2, side // 60),
            )
            canvas.text(((x + r) * 2 * side, (y - 0.075) * 2 * side), letter, fill=(20, 20, 20), font=font)
    pixels = np.asarray(picture.resize((side, side), Image.Resampling.BOX))
    return Scene(pixels, tuple(shapes), tuple(marks))


def cell(x: float, y: float, cells: int) -> int:
    """The reading-order index of the grid cell that holds a point."""
    return min(cells - 1, int(y * cells)) * cells + min(cells - 1, int(x * cells))
