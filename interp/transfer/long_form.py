"""The two long CSV forms of a transfer matrix: published factors, and accuracies with baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from interp.errors import CrosstaskError
from interp.transfer.grids import Grid, by_fraction, labels_of
from interp.transfer.names import BASELINE
from interp.transfer.reading import Row, read_rows
from interp.transfer.tables import ACCURACY_COLUMNS, PGF_COLUMNS, Measured

_PER_CENT = "this looks like per cent"
_MOST_FACTOR = 2.0
"""A factor against a ceiling below 1 may exceed 1, but hardly ever reaches this; per cents do."""


def read_factors(path: Path) -> dict[float, Measured]:
    """Perfection Gap Factors: `seed,ft_task,task,perfection_gap_factor`, perhaps with `fraction`.

    Raises:
        CrosstaskError: anything is wrong with the file.
    """

    def factor(row: Row) -> float:
        return row.number(PGF_COLUMNS[-1], high=_MOST_FACTOR, hint=f"a factor is at most 1; {_PER_CENT}")

    rows = [row for row in read_rows(path, PGF_COLUMNS) if row.name("ft_task").lower() != BASELINE]  # its factors are 0
    for row in rows:
        factor(row)
    if not rows:
        raise CrosstaskError(f"{path} has rows of the baseline alone; expected fine-tuned models.")
    grids = by_fraction(rows, lambda: Grid(path), baseline_of=_is_baseline)
    labels = labels_of(grids)
    return {
        fraction: Measured(
            path, "pgf", "", fraction, grid.seeds, grid.sources, grid.targets, labels, pgf=grid.array(factor)
        )
        for fraction, grid in grids.items()
    }


def read_accuracies(path: Path) -> dict[float, Measured]:
    """Accuracies: `seed,ft_task,task,accuracy`, perhaps with `n` and `fraction`.

    Raises:
        CrosstaskError: anything is wrong with the file.
    """

    def accuracy(row: Row) -> float:
        return row.number(ACCURACY_COLUMNS[-1], low=0, high=1, hint=f"accuracies are shares; {_PER_CENT}")

    def items(row: Row) -> float:
        return row.number("n", low=1)

    rows = read_rows(path, ACCURACY_COLUMNS)
    for row in rows:
        accuracy(row)
    if all(_is_baseline(row) for row in rows):
        raise CrosstaskError(f"{path} has rows of the baseline alone; expected fine-tuned models.")
    grids = by_fraction(rows, lambda: Grid(path), baseline_of=_is_baseline)
    labels = labels_of(grids)
    counted = any(row["n"] for row in rows)
    return {
        fraction: Measured(
            path,
            "accuracy",
            "",
            fraction,
            grid.seeds,
            grid.sources,
            grid.targets,
            labels,
            accuracy=grid.array(accuracy),
            baseline=grid.baseline(accuracy),
            n=np.rint(grid.per_target(items, name="n")) if counted else None,
        )
        for fraction, grid in grids.items()
    }


def _is_baseline(row: Row) -> bool:
    return row["ft_task"].lower() in ("", BASELINE)
