"""Figure of the shortcut battery, from the table that `python -m experiments.shortcuts` saves:

shortcuts = pandas.read_csv("shortcuts.csv")   accuracy of every shortcut, with chance, per task, form and difficulty
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_LIMIT = 0.3


def all_figures(table: pd.DataFrame) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, in the order of the report."""
    caption = (
        "Accuracy of each shortcut minus chance, in points, per task and form. Framed cells beat chance by more than 5 "
        "points. A grey cell is a shortcut that the form does not have."
    )
    return {"shortcuts": (heatmap(table), caption)}


def heatmap(table: pd.DataFrame) -> Figure:
    """Shortcuts in rows, forms of tasks in columns.

    Args:
        table: with columns task, form, difficulty, shortcut, accuracy, chance, leak.
    """
    several = len(set(table["difficulty"])) > 1
    labels = table["task"] + " " + table["form"].str.replace("_", "/")
    if several:
        labels += " " + table["difficulty"].map("{:g}".format)
    shown = table.assign(column=labels, excess=table["accuracy"] - table["chance"])
    rows, columns = (list(dict.fromkeys(shown[name])) for name in ("shortcut", "column"))
    excess, leak = (
        shown.pivot_table(value, "shortcut", "column", dropna=False)
        .reindex(index=rows, columns=columns)
        .to_numpy(float)
        for value in ("excess", "leak")
    )
    figure = Figure(figsize=(max(4.5, 0.42 * len(columns) + 2.6), 0.36 * len(rows) + 1.9))
    figure.set_layout_engine("constrained")
    ax = figure.subplots()
    ax.set_facecolor("#DDDDDD")
    image = ax.imshow(excess, cmap="RdBu_r", vmin=-_LIMIT, vmax=_LIMIT, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    for row, column in zip(*np.nonzero(~np.isnan(excess)), strict=True):
        value = excess[row, column]
        ink = "white" if abs(value) > 0.6 * _LIMIT else "black"
        ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=6.5, color=ink)
        if leak[row, column] > 0:
            ax.add_patch(_frame(column, row))
    figure.colorbar(image, ax=ax, label="accuracy minus chance", shrink=0.8)
    return figure


def _frame(column: int, row: int) -> Rectangle:
    return Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor="black", linewidth=1.5)
