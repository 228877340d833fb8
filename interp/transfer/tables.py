"""What a measured transfer matrix looks like on disk. This file is the one place of the schema.

Our own matrix is a folder with two tables (written by `python -m experiments.transfer_matrix`):

    cells.csv                         a row for each source, seed, training fraction, target and form
        model           name of the model
        source          the task trained on, perhaps with its form ("jigsaw/words"); "baseline" is the model before any
                        training
        seed            of the training run; the baseline may have rows of one seed alone, or of every seed
        fraction        share of the training that the source has had, 0 to 1; 1 is all of it; the baseline's is ignored
        target          the task tested on
        form            how the target was asked (pictures, marks, words, yes_no, blink, ...)
        n               items
        accuracy        share of right answers, 0 to 1
        mean_log_p      mean over items of log p(key) (natural logarithm)
        brier           mean over items of the Brier score, sum over options of (p - 1[key])^2
        constant_letter the letter that more than 90 % of the predictions are, or empty
        equals_key_count letters, joined by +, whose number of keys is the number of right answers, or empty
        dose_steps      optimiser steps of the source; may be empty
        update_norm     Frobenius norm of the source's weight change; may be empty
    items.csv.gz or items.parquet     a row for each item of each cell
        source, seed, fraction, target, form    as above
        item            name of the item, the same under every source
        key             the right letter
        prediction      the predicted letter
        correct         1 or 0 (true and false are read as well); where the answer is a number, its relative accuracy
        log_p_key       log p(key); may be empty
        brier           of this item; may be empty
        rule            what found the prediction in a generated answer; empty for forced choice

Two forms of one CSV are read as well, see `interp.transfer.reading`: published Perfection Gap Factors
(`seed,ft_task,task,perfection_gap_factor`) and accuracies with baselines (`seed,ft_task,task,accuracy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.transfer.reading import read_header

CELLS_FILE = "cells.csv"
ITEMS_FILES = ("items.parquet", "items.csv.gz", "items.csv")
CELL_COLUMNS = (
    "model", "source", "seed", "fraction", "target", "form", "n", "accuracy", "mean_log_p", "brier",
    "constant_letter", "equals_key_count", "dose_steps", "update_norm",
)  # fmt: skip
ITEM_COLUMNS = (
    "source", "seed", "fraction", "target", "form", "item", "key", "prediction", "correct", "log_p_key", "brier",
    "rule",
)  # fmt: skip
CONSTANT_SHARE = 0.9
"""A cell answers with a constant letter if more than this share of its predictions is that letter."""

PGF_COLUMNS = ("seed", "ft_task", "task", "perfection_gap_factor")
"""The published long form. A column `fraction` may follow."""
ACCURACY_COLUMNS = ("seed", "ft_task", "task", "accuracy")
"""Accuracies; rows whose ft_task is "baseline" or empty are the frozen model. Columns `n` and `fraction` may follow."""

Values: TypeAlias = "Float[np.ndarray, 'S I J']"


@dataclass(frozen=True, eq=False)
class Measured:
    """A measured transfer matrix: every seed, source and target, at one training fraction.

    Sources and targets are identities (`names.identity`): in the paper's order, then others by name. What was not
    measured is None.

    Attributes:
        path: the file or folder that it was read from.
        kind: "pgf", "accuracy" or "matrix".
        model: name of the model, or empty.
        fraction: share of the training that the sources have had.
        seeds: names of the training runs.
        sources: tasks trained on, and controls.
        targets: tasks tested on.
        labels: identity -> the name as the data spells it.
        pgf: factors as they were read.
        accuracy: of every cell.
        baseline: accuracy of the frozen model.
        n: items of each target.
        mean_log_p: mean log p of the key.
        baseline_log_p: likewise of the frozen model.
        brier: mean Brier score.
        baseline_brier: likewise of the frozen model.
        constant_letter: the letter that a cell always answers with, or empty.
        equals_key_count: the letters whose number of keys is the cell's number of right answers, or empty.
        steps: optimiser steps of each source, NaN where unknown.
        items: table of ITEM_COLUMNS, with sources and targets as identities.
        rebuilt: whether accuracies were rebuilt from factors (`interp.transfer.rebuild`).
    """

    path: Path
    kind: Literal["pgf", "accuracy", "matrix"]
    model: str
    fraction: float
    seeds: tuple[str, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    labels: Mapping[str, str]
    pgf: Values | None = None
    accuracy: Values | None = None
    baseline: Float[np.ndarray, "S J"] | None = None
    n: Float[np.ndarray, " J"] | None = None
    mean_log_p: Values | None = None
    baseline_log_p: Float[np.ndarray, "S J"] | None = None
    brier: Values | None = None
    baseline_brier: Float[np.ndarray, "S J"] | None = None
    constant_letter: np.ndarray | None = None
    equals_key_count: np.ndarray | None = None
    steps: Float[np.ndarray, " I"] | None = None
    items: pd.DataFrame | None = None
    rebuilt: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is both source and target: the square of the matrix."""
        return tuple(target for target in self.targets if target in self.sources)

    @property
    def controls(self) -> tuple[str, ...]:
        """Sources that are no target, such as random_key and caption."""
        return tuple(source for source in self.sources if source not in self.targets)

    @property
    def extras(self) -> tuple[str, ...]:
        """Targets that are no source, such as spatio-temporal tasks."""
        return tuple(target for target in self.targets if target not in self.sources)

    def square(self, values: Float[np.ndarray, "... I J"]) -> Float[np.ndarray, "... K K"]:
        """The part of an array of all sources and targets that is about the tasks that are both."""
        rows = [self.sources.index(task) for task in self.tasks]
        columns = [self.targets.index(task) for task in self.tasks]
        return values[..., rows, :][..., columns]

    def label(self, name: str) -> str:
        """A task as the data spells it."""
        return self.labels.get(name, name)


def read_transfer(path: Path | str, *, form: str | None = None) -> dict[float, Measured]:
    """Read a measured matrix in any form.

    Args:
        path: a matrix folder (or its cells.csv), a CSV of Perfection Gap Factors, or a CSV of accuracies.
        form: of a matrix folder: only targets asked in this form; by default all forms, weighted by their items.

    Returns:
        Training fraction -> what was measured at it, in ascending order. The last one is that of the whole training.

    Raises:
        CrosstaskError: anything is wrong with the file; the sentence names the line.
    """
    from interp.transfer.long_form import read_accuracies, read_factors
    from interp.transfer.matrix_folder import read_folder

    path = Path(path)
    if path.name == CELLS_FILE and path.is_file():
        path = path.parent
    if path.is_dir():
        return read_folder(path, form=form)
    if form is not None:
        raise CrosstaskError(f"Form {form!r} was asked for, but {path} is no matrix folder, and has no forms.")
    if not path.exists():
        raise CrosstaskError(f"{path} does not exist; expected a CSV file, or a folder with {CELLS_FILE}.")
    header = read_header(path)
    factor, share = PGF_COLUMNS[-1], ACCURACY_COLUMNS[-1]
    if factor in header and share in header:
        raise CrosstaskError(f"{path}, line 1: there are columns {factor} and {share}; expected one of them.")
    return read_accuracies(path) if share in header else read_factors(path)
