"""Training dose beside transferability: does a source transfer because of what it teaches, or because of how long?

Spearman's correlation over sources of training steps with every score. In the published schedules steps run from 100 to
15,625, so that source and dose cannot be told apart there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from interp.errors import CrosstaskError
from interp.transfer.names import TASKS, identity
from interp.transfer.reading import read_rows
from interp.transfer.scores import SCORE_COLUMNS
from interp.transfer.tables import Measured

PUBLISHED = "published"


def steps_of(measured: Measured, dose: str | None) -> dict[str, float]:
    """Source -> training steps; empty where they are not known for every task.

    Args:
        measured: whose sources; a matrix folder knows its steps.
        dose: a CSV file with columns task, steps; or "published", those of the paper's Table A.2; or None.

    Raises:
        CrosstaskError: the file is wrong or lacks a task, or published steps are asked of other tasks.
    """
    if dose is None:
        if measured.steps is None or np.isnan(measured.steps).any():
            return {}
        return dict(zip(measured.sources, measured.steps.tolist(), strict=True))
    if dose == PUBLISHED:
        steps, where = {task.name: float(task.steps) for task in TASKS}, "the published schedules"
    else:
        rows = read_rows(Path(dose), ("task", "steps"))
        steps, where = {identity(row.name("task")): row.number("steps", low=0) for row in rows}, dose
    missing = [measured.label(task) for task in measured.tasks if task not in steps]
    if missing:
        raise CrosstaskError(f"There are no steps of {', '.join(missing)} in {where}; expected those of every task.")
    return steps


def dose_table(scores: pd.DataFrame, tasks: list[str], steps: Mapping[str, float]) -> pd.DataFrame:
    """Spearman's correlation of steps with each score over the tasks as sources.

    Args:
        scores: of `scores.task_scores`.
        tasks: identities of its tasks, in its order.
        steps: of each.

    Returns:
        A table with columns score, n, spearman, p (two-sided), least_steps, most_steps; empty without steps.
    """
    columns = ["score", "n", "spearman", "p", "least_steps", "most_steps"]
    if not steps:
        return pd.DataFrame(columns=columns)
    dose = [steps[task] for task in tasks]
    rows = []
    for score in SCORE_COLUMNS[1:-1]:
        if not score.startswith("transferability"):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)  # equal doses have no rank; the result is NaN
            found = stats.spearmanr(dose, scores[score])
        rows.append([score, len(dose), float(found.statistic), float(found.pvalue), min(dose), max(dose)])
    return pd.DataFrame(rows, columns=columns)
