"""Question types, each a task: picture in, answer out, the question unwritten (Luo et al. 2025, in-the-wild tasks).

A type is a rule on the text of a question. Of the questions about one picture the first that fits is taken.

    food-class     VQAv2   what (kind | type | sort of) food is ...
    shirt-color    VQAv2   what color is / are the, his, her, this, that, their (... up to three words) shirt ...
    man-holding    VQAv2   what is the, this, that man | guy | gentleman holding ...
    colour         easy-vqa   what color is ..., what is the color of ...
    shape          easy-vqa   what shape ..., what is the teal shape
    presence       easy-vqa   is there a circle ...; as many pictures with one as without, so that chance is one half

The object of `presence` has to stay the same, since the question is not written; `presence-triangle` or `presence-red`
ask for something else. The questions that deny ("is there not ...") belong to no type.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interp.errors import CrosstaskError
from interp.scoring import normalise
from interp.tasks.base import Item, Split, Task
from interp.tasks.vqa.easy import COLOURS, SHAPES
from interp.tasks.vqa.files import Question, QuestionSet

SELECTION_SHARE = 0.4
MOST = 200
"""Items of a type in a split: more would be decoded and never asked."""


@dataclass(frozen=True)
class QuestionType:
    """A group of questions that ask the same of different pictures.

    Attributes:
        name: of the type.
        instruction: the question as an instruction, for the instruction vector.
        pattern: regular expression that the whole question fits, in lower case.
        balanced: take as many items of each answer.
    """

    name: str
    instruction: str
    pattern: str
    balanced: bool = False

    def fits(self, text: str) -> bool:
        """Whether a question belongs to the type."""
        return re.fullmatch(self.pattern, " ".join(text.lower().split())) is not None


def _presence(word: str, name: str) -> QuestionType:
    thing = rf"{word} shape" if word in COLOURS else word
    asked = rf"(?:is there an? {thing}(?: in the image)?|is an? {thing} present|does the image contain an? {thing})"
    return QuestionType(name, f"Whether there is a {thing}:", rf"{asked} ?\?", balanced=True)


EASY_TYPES: dict[str, QuestionType] = {
    "colour": QuestionType("colour", "The color of the shape:", r"what (?:color is|is the color of) .*"),
    "shape": QuestionType("shape", "The kind of shape:", r"what shape .*|what is the \w+ shape ?\?"),
    "presence": _presence("circle", "presence"),
}
_ON_REQUEST = {f"presence-{word}": _presence(word, f"presence-{word}") for word in (*SHAPES, *COLOURS)}
FILE_TYPES: dict[str, QuestionType] = {
    "food-class": QuestionType(
        "food-class", "The kind of food:", r"what (?:(?:kind|type|sort)s? of )?foods? (?:is|are)\b.*"
    ),
    "shirt-color": QuestionType(
        "shirt-color",
        "The color of the shirt:",
        r"what colou?r (?:is|are) (?:the|his|her|this|that|their)\b(?: [\w'’-]+){0,3} (?:t-|t )?shirts?\b.*",
    ),
    "man-holding": QuestionType(
        "man-holding",
        "What the man is holding:",
        r"what(?: is|'s|’s) (?:the|this|that) (?:man|guy|gentleman) holding\b.*",
    ),
}


@dataclass(frozen=True)
class TypeTask:
    """A question type as a task, with what people answered.

    Attributes:
        task: its items are named after their pictures; accepted answers are those that enough people gave.
        people: name of an item -> everybody's answer, for VQA accuracy.
    """

    task: Task
    people: dict[str, tuple[str, ...]]


def question_type(name: str, *, easy: bool) -> QuestionType:
    """The type of this name.

    Raises:
        CrosstaskError: there is none for this kind of data.
    """
    known = EASY_TYPES | _ON_REQUEST if easy else FILE_TYPES
    if name not in known:
        data = "easy-vqa" if easy else "VQAv2 and OK-VQA files"
        others = " (and presence-<a shape or a colour>)" if easy else ""
        listed = ", ".join(EASY_TYPES if easy else FILE_TYPES)
        raise CrosstaskError(f"there is no question type {name!r} for {data}; expected {listed}{others}.")
    return known[name]


def type_task(kind: QuestionType, sets: Sequence[tuple[QuestionSet, Split | None]]) -> TypeTask:
    """The task of a type.

    Args:
        kind: the type.
        sets: questions with the split that they belong to; None divides their pictures, 40 % for selection, by a hash
            of their names.

    Raises:
        CrosstaskError: no question fits.
    """
    chosen: dict[str, tuple[Question, Split]] = {}
    for questions, split in sets:
        for question in questions.questions:
            if question.image_name not in chosen and kind.fits(question.text):
                chosen[question.image_name] = (question, split or split_of(question.image_name))
    if not chosen:
        files = " and ".join(str(questions.source) for questions, _ in sets)
        raise CrosstaskError(f"no question of {files} is of the type {kind.name!r} ({kind.pattern}).")
    items = [item(question, split) for question, split in chosen.values()]
    kept = [one for split in ("selection", "test") for one in _first([i for i in items if i.split == split], kind)]
    first = sets[0][0]
    task = Task(kind.name, first.name, tuple(kept), kind.instruction, first.source)
    return TypeTask(task, {one.input: chosen[one.input][0].answers for one in kept})


def item(question: Question, split: Split) -> Item:
    """A question's picture with its accepted answers."""
    return Item(question.image_name, question.accepted, question.image, split, question.caption)


def _first(items: Iterable[Item], kind: QuestionType) -> list[Item]:
    """At most `MOST` items, in the order of a hash of their names; balanced types take the answers in turn."""
    ordered = sorted(items, key=lambda one: hashlib.sha256(one.input.encode()).digest())
    if not kind.balanced:
        return ordered[:MOST]
    groups: dict[str, list[Item]] = {}
    for one in ordered:
        groups.setdefault(normalise(one.outputs[0]), []).append(one)
    turns = zip(*groups.values(), strict=False)
    return [one for turn in turns for one in turn][:MOST] if len(groups) > 1 else ordered[:MOST]


def split_of(name: str) -> Split:
    """The split of a picture, by a hash of its name."""
    share = int.from_bytes(hashlib.sha256(f"split {name}".encode()).digest()[:8], "big") / 2**64
    return "selection" if share < SELECTION_SHARE else "test"
