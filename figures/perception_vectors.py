"""Figures of perception tasks' vectors, from the tables that `python -m experiments.perception_vectors` saves:

reliability     = pandas.read_csv("reliability.csv")       cosines of the two halves of every vector
similarity_long = pandas.read_csv("similarity_long.csv")   how alike the vectors are, by layer
patch_transfer  = pandas.read_csv("patch_transfer.csv")    effects of patched vectors, and controls
layers          = pandas.read_csv("layers.csv")            their means by layer
moves           = pandas.read_csv("moves.csv")             how fine-tuning moves the vectors
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

CONTROLS = ("random", "mean")
VECTORS = {"other": "another task's", "own": "its own", "mean": "mean over tasks", "random": "random"}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GRID: dict[str, Any] = {"color": "#E2E2E2", "linewidth": 0.6}


def all_figures(
    tables: Mapping[str, pd.DataFrame],
    *,
    main: str,
    layer: int,
    patch_layer: int | None = None,
    short: Mapping[str, str] | None = None,
) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, in the order of the report.

    Args:
        tables: as above; those of patching and of moves may be missing.
        main: the setting that patches and moves are shown of.
        layer: of the heatmaps of similarity and moves.
        patch_layer: of the heatmaps of patching.
        short: task -> what to write for it.
    """
    drawn: dict[str, tuple[Figure, str]] = {
        "similarity": (
            similarity(tables["similarity_long"], tables["reliability"], layer=layer, short=short),
            f"Cosines of the tasks' vectors after block {layer}, without the mean over tasks; on the diagonals, the "
            "cosine of the two halves of a vector.",
        ),
        "profile": (
            profile(tables["similarity_long"], tables["reliability"]),
            "Cosines over layers: mean over pairs of tasks with the middle half of the pairs. Dashed: the two halves "
            "of a vector, mean over tasks.",
        ),
    }
    if "patch_transfer" in tables and patch_layer is not None:
        drawn["patch_transfer"] = (
            patch_transfer(tables["patch_transfer"], main=main, layer=patch_layer, short=short),
            f"What the vector of the row's task does to the answers of the column's after block {patch_layer}, which "
            "the selection split chose; on the diagonals, the task's own vector; below, a random vector and the mean.",
        )
        drawn["patch_layers"] = (
            patch_layers(tables["layers"], main=main, layer=patch_layer),
            "Effects of patches by layer, means over tasks, on the test split. The line is at the chosen layer.",
        )
    if "moves" in tables:
        drawn["moves"] = (
            moves(tables["moves"], main=main, layer=layer, short=short),
            f"How fine-tuning on the row's task moves the vector of the column's after block {layer}, mean over seeds: "
            "length of the change over that of the vector, its cosine with what sets the trained task apart, and how "
            "much of the way to the trained task's vector it goes.",
        )
    return drawn


def similarity(
    similarity_long: pd.DataFrame,
    reliability: pd.DataFrame,
    *,
    layer: int,
    short: Mapping[str, str] | None = None,
) -> Figure:
    """A heatmap of centred cosines for each setting, with one scale.

    Args:
        similarity_long: measure, layer, source, target, value.
        reliability: setting, layer, task, centred; its values stand on the diagonals.
        layer: which.
        short: task -> label.
    """
    tasks = list(dict.fromkeys(reliability["task"]))
    settings = list(dict.fromkeys(reliability["setting"]))
    figure, axes = _panels(len(settings), len(tasks))
    for ax, setting in zip(axes, settings, strict=True):
        shown = similarity_long[
            (similarity_long["measure"] == f"task_vector_centred_{setting}") & (similarity_long["layer"] == layer)
        ]
        matrix = shown.pivot_table("value", "source", "target").reindex(index=tasks, columns=tasks)
        own = reliability[(reliability["setting"] == setting) & (reliability["layer"] == layer)]
        halves = own.set_index("task")["centred"].reindex(tasks).to_numpy(dtype=float)
        _heatmap(ax, matrix, short or {}, limit=1.0, diagonal=halves)
        ax.set_title(str(setting), fontsize=10, loc="left")
    return figure


def profile(similarity_long: pd.DataFrame, reliability: pd.DataFrame) -> Figure:
    """Raw and centred cosines against the layer, a line for each setting.

    Args:
        similarity_long: as for :func:`similarity`.
        reliability: setting, layer, task, raw, centred.
    """
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    panels = (
        ("task_vector_cosine", "raw", "cosine"),
        ("task_vector_centred", "centred", "without the mean over tasks"),
    )
    for ax, (measure, halves, title) in zip(axes, panels, strict=True):
        for colour, setting in zip(_COLOURS, dict.fromkeys(reliability["setting"]), strict=False):
            rows = similarity_long[similarity_long["measure"] == f"{measure}_{setting}"].groupby("layer")["value"]
            low, middle, high = rows.quantile(0.25), rows.mean(), rows.quantile(0.75)
            ax.fill_between(middle.index, low, high, color=colour, alpha=0.15, lw=0)
            ax.plot(middle.index, middle, color=colour, lw=1.6, label=str(setting))
            own = reliability[reliability["setting"] == setting].groupby("layer")[halves].mean()
            ax.plot(own.index, own, color=colour, lw=1.1, ls="--")
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xlabel("after block")
        ax.grid(axis="y", **_GRID)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def patch_transfer(table: pd.DataFrame, *, main: str, layer: int, short: Mapping[str, str] | None = None) -> Figure:
    """Changes of log p(key), of accuracy, and of answers, with the controls below.

    Args:
        table: setting, layer, source, target, change, log_p_change, changed_rate, control.
        main: which setting.
        layer: which layer.
        short: task -> label.
    """
    shown = table[(table["setting"] == main) & (table["layer"] == layer)]
    tasks = list(dict.fromkeys(shown["target"]))
    rows = [*tasks, *(control for control in CONTROLS if control not in tasks)]
    panels = (("log_p_change", "change of log p(key), nats"), ("change", "change of accuracy"))
    figure, axes = _panels(3, len(rows))
    for ax, (column, title) in zip(axes, (*panels, ("changed_rate", "share of changed answers")), strict=True):
        matrix = shown.pivot_table(column, "source", "target").reindex(index=rows, columns=tasks)
        rate = column == "changed_rate"
        _heatmap(ax, matrix, short or {}, limit=None, low=0.0 if rate else None)
        ax.axhline(len(tasks) - 0.5, color="white", lw=2)
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_ylabel("vector of")
        ax.set_xlabel("items of")
    return figure


def patch_layers(layers: pd.DataFrame, *, main: str, layer: int) -> Figure:
    """Effects by layer, a line for each kind of vector.

    Args:
        layers: setting, layer, vector, change, log_p_change, changed_rate.
        main: which setting.
        layer: the chosen one, marked.
    """
    shown = layers[layers["setting"] == main]
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    titles = {
        "log_p_change": "change of log p(key), nats",
        "change": "change of accuracy",
        "changed_rate": "share of changed answers",
    }
    axes = figure.subplots(1, 3)
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        for colour, (vector, label) in zip(_COLOURS, VECTORS.items(), strict=False):
            curve = shown[shown["vector"] == vector].sort_values("layer")
            ax.plot(curve["layer"], curve[column], color=colour, marker="o", ms=3, lw=1.4, label=label)
        ax.axvline(layer, color="#888888", ls=":", lw=1)
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xlabel("patched after block")
        ax.grid(axis="y", **_GRID)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def moves(table: pd.DataFrame, *, main: str, layer: int, short: Mapping[str, str] | None = None) -> Figure:
    """How far, which way, and how much towards the trained task each vector moves.

    Args:
        table: setting, layer, source, target, change, cosine, towards, towards_tuned.
        main: which setting.
        layer: which layer.
        short: task -> label.
    """
    shown = table[(table["setting"] == main) & (table["layer"] == layer)]
    targets, sources = list(dict.fromkeys(shown["target"])), list(dict.fromkeys(shown["source"]))
    order = [task for task in targets if task in sources] + [task for task in sources if task not in targets]
    panels = {
        "change": "change, relative",
        "cosine": "cosine with the trained task",
        "towards": "share of the way",
    }
    figure, axes = _panels(len(panels), max(len(targets), len(order)))
    for ax, (column, title) in zip(axes, panels.items(), strict=True):
        matrix = shown.pivot_table(column, "source", "target", dropna=False).reindex(index=order, columns=targets)
        _heatmap(ax, matrix, short or {}, limit=None, low=0.0 if column == "change" else None)
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_ylabel("fine-tuned on")
        ax.set_xlabel("vector of")
    return figure


def _panels(n: int, tasks: int) -> tuple[Figure, Sequence[Axes]]:
    """Square panels, three in a row at most."""
    columns = min(3, n) if n != 4 else 2
    rows = -(-n // columns)
    side = 1.9 + 0.2 * tasks
    figure = Figure(figsize=((side + 0.7) * columns, (side + 0.2) * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for ax in axes[n:]:
        ax.remove()
    return figure, axes[:n]


def _heatmap(
    ax: Axes,
    matrix: pd.DataFrame,
    short: Mapping[str, str],
    *,
    limit: float | None,
    low: float | None = None,
    diagonal: np.ndarray | None = None,
) -> None:
    """Colours about zero, or from `low` upwards; numbers on the diagonal, where they are given."""
    values = matrix.to_numpy(dtype=float)
    most = limit or float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    bounds: dict[str, Any] = (
        {"vmin": -most, "vmax": most, "cmap": "RdBu_r"} if low is None else {"vmin": low, "vmax": most}
    )
    image = ax.imshow(values, **bounds)
    ax.set_facecolor("#EEEEEE")
    for place, value in enumerate(diagonal if diagonal is not None else ()):
        if np.isfinite(value):
            ax.text(place, place, f"{value:.2f}".replace("0.", "."), ha="center", va="center", fontsize=6)
    ax.set_xticks(range(matrix.shape[1]), [short.get(t, t) for t in matrix.columns], rotation=90, fontsize=7)
    ax.set_yticks(range(matrix.shape[0]), [short.get(t, t) for t in matrix.index], fontsize=7)
    ax.figure.colorbar(image, ax=ax, shrink=0.75).ax.tick_params(labelsize=7)
