"""Similarities, transfer and covariates of the same tasks, and what was left out to get there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.relation.matrices import LONG_COLUMNS, TaskMatrix, matrices_of, read_matrices
from interp.runs import CONFIG
from interp.tasks.perception.wording import WORDINGS, Wording
from interp.transfer.analysis import Analysis, Settings
from interp.transfer.measures import Measure
from interp.transfer.names import abbreviation, identity, near_misses, ordered
from interp.transfer.reading import read_header, read_rows
from interp.transfer.tables import CELLS_FILE, PGF_COLUMNS

FEWEST = 5
"""Fewest common tasks: with four, 24 permutations cannot give p < .04, and two degrees of freedom are left."""


@dataclass(frozen=True, eq=False)
class Transfer:
    """A measured transfer matrix.

    Attributes:
        name: of the model.
        tasks: identities, in one order.
        runs: of every run; rows sources, columns targets.
        labels: identity -> the name as the data spells it.
        steps: task -> training steps, where they are known.
        norms: task -> norm of its weight change, where it is known.
        what: what stands in the cells.
        origin: where it was read from.
        wording: how its tasks ask, where they are known to be drawn ones.
    """

    name: str
    tasks: tuple[str, ...]
    runs: Float[np.ndarray, "S K K"]
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)
    steps: Mapping[str, float] = field(default_factory=dict, repr=False)
    norms: Mapping[str, float] = field(default_factory=dict, repr=False)
    what: str = "PGF"
    origin: str = "the table"
    wording: Wording | None = None

    def of(self, tasks: Sequence[str]) -> Float[np.ndarray, "S K K"]:
        """The part about these tasks.

        Raises:
            CrosstaskError: a cell of two different tasks has no value; the first few are named.
        """
        return np.array(
            [
                TaskMatrix(self.what, "", self.tasks, run, self.labels, f"The transfer matrix {self.origin}").of(tasks)
                for run in self.runs
            ]
        )


@dataclass(frozen=True, eq=False)
class Aligned:
    """Everything about the same tasks.

    Attributes:
        tasks: identities.
        short: what to write for each: the paper's abbreviation, or the name as it is.
        runs: transfer of every run.
        similarities: N matrices.
        covariates: C matrices.
        remarks: what was left out, in sentences.
    """

    tasks: tuple[str, ...]
    short: tuple[str, ...]
    runs: Float[np.ndarray, "S K K"]
    similarities: Float[np.ndarray, "N K K"]
    covariates: Float[np.ndarray, "C K K"]
    remarks: tuple[str, ...]

    @property
    def transfer(self) -> Float[np.ndarray, "K K"]:
        """Mean over runs."""
        return self.runs.mean(0)


def read_transfer_matrix(
    given: Path | str | pd.DataFrame, *, name: str = "", measure: Measure = "pgf", form: str | None = None
) -> Transfer:
    """A transfer matrix in any form.

    Args:
        given: a matrix folder; a CSV of factors or accuracies in the published long form; a square CSV; or a table of
            pandas, square or long (columns seed, ft_task, task, perfection_gap_factor; or source, target, value and
            perhaps seed).
        name: of the model; by default that of a matrix folder, or of the file.
        measure: what is made of accuracies.
        form: of a matrix folder: only targets asked in this form.

    Raises:
        CrosstaskError: it cannot be read.
    """
    if isinstance(given, pd.DataFrame):
        return _of_table(given, name or "transfer")
    path = Path(given)
    if path.is_file() and path.name != CELLS_FILE and "ft_task" not in read_header(path):
        if measure != "pgf" or form is not None:
            raise CrosstaskError(f"{path} is taken as it is; measure and form are of accuracies and matrix folders.")
        if {"seed", *LONG_COLUMNS} <= set(read_header(path)):
            rows = read_rows(path, ("seed", *LONG_COLUMNS))
            return _of_table(pd.DataFrame([row.texts for row in rows]), name or path.stem)
        matrices = read_matrices(path)
        if len(matrices) != 1:
            raise CrosstaskError(f"{path} holds {len(matrices)} matrices; expected one transfer matrix.")
        return _of_matrix(matrices[0], name or path.stem)
    analysis = Analysis.read(path, Settings(measure=measure, form=form))
    measured = analysis.measured
    steps = {} if measured.steps is None else dict(zip(measured.sources, measured.steps.tolist(), strict=True))
    return Transfer(
        name or measured.model or path.stem,
        measured.tasks,
        analysis.runs,
        measured.labels,
        {task: value for task, value in steps.items() if value > 0},
        _norms(path),
        measure.upper() if measure == "pgf" else measure,
        str(path),
        _wording(path, measured.labels.values()),
    )


def align(
    transfer: Transfer,
    similarities: Sequence[TaskMatrix],
    covariates: Sequence[TaskMatrix] = (),
    *,
    without: Sequence[str] = (),
) -> Aligned:
    """Bring everything to the tasks that all have.

    Args:
        transfer: the measured matrix.
        similarities: of the same tasks, or of others as well.
        covariates: likewise.
        without: tasks to leave out.

    Raises:
        CrosstaskError: fewer than five tasks are common, a value is missing, or a task to leave out is not there.
    """
    dropped = {identity(task) for task in without}
    unknown = [task for task in without if identity(task) not in transfer.tasks]
    if unknown:
        raise CrosstaskError(f"Task {unknown[0]!r} is to be left out, but {transfer.origin} has no such task.")
    every = [*similarities, *covariates]
    tasks = [task for task in transfer.tasks if task not in dropped and all(task in m.tasks for m in every)]
    remarks = _left_out(transfer, every, set(tasks) | dropped)
    if len(tasks) < FEWEST:
        said = " ".join(remarks) or f"The transfer matrix has the tasks {', '.join(transfer.tasks)}."
        raise CrosstaskError(
            f"{len(tasks) or 'no'} task{'' if len(tasks) == 1 else 's'} of {transfer.origin} "
            f"{'is' if len(tasks) == 1 else 'are'} in every matrix; expected {FEWEST} or more. {said}"
        )
    shape = (0, len(tasks), len(tasks))
    return Aligned(
        tuple(tasks),
        tuple(abbreviation(transfer.labels.get(task, task)) for task in tasks),
        transfer.of(tasks),
        np.array([matrix.of(tasks) for matrix in similarities]) if similarities else np.empty(shape),
        np.array([matrix.of(tasks) for matrix in covariates]) if covariates else np.empty(shape),
        tuple(remarks),
    )


def _left_out(transfer: Transfer, matrices: Sequence[TaskMatrix], kept: set[str]) -> list[str]:
    """Which tasks are missing where; matrices that lack the same tasks share a sentence."""
    remarks = []
    lacking: dict[tuple[str, ...], list[TaskMatrix]] = {}
    extra: dict[str, None] = {}
    for matrix in matrices:
        missing = tuple(task for task in transfer.tasks if task not in matrix.tasks)
        lacking.setdefault(missing, []).append(matrix)
        extra |= dict.fromkeys(matrix.label(task) for task in matrix.tasks if task not in transfer.tasks)
    for missing, members in lacking.items():
        if missing:
            where = dict.fromkeys(matrix.origin for matrix in members)
            listed = ", ".join(list(where)[:2]) + (f" and {len(where) - 2} more" if len(where) > 2 else "")
            names = ", ".join(transfer.labels.get(task, task) for task in missing)
            remarks.append(f"Left out, since {listed} does not have {'it' if len(missing) == 1 else 'them'}: {names}.")
    if extra:
        close = {name: near_misses(name, transfer.tasks, cutoff=0.8) for name in extra}
        slips = [f"is {name!r} {found[0]!r}?" for name, found in close.items() if found]
        said = f" ({' '.join(slips)})" if slips else ""
        remarks.append(f"Left out, since the transfer matrix does not have them: {', '.join(ordered(extra))}{said}.")
    return remarks


def _of_matrix(matrix: TaskMatrix, name: str) -> Transfer:
    return Transfer(name, matrix.tasks, matrix.cells[None], matrix.labels, what="value", origin=matrix.origin)


def _of_table(table: pd.DataFrame, name: str) -> Transfer:
    if set(PGF_COLUMNS[1:]) <= set(table.columns):
        table = table.rename(columns=dict(zip(PGF_COLUMNS[1:], LONG_COLUMNS, strict=True)))
        table = table[table["source"].astype(str).str.lower() != "baseline"]
    if "seed" not in table.columns or not set(LONG_COLUMNS) <= set(table.columns):
        return _of_matrix(matrices_of(table, name=name)[0], name)
    found = [
        matrices_of(rows[list(LONG_COLUMNS)], name=f"{name}, seed {seed}")[0] for seed, rows in table.groupby("seed")
    ]
    tasks = found[0].tasks
    if any(matrix.tasks != tasks for matrix in found):
        raise CrosstaskError(f"The seeds of the table {name!r} have different tasks; expected the same for every seed.")
    return Transfer(name, tasks, np.array([m.cells for m in found]), found[0].labels, origin=f"the table {name!r}")


def _wording(path: Path, labels: Iterable[str]) -> Wording | None:
    """How the tasks of a matrix folder ask; unknown where published data is among them."""
    folder = path if path.is_dir() else path.parent
    if not (folder / CELLS_FILE).is_file() or not (folder / CONFIG).is_file() or any(":" in name for name in labels):
        return None
    wording = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("wording", "brief")
    return wording if wording in WORDINGS else None


def _norms(path: Path) -> dict[str, float]:
    """Task -> mean norm of its weight change, of a matrix folder."""
    file = path / CELLS_FILE if path.is_dir() else path
    if file.name != CELLS_FILE:
        return {}
    found: dict[str, list[float]] = {}
    for row in read_rows(file, ("source", "update_norm")):
        if row["update_norm"]:
            task = identity(row["source"].partition("/")[0])
            found.setdefault(task, []).append(row.number("update_norm", low=0))
    return {task: float(np.mean(values)) for task, values in found.items()}
