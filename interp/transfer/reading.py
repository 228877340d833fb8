"""Reading long CSV files with errors that name the line.

UTF-8 with or without a byte order mark, any line ends, columns in any order, further columns ignored, rows in any
order. Everything else that is wrong is said in one sentence with the line it stands in.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.errors import CrosstaskError

_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK": "a zip archive or spreadsheet", b"\x1f\x8b": "gzip"}


@dataclass(frozen=True)
class Row:
    """A row of a CSV file.

    Attributes:
        path: of the file.
        line: its number in the file, from 1.
        texts: column -> what stands there, stripped.
    """

    path: Path
    line: int
    texts: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.texts.get(column, "")

    def wrong(self, said: str) -> CrosstaskError:
        """The error about this row."""
        return CrosstaskError(f"{self.path}, line {self.line}: {said}")

    def name(self, column: str) -> str:
        """A value that must not be empty."""
        if not self[column]:
            raise self.wrong(f"column {column} is empty; expected a name.")
        return self[column]

    def number(self, column: str, *, low: float = -math.inf, high: float = math.inf, hint: str = "") -> float:
        """A finite number between two bounds.

        Args:
            column: of the value.
            low: least allowed.
            high: most allowed.
            hint: what a value above `high` is likely to be.
        """
        text = self[column]
        try:
            value = float(text)
        except ValueError:
            said = "is empty" if not text else f"is {text!r}"
            raise self.wrong(f"{column} {said}; expected a number{_decimal_hint(text)}.") from None
        if not math.isfinite(value):
            raise self.wrong(f"{column} is {text!r}; expected a finite number.")
        if value < low:
            raise self.wrong(f"{column} is {text}; expected at least {low:g}.")
        if value > high:
            raise self.wrong(f"{column} is {text}; expected at most {high:g}{': ' + hint if hint else ''}.")
        return value

    def optional(self, column: str, **bounds: float) -> float:
        """A number, or NaN where nothing stands."""
        return self.number(column, **bounds) if self[column] else math.nan  # type: ignore[arg-type]


def _decimal_hint(text: str) -> str:
    return " with a decimal point" if text.count(",") == 1 and text.replace(",", "").lstrip("-").isdigit() else ""


def read_header(path: Path) -> list[str]:
    """The columns of a CSV file, lower case.

    Raises:
        CrosstaskError: the file cannot be read, or is empty.
    """
    return _header(path, _reader(path))


def read_rows(path: Path, required: Sequence[str]) -> list[Row]:
    """The rows of a CSV file.

    Args:
        path: of the file.
        required: columns that must be there.

    Raises:
        CrosstaskError: the file cannot be read, a column is missing, or a row has another number of values than there
            are columns.
    """
    reader = _reader(path)
    header = _header(path, reader)
    require_columns(path, header, required)
    rows = []
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(header):
                raise CrosstaskError(
                    f"{path}, line {reader.line_num}: {len(fields)} values; expected {len(header)}, one a column."
                )
            rows.append(Row(path, reader.line_num, {c: v.strip() for c, v in zip(header, fields, strict=True)}))
    except csv.Error as error:
        raise CrosstaskError(f"{path}, line {reader.line_num}: this is not a CSV row ({error}).") from error
    if not rows:
        raise CrosstaskError(f"{path} has a header and no rows.")
    return rows


def require_columns(path: Path, header: Iterable[str], required: Sequence[str]) -> None:
    """Raises an error that names the missing columns, and the separator if it is another one."""
    header = list(header)
    missing = [column for column in required if column not in header]
    if not missing:
        if repeated := [column for column in required if header.count(column) > 1]:
            raise CrosstaskError(f"{path}, line 1: column {repeated[0]} stands there more than once.")
        return
    listed = ", ".join(required)
    if len(header) == 1:
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if separator in header[0]:
                raise CrosstaskError(f"{path}, line 1: the columns are separated by {name}; expected commas: {listed}.")
    plural = "columns" if len(missing) > 1 else "column"
    raise CrosstaskError(
        f"{path}, line 1: there is no {plural} {', '.join(missing)} among {', '.join(header)}; expected {listed}."
    )


def _header(path: Path, reader: csv._reader) -> list[str]:  # type: ignore[name-defined]
    try:
        header = [column.strip().lower() for column in next(reader, [])]
    except csv.Error as error:
        raise CrosstaskError(f"{path}, line 1: this is not a CSV header ({error}).") from error
    if not any(header):
        raise CrosstaskError(f"{path} is empty; expected a CSV file with a header.")
    return header


def _reader(path: Path) -> csv._reader:  # type: ignore[name-defined]
    return csv.reader(io.StringIO(read_text(path), newline=""))


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        CrosstaskError: it cannot be read, or has another encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CrosstaskError(f"{path} cannot be read: {error.strerror}.") from error
    for mark, kind in _MARKS.items():
        if content.startswith(mark):
            raise CrosstaskError(f"{path} is {kind}; expected a CSV file in UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CrosstaskError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8."
        ) from error
