"""Four-legged animals with named keypoints, drawn from the side or from above.

An animal is a vector of proportions (a species), a pose and a coat. It is built about the origin with the head at +x,
about one unit long; from the side its back is at -y. `Stance` then turns, mirrors and places it in a picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from interp.tasks.perception.drawing.canvas import Canvas, Colour, Point, moved
from interp.tasks.perception.drawing.colour import hsv

Plan = Literal["side", "top"]
TWINS: dict[Plan, list[tuple[str, str]]] = {
    "side": [("front paw", "hind paw")],
    "top": [
        ("left front paw", "right front paw"),
        ("left hind paw", "right hind paw"),
        ("left ear", "right ear"),
    ],
}
"""Keypoints that look alike, by plan of the body."""
SINGLES: dict[Plan, list[str]] = {"side": ["nose", "ear", "tail"], "top": ["nose", "tail"]}


@dataclass(frozen=True)
class Species:
    """Proportions, as parts of the unit; angles in radians."""

    length: float
    girth: float
    leg: float
    leg_width: float
    neck: float
    neck_angle: float
    head: float
    snout: float
    ear: float
    ear_width: float
    tail: float
    tail_width: float


_RANGES = {
    "length": (0.48, 0.66),
    "girth": (0.17, 0.3),
    "leg": (0.22, 0.4),
    "leg_width": (0.05, 0.09),
    "neck": (0.14, 0.34),
    "neck_angle": (0.3, 1.1),
    "head": (0.09, 0.125),
    "snout": (0.12, 0.22),
    "ear": (0.18, 0.3),
    "ear_width": (0.05, 0.1),
    "tail": (0.28, 0.52),
    "tail_width": (0.035, 0.08),
}


def species(seed: int) -> Species:
    """The proportions that belong to a seed."""
    rng = np.random.default_rng(seed)
    return Species(**{name: float(rng.uniform(*_RANGES[name])) for name in _RANGES})


def between(first: Species, second: Species, share: float) -> Species:
    """Proportions on the way from one species (share 0) to another (share 1)."""
    return Species(
        **{f.name: (1 - share) * getattr(first, f.name) + share * getattr(second, f.name) for f in fields(Species)}
    )


@dataclass(frozen=True)
class Coat:
    """Colours of body, of ends (paws, ears), and of the outline."""

    body: Colour
    ends: Colour
    outline: Colour


def coat(seed: int) -> Coat:
    """The coat that belongs to a seed."""
    rng = np.random.default_rng(seed)
    hue, light = rng.uniform(), rng.uniform(0.6, 0.97)
    body = hsv(hue, rng.uniform(0.25, 0.85), light)
    ends = hsv(hue + rng.uniform(-0.12, 0.12), rng.uniform(0.25, 0.9), light * rng.uniform(0.55, 0.8))
    return Coat(body, ends, hsv(rng.uniform(), 0.4, 0.13))


@dataclass(frozen=True)
class Stance:
    """Where an animal is: turned (radians), mirrored, scaled about its origin, and moved."""

    place: Point
    turn: float
    scale: float
    mirrored: bool = False

    def __call__(self, points: Sequence[Point]) -> list[Point]:
        flipped = [(-x, y) if self.mirrored else (x, y) for x, y in points]
        return moved(flipped, by=self.place, turn=self.turn, scale=self.scale)


@dataclass(frozen=True)
class Animal:
    """Limbs (points, width, colour), ovals and flaps (outline, colour), and where its keypoints are."""

    limbs: Sequence[tuple[list[Point], float, Colour]]
    shapes: Sequence[tuple[list[Point], Colour]]
    eyes: Sequence[Point]
    keypoints: Mapping[str, Point]
    coat: Coat

    def draw(self, canvas: Canvas, stance: Stance) -> dict[str, Point]:
        """Draw it with an outline about the whole; returns the keypoints in the picture."""
        edge = 0.016
        for points, width, _ in self.limbs:
            _limb(canvas, stance(points), width * stance.scale + edge, self.coat.outline)
        for outline, _ in self.shapes:
            canvas.polygon(stance(outline), self.coat.outline, outline=self.coat.outline, width=edge)
        for points, width, colour in self.limbs:
            _limb(canvas, stance(points), width * stance.scale, colour)
        for outline, colour in self.shapes:
            canvas.polygon(stance(outline), colour)
        for eye in stance(self.eyes):
            canvas.ellipse(eye, (0.016 * stance.scale / 0.6,) * 2, (250, 250, 250))
            canvas.ellipse(eye, (0.009 * stance.scale / 0.6,) * 2, (15, 15, 15))
        return dict(zip(self.keypoints, stance(list(self.keypoints.values())), strict=True))


def animal(kind: Species, colours: Coat, plan: Plan, rng: np.random.Generator, *, limber: float) -> Animal:
    """An animal in a random pose; limber 0 stands straight, 1 bends its limbs far."""
    return (_side if plan == "side" else _top)(kind, colours, rng, limber)


def _side(kind: Species, colours: Coat, rng: np.random.Generator, limber: float) -> Animal:
    half, thick = kind.length / 2, kind.girth / 2
    shoulder, hip = (half * 0.72, thick * 0.3), (-half * 0.72, thick * 0.3)
    limbs: list[tuple[list[Point], float, Colour]] = []
    shapes: list[tuple[list[Point], Colour]] = []
    paws = []
    for start in (shoulder, hip):
        swing, knee = rng.uniform(-0.4, 0.4, 2) * limber
        middle = _off(start, math.pi / 2 + swing, kind.leg * 0.5)
        paw = _off(middle, math.pi / 2 + swing + knee, kind.leg * 0.5)
        limbs.append(([start, middle, paw], kind.leg_width, colours.body))
        shapes.append((_oval((paw[0] + 0.02, paw[1]), kind.leg_width * 0.85, kind.leg_width * 0.6), colours.ends))
        paws.append(paw)
    up = -kind.neck_angle + float(rng.uniform(-0.35, 0.35)) * limber
    head = _off((half * 0.8, -thick * 0.3), up, kind.neck)
    nod = float(rng.uniform(-0.4, 0.4)) * limber + 0.2
    nose = _off(head, nod, kind.snout)
    ear_root = _off(head, nod - 2.0, kind.head * 0.6)
    ear = _off(ear_root, nod - 1.9 + float(rng.uniform(-0.3, 0.3)) * limber, kind.ear)
    limbs.append(([(half * 0.7, 0.0), head], kind.girth * 0.45, colours.body))
    limbs.append(([head, nose], kind.head * 0.85, colours.body))
    tail = _tail((-half * 0.95, -thick * 0.4), math.pi + 0.5, kind, rng, limber)
    limbs.append((tail, kind.tail_width, colours.body))
    flap = _flap(ear_root, ear, kind.ear_width)
    shapes += [(_oval((0.0, 0.0), half, thick), colours.body), (_oval(head, kind.head, kind.head * 0.9), colours.body)]
    shapes += [(flap, colours.ends), (_oval(nose, 0.035, 0.035), colours.outline)]
    keypoints = {
        "nose": nose,
        "ear": ear,
        "tail": tail[-1],
        "front paw": paws[0],
        "hind paw": paws[1],
    }
    return Animal(limbs, shapes, [_off(head, nod - 0.7, kind.head * 0.45)], keypoints, colours)


def _top(kind: Species, colours: Coat, rng: np.random.Generator, limber: float) -> Animal:
    half, thick = kind.length / 2, kind.girth / 2
    limbs: list[tuple[list[Point], float, Colour]] = []
    shapes: list[tuple[list[Point], Colour]] = []
    keypoints: dict[str, Point] = {}
    # seen from above with the head at +x, y pointing down: the left side is -y
    for end, at in (("front", half * 0.6), ("hind", -half * 0.6)):
        for side, sign in (("left", -1), ("right", 1)):
            swing, knee = rng.uniform(-0.5, 0.5, 2) * limber
            out = sign * (math.pi / 2 + swing - (0.3 if end == "front" else -0.3))
            middle = _off((at, sign * thick * 0.5), out, kind.leg * 0.5)
            paw = _off(middle, out + knee, kind.leg * 0.5)
            limbs.append(([(at, sign * thick * 0.5), middle, paw], kind.leg_width, colours.body))
            shapes.append((_oval(paw, kind.leg_width * 0.8, kind.leg_width * 0.65), colours.ends))
            keypoints[f"{side} {end} paw"] = paw
    look = float(rng.uniform(-0.5, 0.5)) * limber
    head = _off((half * 0.85, 0.0), look, kind.neck * 0.7)
    nose = _off(head, look, kind.snout)
    limbs += [([(half * 0.6, 0.0), head], kind.girth * 0.5, colours.body)]
    limbs += [([head, nose], kind.head * 0.9, colours.body)]
    shapes += [(_oval((0.0, 0.0), half, thick), colours.body), (_oval(head, kind.head, kind.head), colours.body)]
    eyes = []
    for side, sign in (("left", -1), ("right", 1)):
        root = _off(head, look + sign * 2.0, kind.head * 0.8)
        keypoints[f"{side} ear"] = _off(root, look + sign * 2.0, kind.ear * 0.75)
        shapes.append((_flap(root, keypoints[f"{side} ear"], kind.ear_width), colours.ends))
        eyes.append(_off(head, look + sign * 0.7, kind.head * 0.6))
    tail = _tail((-half * 0.95, 0.0), math.pi, kind, rng, limber)
    limbs.append((tail, kind.tail_width, colours.body))
    shapes.append((_oval(nose, 0.035, 0.035), colours.outline))
    keypoints |= {"nose": nose, "tail": tail[-1]}
    return Animal(limbs, shapes, eyes, keypoints, colours)


def _tail(root: Point, direction: float, kind: Species, rng: np.random.Generator, limber: float) -> list[Point]:
    bend = float(rng.uniform(-0.35, 0.35)) * limber
    points = [root]
    for step in range(5):
        points.append(_off(points[-1], direction + bend * (step + 0.5), kind.tail / 5))
    return points


def _off(start: Point, direction: float, length: float) -> Point:
    return start[0] + length * math.cos(direction), start[1] + length * math.sin(direction)


def _oval(centre: Point, a: float, b: float) -> list[Point]:
    angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return list(zip((centre[0] + a * np.cos(angles)).tolist(), (centre[1] + b * np.sin(angles)).tolist(), strict=True))


def _flap(root: Point, tip: Point, width: float) -> list[Point]:
    """A leaf from a root to a tip."""
    dx, dy = tip[0] - root[0], tip[1] - root[1]
    length = math.hypot(dx, dy)
    nx, ny = -dy / length * width / 2, dx / length * width / 2
    outline = []
    for along, side in ((0, 0.7), (0.4, 1.0), (0.8, 0.5), (1.0, 0.0), (0.8, -0.5), (0.4, -1.0), (0, -0.7)):
        outline.append((root[0] + along * dx + side * nx, root[1] + along * dy + side * ny))
    return outline


def _limb(canvas: Canvas, points: list[Point], width: float, colour: Colour) -> None:
    canvas.line(points, colour, width=width)
    for point in (points[0], points[-1]):
        canvas.ellipse(point, (width / 2, width / 2), colour)
