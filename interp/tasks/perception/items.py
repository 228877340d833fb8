"""One multiple-choice question about one to four pictures, in the form of BLINK (Fu et al. 2024).

The prompt is the question, a selection line, and one line for each option; the reply is the letter in brackets:

    Which point is closer to the camera?
    Select from the following choices.
    (A) A is closer
    (B) B is closer          -> "(A)"

A letter prior is averaged away by cyclic shifts of the options. Where the options are texts, the texts move past the
letters and the pictures stay; where the letters are drawn in the pictures, the marks move and the pictures are redrawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from interp.errors import CrosstaskError
from interp.images import Image

LETTERS = "ABCDEFGH"
SELECT = "Select from the following choices."


@dataclass(frozen=True, eq=False)
class PerceptionItem:
    """A question with its pictures.

    Attributes:
        name: unique within its data set, such as "relative_depth/marks/test/17".
        task: name of the task, such as "relative_depth".
        images: the pictures, which the prompt shows in this order before the text.
        question: the text before the options.
        options: text of each option, in the order of the letters.
        key: index of the right option.
        reply: what training teaches in place of "(A)"; only for items that are no multiple choice (captions).
        number: the right number where the answer is one, for scores such as mean relative accuracy.
        meta: facts about the item as plain JSON values, for oracles, shortcuts and slices; never shown to a model.
        redraw: where letters are drawn in the pictures: key -> pictures with the marks moved accordingly.
        written: the prompt as it was published, in place of the one made from question and options.
    """

    name: str
    task: str
    images: tuple[Image, ...]
    question: str
    options: tuple[str, ...]
    key: int
    reply: str | None = None
    number: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)
    redraw: Callable[[int], tuple[Image, ...]] | None = field(default=None, repr=False)
    written: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.reply is not None or (not self.options and self.number is not None):
            return
        if not 2 <= len(self.options) <= len(LETTERS):
            raise CrosstaskError(f"item {self.name!r} has {len(self.options)} options; expected 2 to {len(LETTERS)}")
        if not 0 <= self.key < len(self.options):
            raise CrosstaskError(
                f"item {self.name!r} has the key {self.key}, but its options are 0 to {len(self.options) - 1}"
            )

    @property
    def prompt(self) -> str:
        """The text after the pictures."""
        if self.written is not None:
            return self.written
        if not self.options:
            return self.question
        lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, self.options, strict=False)]
        return "\n".join([self.question, SELECT, *lines])

    @property
    def stem(self) -> str:
        """The part of the prompt that all cyclic shifts of the option texts share."""
        return f"{self.question}\n{SELECT}\n" if self.options and self.written is None else ""

    @property
    def answer(self) -> str:
        """The right reply: the letter of the key in brackets, or the free text of an item that has one."""
        return self.reply if self.reply is not None else f"({LETTERS[self.key]})"

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 1 / len(self.options) if self.options else 0.0

    def shifted(self, by: int) -> PerceptionItem:
        """The same question with its options moved on by so many letters; 0 is the item itself.

        Option p becomes option (p + by) modulo their number, and the key moves with it. A prompt as published
        (`written`) is made anew from question and options.

        Raises:
            CrosstaskError: the item has no options.
        """
        if not self.options:
            raise CrosstaskError(f"item {self.name!r} has no options that could be shifted")
        n = len(self.options)
        by %= n
        if by == 0:
            return self
        key = (self.key + by) % n
        if self.redraw is not None:
            return replace(self, key=key, images=self.redraw(key))
        options = tuple(self.options[(p - by) % n] for p in range(n))
        return replace(self, key=key, options=options, written=None)
