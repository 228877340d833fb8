"""Relative Depth: which of two marked points is closer to the camera?

A hall in perspective with posts that stand on its floor or hang from its ceiling; the marks are on two heads. Place,
size as it appears, colour and support of the two heads are drawn without regard to which is the nearer one, so that
lower, larger and brighter are each right half of the time. What tells the depth is where a stem meets the tiled floor
or ceiling, haze, the grain of a head's pattern, and what covers what.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import Canvas, Point
from interp.tasks.perception.drawing.room import Post, Room, look
from interp.tasks.perception.items import PerceptionItem

Support = Literal["floor", "ceiling"]
HALLS, LOOKS = range(400), range(1000, 1400)
"""Seeds of halls and of heads, which are divided among the splits."""


class RelativeDepth(PerceptionTask):
    """Which of two points is closer."""

    name, title, abbreviation, level, granularity = "relative_depth", "Relative Depth", "RD", "low", "pixel"
    forms: ClassVar = {"marks": 2, "yes_no": 2}
    modules = frozenset({"depth", "point"})

    def draw(self, request: Request) -> Draft:
        """A hall with two marked posts and some others."""
        rng = request.rng
        middle, horizon = float(rng.uniform(4.6, 5.4)), float(rng.uniform(0.45, 0.55))
        hall = request.choose(HALLS, salt="halls")
        heights, supports, away = _kind(rng)
        floor, ceiling = (float(height * rng.uniform(1.0, 1.15)) for height in heights)
        room = Room(request.size, hall, horizon=horizon, floor=floor, ceiling=ceiling, back=middle * 2.2)
        ratio = request.dial(2.6, 1.15) ** 0.5
        seeds = [request.choose(LOOKS, salt="looks") for _ in range(6)]
        columns = _columns(rng)
        free = _free(rng, round(request.dial(1, 4)), columns)
        depths = [middle / ratio, middle * ratio, *(middle * rng.uniform(0.65, 1.8, len(free))).tolist()]
        posts = [
            _post(rng, x, depth, horizon, seed, supports, away)
            for x, depth, seed in zip((*columns, *free), depths, seeds, strict=False)
        ]
        for post in posts:
            room.add(post)
        haze = float(rng.uniform(40, 80) if rng.random() < 0.5 else rng.uniform(190, 230))
        tint = rng.uniform(-15, 15, 3)
        pixels = room.finish(haze=tuple((haze + tint).tolist()), thickness=request.dial(0.15, 0.05))
        asked = int(rng.integers(2)) if request.form == "yes_no" else 0
        marked = request.at_places(posts[:2])[:: -1 if asked else 1]
        places: list[Point] = [(post.x, post.y) for post in marked]
        canvas = Canvas(request.size, pixels)
        canvas.marks(places, style=request.marks)
        if request.form == "marks":
            question, options = "Which point is closer to the camera?", ["A is closer", "B is closer"]
        else:
            names = "BA" if asked else "AB"
            question, options = f"Is point {names[0]} closer than point {names[1]}?", ["yes", "no"]
        luminance = [float(pixels[int(y * room.fine), int(x * room.fine)].mean()) for x, y in places]
        meta = {
            "truth": {"depths": [room.depth_at(x, y) for x, y in places], "asked": asked},
            "marks": [list(place) for place in places],
            "cues": {"luminance": luminance, "radius": [post.radius for post in marked]},
            "contents": {"halls": [hall], "looks": seeds},
        }
        return Draft([canvas.finish()], question, options, meta)

    def oracle(self, item: PerceptionItem) -> int:
        """The point of smaller depth."""
        depths, asked = item.meta["truth"]["depths"], item.meta["truth"]["asked"]
        nearest = int(depths[1] < depths[0])
        if item.meta["form"] == "marks":
            return item.options.index(("A is closer", "B is closer")[nearest])
        return item.options.index("yes" if nearest == asked else "no")


def _kind(rng: np.random.Generator) -> tuple[tuple[float, float], tuple[Support, ...], float]:
    """Heights of floor and ceiling, what bears the posts, and how far a head may be from the horizon.

    Where all posts are borne by one plane the other is far off, so that a head as high as it may be at the smallest
    depth is still in the hall at the largest: heads stand at places that say nothing about their depth.
    """
    kind = rng.random()
    if kind < 0.2:
        return (1.0, 1.0), ("floor", "ceiling"), 0.03
    return ((1.0, 2.1), ("floor",), 0.12) if kind < 0.6 else ((2.1, 1.0), ("ceiling",), 0.12)


def _post(
    rng: np.random.Generator,
    x: float,
    z: float,
    horizon: float,
    seed: int,
    supports: tuple[Support, ...],
    away: float,
) -> Post:
    support = supports[int(rng.integers(len(supports)))]
    off = float(rng.uniform(-0.01, away))
    radius = float(rng.uniform(0.075, 0.105))
    return Post(x, horizon + (-off if support == "floor" else off), radius, z, support, look(seed))


def _free(rng: np.random.Generator, n: int, columns: tuple[float, float]) -> list[float]:
    """Up to n places across at which a post covers neither mark."""
    found = []
    for tries in rng.uniform(0.05, 0.95, (n, 10)).tolist():
        found += [x for x in tries if min(abs(x - column) for column in columns) > 0.16][:1]
    return found


def _columns(rng: np.random.Generator) -> tuple[float, float]:
    """Where two posts stand across, far enough from each other for their labels."""
    apart = float(rng.uniform(0.24, 0.6))
    left = float(rng.uniform(0.12, 0.88 - apart))
    columns = (left, left + apart)
    return columns if rng.random() < 0.5 else columns[::-1]


TASK = RelativeDepth()
