"""Transferability and malleability of tasks, from the tables that `python -m experiments.analyse_transfer` saves:

task_scores = pandas.read_csv("task_scores.csv")   the scores of every task
categories  = pandas.read_csv("categories.csv")    their means by perceptual level and granularity
fractions   = pandas.read_csv("fractions.csv")     the scores at every share of the training
dose        = {task: training steps}

Blue is positive, red negative; a hollow mark counts what a task does to itself as well.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

BLUE, RED = "#2166AC", "#B2182B"
SCORES = ("transferability", "malleability")
SIGNS = {"positive": BLUE, "negative": RED}
WITH = "_with_diagonal"
TITLES = {
    "transferability": "Transferability: what training on a task does to the others",
    "malleability": "Malleability: what training on the others does to a task",
}
_GRID = {"color": "#E2E2E2", "linewidth": 0.6}


def score_bars(scores: pd.DataFrame, *, short: Mapping[str, str]) -> Figure:
    """Positive and negative scores of every task, with personas written at the bars.

    Args:
        scores: table of task_scores.csv.
        short: task -> what to write at the axis.
    """
    figure = Figure(figsize=(max(6.0, 2.2 + 0.55 * len(scores)), 6.4), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(scores))
    for ax, score in zip(axes, SCORES, strict=True):
        for sign, colour in SIGNS.items():
            ax.bar(places, scores[f"{score}_{sign}"], color=colour, width=0.7)
            ax.scatter(places, scores[f"{score}_{sign}{WITH}"], facecolor="white", edgecolor=colour, s=20, zorder=3)
        ax.set_title(TITLES[score], loc="left", fontsize=10)
        _dress(ax)
        ax.set_ylabel(score)
        _write_personas(ax, scores, score)
    axes[1].set_xticks(places, [short.get(task, task) for task in scores["task"]], fontsize=9)
    if max(len(short.get(task, task)) for task in scores["task"]) > 6:
        axes[1].tick_params(axis="x", rotation=90)
    _legend(
        figure, [Line2D([], [], marker="o", ls="", markerfacecolor="white", color="#555555", label="itself counted")]
    )
    return figure


def category_trends(categories: pd.DataFrame, scores: pd.DataFrame, nodes: Sequence[Mapping[str, str]]) -> Figure:
    """Mean scores by perceptual level and by granularity, with every task of the category as a point.

    Args:
        categories: table of categories.csv.
        scores: table of task_scores.csv.
        nodes: of graph.json: each with abbreviation, level and granularity, in the order of `scores`.
    """
    axes_of = [axis for axis in ("level", "granularity") if (categories["axis"] == axis).any()]
    figure = Figure(figsize=(1.0 + 4.6 * len(axes_of), 6.4), layout="constrained")
    axes = figure.subplots(2, len(axes_of), sharey="row", squeeze=False)
    for column, axis in enumerate(axes_of):
        rows = categories[categories["axis"] == axis]
        for row, score in enumerate(SCORES):
            ax = axes[row, column]
            for sign, colour in SIGNS.items():
                name = f"{score}_{sign}"
                ax.bar(range(len(rows)), rows[name], color=colour, width=0.55, alpha=0.85)
                ax.scatter(range(len(rows)), rows[f"{name}{WITH}"], facecolor="white", edgecolor=colour, s=26, zorder=4)
                for place, category in enumerate(rows["category"]):
                    members = [index for index, node in enumerate(nodes) if node[axis] == category]
                    spread = place + np.linspace(-0.2, 0.2, len(members)) if len(members) > 1 else [place]
                    ax.scatter(spread, scores[name].iloc[members], color="#222222", s=7, zorder=3, linewidth=0)
            names = [f"{c}\nn = {n}" for c, n in zip(rows["category"], rows["n"], strict=True)]
            ax.set_xticks(range(len(rows)), names if row else [""] * len(rows))
            _dress(ax)
            if column == 0:
                ax.set_ylabel(score)
        axes[0, column].set_title(f"by {'perceptual ' if axis == 'level' else ''}{axis}", loc="left", fontsize=10)
    more = [
        Line2D([], [], marker="o", ls="", markerfacecolor="white", color="#555555", label="itself counted"),
        Line2D([], [], marker="o", ls="", markersize=3, color="#222222", label="a task"),
    ]
    _legend(figure, more)
    return figure


def fraction_curves(fractions: pd.DataFrame, *, short: Mapping[str, str]) -> Figure:
    """Mean scores against the share of the training, with a thin line for every task.

    Args:
        fractions: table of fractions.csv.
        short: task -> what to write at its line's end.
    """
    figure = Figure(figsize=(9.4, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, score in zip(axes, SCORES, strict=True):
        for sign, colour in SIGNS.items():
            name = f"{score}_{sign}"
            wide = fractions.pivot_table(index="fraction", columns="task", values=name)
            named: list[float] = []
            apart = 0.05 * float(fractions[[f"{score}_{other}" for other in SIGNS]].abs().max().max())
            for task in wide.iloc[-1].abs().sort_values(ascending=False).index:
                ax.plot(100 * wide.index, wide[task], color=colour, linewidth=0.6, alpha=0.45)
                if (
                    len(named) < 3
                    and wide[task].iloc[-1]
                    and all(abs(wide[task].iloc[-1] - other) > apart for other in named)
                ):
                    named.append(wide[task].iloc[-1])
                    ax.annotate(
                        short.get(task, task), (100 * wide.index[-1], wide[task].iloc[-1]), xytext=(3, 0),
                        textcoords="offset points", fontsize=7, va="center", color=colour,
                    )  # fmt: skip
            ax.plot(100 * wide.index, wide.mean(axis=1), color=colour, linewidth=2.2, marker="o", markersize=4)
        ax.set_xticks(100 * np.unique(fractions["fraction"]))
        ax.set_xlabel("training, % of the steps")
        ax.set_ylabel(score)
        _dress(ax)
    _legend(figure, [Line2D([], [], color="#555555", lw=2.2, marker="o", label="mean of the tasks")])
    figure.suptitle("Scores by share of the training")
    return figure


def dose_scatter(
    scores: pd.DataFrame, steps: Mapping[str, float], dose: pd.DataFrame, *, short: Mapping[str, str]
) -> Figure:
    """Transferability against training steps.

    Args:
        scores: table of task_scores.csv.
        steps: task -> training steps.
        dose: table of dose.csv.
        short: task -> what to write at its point.
    """
    figure = Figure(figsize=(9.4, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    x = [steps[task] for task in scores["task"]]
    found = dose.set_index("score")
    for ax, (sign, colour) in zip(axes, SIGNS.items(), strict=True):
        name = f"transferability_{sign}"
        ax.scatter(x, scores[name], color=colour, s=26)
        if min(x) > 0 and max(x) > 3 * min(x):
            ax.set_xscale("log")
        _name_points(ax, x, scores[name].tolist(), [short.get(task, task) for task in scores["task"]])
        ax.margins(x=0.1, y=0.12)
        ax.set_xlabel("training steps of the source")
        ax.set_ylabel(f"{sign} transferability")
        row = found.loc[name]
        ax.set_title(
            f"Spearman {row['spearman']:.2f}, p = {row['p']:.2g}, n = {int(row['n'])}", loc="left", fontsize=10
        )
        _dress(ax, zero=False)
    return figure


def _name_points(ax: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """Writes a name beside each point, on the side where it covers the fewest points and names."""
    ax.autoscale_view()
    to_inches = ax.transData + ax.figure.dpi_scale_trans.inverted()
    taken = [tuple(place) for place in to_inches.transform(np.column_stack([x, y]))]
    for (left, low), point, name in zip(list(taken), zip(x, y, strict=True), names, strict=True):
        width = 0.075 * len(name)
        sides = [(0.1 + width / 2, 0.04), (-0.1 - width / 2, 0.04), (0.0, 0.15), (0.0, -0.15)]
        sides += [
            (0.1 + width / 2, 0.16),
            (0.1 + width / 2, -0.14),
            (-0.1 - width / 2, 0.16),
            (-0.1 - width / 2, -0.14),
        ]

        def crowd(side: tuple[float, float], left: float = left, low: float = low, width: float = width) -> int:
            x, y = left + side[0], low + side[1]
            return sum(abs(x - a) < width / 2 + 0.1 and abs(y - b) < 0.13 for a, b in taken if (a, b) != (left, low))

        dx, dy = min(sides, key=crowd)
        taken.append((left + dx, low + dy))
        ax.annotate(
            name, point, xytext=(72 * dx, 72 * dy), textcoords="offset points", fontsize=8, ha="center", va="center"
        )  # fmt: skip


def _write_personas(ax: Axes, scores: pd.DataFrame, score: str) -> None:
    """The persona that a bar makes, at its end."""
    mine = {"transferability": {"donor": "positive", "pirate": "negative"}}
    mine["malleability"] = {"sponge": "positive", "sieve": "negative"}
    for place, row in enumerate(scores.to_dict("records")):
        for persona, sign in mine[score].items():
            if persona in str(row["persona"]).split(" + "):
                up = sign == "positive"
                both = [row[f"{score}_{sign}"], row[f"{score}_{sign}{WITH}"]]
                ax.annotate(
                    persona, (place, max(both) if up else min(both)), xytext=(0, 5 if up else -5),
                    textcoords="offset points", ha="center", va="bottom" if up else "top", fontsize=7.5,
                    color=SIGNS[sign],
                )  # fmt: skip
    ax.margins(y=0.14)


def _dress(ax: Axes, *, zero: bool = True) -> None:
    ax.grid(axis="y", **_GRID)
    ax.set_axisbelow(True)
    if zero:
        ax.axhline(0, color="#444444", linewidth=0.8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _legend(figure: Figure, more: Sequence[Line2D]) -> None:
    handles: list[Patch | Line2D] = [Patch(color=colour, label=sign) for sign, colour in SIGNS.items()]
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=5, frameon=False, fontsize=9)
