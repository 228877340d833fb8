"""Multi-view Reasoning: which way did the camera move round the scene between two frames?

The camera moves on an orbit and looks at the middle of the scene, clockwise as seen from above to its own left and
counter-clockwise to its right, as in BLINK. The same two views in the other order show the other motion, so that
neither frame says anything by itself; the middle stays in the middle, but for a little unsteadiness of the camera.
Exposure and white balance differ between the frames: with equal colours a forest read the motion off frames of 8 x 8
pixels in 57 % of the items.
"""

from __future__ import annotations

import math
from typing import ClassVar

from interp.tasks.perception.base import Draft, PerceptionTask, Request
from interp.tasks.perception.drawing.orbit import Camera, scene
from interp.tasks.perception.items import PerceptionItem

SCENES = range(2000)
"""Seeds of scenes, which are divided among the splits."""
DIRECTIONS = ("left", "right")


class MultiViewReasoning(PerceptionTask):
    """The direction of the camera's motion."""

    name, title, abbreviation, level, granularity = "multi_view_reasoning", "Multi-view Reasoning", "MR", "mid", "image"
    forms: ClassVar = {"words": 2, "yes_no": 2}
    modules = frozenset({"view", "match", "order"})

    def draw(self, request: Request) -> Draft:
        """Two views of a scene."""
        rng = request.rng
        seed = request.choose(SCENES, salt="scenes")
        world = scene(
            seed,
            posts=round(request.dial(5, 1)),
            landmarks=round(request.dial(9, 4)),
            alike=request.dial(0.0, 0.6),
        )
        angle = math.radians(request.dial(40, 8) * float(rng.uniform(0.85, 1.15)))
        middle = float(rng.uniform(0, 2 * math.pi))
        shake = rng.uniform(-1, 1, (2, 2)) * request.dial(0.0, 0.04)
        asked = int(rng.integers(2)) if request.form == "yes_no" else 0
        motion = request.key if request.form == "words" else (asked + request.key) % 2
        azimuths = [middle - angle / 2, middle + angle / 2]
        views = []
        for azimuth, (x, y) in zip(azimuths, shake.tolist(), strict=True):
            red, green, blue = (rng.uniform(0.6, 1.1) * rng.uniform(0.85, 1.15, 3)).tolist()
            views.append(world.view(request.size, Camera(azimuth, shift=(x, y), gains=(red, green, blue))))
        if DIRECTIONS[motion] == "left":
            views, azimuths = views[::-1], azimuths[::-1]
        if request.form == "words":
            question, options = "Which way does the camera move from the first frame to the second?", list(DIRECTIONS)
        else:
            question = f"Does the camera move {DIRECTIONS[asked]} from the first frame to the second?"
            options = ["yes", "no"]
        truth = {"azimuths": azimuths, "asked": DIRECTIONS[asked]}
        return Draft(views, question, options, {"truth": truth, "contents": {"scenes": [seed]}})

    def oracle(self, item: PerceptionItem) -> int:
        """Right if the azimuth grows."""
        first, second = item.meta["truth"]["azimuths"]
        motion = DIRECTIONS[int(second > first)]
        if item.meta["form"] == "words":
            return item.options.index(motion)
        return item.options.index("yes" if motion == item.meta["truth"]["asked"] else "no")


TASK = MultiViewReasoning()
