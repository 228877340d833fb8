"""Ways to render a picture: each turns plain pixels into strokes, tiles, dots or lines of its own kind.

A style takes its whole look from an angle and a scale (the side of its cell, a share of the picture's side); what is
random besides (where the cells fall) comes from the generator and differs between two pictures of one style. Styles
work on float pixels of 0 to 1 and without a loop over pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, uniform_filter1d

Pixels = Float[np.ndarray, "H W 3"]
Field = Float[np.ndarray, "H W"]


@dataclass(frozen=True)
class Frame:
    """What a style works on: pixels, coordinates in cells of the style's scale and angle, and randomness."""

    pixels: Pixels
    u: Field
    v: Field
    angle: float
    cell: float
    """Side of a cell in pixels."""
    shift: tuple[float, float]
    """How far the cells are moved against the middle of the picture, in cells."""
    rng: np.random.Generator

    @property
    def light(self) -> Field:
        return self.pixels.mean(-1)

    def sampled(self, u: Field, v: Field) -> Pixels:
        """The pixels' colours at other coordinates, held at the border."""
        size = len(self.pixels)
        cos, sin = np.cos(self.angle) * self.cell, np.sin(self.angle) * self.cell
        u, v = u - self.shift[0], v - self.shift[1]
        x, y = cos * u - sin * v + size / 2, sin * u + cos * v + size / 2
        return self.pixels[_index(y, size), _index(x, size)]

    def hashed(self, *cells: Field) -> Field:
        """A random number of 0 to 1 for each cell, the same all over it."""
        seed = int(self.rng.integers(1 << 16))
        mixed = np.full(self.u.shape, seed * 83492791, np.int64)
        for cell, prime in zip(cells, (73856093, 19349663), strict=False):
            mixed += cell.astype(np.int64) * prime
        mixed &= 0xFFFFFFFF
        mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
        return ((mixed ^ (mixed >> 13)) & 0xFFFF) / 65536.0


def _index(at: Field, size: int) -> np.ndarray:
    return np.clip(at, 0, size - 1).astype(np.int32)


def _saw(value: Field) -> Field:
    return value - np.floor(value)


def _tiles(frame: Frame, u: Field, v: Field, grout: float = 0.12, dark: float = 0.45) -> Pixels:
    cell_u, cell_v = np.floor(u), np.floor(v)
    edge = np.minimum(np.minimum(u - cell_u, cell_u + 1 - u), np.minimum(v - cell_v, cell_v + 1 - v))
    return np.where(edge < grout, dark, 1.0)[..., None]


def mosaic(frame: Frame) -> Pixels:
    """Square tiles in a dark bed."""
    colour = frame.sampled(np.floor(frame.u) + 0.5, np.floor(frame.v) + 0.5)
    return colour * _tiles(frame, frame.u, frame.v)


def bricks(frame: Frame) -> Pixels:
    """Long bricks in courses, light joints."""
    v = frame.v * 1.6
    row = np.floor(v)
    u = frame.u * 0.7 + 0.5 * (row % 2)
    colour = frame.sampled((np.floor(u) + 0.5 - 0.5 * (row % 2)) / 0.7, (row + 0.5) / 1.6)
    return 1 - (1 - colour) * _tiles(frame, u, v, grout=0.1, dark=0.2)


def facets(frame: Frame) -> Pixels:
    """Flat cells about random points."""
    nearest, best_u, best_v, _ = _voronoi(frame, 1.0)
    return np.clip(frame.sampled(best_u, best_v) * (0.85 + 0.3 * nearest[..., None]), 0, 1)


def leaded(frame: Frame) -> Pixels:
    """Large irregular panes with thick dark leading."""
    _, best_u, best_v, gap = _voronoi(frame, 0.65)
    return frame.sampled(best_u, best_v) * np.where(gap < 0.12, 0.15, 1.0)[..., None]


def _voronoi(frame: Frame, finer: float) -> tuple[Field, Field, Field, Field]:
    """Of each pixel's cell: a random number, its point, and how much farther the next point is."""
    u, v = frame.u * finer, frame.v * finer
    grid_u, grid_v = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    low_u, low_v = int(grid_u.min()) - 1, int(grid_v.min()) - 1
    shape = (int(grid_u.max()) - low_u + 2, int(grid_v.max()) - low_v + 2)
    rows, columns = (index.astype(np.float32) for index in np.indices(shape))
    at_u = rows + low_u + frame.rng.uniform(0, 1, shape).astype(np.float32)
    at_v = columns + low_v + frame.rng.uniform(0, 1, shape).astype(np.float32)
    tints = frame.rng.uniform(0, 1, shape)
    flat = (grid_u - low_u) * shape[1] + grid_v - low_v
    near = np.stack([flat + du * shape[1] + dv for du in (-1, 0, 1) for dv in (-1, 0, 1)])
    away = (at_u.ravel()[near] - u) ** 2 + (at_v.ravel()[near] - v) ** 2
    best = away.argmin(0)[None]
    cell = np.take_along_axis(near, best, 0)[0]
    first = np.sqrt(np.take_along_axis(away, best, 0)[0])
    np.put_along_axis(away, best, np.inf, 0)
    gap = np.sqrt(away.min(0)) - first
    return tints.ravel()[cell], at_u.ravel()[cell] / finer, at_v.ravel()[cell] / finer, gap


def triangles(frame: Frame) -> Pixels:
    """Squares cut along a diagonal, each half flat."""
    in_u, in_v = _saw(frame.u), _saw(frame.v)
    upper = (in_u + in_v < 1).astype(float)
    third = np.where(upper > 0, 1 / 3, 2 / 3)
    colour = frame.sampled(np.floor(frame.u) + third, np.floor(frame.v) + third)
    return colour * (0.75 + 0.35 * upper[..., None])


def dots(frame: Frame) -> Pixels:
    """Round dabs of colour on a light ground."""
    row = np.floor(frame.v)
    u = frame.u + 0.5 * (row % 2)
    shift = (frame.hashed(np.floor(u), row) - 0.5) * 0.3
    away = np.hypot(_saw(u) - 0.5 + shift, _saw(frame.v) - 0.5 - shift)
    colour = frame.sampled(np.floor(u) + 0.5 - 0.5 * (row % 2), row + 0.5)
    return np.where((away < 0.42)[..., None], colour, 0.95)


def halftone(frame: Frame) -> Pixels:
    """Dark dots that grow as the picture darkens."""
    dark = 1 - frame.sampled(np.floor(frame.u) + 0.5, np.floor(frame.v) + 0.5).mean(-1)
    away = np.hypot(_saw(frame.u) - 0.5, _saw(frame.v) - 0.5)
    ink = (0.25 + 0.4 * dark > away)[..., None]
    return (0.5 + 0.5 * frame.pixels) * (1 - 0.85 * ink)


def rings(frame: Frame) -> Pixels:
    """Each cell a target of circles."""
    away = np.hypot(_saw(frame.u * 0.6) - 0.5, _saw(frame.v * 0.6) - 0.5)
    return frame.pixels * np.where(np.cos(away * 24) > 0, 1.0, 0.4)[..., None]


def hatching(frame: Frame) -> Pixels:
    """Straight parallel lines, thicker in the dark."""
    line = (0.15 + 0.5 * (1 - frame.light) > _saw(frame.v * 1.6))[..., None]
    return (0.35 + 0.65 * frame.pixels) * (1 - 0.8 * line)


def cross_hatching(frame: Frame) -> Pixels:
    """Two sets of thin lines across each other."""
    width = 0.12 + 0.3 * (1 - frame.light)
    line = np.maximum(_saw(frame.v * 1.3) < width, _saw(frame.u * 1.3) < width)[..., None]
    return np.where(line, 0.25 * frame.pixels, 0.3 + 0.7 * frame.pixels)


def engraving(frame: Frame) -> Pixels:
    """Wavy lines side by side."""
    wave = frame.v * 1.5 + 0.55 * np.sin(frame.u * 1.9 + frame.rng.uniform(0, 6.3))
    line = (0.2 + 0.4 * (1 - frame.light) > _saw(wave))[..., None]
    return (0.3 + 0.7 * frame.pixels) * (1 - 0.85 * line)


def zigzag(frame: Frame) -> Pixels:
    """A herringbone of light and dark."""
    wave = frame.v * 1.4 + np.abs(_saw(frame.u * 0.7) - 0.5) * 2.4
    return frame.pixels * np.where(_saw(wave) < 0.5, 1.0, 0.5)[..., None]


def strokes(frame: Frame) -> Pixels:
    """Long brush strokes one way, each of one colour and round in the light."""
    v = frame.v * 1.7
    row = np.floor(v)
    offset = frame.hashed(row) * 7
    u = frame.u * 0.45 + offset
    colour = frame.sampled((np.floor(u) + 0.5 - offset) / 0.45, (row + 0.5) / 1.7)
    tint = 0.8 + 0.4 * frame.hashed(np.floor(u), row)
    return np.clip(colour * (tint * np.where(_saw(v) < 0.25, 0.55, 1.0))[..., None], 0, 1)


def smear(frame: Frame) -> Pixels:
    """Paint dragged sideways in streaks of uneven length."""
    row = np.floor(frame.v * 3)
    pull = (frame.hashed(row) - 0.5) * 3.4
    return frame.sampled(frame.u + pull, frame.v) * (0.85 + 0.25 * frame.hashed(row))[..., None]


def wash(frame: Frame) -> Pixels:
    """Soft patches whose rims are darker."""
    soft = gaussian_filter(frame.pixels, (frame.cell * 0.4, frame.cell * 0.4, 0))
    rim = np.sin(soft.sum(-1) * 12) > 0.3
    return soft * np.where(rim, 0.5, 1.0)[..., None]


def chalk(frame: Frame) -> Pixels:
    """Coarse grain that lets a dark ground through."""
    size = len(frame.pixels)
    grain = gaussian_filter(frame.rng.normal(size=(size, size)), frame.cell * 0.16)
    grain = grain / grain.std() + 1.4 * (frame.light - frame.light.mean())
    return frame.pixels * np.where(grain > -0.2, 1.0, 0.3)[..., None]


def ripple(frame: Frame) -> Pixels:
    """The picture bent by waves, with their glints."""
    wave = np.sin(frame.v * 4.2) + 0.5 * np.sin(frame.u * 2.6)
    return frame.sampled(frame.u + 0.55 * wave, frame.v) * np.where(wave > 0.4, 1.0, 0.55)[..., None]


def shards(frame: Frame) -> Pixels:
    """Large pieces that are shifted against each other and shaded on their own."""
    tint, best_u, best_v, _ = _voronoi(frame, 0.6)
    slope = (frame.u - best_u) * np.cos(tint * 25) + (frame.v - best_v) * np.sin(tint * 25)
    moved = frame.sampled(frame.u + 3 * (tint - 0.5), frame.v - 3 * (tint - 0.5))
    return np.clip(moved * (0.85 + 0.5 * slope)[..., None], 0, 1)


def weave(frame: Frame) -> Pixels:
    """Threads over and under each other."""
    over = (np.floor(frame.u * 1.4) + np.floor(frame.v * 1.4)) % 2
    thread = np.where(over > 0, np.sin(np.pi * _saw(frame.u * 1.4)), np.sin(np.pi * _saw(frame.v * 1.4)))
    return frame.pixels * np.where(thread < 0.5, 0.4, 1.0)[..., None]


def contours(frame: Frame) -> Pixels:
    """Flat colours with dark outlines and level lines."""
    soft = gaussian_filter(frame.pixels, (frame.cell * 0.2, frame.cell * 0.2, 0))
    level = soft.mean(-1) * 7
    edge = gaussian_gradient_magnitude(np.floor(level), 1.0)
    return (np.floor(soft * 5) / 5 + 0.1) * np.where(edge > 0.12, 0.1, 1.0)[..., None]


def blinds(frame: Frame) -> Pixels:
    """Broad slats, each blurred along itself and lit from above."""
    slat = np.floor(frame.v * 0.8)
    blurred = uniform_filter1d(frame.sampled(frame.u, (slat + 0.5) / 0.8), max(3, int(frame.cell)), axis=1)
    return blurred * (1.0 - 0.65 * _saw(frame.v * 0.8))[..., None]


def confetti(frame: Frame) -> Pixels:
    """Small squares that stand at odds with each other over the picture."""
    grid_u, grid_v = np.floor(frame.u), np.floor(frame.v)
    turn = frame.hashed(grid_u, grid_v) * np.pi
    in_u, in_v = _saw(frame.u) - 0.5, _saw(frame.v) - 0.5
    across = np.maximum(
        np.abs(in_u * np.cos(turn) + in_v * np.sin(turn)), np.abs(in_v * np.cos(turn) - in_u * np.sin(turn))
    )
    colour = frame.sampled(grid_u + 0.5, grid_v + 0.5)
    return np.where((across < 0.34)[..., None], colour, 0.25 * frame.pixels)


LINES = (hatching, cross_hatching, engraving, zigzag, rings, weave, blinds, halftone)
TILES = (mosaic, bricks, facets, leaded, triangles, dots, shards, confetti)
PAINT = (strokes, smear, wash, chalk, ripple, contours)
_ENERGIES = """
    hatching 1.35, cross_hatching 1.47, engraving 1.57, zigzag 1.2, rings 1.42, weave 1.25, blinds 0.65, halftone 0.95,
    mosaic 0.9, bricks 1.45, facets 0.28, leaded 0.85, triangles 0.62, dots 1.04, shards 0.5, confetti 0.95,
    strokes 0.9, smear 0.5, wash 0.25, chalk 0.78, ripple 0.48, contours 0.47
"""
ENERGY = {name: float(energy) for name, energy in (pair.split() for pair in _ENERGIES.split(","))}
"""Gradient energy of a picture in each style, times the cell in pixels: finer cells, more edges."""
STYLES: dict[str, Callable[[Frame], Pixels]] = {style.__name__: style for style in (*LINES, *TILES, *PAINT)}
"""Name -> style."""


def gradient(field: Field) -> float:
    """Mean absolute difference of neighbouring pixels, of both directions together."""
    return float(np.abs(np.diff(field, axis=0)).mean() + np.abs(np.diff(field, axis=1)).mean())


def aged(pixels: Pixels, energy: float, *, rng: np.random.Generator) -> Pixels:
    """A picture a little blurred, with as many dark specks as bring its gradient energy up to some value.

    This makes edges of all styles alike in number and sharpness.

    Args:
        pixels: the picture, 0 to 1.
        energy: what `gradient` of the mean of its channels should become.
        rng: how blurred the picture becomes, where the specks fall, and how dark they are.
    """
    size, blur = len(pixels), rng.uniform(0.3, 0.9)
    pixels = gaussian_filter(pixels, (blur, blur, 0), truncate=3)
    field = gaussian_filter(rng.standard_normal((size, size), np.float32), rng.uniform(0.6, 1.1))
    order = np.quantile(field[::2, ::2], np.linspace(1, 0.5, 65))
    grey, dark = pixels.mean(-1), np.float32(rng.uniform(0.3, 0.5))

    def specks(threshold: float) -> Field:
        # As blurred as everything else: otherwise their sharpness tells how many of the edges are the style's own.
        return 1 - (1 - dark) * gaussian_filter((field > threshold).astype(np.float32), blur, truncate=3)

    low, high = 0, len(order) - 1
    while high - low > 1:
        middle = (low + high) // 2
        enough = gradient(specks(order[middle]) * grey) >= energy
        low, high = (low, middle) if enough else (middle, high)
    return pixels * specks(order[low])[..., None]


def rendered(
    pixels: Pixels, style: str, *, angle: float, scale: float, strength: float, rng: np.random.Generator
) -> Pixels:
    """A picture in a style.

    Args:
        pixels: the plain picture, 0 to 1.
        style: name of one of `STYLES`.
        angle: in radians, to which the style is turned.
        scale: side of the style's cell as a share of the picture's side.
        strength: 0 (plain) to 1 (nothing but the style).
        rng: where the style's cells fall.
    """
    size = len(pixels)
    cell = max(3.0, scale * size)
    at = ((np.arange(size) - size / 2) / cell).astype(np.float32)
    x, y = np.meshgrid(at, at)
    shift = rng.uniform(0, 1, 2).astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = cos * x + sin * y, cos * y - sin * x
    frame = Frame(pixels, u + shift[0], v + shift[1], angle, cell, (float(shift[0]), float(shift[1])), rng)
    return (1 - strength) * pixels + strength * STYLES[style](frame)
