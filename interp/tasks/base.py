"""A task: items that pair an input with its accepted outputs, and an instruction that says the same in words.

Items are divided once into two splits. Every choice (demonstrations, task vectors, layers, the majority answer) is made
on "selection" items, and only "test" items are scored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from interp.errors import CrosstaskError
from interp.scoring import majority_answer

Split = Literal["selection", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Item:
    """One question with its answers.

    Attributes:
        input: the input as a text, such as the name of a country.
        outputs: accepted answers; the first is the canonical one, which demonstrations show.
        image: the input as a picture, or None.
        split: "selection" or "test".
        caption: what stands for the input in a text, where `input` is only the name of a picture.
    """

    input: str
    outputs: tuple[str, ...]
    image: Path | None
    split: Split
    caption: str | None = None


@dataclass(frozen=True)
class Task:
    """A named set of items.

    Attributes:
        name: unique name of the task.
        family: tasks of one family ask different questions about the same inputs and pictures.
        items: all items, in the order of the table.
        instruction_text: the instruction, or None when the task has none; read it through `instruction`.
        source: the table the items come from, for messages.
        words_given: words that name what is asked for, or none; read them through `words`.
    """

    name: str
    family: str
    items: tuple[Item, ...] = field(repr=False)
    instruction_text: str | None
    source: Path
    words_given: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Words that name what the task asks for, such as "capital" and "city"; the first is the usual one.

        They are looked for in what the model is about to say, and are never put in a prompt.

        Raises:
            CrosstaskError: the task names none.
        """
        if not self.words_given:
            raise CrosstaskError(
                f"Task {self.name!r} has no task words; write those that name what it asks for, such as 'capital', "
                f"one a line to {self.source.parent / 'words.txt'}."
            )
        return self.words_given

    @property
    def instruction(self) -> str:
        """The instruction that specifies the task in words.

        Raises:
            CrosstaskError: the task has none, so that only examples can specify it.
        """
        if self.instruction_text is None:
            raise CrosstaskError(
                f"Task {self.name!r} has no instruction; write one line that ends in a colon to "
                f"{self.source.parent / 'instruction.txt'}, or leave out instruction and ensemble."
            )
        return self.instruction_text

    @property
    def majority_answer(self) -> str:
        """The most frequent canonical answer of the selection split.

        Raises:
            CrosstaskError: the selection split is empty.
        """
        selection = self.split("selection")
        if not selection:
            raise CrosstaskError(
                f"Task {self.name!r} has no selection items, so it has no majority answer ({self.source})."
            )
        return majority_answer([item.outputs for item in selection])

    def split(self, name: Split) -> tuple[Item, ...]:
        """The items of one split, in the order of the table.

        Raises:
            CrosstaskError: there is no such split.
        """
        if name not in SPLITS:
            raise CrosstaskError(f"There is no split {name!r}; a task has {' and '.join(SPLITS)}.")
        return tuple(item for item in self.items if item.split == name)
