"""Figures of update geometry, from the tables that `python -m experiments.lora_geometry` saves:

similarity = pandas.read_csv("similarity.csv")   every measure for every pair of tasks, by layer and projection
ceilings   = pandas.read_csv("ceilings.csv")     two seeds of one task; may be empty
norms      = pandas.read_csv("norms.csv")        sizes and effective ranks
angles     = pandas.read_csv("angles.csv")       principal angles

Pairs of tasks are those of different seeds where there are any, since these compare with the ceilings.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

LABELS = {
    "cosine": "cosine of dW",
    "paper": "cosine, last output projection",
    "overlap_output": "overlap, output side",
    "overlap_input": "overlap, input side",
    "energy_output": "share of energy, output side",
    "energy_input": "share of energy, input side",
    "a_alone": "cosine of A alone (gauge)",
    "b_alone": "cosine of B alone (gauge)",
    "gain_unit": "first-order gain per unit of |dW|",
    "state_cosine": "cosine of state changes",
}
DIRECTED = ("energy_output", "energy_input", "gain", "gain_unit", "state_projection")
HEATMAPS = (
    ("cosine", False), ("cosine", True), ("paper", False), ("overlap_output", False), ("overlap_input", False),
    ("energy_output", False), ("energy_input", False), ("a_alone", False), ("gain_unit", False),
    ("state_cosine", False),
)  # fmt: skip
PROFILES = (("cosine", False), ("cosine", True), ("overlap_output", False), ("overlap_input", False))
_NUMBERS = {"layer": int, "value": float, "chance": float}
_GRID: dict[str, Any] = {"color": "#E2E2E2", "linewidth": 0.6}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#444444")


def all_figures(
    tables: Mapping[str, pd.DataFrame], *, short: Mapping[str, str] | None = None
) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, in the order of the report.

    Args:
        tables: similarity, ceilings, norms, angles.
        short: task -> what to write for it.
    """
    similarity, ceilings = tables["similarity"], tables["ceilings"]
    # Most rows are of single weights; looking through them for every panel would take longest.
    layer = similarity["layer"].astype(str)
    whole = similarity[(layer.eq("all") & similarity["projection"].eq("all")) | similarity["measure"].eq("paper")]
    drawn: dict[str, tuple[Figure, str]] = {
        "heatmaps": (
            heatmaps(whole, ceilings, short=short),
            "Every measure over the whole model. Rows are sources, columns targets; numbers on the diagonal: two "
            "seeds of a task. Measures marked (gauge) depend on how the product was split and say little.",
        ),
        "tree": (
            tree(whole, short=short),
            "Tasks by 1 - cosine of their updates: average linkage, and the plane that keeps the distances best "
            "(classical scaling), with and without the common mean.",
        ),
    }
    if layer.ne("all").any():
        drawn["layers"] = (
            layer_profiles(similarity, ceilings),
            "Means over pairs of tasks with the middle half of the pairs. Dashed: two seeds of a task. Dotted: chance. "
            "Thin: single projections.",
        )
    if len(tables["angles"]):
        drawn["angles"] = (
            angle_spectra(tables["angles"]),
            "Principal angles between the updates' subspaces, means over layers, a line for each pair of tasks. "
            "Dotted: random subspaces. Dashed: two seeds of a task.",
        )
    drawn["norms"] = (
        norm_profiles(tables["norms"], short=short),
        "Frobenius norm and effective rank of every update by layer, means over seeds.",
    )
    return drawn


def square(
    similarity: pd.DataFrame, measure: str, *, centred: bool = False, layer: str = "all", projection: str = "all"
) -> pd.DataFrame:
    """A measure as a matrix of tasks, with an empty diagonal.

    Args:
        similarity: table with columns measure, layer, projection, source, target, value, centred, seeds.
        measure, centred, layer, projection: which; `paper` has one layer and projection.
    """
    shown = similarity[(similarity["measure"] == measure) & (similarity["centred"] == centred)]
    if measure != "paper":
        shown = shown[(shown["layer"].astype(str) == layer) & (shown["projection"] == projection)]
    shown = _one_kind(shown)
    tasks = list(dict.fromkeys([*similarity["source"], *similarity["target"]]))
    matrix = shown.pivot_table("value", "source", "target").reindex(index=tasks, columns=tasks)
    return matrix if measure in DIRECTED else matrix.fillna(matrix.T)


def heatmaps(similarity: pd.DataFrame, ceilings: pd.DataFrame, *, short: Mapping[str, str] | None = None) -> Figure:
    """A panel for each measure that there is.

    Args:
        similarity: as for :func:`square`.
        ceilings: measure, layer, projection, task, value, centred; its values stand on the diagonals.
        short: task -> label.
    """
    shown = []
    for measure, centred in HEATMAPS:
        matrix = square(similarity, measure, centred=centred)
        if matrix.notna().any(axis=None):
            shown.append((measure, centred, matrix))
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    side = 1.7 + 0.2 * len(shown[0][2])
    figure = Figure(figsize=((side + 0.9) * columns, (side + 0.4) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (measure, centred, matrix) in zip(axes, shown, strict=False):
        _heatmap(ax, matrix, _diagonal(ceilings, matrix, measure, centred), short or {})
        ax.set_title(_title(measure, centred), fontsize=9, loc="left")
    for ax in axes[len(shown) :]:
        ax.remove()
    return figure


def _heatmap(ax: Axes, matrix: pd.DataFrame, diagonal: np.ndarray, short: Mapping[str, str]) -> None:
    values = matrix.to_numpy(dtype=float).copy()
    np.fill_diagonal(values, np.nan)  # a ceiling is far above most pairs, and would take all of the colours
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    signed = low < 0 < high and min(-low, high) > 0.1 * max(-low, high)
    most = max(-low, high)
    image = ax.imshow(
        values, cmap="RdBu_r" if signed else "viridis", vmin=-most if signed else low, vmax=most if signed else high
    )
    ax.set_facecolor("#EEEEEE")
    for place, ceiling in enumerate(diagonal):
        if not np.isnan(ceiling):
            ax.text(place, place, f"{ceiling:.2g}", ha="center", va="center", fontsize=5)
    labels = [short.get(task, task) for task in matrix.index]
    ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    ax.set_yticks(range(len(labels)), labels, fontsize=7)
    ax.figure.colorbar(image, ax=ax, shrink=0.75).ax.tick_params(labelsize=7)


def _diagonal(ceilings: pd.DataFrame, matrix: pd.DataFrame, measure: str, centred: bool) -> np.ndarray:
    shown = ceilings[(ceilings["measure"] == measure) & (ceilings["centred"] == centred)]
    if measure != "paper":
        shown = shown[(shown["layer"].astype(str) == "all") & (shown["projection"] == "all")]
    return shown.set_index("task")["value"].reindex(matrix.index).to_numpy(dtype=float)


def layer_profiles(similarity: pd.DataFrame, ceilings: pd.DataFrame) -> Figure:
    """Cosines and overlaps against the layer, a panel each.

    Args:
        similarity: as for :func:`square`, with chance.
        ceilings: as for :func:`heatmaps`.
    """
    projections = [name for name in dict.fromkeys(similarity["projection"]) if name != "all"]
    figure = Figure(figsize=(9.0, 6.2), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).ravel()
    for ax, (measure, centred) in zip(axes, PROFILES, strict=True):
        rows = _layers(similarity, measure, centred)
        for colour, name in zip(_COLOURS[1:] * 9, projections, strict=False):
            curve = _curve(rows[rows["projection"] == name])
            if len(projections) > 1 and len(curve):
                ax.plot(curve.index, curve["mean"], color=colour, lw=0.7, alpha=0.8, label=name)
        curve = _curve(rows[rows["projection"] == "all"])
        ax.fill_between(curve.index, curve["low"], curve["high"], color=_COLOURS[0], alpha=0.18, lw=0)
        ax.plot(curve.index, curve["mean"], color=_COLOURS[0], lw=1.8, label="all projections")
        ax.plot(curve.index, curve["chance"], color="#888888", ls=":", label="chance")
        most = _layers(ceilings, measure, centred)
        most = _curve(most[most["projection"] == "all"])
        if len(most):
            ax.plot(most.index, most["mean"], color="black", ls="--", lw=1.1, label="two seeds of a task")
        ax.set_title(_title(measure, centred), fontsize=10, loc="left")
        ax.grid(axis="y", **_GRID)
    for ax in axes[2:]:
        ax.set_xlabel("layer")
    _legend(figure, axes)
    return figure


def _layers(table: pd.DataFrame, measure: str, centred: bool) -> pd.DataFrame:
    """The rows of a measure in single layers, with the layer as a number."""
    shown = table[(table["measure"] == measure) & (table["centred"] == centred) & (table["layer"].astype(str) != "all")]
    shown = _one_kind(shown) if "seeds" in shown else shown
    return shown.assign(**{name: shown[name].astype(kind) for name, kind in _NUMBERS.items()})


def _curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean, quartiles and chance by layer."""
    by = rows.groupby("layer")
    values = by["value"]
    columns = {"mean": values.mean(), "low": values.quantile(0.25), "high": values.quantile(0.75)}
    return pd.DataFrame(columns | {"chance": by["chance"].mean()})


def tree(similarity: pd.DataFrame, *, short: Mapping[str, str] | None = None) -> Figure:
    """Dendrogram and plane of the tasks, with and without the common mean.

    Args:
        similarity: as for :func:`square`.
        short: task -> label.
    """
    figure = Figure(figsize=(9.5, 7.6), layout="constrained")
    for row, centred in zip(figure.subplots(2, 2), (False, True), strict=True):
        distances = _distances(square(similarity, "cosine", centred=centred))
        labels = [(short or {}).get(task, task) for task in distances.index]
        steps = linkage(squareform(distances.to_numpy(), checks=False), method="average")
        dendrogram(steps, labels=labels, ax=row[0], color_threshold=0, above_threshold_color="#444444")
        row[0].tick_params(axis="x", labelrotation=90, labelsize=8)
        row[0].set_ylabel("1 - cosine")
        low, high = steps[:, 2].min(), steps[:, 2].max()
        row[0].set_ylim(low - 0.3 * (high - low) - 1e-6, high + 0.1 * (high - low) + 1e-6)  # not from 0: they are far
        x, y = scaled(distances.to_numpy()).T
        row[1].scatter(x, y, color=_COLOURS[0], s=18)
        for label, a, b in zip(labels, x, y, strict=True):
            row[1].annotate(label, (a, b), xytext=(4, 3), textcoords="offset points", fontsize=8)
        row[1].set_aspect("equal", adjustable="datalim")
        row[1].grid(**_GRID)
        for ax in row:
            ax.set_title(_title("cosine", centred), fontsize=10, loc="left")
    return figure


def _distances(cosines: pd.DataFrame) -> pd.DataFrame:
    """1 - cosine, 0 on the diagonal; pairs without a cosine are as far as unrelated ones."""
    values = 1 - cosines.to_numpy(dtype=float)
    values = np.where(np.isnan(values), 1.0, values)
    np.fill_diagonal(values, 0.0)
    return pd.DataFrame((values + values.T) / 2, index=cosines.index, columns=cosines.columns)


def scaled(distances: np.ndarray) -> np.ndarray:
    """Two coordinates whose distances are nearest to the given ones (classical scaling, Torgerson 1952)."""
    n = len(distances)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ np.square(distances) @ centre)
    first = np.argsort(values)[::-1][:2]
    placed = vectors[:, first] * np.sqrt(np.maximum(values[first], 0))
    placed *= np.sign(placed[np.abs(placed).argmax(axis=0), range(placed.shape[1])] + 1e-300)
    return np.pad(placed, ((0, 0), (0, 2 - placed.shape[1])))


def angle_spectra(angles: pd.DataFrame) -> Figure:
    """Principal angles by their number, a panel for each projection and side.

    Args:
        angles: table with columns layer, projection, side, source, target, index, degrees, chance, seeds.
    """
    projections, sides = list(dict.fromkeys(angles["projection"]))[:6], ["output", "input"]
    figure = Figure(figsize=(1.0 + 2.4 * len(projections), 5.4), layout="constrained")
    axes = figure.subplots(2, len(projections), squeeze=False, sharex=True, sharey=True)
    for (row, side), (column, name) in ((r, c) for r in enumerate(sides) for c in enumerate(projections)):
        ax = axes[row, column]
        panel = _one_kind(angles[(angles["projection"] == name) & (angles["side"] == side)])
        own = panel["source"] == panel["target"]
        for _, pair in panel[~own].groupby(["source", "target"]):
            curve = pair.groupby("index")["degrees"].mean()
            ax.plot(curve.index + 1, curve, color=_COLOURS[0], lw=0.5, alpha=0.35)
        for rows, key, style in ((panel[~own], "degrees", "-"), (panel, "chance", ":"), (panel[own], "degrees", "--")):
            curve = rows.groupby("index")[key].mean()
            label = {"-": "pairs of tasks", ":": "random subspaces", "--": "two seeds of a task"}[style]
            if len(curve):
                colour = {"-": _COLOURS[0], ":": "#888888", "--": "black"}[style]
                ax.plot(curve.index + 1, curve, color=colour, ls=style, lw=1.6, label=label)
        ax.set_title(f"{name}, {side} side", fontsize=9, loc="left")
        ax.grid(axis="y", **_GRID)
        ax.set_ylim(0, 92)
    for ax in axes[-1]:
        ax.set_xlabel("angle")
    for ax in axes[:, 0]:
        ax.set_ylabel("degrees")
    _legend(figure, axes.ravel())
    return figure


def norm_profiles(norms: pd.DataFrame, *, short: Mapping[str, str] | None = None) -> Figure:
    """Norm and effective rank by layer, a line for each task.

    Args:
        norms: table with columns layer, projection, task, norm, effective_rank.
        short: task -> label.
    """
    rows = norms[(norms["projection"] == "all") & (norms["layer"].astype(str) != "all")]
    rows = rows.assign(layer=rows["layer"].astype(int))
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, column, label in zip(axes, ("norm", "effective_rank"), ("|dW|", "effective rank"), strict=True):
        for index, (task, own) in enumerate(rows.groupby("task", sort=False)):
            curve = own.groupby("layer")[column].mean()
            style = ("-", "--")[index // len(_COLOURS) % 2]
            name = (short or {}).get(str(task), str(task))
            ax.plot(curve.index, curve, color=_COLOURS[index % len(_COLOURS)], ls=style, lw=1.1, label=name)
        ax.set_xlabel("layer")
        ax.set_title(label, fontsize=10, loc="left")
        ax.set_ylim(0, 1.08 * ax.get_ylim()[1])
        ax.grid(axis="y", **_GRID)
    _legend(figure, axes)
    return figure


def _one_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """Pairs of different seeds if there are any, else those of one."""
    different = rows[rows["seeds"] == "different"]
    return different if len(different) else rows


def _title(measure: str, centred: bool) -> str:
    return LABELS.get(measure, measure) + (", without the common mean" if centred else "")


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    shown: dict[str, Any] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    if shown:
        columns = max(1, int(figure.get_figwidth() // 1.7))
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns, frameon=False)
