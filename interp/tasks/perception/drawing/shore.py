"""A shore: things by a lake and on the near bank, with reflections, shadows, a ground and the grain of a camera.

Each of five traces of a consistent picture can be broken alone, in one of four ways, so that each split has ways of its
own. Breaks move and turn things, or trade one noise for another of the same gradient energy, so that they leave the
amount of ink and of edges as it was.

    shadow       one thing's shadow falls in another direction than the others'
    reflection   one thing is mirrored beside its place, slanted, in another's colour, or stretched
    tiles        the ground repeats itself
    grain        the grain of one part of the picture has other statistics
    grid         a faint regular lattice, as upsampling leaves it, lies over the picture
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy.ndimage import gaussian_filter

from interp.tasks.perception.drawing.canvas import Canvas, Colour, Point
from interp.tasks.perception.drawing.colour import noise
from interp.tasks.perception.drawing.scenes import SHAPES, picture

Field = Float[np.ndarray, "H W"]
BREAKS: dict[str, tuple[str, ...]] = {
    "shadow": ("to the other side", "upwards", "back and across", "towards the front"),
    "reflection": ("beside", "slanted", "recoloured", "stretched"),
    "tiles": ("squares", "columns", "rows", "mirrored squares"),
    "grain": ("coarse", "streaked", "blocky", "vertical"),
    "grid": ("rows", "columns", "lattice", "chequered"),
}
"""Kind of break -> its ways; see the module."""
FAR, WATER = 0.32, 0.56
"""Heights of the far bank and of the near one."""


@dataclass(frozen=True)
class Break:
    """What is wrong with a picture: kind and way (see `BREAKS`), and how much of it, 0 to 1."""

    kind: str
    way: str
    strength: float


@dataclass(frozen=True)
class Look:
    """What the pictures of one item share.

    Attributes:
        shapes: names of the things' shapes.
        colours: of sky, water, ground and things.
        texture: contrast of the ground, as a share of its colour.
        grain: standard deviation of the camera's noise, 0 to 1.
    """

    shapes: Sequence[str]
    colours: Sequence[Colour]
    texture: float
    grain: float


def shore(rng: np.random.Generator, size: int, look: Look, wrong: Break | None) -> Image.Image:
    """One picture; without a break it is consistent."""
    sky, water, soil, *things = look.colours
    canvas = Canvas(size, sky)
    canvas.polygon([(0, FAR), (1, FAR), (1, WATER), (0, WATER)], water)
    canvas.polygon([(0, WATER), (1, WATER), (1, 1), (0, 1)], soil)
    order = [things[i] for i in rng.permutation(len(things))]
    _far_things(rng, canvas, look, order[:3], water, wrong)
    ground = _ground(rng, size, _only(wrong, "tiles"))
    near = canvas.finish()
    pixels = np.asarray(near, np.float32) / 255
    below = (np.arange(size) >= round(WATER * size))[:, None]
    pixels = pixels * np.where(below, 1 + look.texture * ground, 1.0)[..., None]
    canvas = Canvas(size, (np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    _near_things(rng, canvas, look, order[3:6], wrong)
    pixels = np.asarray(canvas.finish(), np.float32) / 255
    return picture(pixels + look.grain * _grain(rng, size, wrong)[..., None])


def _only(wrong: Break | None, kind: str) -> Break | None:
    return wrong if wrong is not None and wrong.kind == kind else None


def _far_things(
    rng: np.random.Generator, canvas: Canvas, look: Look, colours: Sequence[Colour], water: Colour, wrong: Break | None
) -> None:
    """Three things on the far bank and their reflections, the colours of which the water dims."""
    wrong = _only(wrong, "reflection")
    odd, side = int(rng.integers(3)), int(rng.integers(2)) * 2 - 1
    for i, x in enumerate(np.array([0.19, 0.5, 0.81]) + rng.uniform(-0.05, 0.05, 3)):
        outline = np.array(SHAPES[look.shapes[int(rng.integers(len(look.shapes)))]]) * rng.uniform(0.07, 0.085)
        outline[:, 1] -= outline[:, 1].max()
        canvas.polygon((outline + (x, FAR)).tolist(), colours[i])
        mirrored = outline * (1, -1)
        colour = np.array(colours[i], float)
        if wrong is not None and i == odd:
            if wrong.way == "beside":
                mirrored = mirrored + (side * 0.13 * wrong.strength, 0)
            elif wrong.way == "slanted":
                mirrored = mirrored + np.stack([mirrored[:, 1] * side * 1.1 * wrong.strength, 0 * mirrored[:, 1]], 1)
            elif wrong.way == "stretched":
                mirrored = mirrored * (1 - 0.4 * wrong.strength, 1 + 0.5 * wrong.strength)
            else:
                colour += wrong.strength * (np.array(colours[(i + 1) % 3], float) - colour)
        dimmed = tuple(int(value) for value in 0.65 * colour + 0.35 * np.array(water, float))
        canvas.polygon((mirrored + (x, FAR)).tolist(), dimmed)


def _near_things(
    rng: np.random.Generator, canvas: Canvas, look: Look, colours: Sequence[Colour], wrong: Break | None
) -> None:
    """Three things on the near bank, whose shadows one sun casts."""
    wrong = _only(wrong, "shadow")
    odd, side = int(rng.integers(3)), int(rng.integers(2)) * 2 - 1
    sun = np.array([side * rng.uniform(0.75, 1.0), rng.uniform(0.25, 0.45)])
    turns = {"to the other side": (-1, 1), "upwards": (0.75, -1.5), "back and across": (-1, -1), "towards the front": 0}
    standing = []
    for i, x in enumerate(np.array([0.2, 0.5, 0.8]) + rng.uniform(-0.04, 0.04, 3)):
        base = rng.uniform(0.74, 0.86)
        outline = np.array(SHAPES[look.shapes[int(rng.integers(len(look.shapes)))]]) * rng.uniform(0.07, 0.085)
        outline[:, 1] -= outline[:, 1].max()
        cast = sun
        if wrong is not None and i == odd:
            other = np.array([0.1 * side, 0.85]) if turns[wrong.way] == 0 else sun * turns[wrong.way]
            cast = _between(sun, other, wrong.strength)
        height = -outline[:, 1]
        shadow = np.stack([outline[:, 0] + height * cast[0], height * cast[1]], 1)
        standing.append((base, (outline + (x, base)).tolist(), (shadow + (x, base)).tolist(), colours[i]))
    soil = tuple(int(value * 0.45) for value in look.colours[2])
    for _, _, shadow, _ in standing:
        canvas.polygon(shadow, soil)
    for _, outline, _, colour in sorted(standing):
        canvas.polygon(outline, colour, outline=(25, 25, 25), width=0.004)


def _between(one: Float[np.ndarray, "2"], other: Float[np.ndarray, "2"], share: float) -> Float[np.ndarray, "2"]:
    """A direction turned from one towards another, and as long as on the way."""
    start, end = np.arctan2(one[1], one[0]), np.arctan2(other[1], other[0])
    angle = start + share * ((end - start + np.pi) % (2 * np.pi) - np.pi)
    length = (1 - share) * np.hypot(*one) + share * np.hypot(*other)
    return length * np.array([np.cos(angle), np.sin(angle)])


def _ground(rng: np.random.Generator, size: int, wrong: Break | None) -> Field:
    """A texture of mean 0 and a given gradient energy; a break lets a piece of it come again."""
    whole = noise(rng, size, octaves=3, coarse=9, decay=0.8) - 0.5
    energy = _energy(whole)
    if wrong is not None:
        low, side = round(WATER * size) + 1, max(6, round(0.2 * size))
        left, top = int(rng.integers(size - side)), int(rng.integers(low, max(low + 1, size - side)))
        tile = whole[top : top + side, left : left + side]
        again = (size // side + 2, size // side + 2)
        if wrong.way == "mirrored squares":
            tile = np.block([[tile, tile[:, ::-1]], [tile[::-1], tile[::-1, ::-1]]])
        elif wrong.way == "columns":
            tile, again = whole[:, left : left + side], (1, again[1])
        elif wrong.way == "rows":
            tile, again = whole[top : top + side // 2], (2 * again[0], 1)
        repeated = np.tile(tile - tile.mean(), again)[:size, :size]
        whole = wrong.strength * repeated + np.sqrt(1 - wrong.strength**2) * whole
    return whole * energy / _energy(whole)


def _energy(field: Field) -> float:
    """Mean absolute difference of neighbouring pixels, of both directions."""
    return float(np.abs(np.diff(field, axis=0)).mean() + np.abs(np.diff(field, axis=1)).mean()) / 2


def _grain(rng: np.random.Generator, size: int, wrong: Break | None) -> Field:
    """White noise of variance 1; a break lets part of it have another form, of the same gradient energy."""
    white = rng.normal(size=(size, size))
    kind = None if wrong is None else wrong.kind
    if wrong is None or kind not in ("grain", "grid"):
        return white
    if kind == "grid":
        wave = np.where(np.arange(size) // max(1, size // 80) % 2, 1.0, -1.0)
        ways = {
            "rows": np.broadcast_to(wave[:, None], white.shape),
            "columns": np.broadcast_to(wave, white.shape),
            "chequered": wave[:, None] * wave,
            "lattice": np.maximum(wave[:, None], wave) - 0.5,
        }
        other = ways[wrong.way]
        other = wrong.strength * other + np.sqrt(1 - wrong.strength**2) * white
        return other * _energy(white) / _energy(other)
    width = max(1.0, size / 80)
    blurs = {"coarse": (width, width), "streaked": (0.0, 2 * width), "vertical": (2 * width, 0.0)}
    if wrong.way == "blocky":
        side = max(2, size // 40)
        small = rng.normal(size=(size // side + 1, size // side + 1))
        other = np.kron(small, np.ones((side, side)))[:size, :size]
    else:
        other = gaussian_filter(rng.normal(size=white.shape), blurs[wrong.way])
    other *= _energy(white) / _energy(other) * 0.7
    x, y = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size))
    middle: Point = tuple(rng.uniform(0.3, 0.7, 2))
    part = np.hypot(x - middle[0], y - middle[1]) < 0.2 + 0.3 * wrong.strength
    return np.where(part, wrong.strength * other + (1 - wrong.strength) * white, white)
