"""Task matrices as files and tables: similarities, and everything else that has a value for each pair of tasks.

    long      columns source, target, value, and perhaps measure and layer: a matrix for each measure and layer
    square    task names in the first row (targets) and the first column (sources)
    folder    CSV files of either form

Files are UTF-8 with commas; a table of pandas has the same columns, or names at both axes. Tasks may be named in any
way that `interp.transfer.names` knows, or in any way of your own. What a task has with itself is never looked at, and
need not be there. A matrix of which one direction of every pair is given alone has none, and is mirrored.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.transfer.names import identity, ordered
from interp.transfer.reading import read_header, read_rows, read_text, require_columns

LONG_COLUMNS = ("source", "target", "value")
ALL_LAYERS, POOLED = "all", "pooled"
"""Layers that are no number: a measure of the whole model as it was read, and the mean over layers made here."""
TASK_VECTORS, UPDATES, OTHER = FAMILIES = ("task vectors", "updates", "other")
_PREFIXES = {
    TASK_VECTORS: ("task_vector", "task vector", "vector", "patch"),
    UPDATES: ("update", "lora", "delta", "gradient", "gain", "adapter"),
}
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class TaskMatrix:
    """A value for every ordered pair of tasks.

    Attributes:
        measure: what is measured, such as "cosine".
        layer: "0", "1", ..., or "all".
        tasks: identities, in one order whatever that of the file.
        cells: rows sources, columns targets; NaN where nothing was given.
        labels: identity -> the name as the data spells it.
        origin: file that it was read from, or what it is called.
        mirrored: whether one direction of each pair was given, and stands for both.
        family: what kind of thing is compared: "task vectors", "updates" or "other".
        model: the one whose transfer it is for, or empty for all.
    """

    measure: str
    layer: str
    tasks: tuple[str, ...]
    cells: Float[np.ndarray, "K K"]
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)
    origin: str = "the table"
    mirrored: bool = False
    family: str = OTHER
    model: str = ""

    @property
    def name(self) -> str:
        """Measure and layer in words."""
        if self.layer in ("", ALL_LAYERS):
            return self.measure
        return f"{self.measure}, {'layers pooled' if self.layer == POOLED else 'layer ' + self.layer}"

    def of(self, tasks: Sequence[str]) -> Float[np.ndarray, "K K"]:
        """The part about these tasks.

        Raises:
            CrosstaskError: a cell of two different tasks has no value; the first few are named.
        """
        at = [self.tasks.index(task) for task in tasks]
        values = self.cells[np.ix_(at, at)]
        missing = np.argwhere(~np.isfinite(values) & ~np.eye(len(at), dtype=bool))
        if len(missing):
            cells = "; ".join(f"{self.label(tasks[i])} -> {self.label(tasks[j])}" for i, j in missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise CrosstaskError(
                f"{self.origin} has no value for {cells}{more} ({self.name}); expected a number for every pair of "
                "tasks, or name the tasks that are to be left out."
            )
        return values

    def label(self, task: str) -> str:
        """A task as the data spells it."""
        return self.labels.get(task, task)


def read_matrices(path: Path | str) -> list[TaskMatrix]:
    """The matrices of a CSV file, or of every CSV file of a folder.

    Args:
        path: of the file or folder. A square file, and a long one without a measure, are called as the file.

    Raises:
        CrosstaskError: it cannot be read, or is neither long nor square; the line is named.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.csv"))
        if not files:
            raise CrosstaskError(f"The folder {path} has no CSV file; expected similarities of tasks, long or square.")
        return [matrix for file in files for matrix in read_matrices(file)]
    if not path.exists():
        raise CrosstaskError(f"{path} does not exist; expected a CSV file of similarities, or a folder of such files.")
    header = read_header(path)
    if len(header) == 1:
        require_columns(path, header, LONG_COLUMNS)  # says which separator there is instead
    if "source" in header and "target" in header:
        return _long_matrices(_long_rows(path), origin=str(path), measure=path.stem)
    return [_square(path)]


def matrices_of(table: pd.DataFrame, *, name: str = "similarity") -> list[TaskMatrix]:
    """The matrices of a table of pandas, long or square.

    Args:
        table: with columns source, target, value and perhaps measure and layer; or with task names at both axes.
        name: of the measure where the table names none.

    Raises:
        CrosstaskError: it has neither form, or a cell twice.
    """
    if set(LONG_COLUMNS) <= set(table.columns):
        return _long_matrices(table, origin=f"the table {name!r}", measure=name)
    cells = {
        (str(source), str(target)): table.iloc[i, j]
        for i, source in enumerate(table.index)
        for j, target in enumerate(table.columns)
    }
    rows, columns = [str(task) for task in table.index], [str(task) for task in table.columns]
    return [_from_square(rows, columns, cells, measure=name, origin=f"the table {name!r}")]


def pooled(matrices: Sequence[TaskMatrix]) -> list[TaskMatrix]:
    """For every measure of two layers or more, the mean over its layers, each scaled to a standard deviation of 1.

    A measure that was given for the whole model as well (layer "all") has its summary already. Scaling lets no layer
    count for more because its similarities are spread more widely. No layer is chosen, so that nothing has to be
    corrected for a choice.
    """
    found = []
    for measure in dict.fromkeys(matrix.measure for matrix in matrices):
        layers = [m for m in matrices if m.measure == measure and m.layer not in ("", ALL_LAYERS, POOLED)]
        if any(m.measure == measure and m.layer in ("", ALL_LAYERS) for m in matrices):
            continue
        tasks = [task for task in layers[0].tasks if all(task in m.tasks for m in layers)] if layers else []
        if len(layers) < 2 or len(tasks) < 2:
            continue
        mask = ~np.eye(len(tasks), dtype=bool)
        values = np.array([m.cells[np.ix_(*[[m.tasks.index(t) for t in tasks]] * 2)] for m in layers])
        spread = values[:, mask].std(1)
        flat = ~(spread > 1e-12 * np.abs(values[:, mask]).max(1))
        scaled = (values - values[:, mask].mean(1)[:, None, None]) / np.where(flat, 1.0, spread)[:, None, None]
        mean = np.where(mask, scaled[~flat].mean(0) if (~flat).any() else 0.0, np.nan)
        found.append(replace(layers[0], layer=POOLED, tasks=tuple(tasks), cells=mean))
    return found


def family_of(measure: str) -> str:
    """The family that a measure's name tells by its beginning, such as task_vector_cosine or lora_cosine."""
    name = measure.lower()
    return next((family for family, prefixes in _PREFIXES.items() if name.startswith(prefixes)), OTHER)


def _long_rows(path: Path) -> pd.DataFrame:
    """The rows of a long file as a table, with the line of each."""
    rows = read_rows(path, LONG_COLUMNS)
    table = pd.DataFrame(
        {
            "source": [row.name("source") for row in rows],
            "target": [row.name("target") for row in rows],
            "value": [row.optional("value") if row["value"].lower() != "nan" else math.nan for row in rows],
            "line": [row.line for row in rows],
        }
    )
    for column in ("measure", "layer"):
        if any(row[column] for row in rows):
            table[column] = [row.name(column) for row in rows]
    return table


def _long_matrices(table: pd.DataFrame, *, origin: str, measure: str) -> list[TaskMatrix]:
    measures = table["measure"].astype(str) if "measure" in table else pd.Series(measure, index=table.index)
    layers = table["layer"].map(_layer) if "layer" in table else pd.Series(ALL_LAYERS, index=table.index)
    found = []
    for (kind, layer), rows in table.groupby([measures, layers], sort=False):
        cells: dict[tuple[str, str], float] = {}
        spellings: dict[str, str] = {}
        for row in rows.to_dict("records"):
            source, target = identity(str(row["source"])), identity(str(row["target"]))
            spellings.setdefault(source, str(row["source"]))
            spellings.setdefault(target, str(row["target"]))
            if (source, target) in cells:
                where = f"{origin}, line {row['line']}" if "line" in row else origin
                raise CrosstaskError(
                    f"{where}: source {row['source']!r}, target {row['target']!r} was there already, in measure "
                    f"{kind!r}, layer {layer}; expected each pair once."
                )
            cells[source, target] = _number(row["value"], origin)
        found.append(_filled(cells, spellings, measure=str(kind), layer=str(layer), origin=origin))
    return found


def _layer(value: Any) -> str:
    """A layer's name, the same for 3, 3.0 and "3"; "all" where none is given."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() == "":
        return ALL_LAYERS
    try:
        number = float(value)
    except ValueError:
        return str(value).strip()
    return str(int(number)) if number.is_integer() else str(value).strip()


def _square(path: Path) -> TaskMatrix:
    """A square file."""
    (_, header), *lines = _lines(path)
    columns, rows = header[1:], [fields[0] for _, fields in lines]
    _require_square(rows, columns, str(path))
    cells: dict[tuple[str, str], float] = {}
    for line, (name, *texts) in lines:
        if len(texts) != len(columns):
            raise CrosstaskError(
                f"{path}, line {line}: {len(texts)} values after {name!r}; expected {len(columns)}, one for each task "
                "of the first row."
            )
        for column, text in zip(columns, texts, strict=True):
            cells[name, column] = _number(text, f"{path}, line {line}")
    return _from_square(rows, columns, cells, measure=path.stem, origin=str(path))


def _require_square(rows: Sequence[str], columns: Sequence[str], origin: str) -> None:
    """Raises an error unless names of the first column are in the first row, and none is there twice."""
    if not {identity(name) for name in rows} & {identity(name) for name in columns}:
        raise CrosstaskError(
            f"{origin} is neither long nor square: it has no columns {', '.join(LONG_COLUMNS)}, and no name of the "
            f"first column ({', '.join(rows[:_SHOWN]) or 'empty'}) is in the first row ({', '.join(columns[:_SHOWN])})."
        )
    for names, where in ((rows, "first column"), (columns, "first row")):
        known: dict[str, str] = {}
        for name in names:
            if identity(name) in known:
                raise CrosstaskError(f"{origin}: {name!r} is in the {where} twice (as {known[identity(name)]!r}).")
            known[identity(name)] = name


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    for fields in reader:
        if any(text.strip() for text in fields):
            yield reader.line_num, [text.strip() for text in fields]


def _from_square(
    rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], Any], *, measure: str, origin: str
) -> TaskMatrix:
    _require_square(rows, columns, origin)
    common = {identity(name) for name in rows} & {identity(name) for name in columns}
    kept = {
        (identity(source), identity(target)): _number(value, origin)
        for (source, target), value in cells.items()
        if {identity(source), identity(target)} <= common
    }
    spellings = {identity(name): name for name in columns if identity(name) in common}
    return _filled(kept, spellings, measure=measure, layer=ALL_LAYERS, origin=origin)


def _number(value: Any, where: str) -> float:
    """A number, or NaN where nothing stands."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan")):
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise CrosstaskError(f"{where}: {value!r} is no number; expected the value of a pair of tasks.") from None
    if math.isinf(number):
        raise CrosstaskError(f"{where}: {value} is infinite; expected a finite value of a pair of tasks.")
    return number


def _filled(
    cells: Mapping[tuple[str, str], float], spellings: Mapping[str, str], *, measure: str, layer: str, origin: str
) -> TaskMatrix:
    tasks = ordered({task for pair in cells for task in pair})
    place = {task: index for index, task in enumerate(tasks)}
    values = np.full((len(tasks), len(tasks)), np.nan)
    for (source, target), value in cells.items():
        values[place[source], place[target]] = value
    given = np.array([[(source, target) in cells for target in tasks] for source in tasks])
    apart = ~np.eye(len(tasks), dtype=bool)
    mirrored = len(tasks) > 1 and bool((given ^ given.T)[apart].all())
    if mirrored:
        values = np.where(given, values, values.T)
    family = family_of(measure)
    return TaskMatrix(measure, layer, tuple(tasks), values, dict(spellings), origin, mirrored, family)
