"""The control of a vision-language dose without a task: pictures with one true sentence about each.

A model that is trained on them sees as many pictures and as many texts as one that is trained on a task, but neither
options nor letters.
"""

from __future__ import annotations

from typing import Any, ClassVar

from interp.errors import CrosstaskError
from interp.images import Image
from interp.tasks.perception.base import Draft, Form, MarkStyle, PerceptionTask, Request, Split, generator
from interp.tasks.perception.drawing.canvas import Point
from interp.tasks.perception.drawing.frames import free_place
from interp.tasks.perception.drawing.things import choose_things, ground
from interp.tasks.perception.items import PerceptionItem

PROMPT = "Describe the image."


class Caption(PerceptionTask):
    """Pictures of two or three things with a sentence that names them and where they are."""

    name, title, abbreviation, level, granularity = "caption", "Caption", "CP", "low", "image"
    forms: ClassVar = {"words": 0}
    modules = frozenset({"objects", "layout"})
    core = False

    def item(
        self,
        split: Split,
        index: int,
        *,
        form: Form | None = None,
        difficulty: float = 0.5,
        size: int = 224,
        seed: int = 0,
        marks: MarkStyle = "red",
    ) -> PerceptionItem:
        """A picture, "Describe the image.", and as `reply` a description; it has no options.

        Raises:
            CrosstaskError: a form other than "words", or a value out of range.
        """
        form = form or self.form
        self._check(split, form, index, difficulty, size)
        rng = generator("item", self.name, split, seed, index)
        draft = self.draw(Request(form, split, 0, difficulty, size, marks, rng))
        return PerceptionItem(
            name=f"{self.name}/{form}/{split}/{seed}/{index}",
            task=self.name,
            images=tuple(Image(pixels=picture) for picture in draft.images),
            question=draft.question,
            options=(),
            key=0,
            reply=draft.meta["truth"]["sentence"],
            meta={**draft.meta, "form": form, "split": split, "difficulty": difficulty},
        )

    def draw(self, request: Request) -> Draft:
        """Two things, with growing difficulty more often three, and the sentence in `meta["truth"]`."""
        rng = request.rng
        n = 2 + int(rng.random() < request.difficulty)
        things = choose_things(request, n)
        size = request.dial(0.34, 0.24)
        margin = size * 0.6
        places: list[Point] = []
        canvas = ground(request, roughness=request.dial(0.2, 1.0))
        for thing in things:
            place = free_place(request, places, low=(margin,) * 2, high=(1 - margin,) * 2, gap=1.3 * size)
            places.append(place)
            thing.draw(canvas, thing.box(place, size), mirrored=bool(rng.random() < 0.5))
        names = [_with_article(str(thing)) for thing in things]
        sentence = f"{names[0].capitalize()} is {_where(places[0], places[1])} {names[1]}"
        sentence += f", and there is {names[2]}." if n == 3 else "."
        truth: dict[str, Any] = {"sentence": sentence, "places": dict(zip(map(str, things), places, strict=True))}
        return Draft([canvas.finish()], PROMPT, [], {"truth": truth, "contents": {"things": list(map(str, things))}})

    def oracle(self, item: PerceptionItem) -> int:
        """There is none.

        Raises:
            CrosstaskError: always.
        """
        raise CrosstaskError(f"{self.name} asks no question: item {item.name!r} has no options")


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _where(first: Point, second: Point) -> str:
    """Where the first place is, seen from the second, along the axis on which they differ more."""
    dx, dy = first[0] - second[0], first[1] - second[1]
    if abs(dx) > abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


TASK = Caption()
