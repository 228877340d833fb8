"""Colours and textures, made from numbers so that any quantity of them can be divided among splits."""

from __future__ import annotations

import colorsys

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from interp.tasks.perception.drawing.canvas import Colour

NAMED: dict[str, Colour] = {
    "red": (208, 40, 40),
    "green": (44, 150, 60),
    "blue": (40, 90, 210),
    "yellow": (240, 205, 45),
    "orange": (238, 130, 30),
    "purple": (135, 60, 170),
    "pink": (245, 140, 185),
    "brown": (125, 80, 45),
    "black": (25, 25, 25),
    "white": (245, 245, 245),
    "grey": (130, 130, 130),
    "cyan": (40, 190, 200),
}


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB bytes of a hue (turns), saturation and value."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(1, max(0, saturation)), min(1, max(0, value)))
    return round(255 * red), round(255 * green), round(255 * blue)


def palette(seed: int, n: int = 6) -> list[Colour]:
    """n colours that can be told apart; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    start = rng.uniform()
    hues = start + (np.arange(n) + rng.uniform(-0.25, 0.25, n)) / n
    return [hsv(h, rng.uniform(0.45, 0.95), rng.uniform(0.5, 0.98)) for h in rng.permutation(hues)]


def noise(
    rng: np.random.Generator, size: int, *, octaves: int = 4, coarse: int = 3, decay: float = 0.55
) -> Float[np.ndarray, "H W"]:
    """Smooth noise over several scales, 0 to 1.

    Args:
        rng: source of randomness.
        size: side in pixels.
        octaves: number of scales, each twice as fine.
        coarse: cells a side of the coarsest.
        decay: amplitude of each scale over the one before.
    """
    total = np.zeros((size, size))
    cells, amplitude = coarse, 1.0
    for _ in range(octaves):
        grid = Image.fromarray(rng.uniform(0, 1, (cells + 1, cells + 1)).astype(np.float32))
        total += amplitude * np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))
        cells, amplitude = cells * 2, amplitude * decay
    total -= total.min()
    return total / max(float(total.max()), 1e-9)


def blend(field: Float[np.ndarray, "H W"], dark: Colour, light: Colour) -> UInt8[np.ndarray, "H W 3"]:
    """A field of 0 to 1 as a mixture of two colours."""
    low, high = np.array(dark, float), np.array(light, float)
    return (low + np.clip(field, 0, 1)[..., None] * (high - low)).astype(np.uint8)
