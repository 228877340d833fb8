"""Figures of the similarity experiment, from the tables that `python -m experiments.similarity` saves:

cosines = pandas.read_csv("cosines.csv")   per layer, pair of sources and pair of tasks
layers  = pandas.read_csv("layers.csv")    their means, with baselines and intervals
cka     = pandas.read_csv("cka.csv")       centred kernel alignment with its nulls
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_GRID: dict[str, Any] = {"color": "#E2E2E2", "linewidth": 0.6}
_MATCHED, _MISMATCHED, _FAMILY, _RANDOM = "#0072B2", "#D55E00", "#E69F00", "#888888"
KINDS = {"context_embedding": "context embeddings", "task_vector": "task vectors"}


def all_figures(tables: Mapping[str, pd.DataFrame], *, layer: int) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, in the order of the report.

    Args:
        tables: cosines, layers, cka.
        layer: the chosen layer.
    """
    drawn = {
        f"matrix_{centring}": (
            cosine_matrices(tables["cosines"], layer=layer, centring=centring),
            f"Cosines of mean task vectors at layer {layer}, {centring}. Within a source, the means over one half of "
            "the blocks stand against those over the other half.",
        )
        for centring in ("raw", "centred")
    }
    for centring in ("raw", "centred"):
        drawn[f"layers_{centring}"] = (
            cosine_curves(tables["layers"], centring=centring, layer=layer),
            f"Mean cosine, {centring}, per layer and pair of sources, with 95 % intervals over blocks of items. The "
            "vertical line is the chosen layer.",
        )
    if len(tables["cka"]):
        drawn["cka"] = (
            cka_curves(tables["cka"], layer=layer),
            "Linear CKA of the states of single contexts, per layer. Intervals: jackknife over blocks. Nulls: 95th "
            "percentile after permuting the contexts of one source.",
        )
    return drawn


def cosine_matrices(cosines: pd.DataFrame, *, layer: int, centring: str) -> Figure:
    """All sources and tasks against all, in one matrix with a block for every pair of sources.

    Args:
        cosines: table with columns layer, source, target, source_task, target_task, raw, centred.
        layer: which layer.
        centring: raw or centred.
    """
    shown = cosines[cosines["layer"] == layer]
    sources, tasks = list(dict.fromkeys(shown["source"])), list(dict.fromkeys(shown["source_task"]))
    k = len(tasks)
    matrix = np.full((k * len(sources), k * len(sources)), np.nan)
    for (a, b), block in shown.groupby(["source", "target"], sort=False):
        values = block.pivot_table(centring, "source_task", "target_task").loc[tasks, tasks].to_numpy()
        i, j = k * sources.index(a), k * sources.index(b)
        matrix[i : i + k, j : j + k] = values
        if a != b:
            matrix[j : j + k, i : i + k] = values.T
    side = max(5.0, 0.24 * len(matrix) + 2.4)
    figure = Figure(figsize=(side + 0.8, side))
    figure.set_layout_engine("constrained")
    ax = figure.subplots()
    low = -1.0 if centring == "centred" else min(0.0, float(np.nanmin(matrix)))
    image = ax.imshow(matrix, cmap="RdBu_r" if centring == "centred" else "viridis", vmin=low, vmax=1.0)
    labels = [f"{source}, {task}" for source in sources for task in tasks]
    ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
    ax.set_yticks(range(len(labels)), labels, fontsize=6)
    for at in range(k, len(matrix), k):
        ax.axhline(at - 0.5, color="white", lw=1.5)
        ax.axvline(at - 0.5, color="white", lw=1.5)
    figure.colorbar(image, ax=ax, label=f"cosine, {centring}", shrink=0.7)
    figure.suptitle(f"Task vectors at layer {layer}, {centring}")
    return figure


def cosine_curves(layers: pd.DataFrame, *, centring: str, layer: int | None = None) -> Figure:
    """Matched and mismatched cosines with random directions against the layer, one panel per pair of sources.

    Args:
        layers: table with columns layer, source, target, centring, matched, matched_low, matched_high, mismatched,
            mismatched_low, mismatched_high, same_family, random_low, random_high.
        centring: raw or centred.
        layer: the chosen layer, which is marked.
    """
    shown = layers[layers["centring"] == centring]
    pairs = list(dict.fromkeys(zip(shown["source"], shown["target"], strict=True)))
    figure, axes = _grid(len(pairs), columns=4, size=(3.3, 2.3))
    for ax, (a, b) in zip(axes, pairs, strict=False):
        panel = shown[(shown["source"] == a) & (shown["target"] == b)].sort_values("layer")
        at = panel["layer"]
        ax.fill_between(at, panel["random_low"], panel["random_high"], color=_RANDOM, alpha=0.25, lw=0, label="random")
        for name, colour, label in (
            ("matched", _MATCHED, "same task"),
            ("mismatched", _MISMATCHED, "different tasks"),
        ):
            low, high = (panel[f"{name}_{end}"].astype(float) for end in ("low", "high"))
            ax.fill_between(at, low.clip(-1), high.clip(upper=1), color=colour, alpha=0.15, lw=0)
            ax.plot(at, panel[name], color=colour, label=label)
        if panel["same_family"].notna().any():
            ax.plot(at, panel["same_family"], color=_FAMILY, ls="--", label="different tasks, same items")
        name = f"{a}, half against half" if a == b else f"{a},\n{b}"
        ax.set_title(name, loc="left", fontsize=9)
        _dress(ax, layer)
        ax.set_ylabel("cosine")
    _finish(figure, axes, len(pairs))
    figure.suptitle(f"Cosine of mean task vectors, {centring}")
    return figure


def cka_curves(cka: pd.DataFrame, *, layer: int | None = None) -> Figure:
    """Debiased and biased CKA with their nulls against the layer, a panel per pair of sources and kind of state.

    Args:
        cka: table with columns kind, layer, source, target, n, cka, low, high, null_high, within_task_null_high,
            biased, biased_null_mean.
        layer: the chosen layer, which is marked.
    """
    panels = list(dict.fromkeys(zip(cka["source"], cka["target"], cka["kind"], strict=True)))
    figure, axes = _grid(len(panels), columns=2, size=(4.2, 2.5))
    for ax, (a, b, kind) in zip(axes, panels, strict=False):
        panel = cka[(cka["source"] == a) & (cka["target"] == b) & (cka["kind"] == kind)].sort_values("layer")
        panel = panel.astype(dict.fromkeys(("cka", "low", "high", "biased"), float))
        at = panel["layer"]
        ax.fill_between(at, panel["low"], panel["high"], color=_MATCHED, alpha=0.15, lw=0)
        ax.plot(at, panel["cka"], color=_MATCHED, label="debiased")
        ax.plot(at, panel["null_high"], color=_MATCHED, ls="--", lw=0.9, label="null: contexts permuted")
        ax.plot(at, panel["within_task_null_high"], color=_FAMILY, ls="--", lw=0.9, label="null: permuted within tasks")
        ax.plot(at, panel["biased"], color=_MISMATCHED, lw=0.9, label="biased")
        ax.plot(at, panel["biased_null_mean"], color=_MISMATCHED, ls=":", lw=0.9, label="biased, contexts permuted")
        ax.set_title(f"{a}, {b}:\n{KINDS[kind]}, n = {int(panel['n'].max())}", loc="left", fontsize=9)
        ax.set_ylim(-0.25, 1.03)
        _dress(ax, layer)
        ax.set_ylabel("CKA")
    _finish(figure, axes, len(panels))
    figure.suptitle("Centred kernel alignment of the states of single contexts")
    return figure


def _dress(ax: Axes, layer: int | None) -> None:
    ax.grid(axis="y", **_GRID)
    ax.set_xlabel("layer")
    if layer is not None:
        ax.axvline(layer, color="#444444", lw=0.8, ls=(0, (1, 2)))


def _grid(panels: int, *, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.9))
    figure.set_layout_engine("constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)


def _finish(figure: Figure, axes: list[Axes], panels: int) -> None:
    for ax in axes[panels:]:
        ax.remove()
    shown: dict[str, Any] = {}
    for ax in axes[:panels]:
        handles, labels = ax.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    columns = max(2, int(figure.get_figwidth() // 2.6))
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=min(len(shown), columns), frameon=False
    )
