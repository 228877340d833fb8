"""Questions about the pictures that come with the package: what food, what colour, what animal, whose flag.

The bundled model names many of these drawings and flags and hardly any shape of easy-vqa, so that these questions show
what a task vector does where the picture is understood. Splits are those of the built-in tasks. A food of which several
colours are accepted is not asked for its colour, as VQA accuracy would take its aliases for people.
"""

from __future__ import annotations

from collections.abc import Iterator

from interp.tasks.base import Item, Split
from interp.tasks.loader import load_task
from interp.tasks.vqa.files import Question, QuestionSet

_ASKED = {
    "country-capital": "which country has this flag?",
    "animal-young": "what animal is this?",
    "food-color": "what food is this?",
}
"""A task of each family of pictures, and the question for its inputs."""


def picture_questions(split: Split) -> QuestionSet:
    """All questions about the built-in pictures of a split."""
    found, source = [], None
    for name, asked in _ASKED.items():
        task = load_task(name)
        source = source or task.source
        for item in task.split(split):
            found += list(_questions(item, task.family, asked, colour=name == "food-color"))
    assert source is not None
    return QuestionSet("built-in pictures", tuple(found), source.parent)


def _questions(item: Item, family: str, asked: str, *, colour: bool) -> Iterator[Question]:
    assert item.image is not None
    name = f"{family}/{item.input}"
    article = "an" if item.input[0].lower() in "aeiou" else "a"
    caption = f"the flag of {item.input}" if family == "countries" else f"a drawing of {article} {item.input}"
    yield Question(f"{name}, kind", asked, item.image, name, (item.input,), caption)
    if colour and len(item.outputs) == 1:
        yield Question(f"{name}, color", "what color is this food?", item.image, name, item.outputs, caption)
