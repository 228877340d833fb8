"""Tables of the similarity experiment from its journal, and what is said about them.

choice     one row per layer: the cosines on the selection split that choose the layer
layers     one row per layer, pair of sources and centring: means of the cosines, with baselines and intervals
cosines    one row per layer, pair of sources and pair of tasks
cka        one row per kind of state, layer and pair of sources, with its nulls
chosen_*   layers and cka of the chosen layer
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from probes.similarity_work import CENTRINGS, CKA_COLUMNS, SimilarityWork

NOTES = {
    "chosen_layers": "Mean cosine of mean task vectors at the chosen layer. Matched: the same task in both sources. "
    "Mismatched: different tasks; same family: different tasks over the same items; gap and family gap: matched minus "
    "these. Random: 95 % of random directions in place of the second source. p: share of all ways to match tasks with "
    "tasks that give as high a mean. Intervals: basic bootstrap over blocks of items, none where neither source has "
    "more than its one instruction. A source beside itself: one half of its blocks against the other.",
    "chosen_cka": "Linear CKA of the states of single contexts at the chosen layer, both sources reading the same. "
    "Null: mean and 95th percentile with the contexts of one source permuted; within task: only among contexts of one "
    "task, those of common items together. The interval is a jackknife over blocks.",
}
"""What the report says below the tables that it shows."""


def tables(work: SimilarityWork) -> dict[str, pd.DataFrame]:
    """choice, layers, cosines, cka; and of the chosen layer chosen_layers and chosen_cka."""
    tasks = list(work.plan.tasks)
    records = {(a, b): work.record("cosines", a, b) for a, b in work.pairs()}
    cosines = [
        {
            "layer": layer,
            "source": a.name,
            "target": b.name,
            "source_task": first,
            "target_task": second,
            **{centring: record[centring][layer][i][j] for centring in CENTRINGS},
        }
        for (a, b), record in records.items()
        for layer in work.layers
        for i, first in enumerate(tasks)
        for j, second in enumerate(tasks)
    ]
    aligned = [row for what, a, b in work.comparisons() if what == "cka" for row in work.record("cka", a, b)["rows"]]
    layers = pd.DataFrame([row for record in records.values() for row in record["rows"]])
    cka_table = pd.DataFrame(aligned, columns=["kind", "layer", "source", "target", "n", *CKA_COLUMNS])
    found = {"choice": work.choice, "layers": layers, "cosines": pd.DataFrame(cosines), "cka": cka_table}
    for name in ("layers", "cka"):
        found[f"chosen_{name}"] = found[name][found[name]["layer"] == work.layer].drop(columns="layer")
    return found


def describe(work: SimilarityWork, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What was run on how much, and the numbers of the chosen layer, in a few sentences."""
    settings, (a, b) = work.settings, work.compared
    blocks = {split: len(next(iter(found.values()))) for split, found in work.plan.blocks.items()}
    names = ", ".join(source.name for source in work.sources)
    lines = [
        f"How alike are task vectors of {len(settings.tasks)} tasks between {names}? Contexts of "
        f"{settings.shots} demonstrations; {blocks['test']} blocks of items a family, each read in "
        f"{settings.orders} orders by every source.",
        f"Layer {work.layer} of {len(work.layers)} was chosen on {blocks['selection']} other blocks a family, by "
        f"the centred gap between matched and mismatched tasks of {a.name} and {b.name}.",
    ]
    chosen = tables["chosen_layers"]
    for row in chosen[chosen["source"] != chosen["target"]].itertuples():
        if row.centring == "centred":
            interval = "" if pd.isna(row.gap_low) else f" [{row.matched_low:.2f}, {row.matched_high:.2f}]"
            raw = chosen[(chosen["source"] == row.source) & (chosen["target"] == row.target)].iloc[0]
            lines.append(
                f"{row.source} and {row.target}: centred cosine {row.matched:.2f}{interval} for the same task "
                f"against {row.mismatched:.2f} for different ones (raw {raw['matched']:.2f} against "
                f"{raw['mismatched']:.2f}), p = {row.p:.2g}{_within_family(row._asdict())}."
            )
    return lines


def _within_family(row: Mapping[str, Any]) -> str:
    """What is left when the items are the same, where a family has several tasks."""
    if pd.isna(row.get("same_family")):
        return ""
    gap = f"{row['family_gap']:.2f}"
    gap += "" if pd.isna(row["family_gap_low"]) else f" [{row['family_gap_low']:.2f}, {row['family_gap_high']:.2f}]"
    return f"; {row['same_family']:.2f} for different tasks over the same items, which is {gap} less"
