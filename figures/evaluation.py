"""Figures of perception evaluations: accuracies with intervals, accuracy by difficulty, selected training data.

table = pandas.read_csv("accuracy.csv")         of experiments.evaluate
difficulties = pandas.read_csv("difficulties.csv")   of experiments.transfer_matrix --calibrate
cells = pandas.read_csv("cells.csv")            of experiments.transfer_matrix
selection = pandas.read_csv("selection.csv")    of experiments.select_data
results = pandas.read_csv("results.csv")        of experiments.bench_evaluation
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_FROZEN = "#777777"


def accuracies(table: pd.DataFrame, *, chance: dict[str, float] | None = None) -> Figure:
    """Accuracy of every model on every task, with 95 % intervals.

    Args:
        table: columns task, form, model, accuracy, low, high; one model is "frozen".
        chance: task -> accuracy of a guess, drawn as a dash.

    Returns:
        The figure, one group of points for each task and form.
    """
    table = table.assign(label=[_label(task, form) for task, form in zip(table["task"], table["form"], strict=True)])
    labels, models = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table["model"]))
    figure = Figure(figsize=(max(4.5, 1.5 + 0.24 * len(labels) * (len(models) + 1)), 3.8))
    figure.set_layout_engine("constrained")
    ax = figure.subplots()
    for number, model in enumerate(models):
        here = table[table["model"] == model]
        places = np.array([labels.index(label) for label in here["label"]]) + 0.8 * ((number + 0.5) / len(models) - 0.5)
        errors = [(here["accuracy"] - here["low"]).clip(lower=0), (here["high"] - here["accuracy"]).clip(lower=0)]
        colour = _FROZEN if model == "frozen" else _COLOURS[(number - 1) % len(_COLOURS)]
        ax.errorbar(places, here["accuracy"], yerr=errors, fmt="o", markersize=4, capsize=2, color=colour, label=model)
    for place, label in enumerate(labels):
        task = table.loc[table["label"] == label, "task"].iloc[0]
        if chance and task in chance:
            ax.hlines(chance[task], place - 0.4, place + 0.4, color="black", linestyle=":", linewidth=1)
    ax.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    ax.set_ylim(0, 1)
    ax.set_ylabel("accuracy (dotted: a guess)")
    ax.grid(axis="y", **_GRID)
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def accuracy_matrix(cells: pd.DataFrame, *, order: Sequence[str] = ()) -> Figure:
    """Accuracy of every source on every target at its last fraction, mean over seeds; the frozen model is a row.

    Args:
        cells: columns source, seed, fraction, target, form, accuracy, constant_letter. A cell in which one letter is
            nearly all answers, under any seed, has a star.
        order: sources in the order of the rows; as they come by default.

    Returns:
        The figure.
    """
    last = cells[cells["fraction"] == cells["fraction"].max()]
    last = last.assign(column=[_label(task, form) for task, form in zip(last["target"], last["form"], strict=True)])
    columns = list(dict.fromkeys(last["column"]))
    rows = [name for name in order if name in set(last["source"])] or list(dict.fromkeys(last["source"]))
    mean = last.pivot_table(index="source", columns="column", values="accuracy", aggfunc="mean")
    mean = mean.reindex(index=rows, columns=columns)
    constant = last[last["constant_letter"].fillna("") != ""]
    starred = set(zip(constant["source"], constant["column"], strict=True))
    figure = Figure(figsize=(2.2 + 0.52 * len(columns), 1.8 + 0.34 * len(rows)))
    figure.set_layout_engine("constrained")
    ax = figure.subplots()
    image = ax.imshow(mean.to_numpy(dtype=float), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for i, source in enumerate(rows):
        for j, column in enumerate(columns):
            value = mean.iloc[i, j]
            if not pd.isna(value):
                text = f"{100 * value:.0f}{'*' if (source, column) in starred else ''}"
                ax.text(j, i, text, ha="center", va="center", fontsize=6, color="white" if value < 0.6 else "black")
    ax.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=7)
    ax.set_yticks(range(len(rows)), rows, fontsize=7)
    ax.set_xlabel("tested on")
    ax.set_ylabel("trained on")
    figure.colorbar(image, ax=ax, label="accuracy (*: one letter is nearly all answers)")
    return figure


def difficulty(table: pd.DataFrame) -> Figure:
    """Accuracy on selection items by difficulty, the chosen one marked.

    Args:
        table: columns task, difficulty, frozen, frozen_low, frozen_high, direct, direct_low, direct_high, chosen.

    Returns:
        The figure, one panel for each task.
    """
    tasks = list(dict.fromkeys(table["task"]))
    columns = min(len(tasks), 4)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.1 * rows + 0.5))
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for ax, task in zip(axes, tasks, strict=False):
        here = table[table["task"] == task].sort_values("difficulty")
        for name, colour in (("frozen", _FROZEN), ("direct", _COLOURS[0])):
            if here[name].notna().any():
                ax.plot(
                    here["difficulty"], here[name].astype(float), marker="o", markersize=3, color=colour, label=name
                )
                low, high = (here[f"{name}_{end}"].astype(float) for end in ("low", "high"))
                ax.fill_between(here["difficulty"], low, high, color=colour, alpha=0.2, linewidth=0)
        for value in here.loc[here["chosen"].astype(bool), "difficulty"]:
            ax.axvline(value, color="black", linewidth=0.8, linestyle=":")
        ax.set_title(task, fontsize=8)
        ax.set_ylim(0, 1)
        ax.grid(**_GRID)
    for ax in axes[len(tasks) :]:
        ax.remove()
    axes[0].legend(fontsize=7)
    figure.supxlabel("difficulty (dotted: chosen)", fontsize=8)
    figure.supylabel("accuracy on selection items", fontsize=8)
    return figure


def selection(table: pd.DataFrame) -> Figure:
    """Accuracy on a target after training on selected, random and direct data at the same budget.

    Args:
        table: columns target, arm, accuracy, low, high; arms are frozen, guided, random and direct.

    Returns:
        The figure, one panel for each target.
    """
    targets = list(dict.fromkeys(table["target"]))
    figure = Figure(figsize=(2.6 * len(targets) + 0.8, 3.2))
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(1, len(targets), squeeze=False, sharey=True).flat)
    for ax, target in zip(axes, targets, strict=True):
        here = table[table["target"] == target]
        for place, row in enumerate(here.itertuples()):
            colour = _FROZEN if row.arm == "frozen" else _COLOURS[place % len(_COLOURS)]
            ax.bar(place, row.accuracy, color=colour, width=0.7)
            ax.plot([place, place], [row.low, row.high], color="black", linewidth=1.2)
        ax.set_xticks(range(len(here)), here["arm"], rotation=30, ha="right", fontsize=8)
        ax.set_title(target, fontsize=9)
        ax.set_ylim(0, 1)
        ax.grid(axis="y", **_GRID)
    axes[0].set_ylabel("accuracy on test items")
    return figure


def speed(table: pd.DataFrame, *, wanted: float) -> Figure:
    """Seconds of every peer for the same answers, with the range over repeats.

    Args:
        table: columns peer, answers, seconds, seconds_min, seconds_max, times_ours.
        wanted: how many times longer than ours the loop should take; drawn as a line.
    """
    figure = Figure(figsize=(6.4, 2.2))
    figure.set_layout_engine("constrained")
    ax = figure.subplots()
    for place, row in enumerate(table.itertuples()):
        ax.barh(place, row.seconds, color=_COLOURS[0] if row.peer == "ours" else _COLOURS[1], height=0.6)
        ax.plot([row.seconds_min, row.seconds_max], [place, place], color="black", linewidth=1.2)
        ax.annotate(f" {row.times_ours:.2f} times", (row.seconds_max, place), va="center", fontsize=8)
    ours = float(table.loc[table["peer"] == "ours", "seconds"].iloc[0])
    ax.axvline(wanted * ours, color="black", linestyle=":", linewidth=1)
    ax.set_yticks(range(len(table)), table["peer"])
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set_xlabel(f"seconds for {int(table['answers'].iloc[0])} answers (dotted: {wanted:g} times ours)")
    ax.grid(axis="x", **_GRID)
    return figure


def _label(task: str, form: object) -> str:
    return f"{task} ({form})" if isinstance(form, str) and form else task
