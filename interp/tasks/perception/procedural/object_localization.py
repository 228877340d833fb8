"""Object Localization: which of two boxes encloses the named thing tightly?

Two boxes are drawn from one distribution, as two jitters of a common one (BLINK takes the wrong box as a jitter of the
right one, which makes the two unlike); then the thing is stretched to fill one of them. Size, shape, place, colour and
letter of a box thus say nothing about whether it is right, and wrong boxes are too large, too small or beside alike.
Both forms show both boxes: beside one box alone, the area of the thing's colour against the length of the frame told
in part whether it fits.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float

from interp.tasks.perception.base import Draft, MarkStyle, PerceptionTask, Request
from interp.tasks.perception.drawing.canvas import Canvas, Colour
from interp.tasks.perception.drawing.things import Box, Thing, choose_things, ground
from interp.tasks.perception.items import LETTERS, PerceptionItem

FRAMES: dict[MarkStyle, dict[str, Colour]] = {
    "red": {"red": (230, 20, 20), "blue": (20, 60, 230)},
    "neutral": {"white": (250, 250, 250), "black": (0, 0, 0)},
}
"""Style of marks -> the two frames by their names."""


class ObjectLocalization(PerceptionTask):
    """Which box fits."""

    name, title, abbreviation, level, granularity = "object_localization", "Object Localization", "OL", "mid", "crop"
    forms: ClassVar = {"marks": 2, "yes_no": 2}
    modules = frozenset({"objects", "layout", "mask"})

    def draw(self, request: Request) -> Draft:
        """A thing that fills one of two boxes, and others about it."""
        rng = request.rng
        thing, *others = choose_things(request, 1 + round(request.dial(1, 4)))
        right, wrong = _boxes(rng, thing.aspect, shared=request.dial(0.28, 0.78))
        canvas = ground(request, roughness=request.dial(0.2, 1.0))
        hull = (min(right[0], wrong[0]), min(right[1], wrong[1]), max(right[2], wrong[2]), max(right[3], wrong[3]))
        for other in others:
            _aside(request, canvas, other, hull)
        thing.draw(canvas, right, mirrored=bool(rng.random() < 0.5), width=0.004)
        looks = [list(FRAMES[request.marks])[i] for i in rng.permutation(2)]
        boxes = request.at_places([right, wrong])
        # Colours, corners of the letters, and which frame covers the other are at random for the first and second box
        corners, order = rng.permutation(4), rng.permutation(2)
        for i in order:
            letter = LETTERS[i] if request.form == "marks" else ""
            _frame(canvas, boxes[i], request.marks, letter=letter, look=looks[i], corner=int(corners[i]))
        if request.form == "marks":
            question, options = f"Which box fits the {thing} tightly?", ["Box A", "Box B"]
        else:
            question, options = f"Does the {looks[0]} box fit the {thing} tightly?", ["yes", "no"]
        truth = {"thing": list(right), "boxes": [list(box) for box in boxes]}
        contents = [str(one) for one in (thing, *others)]
        meta = {"truth": truth, "marks": truth["boxes"], "contents": contents}
        return Draft([canvas.finish()], question, options, meta)

    def oracle(self, item: PerceptionItem) -> int:
        """The box that overlaps more with the thing's extent; yes if it is the one asked about, which is the first."""
        truth = item.meta["truth"]
        first, second = (float(overlap(np.array(box), np.array(truth["thing"]))) for box in truth["boxes"])
        texts = ("Box A", "Box B") if item.meta["form"] == "marks" else ("yes", "no")
        return item.options.index(texts[int(second > first)])


def overlap(one: Float[np.ndarray, "*n 4"], other: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
    """Intersection over union of boxes (x0, y0, x1, y1)."""
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    common = np.maximum(sides, 0).prod(axis=-1)
    areas = sum((box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (one, other))
    return common / (areas - common)


def _boxes(rng: np.random.Generator, aspect: float, *, shared: float) -> tuple[Box, Box]:
    """Two boxes of the same distribution whose intersection over union is near a value."""
    scales = np.linspace(0.01, 0.5, 50)[:, None]
    stretch = np.clip(aspect, 0.65, 1.5) ** 0.5
    while True:
        size, centre = rng.uniform(0.32, 0.5), rng.uniform(0.32, 0.68, 2)
        sides = np.array([size * stretch, size / stretch])
        base = np.concatenate([centre - sides / 2, centre + sides / 2])
        # The larger the jitter the less they share; both are as likely to be either
        one, two = (base + rng.uniform(-1, 1, 4) * np.tile(sides, 2) * scales for _ in range(2))
        at = int(np.abs(overlap(one, two) - shared).argmin())
        pair = np.stack([one[at], two[at]])
        fits = (pair[:, 2:] - pair[:, :2]).min() > 0.15 and pair.min() > 0.03 and pair.max() < 0.97
        if fits and abs(overlap(pair[0], pair[1]) - shared) < 0.04:
            (a, b, c, d), (e, f, g, h) = pair.tolist()
            return (a, b, c, d), (e, f, g, h)


def _aside(request: Request, canvas: Canvas, other: Thing, hull: Box) -> None:
    """A small thing outside both boxes, if there is room."""
    size = float(request.rng.uniform(0.12, 0.2))
    for x, y in request.rng.uniform(size / 2, 1 - size / 2, (12, 2)).tolist():
        box = other.box((x, y), size)
        if box[2] < hull[0] or box[0] > hull[2] or box[3] < hull[1] or box[1] > hull[3]:
            other.draw(canvas, box)
            return


def _frame(canvas: Canvas, box: Box, style: MarkStyle, *, letter: str, look: str, corner: int) -> None:
    """The four sides of a box in a casing, and its letter at a corner."""
    colour = FRAMES[style][look]
    contrast: Colour = (255, 255, 255) if look == "black" else (0, 0, 0)
    x0, y0, x1, y1 = box
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    canvas.polygon(corners, None, outline=contrast, width=0.022)
    canvas.polygon(corners, None, outline=colour, width=0.012)
    if letter:
        canvas.plate(corners[corner], letter, fill=colour, ink=(0, 0, 0) if look == "white" else (255, 255, 255))


TASK = ObjectLocalization()
