"""What else could make two tasks transfer: covariates, a matrix each.

Built in for the thirteen tasks, from what BLINK's items look like (Fu et al. 2024):

    format     1 for two tasks with the same option texts: "the second image / the third image" (Visual Similarity, Art
               Style, Jigsaw), "Point A ... Point D" (the three correspondences); no other two tasks share theirs
    options    1 for the same number of options
    images     1 for the same number of pictures
    marks      1 for the same marks in the pictures: lettered circles (depth, reflectance, the three correspondences)
    words      cosine of the words of the tasks' questions, without options (tf-idf over tasks), in the wording that the
               transfer matrix was made with; of our drawn tasks, and not of BLINK's items
    dose       minus the absolute difference of the logarithms of training steps
    norms      likewise of the norms of the weight changes, where the transfer matrix knows them

or a CSV file: a matrix, long or square; or columns task and one more, of numbers (similarity: minus the absolute
difference) or of words (1 for the same word). A covariate of the source or of the target alone is absorbed by row and
column effects, and therefore enters as the similarity of the two tasks in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.relation.matrices import ALL_LAYERS, TaskMatrix, matrices_of, read_matrices
from interp.tasks.perception.wording import Wording
from interp.transfer.names import TASKS, TaskName, find_task, identity
from interp.transfer.reading import read_header, read_rows

_FORMATS = (("VS", "AS", "JG"), ("VC", "SC", "FC"))
_MARKS = (("RD", "RR", "VC", "SC", "FC"),)
BUILT_IN = ("format", "options", "images", "marks", "words", "dose", "norms")
QUESTIONS = 12
"""Drawn items of each task whose words are compared."""


def covariate(
    given: str | Path | pd.DataFrame,
    *,
    tasks: Sequence[str],
    steps: Mapping[str, float] | None = None,
    norms: Mapping[str, float] | None = None,
    wording: Wording = "brief",
    name: str = "",
) -> TaskMatrix:
    """A covariate's matrix.

    Args:
        given: one of BUILT_IN, a CSV file, or a table.
        tasks: identities of the tasks that it is needed for.
        steps: task -> training steps, for dose; by default those of the published schedules.
        norms: task -> norm of its weight change, for norms.
        wording: how tasks ask, for words.
        name: of a table; a file is called as itself, and "name=file" names it.

    Raises:
        CrosstaskError: there is no such covariate or file, or it is not known of a task.
    """
    if isinstance(given, pd.DataFrame):
        if "task" in given.columns and len(given.columns) == 2:
            column = next(column for column in given.columns if column != "task")
            values = dict(zip(given["task"].astype(str), given[column].astype(str), strict=True))
            return _of_values(name or str(column), values, tasks, f"the table {name or column!r}")
        return _one(matrices_of(given, name=name or "covariate"), f"the table {name!r}", name or "covariate")
    text = str(given)
    if text in ("dose", "norms"):
        return _measured(text, tasks, steps if text == "dose" else norms)
    if text in BUILT_IN:
        return _published(text, tasks, wording)
    title, _, path = text.rpartition("=") if "=" in text and not Path(text).exists() else ("", "", text)
    if not Path(path).exists():
        raise CrosstaskError(
            f"There is no covariate and no file {text!r}; expected one of {', '.join(BUILT_IN)}, or a CSV file."
        )
    file = Path(path)
    header = read_header(file) if file.is_file() else []
    if "task" in header and len(header) == 2:
        column = next(column for column in header if column != "task")
        rows = read_rows(file, ("task", column))
        return _of_values(title or column, {row.name("task"): row.name(column) for row in rows}, tasks, path)
    return _one(read_matrices(file), path, title or file.stem)


def _one(matrices: Sequence[TaskMatrix], where: str, name: str) -> TaskMatrix:
    if len(matrices) != 1:
        listed = ", ".join(matrix.name for matrix in matrices[:4])
        raise CrosstaskError(f"{where} holds {len(matrices)} matrices ({listed}); expected one as a covariate.")
    found = matrices[0]
    return TaskMatrix(name, ALL_LAYERS, found.tasks, found.cells, found.labels, found.origin, found.mirrored)


def _published(name: str, tasks: Sequence[str], wording: Wording) -> TaskMatrix:
    """A built-in covariate of published tasks."""
    known = [find_task(task) for task in tasks]
    unknown = [task for task, found in zip(tasks, known, strict=True) if found is None]
    if unknown:
        raise CrosstaskError(
            f"Covariate {name!r} is known of the thirteen published tasks and not of {', '.join(unknown)}; give a CSV "
            f"file with columns task, {name}."
        )
    found = [task for task in known if task is not None]
    if name == "words":
        return TaskMatrix(name, ALL_LAYERS, tuple(tasks), _worded(found, wording), {}, f"covariate {name!r}")
    if name in ("options", "images"):
        kinds = [str(getattr(task, name)) for task in found]
    else:
        families = _FORMATS if name == "format" else _MARKS
        of = {member: f"family {index}" for index, members in enumerate(families) for member in members}
        kinds = [of.get(task.abbreviation, task.name) for task in found]
    return TaskMatrix(name, ALL_LAYERS, tuple(tasks), _same(kinds), {}, f"covariate {name!r}")


def _worded(tasks: Sequence[TaskName], wording: Wording) -> Float[np.ndarray, "K K"]:
    """Cosines of what tasks ask in, from drawn items of training."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    from interp.tasks.perception.datasets import training_data
    from interp.tuning.dataset import as_example
    from interp.tuning.text_context import context_text

    texts = []
    for task in tasks:
        data = training_data(task.abbreviation, n=QUESTIONS, size=32, wording=wording)
        texts.append(" ".join(context_text(as_example(data[index]).turns[0][0]) for index in range(QUESTIONS)))
    weights = TfidfVectorizer().fit_transform(texts)
    return (weights @ weights.T).toarray()


def _measured(name: str, tasks: Sequence[str], values: Mapping[str, float] | None) -> TaskMatrix:
    """Similarity of the logarithms of steps or norms."""
    if name == "dose" and not values:
        values = {task.name: float(task.steps) for task in TASKS}
    values = values or {}
    missing = [task for task in tasks if not values.get(task, math.nan) > 0]
    if missing:
        what = "training steps" if name == "dose" else "norms of weight changes"
        raise CrosstaskError(
            f"Covariate {name!r} needs the {what} of {', '.join(missing)}, which the transfer matrix does not hold; "
            f"give a CSV file with columns task, {name}."
        )
    logs = np.log([values[task] for task in tasks])
    return TaskMatrix(name, ALL_LAYERS, tuple(tasks), -np.abs(logs[:, None] - logs), {}, f"covariate {name!r}")


def _of_values(name: str, texts: Mapping[str, str], tasks: Sequence[str], where: str) -> TaskMatrix:
    """Similarity of tasks in a column of numbers or words."""
    read = {identity(task): text for task, text in texts.items()}
    missing = [task for task in tasks if not read.get(task, "").strip()]
    if missing:
        raise CrosstaskError(f"{where} has no {name} of {', '.join(missing)}; expected one for every task.")
    chosen = [read[task] for task in tasks]
    try:
        numbers = np.array([float(text) for text in chosen])
    except ValueError:
        return TaskMatrix(name, ALL_LAYERS, tuple(tasks), _same(chosen), {}, where)
    if not np.isfinite(numbers).all():
        raise CrosstaskError(f"{where}: {name} of {tasks[int(np.argmin(np.isfinite(numbers)))]} is no finite number.")
    return TaskMatrix(name, ALL_LAYERS, tuple(tasks), -np.abs(numbers[:, None] - numbers), {}, where)


def _same(kinds: Sequence[str]) -> Float[np.ndarray, "K K"]:
    labels = np.array(kinds)
    return (labels[:, None] == labels).astype(float)
