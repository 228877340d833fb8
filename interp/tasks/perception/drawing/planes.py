"""A textured plane with figures on it, seen through homographies.

A homography is a 3 x 3 matrix from the plane to the picture: (u, v, w) = M (x, y, 1), the point is (u / w, v / w). The
picture's points are fractions of its side, as on a canvas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from interp.tasks.perception.drawing.canvas import Canvas, Colour, Point, blob, regular
from interp.tasks.perception.drawing.colour import blend, noise, palette

Homography = Float[np.ndarray, "3 3"]


@dataclass(frozen=True)
class Figure:
    """A filled outline on the plane, its centre, and the number of its kind (figures of one kind look alike)."""

    centre: Point
    outline: Float[np.ndarray, "corners 2"]
    fill: Colour
    edge: Colour
    kind: int


@dataclass(frozen=True)
class Plane:
    """The square [-reach, reach] x [-reach, reach] with a texture and figures on it."""

    reach: float
    texture: UInt8[np.ndarray, "H W 3"]
    figures: Sequence[Figure]

    def seen(self, size: int, view: Homography) -> Canvas:
        """A picture of the plane through a homography; outside of the plane the texture goes on as its border."""
        ground = Image.fromarray(self.texture).transform(
            (size, size), Image.Transform.PERSPECTIVE, self._lookup(size, view), Image.Resampling.BILINEAR
        )
        canvas = Canvas(size, np.asarray(ground))
        centres = project(view, [figure.centre for figure in self.figures])
        for figure, (x, y) in zip(self.figures, centres, strict=True):
            if -0.3 < x < 1.3 and -0.3 < y < 1.3:
                canvas.polygon(project(view, figure.outline), figure.fill, outline=figure.edge, width=0.01)
        return canvas

    def _lookup(self, size: int, view: Homography) -> list[float]:
        """Pillow's eight coefficients from the picture's pixels to the texture's."""
        side = len(self.texture)
        to_texture = np.array([[side / 2 / self.reach, 0, side / 2], [0, side / 2 / self.reach, side / 2], [0, 0, 1]])
        matrix = to_texture @ np.linalg.inv(view) @ np.diag([1 / size, 1 / size, 1])
        return (matrix / matrix[2, 2]).ravel()[:8].tolist()


def project(view: Homography, points: Sequence[Point] | Float[np.ndarray, "points 2"]) -> list[Point]:
    """Points of the plane in the picture."""
    u, v, w = view[:, :2] @ np.asarray(points, float).T + view[:, 2:]
    return list(zip((u / w).tolist(), (v / w).tolist(), strict=True))


def homography(point: Point, to: Point, *, turn: float, scale: float, tilt: float, towards: float) -> Homography:
    """A view that shows a point of the plane at a place of the picture.

    Args:
        point: of the plane.
        to: where it is seen.
        turn: rotation in radians.
        scale: size of the picture's things about the point.
        tilt: strength of the perspective: the denominator grows by it over one unit.
        towards: direction on the plane in which it recedes, in radians.
    """
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    centred = np.array([[1, 0, -point[0]], [0, 1, -point[1]], [0, 0, 1]])
    turned = np.array([[cos, -sin, 0], [sin, cos, 0], [tilt * math.cos(towards), tilt * math.sin(towards), 1]])
    return np.array([[1, 0, to[0]], [0, 1, to[1]], [0, 0, 1]]) @ turned @ centred


def plane(rng: np.random.Generator, *, looks: int, ground: int, kinds: int, spacing: float, reach: float) -> Plane:
    """A plane with figures on a jittered grid.

    Args:
        rng: places, sizes and order of the figures.
        looks: seed of the figures' colours and outlines.
        ground: seed of the texture and its colours.
        kinds: how many kinds of figures there are; each is used as often as the others.
        spacing: of the grid.
        reach: half of the side.
    """
    source = np.random.default_rng(ground)
    tint, low = source.uniform(-25, 25, 3), source.uniform(60, 150)
    dark, light = np.clip(low + tint, 0, 255), np.clip(low + 75 - tint, 0, 255)
    texture = blend(noise(source, 192, coarse=9, octaves=4, decay=0.8), tuple(dark), tuple(light))
    makers = _kinds(np.random.default_rng(looks), kinds)
    n = int(2 * reach / spacing)
    cells = [((i + 0.5) * spacing - reach, (j + 0.5) * spacing - reach) for i in range(n) for j in range(n)]
    order = np.concatenate([rng.permutation(kinds) for _ in range(len(cells) // kinds + 1)])
    jitter = rng.uniform(-0.17, 0.17, (len(cells), 2)) * spacing
    turns, sizes = rng.uniform(-math.pi, math.pi, len(cells)), rng.uniform(0.27, 0.38, len(cells)) * spacing
    figures = []
    for number, (x, y) in enumerate(cells):
        outline, fill, edge = makers[order[number]]
        centre = (x + float(jitter[number, 0]), y + float(jitter[number, 1]))
        cos, sin = math.cos(turns[number]) * sizes[number], math.sin(turns[number]) * sizes[number]
        placed = outline @ np.array([[cos, sin], [-sin, cos]])
        figures.append(Figure(centre, placed + centre, fill, edge, int(order[number])))
    return Plane(reach, texture, figures)


def _kinds(rng: np.random.Generator, n: int) -> list[tuple[Float[np.ndarray, "corners 2"], Colour, Colour]]:
    """Outlines of radius 1 about the origin, each with a colour of its own and an edge."""
    colours = palette(int(rng.integers(2**31)), n)
    makers: list[tuple[Float[np.ndarray, "corners 2"], Colour, Colour]] = []
    for colour in colours:
        form = rng.integers(3)
        if form == 0:
            outline = regular(int(rng.integers(3, 7)), (0, 0), 1.0)
        elif form == 1:
            outline = regular(int(rng.integers(4, 9)), (0, 0), 1.15, inner=float(rng.uniform(0.4, 0.65)))
        else:
            outline = blob(rng, (0, 0), 0.95, roughness=0.6)
        edge = (20, 20, 20) if rng.random() < 0.5 else (240, 240, 240)
        makers.append((np.array(outline), colour, edge))
    return makers


def relit(canvas: Canvas, rng: np.random.Generator, *, strength: float) -> Canvas:
    """The picture under another light: gain, gamma, a tint, a gradient across it, and grain; strength 0 to 1."""
    pixels = np.asarray(canvas.finish())
    gamma = float(np.exp(rng.uniform(-0.6, 0.6) * strength))
    gain = 1 - rng.uniform(0, 0.35, 3).astype(np.float32) * strength
    slope = rng.uniform(-0.35, 0.35, 2).astype(np.float32) * strength
    ramp = np.linspace(-0.5, 0.5, len(pixels), dtype=np.float32)
    light = 1 + slope[0] * ramp[:, None] + slope[1] * ramp[None, :]
    levels = (np.linspace(0, 1, 256, dtype=np.float32) ** gamma)[pixels]
    grain = rng.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None] * 0.06 * strength
    return Canvas(canvas.size, (np.clip(levels * gain * light[..., None] + grain, 0, 1) * 255).astype(np.uint8))
