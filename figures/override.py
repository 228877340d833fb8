"""Figures of the overriding experiment: whose question an answer answers, the query's or the patched vector's.

summary = pandas.read_csv("summary.csv")   one row per kind, set ("all" is their mean), arm and source
sweep   = pandas.read_csv("sweep.csv")     one row per set, source and layer, on the selection split
layers  = pandas.read_csv("layers.csv")    the layer chosen for each kind and source
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ARMS = {
    "before": "no patch",
    "prefix": "instruction as prefix",
    "chat": "no patch, in a chat",
    "system": "instruction as system prompt",
    "patch": "patch",
    "random": "control: random vector",
    "wrong": "control: wrong task",
    "majority": "majority answer",
}
SOURCES = {"text": "text examples", "image": "image examples", "instruction": "instruction", "": ""}
SIDES = {"query": ("the query's own question", "#D55E00", "s"), "vector": ("the vector's question", "#0072B2", "o")}
_COLOURS = {"text": "#0072B2", "image": "#D55E00", "instruction": "#009E73"}
_GRID = {"color": "#E2E2E2", "linewidth": 0.6}


def both_accuracies(summary: pd.DataFrame) -> Figure:
    """Every arm's rate of answers that are right for the query's question and for the vector's, a panel per kind.

    Args:
        summary: table with columns kind, set, arm, source, sets, items, and for each side its rate, _low and _high.
    """
    shown = summary[summary["set"] == "all"].fillna({"source": ""})
    kinds = [kind for kind in dict.fromkeys(shown["kind"]) if kind != "all"]
    present = set(zip(shown["arm"], shown["source"], strict=True))
    arms = [(arm, source) for arm in ARMS for source in SOURCES if (arm, source) in present]
    figure = Figure(figsize=(3.2 + 2.6 * len(kinds), 1.5 + 0.3 * len(arms)))
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True).flat)
    for ax, kind in zip(axes, kinds, strict=True):
        panel = shown[shown["kind"] == kind]
        rows = panel.set_index(["arm", "source"])
        for place, arm in enumerate(arms):
            if arm in rows.index:
                _pair(ax, rows.loc[[arm]].iloc[0], place)
        ax.set_title(f"{kind}\n{int(panel['sets'].max())} sets, {int(panel['items'].max())} items", loc="left")
        ax.set_xlabel("answers that are right")
        ax.grid(axis="x", **_GRID)
        ax.tick_params(axis="y", length=0)
    axes[0].set_ylim(len(arms) - 0.4, -0.6)
    axes[0].set_xlim(-0.03, 1.03)
    axes[0].set_yticks(range(len(arms)), [arm_name(*arm) for arm in arms])
    handles, labels = axes[0].get_legend_handles_labels()
    first = {label: handle for handle, label in zip(handles, labels, strict=True)}
    figure.legend(first.values(), first.keys(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Which question is answered (test split; bars: 95 % Wilson intervals, each item counted once)")
    return figure


def accuracy_by_layer(sweep: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """The rate of answers that are right for the vector against the patched layer, a panel per kind, sets averaged.

    Args:
        sweep: table with columns kind, set, source, layer, n, vector, wilson_low, wilson_high.
        layers: table with columns kind, source, layer.
    """
    kinds = list(dict.fromkeys(sweep["kind"]))
    figure = Figure(figsize=(0.8 + 2.8 * len(kinds), 3.0))
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True).flat)
    for ax, kind in zip(axes, kinds, strict=True):
        panel = sweep[sweep["kind"] == kind]
        for source in (source for source in _COLOURS if source in set(panel["source"])):
            lines = panel[panel["source"] == source]
            for _, one in lines.groupby("set", sort=False):
                ax.plot(one["layer"], one["vector"], color=_COLOURS[source], alpha=0.25, linewidth=0.8)
            mean = lines.groupby("layer")["vector"].mean()
            ax.plot(mean.index, mean, color=_COLOURS[source], label=SOURCES[source])
            chosen = layers[(layers["kind"] == kind) & (layers["source"] == source)]["layer"]
            for layer in chosen:
                ax.axvline(layer, color=_COLOURS[source], linestyle="--", linewidth=0.9)
        ax.set_title(f"{kind}, n = {int(panel['n'].max())} a set", loc="left")
        ax.set_xlabel("patched layer")
        ax.grid(axis="y", **_GRID)
    axes[0].set_ylabel("right for the vector")
    axes[0].set_ylim(-0.02, max(0.1, min(1.02, 1.1 * float(np.max(sweep["vector"])))))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Overriding per layer (selection split; thin: each set; dashed: the chosen layer)")
    return figure


def arm_name(arm: str, source: str) -> str:
    """An arm in words, e.g. "patch · text examples"."""
    return f"{ARMS[arm]} · {SOURCES[source]}" if source else ARMS[arm]


def _pair(ax: Axes, row: pd.Series, place: int) -> None:
    """The two rates of an arm with their intervals, one above the other."""
    for offset, (side, (label, colour, marker)) in zip((-0.13, 0.13), SIDES.items(), strict=True):
        ax.hlines(place + offset, row[f"{side}_low"], row[f"{side}_high"], color=colour, linewidth=1.2)
        ax.plot(row[side], place + offset, marker, color=colour, markersize=4.5, label=label, linestyle="")
