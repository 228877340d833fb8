"""Find a task by name, or read a user's own, and check its table before anything is computed.

A bundled task is a row of `semantic/tasks.csv` and the table `semantic/data/<name>.csv`; adding the two adds the task.
Its family is the folder of `semantic/images` that its pictures are in. The instructions are those of Luo et al. (2025).
A user's task is a folder:

    my-task/items.csv          columns input, output; optional: image (file name), aliases ("a|b"), split
    my-task/instruction.txt    one line ending in a colon; needed only where an instruction specifies the task
    my-task/words.txt          words that name what is asked for, one a line; needed only where they are looked for

Without a `split` column, 40 % of the items become the selection split. Which ones depends on a hash of their inputs and
the seed, not on the order of the table.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from interp.errors import CrosstaskError
from interp.scoring import normalise
from interp.tasks.base import SPLITS, Item, Split, Task

_SEMANTIC = Path(__file__).parent / "semantic"
_REQUIRED, _OPTIONAL = ("input", "output"), ("aliases", "image", "split")
_SELECTION_SHARE = 0.4


def task_names() -> list[str]:
    """Names of the bundled tasks, in the order in which tables and figures show them."""
    return list(_catalogue())


def load_task(name_or_path: str | Path, *, split_seed: int = 0) -> Task:
    """Load a bundled task by its name, or a user's task from its folder.

    Args:
        name_or_path: name of a bundled task, a folder with one table, or the table itself. A bundled name wins over a
            folder of the same name; write `./name` for the folder.
        split_seed: which items a table without a `split` column selects with.

    Returns:
        The task, with the path of every image checked to exist. Images are decoded only when they are used.

    Raises:
        CrosstaskError: no such task (the nearest names are offered), or a table with a bad row, which is named.
    """
    asked = str(name_or_path)
    if asked in _catalogue():
        entry, table = _catalogue()[asked], _SEMANTIC / "data" / f"{asked}.csv"
        items = read_items(table, _SEMANTIC / "images" / entry["family"], split_seed=split_seed)
        return Task(asked, entry["family"], items, entry["instruction"], table, tuple(entry["words"].split("|")))
    path = Path(asked).expanduser()
    if not asked.strip() or not path.exists():
        raise CrosstaskError(_unknown(asked))
    return _load_folder(path, split_seed)


def read_items(table: Path, images: Path, *, split_seed: int = 0) -> tuple[Item, ...]:
    """Read and check a table of items.

    Args:
        table: CSV file in UTF-8, with or without a byte-order mark.
        images: folder that the `image` column is relative to.
        split_seed: see :func:`load_task`.

    Raises:
        CrosstaskError: naming the file, the line and what is wrong with it.
    """
    items: list[Item] = []
    lines: dict[str, int] = {}
    has_split = True
    for line, row in _rows(table):
        has_split = "split" in row
        item = _item(row, images, f"{table}, line {line}")
        earlier = lines.setdefault(item.input.casefold(), line)
        if earlier != line:
            raise CrosstaskError(
                f"{table}, line {line}: the input {item.input!r} is already on line {earlier}; inputs must differ."
            )
        items.append(item)
    if not items:
        raise CrosstaskError(f"{table} has no items; expected a header and one row for each item.")
    return tuple(items) if has_split else _split(items, split_seed)


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number in the file and stripped cells of every row that is not blank."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(header, table)
            for cells in reader:
                cells = [cell.strip() for cell in cells]
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    raise CrosstaskError(
                        f"{table}, line {reader.line_num}: {len(cells)} cells for the {len(header)} columns "
                        f"{', '.join(header)}; put quotes around a cell that contains a comma."
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except UnicodeDecodeError as error:
        raise CrosstaskError(f"{table} is not UTF-8 text ({error}); save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise CrosstaskError(f"{table}, line {reader.line_num}: not readable as CSV ({error}).") from error
    except OSError as error:
        raise CrosstaskError(f"{table} cannot be read: {error.strerror}.") from error


def _check_header(header: Sequence[str], table: Path) -> None:
    given = f"its header is {','.join(header)!r}" if any(header) else "it is empty"
    expected = f"expected the columns {', '.join(_REQUIRED)} and optionally {', '.join(_OPTIONAL)}, separated by commas"
    for column in _REQUIRED:
        if column not in header:
            raise CrosstaskError(f"{table}, line 1: the column {column!r} is missing; {given}, {expected}.")
    for column in header:
        if header.count(column) > 1:
            raise CrosstaskError(f"{table}, line 1: the column {column!r} appears twice; {given}, {expected}.")


def _item(row: dict[str, str], images: Path, where: str) -> Item:
    for column in (*_REQUIRED, "image", "split"):
        if row.get(column) == "":
            raise CrosstaskError(f"{where}: the cell {column!r} is empty; every row needs one.")
    outputs = [row["output"], *(alias.strip() for alias in row.get("aliases", "").split("|"))]
    for text in (row["input"], *outputs):
        if "\n" in text or "\r" in text:
            raise CrosstaskError(f"{where}: {text!r} has a line break; inputs and outputs are one line each.")
    outputs = list(dict.fromkeys(filter(None, outputs)))
    for output in outputs:
        if not normalise(output):
            raise CrosstaskError(f"{where}: the answer {output!r} is only punctuation, which scoring ignores.")
    split = row.get("split", "test")
    if split not in SPLITS:
        raise CrosstaskError(f"{where}: the split {split!r} is unknown; expected {' or '.join(SPLITS)}.")
    image = images / row["image"] if "image" in row else None
    if image is not None and not image.is_file():
        raise CrosstaskError(f"{where}: the image {image} does not exist; the column is relative to {images}.")
    return Item(row["input"], tuple(outputs), image, split)


def _split(items: Sequence[Item], seed: int) -> tuple[Item, ...]:
    """Items with the splits a hash gives them; each split gets its share exactly."""

    def rank(item: Item) -> bytes:
        return hashlib.sha256(f"{seed}\n{item.input}".encode()).digest()

    chosen = {item.input for item in sorted(items, key=rank)[: round(_SELECTION_SHARE * len(items))]}

    def split(item: Item) -> Split:
        return "selection" if item.input in chosen else "test"

    return tuple(Item(item.input, item.outputs, item.image, split(item)) for item in items)


def _load_folder(path: Path, split_seed: int) -> Task:
    folder = path if path.is_dir() else path.parent
    name = folder.resolve().name
    if name in _catalogue():
        raise CrosstaskError(
            f"The folder {folder} has the name of the bundled task {name!r}; rename it to tell them apart."
        )
    table = _table_of(path) if path.is_dir() else path
    items = read_items(table, folder, split_seed=split_seed)
    return Task(name, name, items, _instruction(folder / "instruction.txt"), table, _words(folder / "words.txt"))


def _table_of(folder: Path) -> Path:
    tables = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".csv")
    named = folder / "items.csv"
    if named in tables or len(tables) == 1:
        return named if named in tables else tables[0]
    found = ", ".join(table.name for table in tables) or "none"
    raise CrosstaskError(f"The task folder {folder} needs one table items.csv; CSV files found there: {found}.")


def _instruction(file: Path) -> str | None:
    return _text(file, "one line that ends in a colon")


def _words(file: Path) -> tuple[str, ...]:
    text = _text(file, "words that name what the task asks for, one a line")
    return tuple(dict.fromkeys(filter(None, map(str.strip, (text or "").splitlines()))))


def _text(file: Path, expected: str) -> str | None:
    """A file's text, or None where there is no such file."""
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CrosstaskError(f"{file} cannot be read as UTF-8 text: {error}.") from error
    if not text:
        raise CrosstaskError(f"{file} is empty; expected {expected}, or no such file.")
    return text


def _unknown(asked: str) -> str:
    names = task_names()
    if "/" in asked or asked.endswith(".csv"):
        return f"There is no folder or table {asked!r}; expected a folder with items.csv, or one of {', '.join(names)}."
    close = difflib.get_close_matches(asked.lower(), names, n=3, cutoff=0.5)
    close = close or [name for name in names if asked and asked.lower() in name]
    hint = f"did you mean {' or '.join(close)}?" if close else f"the tasks are {', '.join(names)}."
    return f"There is no task {asked!r}, and no folder of that name; {hint}"


@cache
def _catalogue() -> dict[str, dict[str, str]]:
    with (_SEMANTIC / "tasks.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}
