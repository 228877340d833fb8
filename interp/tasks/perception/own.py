"""A user's own perception task: one file of JSON lines, an item a line.

    {"images": ["1.png"], "question": "Which is heavier?", "options": ["the box", "the ball"], "answer": "B"}

`answer` is the letter ("B" or "(B)") or the text of the right option. Optional: "split" (train, selection or test) and
"id". Image names are relative to the file. In a file without splits 40 % of the items become the selection split and
the others the test split; which ones depends on a hash of their ids and the seed, not on their order. Without an id the
question, options and image names are hashed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from interp.errors import CrosstaskError
from interp.tasks.perception.items import LETTERS, PerceptionItem
from interp.tasks.perception.rows import Row, read_rows

SPLITS = ("train", "selection", "test")
_SELECTION_SHARE = 0.4
_KEYS = ("images", "question", "options", "answer", "split", "id")


def read_own(
    path: Path | str, *, image_folder: Path | str | None = None, split_seed: int = 0
) -> dict[str, list[PerceptionItem]]:
    """Read and check a task; pictures have to exist, and are decoded only when they are used.

    Args:
        path: the file; its name without suffix becomes the task's name.
        image_folder: what image names are relative to; the file's own folder by default.
        split_seed: which items are for selection in a file without splits.

    Returns:
        Split -> items in the order of the file; every split is a key.

    Raises:
        CrosstaskError: names the file and the line of the first mistake.
    """
    path = Path(path)
    rows = read_rows(path, folder=image_folder)
    named: dict[str, str] = {}
    items: dict[str, list[PerceptionItem]] = {split: [] for split in SPLITS}
    given = ["split" in row.values for row in rows]
    if any(given) and not all(given):
        row = rows[given.index(False)]
        raise CrosstaskError(f"{row.where}: 'split' is missing; either every line has one or none.")
    chosen = set() if all(given) else _selected([_name(row) for row in rows], split_seed)
    for row in rows:
        name = _name(row)
        if name in named:
            raise CrosstaskError(f"{row.where}: the item is that of {named[name]} again (id {name!r}).")
        named[name] = row.where
        split = row.text("split") if all(given) else "selection" if name in chosen else "test"
        if split not in SPLITS:
            raise CrosstaskError(f"{row.where}: the split {split!r} is unknown; expected {', '.join(SPLITS)}.")
        items[split].append(replace(_item(row, path.stem), name=f"{path.stem}/{split}/{name}"))
    return items


def _item(row: Row, task: str) -> PerceptionItem:
    unknown = [key for key in row.values if key not in _KEYS]
    if unknown:
        raise CrosstaskError(f"{row.where}: the key {unknown[0]!r} is unknown; expected {', '.join(_KEYS)}.")
    images = tuple(row.picture(name) for name in row.texts("images"))
    if not images:
        raise CrosstaskError(f"{row.where}: 'images' is empty; expected one picture or more.")
    options = tuple(row.texts("options"))
    if not 2 <= len(options) <= len(LETTERS):
        raise CrosstaskError(f"{row.where}: {len(options)} options; expected 2 to {len(LETTERS)}.")
    if len(set(options)) < len(options):
        raise CrosstaskError(f"{row.where}: the options {list(options)} are not all different.")
    return PerceptionItem(row.where, task, images, row.text("question"), options, key_of(row, options))


def key_of(row: Row, options: tuple[str, ...]) -> int:
    """Index of the option that a row's `answer` names by its letter, in brackets or not, or by its text.

    Raises:
        CrosstaskError: it names none, or one by its letter and another by its text.
    """
    answer = row.text("answer").strip()
    letter = answer[1:-1] if answer.startswith("(") and answer.endswith(")") else answer
    by_letter = LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS[: len(options)] else None
    by_text = options.index(answer) if answer in options else None
    if by_letter is None and by_text is None:
        raise CrosstaskError(
            f"{row.where}: the answer {answer!r} is neither a letter from A to {LETTERS[len(options) - 1]} nor one of "
            f"the options {list(options)}."
        )
    if by_letter is not None and by_text is not None and by_letter != by_text:
        raise CrosstaskError(
            f"{row.where}: the answer {answer!r} is the letter of one option and the text of another; write the letter "
            "in brackets."
        )
    return by_letter if by_letter is not None else by_text  # type: ignore[return-value]


def _name(row: Row) -> str:
    if "id" in row.values:
        value = row.values["id"]
        return str(value) if isinstance(value, int) else row.text("id")
    what = [row.values.get(key) for key in ("images", "question", "options")]
    return hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()[:12]


def _selected(names: list[str], seed: int) -> set[str]:
    """Names of the selection split, of which it gets its share exactly."""

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed}\n{name}".encode()).digest()

    return set(sorted(names, key=rank)[: round(_SELECTION_SHARE * len(names))])
