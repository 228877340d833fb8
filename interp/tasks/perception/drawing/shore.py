"""A shore: things by a lake and on the near bank, with reflections, shadows, a ground and the grain of a camera.

Each of five traces of a consistent picture can be broken alone, in one of four ways, so that each split has ways of its
own. A break moves or turns a thing, or puts next to each other what a consistent picture has all over, so that the
amount of ink, of edges and of noise tells nothing.

    shadow       one thing's shadow falls in another direction than the others'
    reflection   one thing is mirrored beside its place, slanted, in another's colour, or stretched
    tiles        the ground repeats itself
    grain        one part of the picture has a grain of other statistics than the rest
    grid         one part of the picture has a regular lattice in its grain, as upsampling leaves it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy.ndimage import gaussian_filter

from interp.tasks.perception.drawing.canvas import Canvas, Colour, Point
from interp.tasks.perception.drawing.scenes import SHAPES, picture, rgb

Field = Float[np.ndarray, "H W"]
Direction = Float[np.ndarray, " xy"]
BREAKS: dict[str, tuple[str, ...]] = {
    "shadow": ("to the other side", "upwards", "back and across", "towards the front"),
    "reflection": ("beside", "slanted", "recoloured", "stretched"),
    "tiles": ("squares", "columns", "rows", "mirrored squares"),
    "grain": ("coarse", "streaked", "blocky", "vertical"),
    "grid": ("rows", "columns", "lattice", "chequered"),
}
"""Kind of break -> its ways; see the module."""
NOISES = ("grain", "grid")
"""The kinds that are about the camera's noise. Pictures of an item have one of them, broken or not."""
FAR, WATER = 0.32, 0.56
"""Heights of the far bank and of the near one."""


@dataclass(frozen=True)
class Look:
    """What the pictures of one item share.

    Attributes:
        shapes: names of the things' shapes.
        colours: of sky, water, ground and things.
        texture: contrast of the ground, as a share of its colour.
        grain: standard deviation of the camera's noise, 0 to 1.
        noise: "grain" or "grid": what the grain of all the pictures is mixed of, and which of the two can be broken.
        ways: kind of break -> the way in which it occurs, also as a grain that is the same all over.
        strength: how much is wrong with a broken picture, 0 to 1.
    """

    shapes: Sequence[str]
    colours: Sequence[Colour]
    texture: float
    grain: float
    noise: str
    ways: Mapping[str, str]
    strength: float


def shore(rng: np.random.Generator, size: int, look: Look, broken: str | None) -> Image.Image:
    """One picture: consistent, or with one kind of break (see `BREAKS`)."""
    sky, water, soil, *things = look.colours
    canvas = Canvas(size, sky)
    canvas.polygon([(0, FAR), (1, FAR), (1, WATER), (0, WATER)], water)
    canvas.polygon([(0, WATER), (1, WATER), (1, 1), (0, 1)], soil)
    order = [things[i] for i in rng.permutation(len(things))]
    _far_things(rng, canvas, look, order[:3], water, broken == "reflection")
    ground = _ground(rng, size, look, broken == "tiles")
    near = canvas.finish()
    pixels = np.asarray(near, np.float32) / 255
    below = (np.arange(size) >= round(WATER * size))[:, None]
    pixels = pixels * np.where(below, 1 + look.texture * ground, 1.0)[..., None]
    canvas = Canvas(size, (np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    _near_things(rng, canvas, look, order[3:6], broken == "shadow")
    pixels = np.asarray(canvas.finish(), np.float32) / 255
    loudness = look.grain * rng.uniform(0.8, 1.2)
    return picture(pixels + loudness * _grain(rng, size, look, broken == look.noise)[..., None])


def _at(outline: Float[np.ndarray, "corner 2"], x: float, y: float) -> list[Point]:
    return [(px + x, py + y) for px, py in outline.tolist()]


def _far_things(
    rng: np.random.Generator, canvas: Canvas, look: Look, colours: Sequence[Colour], water: Colour, broken: bool
) -> None:
    """Three things on the far bank and their reflections, the colours of which the water dims."""
    way, strength = look.ways["reflection"], look.strength
    odd, side = int(rng.integers(3)), int(rng.integers(2)) * 2 - 1
    for i, x in enumerate(np.array([0.19, 0.5, 0.81]) + rng.uniform(-0.05, 0.05, 3)):
        outline = np.array(SHAPES[look.shapes[int(rng.integers(len(look.shapes)))]]) * rng.uniform(0.07, 0.085)
        outline[:, 1] -= outline[:, 1].max()
        canvas.polygon(_at(outline, x, FAR), colours[i])
        mirrored = outline * (1, -1)
        colour = np.array(colours[i], float)
        if broken and i == odd:
            if way == "beside":
                mirrored = mirrored + np.array([side * 0.13 * strength, 0])
            elif way == "slanted":
                mirrored = mirrored + np.stack([mirrored[:, 1] * side * 1.1 * strength, 0 * mirrored[:, 1]], 1)
            elif way == "stretched":
                mirrored = mirrored * (1 - 0.4 * strength, 1 + 0.5 * strength)
            else:
                colour += strength * (np.array(colours[(i + 1) % 3], float) - colour)
        dimmed = rgb(0.65 * colour + 0.35 * np.array(water, float))
        canvas.polygon(_at(mirrored, x, FAR), dimmed)


def _near_things(rng: np.random.Generator, canvas: Canvas, look: Look, colours: Sequence[Colour], broken: bool) -> None:
    """Three things on the near bank, whose shadows one sun casts."""
    way, strength = look.ways["shadow"], look.strength
    odd, side = int(rng.integers(3)), int(rng.integers(2)) * 2 - 1
    sun = np.array([side * rng.uniform(0.75, 1.0), rng.uniform(0.25, 0.45)])
    turns = {"to the other side": (-1, 1), "upwards": (0.75, -1.5), "back and across": (-1, -1), "towards the front": 0}
    standing = []
    for i, x in enumerate(np.array([0.2, 0.5, 0.8]) + rng.uniform(-0.04, 0.04, 3)):
        base = rng.uniform(0.74, 0.86)
        outline = np.array(SHAPES[look.shapes[int(rng.integers(len(look.shapes)))]]) * rng.uniform(0.07, 0.085)
        outline[:, 1] -= outline[:, 1].max()
        cast = sun
        if broken and i == odd:
            other = np.array([0.1 * side, 0.85]) if turns[way] == 0 else sun * turns[way]
            cast = _between(sun, other, strength)
        height = -outline[:, 1]
        shadow = np.stack([outline[:, 0] + height * cast[0], height * cast[1]], 1)
        standing.append((base, _at(outline, x, base), _at(shadow, x, base), colours[i]))
    soil = rgb(0.45 * np.array(look.colours[2], float))
    for _, _, cast_there, _ in standing:
        canvas.polygon(cast_there, soil)
    for _, corners, _, colour in sorted(standing):
        canvas.polygon(corners, colour, outline=(25, 25, 25), width=0.004)


def _between(one: Direction, other: Direction, share: float) -> Direction:
    """A direction turned from one towards another, and as long as on the way."""
    start, end = np.arctan2(one[1], one[0]), np.arctan2(other[1], other[0])
    angle = start + share * ((end - start + np.pi) % (2 * np.pi) - np.pi)
    length = (1 - share) * np.hypot(*one) + share * np.hypot(*other)
    return length * np.array([np.cos(angle), np.sin(angle)])


def _ground(rng: np.random.Generator, size: int, look: Look, broken: bool) -> Field:
    """Blotches of mean 0 and spread 1; a break lets a piece of them come again and again."""
    whole, way, strength = _blotches(rng, size), look.ways["tiles"], look.strength
    if broken:
        low, side = round(WATER * size) + 1, max(6, round(0.18 * size))
        left, top = int(rng.integers(size - side)), int(rng.integers(low, max(low + 1, size - side)))
        tile = whole[top : top + side, left : left + side]
        again = (size // side + 2, size // side + 2)
        if way == "mirrored squares":
            tile = np.block([[tile, tile[:, ::-1]], [tile[::-1], tile[::-1, ::-1]]])
        elif way == "columns":
            tile, again = whole[:, left : left + side], (1, again[1])
        elif way == "rows":
            tile, again = whole[top : top + side // 2], (2 * again[0], 1)
        repeated = np.tile(tile, again)[:size, :size]
        whole = strength * repeated + np.sqrt(1 - strength**2) * whole
    below = whole[round(WATER * size) :]
    return (whole - below.mean()) / below.std()


def _blotches(rng: np.random.Generator, size: int) -> Field:
    field = gaussian_filter(rng.standard_normal((size, size), np.float32), size / 40)
    return np.tanh(3 * field / field.std())


def _grain(rng: np.random.Generator, size: int, look: Look, broken: bool) -> Field:
    """White noise and another one, both of variance 1: mixed alike all over or, if that is broken, unlike by parts.

    The mixture all over is the one that has the gradient energy of a mixture by parts.
    """
    turn, side = rng.uniform(0, 2 * np.pi), int(rng.integers(2)) * 2 - 1
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, size), np.linspace(-0.5, 0.5, size))
    part = np.cos(turn) * x + np.sin(turn) * y > rng.uniform(-0.15, 0.15)
    other = (_lattice if look.noise == "grid" else _coloured)(rng, size, look.ways[look.noise])
    white = rng.standard_normal((size, size), np.float32)
    other = (other / other.std()).astype(np.float32)

    def mixed(share: Field | np.float32) -> Field:
        return np.sqrt(share) * other + np.sqrt(1 - share) * white

    by_parts = mixed((0.5 + np.where(part, side, -side) * 0.4 * look.strength).astype(np.float32))
    if broken:
        return by_parts
    energy, low, high = _energy(by_parts), 0.0, 1.0
    falls = _energy(other) < _energy(white)
    for _ in range(5):
        middle = (low + high) / 2
        low, high = (middle, high) if (_energy(mixed(np.float32(middle))) > energy) == falls else (low, middle)
    return mixed(np.float32((low + high) / 2))


def _energy(field: Field) -> float:
    """Mean absolute difference of neighbouring pixels in both directions."""
    return float(np.abs(np.diff(field, axis=0)).mean() + np.abs(np.diff(field, axis=1)).mean())


def _lattice(rng: np.random.Generator, size: int, way: str) -> Field:
    at = np.arange(size) // max(1, size // 80)
    wave, other = np.where(at % 2, 1.0, -1.0), np.where(at // 2 % 2, 1.0, -1.0)
    if way == "rows":
        return np.broadcast_to(wave[:, None], (size, size))
    if way == "columns":
        return np.broadcast_to(wave, (size, size))
    return other[:, None] * other if way == "chequered" else np.maximum(other[:, None], other)


def _coloured(rng: np.random.Generator, size: int, way: str) -> Field:
    if way == "blocky":
        side = max(2, size // 40)
        small = rng.normal(size=(size // side + 1, size // side + 1))
        return np.kron(small, np.ones((side, side)))[:size, :size]
    width = max(1.0, size / 80)
    blurs = {"coarse": (width, width), "streaked": (0.0, 2 * width), "vertical": (2 * width, 0.0)}
    return gaussian_filter(rng.standard_normal((size, size), np.float32), blurs[way])
