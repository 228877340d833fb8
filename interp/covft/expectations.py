"""What the paper's orderings lead one to expect of the miniature, stated before anything was measured.

An expectation is a contrast that should be above zero: sums and differences of arms' mean accuracies over tasks,

    contrast = sum_k  c_k  mean over tasks of accuracy(arm_k, mixture_k)

with an interval that resamples items and seeds, arms paired by item and seed. The rule of the answers:

    held            the whole 95 % interval is above zero
    not held        the whole interval is below zero: the order is the other way round
    not decidable   the interval holds zero, or there is one seed alone, so that it knows nothing of trainings
    not measured    an arm of it has no finished unit

Costs (table E) are contrasts of one arm's cost relative to another's, minus one, over repeats of the measurement.
Figures are those of the paper (averages over its twelve benchmarks; single seeds), from its supplement; those marked *
are known second-hand. `confidence` is ours, before measuring: how likely a small model on drawn tasks shows the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp.covft.arms import COVFT, FREEZE, FULL, LORA, Plan
from interp.covft.plan import Request, mixture_label
from interp.covft.tables import Outcome, Results, groups, merged
from interp.statistics import Interval, bootstrap_crossed, bootstrap_mean

Confidence = Literal["good", "fair", "weak"]
At = Literal["most", "least"]
Answer = Literal["held", "not held", "not decidable", "not measured"]


@dataclass(frozen=True)
class Term:
    """One arm in a contrast.

    Attributes:
        weight: its coefficient.
        arm: its name, or a pattern of it (`*`).
        at: on the mixture with the most tasks and data, or on that with the fewest.
    """

    weight: float
    arm: str
    at: At = "most"


@dataclass(frozen=True)
class Expectation:
    """An ordering that is expected.

    Attributes:
        key: the table's letter with a number.
        claim: in words.
        terms: of the contrast; of table E the arm and the one that it is relative to.
        paper: the paper's figures.
        confidence: in seeing it in a miniature.
        measure: "accuracy", or of table E the column that is compared.
    """

    key: str
    claim: str
    terms: tuple[Term, ...]
    paper: str
    confidence: Confidence
    measure: str = "accuracy"

    @property
    def table(self) -> str:
        return self.key[0]


def _over(key: str, one: str, other: str, paper: str, confidence: Confidence, claim: str = "") -> Expectation:
    return Expectation(key, claim or f"{one} > {other}", (Term(1, one), Term(-1, other)), paper, confidence)


SPARSE, BALANCED = "covft routing=sparse active=2", "covft routing=sparse active=2 balance=*"
UNIFORM, RANDOM = "covft routing=uniform", "covft routing=random active=2"
BITFIT, TWO, EIGHT = "vision_bitfit", "covft num_experts=2", "covft num_experts=8"

EXPECTATIONS = (
    _over("A1", COVFT, FULL, "61.08 > 59.29", "good"),
    _over("A2", COVFT, BITFIT, "61.08 > 59.57*", "good"),
    _over("A3", BITFIT, FULL, "59.57* > 59.29", "fair"),
    _over("A4", FULL, LORA, "59.29 > 59.04", "fair"),
    _over("A5", LORA, FREEZE, "59.04 > 58.93", "fair"),
    _over("A6", COVFT, FREEZE, "61.08 > 58.93", "good"),
    _over("A7", COVFT, "qa_vit", "61.08 > 59.12", "fair"),
    _over("A8", COVFT, "text_connector", "61.08 > 59.29", "fair"),
    _over("B1", COVFT, "covft context=text", "61.08 > 60.55", "weak"),
    _over("B2", "covft context=text", "covft context=image", "60.55 > 59.77", "good"),
    _over("B3", COVFT, "covft context=concat", "61.08 > 60.44", "weak"),
    _over("B4", "covft context=concat", "covft context=image", "60.44 > 59.77", "fair"),
    _over("B5", "covft context=image", FULL, "59.77 > 59.29", "fair", "covft context=image > no context"),
    _over("C1", COVFT, SPARSE, "61.08 > 60.10", "good"),
    _over("C2", SPARSE, UNIFORM, "60.10 > 59.60", "fair"),
    _over("C3", UNIFORM, FULL, "59.60 > 59.29", "fair"),
    _over("C4", FULL, RANDOM, "59.29 > 59.00*", "fair"),
    _over("C5", COVFT, UNIFORM, "61.08 > 59.60", "good"),
    _over("C6", BALANCED, SPARSE, "said, without figures", "weak", "sparse@2 with the balancing loss > without"),
    _over("D1", COVFT, "covft layers=early", "61.08 > 59.33", "good", "late half > early half"),
    _over("D2", COVFT, "covft layers=all", "61.08 > 60.23", "weak", "late half > all layers"),
    _over("D3", "covft layers=early", FULL, "59.33 > 59.29", "weak", "early half > none"),
    Expectation("E1", "tower FLOPs: covft > vision_full", (Term(1, COVFT), Term(-1, FULL)), "x 2.2 (counted)", "good",
                "tower_flops"),
    Expectation("E2", "time of a step: covft > vision_full", (Term(1, COVFT), Term(-1, FULL)), "+3.8 %", "good",
                "step_seconds"),
    Expectation("E3", "peak memory: covft > vision_full", (Term(1, COVFT), Term(-1, FULL)), "+13.5 %", "good",
                "peak_bytes"),
    _over("F1", COVFT, TWO, "61.08 > 60.47", "weak", "four experts > two"),
    _over("F2", COVFT, EIGHT, "61.08 > 60.82", "weak", "four experts > eight"),
    _over("G1", COVFT, FULL, "+1.79 with all data", "good", "covft > vision_full with all data"),
    Expectation("G2", "covft > vision_full with the least data", (Term(1, COVFT, "least"), Term(-1, FULL, "least")),
                "+0.59 with 12.5 %", "weak"),
    Expectation("G3", "the gain over vision_full is larger with all data than with the least",
                (Term(1, COVFT), Term(-1, FULL), Term(-1, COVFT, "least"), Term(1, FULL, "least")),
                "+1.79 against +0.59", "weak"),
    _over("H1", EIGHT, TWO, "best number with most types: 8", "fair", "with most types of task: eight experts > two"),
    Expectation("H2", "with fewest types of task: two experts > eight",
                (Term(1, TWO, "least"), Term(-1, EIGHT, "least")), "best number with fewest types: 2", "fair"),
    Expectation("H3", "eight experts gain more over two as there are more types of task",
                (Term(1, EIGHT), Term(-1, TWO), Term(-1, EIGHT, "least"), Term(1, TWO, "least")),
                "best number 2, 2, 4, 4, 8 from 3 to 15 types", "good"),
    _over("I1", COVFT, "vision_lora r=*", "59.98 > 59.20, counts unreliable", "fair",
          "covft > low-rank updates with as many trained parameters"),
)  # fmt: skip

COLUMNS = (
    "key", "table", "claim", "paper", "confidence", "mixture", "seeds", "contrast", "low", "high", "answer",
)  # fmt: skip


def answer(interval: Interval | None, *, repeats: int) -> Answer:
    """The rule of the answers.

    Args:
        interval: of the contrast; None where an arm was not measured.
        repeats: seeds, or repeats of a measurement, that the interval knows of.
    """
    if interval is None:
        return "not measured"
    if repeats < 2:
        return "not decidable"
    if interval.low > 0:
        return "held"
    return "not held" if interval.high < 0 else "not decidable"


def answered(results: Results, requests: Sequence[Request]) -> pd.DataFrame:
    """One row for each expectation of the tables that were asked for.

    Args:
        results: what is finished; of table E what was measured in its folder.
        requests: what was asked for.

    Returns:
        The table with `COLUMNS`.
    """
    from interp.covft.overhead import read

    rows = []
    for plan, seeds in merged(requests):
        widest = max((cell.mixture for cell in plan.cells), key=len)
        for expectation in EXPECTATIONS:
            if expectation.table != plan.table:
                continue
            if expectation.table == "E":
                interval, repeats = _relative(read(results.root, plan), expectation)
            else:
                interval, repeats = contrast(results, plan, seeds, expectation.terms)
            low, high = (interval.low, interval.high) if interval is not None else (None, None)
            rows.append(
                {
                    **{name: getattr(expectation, name) for name in ("key", "table", "claim", "paper", "confidence")},
                    "mixture": mixture_label(widest),
                    "seeds": repeats,
                    "contrast": None if interval is None else interval.value,
                    "low": low,
                    "high": high,
                    "answer": answer(interval, repeats=repeats),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def contrast(results: Results, plan: Plan, seeds: Sequence[int], terms: Sequence[Term]) -> tuple[Interval | None, int]:
    """A contrast with its interval, and the seeds that all of its arms have.

    Returns:
        The interval, or None where an arm has no finished unit; and the number of seeds.
    """
    found: list[tuple[Term, tuple[Any, ...], Outcome]] = []
    for term in terms:
        group, outcome = _outcome(results, plan, seeds, term)
        if outcome is None:
            return None, 0
        found.append((term, group, outcome))
    shared = [seed for seed in seeds if all(seed in outcome.seeds for _, _, outcome in found)]
    if not shared:
        return None, 0
    by_group: dict[tuple[Any, ...], dict[str, np.ndarray]] = {}
    names: dict[str, tuple[str, ...]] = {}
    for term, group, outcome in found:
        into = by_group.setdefault(group, {})
        for task, scores in outcome.under(shared).items():
            into[task] = into.get(task, 0.0) + term.weight * scores
            names[task] = tuple(outcome.names[task])
    return _crossed(by_group, names, shared), len(shared)


def _outcome(results: Results, plan: Plan, seeds: Sequence[int], term: Term) -> tuple[tuple[Any, ...], Outcome | None]:
    every = groups(plan)
    if term.at == "least" and len(every) < 2:
        return (), None
    if term.at == "most" and plan.table == "G" and next(iter(every))[1] < 1:
        return (), None  # the claim is of all data
    group = list(every)[0 if term.at == "most" else -1]
    for cell in every[group]:
        if cell.arm.name == term.arm or fnmatchcase(cell.arm.name, term.arm):
            return group, results.outcome(cell, seeds)
    return group, None


def _crossed(
    by_group: Mapping[tuple[Any, ...], Mapping[str, np.ndarray]],
    names: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
) -> Interval:
    """Sum over groups of the mean over tasks; a task that is in several groups is resampled with all of them."""
    n = sum(map(len, by_group.values()))
    values: list[float] = []
    tasks: list[Any] = []
    items: list[str] = []
    drawn: list[int] = []
    for group, scores in by_group.items():
        for task, differences in scores.items():
            values += (differences * n / len(scores)).ravel().tolist()  # so that the mean over all is the sum of means
            tasks += [(group, task)] * differences.size
            items += [name for name in names[task] for _ in seeds]
            drawn += [seed for _ in names[task] for seed in seeds]
    return bootstrap_crossed(values, tasks=tasks, items=items, seeds=drawn)


def _relative(overhead: pd.DataFrame, expectation: Expectation) -> tuple[Interval | None, int]:
    """How much more one arm costs than another, as a share, over repeats."""
    one, other = (term.arm for term in expectation.terms)
    if not {one, other} <= set(overhead["arm"]):
        return None, 0
    column = overhead.set_index(["arm", "repeat"])[expectation.measure]
    ratios = (column[one] / column[other] - 1).dropna()
    if ratios.empty:
        return None, 0
    return bootstrap_mean(ratios.to_numpy(dtype=float)), len(ratios)
