"""The tables of a study of perception tasks' vectors, and what they say in sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from interp.perception_vectors.moves import moves, moves_long
from interp.perception_vectors.similarity import LONG_COLUMNS, similarity
from interp.perception_vectors.states import most_reliable_layer, reliability
from interp.perception_vectors.transfer import (
    OTHER,
    OWN,
    TRANSFER_COLUMNS,
    chosen_layer,
    specificity,
    transfer_long,
    transfer_table,
)
from interp.perception_vectors.work import VectorWork
from interp.statistics import bootstrap_mean, bootstrap_two_way
from interp.transfer.names import abbreviation

NOTES = {
    "reliability": "Cosines of the two halves of every vector, which share no item; centred: without the mean over "
    "tasks; full: of the whole vector (Spearman and Brown); identified: whether the nearest other half is the own one.",
    "layers": "By layer on the test split: mean effects over targets. The layer was chosen on the selection split.",
}


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes:
        tables: name -> table.
        layer: at which the main setting's vectors are most reliable; that of the heatmaps of similarity and moves.
        patch_layer: chosen on the selection split; None without patching.
        sentences: what they say.
    """

    tables: dict[str, pd.DataFrame]
    layer: int
    patch_layer: int | None
    sentences: list[str]


def collect(work: VectorWork) -> Found:
    """Tables and sentences of a study that is done."""
    settings, names = work.settings, work.settings.names
    base = work.base()
    after = work.moved()
    halves = {str(setting): found for setting, found in base.items()}
    tuned = {source: {str(setting): found for setting, found in one.items()} for source, one in after.items()}
    tables = {
        "reliability": reliability(halves, names),
        "similarity_long": similarity({setting: found.mean(1) for setting, found in halves.items()}, names),
    }
    layer, patch_layer = most_reliable_layer(tables["reliability"], settings.main), None
    sentences = [_lead(work), *_alike(tables, settings.main, layer)]
    if tuned:
        tables["moves"] = moves(halves, tuned, names)
        tables["moves_long"] = moves_long(tables["moves"], settings.patched)
        sentences += _moving(tables["moves"], settings.main, layer)
    if settings.items:
        selection, test = (
            transfer_table(work.patched(split), tasks=names, seed=settings.seed) for split in ("selection", "test")
        )
        patch_layer = chosen_layer(selection, settings.main)
        tables |= {
            "patch_transfer": test[list(TRANSFER_COLUMNS)],
            "patch_selection": selection,
            "patch_transfer_long": transfer_long(test, main=settings.main)[list(LONG_COLUMNS)],
            "layers": layer_table(test),
        }
        sentences += _patching(test, settings.main, patch_layer)
    return Found(tables, layer, patch_layer, sentences)


def layer_table(table: pd.DataFrame) -> pd.DataFrame:
    """Mean effects by setting, layer and kind of vector: other tasks', the own, and the controls."""
    shown = table[table["control"] != "none"]
    columns = ["accuracy", "change", "log_p_change", "changed_rate"]
    shown = shown.rename(columns={"control": "vector"})
    by_target = shown.groupby(["setting", "layer", "vector", "target"], sort=False)[columns].mean()
    return by_target.groupby(["setting", "layer", "vector"], sort=False).mean().reset_index()


def _lead(work: VectorWork) -> str:
    settings = work.settings
    shown = {"examples", "both"} & set(settings.settings)
    shots = f"; {settings.shots} examples where there are any" if shown else ""
    adapters = f"; followed through {len(work.adapters)} adapters" if work.adapters else ""
    return (
        f"Vectors of {len(settings.names)} perception tasks of {settings.model} at the {settings.position}, each the "
        f"mean of {settings.contexts} contexts of the training content ({', '.join(settings.settings)}"
        f"{shots}){adapters}."
    )


def _alike(tables: dict[str, pd.DataFrame], main: str, layer: int) -> list[str]:
    reliable = tables["reliability"]
    lines = []
    for setting, rows in reliable.groupby("setting", sort=False):
        at = rows[rows["layer"] == most_reliable_layer(reliable, str(setting))]
        lines.append(
            f"Setting {setting}: halves of a vector agree best after block {int(at['layer'].iloc[0])}: centred cosine "
            f"{at['centred'].mean():.2f} (lowest {at['centred'].min():.2f}, {_short(at, 'centred', low=True)}); "
            f"{int(at['identified'].sum())} of {len(at)} tasks are nearest to themselves."
        )
    long = tables["similarity_long"]
    at = long[(long["layer"] == layer) & (long["measure"] == f"task_vector_centred_{main}")]
    raw = long[(long["layer"] == layer) & (long["measure"] == f"task_vector_cosine_{main}")]
    top, bottom = at.loc[at["value"].idxmax()], at.loc[at["value"].idxmin()]
    lines.append(
        f"After block {layer} ({main}) cosines of two tasks are {raw['value'].mean():.2f} on average, and without the "
        f"mean over tasks from {bottom['value']:.2f} ({_pair(bottom)}) to {top['value']:.2f} ({_pair(top)})."
    )
    return lines


def _moving(table: pd.DataFrame, main: str, layer: int) -> list[str]:
    shown = table[(table["setting"] == main) & (table["layer"] == layer)]
    own, others = shown[shown["source"] == shown["target"]], shown[shown["source"] != shown["target"]]
    lines = [
        f"Fine-tuning changes the vector of another task by {others['change'].mean():.1%} of its length after block "
        f"{layer}" + (f", and of the trained task by {own['change'].mean():.1%}." if len(own) else ".")
    ]
    known = others.dropna(subset=["towards"])
    if len(known):
        cells = {"rows": known["source"].tolist(), "columns": known["target"].tolist()}
        cosine, towards = (bootstrap_two_way(known[name].tolist(), **cells) for name in _DIRECTED)
        lines.append(
            f"Towards the trained task's vector: {towards.value:+.3f} of the way (95 % over trained tasks and targets "
            f"{towards.low:+.3f} to {towards.high:+.3f}); cosine with what sets it apart {cosine.value:+.3f} "
            f"({cosine.low:+.3f} to {cosine.high:+.3f}; 0 by chance)."
        )
    return lines


_DIRECTED = ("cosine", "towards")
_NOTHING = 1e-3
"""Nats that a patch changes log p(key) by at most where it changes nothing."""


def _patching(table: pd.DataFrame, main: str, layer: int) -> list[str]:
    bare = table[(table["setting"] == main) & (table["control"] == "none")]
    at = table[(table["setting"] == main) & (table["layer"] == layer)]
    means = {
        str(kind): rows.groupby("target")[["change", "log_p_change", "changed_rate"]].mean()
        for kind, rows in at.groupby("control")
    }
    said = "; ".join(
        f"{label} {means[kind]['change'].mean():+.3f} ({means[kind]['changed_rate'].mean():.0%} of answers change)"
        for kind, label in ((OTHER, "another task's"), (OWN, "its own"), ("mean", "the mean"), ("random", "random"))
    )
    gap = bootstrap_mean((means[OWN]["log_p_change"] - means[OTHER]["log_p_change"]).tolist())
    others = at[at["control"] == OTHER]
    far = others[(others["high"] < 0) | (others["low"] > 0)]
    worst = others.loc[others["log_p_change"].idxmin()]
    of_main = table[(table["setting"] == main) & (table["control"] != "none")]
    if of_main["log_p_change"].abs().max() < _NOTHING and not of_main["changed_rate"].any():
        return [
            f"No patch changes an answer, not even a random vector, after any of the blocks "
            f"{', '.join(map(str, sorted(set(of_main['layer']))))}: what this model answers (accuracy "
            f"{bare['accuracy'].mean():.3f}) does not go through the state that was patched, so nothing follows about "
            "tasks. At the delimiter that may be so; try --position letter."
        ]
    return [
        f"Patched after block {layer}, chosen on the selection split, vectors change the accuracy, which is "
        f"{bare['accuracy'].mean():.3f} without a patch, by: {said}.",
        f"Under the own vector log p(key) is {gap.value:+.3f} nats above that under another's (95 % over targets "
        f"{gap.low:+.3f} to {gap.high:+.3f}; by layer {_range(specificity(_of(table, main)))}). "
        f"{len(far)} of {len(others)} pairs change the accuracy beyond their interval (about "
        f"{0.05 * len(others):.1f} by chance); the largest effect is {worst['log_p_change']:+.2f} nats "
        f"({_pair(worst)}).",
    ]


def _of(table: pd.DataFrame, setting: str) -> pd.DataFrame:
    return table[table["setting"] == setting]


def _range(values: pd.Series) -> str:
    return f"{np.min(values):+.3f} to {np.max(values):+.3f}"


def _pair(row: pd.Series) -> str:
    return f"{abbreviation(str(row['source']))}, {abbreviation(str(row['target']))}"


def _short(rows: pd.DataFrame, column: str, *, low: bool) -> str:
    at = rows[column].idxmin() if low else rows[column].idxmax()
    return abbreviation(str(rows.loc[at, "task"]))
