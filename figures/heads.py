"""Figures of the head experiment (Todd et al. 2024): where the effects are, and what the strongest heads do together.

effects = pandas.read_csv("effects.csv")   one row per task and head
curve   = pandas.read_csv("curve.csv")     one row per task, kind of sum and layer
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
_COLOURS = {"top": "#0072B2", "random": "#888888"}
_LABELS = {"top": "sum of the strongest heads", "random": "sum of random heads (control)"}


def effect_maps(effects: pd.DataFrame) -> Figure:
    """Every head's mean gain in log-probability, layer by head, one panel per task and one for their mean.

    Args:
        effects: table with columns task, layer, head, n, log_gain.

    Returns:
        The figure; all panels share one colour scale, centred on zero.
    """
    tasks = list(dict.fromkeys(effects["task"]))
    maps = {
        task: effects[effects["task"] == task].pivot_table("log_gain", "head", "layer").to_numpy() for task in tasks
    }
    maps["mean over tasks"] = np.mean(list(maps.values()), axis=0)
    columns = min(len(maps), 4)
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.8, 1.9 * rows + 0.8))
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    limit = max(np.abs(values).max() for values in maps.values()) or 1.0
    for ax, (name, values) in zip(axes, maps.items(), strict=False):
        image = ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
        ax.set_title(name, loc="left")
        ax.set_xlabel("layer")
        ax.set_ylabel("head")
    for ax in axes[len(maps) :]:
        ax.remove()
    figure.colorbar(image, ax=figure.axes, label="gain in log p(answer), nats")
    trials = int(effects["n"].max())
    figure.suptitle(f"Causal indirect effect of each head (n = {trials} prompts with shuffled labels a task)")
    return figure


def sum_curves(curve: pd.DataFrame) -> Figure:
    """Exact match on bare queries after adding a sum of heads at each layer, one panel per task, with Wilson bands.

    Args:
        curve: table with columns task, heads, layer, n, exact, wilson_low, wilson_high.
    """
    tasks = list(dict.fromkeys(curve["task"]))
    columns = min(len(tasks), 3)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.2 * rows + 0.9))
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for ax, task in zip(axes, tasks, strict=False):
        panel = curve[curve["task"] == task]
        for kind, label in _LABELS.items():
            line = panel[panel["heads"] == kind]
            ax.fill_between(line["layer"], line["wilson_low"], line["wilson_high"], color=_COLOURS[kind], alpha=0.15)
            ax.plot(line["layer"], line["exact"], color=_COLOURS[kind], label=label)
        ax.set_title(f"{task}, n = {int(panel['n'].max())}", loc="left")
        ax.set_xlabel("layer at which the sum is added")
        ax.set_ylabel("exact match")
        ax.grid(axis="y", **_GRID)
    for ax in axes[len(tasks) :]:
        ax.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure
