"""Everything that is said of a measured matrix, as tables: what `python -m experiments.analyse_transfer` writes.

Tasks appear in tables as the data names them, in cliques and scores of personas by the paper's abbreviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.transfer.cliques import SHOWN, cliques, transfer_graph
from interp.transfer.constant import constant_cells, constant_targets
from interp.transfer.dose import dose_table, steps_of
from interp.transfer.edges import edge_table
from interp.transfer.measures import MEASURES, ONE, Measure, all_measures, as_read, ceilings_of, measure_values
from interp.transfer.names import abbreviation, find_task
from interp.transfer.nulls import null_tests, score_tests
from interp.transfer.rebuild import rebuilt
from interp.transfer.scores import SCORE_COLUMNS, SCORES, categories, task_scores
from interp.transfer.tables import Measured, read_transfer
from interp.transfer.variance import SMALLEST, reciprocity, reliability, residual, symmetric_ceiling, variance_shares

_COMPUTED_ZERO = 1e-9


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of an analysis.

    Attributes:
        measure: what stands in the cells: one of MEASURES.
        ceiling: "one", "best" (the best accuracy seen on a target), or a CSV file with columns task, ceiling.
        epsilon: added to the room above the baseline.
        zero: means of a smaller size have no sign; by default 0 for factors as they were read, which is the rule that
            the published cliques and scores follow, and 1e-9 for those computed here.
        form: of a matrix folder: only targets asked in this form.
        fraction: which training fraction is analysed; by default the largest.
        dose: steps of each source: a CSV file with columns task, steps; or "published".
        permutations: random matrices behind each null.
        top: tasks that each persona is given to; by default a quarter.
        shown: per cent of edges shown in the graphs.
        seed: of the randomness.
    """

    measure: Measure = "pgf"
    ceiling: str = ONE
    epsilon: float = 0.0
    zero: float | None = None
    form: str | None = None
    fraction: float | None = None
    dose: str | None = None
    permutations: int = 1999
    top: int | None = None
    shown: tuple[float, ...] = SHOWN
    seed: int = 0

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise CrosstaskError(f"There is no measure {self.measure!r}; they are {', '.join(MEASURES)}.")
        if not (self.epsilon >= 0 and np.isfinite(self.epsilon)):
            raise CrosstaskError(f"epsilon is {self.epsilon:g}; expected 0 or more.")
        if self.measure in ("log_p", "brier", "log_odds") and (self.ceiling != ONE or self.epsilon):
            raise CrosstaskError(f"Measure {self.measure!r} has no ceiling to choose and no epsilon; leave them out.")
        if self.zero is not None and not self.zero >= 0:
            raise CrosstaskError(f"zero is {self.zero:g}; expected the size below which a mean has no sign, 0 or more.")
        if not self.shown or not all(0 < share <= 100 for share in self.shown):
            raise CrosstaskError(f"Shares of edges are {self.shown}; expected per cents above 0 and at most 100.")
        if self.permutations < 1:
            raise CrosstaskError(f"{self.permutations} permutations were asked for; expected 1 or more.")
        if self.top is not None and self.top < 1:
            raise CrosstaskError(f"Personas are given to the top {self.top} tasks; expected 1 or more.")


@dataclass(frozen=True, eq=False)
class Analysis:
    """A measured matrix with what follows from it.

    Attributes:
        measured: at the fraction that is analysed.
        others: fraction -> what was measured at it, with that of `measured` among them.
        settings: what decides the numbers.
        ceilings: target -> U.
    """

    measured: Measured
    others: Mapping[float, Measured]
    settings: Settings
    ceilings: Mapping[str, float] = field(repr=False)

    @classmethod
    def read(cls, path: Path | str, settings: Settings) -> Analysis:
        """Read a matrix in any form that `read_transfer` knows.

        Raises:
            CrosstaskError: it cannot be read, or lacks what the settings ask for.
        """
        others = {fraction: rebuilt(found) for fraction, found in read_transfer(path, form=settings.form).items()}
        fraction = max(others) if settings.fraction is None else settings.fraction
        if fraction not in others:
            listed = ", ".join(f"{known:g}" for known in others)
            raise CrosstaskError(f"{path} has no training fraction {fraction:g}; it has {listed}.")
        measured = others[fraction]
        analysis = cls(measured, others, settings, ceilings_of(measured, settings.ceiling))
        analysis.cells_at(measured)  # says what is missing for the measure
        return analysis

    # The matrix

    def cells_at(self, measured: Measured) -> Float[np.ndarray, "S I J"]:
        """What stands in the cells, of each run.

        Raises:
            CrosstaskError: the data lacks what the measure is made from.
        """
        return measure_values(measured, self.settings.measure, ceilings=self.ceilings, epsilon=self.settings.epsilon)

    @cached_property
    def cells(self) -> Float[np.ndarray, "S I J"]:
        """Of every run, source and target."""
        return self.cells_at(self.measured)

    @cached_property
    def runs(self) -> Float[np.ndarray, "S K K"]:
        """Of every run, over the tasks that are source and target."""
        return self.measured.square(self.cells)

    @property
    def comparable(self) -> dict[float, Measured]:
        """Fraction -> what was measured at it, of those with the same sources and targets."""
        same = (self.measured.sources, self.measured.targets)
        return {fraction: found for fraction, found in self.others.items() if (found.sources, found.targets) == same}

    @property
    def zero(self) -> float:
        """The size below which a mean has no sign."""
        if self.settings.zero is not None:
            return self.settings.zero
        settings = self.settings
        return 0.0 if as_read(self.measured, settings.measure, settings.ceiling, settings.epsilon) else _COMPUTED_ZERO

    @cached_property
    def mu(self) -> Float[np.ndarray, "K K"]:
        """The mean matrix; rows sources, columns targets."""
        return self._mean(self.runs)

    def _mean(self, runs: Float[np.ndarray, "S K K"]) -> Float[np.ndarray, "K K"]:
        mean = runs.mean(0)
        return np.where(np.abs(mean) < self.zero, 0.0, mean)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Identities of the tasks of the square."""
        return self.measured.tasks

    @property
    def labels(self) -> list[str]:
        """The tasks as the data names them."""
        return [self.measured.label(task) for task in self.tasks]

    @property
    def abbreviations(self) -> list[str]:
        """The tasks by abbreviation; one without keeps its name."""
        return [abbreviation(task) if find_task(task) else self.measured.label(task) for task in self.tasks]

    @property
    def short(self) -> dict[str, str]:
        """Every source and target as the data names it -> its abbreviation, or its name."""
        names = {*self.measured.sources, *self.measured.targets}
        labels = {name: self.measured.label(name) for name in names}
        return {label: abbreviation(name) if find_task(name) else label for name, label in labels.items()}

    @cached_property
    def steps(self) -> dict[str, float]:
        """Training steps of every task as a source; empty where they are not known."""
        return steps_of(self.measured, self.settings.dose)

    @cached_property
    def undefined(self) -> list[str]:
        """Tasks whose factor as a target is undefined, as the data names them."""
        missing = np.isnan(self.mu).any(0)
        return [label for label, absent in zip(self.labels, missing, strict=True) if absent]

    @cached_property
    def defined(self) -> list[int]:
        """Places in the square of the tasks that take part in decompositions and nulls."""
        return np.flatnonzero(~np.isnan(self.mu).any(0)).tolist()

    @property
    def whole(self) -> Float[np.ndarray, "S K K"]:
        """The runs over the tasks without undefined factors."""
        return self.runs[:, self.defined][:, :, self.defined]

    # Tables

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Name -> table, in the order of the report; empty ones where the data has nothing to say."""
        edges = edge_table(self.measured, self.cells)
        constant = constant_cells(self.measured)
        nulls, histograms, score_nulls = self._nulls()
        return {
            "pgf_mean": pd.DataFrame(self.mu, columns=self.labels).assign(source=self.labels)[["source", *self.labels]],
            "task_scores": self.scores,
            "categories": categories(self.scores.assign(task=self.abbreviations), self.tasks),
            "edges": self._named(edges),
            "variance": self._variance(),
            "nulls": nulls,
            "null_values": histograms,
            "score_nulls": score_nulls,
            "constant_cells": self._named(constant),
            "constant_targets": self._named(constant_targets(constant, self.measured)),
            "dose": dose_table(self.scores, list(self.tasks), self.steps),
            "fractions": self._fractions(),
            "measures": self._named(all_measures(self.measured, ceilings=self.ceilings, epsilon=self.settings.epsilon)),
        }

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The table of `scores.task_scores`."""
        return task_scores(self.mu, self.labels, top=self.settings.top)

    @cached_property
    def cliques(self) -> dict[str, list[list[str]]]:
        """Positive and negative cliques by abbreviation."""
        return cliques(self.mu, names=self.abbreviations)

    @cached_property
    def graph(self) -> dict[str, Any]:
        """The transfer graph as JSON values."""
        nodes = []
        for task, short, row in zip(self.tasks, self.abbreviations, self.scores.to_dict("records"), strict=True):
            known = find_task(task)
            nodes.append(
                {"abbreviation": short, "level": known.level if known else None}
                | {"granularity": known.granularity if known else None, "persona": row["persona"]}
                | {score: row[score] for score in SCORES}
            )
        edges = {"same_sign": (np.sign(self.runs) == np.sign(self.mu)).mean(0)}
        if len(self.runs) > 1:
            edges["sd"] = self.runs.std(0, ddof=1)
        return transfer_graph(self.mu, names=self.labels, nodes=nodes, shown=self.settings.shown, edges=edges)

    def _named(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with sources and targets as the data names them."""
        named = {column: table[column].map(self.measured.label) for column in ("source", "target") if column in table}
        return table.assign(**named)

    def _nulls(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        if len(self.defined) < SMALLEST:
            values = ["null", "sign", "statistic", "value", "count"]
            scores = ["statistic", "task", *_NULL_COLUMNS[2:], "p_family"]
            return pd.DataFrame(columns=_NULL_COLUMNS), pd.DataFrame(columns=values), pd.DataFrame(columns=scores)
        settings, runs = self.settings, self.whole
        names = [self.labels[index] for index in self.defined]
        given = {"permutations": settings.permutations, "seed": settings.seed}
        return *null_tests(runs, **given), score_tests(self._mean(runs), names, **given)

    def _variance(self) -> pd.DataFrame:
        if len(self.defined) < SMALLEST:
            return pd.DataFrame(columns=["part", "share", "chance", "meaning"])
        runs = self.whole
        mu = runs.mean(0)
        table = variance_shares(runs)
        halves, stepped = reliability(runs)
        more: list[tuple[str, Any, str]] = [
            ("reciprocity", reciprocity(mu), "correlation of the two directions of a pair"),
            ("residual_reciprocity", reciprocity(residual(mu)), "the same of what sources and targets leave"),
            ("split_half", halves, "correlation of what they leave in two halves of the runs"),
            ("reliability", stepped, "the same stepped up to all runs (Spearman-Brown)"),
            (
                "symmetric_ceiling",
                symmetric_ceiling(mu),
                "most that a similarity without direction can correlate with it",
            ),
        ]
        rows = [{"part": part, "share": float(value), "chance": np.nan, "meaning": said} for part, value, said in more]
        return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)

    def _fractions(self) -> pd.DataFrame:
        """Scores of every task at every training fraction; empty if there is one alone."""
        if len(self.comparable) < 2:
            return pd.DataFrame(columns=["fraction", *SCORE_COLUMNS[:-1]])
        tables = []
        for fraction, measured in self.comparable.items():
            mu = self._mean(measured.square(self.cells_at(measured)))
            labels = [measured.label(task) for task in measured.tasks]
            tables.append(task_scores(mu, labels).drop(columns="persona").assign(fraction=fraction))
        table = pd.concat(tables, ignore_index=True)
        return table[["fraction", *SCORE_COLUMNS[:-1]]]


_NULL_COLUMNS = [
    "statistic", "sign", "null", "observed", "null_mean", "null_low", "null_high", "p", "p_fewer", "permutations",
]  # fmt: skip
