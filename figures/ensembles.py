"""Figures of the curve over examples (Luo et al. 2025, figure 6): rates = pandas.read_csv("rates.csv").

One row per query modality, method, source, number of examples and task; low to high is the bootstrap interval over
items and seeds, and seed_sd the standard deviation over seeds, which is missing for one.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.cross_modal import COLOURS, MARKERS, SOURCES

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
_CONTROLS = {"control_wrong_task": (":", "control: wrong task"), "control_random": ("-.", "control: random vector")}
_SOURCES = ("text", "ensemble", "instruction")


def examples_curve(rates: pd.DataFrame) -> Figure:
    """Mean over tasks against the number of examples: patched on the left, prompted on the right.

    Args:
        rates: of one query modality, with columns query, method, source, examples, task, seeds, items, exact, low,
            high, seed_sd.
    """
    shown = rates[rates["task"] == "all"].fillna({"source": ""})
    figure = Figure(figsize=(9.2, 3.9))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, method in zip(axes, ("patch", "prompt"), strict=True):
        _panel(ax, shown, method)
        ax.set_title("vectors, patched into the bare query" if method == "patch" else "in the prompt", loc="left")
        ax.set_xlabel("examples")
    axes[0].set_ylabel("exact match")
    axes[0].set_ylim(0, min(1.02, max(0.1, 1.08 * float(shown["high"].max()))))
    _legend(figure)
    seeds, items = int(shown["seeds"].max()), int(shown["items"].max())
    query = shown["query"].iloc[0]
    figure.suptitle(f"{query.capitalize()} queries, mean over tasks (test split, {items} items, {_count(seeds)})")
    return figure


def examples_curve_by_task(rates: pd.DataFrame) -> Figure:
    """The patched curves of each task, in panels; arguments as in :func:`examples_curve`."""
    tasks = [task for task in dict.fromkeys(rates["task"]) if task != "all"]
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.3 * columns + 0.6, 2.5 * rows + 1.1))
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for ax, task in zip(axes, tasks, strict=False):
        panel = rates[rates["task"] == task].fillna({"source": ""})
        _panel(ax, panel, "patch")
        ax.set_title(f"{task}, n = {int(panel['items'].max())}", loc="left")
        ax.set_xlabel("examples")
        ax.set_ylim(0, 1.02)
    for ax in axes[len(tasks) :]:
        ax.remove()
    axes[0].set_ylabel("exact match")
    _legend(figure)
    figure.suptitle(f"Vectors patched into {rates['query'].iloc[0]} queries, per task")
    return figure


def _panel(ax: Axes, rates: pd.DataFrame, method: str) -> None:
    """One line a source. The ensemble of no examples is the instruction, and no examples are the bare query."""
    for source in _SOURCES:
        line = rates[(rates["method"] == method) & (rates["source"] == source)]
        none = ("no_context", "") if source == "text" else (method, "instruction")
        start = rates[(rates["method"] == none[0]) & (rates["source"] == none[1])]
        if source == "instruction":
            if len(line):
                ax.axhspan(line["low"].iloc[0], line["high"].iloc[0], color=COLOURS[source], alpha=0.08, linewidth=0)
                ax.axhline(line["exact"].iloc[0], color=COLOURS[source], linewidth=1.3)
            continue
        line = pd.concat([start, line]).sort_values("examples")
        spread = line["seed_sd"].fillna(0)
        bands = ((line["low"], line["high"], 0.1), (line["exact"] - spread, line["exact"] + spread, 0.22))
        for low, high, alpha in bands:
            ax.fill_between(line["examples"], low, high, color=COLOURS[source], alpha=alpha, linewidth=0)
        ax.plot(
            line["examples"], line["exact"], color=COLOURS[source], marker=MARKERS[source], markersize=4, linewidth=1.5
        )
    if method == "patch":
        for control, (style, _) in _CONTROLS.items():
            line = rates[(rates["method"] == control) & (rates["source"] == "text")].sort_values("examples")
            ax.plot(line["examples"], line["exact"], color="#888888", linestyle=style, linewidth=1)
    majority = rates[rates["method"] == "majority"]
    if len(majority):
        ax.axhline(majority["exact"].iloc[0], color="#444444", linestyle="--", linewidth=0.9)
    ax.grid(axis="y", **_GRID)


def _legend(figure: Figure) -> None:
    handles = [
        Line2D(
            [], [], color=COLOURS[s], marker="" if s == "instruction" else MARKERS[s], markersize=4, label=SOURCES[s]
        )
        for s in _SOURCES
    ]
    handles += [Line2D([], [], color="#888888", linestyle=style, label=label) for style, label in _CONTROLS.values()]
    handles.append(Line2D([], [], color="#444444", linestyle="--", linewidth=0.9, label="majority answer"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def _count(seeds: int) -> str:
    return f"{seeds} seed{'s' if seeds > 1 else ''}"
