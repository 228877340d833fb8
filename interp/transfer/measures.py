"""What stands in the cells of a matrix: the Perfection Gap Factor against a ceiling, or one of its relatives.

    pgf        the factor; see `interp.transfer.pgf`
    chance     the factor with accuracies below chance taken to be at chance
    log_p      the smooth factor on the mean log p of the key
    brier      the smooth factor on the Brier score
    log_odds   the difference of log-odds

Ceilings: "one" (1 for every target), "best" (the best mean accuracy seen on a target, or the baseline's), or a CSV file
with columns task, ceiling (such as human accuracies). Factors without accuracies allow "one" and "best": the best-bound
factor is the factor over the best one of its target.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.transfer import pgf as factors
from interp.transfer.names import find_task, identity
from interp.transfer.reading import read_rows
from interp.transfer.tables import Measured

Measure = Literal["pgf", "chance", "log_p", "brier", "log_odds"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
ONE, BEST = "one", "best"
_NONE = 1e-12


def ceilings_of(measured: Measured, ceiling: str) -> dict[str, float]:
    """Target -> its ceiling.

    Args:
        measured: whose targets, and for "best" whose accuracies.
        ceiling: "one", "best", or the path of a CSV file with columns task, ceiling.

    Raises:
        CrosstaskError: the file is wrong or lacks a target, or needs accuracies that there are not.
    """
    if ceiling == ONE:
        return dict.fromkeys(measured.targets, 1.0)
    if ceiling == BEST:
        accuracy, baseline, _ = _levels(measured)
        best = np.clip(factors.best_bound(accuracy, baseline), _NONE, 1.0)
        return dict(zip(measured.targets, best.tolist(), strict=True))
    rows = read_rows(Path(ceiling), ("task", "ceiling"))
    read = {
        identity(row.name("task")): row.number("ceiling", low=0, high=1, hint="this looks like per cent")
        for row in rows
    }
    missing = [measured.label(target) for target in measured.targets if target not in read]
    if missing:
        raise CrosstaskError(f"{ceiling} has no ceiling of {', '.join(missing)}; expected one for every target.")
    _require_accuracies(measured, "A stated ceiling")
    return {target: read[target] for target in measured.targets}


def as_read(measured: Measured, measure: Measure, ceiling: str, epsilon: float) -> bool:
    """Whether the cells are the factors as they stand in the file."""
    return measured.pgf is not None and measure == "pgf" and ceiling == ONE and epsilon == 0


def measure_values(
    measured: Measured, measure: Measure, *, ceilings: Mapping[str, float], epsilon: float = 0.0
) -> Float[np.ndarray, "S I J"]:
    """What stands in the cells, of each run.

    Args:
        measured: the matrix.
        measure: one of MEASURES.
        ceilings: of `ceilings_of`.
        epsilon: added to the room above the baseline.

    Raises:
        CrosstaskError: the data lacks what the measure is made from.
    """
    if measure == "log_p":
        _require(measured.mean_log_p, measured, "log_p", "mean_log_p")
        return factors.smooth_log_p(measured.mean_log_p, measured.baseline_log_p[:, None])  # type: ignore[arg-type, index]
    if measure == "brier":
        _require(measured.brier, measured, "brier", "brier")
        return factors.smooth_brier(measured.brier, measured.baseline_brier[:, None])  # type: ignore[arg-type, index]
    if measure == "log_odds":
        _require_accuracies(measured, "Measure 'log_odds'")
        _require(measured.n, measured, "log_odds", "n, the number of items,")
        return factors.log_odds_difference(measured.accuracy, measured.baseline[:, None], measured.n)  # type: ignore[arg-type, index]
    upper = np.array([ceilings[target] for target in measured.targets])
    if measure == "pgf" and measured.pgf is not None and epsilon == 0 and np.all(upper == 1):
        return measured.pgf
    if epsilon or measure == "chance":
        _require_accuracies(measured, "Measure 'chance'" if measure == "chance" else "An epsilon")
    accuracy, baseline, n = _levels(measured)
    baseline = baseline[:, None]
    if measure == "chance":
        chance = _chance(measured)
        accuracy, baseline = (factors.chance_corrected(values, chance) for values in (accuracy, baseline))
        upper = np.clip((upper - chance) / (1 - chance), _NONE, 1.0)
        n = None if n is None else n * (1 - chance)  # an item is a larger step of what is above chance
    return factors.pgf(accuracy, baseline, ceiling=upper, epsilon=epsilon, n=n)


def all_measures(measured: Measured, *, ceilings: Mapping[str, float], epsilon: float = 0.0) -> pd.DataFrame:
    """Every cell in every measure that the data allows: means over runs.

    Returns:
        A table with columns source, target, pgf, pgf_best_bound, and those of chance, log_p, brier, log_odds that the
        data has.
    """
    best = ceilings_of(measured, BEST)
    asked: list[tuple[str, Measure, Mapping[str, float], float]] = [("pgf", "pgf", ceilings, epsilon)]
    asked += [("pgf_best_bound", "pgf", best, 0.0)]
    asked += [(measure, measure, ceilings, epsilon) for measure in MEASURES[1:]]
    cells = [(source, target) for source in measured.sources for target in measured.targets]
    table = pd.DataFrame(cells, columns=["source", "target"])
    for column, measure, upper, added in asked:
        try:
            table[column] = measure_values(measured, measure, ceilings=upper, epsilon=added).mean(0).ravel()
        except CrosstaskError:  # the data has not what it takes
            continue
    return table


def _levels(
    measured: Measured,
) -> tuple[Float[np.ndarray, "S I J"], Float[np.ndarray, "S J"], Float[np.ndarray, " J"] | None]:
    """Accuracies, baselines and items; of factors alone the factors, whose baseline is 0 in units of the room."""
    if measured.accuracy is not None and measured.baseline is not None:
        return measured.accuracy, measured.baseline, measured.n
    assert measured.pgf is not None
    return measured.pgf, np.zeros((len(measured.seeds), len(measured.targets))), None


def _chance(measured: Measured) -> Float[np.ndarray, " J"]:
    tasks = [find_task(target) for target in measured.targets]
    unknown = [measured.label(target) for target, task in zip(measured.targets, tasks, strict=True) if task is None]
    if unknown:
        raise CrosstaskError(
            f"Measure 'chance' needs the number of options, which is known of the thirteen tasks and not of "
            f"{', '.join(unknown)}."
        )
    return np.array([task.chance for task in tasks if task])


def _require(found: object, measured: Measured, measure: Measure, what: str) -> None:
    if found is None:
        raise CrosstaskError(f"Measure {measure!r} needs {what} of every cell, which {measured.path} has not.")


def _require_accuracies(measured: Measured, who: str) -> None:
    if measured.accuracy is None:
        raise CrosstaskError(
            f"{who} needs accuracies, and those behind the factors of {measured.path} cannot be rebuilt; expected "
            "accuracies with baselines, or factors of the thirteen tasks on BLINK's validation split."
        )
