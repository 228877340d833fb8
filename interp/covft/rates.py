"""A learning rate for each strategy: tried on selection items under one seed, and written down.

One rate for all strategies compares them at a rate that suits one of them. Each arm is therefore trained at every rate
of a grid with the study's own dose; the one that is right most often on selection items, on average over the mixture's
tasks, is taken, and of two that are right equally often the lower. A training that diverges is never taken. Arms with
other options of a strategy, or with gradient surgery, have its rate unless they have been tried themselves. Test items
play no part.

    rates/<rate>/units/...      trainings, as a study has them
    rates/rates.csv, rates.json   what was found, and what is chosen
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from interp.covft.arms import Arm, Cell, check_arm
from interp.covft.plan import StudySettings, Unit, make_unit
from interp.covft.units import is_finished, read_records
from interp.errors import CrosstaskError
from interp.statistics import bootstrap_crossed

RATES = "rates"
COLUMNS = ("strategy", "learning_rate", "n", "accuracy", "low", "high", "chosen", "at_edge")


@dataclass(frozen=True)
class Trial:
    """One strategy at one learning rate.

    Attributes:
        arm: how is trained.
        rate: the learning rate.
        root: folder of the units at this rate.
        unit: the training and its evaluation on selection items.
    """

    arm: Arm
    rate: float
    root: Path
    unit: Unit


def trials(
    root: Path,
    settings: StudySettings,
    arms: Sequence[Arm],
    mixture: Sequence[str],
    rates: Sequence[float],
    *,
    seed: int,
) -> list[Trial]:
    """Every arm at every rate, rates side by side.

    Args:
        root: the study's folder.
        settings: of the study; only the rate and the split are others.
        arms: what is tried; one that is there twice is tried once.
        mixture: the tasks that it is trained and tested on.
        rates: the grid.
        seed: of the trainings.

    Raises:
        CrosstaskError: a rate is not above zero, or is given twice, or there is only one.
    """
    if len(set(rates)) < max(2, len(rates)) or not all(0 < rate < math.inf for rate in rates):
        raise CrosstaskError(
            f"learning rates {', '.join(f'{rate:g}' for rate in rates) or '(none)'}: expected two or more above zero, "
            "each once"
        )
    found = []
    for arm in {arm.name: arm for arm in arms}.values():
        for rate in sorted(rates):
            own = {name: value for name, value in arm.training.items() if name != "learning_rate"}
            here = replace(settings, split="selection", training={**settings.training, "learning_rate": rate})
            unit = make_unit(here, Cell(Arm(arm.name, own), tuple(mixture)), seed)
            found.append(Trial(arm, rate, root / RATES / f"{rate:g}", unit))
    return found


def table(made: Sequence[Trial], *, seed: int = 0) -> pd.DataFrame:
    """What was found, a row for each strategy and rate; columns are `COLUMNS`.

    A training that failed has no accuracy. `low` and `high` are of 95 % over items, each task's by themselves.
    `at_edge` says that the best rate is the lowest or highest of the grid, beyond which better ones may lie.
    """
    rows = []
    for trial in made:
        row = {"strategy": trial.arm.name, "learning_rate": trial.rate, "n": 0, "chosen": False, "at_edge": False}
        if is_finished(trial.root, trial.unit):
            answers = [
                (task, record.item, float(record.correct))
                for task in trial.unit.cell.mixture
                for record in read_records(trial.root, trial.unit, task)
            ]
            tasks, items, values = zip(*answers, strict=True)
            right = bootstrap_crossed(
                values, tasks=tasks, items=items, seeds=[trial.unit.seed] * len(values), seed=seed
            )
            row |= {"n": len(values), "accuracy": right.value, "low": right.low, "high": right.high}
        rows.append(row)
    found = pd.DataFrame(rows, columns=list(COLUMNS))
    grid = sorted(set(found["learning_rate"]))
    for _, group in found.dropna(subset=["accuracy"]).groupby("strategy", sort=False):
        alike = group.assign(accuracy=group["accuracy"].round(12))  # a mean over tasks may differ in its last digit
        best = alike.sort_values(["accuracy", "learning_rate"], ascending=[False, True]).index[0]
        found.loc[best, "chosen"] = True
        found.loc[best, "at_edge"] = found.loc[best, "learning_rate"] in (grid[0], grid[-1])
    return found


def beside_earlier(found: pd.DataFrame, path: Path) -> pd.DataFrame:
    """What was found, below the rows of other arms that a file of earlier trials has."""
    if not path.exists():
        return found
    earlier = _earlier(path)
    return pd.concat([earlier[~earlier["strategy"].isin(found["strategy"])], found], ignore_index=True)


def check_earlier(path: Path) -> None:
    """Read a file of earlier trials before new ones are made.

    Raises:
        CrosstaskError: it is damaged.
    """
    if path.exists():
        _earlier(path)


def _earlier(path: Path) -> pd.DataFrame:
    try:
        found = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise CrosstaskError(
            f"{path} cannot be read ({error}): delete it to have it written from new trials"
        ) from error
    if missing := [name for name in COLUMNS if name not in found]:
        raise CrosstaskError(f"{path} has no column {missing[0]!r}: delete it to have it written from new trials")
    return found


def chosen(found: pd.DataFrame) -> dict[str, float]:
    """Arm -> its learning rate.

    Raises:
        CrosstaskError: all trainings of a strategy failed.
    """
    rows = found[found["chosen"]]
    if lost := sorted(set(found["strategy"]) - set(rows["strategy"])):
        raise CrosstaskError(f"{lost[0]!r} diverged at every learning rate of the grid; try lower ones")
    return {str(name): float(rate) for name, rate in zip(rows["strategy"], rows["learning_rate"], strict=True)}


def read_rates(path: Path) -> dict[str, float]:
    """Strategy, or an arm's name (a strategy with its options, as tables have it) -> learning rate from a JSON object.

    Raises:
        CrosstaskError: it cannot be read, names something else than an arm, or a rate is not a number above zero.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CrosstaskError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CrosstaskError(f"{path} cannot be read: {error}") from error
    if not isinstance(given, Mapping):
        raise CrosstaskError(f"{path} holds a {type(given).__name__}; expected an object of strategy: learning rate")
    for name, rate in given.items():
        check_arm(name)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= sys.float_info.max:
            raise CrosstaskError(f"{path} gives {name!r} the learning rate {rate!r}; expected a number above zero")
    return {name: float(rate) for name, rate in given.items()}
