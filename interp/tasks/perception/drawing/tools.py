"""Tools as part graphs: a hub, arms, and at the end of each arm a part that serves one action or two.

The part graph is a star (hub - arm - part); what a part is for follows from its shape alone. A family (a seed) fixes
colours and how the shapes of its parts are stretched, so that two families show an action by unlike shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from interp.tasks.perception.drawing.canvas import Canvas, Colour, Point, moved, regular
from interp.tasks.perception.drawing.colour import hsv

Layers = list[tuple[list[Point], str]]
"""Outlines from back to front, each with the name of its colour in a `Family`."""


@dataclass(frozen=True)
class Family:
    """What the parts of a tool have in common: stretch along and across an arm, number of teeth, colours."""

    long: float
    wide: float
    teeth: int
    metal: Colour
    wood: Colour
    dark: Colour


def family(seed: int, *, variety: float) -> Family:
    """The family that belongs to a seed; variety 0 (shapes as usual) to 1 (stretched far)."""
    rng = np.random.default_rng(seed)
    long, wide = np.exp(rng.uniform(-0.3, 0.3, 2) * variety)
    teeth = int(rng.integers(4, 7))
    metal = hsv(rng.uniform(), rng.uniform(0.1, 0.75), rng.uniform(0.75, 0.95))
    wood = hsv(rng.uniform(), rng.uniform(0.4, 0.8), rng.uniform(0.45, 0.8))
    return Family(float(long), float(wide), teeth, metal, wood, hsv(rng.uniform(), 0.5, 0.15))


def _arc(radius: float, start: float, end: float, *, at: Point = (0.0, 0.0), n: int = 18) -> list[Point]:
    angles = np.linspace(start, end, n)
    return [(at[0] + radius * math.cos(a), at[1] + radius * math.sin(a)) for a in angles]


def _grip(kind: Family) -> Layers:
    layers: Layers = [([(-0.1, -0.2), (0.95, -0.26), (1.05, 0.0), (0.95, 0.26), (-0.1, 0.2)], "wood")]
    for x in (0.15, 0.4, 0.65):
        layers.append(([(x, -0.21), (x + 0.1, -0.22), (x + 0.1, 0.22), (x, 0.21)], "dark"))
    return layers


def _blade(kind: Family) -> Layers:
    return [
        ([(0.0, -0.12), (0.35, -0.12), *_arc(0.75, -0.95, 0.95, at=(0.3, 0.0)), (0.35, 0.12), (0.0, 0.12)], "metal"),
        ([*_arc(0.75, -0.95, 0.95, at=(0.3, 0.0)), *_arc(0.75, 0.8, -0.8, at=(0.18, 0.0))], "light"),
    ]


def _spike(kind: Family) -> Layers:
    return [([(-0.1, -0.16), (1.2, 0.0), (-0.1, 0.16)], "metal"), ([(0.1, 0.0), (1.2, 0.0), (0.1, 0.12)], "light")]


def _bowl(kind: Family) -> Layers:
    return [
        (regular(28, (0.5, 0.0), 0.52), "metal"),
        (regular(28, (0.52, 0.0), 0.4), "dark"),
        (regular(28, (0.6, 0.0), 0.3), "shade"),
    ]


def _spout(kind: Family) -> Layers:
    outline = [(-0.1, -0.32), (0.55, -0.2), (1.0, -0.42), (1.0, 0.12), (0.55, 0.2), (-0.1, 0.32)]
    return [(outline, "metal"), (moved(regular(20, (0, 0), 0.2), by=(0.98, -0.15)), "dark")]


def _ring(kind: Family) -> Layers:
    return [(regular(28, (0.42, 0.0), 0.42), "metal"), (regular(28, (0.42, 0.0), 0.24), "hole")]


def _claw(kind: Family) -> Layers:
    layers: Layers = [([(-0.1, -0.14), (0.3, -0.6), (0.45, -0.6), (0.45, 0.6), (0.3, 0.6), (-0.1, 0.14)], "metal")]
    for y in np.linspace(-0.5, 0.5, kind.teeth - 1).tolist():
        layers.append(([(0.4, y - 0.09), (0.95, y), (0.4, y + 0.09)], "metal"))
    return layers


def _face(kind: Family) -> Layers:
    return [
        ([(0.0, -0.5), (0.55, -0.5), (0.55, 0.5), (0.0, 0.5)], "metal"),
        ([(0.55, -0.58), (0.75, -0.58), (0.75, 0.58), (0.55, 0.58)], "shade"),
    ]


def _bristles(kind: Family) -> Layers:
    layers: Layers = []
    for y in np.linspace(-0.5, 0.5, kind.teeth + 4).tolist():
        layers.append(([(0.3, y * 0.8 - 0.035), (0.98, y - 0.045), (0.98, y + 0.045), (0.3, y * 0.8 + 0.035)], "light"))
    return [*layers, ([(0.0, -0.3), (0.35, -0.48), (0.35, 0.48), (0.0, 0.3)], "wood")]


def _loop(kind: Family) -> Layers:
    outer = [
        (-0.1, -0.12),
        (0.2, -0.5),
        (0.85, -0.55),
        (1.05, -0.4),
        (1.05, 0.4),
        (0.85, 0.55),
        (0.2, 0.5),
        (-0.1, 0.12),
    ]
    inner = [(0.22, -0.3), (0.72, -0.34), (0.72, 0.34), (0.22, 0.3)]
    return [(outer, "wood"), (inner, "hole"), ([(0.8, -0.12), (1.0, -0.12), (1.0, 0.12), (0.8, 0.12)], "dark")]


def _knife(kind: Family) -> Layers:
    return [
        ([(-0.1, -0.24), (0.5, -0.26), (1.25, 0.22), (-0.1, 0.22)], "metal"),
        ([(0.0, 0.08), (0.9, 0.08), (1.25, 0.22), (0.0, 0.22)], "light"),
    ]


def _ladle(kind: Family) -> Layers:
    return [
        ([*_arc(0.5, 0.5, 2 * math.pi - 0.5, at=(0.45, 0.0)), (1.3, 0.0)], "metal"),
        ([*_arc(0.37, 0.5, 2 * math.pi - 0.5, at=(0.45, 0.0)), (1.1, 0.0)], "dark"),
    ]


def _hook(kind: Family) -> Layers:
    outer, inner = _arc(0.48, -2.4, 2.0, at=(0.5, 0.0)), _arc(0.25, 2.0, -2.4, at=(0.5, 0.0))
    return [([(-0.1, -0.12), *outer, *inner, (-0.1, 0.1)], "metal")]


def _hatchet(kind: Family) -> Layers:
    return [
        ([(-0.2, -0.55), (0.75, -0.55), (0.75, -0.38), (-0.2, -0.38)], "shade"),
        ([(-0.1, -0.38), (0.65, -0.38), (0.65, 0.1), (0.95, 0.58), (-0.4, 0.58), (-0.1, 0.1)], "metal"),
        ([(0.88, 0.46), (0.95, 0.6), (-0.4, 0.6), (-0.33, 0.46)], "light"),
    ]


SINGLE: dict[str, Callable[[Family], Layers]] = {
    "hold": _grip,
    "cut": _blade,
    "poke": _spike,
    "scoop": _bowl,
    "pour": _spout,
    "hang up": _ring,
    "rake": _claw,
    "hit": _face,
    "sweep": _bristles,
}
"""Action -> the part that serves it alone."""
DOUBLE: dict[tuple[str, str], Callable[[Family], Layers]] = {
    ("hold", "hang up"): _loop,
    ("cut", "poke"): _knife,
    ("scoop", "pour"): _ladle,
    ("rake", "hang up"): _hook,
    ("cut", "hit"): _hatchet,
}
"""Two actions -> the part that serves both."""


@dataclass(frozen=True)
class Arm:
    """An arm of a tool: its direction (radians), length, bend, and the part at its end."""

    direction: float
    length: float
    bend: float
    part: Callable[[Family], Layers]


def draw_tool(
    canvas: Canvas, kind: Family, arms: Sequence[Arm], *, hub: Point, radius: float, size: float, hole: Colour
) -> list[Point]:
    """Draw a tool; returns a point on each arm's part, in order.

    Args:
        canvas: to draw on.
        kind: colours and shapes.
        arms: of the tool.
        hub: its middle.
        radius: of the hub.
        size: length of a part.
        hole: colour that shows through rings.
    """
    colours = {"metal": kind.metal, "wood": kind.wood, "dark": kind.dark, "hole": hole}
    red, green, blue = kind.metal
    colours["light"] = (min(255, red + 60), min(255, green + 60), min(255, blue + 60))
    colours["shade"] = (round(red * 0.65), round(green * 0.65), round(blue * 0.65))
    ends = []
    for arm in arms:
        middle = _off(hub, arm.direction, arm.length * 0.55)
        end = _off(middle, arm.direction + arm.bend, arm.length * 0.45)
        canvas.line([hub, middle, end], kind.dark, width=0.05)
        canvas.line([hub, middle, end], kind.wood, width=0.032)
        ends.append(end)
    canvas.ellipse(hub, (radius, radius), kind.wood, outline=kind.dark, width=0.01)
    points = []
    for arm, end in zip(arms, ends, strict=True):
        turn = arm.direction + arm.bend
        layers = [([(x * kind.long, y * kind.wide) for x, y in outline], name) for outline, name in arm.part(kind)]
        for outline, name in layers:
            placed = moved(outline, by=end, turn=turn, scale=size)
            canvas.polygon(placed, colours[name], outline=kind.dark, width=0.008)
        points.append(_off(end, turn, 0.55 * size * kind.long))
    return points


def _off(start: Point, direction: float, length: float) -> Point:
    return start[0] + length * math.cos(direction), start[1] + length * math.sin(direction)
