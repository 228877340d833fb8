"""A scene of coloured prisms, seen by a camera on an orbit round its middle.

In the middle stands a block whose sides have colours and panels of their own, with posts about it on a round base;
landmarks stand far away all round. The camera always looks at the middle. As its azimuth grows it moves to its right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float
from PIL import Image

from interp.tasks.perception.drawing.canvas import Canvas, Colour, Point
from interp.tasks.perception.drawing.colour import palette

DISTANCE, HEIGHT, TARGET, FOCAL = 3.7, 1.7, 0.5, 1.2
_NEAR = 0.4


class Camera:
    """A pinhole on the orbit.

    Args:
        azimuth: angle on the orbit in radians.
        shift: of the picture, in fractions of its side.
        gains: exposure of red, green and blue.
    """

    def __init__(
        self, azimuth: float, *, shift: Point = (0.0, 0.0), gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ) -> None:
        sin, cos = math.sin(azimuth), math.cos(azimuth)
        pitch = math.atan2(HEIGHT - TARGET, DISTANCE)
        self.shift, self.gains = shift, gains
        self.position = np.array([DISTANCE * sin, -DISTANCE * cos, HEIGHT])
        ahead = np.array([-sin * math.cos(pitch), cos * math.cos(pitch), -math.sin(pitch)])
        up = np.array([-sin * math.sin(pitch), cos * math.sin(pitch), math.cos(pitch)])
        self._axes = np.stack([np.array([cos, sin, 0.0]), up, ahead], axis=1)
        self.horizon = 0.5 - FOCAL * math.tan(pitch) + shift[1]

    def see(self, points: Float[np.ndarray, "n 3"]) -> list[Point] | None:
        """Where points appear in the picture; nothing if one of them is behind the camera."""
        seen = (points - self.position) @ self._axes
        if seen[:, 2].min() < _NEAR:
            return None
        x = 0.5 + FOCAL * seen[:, 0] / seen[:, 2] + self.shift[0]
        y = 0.5 - FOCAL * seen[:, 1] / seen[:, 2] + self.shift[1]
        return list(zip(x.tolist(), y.tolist(), strict=True))


@dataclass(frozen=True)
class Prism:
    """An upright prism on the ground.

    Attributes:
        base: corners of its convex base, counter-clockwise from above.
        height: of its top.
        sides: colour of each side.
        panels: colour of a panel on each side, or none.
    """

    base: Float[np.ndarray, "n 2"]
    height: float
    sides: Sequence[Colour]
    panels: Sequence[Colour | None] = field(default_factory=tuple)

    @cached_property
    def corners(self) -> Float[np.ndarray, "8*n 3"]:
        """Corners of side 0, 1, ...: all lower left ones, lower right, upper right, upper left; then of the panels."""
        left, right = self.base, self.base[np.arange(1, len(self.base) + 1) % len(self.base)]
        from_left, from_right = left + 0.25 * (right - left), right + 0.25 * (left - right)
        places = np.stack([left, right, right, left, from_left, from_right, from_right, from_left])
        levels = self.height * np.array([0, 0, 1, 1, 0.25, 0.25, 0.75, 0.75])
        heights = np.broadcast_to(levels[:, None, None], (*places.shape[:2], 1))
        return np.concatenate([places, heights], axis=2).reshape(-1, 3)

    def draw(self, canvas: Canvas, camera: Camera) -> None:
        """Draw the sides that face the camera, and the top."""
        n, seen = len(self.base), camera.see(self.corners)
        if seen is None:
            return
        for i, colour in enumerate(self.sides):
            turned = _face(canvas, seen[i : 4 * n : n], colour)
            if turned and self.panels and (panel := self.panels[i]) is not None:
                _face(canvas, seen[4 * n + i :: n], panel)
        _face(canvas, seen[3 * n : 4 * n], _mixed(self.sides[0], (255, 255, 255), 0.45))


@dataclass(frozen=True)
class Scene:
    """Prisms, flat pieces on the ground (corners, colour), and the colours of ground and sky."""

    prisms: Sequence[Prism]
    pieces: Sequence[tuple[Float[np.ndarray, "n 2"], Colour]]
    ground: Colour
    sky: Colour

    def view(self, size: int, camera: Camera) -> Image.Image:
        """The scene as a camera sees it."""
        canvas = Canvas(size, self.sky)
        canvas.polygon([(0, camera.horizon), (1, camera.horizon), (1, 1), (0, 1)], self.ground)
        for corners, colour in self.pieces:
            seen = camera.see(np.column_stack([corners, np.zeros(len(corners))]))
            if seen is not None:
                _face(canvas, seen, colour, edge=False)
        eye = camera.position[:2]
        for prism in sorted(self.prisms, key=lambda prism: -float(np.linalg.norm(prism.base.mean(axis=0) - eye))):
            prism.draw(canvas, camera)
        tables = [np.minimum(np.arange(256) * gain, 255).astype(int).tolist() for gain in camera.gains]
        return canvas.finish().point([level for table in tables for level in table])


def scene(seed: int, *, posts: int, landmarks: int, alike: float) -> Scene:
    """The scene of a seed.

    Args:
        seed: of shapes, places and colours.
        posts: number of posts about the block.
        landmarks: number of far things.
        alike: how nearly the block's sides have one colour, 0 to 1.
    """
    rng = np.random.default_rng(seed)
    colours = [_mixed(colour, (140, 140, 140), 0.15) for colour in palette(seed, 8)]
    sides = int(rng.integers(4, 7))
    turn = rng.uniform(0, 2 * np.pi)
    block = _ring(sides, 0.62, turn + rng.uniform(-0.3, 0.3, sides) * 2 * np.pi / sides)
    faces = [_mixed(colour, colours[0], alike) for colour in colours[:sides]]
    panels = [_mixed(colours[(i + 3) % 8], colours[0], alike) if rng.random() < 0.7 else None for i in range(sides)]
    prisms = [Prism(block, float(rng.uniform(0.8, 1.2)), faces, panels)]
    for i, angle in enumerate(_spread(rng, 5)[:posts]):
        place = 1.05 * np.array([np.cos(angle), np.sin(angle)])
        base = place + _ring(6, float(rng.uniform(0.1, 0.15)), np.zeros(6))
        prisms.append(Prism(base, float(rng.uniform(0.3, 0.8)), [colours[(i + 2) % 8]] * 6))
    for i, angle in enumerate(_spread(rng, 12)[:landmarks]):
        place = rng.uniform(6, 9) * np.array([np.cos(angle), np.sin(angle)])
        base = place + _ring(4, float(rng.uniform(0.4, 0.8)), np.full(4, rng.uniform(0, 2 * np.pi)))
        prisms.append(Prism(base, float(rng.uniform(1.5, 4.0)), [colours[(i * 3 + 1) % 8]] * 4))
    light = float(rng.uniform(0.55, 1.0))
    ground: Colour = tuple((light * rng.uniform(120, 200, 3)).astype(int).tolist())
    sky: Colour = tuple(rng.uniform(150, 240, 3).astype(int).tolist())
    pieces = [(_ring(24, 1.35, np.zeros(24)), _mixed(ground, (255, 255, 255), 0.35))]
    for angle, away in zip(rng.uniform(0, 2 * np.pi, 14), rng.uniform(1.7, 5.5, 14), strict=True):
        place = away * np.array([np.cos(angle), np.sin(angle)])
        pieces.append(
            (place + _ring(5, float(rng.uniform(0.15, 0.35)), np.full(5, angle)), _mixed(ground, (0, 0, 0), 0.3))
        )
    return Scene(prisms, pieces, ground, sky)


def _ring(n: int, radius: float, turns: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    angles = 2 * np.pi * np.arange(n) / n + turns
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _spread(rng: np.random.Generator, n: int) -> Float[np.ndarray, " n"]:
    """n angles all round in random order, no two close."""
    return rng.permutation(2 * np.pi * (np.arange(n) + rng.uniform(-0.3, 0.3, n)) / n + rng.uniform(0, 2 * np.pi))


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _face(canvas: Canvas, seen: Sequence[Point], colour: Colour, *, edge: bool = True) -> bool:
    """Draw a flat face if it is turned to the camera: its corners are counter-clockwise as seen from outside."""
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(seen, [*seen[1:], seen[0]], strict=True))
    if area < 0:
        canvas.polygon(seen, colour, outline=(30, 30, 30) if edge else None, width=0.005)
    return area < 0
