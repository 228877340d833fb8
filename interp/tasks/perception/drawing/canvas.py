"""A canvas in fractions of its side, drawn at twice the size and reduced, so that edges are smooth at any size.

Points are (x, y) with x to the right and y down, both 0 to 1; lengths are fractions of the side; colours are RGB bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from interp.tasks.perception.base import MarkStyle
from interp.tasks.perception.items import LETTERS

Colour = tuple[int, int, int]
Point = tuple[float, float]
FINER = 2


class Canvas:
    """A square picture in the making.

    Args:
        size: side of the finished picture in pixels.
        background: one colour, or pixels [H, W, 3], which are stretched to the canvas.
    """

    def __init__(self, size: int, background: Colour | UInt8[np.ndarray, "H W 3"] = (255, 255, 255)) -> None:
        self.size, self.fine = size, size * FINER
        if isinstance(background, np.ndarray):
            self.image = Image.fromarray(background).resize((self.fine, self.fine), Image.Resampling.BILINEAR)
        else:
            self.image = Image.new("RGB", (self.fine, self.fine), tuple(background))
        self._pen = ImageDraw.Draw(self.image)

    def polygon(
        self, points: Sequence[Point], fill: Colour | None, *, outline: Colour | None = None, width: float = 0.006
    ) -> None:
        """A filled polygon, and its outline if one is given."""
        scaled = [(x * self.fine, y * self.fine) for x, y in points]
        if fill is not None:
            self._pen.polygon(scaled, fill=tuple(fill))
        if outline is not None:
            self._pen.line(
                [*scaled, scaled[0], scaled[1]], fill=tuple(outline), width=self._width(width), joint="curve"
            )

    def ellipse(
        self,
        centre: Point,
        radii: tuple[float, float],
        fill: Colour | None,
        *,
        outline: Colour | None = None,
        width: float = 0.006,
    ) -> None:
        """An upright ellipse."""
        (x, y), (a, b) = centre, radii
        box = [(x - a) * self.fine, (y - b) * self.fine, (x + a) * self.fine, (y + b) * self.fine]
        given = {"fill": None if fill is None else tuple(fill), "outline": None if outline is None else tuple(outline)}
        self._pen.ellipse(box, **given, width=self._width(width))

    def line(self, points: Sequence[Point], colour: Colour, *, width: float = 0.006) -> None:
        """A line through points, round at its joints."""
        scaled = [(x * self.fine, y * self.fine) for x, y in points]
        self._pen.line(scaled, fill=tuple(colour), width=self._width(width), joint="curve")

    def paste(self, pixels: UInt8[np.ndarray, "H W 3"], mask: Float[np.ndarray, "H W"]) -> None:
        """Lay pixels over the canvas where the mask is 1; both are stretched to it."""
        over = Image.fromarray(pixels).resize((self.fine, self.fine), Image.Resampling.BILINEAR)
        where = Image.fromarray((np.clip(mask, 0, 1) * 255).astype(np.uint8))
        self.image.paste(over, mask=where.resize((self.fine, self.fine), Image.Resampling.BILINEAR))
        self._pen = ImageDraw.Draw(self.image)

    def mark(self, place: Point, label: str, *, style: MarkStyle = "red", radius: float = 0.03) -> None:
        """A ring round a point, with its label beside it on a plate that is readable on any ground.

        "red" is BLINK's style; "neutral" is a black and white ring, to test reliance on the colour.
        """
        x, y = place
        ring = (230, 20, 20) if style == "red" else (255, 255, 255)
        self.ellipse(place, (radius * 1.25, radius * 1.25), None, outline=(0, 0, 0), width=radius / 4)
        self.ellipse(place, (radius, radius), None, outline=ring, width=radius / 2.5)
        height = max(0.075, radius * 2.2)
        font = _font(max(9, round(height * self.fine)))
        left, top, right, bottom = font.getbbox(label)
        width, tall = (right - left) / self.fine, (bottom - top) / self.fine
        pad = 0.008
        side = 1 if x + radius * 1.4 + width + 3 * pad < 1 else -1
        middle = x + side * (radius * 1.4 + width / 2 + pad)
        middle_y = min(max(y, tall / 2 + pad), 1 - tall / 2 - pad)
        plate, ink = ((230, 20, 20), (255, 255, 255)) if style == "red" else ((0, 0, 0), (255, 255, 255))
        box = [middle - width / 2 - pad, middle_y - tall / 2 - pad, middle + width / 2 + pad, middle_y + tall / 2 + pad]
        self._pen.rectangle([value * self.fine for value in box], fill=plate)
        corner = ((middle - width / 2) * self.fine - left, (middle_y - tall / 2) * self.fine - top)
        self._pen.text(corner, label, font=font, fill=ink)

    def marks(self, places: Sequence[Point], *, style: MarkStyle = "red", radius: float = 0.03) -> None:
        """Points marked A, B, C, ... in order."""
        for letter, place in zip(LETTERS, places, strict=False):
            self.mark(place, letter, style=style, radius=radius)

    def plate(self, place: Point, label: str, *, fill: Colour, ink: Colour, height: float = 0.075) -> None:
        """A label on a plate about a point, moved inwards where it would leave the picture."""
        font = _font(max(9, round(height * self.fine)))
        left, top, right, bottom = font.getbbox(label)
        half = ((right - left) / 2 / self.fine + 0.01, (bottom - top) / 2 / self.fine + 0.01)
        x, y = (min(max(value, side), 1 - side) for value, side in zip(place, half, strict=True))
        box = [(x - half[0]), (y - half[1]), (x + half[0]), (y + half[1])]
        self._pen.rectangle([value * self.fine for value in box], fill=tuple(fill))
        self._pen.text(
            (x * self.fine - (left + right) / 2, y * self.fine - (top + bottom) / 2), label, tuple(ink), font
        )

    def finish(self) -> Image.Image:
        """The picture at its size."""
        return self.image.resize((self.size, self.size), Image.Resampling.BOX)

    def _width(self, width: float) -> int:
        return max(1, round(width * self.fine))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def regular(n: int, centre: Point, radius: float, *, turn: float = 0.0, inner: float | None = None) -> list[Point]:
    """Corners of a regular polygon, or with an inner radius (a share of the outer) of a star; turn in radians."""
    steps = n if inner is None else 2 * n
    radii = [radius if inner is None or i % 2 == 0 else radius * inner for i in range(steps)]
    angles = [turn - math.pi / 2 + 2 * math.pi * i / steps for i in range(steps)]
    return [(centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def blob(
    rng: np.random.Generator, centre: Point, radius: float, *, roughness: float = 0.25, n: int = 40
) -> list[Point]:
    """A smooth closed outline about a centre; roughness 0 is a circle."""
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    radii = np.ones(n)
    for wave in range(2, 6):
        radii += roughness / wave * rng.normal() * np.cos(wave * angles + rng.uniform(0, 2 * np.pi))
    radii = radius * np.clip(radii, 0.35, 1.6)
    return [(centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def moved(
    points: Sequence[Point], *, by: Point = (0.0, 0.0), turn: float = 0.0, scale: float = 1.0, about: Point = (0.0, 0.0)
) -> list[Point]:
    """Points turned (radians, clockwise on the screen) and scaled about a point, then shifted."""
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    result = []
    for x, y in points:
        dx, dy = x - about[0], y - about[1]
        result.append((about[0] + cos * dx - sin * dy + by[0], about[1] + sin * dx + cos * dy + by[1]))
    return result
