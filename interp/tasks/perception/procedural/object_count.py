"""Object Count: how many things of one kind there are over all frames, each counted once.

After the object counts of VSI-Bench (Yang et al. 2025). Four kinds of things lie on a strip of ground, in four
consecutive numbers; frames overlap, so that the sum over frames counts some twice. As in Counting, the same frames are
asked about any of the kinds: they do not tell the key, and neither does the question.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from interp.tasks.perception.base import Draft, PerceptionTask, Request, Split
from interp.tasks.perception.drawing.frames import Placed, Strip, frames_of, starts
from interp.tasks.perception.drawing.things import choose_things
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.procedural.counting import option_of_count


class ObjectCount(PerceptionTask):
    """The number of things of a kind over frames."""

    name, title, abbreviation = "object_count", "Object Count", "OC"
    level, granularity = "high", "image"
    forms: ClassVar = {"words": 4, "yes_no": 2}
    modules = frozenset({"objects", "counting", "match", "order"})
    core = False

    def item(self, split: Split, index: int, **given: Any) -> PerceptionItem:
        """Draw one item; its `number` is the right count."""
        item = super().item(split, index, **given)
        truth = item.meta["truth"]
        return replace(item, number=float(truth["counts"][truth["asked"]]))

    def draw(self, request: Request) -> Draft:
        """Things in cells of a grid over the strip; frames show whole columns of it."""
        rng, n = request.rng, frames_of(request)
        least = round(request.dial(1, 3))
        sizes = [least + i for i in range(4)]
        names = choose_things(request, 4)
        counts = {str(thing): sizes[i] for thing, i in zip(names, rng.permutation(4).tolist(), strict=True)}
        rows = round(request.dial(3, 5))
        cell, step = 1 / rows, rows - round(request.dial(1, 2))
        columns = rows + step * (n - 1)
        strip = Strip(request, columns * cell)
        kinds = [thing for thing in names for _ in range(counts[str(thing)])]
        for thing, number in zip(kinds, rng.permutation(rows * columns).tolist(), strict=False):
            jitter = rng.uniform(-0.08, 0.08, 2) * cell
            x, y = (number // rows + 0.5) * cell + jitter[0], (number % rows + 0.5) * cell + jitter[1]
            size = float(rng.uniform(0.7, 0.8)) * cell
            strip.things.append(Placed(thing, (float(x), float(y)), size, bool(rng.random() < 0.5)))
        pictures = [strip.frame(start) for start in starts(request, step=step * cell, n=n)]
        of_size = {size: name for name, size in counts.items()}
        asked, other = (sizes[i] for i in rng.permutation(4)[:2])
        claimed = None
        if request.form == "words":
            kind = of_size[sizes[request.key]]
            question, options = f"How many {_plural(kind)} are there over all frames?", [str(size) for size in sizes]
        else:
            kind = of_size[asked]
            claimed = request.at_places([asked, other])[0]
            question, options = f"Over all frames, is the number of {_plural(kind)} {claimed}?", ["yes", "no"]
        truth = {"counts": counts, "asked": kind, "claimed": claimed}
        contents = {"things": [str(thing) for thing in names], "grounds": [strip.ground]}
        return Draft(pictures, question, options, {"truth": truth, "contents": contents})

    def oracle(self, item: PerceptionItem) -> int:
        """The count of the kind that is asked about."""
        return option_of_count(item)


def _plural(kind: str) -> str:
    return kind if kind.endswith("fish") else f"{kind}s"


TASK = ObjectCount()
