"""The text of a conversation, in a model's own chat template or in plain form, and where its answers are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from jinja2 import TemplateError

from interp.errors import CrosstaskError
from interp.models.base import Model

MARK = "(text {})"
"""Stands for the texts while the chat template's frame is looked up, so that no text is changed by it."""


@dataclass
class Conversation:
    """A text and the spans of its closed answers.

    Attributes:
        text: with pictures expanded.
        answers: for each: where the white space before it begins, where it ends, and where what ends it ends.
        template: which form.
        begins_itself: the text holds the beginning of sequence.
    """

    text: str = ""
    answers: list[tuple[int, int, int]] = field(default_factory=list)
    template: Literal["chat", "plain"] = "plain"
    begins_itself: bool = False

    def answer(self, text: str, ending: str) -> None:
        lead = len(self.text.rstrip(" "))
        self.text += text
        stop = len(self.text)
        self.text += ending
        self.answers.append((lead, stop, len(self.text)))


@dataclass(frozen=True)
class Frame:
    """What a chat template writes around the texts of a conversation: `pieces[0] q1 pieces[1] a1 pieces[2] q2 ...`."""

    pieces: tuple[str, ...]
    placeholder: str
    """What it writes for each picture, in the first piece."""


def conversation(
    model: Model, pictures: Sequence[str], turns: Sequence[tuple[str, str | None]], *, answer_prefix: str = ""
) -> Conversation:
    """Write a conversation.

    Args:
        model: whose chat template and special tokens.
        pictures: the text that the family puts in place of each picture.
        turns: (question, answer) pairs, checked; the last answer may be None.
        answer_prefix: what an open last answer begins with.

    Raises:
        CrosstaskError: the model's tokenizer has no token that ends an answer.
    """
    frame = chat_frame(model, len(pictures), len(turns))
    if frame is None:
        return _plain(model, pictures, turns, answer_prefix)
    chat = Conversation(template="chat", begins_itself=True)
    opening = frame.pieces[0].split(frame.placeholder) if pictures else [frame.pieces[0]]
    for before, picture in zip(opening, [*pictures, ""], strict=True):
        chat.text += before + picture
    for number, (question, answer) in enumerate(turns):
        chat.text += question + frame.pieces[2 * number + 1]
        if answer is None:
            return _opened(chat, answer_prefix)
        after = frame.pieces[2 * number + 2]
        ending = _ending(model, after)
        chat.answer(answer, ending or _end_of_sequence(model))
        if number < len(turns) - 1:
            chat.text += after.removeprefix(ending)
    return chat


def _plain(
    model: Model, pictures: Sequence[str], turns: Sequence[tuple[str, str | None]], answer_prefix: str
) -> Conversation:
    """`<image>...\\n{question}\\nAnswer: {answer}`, turns on lines of their own."""
    bos_inside = bool(pictures) and model.family.bos_after_images
    plain = Conversation(begins_itself=bos_inside)
    plain.text = "".join(pictures) + (model.bos_text if bos_inside else "")
    if pictures:
        plain.text += model.family.after_image("\n")
    for number, (question, answer) in enumerate(turns):
        plain.text += ("\n" if number else "") + question + "\nAnswer: "
        if answer is None:
            return _opened(plain, answer_prefix)
        plain.answer(answer, _end_of_sequence(model))
    return plain


def _opened(written: Conversation, prefix: str) -> Conversation:
    """Up to an open answer. A space before a word is part of the word's token, so it is left to the answer."""
    written.text = written.text + prefix if prefix else written.text.rstrip(" ")
    return written


def _ending(model: Model, after: str) -> str:
    """The special token with which a chat template closes an answer, if it writes one."""
    special = [token for token in model.special_tokens.values() if token != model.family.image_placeholder]
    found = [token for token in special if after.lstrip(" ").startswith(token)]
    return after[: after.index(found[0]) + len(found[0])] if found else ""


def _end_of_sequence(model: Model) -> str:
    if not model.tokenizer.eos_token:
        raise CrosstaskError(f"the tokenizer of model {model.name!r} has no end of sequence, so no answer can end")
    return model.tokenizer.eos_token


def chat_frame(model: Model, n_images: int, n_turns: int) -> Frame | None:
    """What the model's chat template writes around pictures and texts; None where it cannot.

    A template that a language model brought into a vision-language model takes texts alone, and then says nothing of
    how the model was shown pictures.
    """
    writer = model.tokenizer if model.processor is None else model.processor
    template = getattr(writer, "chat_template", None)
    return _chat_frame(_Asked(model, n_images, n_turns, str(template))) if template else None


@dataclass(frozen=True)
class _Asked:
    model: Model
    n_images: int
    n_turns: int
    template: str

    def __hash__(self) -> int:
        return hash((id(self.model), self.n_images, self.n_turns, self.template))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and hash(self) == hash(other) and self.model is other.model


@lru_cache(maxsize=64)
def _chat_frame(asked: _Asked) -> Frame | None:
    model, n_images = asked.model, asked.n_images
    marks = [MARK.format(number) for number in range(2 * asked.n_turns)]
    messages: list[dict] = []
    for number, mark in enumerate(marks):
        text = [{"type": "text", "text": mark}]
        shown = [{"type": "image"}] * n_images if number == 0 else []
        role = "assistant" if number % 2 else "user"
        listed = model.processor is not None
        messages.append({"role": role, "content": shown + text if listed else mark})
    writer = model.tokenizer if model.processor is None else model.processor
    try:
        written = str(writer.apply_chat_template(messages, tokenize=False))
    except (TemplateError, TypeError, KeyError, ValueError):
        return None
    pattern = "|".join(map(re.escape, marks))
    if re.findall(pattern, written) != marks:
        return None
    pieces = tuple(re.split(pattern, written))
    if not n_images:
        return Frame(pieces, "")
    for placeholder in _placeholders(model):
        if pieces[0].count(placeholder) == n_images:
            return Frame(pieces, placeholder)
    return None


def _placeholders(model: Model) -> list[str]:
    """How a chat template may write a picture, the longest first: with its frame, or a token that opens one."""
    before, after = model.family.image_frame
    single = model.family.image_placeholder
    tokens = [getattr(model.processor, name, None) for name in ("image_token", "boi_token")]
    found = [before + single + after, single, *(token for token in tokens if isinstance(token, str))]
    return sorted(dict.fromkeys(token for token in found if token), key=len, reverse=True)
