"""Heatmaps of a measured transfer matrix, from the tables that `python -m experiments.analyse_transfer` saves:

edges          = pandas.read_csv("edges.csv")            every cell: factor, accuracies, paired tests
constant_cells = pandas.read_csv("constant_cells.csv")   cells that may always give one letter

Rows are sources and columns targets, as in every matrix here; a line parts controls and further targets from the square
of tasks. Blue is better than the baseline, red worse.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

CELL = 0.52  # inches
_LINE = {"color": "#222222", "linewidth": 1.4}
_ALPHA = 0.05


def factor_heatmap(
    edges: pd.DataFrame, *, short: Mapping[str, str], constant: pd.DataFrame | None = None, measure: str = "PGF"
) -> Figure:
    """Mean factors with their standard deviation over runs below.

    Args:
        edges: table with columns source, target, family, mean, sd, runs, q.
        short: task -> what to write at the axes.
        constant: table of constant_cells.csv; cells of which a run gives one letter, or half of the runs have as many
            right answers as a letter has keys, are marked with a corner.
        measure: what the factors are called.
    """
    sources, targets = _axes_of(edges)
    mean, sd, q = (_matrix(edges, column, sources, targets) for column in ("mean", "sd", "q"))
    limit = float(np.nanquantile(np.abs(mean), 0.95)) or 1.0
    figure, ax = _canvas(len(sources), len(targets))
    image = ax.imshow(mean, cmap="RdBu", norm=TwoSlopeNorm(0, -limit, limit), aspect="auto")
    for i, j in np.ndindex(mean.shape):
        if np.isnan(mean[i, j]):
            ax.text(j, i, "n/a", ha="center", va="center", fontsize=6.5, color="#777777", in_layout=False)
            continue
        star = "*" if q[i, j] < _ALPHA else ""
        below = "" if np.isnan(sd[i, j]) else f"±{_plain(sd[i, j])}"
        colour = "white" if abs(mean[i, j]) > 0.7 * limit else "#111111"
        place = {"ha": "center", "color": colour, "in_layout": False}  # layout would measure every text, for seconds
        ax.text(j, i - 0.04, _plain(mean[i, j]) + star, va="bottom" if below else "center", fontsize=7.5, **place)
        ax.text(j, i + 0.08, below, va="top", fontsize=5.5, **place)
    if constant is not None:
        marked = (constant["constant_runs"] > 0) | (constant["key_count_runs"] >= constant["runs"] / 2)
        _corners(ax, constant[marked], sources, targets)
    _dress(ax, edges, sources, targets, short)
    bar = figure.colorbar(image, ax=ax, extend="both", shrink=0.7, pad=0.02)
    bar.set_label(f"{measure}, mean over runs")
    runs = int(edges["runs"].max())
    figure.suptitle(f"{measure} over {runs} run{'s' if runs != 1 else ''}")
    return figure


def accuracy_heatmap(edges: pd.DataFrame, *, short: Mapping[str, str]) -> Figure:
    """Accuracies in per cent, the baseline's in the first row, with the standard deviation over runs below.

    Args:
        edges: table with columns source, target, family, accuracy, accuracy_sd, baseline, items.
        short: task -> what to write at the axes.
    """
    sources, targets = _axes_of(edges)
    accuracy, sd = (100 * _matrix(edges, column, sources, targets) for column in ("accuracy", "accuracy_sd"))
    baseline = 100 * edges.drop_duplicates("target").set_index("target")["baseline"].reindex(targets).to_numpy()
    rows = ["baseline", *sources]
    values, spread = np.vstack([baseline, accuracy]), np.vstack([np.full(len(targets), np.nan), sd])
    figure, ax = _canvas(len(rows), len(targets))
    image = ax.imshow(values, cmap="Blues", norm=Normalize(0, 100), aspect="auto")
    for i, j in np.ndindex(values.shape):
        below = "" if np.isnan(spread[i, j]) else f"±{spread[i, j]:.1f}"
        place = {"ha": "center", "color": "white" if values[i, j] > 60 else "#111111", "in_layout": False}
        ax.text(j, i - 0.04, f"{values[i, j]:.1f}", va="bottom" if below else "center", fontsize=7.5, **place)
        ax.text(j, i + 0.08, below, va="top", fontsize=5.5, **place)
    ax.axhline(0.5, **_LINE)
    _dress(ax, edges, rows, targets, short)
    figure.colorbar(image, ax=ax, shrink=0.7, pad=0.02).set_label("accuracy, %")
    figure.suptitle("Accuracy before (first row) and after fine-tuning, %")
    return figure


def difference_heatmap(measures: pd.DataFrame, *, short: Mapping[str, str], columns: Mapping[str, str]) -> Figure:
    """Every measure of the same cells side by side: colours alone.

    Args:
        measures: table with columns source, target, and those of `columns`.
        short: task -> what to write at the axes.
        columns: column -> its title, for each panel.
    """
    sources, targets = (list(dict.fromkeys(measures[name])) for name in ("source", "target"))
    shown = [name for name in columns if name in measures and measures[name].notna().any()]
    figure = Figure(figsize=(1.2 + 3.4 * len(shown), 1.2 + 3.2 * len(sources) / len(targets)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for ax, name in zip(axes, shown, strict=True):
        values = _matrix(measures, name, sources, targets)
        limit = float(np.nanquantile(np.abs(values), 0.95)) or 1.0
        image = ax.imshow(np.ma.masked_invalid(values), cmap="RdBu", norm=TwoSlopeNorm(0, -limit, limit), aspect="auto")
        ax.set_facecolor("#DDDDDD")
        ax.set_title(columns[name], fontsize=9, loc="left")
        ax.set_xticks(range(len(targets)), [short.get(t, t) for t in targets], rotation=90, fontsize=7)
        ax.set_yticks(range(len(sources)), [short.get(s, s) for s in sources], fontsize=7)
        figure.colorbar(image, ax=ax, orientation="horizontal", extend="both", shrink=0.8, pad=0.03)
    axes[0].set_ylabel("fine-tuned on")
    figure.suptitle("The same cells in other measures; columns are targets")
    return figure


def _axes_of(edges: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Sources and targets: those of the square first, then controls and further targets."""
    square = list(dict.fromkeys(edges.loc[edges["family"] == "itself", "source"]))
    sources = square + [name for name in dict.fromkeys(edges["source"]) if name not in square]
    return sources, square + [name for name in dict.fromkeys(edges["target"]) if name not in square]


def _matrix(table: pd.DataFrame, column: str, sources: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    wide = table.pivot_table(index="source", columns="target", values=column, dropna=False)
    return wide.reindex(index=sources, columns=targets).to_numpy(float)


def _canvas(rows: int, columns: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(2.4 + CELL * columns, 1.6 + 0.8 * CELL * rows), layout="constrained")
    return figure, figure.subplots()


def _dress(
    ax: Axes, edges: pd.DataFrame, rows: Sequence[str], targets: Sequence[str], short: Mapping[str, str]
) -> None:
    """Names at the axes, boxes round what a task does to itself, and lines before controls and further targets."""
    square = set(edges.loc[edges["family"] == "itself", "source"])
    ax.set_xticks(range(len(targets)), [short.get(target, target) for target in targets], fontsize=8)
    ax.set_yticks(range(len(rows)), [short.get(row, row) for row in rows], fontsize=8)
    if max(len(short.get(target, target)) for target in targets) > 4:
        ax.tick_params(axis="x", rotation=90)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("tested on")
    ax.set_ylabel("fine-tuned on")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for i, row in enumerate(rows):
        if row in square:
            j = targets.index(row)
            ax.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, fill=False, linewidth=0.9, edgecolor="#222222"))
    controls = [i for i, row in enumerate(rows) if row not in square and row != "baseline"]
    extras = [j for j, target in enumerate(targets) if target not in square]
    if controls:
        ax.axhline(controls[0] - 0.5, **_LINE)
    if extras:
        ax.axvline(extras[0] - 0.5, **_LINE)


def _corners(ax: Axes, cells: pd.DataFrame, sources: Sequence[str], targets: Sequence[str]) -> None:
    """A dark corner in every marked cell."""
    for source, target in zip(cells["source"], cells["target"], strict=True):
        i, j = sources.index(source), targets.index(target)
        corner = [(j + 0.5, i - 0.5), (j + 0.22, i - 0.5), (j + 0.5, i - 0.22)]
        ax.add_patch(Polygon(corner, facecolor="#E69F00", edgecolor="none"))


def _plain(value: float) -> str:
    """.12, -.03, 1.20: two decimals without the zero before the point; a value that rounds to nothing has no sign."""
    shown = f"{value:.2f}"
    return ".00" if shown == "-0.00" else shown.replace("0.", ".", 1) if abs(float(shown)) < 1 else shown
