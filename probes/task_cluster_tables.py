"""Tables of the cluster experiment from its journal, and what is said about them.

choice       one row per layer: silhouette and purity on the selection split, which choose the layer
clusters     one row per kind of state, layer, label, pairs compared and metric, with interval and permuted labels
cosines      one row per kind of state, layer, centring and relation of two states
probes       one row per kind of state, layer, scope, training and test modality, with controls
projection   one row per kind of state, method and point
chosen_*     clusters, cosines and probes of the chosen layer
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from interp.protocol.states import KINDS
from probes.task_cluster_work import ClusterWork

NOTES = {
    "chosen_clusters": "Silhouette and nearest-neighbour purity at the chosen layer, each with a 95 % bootstrap "
    "interval over blocks of items, the mean and the 95th percentile over permuted labels (chance), and the share of "
    "permuted labellings that reach the value (p, uncorrected for the number of rows). Among: which states a state is "
    "compared with; those that show a common item are left out everywhere.",
    "chosen_probes": "Linear probes at the chosen layer, tested on items that they have not seen. Control: the same "
    "probe on labels permuted over contexts, tested on other orders of contexts that it has seen. Selectivity: "
    "accuracy minus control. p: share of permuted labellings, with probes trained anew, that are predicted as well. A "
    "probe within families tells only the tasks of one family apart.",
    "chosen_cosines": "Cosines at the chosen layer between states that show no common item; centred: after the mean "
    "over all contexts has been taken off. The interval is of the mean, over blocks; q05 to q95 are quantiles of the "
    "pairs.",
}
"""What the report says below the tables that it shows."""


def tables(work: ClusterWork) -> dict[str, pd.DataFrame]:
    """All tables by name, as the module describes them."""
    found = {name: pd.DataFrame(work.rows(name)) for name in ("clusters", "cosines", "probes", "projection")}
    chosen = {
        f"chosen_{name}": found[name][found[name]["layer"] == work.layer].drop(columns="layer")
        for name in ("clusters", "cosines", "probes")
    }
    return {"choice": work.choice, **found, **chosen}


def describe(work: ClusterWork, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What was run on how much, in a few sentences."""
    settings, blocks = work.settings, work.plan.blocks
    count, other = (len(next(iter(blocks[split].values()))) for split in ("test", "selection"))
    families = len(blocks["test"])
    return [
        f"Do the states of {settings.model} cluster by task or by modality? {len(settings.tasks)} tasks in "
        f"{families} families; contexts of {settings.shots} demonstrations as "
        f"{' and as '.join(settings.modalities)}; {count} blocks of items a family, each read in {settings.orders} "
        f"orders: {len(work.scored.index)} contexts. States that show a common item are never "
        "compared with each other, and no probe is tested on items that it has seen.",
        "A context embedding is the mean state over the tokens of the demonstrations' inputs; a task vector is the "
        "state at the delimiter after the dummy query.",
        f"Layer {work.layer} of {len(work.layers)} was chosen on {other} other blocks a family, by the silhouette "
        f"of task vectors ({'against the other modality' if work.across != 'all' else 'among all'}); "
        f"{_verdict(work, tables['chosen_clusters'])}",
    ]


def _verdict(work: ClusterWork, clusters: pd.DataFrame) -> str:
    """The numbers of the chosen layer in a sentence, without an opinion."""
    said = []
    for kind in KINDS:
        rows = clusters[clusters["kind"] == kind].set_index(["label", "among", "metric"])
        parts = []
        for label in dict.fromkeys(clusters["label"]):
            row = rows.loc[(label, "all", "silhouette")]
            interval = f"[{row['low']:.2f}, {row['high']:.2f}]"
            parts.append(f"{row['value']:.2f} {interval} by {label} (chance {row['chance']:.2f})")
        row = rows.loc[("task", work.across, "purity")]
        where = "the other modality" if work.across != "all" else "other items"
        parts.append(
            f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}] of the nearest contexts of {where} do the "
            f"same task (chance {row['chance']:.2f})"
        )
        said.append(f"{kind.replace('_', ' ')}s have silhouettes of " + ", ".join(parts))
    return "there " + "; ".join(said) + "."
