"""Figures of the transfer tables: templates beside each other, and paired differences (Luo et al. 2025, their tables).

rates       = pandas.read_csv("rates.csv")         one row per template, arm and task
comparisons = pandas.read_csv("comparisons.csv")   one row per template, query modality, comparison, budget and task
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.cross_modal import COLOURS, MARKERS, METHODS, SOURCES

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
_SHOWN = [
    ("no_context", ""),
    ("majority", ""),
    ("prompt", "text"),
    ("prompt", "image"),
    ("patch_single", "text"),
    ("patch_mean", "text"),
    ("patch_mean", "image"),
    ("control_wrong_task", "text"),
]
_STYLES = {"majority": "white", "prompt": "white", "patch_single": "#DDDDDD"}
"""Fill of the markers; others are filled with their colour."""


def templates(rates: pd.DataFrame) -> Figure:
    """Exact match under each template, mean over tasks, with intervals; one panel per query modality.

    Args:
        rates: table with columns template, model, query, method, source_model, source, layer_choice, task, exact, low,
            high. Patches are those of the patched model's own vectors, at the pooled layer.
    """
    shown = rates.fillna({"source": "", "source_model": "", "layer_choice": ""})
    own = shown["source_model"].isin([""]) | shown["source_model"].eq(shown["model"])
    shown = shown[own & shown["task"].eq("all") & shown["layer_choice"].isin(["", "pooled"])]
    names, queries = list(dict.fromkeys(shown["template"])), list(dict.fromkeys(shown["query"]))
    figure = Figure(figsize=(2.6 + 3.4 * len(queries), 2.3 + 0.9 * len(names)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, len(queries), squeeze=False, sharex=True, sharey=True)[0]
    for ax, query in zip(axes, queries, strict=True):
        panel = shown[shown["query"] == query].set_index(["template", "method", "source"])
        for index, arm in enumerate(_SHOWN):
            colour = COLOURS[arm[1]] if not arm[0].startswith("control") else "#888888"
            for place, name in enumerate(names):
                if (name, *arm) in panel.index:
                    row = panel.loc[(name, *arm)]
                    y = place + 0.1 * (index - (len(_SHOWN) - 1) / 2)
                    ax.hlines(y, row["low"], row["high"], color=colour, linewidth=1.2)
                    face = _STYLES.get(arm[0], colour)
                    ax.plot(row["exact"], y, MARKERS[arm[1]], color=colour, markerfacecolor=face, markersize=4.5)
        ax.set_title(f"{query} queries", loc="left")
        ax.set_xlabel("exact match")
        ax.grid(axis="x", **_GRID)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    axes[0].set_xlim(-0.02, min(1.02, max(0.2, 1.08 * shown["high"].max())))
    present = set(zip(shown["method"], shown["source"], strict=True))
    figure.legend(
        handles=[_handle(*arm) for arm in _SHOWN if arm in present],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    figure.suptitle("Templates, mean over tasks; bars: 95 % bootstrap over items and seeds")
    return figure


def _handle(method: str, source: str) -> Line2D:
    colour = COLOURS[source] if not method.startswith("control") else "#888888"
    label = f"{METHODS[method]} · {SOURCES[source]}" if source else METHODS[method]
    face = _STYLES.get(method, colour)
    return Line2D([], [], color=colour, marker=MARKERS[source], markerfacecolor=face, linestyle="", label=label)


def comparisons(table: pd.DataFrame, *, template: str, task: str = "all") -> Figure:
    """Paired differences with their intervals, one line per comparison, one panel per query modality.

    Args:
        table: with columns template, query, comparison, budget, task, items, seeds, difference, low, high, p_holm.
        template: the one that is shown.
        task: a task, or "all" for the mean over tasks.
    """
    shown = table[(table["template"] == template) & (table["task"] == task)]
    names, queries = list(dict.fromkeys(shown["comparison"])), list(dict.fromkeys(shown["query"]))
    figure = Figure(figsize=(4.0 + 3.2 * len(queries), 1.5 + 0.34 * len(names)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, len(queries), squeeze=False, sharex=True, sharey=True)[0]
    colours = {"matched": "#0072B2", "unmatched": "#D55E00"}
    for ax, query in zip(axes, queries, strict=True):
        panel = shown[shown["query"] == query]
        for index, (budget, colour) in enumerate(colours.items()):
            rows = panel[panel["budget"] == budget]
            y = np.array([names.index(name) for name in rows["comparison"]]) + 0.26 * (index - 0.5)
            ax.hlines(y, rows["low"], rows["high"], color=colour, linewidth=1.3)
            for place, value, p in zip(y, rows["difference"], rows["p_holm"], strict=True):
                face = colour if p < 0.05 else "white"
                ax.plot(value, place, "o", color=colour, markerfacecolor=face, markersize=5)
        ax.axvline(0, color="#444444", linewidth=0.8)
        ax.grid(axis="x", **_GRID)
        ax.set_title(f"{query} queries, n = {int(panel['items'].max())} items", loc="left")
        ax.set_xlabel("difference in exact match")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    labels = {"matched": "vector and prompt saw as many demonstrations", "unmatched": "vector: mean over contexts"}
    handles = [Line2D([], [], color=c, marker="o", linestyle="-", label=labels[b]) for b, c in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    subject = "mean over tasks" if task == "all" else task
    figure.suptitle(f"Paired differences, {subject}; filled: p < .05 after Holm's correction")
    return figure
