"""Rows of a data file, each with the place that an error names: a JSON list, JSON lines, or parquet.

Whether a text file is a JSON list or JSON lines is seen from its first character, whatever its suffix.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from interp.errors import CrosstaskError
from interp.images import Image


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        values: column -> value.
        where: the file and the line (of a JSON list the entry and its line, of parquet the row), both from 1.
        folder: what file names in the row are relative to.
    """

    values: Mapping[str, Any]
    where: str
    folder: Path

    def text(self, key: str) -> str:
        """A column that has to be a text and not empty.

        Raises:
            CrosstaskError: it is missing, empty, or something else.
        """
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            said = f"is {value!r}" if key in self.values else "is missing"
            raise CrosstaskError(f"{self.where}: {key!r} {said}; expected a text.")
        return value

    def texts(self, key: str) -> list[str]:
        """A column that has to be a list of texts, or a single one.

        Raises:
            CrosstaskError: it is something else.
        """
        value = self.values.get(key)
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(each, str) and each.strip() for each in found):
            said = f"is {value!r}" if key in self.values else "is missing"
            raise CrosstaskError(f"{self.where}: {key!r} {said}; expected a text or a list of texts.")
        return found

    def picture(self, value: Any) -> Image:
        """A picture that a column gives as a file name, or as {"bytes": ..., "path": ...} as parquet files hold it.

        Raises:
            CrosstaskError: there is no such file, or the value is something else.
        """
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            try:
                return Image(pixels=Pillow.open(io.BytesIO(value["bytes"])))
            except (OSError, ValueError, SyntaxError) as error:
                raise CrosstaskError(f"{self.where}: a picture cannot be decoded: {error}.") from error
        name = value.get("path") if isinstance(value, dict) else value
        if not isinstance(name, str) or not name.strip():
            raise CrosstaskError(f"{self.where}: the picture {value!r} is no file name.")
        path = self.folder / Path(name).expanduser()
        if not path.is_file():
            raise CrosstaskError(f"{self.where}: the image {path} does not exist; names are relative to {self.folder}.")
        return Image(path=path)


def read_rows(path: Path | str, *, folder: Path | str | None = None) -> list[Row]:
    """All rows of a file.

    Args:
        path: .json, .jsonl or .parquet.
        folder: what file names in the rows are relative to; the file's own by default.

    Raises:
        CrosstaskError: no such file, not one of these forms, a row that is no object, or no row at all.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CrosstaskError(f"There is no file {path}.")
    found = _parquet(path) if path.suffix.lower() == ".parquet" else _json(path)
    base = path.parent if folder is None else Path(folder).expanduser()
    rows = []
    for value, place in found:
        if not isinstance(value, dict):
            raise CrosstaskError(f"{path}, {place}: {_short(value)} is no JSON object {{...}}.")
        rows.append(Row(value, f"{path}, {place}", base))
    if not rows:
        raise CrosstaskError(f"{path} is empty; expected at least one row.")
    return rows


def _json(path: Path) -> list[tuple[Any, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CrosstaskError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    return _entries(path, text) if text.lstrip().startswith("[") else _lines(path, text)


def _lines(path: Path, text: str) -> list[tuple[Any, str]]:
    found: list[tuple[Any, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append((json.loads(line), f"line {number}"))
            except ValueError as error:
                raise CrosstaskError(f"{path}, line {number} is not JSON: {error}.") from error
    return found


def _entries(path: Path, text: str) -> list[tuple[Any, str]]:
    """The entries of a JSON list, each with its number and the line where it begins."""
    found: list[tuple[Any, str]] = []
    decoder, line, counted = json.JSONDecoder(), 1, 0
    at = _after_space(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        place = f"entry {len(found) + 1} (line {line})"
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise CrosstaskError(f"{path}, {place} is not JSON: {error}.") from error
        found.append((value, place))
        at = _after_space(text, at)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise CrosstaskError(f"{path}: after {place} a comma or the end of the list is missing.")
    if text[at + 1 :].strip():
        raise CrosstaskError(f"{path}: more follows after the end of the list: {_short(text[at + 1 :].strip())}.")
    return found


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _parquet(path: Path) -> list[tuple[Any, str]]:
    try:
        from pyarrow import ArrowException  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
    except ImportError as error:
        raise CrosstaskError(f"Reading {path} needs pyarrow: pip install pyarrow.") from error
    try:
        with ParquetFile(path) as file:
            values = file.read().to_pylist()
    except (OSError, ArrowException) as error:
        raise CrosstaskError(f"{path} cannot be read as parquet: {error}.") from error
    return [(value, f"row {number}") for number, value in enumerate(values, start=1)]


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
