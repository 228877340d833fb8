"""Question types, each a task: picture in, answer out, the question unwritten (Luo et al. 2025, in-the-wild tasks).

A type is a rule on the text of a question. Of the questions about one picture the first that fits is taken.

    food-class     VQAv2   what (kind | type | sort of) food is ...
    shirt-color    VQAv2   what color is / are the, his, her, this, that, their (... up to three words) shirt ...
    man-holding    VQAv2   what is the, this, that man | guy | gentleman holding ...
    colour         easy-vqa   what color is ..., what is the color of ...
    shape          easy-vqa   what shape ..., what is the teal shape
    presence       easy-vqa   is there a circle ...; as many pictures with one as without, so that chance is one half
    food-class     built-in pictures   what food is this
    food-color     built-in pictures   what color is this food
    animal-class   built-in pictures   what animal is this
    flag-country   built-in pictures   which country has this flag

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
PICTURE_TYPES: dict[str, QuestionType] = {
    "food-class": QuestionType("food-class", "The kind of food:", r"what food is this\?"),
    "food-color": QuestionType("food-color", "The color of the food:", r"what color is this food\?"),
    "animal-class": QuestionType("animal-class", "The kind of animal:", r"what animal is this\?"),
    "flag-country": QuestionType("flag-country", "The country of the flag:", r"which country has this flag\?"),
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
        asked: name of an item -> the text of its question.
    """

    task: Task
    people: dict[str, tuple[str, ...]]
    asked: dict[str, str]


def question_type(name: str, *, files: bool) -> QuestionType:
    """The type of this name.

    Args:
        name: of the type.
        files: of the user's files; else of easy-vqa or of the built-in pictures.

    Raises:
        CrosstaskError: there is none for this kind of data.
    """
    listed = FILE_TYPES if files else EASY_TYPES | PICTURE_TYPES
    known = listed if files else listed | _ON_REQUEST
    if name not in known:
        data = "VQAv2 and OK-VQA files" if files else "easy-vqa and the built-in pictures"
        others = "" if files else " (and presence-<a shape or a colour>)"
        raise CrosstaskError(f"there is no question type {name!r} for {data}; expected {', '.join(listed)}{others}.")
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
    for source, split in sets:
        for question in source.questions:
            if question.image_name not in chosen and kind.fits(question.text):
                chosen[question.image_name] = (question, split or split_of(question.image_name))
    if not chosen:
        files = " and ".join(str(questions.source) for questions, _ in sets)
        raise CrosstaskError(f"no question of {files} is of the type {kind.name!r} ({kind.pattern}).")
    items = [item(question, split) for question, split in chosen.values()]
    kept = [one for split in ("selection", "test") for one in _first([i for i in items if i.split == split], kind)]
    first = sets[0][0]
    task = Task(kind.name, first.name, tuple(kept), kind.instruction, first.source)
    questions = {one.input: chosen[one.input][0] for one in kept}
    people = {name: question.answers for name, question in questions.items()}
    return TypeTask(task, people, {name: question.text for name, question in questions.items()})


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
