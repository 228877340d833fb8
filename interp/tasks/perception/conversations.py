"""Training conversations in the form of LLaVA and of Qwen's fine-tuning code: a JSON list, or JSON lines.

    {"image": ["a.jpg", "b.jpg"],
     "conversations": [{"from": "human", "value": "<image><image>\\nWhich?"}, {"from": "gpt", "value": "(A)"}]}

`image` is a file name or a list of them, and the questions hold one `<image>` tag for each, in their order. The
pictures are shown before the first question. So a tag at its beginning or end is dropped, and one in the middle of a
text, or in a later question, becomes "[image 2]". A row without pictures is a conversation in words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.errors import CrosstaskError
from interp.images import Image
from interp.tasks.perception.rows import Row, read_rows

TAG = "<image>"
_ROLES = ("human", "gpt")
_EDGES = re.compile(rf"^(?:\s*{TAG}\s*)+|(?:\s*{TAG}\s*)+$")


@dataclass(frozen=True, eq=False)
class Conversation:
    """What a model learns to reply.

    Attributes:
        images: shown before the first question.
        turns: (question, reply) pairs.
        where: file and line that it was read from.
    """

    images: tuple[Image, ...]
    turns: tuple[tuple[str, str], ...]
    where: str


def read_conversations(path: Path | str, *, image_folder: Path | str | None = None) -> list[Conversation]:
    """Read and check every conversation of a file; pictures have to exist, and are decoded only when they are used.

    Args:
        path: a JSON list or JSON lines.
        image_folder: what image names are relative to; the file's own folder by default.

    Raises:
        CrosstaskError: names the file and the line (of a list also the entry) of the first mistake: not JSON, a missing
            image, more or fewer tags than images, a tag in a reply, an unknown role, roles out of order, an empty text.
    """
    return [conversation(row) for row in read_rows(path, folder=image_folder)]


def conversation(row: Row) -> Conversation:
    """One row as a conversation; errors as in :func:`read_conversations`."""
    for key in ("video", "videos"):
        if row.values.get(key):
            raise CrosstaskError(f"{row.where}: {key!r} is not supported; give its frames as a list under 'image'.")
    key = "images" if "images" in row.values else "image"
    images = tuple(row.picture(name) for name in row.texts(key)) if row.values.get(key) else ()
    texts = _texts(row)
    tags = sum(text.count(TAG) for text in texts[::2])
    if tags != len(images):
        raise CrosstaskError(
            f"{row.where}: {tags} {TAG} tag{'s' * (tags != 1)} in the questions, but {len(images)} "
            f"image{'s' * (len(images) != 1)}; expected one tag for each."
        )
    for reply in texts[1::2]:
        if TAG in reply:
            raise CrosstaskError(f"{row.where}: the reply {reply!r} has an {TAG} tag; expected tags in questions only.")
    questions = _without_tags(row, texts[::2])
    return Conversation(images, tuple(zip(questions, texts[1::2], strict=True)), row.where)


def _texts(row: Row) -> list[str]:
    """Questions and replies in turn."""
    turns = row.values.get("conversations")
    if not isinstance(turns, list) or not turns:
        said = "is missing" if turns is None else "is empty" if turns == [] else "is no list"
        raise CrosstaskError(f"{row.where}: 'conversations' {said}; expected a list of turns.")
    texts = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise CrosstaskError(f"{row.where}: turn {number} is {turn!r}; expected an object with 'from' and 'value'.")
        role, expected = turn.get("from"), _ROLES[(number - 1) % 2]
        if role not in _ROLES:
            raise CrosstaskError(f"{row.where}: turn {number} has the unknown role {role!r}; expected human or gpt.")
        if role != expected:
            raise CrosstaskError(
                f"{row.where}: turn {number} is from {role}, which is out of order; expected {expected} (human and gpt "
                "take turns, and human begins)."
            )
        texts.append(Row(turn, f"{row.where}, turn {number}", row.folder).text("value"))
    if len(texts) % 2:
        raise CrosstaskError(f"{row.where}: the last turn is from human; expected a reply from gpt to learn.")
    return texts


def _without_tags(row: Row, questions: Sequence[str]) -> list[str]:
    number = 0
    cleaned = []
    for place, question in enumerate(questions):
        parts = []
        edges = [found.span() for found in _EDGES.finditer(question)] if place == 0 else []
        last = 0
        for found in re.finditer(TAG, question):
            number += 1
            at_edge = any(start <= found.start() < stop for start, stop in edges)
            parts += [question[last : found.start()], "" if at_edge else f"[image {number}]"]
            last = found.end()
        text = "".join([*parts, question[last:]])
        text = text.strip() if edges else text
        if not text:
            raise CrosstaskError(f"{row.where}: a question has nothing but {TAG} tags; expected a text.")
        cleaned.append(text)
    return cleaned
