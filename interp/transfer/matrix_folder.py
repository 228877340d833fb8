"""Reading our own matrix folder; its schema is in `interp.transfer.tables`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import CrosstaskError
from interp.transfer.grids import Grid, by_fraction, labels_of
from interp.transfer.names import BASELINE, identity
from interp.transfer.reading import Row, read_rows
from interp.transfer.tables import CELL_COLUMNS, CELLS_FILE, ITEM_COLUMNS, ITEMS_FILES, Measured

_NONE = ("", "0", "false", "none", "nan")


def read_folder(folder: Path, *, form: str | None = None) -> dict[float, Measured]:
    """Training fraction -> the matrix at it.

    Args:
        folder: with cells.csv, and perhaps the items.
        form: only targets asked in this form; by default all forms, weighted by their items.

    Raises:
        CrosstaskError: a file is missing or anything is wrong with it.
    """
    path = folder / CELLS_FILE
    if not path.is_file():
        raise CrosstaskError(f"{folder} has no {CELLS_FILE}; expected a matrix folder, or name a CSV file.")
    rows = read_rows(path, CELL_COLUMNS)
    models = sorted({row.name("model") for row in rows})
    if len(models) > 1:
        raise CrosstaskError(f"{path} holds the models {', '.join(models)}; expected one.")
    rows = _of_form(path, rows, form)
    plain = plain_sources({row["source"] for row in rows}, {row["target"] for row in rows})
    rows = [replace(row, texts={**row.texts, "source": plain.get(row["source"], row["source"])}) for row in rows]
    grids = by_fraction(_pooled(rows), lambda: Grid(path, "source", "target"), baseline_of=_is_baseline)
    if not grids:
        raise CrosstaskError(f"{path} has rows of the baseline alone; expected fine-tuned models.")
    items = read_items(folder, form=form)
    if items is not None:
        items["source"] = items["source"].replace({name: identity(task) for name, task in plain.items()})
    labels = labels_of(grids)
    return {fraction: _measured(folder, models[0], fraction, grid, labels, items) for fraction, grid in grids.items()}


def _measured(
    folder: Path, model: str, fraction: float, grid: Grid, labels: dict[str, str], items: pd.DataFrame | None
) -> Measured:
    def value(column: str) -> Any:
        return lambda row: row.optional(column)

    def letters(column: str) -> np.ndarray:
        texts = grid.array(lambda row: row[column])  # type: ignore[arg-type, return-value]
        return np.where(np.isin(np.char.lower(texts.astype(str)), _NONE), "", texts)

    smooth: dict[str, Any] = {}
    for column, name in (("mean_log_p", "log_p"), ("brier", "brier")):
        found = {column: grid.array(value(column)), f"baseline_{name}": grid.baseline(value(column))}
        if not any(np.isnan(array).all() for array in found.values()):  # numbers and generated answers have none
            smooth |= found
    steps = grid.array(value("dose_steps"))[:, :, 0]
    return Measured(
        folder,
        "matrix",
        model,
        fraction,
        grid.seeds,
        grid.sources,
        grid.targets,
        labels,
        accuracy=grid.array(_accuracy),
        baseline=grid.baseline(_accuracy),
        n=grid.per_target(_items, name="n"),
        constant_letter=letters("constant_letter"),
        equals_key_count=letters("equals_key_count"),
        steps=steps.mean(0),
        items=None if items is None else items[np.isclose(items["fraction"], fraction) | items["source"].eq(BASELINE)],
        **smooth,
    )


def _accuracy(row: Row) -> float:
    return row.number("accuracy", low=0, high=1, hint="accuracies are shares; this looks like per cent")


def _items(row: Row) -> float:
    return row.number("n", low=1)


def _is_baseline(row: Row) -> bool:
    return row["source"].lower() in ("", BASELINE)


def _of_form(path: Path, rows: list[Row], form: str | None) -> list[Row]:
    if form is None:
        return rows
    chosen = [row for row in rows if row["form"] == form]
    if not chosen:
        forms = sorted({row["form"] for row in rows})
        raise CrosstaskError(f"{path} has no form {form!r}; it has {', '.join(forms)}.")
    return chosen


def plain_sources(sources: Collection[str], targets: Collection[str]) -> dict[str, str]:
    """Sources "task/form" -> the target that they are, where it has no other source."""
    known = {identity(target): target for target in targets}
    bases = {source: identity(source.rpartition("/")[0] or source) for source in sources}
    return {
        source: known[base]
        for source, base in bases.items()
        if "/" in source and base in known and list(bases.values()).count(base) == 1
    }


def _pooled(rows: Sequence[Row]) -> list[Row]:
    """One row a cell: means over its forms, weighted by items. Every model must have met the same forms of a target."""
    cells: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        for column in ("mean_log_p", "brier", "dose_steps"):
            row.optional(column)
        _accuracy(row), _items(row)
        fraction = "" if _is_baseline(row) else repr(row.number("fraction", low=0, high=1, hint="looks like per cent"))
        forms = cells.setdefault((fraction, row["seed"], identity(row["source"]), identity(row["target"])), {})
        if row["form"] in forms:
            raise row.wrong(
                f"seed {row['seed']!r}, source {row['source']!r}, target {row['target']!r}, form {row['form']!r} was "
                f"in line {forms[row['form']].line} already."
            )
        forms[row["form"]] = row
    expected: dict[str, Row] = {}
    met: dict[str, set[str]] = {}
    pooled = []
    for (*_, target), forms in cells.items():
        first = next(iter(forms.values()))
        other = expected.setdefault(target, first)
        if met.setdefault(target, set(forms)) != set(forms):
            raise first.wrong(
                f"target {first['target']!r} is asked in the forms {', '.join(sorted(forms))}, and in line "
                f"{other.line} in {', '.join(sorted(met[target]))}; expected the same forms for every model."
            )
        pooled.append(_mean_row(list(forms.values())))
    return pooled


def _mean_row(rows: Sequence[Row]) -> Row:
    if len(rows) == 1:
        return rows[0]
    weights = np.array([_items(row) for row in rows])
    values = dict(rows[0].texts) | {"n": repr(float(weights.sum())), "form": "+".join(sorted(r["form"] for r in rows))}
    for column in ("accuracy", "mean_log_p", "brier"):
        mean = np.average([row.optional(column) for row in rows], weights=weights)
        values[column] = "" if np.isnan(mean) else repr(float(mean))
    constant = {row["constant_letter"] for row in rows if row["constant_letter"].lower() not in _NONE}
    values["constant_letter"] = "+".join(sorted(constant))  # in any of the forms
    equal = {row["equals_key_count"] for row in rows}
    values["equals_key_count"] = equal.pop() if len(equal) == 1 else ""  # in all of them
    return Row(rows[0].path, rows[0].line, values)


def read_items(folder: Path, *, form: str | None = None) -> pd.DataFrame | None:
    """The item table of a matrix folder, sources and targets as identities; None where there is none.

    Args:
        folder: with one of items.parquet, items.csv.gz, items.csv.
        form: only items asked in this form.

    Raises:
        CrosstaskError: the file cannot be read, a column is missing, `correct` is not between 0 and 1, or an item of a
            cell is there twice.
    """
    path = next((folder / name for name in ITEMS_FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        items = (
            pd.read_parquet(path)
            if path.suffix == ".parquet"
            else pd.read_csv(path, dtype=dict.fromkeys(("source", "seed", "target", "form", "item", "rule"), str))
        )
    except (OSError, ValueError, EOFError, ImportError) as error:
        raise CrosstaskError(f"{path} cannot be read: {error}") from error
    missing = [column for column in ITEM_COLUMNS if column not in items.columns]
    if missing:
        raise CrosstaskError(f"{path} has no column {', '.join(missing)}; expected {', '.join(ITEM_COLUMNS)}.")
    items = items[list(ITEM_COLUMNS)].copy()
    for column in ("source", "seed", "target", "form", "item"):
        items[column] = items[column].fillna("").astype(str).str.strip()
    if form is not None:
        items = items[items["form"] == form]
    items["source"] = (
        items["source"].map({name: identity(name) for name in items["source"].unique()}).replace("", BASELINE)
    )
    items["target"] = items["target"].map({name: identity(name) for name in items["target"].unique()})
    items["fraction"] = pd.to_numeric(items["fraction"], errors="coerce").where(items["source"] != BASELINE)
    items["correct"] = _right(path, items["correct"])
    cell = ["source", "seed", "fraction", "target", "form", "item"]
    if (twice := items.duplicated(cell)).any():
        row = items[twice].iloc[0]
        raise CrosstaskError(
            f"{path}, row {int(twice.to_numpy().argmax()) + 1}: item {row['item']!r} of source {row['source']!r}, "
            f"target {row['target']!r}, form {row['form']!r}, seed {row['seed']!r} is there twice."
        )
    return items


def _right(path: Path, correct: pd.Series) -> pd.Series:
    found = correct.astype(str).str.strip().str.lower().replace({"true": "1", "false": "0"})
    values = pd.to_numeric(found, errors="coerce")
    wrong = ~values.between(0, 1)
    if wrong.any():
        at = int(wrong.to_numpy().argmax())
        raise CrosstaskError(f"{path}, row {at + 1}: correct is {str(correct.iloc[at])!r}; expected 1, 0 or a share.")
    return values.astype(float)
