"""Tables of a study, from the records of its units.

    cells.csv         one row for each table, mixture, share, arm, seed and task
    arms.csv          one row for each table, mixture, share and arm: mean over tasks, and against the frozen model
    comparisons.csv   each arm against the table's reference and the frozen model, by task and for the mean over tasks

A comparison is paired: the difference of each item under each seed, and an interval that resamples items and seeds
(:func:`interp.statistics.compare_crossed`). In the mean over tasks each task weighs the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.covft.arms import COVFT, FROZEN, Arm, Cell, Plan
from interp.covft.plan import TRAINED, Request, StudySettings, Unit, make_unit, mixture_label
from interp.covft.units import finished, folder_of, read_records
from interp.errors import CrosstaskError
from interp.runs import CONFIG
from interp.statistics import bootstrap_crossed, compare_crossed, holm
from interp.tuning.evaluation.flags import summarise
from interp.tuning.evaluation.records import Record
from interp.tuning.matrix.plan import form_of, task_of

MACRO = "macro"
"""In place of a task: the mean over the mixture's tasks."""
WHERE = ("table", "mixture", "types", "fraction", "arm")
DOSE = ("trained_parameters", "examples", "steps", "update_norm", "seconds", "data")
CELLS = (
    *WHERE, "strategy", "seed", "task", "form", "difficulty", "n", "accuracy", "plain_accuracy", "mean_log_p", "brier",
    "entropy", "mass", "constant_letter", "equals_key_count", "recall_sd", *DOSE,
)  # fmt: skip
ARMS = (
    *WHERE, "seeds", "n", "accuracy", "low", "high", "over_frozen", "over_frozen_low", "over_frozen_high",
    "tasks_above_frozen", "trained_parameters", "steps", "seconds",
)  # fmt: skip
COMPARISONS = (
    *WHERE, "reference", "task", "seeds", "n", "accuracy", "reference_accuracy", "difference", "low", "high",
    "p_value", "p_holm",
)  # fmt: skip

Scores = Float[np.ndarray, "items seeds"]


@dataclass(frozen=True)
class Outcome:
    """What an arm scored on a mixture.

    Attributes:
        seeds: those that are finished, in order.
        names: task -> names of its items.
        scores: task -> right or wrong, by item and seed.
    """

    seeds: tuple[int, ...]
    names: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, Scores]

    def under(self, seeds: Sequence[int]) -> dict[str, Scores]:
        """Scores under some of the seeds; the frozen model scores the same under all."""
        if self.seeds == ():
            return {task: np.repeat(scores, len(seeds), axis=1) for task, scores in self.scores.items()}
        chosen = [self.seeds.index(seed) for seed in seeds]
        return {task: scores[:, chosen] for task, scores in self.scores.items()}


class Results:
    """What is finished of a study.

    Attributes:
        root: its folder.
        settings: of it.
    """

    def __init__(self, root: Path, settings: StudySettings) -> None:
        self.root, self.settings = root, settings
        self._records: dict[tuple[str, str], list[Record]] = {}

    def units(self, cell: Cell, seeds: Sequence[int]) -> list[Unit]:
        """The finished units of a cell."""
        found = [make_unit(self.settings, cell, seed) for seed in seeds]
        return [unit for unit in found if set(unit.steps) <= finished(self.root, unit).keys()]

    def records(self, unit: Unit, task: str) -> list[Record]:
        """The records of a finished unit on a task."""
        key = (unit.key, task)
        if key not in self._records:
            self._records[key] = read_records(self.root, unit, task)
        return self._records[key]

    def outcome(self, cell: Cell, seeds: Sequence[int]) -> Outcome | None:
        """What a cell scored; None where no seed is finished."""
        units = self.units(cell, seeds)
        if not units:
            return None
        names, scores = {}, {}
        for task in cell.mixture:
            found = [self.records(unit, task) for unit in units]
            names[task] = tuple(record.item for record in found[0])
            for unit, records in zip(units, found, strict=True):
                _hold_to_items(task, names[task], tuple(record.item for record in records), units[0].key, unit.key)
            scores[task] = np.array([[record.correct for record in records] for records in found]).T
        return Outcome(tuple(unit.seed for unit in units), names, scores)

    def frozen(self, mixture: Sequence[str]) -> Outcome | None:
        """What the frozen model scored; None where a task is not finished."""
        found = [self.outcome(Cell(Arm(FROZEN), (task,)), (0,)) for task in mixture]
        done = [one for one in found if one is not None]
        if len(done) < len(found):
            return None
        names = {task: tuple(one.names[task]) for task, one in zip(mixture, done, strict=True)}
        return Outcome((), names, {task: one.scores[task] for task, one in zip(mixture, done, strict=True)})


def _hold_to_items(task: str, ours: Sequence[str], theirs: Sequence[str], one: str, other: str) -> None:
    """Answers are paired by item.

    Raises:
        CrosstaskError: there are other items, or in another order.
    """
    if tuple(ours) != tuple(theirs):
        raise CrosstaskError(
            f"{one!r} and {other!r} were tested on other items of {task!r} ({len(ours)} and {len(theirs)}), or in "
            "another order; their difference would mean nothing"
        )


def merged(requests: Sequence[Request]) -> list[tuple[Plan, tuple[int, ...]]]:
    """Tables with their seeds: what was asked of one table over the same tasks is one table."""
    found: dict[tuple[str, tuple[str, ...]], list[Request]] = {}
    for request in sorted(requests, key=lambda request: request.plan.table):
        widest = max((cell.mixture for cell in request.plan.cells), key=len, default=())
        found.setdefault((request.plan.table, widest), []).append(request)
    tables = []
    for (table, _), some in found.items():
        cells = {(c.arm.name, c.mixture, c.fraction): c for request in some for c in request.plan.cells}
        seeds = tuple(sorted({seed for request in some for seed in request.seeds}))
        references = [request.plan.reference for request in some]
        reference = COVFT if COVFT in references else min(references)  # in whatever order it was asked for
        tables.append((Plan(table, reference, tuple(cells.values())), seeds))
    return tables


def groups(plan: Plan) -> dict[tuple[tuple[str, ...], float], list[Cell]]:
    """Cells by what they are trained on: (mixture, share) -> arms; most tasks and most data first."""
    found: dict[tuple[tuple[str, ...], float], list[Cell]] = {}
    for cell in sorted(plan.cells, key=lambda cell: (-len(cell.mixture), -cell.fraction)):
        found.setdefault((cell.mixture, cell.fraction), []).append(cell)
    return found


def make_tables(results: Results, requests: Sequence[Request]) -> dict[str, pd.DataFrame]:
    """cells, arms and comparisons of everything that is finished.

    Raises:
        CrosstaskError: arms of one mixture and seed were trained on different examples, or a file was changed.
    """
    cells, arms, comparisons = [], [], []
    for plan, seeds in merged(requests):
        for (mixture, fraction), some in groups(plan).items():
            frozen = results.frozen(mixture)
            outcomes = {cell.arm.name: results.outcome(cell, seeds) for cell in some}
            where = {"table": plan.table, "mixture": mixture_label(mixture)}
            where |= {"types": len(mixture), "fraction": fraction}  # type: ignore[dict-item]
            rows = [row for cell in some for unit in results.units(cell, seeds) for row in _cells(results, unit)]
            _hold_to_one_mixture(rows)
            cells += [where | row for row in _frozen_cells(results, mixture) + rows]
            if frozen is not None:
                arms.append(where | _arm(FROZEN, frozen, None))
            dose = pd.DataFrame(rows).groupby("arm") if rows else {}
            for name, outcome in outcomes.items():
                if outcome is None:
                    continue
                shown = {k: dose.get_group(name)[k].mean() for k in ("trained_parameters", "steps", "seconds")}  # type: ignore[union-attr]
                arms.append(where | _arm(name, outcome, frozen) | shown)
                for other in dict.fromkeys((plan.reference, FROZEN)):
                    base = frozen if other == FROZEN else outcomes.get(other)
                    if base is not None and other != name:
                        comparisons += [where | row for row in _compared(name, outcome, other, base)]
    table = pd.DataFrame(comparisons, columns=list(COMPARISONS))
    return {
        "cells": pd.DataFrame(cells, columns=list(CELLS)),
        "arms": pd.DataFrame(arms, columns=list(ARMS)),
        "comparisons": _corrected(table),
    }


def _cells(results: Results, unit: Unit) -> list[dict[str, Any]]:
    """A unit's rows, one for each task."""
    done = finished(results.root, unit)
    config = json.loads((folder_of(results.root, unit) / CONFIG).read_text(encoding="utf-8"))
    dose = {name: done[TRAINED].get(name) for name in DOSE} if unit.trains else {"steps": 0, "update_norm": 0.0}
    rows = []
    for task in unit.cell.mixture:
        shown = {"task": task_of(task), "form": form_of(task) or "", "difficulty": config["difficulties"][task]}
        shown |= {"arm": unit.cell.arm.name, "strategy": unit.cell.arm.training.get("strategy", ""), "seed": unit.seed}
        rows.append({**shown, **asdict(summarise(results.records(unit, task))), **dose})
    return rows


def _frozen_cells(results: Results, mixture: Sequence[str]) -> list[dict[str, Any]]:
    units = [unit for task in mixture for unit in results.units(Cell(Arm(FROZEN), (task,)), (0,))]
    return [row for unit in units for row in _cells(results, unit)]


def _hold_to_one_mixture(rows: Sequence[Mapping[str, Any]]) -> None:
    """All arms of a seed have seen the same examples in the same order, for as many steps."""
    seen: dict[int, tuple[str, tuple[Any, Any]]] = {}
    for row in rows:
        name, dose = seen.setdefault(row["seed"], (row["arm"], (row["data"], row["steps"])))
        if (row["data"], row["steps"]) != dose:
            raise CrosstaskError(
                f"under seed {row['seed']} arm {row['arm']!r} was trained on other examples or steps than {name!r}; "
                "their difference would mean nothing"
            )


def _flat(scores: Mapping[str, Scores], names: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> dict[str, Any]:
    """Values with their tasks, items and seeds, as the statistics take them."""
    return {
        "values": np.concatenate([scores[task].ravel() for task in scores]),
        "tasks": [task for task in scores for _ in range(scores[task].size)],
        "items": [name for task in scores for name in names[task] for _ in seeds],
        "seeds": [seed for task in scores for _ in names[task] for seed in seeds],
    }


def _arm(name: str, outcome: Outcome, frozen: Outcome | None) -> dict[str, Any]:
    """An arm's mean over tasks, and what it gained over the frozen model."""
    seeds = outcome.seeds or (0,)
    flat = _flat(outcome.under(seeds), outcome.names, seeds)
    rate = bootstrap_crossed(flat.pop("values"), **flat)
    n = sum(map(len, outcome.names.values()))
    row = {"arm": name, "seeds": len(outcome.seeds), "n": n, "accuracy": rate.value, "low": rate.low, "high": rate.high}
    if frozen is not None:
        for task, names in outcome.names.items():
            _hold_to_items(task, names, frozen.names[task], name, FROZEN)
        gained = {task: scores - frozen.under(seeds)[task] for task, scores in outcome.under(seeds).items()}
        over = bootstrap_crossed(np.concatenate([gained[task].ravel() for task in gained]), **flat)
        row |= {"over_frozen": over.value, "over_frozen_low": over.low, "over_frozen_high": over.high}
        row["tasks_above_frozen"] = sum(bool(scores.mean() > 0) for scores in gained.values())
    return row


def _compared(name: str, outcome: Outcome, other: str, base: Outcome) -> list[dict[str, Any]]:
    """An arm against another: the mean over tasks, then each task."""
    seeds = tuple(seed for seed in outcome.seeds if base.seeds == () or seed in base.seeds)
    if not seeds:
        return []
    for task, names in outcome.names.items():
        _hold_to_items(task, names, base.names[task], name, other)
    ours, theirs = outcome.under(seeds), base.under(seeds)
    rows = []
    for task, tasks in {MACRO: list(ours), **{task: [task] for task in ours}}.items():
        a = _flat({t: ours[t] for t in tasks}, outcome.names, seeds)
        b = _flat({t: theirs[t] for t in tasks}, outcome.names, seeds)
        ours_flat, theirs_flat = a.pop("values"), b["values"]
        compared = compare_crossed(ours_flat.tolist(), theirs_flat.tolist(), **a)
        means = [float(np.mean([scores[t].mean() for t in tasks])) for scores in (ours, theirs)]
        rows.append(
            {
                "arm": name,
                "reference": other,
                "task": MACRO if task == MACRO else task,
                "seeds": len(seeds),
                "n": compared.n,
                "accuracy": means[0],
                "reference_accuracy": means[1],
                "difference": compared.difference.value,
                "low": compared.difference.low,
                "high": compared.difference.high,
                "p_value": compared.p_value,
            }
        )
    return rows


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Holm's correction over the means over tasks of one table against one reference."""
    table["p_holm"] = table["p_holm"].astype(float)
    means = table[table["task"] == MACRO]
    for _, some in means.groupby(["table", "reference"]):
        table.loc[some.index, "p_holm"] = holm(some["p_value"].astype(float).tolist())
    return table


def parameter_table(requests: Sequence[Request]) -> pd.DataFrame:
    """Trained parameters of table I's arms: arm, trained_parameters, share (of the first arm's, CoVFT)."""
    rows = []
    for request in requests:
        first = next(iter(request.counts.values()), 0)
        rows += [{"arm": arm, "trained_parameters": n, "share": n / first} for arm, n in request.counts.items()]
    return pd.DataFrame(rows, columns=["arm", "trained_parameters", "share"]).drop_duplicates("arm")
