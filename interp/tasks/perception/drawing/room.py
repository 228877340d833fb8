"""A hall in perspective with a depth for every pixel: tiled floor and ceiling, a back wall, and posts that bear heads.

The camera looks along z at the horizon; a point (X, Y, z) is seen at (1/2 + X / z, horizon + Y / z), in fractions of
the picture's side. Things are written into a z-buffer; haze then draws the colour c at depth z to
h + (c - h) exp(-k z).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from interp.tasks.perception.drawing.canvas import FINER, Colour
from interp.tasks.perception.drawing.colour import palette

PATTERNS = ("stripes", "rings", "checks", "dots")
OUTLINES = (1.4, 2.0, 3.5, 8.0)
"""Exponents p of |x|^p + |y|^p < 1: diamond, disc, rounded and sharp square."""


@dataclass(frozen=True)
class Look:
    """How a head is painted: outline, turn (radians), pattern, and two colours."""

    outline: float
    turn: float
    pattern: str
    colours: tuple[Colour, Colour]


@dataclass(frozen=True)
class Post:
    """A head on a stem that stands on the floor or hangs from the ceiling.

    Attributes:
        x, y: centre of the head in the picture.
        radius: of the head as it appears in the picture, so that it says nothing about the depth.
        z: depth.
        support: what the stem leads to.
        look: how the head is painted. Its pattern has a fixed period in the world and so is finer farther away.
    """

    x: float
    y: float
    radius: float
    z: float
    support: Literal["floor", "ceiling"]
    look: Look


def look(seed: int) -> Look:
    """The look of a seed."""
    rng = np.random.default_rng(seed)
    outline, pattern = OUTLINES[int(rng.integers(len(OUTLINES)))], PATTERNS[int(rng.integers(len(PATTERNS)))]
    light, dark = palette(seed, 2)
    return Look(outline, float(rng.uniform(-0.5, 0.5)), pattern, (light, dark))


class Room:
    """An empty hall.

    Args:
        size: side of the finished picture in pixels.
        seed: of the colours and tiles.
        horizon: height of the horizon in the picture, from the top.
        floor: height of the camera over the floor.
        ceiling: height of the ceiling over the camera.
        back: depth of the back wall.
    """

    def __init__(self, size: int, seed: int, *, horizon: float, floor: float, ceiling: float, back: float) -> None:
        self.size, self.fine = size, size * FINER
        self.horizon, self.floor, self.ceiling = horizon, floor, ceiling
        rng = np.random.default_rng(seed)
        grid = ((np.arange(self.fine) + 0.5) / self.fine).astype(np.float32)
        self._x, self._y = grid[None, :], grid[:, None]
        down = self._y - horizon
        heights = np.where(down > 0, floor, ceiling).astype(np.float32)
        rows = np.minimum(heights / np.maximum(np.abs(down), 1e-4), back)
        self.depth = np.repeat(rows, self.fine, axis=1)
        self._floors = (rows < back) & (down > 0)
        self._ceilings = (rows < back) & (down < 0)
        tiles = rng.uniform(0.5, 0.9, 2)
        self.colour = np.empty((self.fine, self.fine, 3), np.float32)
        for where, tile, base in (
            (self._floors, tiles[0], rng.uniform(70, 190, 3)),
            (self._ceilings, tiles[1], rng.uniform(70, 190, 3)),
        ):
            lines = where[:, 0]
            self.colour[lines] = self._tiles(rows[lines], heights[lines], tile, base, float(rng.uniform(0.2, 0.35)))
        self.colour[rows[:, 0] >= back] = rng.uniform(90, 170, 3)
        self._stem = rng.uniform(40, 215, 3).astype(np.float32)

    def _tiles(
        self,
        z: Float[np.ndarray, "rows 1"],
        height: Float[np.ndarray, "rows 1"],
        tile: float,
        base: Float[np.ndarray, " 3"],
        contrast: float,
    ) -> Float[np.ndarray, "rows fine 3"]:
        """A chequered plane, whose contrast vanishes where the tiles are finer than the pixels."""
        across = np.floor((self._x - 0.5) * z / tile)
        parity = (across + np.floor(z / tile)) % 2 - 0.5
        visible = np.clip(tile * height / z**2 * self.fine / 2, 0, 1)
        shade = 1 + 2 * contrast * parity * visible
        return shade.astype(np.float32)[..., None] * base.astype(np.float32)

    def add(self, post: Post) -> None:
        """Write a post into the buffers, with its shadow or its mount on the plane that bears it."""
        contact = self.contact(post.z, post.support)
        drop = abs(contact - self.horizon)
        self._mount(post, contact, drop)
        half = 0.22 * post.radius
        rows = self._span(min(post.y, contact), max(post.y, contact))
        columns = self._span(post.x - half, post.x + half)
        round_ = 1 - 0.6 * ((self._x[:, columns] - post.x) / half) ** 2
        inside = np.ones((rows.stop - rows.start, 1), bool) & (round_ > 0)
        self._write(rows, columns, inside, round_[..., None] * self._stem, post.z)
        self._head(post)

    def contact(self, z: float, support: Literal["floor", "ceiling"]) -> float:
        """Height in the picture at which a stem at depth z meets the floor or the ceiling."""
        return self.horizon + (self.floor if support == "floor" else -self.ceiling) / z

    def depth_at(self, x: float, y: float) -> float:
        """Depth of what is seen at a point."""
        return float(self.depth[int(y * self.fine), int(x * self.fine)])

    def finish(self, *, haze: Colour, thickness: float) -> UInt8[np.ndarray, "fine fine 3"]:
        """The picture through haze of a colour; thickness is k, per unit of depth."""
        clear = np.exp(-thickness * self.depth)[..., None]
        far = np.array(haze, np.float32)
        colour = self.colour - far
        colour *= clear
        colour += far
        return np.clip(colour, 0, 255, out=colour).astype(np.uint8)

    def _mount(self, post: Post, contact: float, drop: float) -> None:
        wide = 1.1 * post.radius
        tall = max(wide * drop, 0.006)
        rows, columns = self._span(contact - tall, contact + tall), self._span(post.x - wide, post.x + wide)
        where = ((self._x[:, columns] - post.x) / wide) ** 2 + ((self._y[rows] - contact) / tall) ** 2
        plane = (self._floors if post.support == "floor" else self._ceilings)[rows]
        near = np.abs(self.depth[rows, columns] / post.z - 1) < 0.3
        self.colour[rows, columns] *= np.where((where < 1) & plane & near, 0.4, 1.0).astype(np.float32)[..., None]

    def _head(self, post: Post) -> None:
        reach = 1.45 * post.radius
        rows, columns = self._span(post.y - reach, post.y + reach), self._span(post.x - reach, post.x + reach)
        u, v = (self._x[:, columns] - post.x) / post.radius, (self._y[rows] - post.y) / post.radius
        cos, sin = np.cos(post.look.turn), np.sin(post.look.turn)
        along, across = cos * u + sin * v, cos * v - sin * u
        within = np.abs(along) ** post.look.outline + np.abs(across) ** post.look.outline
        paint = _pattern(post.look.pattern, along * post.radius * post.z, across * post.radius * post.z)
        light, dark = (np.array(colour, np.float32) for colour in post.look.colours)
        colour = np.where(paint[..., None], light, dark)
        shade = np.clip(1.05 - 0.3 * within - 0.15 * (u + v), 0.35, 1.1)[..., None]
        self._write(rows, columns, within < 1, colour * shade, post.z * 0.999)

    def _write(
        self,
        rows: slice,
        columns: slice,
        inside: Bool[np.ndarray, "h w"],
        colour: Float[np.ndarray, "... 3"],
        z: float,
    ) -> None:
        seen = inside & (self.depth[rows, columns] > z)
        shape = (*seen.shape, 3)
        self.colour[rows, columns][seen] = np.broadcast_to(colour, shape)[seen]
        self.depth[rows, columns][seen] = z

    def _span(self, low: float, high: float) -> slice:
        first = min(max(int(low * self.fine), 0), self.fine - 1)
        return slice(first, min(max(int(np.ceil(high * self.fine)), first + 1), self.fine))


def _pattern(
    pattern: str, x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"], *, period: float = 0.24
) -> Bool[np.ndarray, "h w"]:
    """Where the first of two colours is, by coordinates in the world."""
    u, v = x / period, y / period
    if pattern == "stripes":
        return u % 1 < 0.5
    if pattern == "rings":
        return np.hypot(u, v) % 1 < 0.5
    if pattern == "checks":
        return (u % 1 < 0.5) == (v % 1 < 0.5)
    return (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.12
