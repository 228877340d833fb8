"""How hard each task should be asked: measured on the selection split, once, and written down.

On a grid of difficulties the frozen model (and, if asked for, a model trained directly at each) answers selection
items. Of the difficulties at which the frozen model is right at most 80 % of the time, so that there is room above it,

- with direct training: the one with the largest gain of training over the frozen model, the easier of two equal ones;
- without: the easiest, which leaves the most that can be learnt.

Where the frozen model is above 80 % everywhere the hardest is taken. Test items play no part.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from interp.errors import CrosstaskError
from interp.statistics import compare_paired, wilson
from interp.tuning.matrix.jobs import read_records
from interp.tuning.matrix.plan import Job, MatrixSettings, Variant, make_jobs, task_of

CEILING = 0.8
"""Most that the frozen model may have right."""
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
COLUMNS = (
    "task", "difficulty", "n", "frozen", "frozen_low", "frozen_high", "direct", "direct_low", "direct_high", "gain",
    "gain_low", "gain_high", "p_value", "chosen",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One task at one difficulty.

    Attributes:
        task: its name.
        difficulty: 0 to 1.
        jobs: training first, if there is one, then evaluations of the frozen and the trained model.
    """

    task: str
    difficulty: float
    jobs: tuple[Job, ...]


def grid(settings: MatrixSettings, *, difficulties: Sequence[float] = GRID, direct: bool = False) -> Iterator[Point]:
    """The jobs of a calibration; all items are of the selection split.

    Args:
        settings: of the matrix; its targets are calibrated.
        difficulties: what is tried.
        direct: train on each task at each difficulty as well.

    Raises:
        CrosstaskError: a difficulty is out of range.
    """
    for difficulty in difficulties:
        if not 0 <= difficulty <= 1:
            raise CrosstaskError(f"a difficulty lies between 0 and 1, and was given as {difficulty}")
    for task in settings.targets:
        for difficulty in difficulties:
            here = replace(
                settings,
                sources=(task,) if direct else (),
                targets=(task,),
                seeds=settings.seeds[:1],
                fractions=(1.0,),
                split="selection",
                difficulties={task_of(task): difficulty},
            )
            at = f"calibrate/{difficulty:g}"
            yield Point(task, difficulty, tuple(_moved(job, at) for job in make_jobs(here)))


def _moved(job: Job, at: str) -> Job:
    """The same job in a folder of its difficulty."""
    trainings = tuple(None if key is None else f"{at}/{key}" for key in job.trainings)
    return replace(job, key=f"{at}/{job.key}", trainings=trainings)


def table(root: Path, points: Sequence[Point]) -> pd.DataFrame:
    """What was found, a row for each task and difficulty, the chosen ones marked; columns are `COLUMNS`."""
    rows = []
    for point in points:
        found: dict[str, list[bool]] = {}
        for job in point.jobs:
            for variant in job.variants:
                records = read_records(root, job, variant)
                found["frozen" if variant == Variant() else "direct"] = [record.correct >= 0.5 for record in records]
        row: dict[str, object] = {"task": point.task, "difficulty": point.difficulty, "n": len(found["frozen"])}
        for name, right in found.items():
            rate = wilson(sum(right), len(right))
            row |= {name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}
        if "direct" in found:
            gain = compare_paired(found["direct"], found["frozen"])
            row |= {"gain": gain.difference.value, "gain_low": gain.difference.low, "gain_high": gain.difference.high}
            row["p_value"] = gain.p_value
        rows.append(row)
    made = pd.DataFrame(rows, columns=list(COLUMNS))
    made["chosen"] = False
    for _, group in made.groupby("task", sort=False):
        made.loc[choose_row(group), "chosen"] = True
    return made


def choose_row(group: pd.DataFrame) -> int:
    """Index of the chosen row among the difficulties of one task."""
    group = group.sort_values("difficulty")
    allowed = group[group["frozen"] <= CEILING]
    if allowed.empty:
        return int(group.index[-1])
    if allowed["gain"].notna().any():
        return int(allowed["gain"].astype(float).idxmax())
    return int(allowed.index[0])


def chosen(made: pd.DataFrame) -> dict[str, float]:
    """Task -> difficulty."""
    rows = made[made["chosen"]]
    return {task_of(task): float(value) for task, value in zip(rows["task"], rows["difficulty"], strict=True)}


def difficulties_of(tasks: Iterable[str], file: Path | None, *, otherwise: float) -> dict[str, float]:
    """Task -> difficulty of its drawn items: the file's, and for tasks that it does not name another one.

    Args:
        tasks: "task" or "task/form"; keys are the tasks.
        file: as :func:`read_difficulties` takes it, or None; it may name other tasks too, which are kept.
        otherwise: of tasks that it does not name.

    Raises:
        CrosstaskError: the file names a task that does not exist, or cannot be read; or a difficulty is out of range.
    """
    from interp.tuning.matrix.work import canonical

    if not 0 <= otherwise <= 1:
        raise CrosstaskError(f"a difficulty lies between 0 and 1, and was given as {otherwise:g}")
    given = read_difficulties(file) if file is not None else {}
    return {task_of(name): otherwise for name in tasks} | {
        task_of(canonical(name)): value for name, value in given.items()
    }


def read_difficulties(path: Path) -> dict[str, float]:
    """Task -> difficulty from a JSON object, or a CSV with columns task and difficulty.

    Of a table that calibration wrote, with a column `chosen`, the chosen rows are taken.

    Raises:
        CrosstaskError: the file cannot be read, lacks a column, or has a value out of range or a task twice.
    """
    try:
        if path.suffix == ".csv":
            found = pd.read_csv(path)
            if "chosen" in found.columns:
                found = found[found["chosen"].astype(str).str.lower() == "true"]
            names, values = list(found["task"]), list(found["difficulty"])
        else:
            given = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(given, Mapping):
                raise CrosstaskError(f"{path} holds a {type(given).__name__}; expected an object of task: difficulty")
            names, values = list(given), list(given.values())
    except OSError as error:
        raise CrosstaskError(f"{path} cannot be read: {error.strerror or error}") from error
    except KeyError as error:
        raise CrosstaskError(f"{path} has no column {error}; expected task and difficulty") from error
    except ValueError as error:
        raise CrosstaskError(f"{path} cannot be read: {error}") from error
    for name, value in zip(names, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise CrosstaskError(f"{path} gives {name!r} the difficulty {value!r}; expected a number from 0 to 1")
    if len(set(names)) < len(names):
        raise CrosstaskError(f"{path} gives {next(n for n in names if names.count(n) > 1)!r} two difficulties")
    return {str(name): float(value) for name, value in zip(names, values, strict=True)}
