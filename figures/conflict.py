"""Figures of gradient conflict, from the tables that `python -m experiments.gradient_conflict` saves:

alignment = pandas.read_csv("alignment.csv")   cosines to the dominant direction, by arm, point, definition and layer
conflict  = pandas.read_csv("conflict.csv")    pairs of micro-batches: cosines, and how many are negative
pairs     = pandas.read_csv("pairs.csv")       the same for every pair of tasks
distance  = pandas.read_csv("distance.csv")    distances of trainings, by layer

Solid lines: experts' gradients summed; dashed: side by side.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

DEFINITIONS = {"mean": "leave-one-out mean", "principal": "first principal direction", "others": "mean of other tasks"}
STYLES = {"summed": "-", "apart": "--"}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GRID: dict[str, Any] = {"color": "#E2E2E2", "linewidth": 0.6}


def all_figures(
    tables: Mapping[str, pd.DataFrame], *, short: Mapping[str, str] | None = None
) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, in the order of the report.

    Args:
        tables: as above; distance may be missing.
        short: task -> what to write for it.
    """
    drawn: dict[str, tuple[Figure, str]] = {
        "alignment": (
            alignment(tables["alignment"]),
            "Mean cosine of micro-batches' gradients to the dominant direction over the training, with 95 % intervals. "
            "Dashed: experts side by side instead of summed. Dotted: mean under random signs.",
        ),
        "conflict": (
            conflict(tables["conflict"]),
            "Left: share of pairs of micro-batches of different tasks whose gradients conflict, 0.5 by chance. Right: "
            "their mean cosine; dotted: of micro-batches of one task.",
        ),
        "pairs": (
            pairs(tables["pairs"], short=short),
            "Mean cosines of micro-batches of every pair of tasks at the last point; experts summed. On the diagonal: "
            "of one task.",
        ),
    }
    if "distance" in tables:
        drawn["distance"] = (
            distance(tables["distance"]),
            "Distance of two trainings' towers over the training and by layer at its end. Solid: two tasks; dashed: "
            "two seeds of one task. Bands: from the least to the largest pair of runs.",
        )
    return drawn


def alignment(table: pd.DataFrame) -> Figure:
    """Cosines over the training, a panel for each definition.

    Args:
        table: arm, point, experts, definition, layer, cosine, low, high, chance.
    """
    shown = table[table["layer"] == -1]
    figure = Figure(figsize=(12.0, 3.6), layout="constrained")
    axes = figure.subplots(1, len(DEFINITIONS), sharex=True)
    for ax, (definition, title) in zip(axes, DEFINITIONS.items(), strict=True):
        own = shown[shown["definition"] == definition]
        for colour, arm in _arms(own):
            for experts, rows in own[own["arm"] == arm].groupby("experts", sort=False):
                _line(ax, rows, "cosine", colour, STYLES[str(experts)], arm if experts == "summed" else None)
                ax.fill_between(rows["point"], rows["low"], rows["high"], color=colour, alpha=0.12, lw=0)
                if experts == "summed":
                    ax.plot(rows["point"], rows["chance"], color=colour, ls=":", lw=0.9)
        ax.set_title(title, fontsize=10, loc="left")
        _axis(ax)
    axes[0].set_ylabel("cosine")
    _named(axes[0], {":": "under random signs", **_apart(shown)})
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return figure


def conflict(table: pd.DataFrame) -> Figure:
    """How often tasks conflict over the training.

    Args:
        table: arm, point, experts, layer, rate, cosine and own_cosine with their intervals.
    """
    shown = table[table["layer"] == -1]
    figure = Figure(figsize=(9.4, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for ax, (column, title) in zip(axes, (("rate", "P(cosine < 0)"), ("cosine", "mean cosine")), strict=True):
        for colour, arm in _arms(shown):
            for experts, rows in shown[shown["arm"] == arm].groupby("experts", sort=False):
                _line(ax, rows, column, colour, STYLES[str(experts)], arm if experts == "summed" else None)
                bounds = rows[f"{column}_low"], rows[f"{column}_high"]
                ax.fill_between(rows["point"], *bounds, color=colour, alpha=0.12, lw=0)
                if experts == "summed" and column == "cosine":
                    ax.plot(rows["point"], rows["own_cosine"], color=colour, ls=":", lw=1.1)
        ax.axhline(0.5 if column == "rate" else 0.0, color="#888888", lw=0.8)
        ax.set_title(title, fontsize=10, loc="left")
        _axis(ax)
    _named(axes[1], {":": "within a task", **_apart(shown)})
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return figure


def pairs(table: pd.DataFrame, *, short: Mapping[str, str] | None = None) -> Figure:
    """Cosines of all pairs of tasks at the last point, a heatmap for each arm.

    Args:
        table: arm, point, experts, task_a, task_b, cosine.
        short: task -> label.
    """
    shown = table[(table["point"] == table["point"].max()) & (table["experts"] == "summed")]
    tasks = list(dict.fromkeys(shown["task_a"]))
    arms = list(dict.fromkeys(shown["arm"]))
    side = 1.9 + 0.2 * len(tasks)
    figure = Figure(figsize=((side + 0.6) * len(arms), side + 0.4), layout="constrained")
    axes = figure.subplots(1, len(arms), squeeze=False)[0]
    off = shown[shown["task_a"] != shown["task_b"]]
    most = float(off["cosine"].abs().max()) or 1.0
    for ax, arm in zip(axes, arms, strict=True):
        half = shown[shown["arm"] == arm].pivot_table("cosine", "task_a", "task_b").reindex(index=tasks, columns=tasks)
        matrix = half.fillna(half.T)
        image = ax.imshow(matrix.to_numpy(dtype=float), cmap="RdBu_r", vmin=-most, vmax=most)
        labels = [(short or {}).get(task, task) for task in tasks]
        ax.set_xticks(range(len(tasks)), labels, rotation=90, fontsize=7)
        ax.set_yticks(range(len(tasks)), labels, fontsize=7)
        for place, own in enumerate(np.diag(matrix)):
            colour = "white" if abs(own) > 0.6 * most else "black"
            ax.text(place, place, f"{own:.2f}", ha="center", va="center", fontsize=6, color=colour)
        ax.set_title(arm, fontsize=10, loc="left")
    bar = figure.colorbar(image, ax=list(axes), shrink=0.75)
    bar.set_label("mean cosine", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def distance(table: pd.DataFrame) -> Figure:
    """Distances and cosines of displacements, over the training and by layer.

    Args:
        table: arm, point, layer, kind, distance, cosine.
    """
    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    axes = figure.subplots(2, 2)
    last = table["point"].max()
    views = (
        (table[table["layer"] == -1], "point", "part of the training"),
        (table[(table["layer"] >= 0) & (table["point"] == last)], "layer", "block of the tower"),
    )
    for row, (column, title) in zip(
        axes, (("distance", "relative distance"), ("cosine", "cosine of displacements")), strict=True
    ):
        for ax, (shown, along, label) in zip(row, views, strict=True):
            for colour, arm in _arms(shown):
                for kind, style in (("tasks", "-"), ("seeds", "--")):
                    rows = shown[(shown["arm"] == arm) & (shown["kind"] == kind)].groupby(along)[column]
                    found = rows.agg(["mean", "min", "max"]).dropna()
                    named = arm if kind == "tasks" else None
                    ax.plot(found.index, found["mean"], color=colour, ls=style, marker="o", ms=3, lw=1.4, label=named)
                    ax.fill_between(found.index, found["min"], found["max"], color=colour, alpha=0.12, lw=0)
            ax.set_title(title, fontsize=10, loc="left")
            ax.set_xlabel(label)
            ax.grid(axis="y", **_GRID)
            if along == "layer":
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _named(axes[0, 0], {"-": "two tasks", "--": "two seeds of one task"})
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _named(ax: Axes, styles: Mapping[str, str]) -> None:
    """Say in the legend what styles of line mean."""
    for style, label in styles.items():
        ax.plot([], [], color="#444444", ls=style, lw=1.1, label=label)


def _apart(table: pd.DataFrame) -> dict[str, str]:
    return {STYLES["apart"]: "experts side by side"} if "apart" in set(table["experts"]) else {}


def _arms(table: pd.DataFrame) -> list[tuple[str, str]]:
    arms = list(dict.fromkeys(table["arm"]))
    return [(_COLOURS[place % len(_COLOURS)], str(arm)) for place, arm in enumerate(arms)]


def _line(ax: Axes, rows: pd.DataFrame, column: str, colour: str, style: str, label: str | None) -> None:
    values = rows[column].to_numpy(dtype=float)
    ax.plot(np.asarray(rows["point"]), values, color=colour, ls=style, lw=1.5, marker="o", ms=3, label=label)


def _axis(ax: Axes) -> None:
    ax.set_xlabel("part of the training")
    ax.grid(axis="y", **_GRID)
