"""The tables of a study of gradient conflict, and what they say in sentences."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp.conflict.alignment import DEFINITIONS, Aligned, aligned, between, mean_cosine, pair, unit, within
from interp.conflict.distance import COLUMNS, distance_summary
from interp.conflict.gradients import Experts
from interp.conflict.work import ConflictWork, total
from interp.statistics import bootstrap_mean

NOTES = {
    "alignment": "Mean cosine of micro-batches to the dominant direction with its 95 % bootstrap interval over "
    "micro-batches, and what random signs of the gradients give. layer -1: all layers together.",
    "differences": "The same micro-batches under an arm and under the first arm: mean difference of their cosines, "
    "with its bootstrap interval.",
    "conflict": "Pairs of micro-batches of different tasks: mean cosine, and share of negative ones (0.5 by chance); "
    "`own`: pairs of one task.",
    "distance_summary": "Relative distance of trainings: of two tasks, and of two seeds of one task (the control); "
    "means over pairs of runs, with the least and the largest.",
}


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes:
        tables: name -> table.
        sentences: what they say.
    """

    tables: dict[str, pd.DataFrame]
    sentences: list[str]


def collect(work: ConflictWork) -> Found:
    """Tables and sentences of a study that is done."""
    settings = work.settings
    alignment: list[dict[str, Any]] = []
    gradients: list[dict[str, Any]] = []
    conflict: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for arm, point in itertools.product(settings.arms, settings.points):
        grams = work.grams(arm.name, point)
        for experts in _ways(grams):
            at = {"arm": arm.name, "point": point, "experts": experts}
            for layer, gram in total(grams, experts).items():
                weighed = unit(gram) if settings.weight == "unit" else gram
                rows, found = _alignment(work, weighed, at | {"layer": layer})
                alignment += rows
                conflict.append(_conflict(work, gram, at | {"layer": layer}))
                if layer == -1:
                    gradients += _gradients(work, gram, found, at)
                    pairs += _pairs(work, weighed, at)
    tables = {
        "alignment": pd.DataFrame(alignment),
        "differences": differences(pd.DataFrame(gradients), reference=settings.arms[0].name),
        "conflict": pd.DataFrame(conflict),
        "pairs": pd.DataFrame(pairs),
        "gradients": pd.DataFrame(gradients),
    }
    if settings.pair:
        rows = [
            {"arm": arm.name, "point": point, **row}
            for arm in settings.arms
            for point in settings.points
            if point > 0
            for row in work.distance(arm.name, point)
        ]
        tables["distance"] = pd.DataFrame(rows, columns=list(COLUMNS))
        tables["distance_summary"] = distance_summary(tables["distance"])
    return Found(tables, _sentences(work, tables))


def _ways(grams: Any) -> list[Experts]:
    return ["summed", *(["apart"] if any(way == "apart" for way, _ in grams) else [])]  # type: ignore[list-item]


def _alignment(
    work: ConflictWork, gram: np.ndarray, at: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Aligned]]:
    settings = work.settings
    found: dict[str, Aligned] = {
        name: aligned(gram, settings.labels, name, draws=settings.draws, seed=settings.seed) for name in DEFINITIONS
    }
    rows = [
        at
        | {
            "definition": name,
            "n": len(gram),
            "cosine": one.mean.value,
            "low": one.mean.low,
            "high": one.mean.high,
            "std": one.std,
            "chance": one.chance,
            "chance_high": one.chance_high,
            "p": one.p_value,
        }
        for name, one in found.items()
    ]
    return rows, found


def _gradients(
    work: ConflictWork, gram: np.ndarray, found: dict[str, Aligned], at: dict[str, Any]
) -> list[dict[str, Any]]:
    losses = work.losses(at["arm"], at["point"])
    return [
        at
        | {"task": task, "micro_batch": number, "loss": losses[number], "norm": float(np.sqrt(gram[number, number]))}
        | {name: float(one.cosines[number]) for name, one in found.items()}
        for number, task in enumerate(work.settings.labels)
    ]


def _conflict(work: ConflictWork, gram: np.ndarray, at: dict[str, Any]) -> dict[str, Any]:
    settings = work.settings
    others = between(gram, settings.labels, seed=settings.seed)
    own = within(gram, settings.labels, seed=settings.seed)
    return at | {
        "cosine": others.cosine.value,
        "cosine_low": others.cosine.low,
        "cosine_high": others.cosine.high,
        "rate": others.rate.value,
        "rate_low": others.rate.low,
        "rate_high": others.rate.high,
        "rate_chance": 0.5,
        "own_cosine": own.cosine.value,
        "own_cosine_low": own.cosine.low,
        "own_cosine_high": own.cosine.high,
        "own_rate": own.rate.value,
        "own_rate_low": own.rate.low,
        "own_rate_high": own.rate.high,
    }


def _pairs(work: ConflictWork, gram: np.ndarray, at: dict[str, Any]) -> list[dict[str, Any]]:
    settings = work.settings
    rows = []
    for a, b in itertools.combinations_with_replacement(settings.names, 2):
        found = pair(gram, settings.labels, a, b, seed=settings.seed)
        rows.append(
            at
            | {
                "task_a": a,
                "task_b": b,
                "cosine": found.cosine.value,
                "low": found.cosine.low,
                "high": found.cosine.high,
                "rate": found.rate.value,
                "rate_low": found.rate.low,
                "rate_high": found.rate.high,
                "cosine_of_means": mean_cosine(gram, settings.labels, a, b) if a != b else np.nan,
            }
        )
    return rows


def differences(gradients: pd.DataFrame, *, reference: str) -> pd.DataFrame:
    """Cosines of every arm minus those of the reference, micro-batch by micro-batch.

    Args:
        gradients: arm, point, experts, micro_batch and a column for each definition.
        reference: the arm that others are compared with; it has no experts, or its summed ones are taken.
    """
    plain = gradients[(gradients["arm"] == reference) & (gradients["experts"] == "summed")]
    rows = []
    for (arm, point, experts), own in gradients.groupby(["arm", "point", "experts"], sort=False):
        if arm == reference and experts == "summed":
            continue
        both = own.merge(plain[plain["point"] == point], on="micro_batch", suffixes=("", "_reference"))
        for name in DEFINITIONS:
            change = (both[name] - both[f"{name}_reference"]).to_numpy()
            found = bootstrap_mean(change)
            rows.append((arm, reference, point, experts, name, len(change), found.value, found.low, found.high))
    columns = ["arm", "reference", "point", "experts", "definition", "n", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _sentences(work: ConflictWork, tables: dict[str, pd.DataFrame]) -> list[str]:
    settings = work.settings
    last = max(settings.points)
    lines = [
        f"Gradients of {len(settings.labels)} micro-batches of {settings.micro_batch} conversations, "
        f"{settings.micro_batches} of each of {len(settings.names)} tasks, on the {' and '.join(settings.parts)} of "
        f"blocks {', '.join(map(str, settings.layers))} of the tower of {settings.model}; {settings.weight} gradients."
    ]
    table, conflict = tables["alignment"], tables["conflict"]
    for arm in settings.arms:
        shown = table[(table["arm"] == arm.name) & (table["point"] == last) & (table["layer"] == -1)]
        said = "; ".join(
            f"{row['definition']}{_apart(row)} {row['cosine']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}, sd "
            f"{row['std']:.3f}; chance {row['chance']:+.3f})"
            for _, row in shown.iterrows()
        )
        lines.append(f"{arm.name} after {last:g} of the training, cosine to the dominant direction: {said}.")
        at = conflict[(conflict["arm"] == arm.name) & (conflict["point"] == last) & (conflict["layer"] == -1)]
        said = "; ".join(
            f"{row['rate']:.2f}{_apart(row)} ({row['rate_low']:.2f} to {row['rate_high']:.2f}), of one task "
            f"{row['own_rate']:.2f}"
            for _, row in at.iterrows()
        )
        lines.append(f"{arm.name}: share of pairs of different tasks that conflict: {said}; 0.5 by chance.")
    lines += _differing(tables["differences"], last)
    if "distance_summary" in tables:
        lines += _distant(tables["distance_summary"], last)
    return lines


def _apart(row: pd.Series) -> str:
    return ", experts apart," if row["experts"] == "apart" else ""


def _differing(table: pd.DataFrame, last: float) -> list[str]:
    shown = table[(table["point"] == last) & (table["definition"] == "mean")]
    return [
        f"{row['arm']}{_apart(row).rstrip(',')} against {row['reference']}: {row['difference']:+.3f} "
        f"({row['low']:+.3f} to {row['high']:+.3f}) in the cosine to the leave-one-out mean."
        for _, row in shown.iterrows()
    ]


def _distant(table: pd.DataFrame, last: float) -> list[str]:
    shown = table[(table["point"] == last) & (table["layer"] == -1)].set_index(["arm", "kind"])
    lines = []
    for arm in dict.fromkeys(shown.index.get_level_values("arm")):
        tasks, seeds = shown.loc[(arm, "tasks")], shown.loc[(arm, "seeds")]
        lines.append(
            f"{arm}: towers of two tasks end {tasks['distance_mean']:.4f} of their weights' length apart, of two seeds "
            f"of a task {seeds['distance_mean']:.4f}; cosine of their displacements {tasks['cosine_mean']:+.2f} and "
            f"{seeds['cosine_mean']:+.2f}."
        )
    return lines
