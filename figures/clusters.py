"""Figures of the cluster experiment, from the tables that `python -m experiments.task_clusters` saves:

clusters   = pandas.read_csv("clusters.csv")     silhouette and purity per kind of state, layer and question
cosines    = pandas.read_csv("cosines.csv")      cosines within and between tasks and modalities
probes     = pandas.read_csv("probes.csv")       linear probes
projection = pandas.read_csv("projection.csv")   coordinates of every context at the chosen layer

In projections colour means the task and the marker the modality; elsewhere colour means the kind of state.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

KINDS = {"context_embedding": "context embedding", "task_vector": "task vector"}
COLOURS = {"context_embedding": "#D55E00", "task_vector": "#0072B2"}
TASKS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#7F3C8D", "#444444")
MARKERS = {"text": "o", "image": "s", "instruction": "*"}
METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
_GRID: dict[str, Any] = {"color": "#E2E2E2", "linewidth": 0.6}


def all_figures(tables: Mapping[str, pd.DataFrame], *, layer: int) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, in the order of the report.

    Args:
        tables: clusters, cosines, probes, and projection, which may be empty.
        layer: the chosen layer.
    """
    drawn: dict[str, tuple[Figure, str]] = {}
    if len(tables["projection"]):
        drawn["projections"] = (
            projections(tables["projection"]),
            f"Every scored context at layer {layer}, which other contexts chose. t-SNE and UMAP keep neighbourhoods "
            "only; the numbers are below. Stars are instructions.",
        )
    return drawn | {
        "clusters": (
            cluster_curves(tables["clusters"], layer=layer),
            "Silhouette and nearest-neighbour purity per layer, with 95 % intervals over blocks of items. Dashed: 95th "
            "percentile over permuted labels. The vertical line is the chosen layer.",
        ),
        "probes": (
            probe_curves(tables["probes"], layer=layer),
            "Accuracy of linear probes on items that they have not seen, with 95 % intervals over blocks. Dotted: "
            "control task (permuted labels on contexts that the probe has seen). Grey: chance.",
        ),
        "cosines": (
            cosine_boxes(tables["cosines"], layer=layer),
            f"Cosines of pairs of contexts without a common item at layer {layer}: median, quartiles, 5 and 95 %.",
        ),
    }


def projections(projection: pd.DataFrame) -> Figure:
    """The states in the plane, a row per kind of state, a column per method.

    Args:
        projection: table with columns kind, layer, method, task, modality, x, y.
    """
    kinds, methods = _ordered(projection["kind"], KINDS), _ordered(projection["method"], METHODS)
    tasks, modalities = list(dict.fromkeys(projection["task"])), _ordered(projection["modality"], MARKERS)
    palette = TASKS if len(tasks) <= len(TASKS) else colormaps["turbo"](np.linspace(0.05, 0.95, len(tasks)))
    colours = dict(zip(tasks, palette, strict=False))
    figure, axes = _grid(len(kinds), len(methods), size=(3.5, 3.1))
    for row, kind in enumerate(kinds):
        for column, method in enumerate(methods):
            ax = axes[row, column]
            panel = projection[(projection["kind"] == kind) & (projection["method"] == method)]
            for (task, modality), points in panel.groupby(["task", "modality"], sort=False):
                star = modality == "instruction"
                ax.scatter(
                    points["x"], points["y"], marker=MARKERS[modality], s=110 if star else 20, color=colours[task],
                    edgecolor="black" if star else "white", linewidth=0.7 if star else 0.3, zorder=3 if star else 2,
                    alpha=1.0 if star else 0.85,
                )  # fmt: skip
            ax.set_title(f"{KINDS[kind]}, {METHODS[method]}", loc="left")
            ax.set_xticks([])
            ax.set_yticks([])
    handles = [Line2D([], [], color=colours[task], marker="o", ls="", label=task) for task in tasks]
    handles += [
        Line2D([], [], color="#444444", markerfacecolor="none", marker=MARKERS[name], ls="", label=name)
        for name in modalities
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
    points = len(projection[(projection["kind"] == kinds[0]) & (projection["method"] == methods[0])])
    figure.suptitle(f"States at layer {int(projection['layer'].iloc[0])}, n = {points}")
    return figure


def cluster_curves(clusters: pd.DataFrame, *, layer: int | None = None) -> Figure:
    """Silhouette (top) and purity (bottom) against the layer, one column per question, one line per kind of state.

    Args:
        clusters: table with columns kind, layer, label, among, metric, value, low, high, chance_high.
        layer: the chosen layer, which is marked.
    """
    questions = list(dict.fromkeys(zip(clusters["label"], clusters["among"], strict=True)))
    figure, axes = _grid(2, len(questions), size=(2.7, 2.5), sharey="row")
    for row, metric in enumerate(("silhouette", "purity")):
        for column, (label, among) in enumerate(questions):
            ax = axes[row, column]
            chosen = (clusters["label"] == label) & (clusters["among"] == among) & (clusters["metric"] == metric)
            for kind in _ordered(clusters["kind"], KINDS):
                line = clusters[chosen & (clusters["kind"] == kind)].sort_values("layer")
                _band(ax, line, "value", kind)
                ax.plot(line["layer"], line["chance_high"], color=COLOURS[kind], ls="--", lw=0.9)
            where = "among all" if among == "all" else f"among {among}"
            ax.set_title(f"by {label},\n{where}", loc="left", fontsize=9)
            _dress(ax, layer, bottom=row == 1)
            if column == 0:
                ax.set_ylabel(metric)
        if metric == "purity":
            axes[row, 0].set_ylim(0, 1.02)
    _kind_legend(figure, _ordered(clusters["kind"], KINDS), [("95 % of permuted labels", "--")])
    figure.suptitle(f"Do states cluster by task or by modality? n = {int(clusters['n'].max())} contexts")
    return figure


def probe_curves(probes: pd.DataFrame, *, layer: int | None = None) -> Figure:
    """Accuracy of linear probes against the layer: a row per scope, a column per pair of training and test modality.

    Args:
        probes: table with columns kind, layer, scope, train, test, n, accuracy, low, high, chance, control.
        layer: the chosen layer, which is marked.
    """
    scopes = list(dict.fromkeys(probes["scope"]))
    pairs = list(dict.fromkeys(zip(probes["train"], probes["test"], strict=True)))
    figure, axes = _grid(len(scopes), len(pairs), size=(2.9, 2.5), sharey="row")
    for row, scope in enumerate(scopes):
        for column, (train, test) in enumerate(pairs):
            ax = axes[row, column]
            panel = probes[(probes["scope"] == scope) & (probes["train"] == train) & (probes["test"] == test)]
            for kind in _ordered(panel["kind"], KINDS):
                line = panel[panel["kind"] == kind].sort_values("layer")
                _band(ax, line, "accuracy", kind)
                ax.plot(line["layer"], line["control"], color=COLOURS[kind], ls=":", lw=1.2)
            ax.axhline(panel["chance"].iloc[0], color="#888888", lw=0.9)
            ax.set_ylim(0, 1.02)
            ax.set_title(f"{scope},\n{train} → {test}, n = {int(panel['n'].max())}", loc="left", fontsize=9)
            _dress(ax, layer, bottom=row == len(scopes) - 1)
            if column == 0:
                ax.set_ylabel("accuracy")
    _kind_legend(figure, _ordered(probes["kind"], KINDS), [("control task", ":")])
    figure.suptitle("Linear probes of the task: trained on one modality → tested on another, other items")
    return figure


def cosine_boxes(cosines: pd.DataFrame, *, layer: int) -> Figure:
    """Cosines within and between tasks and modalities at one layer, a panel per centring and kind of state.

    Args:
        cosines: table with columns kind, layer, centring, tasks, modalities, pairs, q05, q25, q50, q75, q95.
        layer: which layer.
    """
    shown = cosines[cosines["layer"] == layer]
    kinds, centrings = _ordered(shown["kind"], KINDS), list(dict.fromkeys(shown["centring"]))
    figure, axes = _grid(len(centrings), len(kinds), size=(4.6, 2.7), sharex=False)
    for row, centring in enumerate(centrings):
        for column, kind in enumerate(kinds):
            ax = axes[row, column]
            panel = shown[(shown["kind"] == kind) & (shown["centring"] == centring)].iloc[::-1]
            boxes = [
                {"whislo": r.q05, "q1": r.q25, "med": r.q50, "q3": r.q75, "whishi": r.q95} for r in panel.itertuples()
            ]
            ax.bxp(
                boxes, positions=range(len(boxes)), orientation="horizontal", showfliers=False, widths=0.6,
                patch_artist=True, boxprops={"facecolor": COLOURS[kind], "alpha": 0.35},
                medianprops={"color": COLOURS[kind], "linewidth": 1.6},
            )  # fmt: skip
            labels = [f"{r.tasks},\n{r.modalities}" for r in panel.itertuples()] if column == 0 else [""] * len(panel)
            ax.set_yticks(range(len(boxes)), labels, fontsize=8)
            ax.set_title(f"{KINDS[kind]}, {centring}", loc="left")
            ax.grid(axis="x", **_GRID)
            if row == len(centrings) - 1:
                ax.set_xlabel("cosine")
    figure.suptitle(f"Cosines within and between tasks, layer {layer}")
    return figure


def _band(ax: Axes, line: pd.DataFrame, column: str, kind: str) -> None:
    ax.fill_between(line["layer"], line["low"], line["high"], color=COLOURS[kind], alpha=0.15, lw=0)
    ax.plot(line["layer"], line[column], color=COLOURS[kind])


def _dress(ax: Axes, layer: int | None, *, bottom: bool) -> None:
    ax.grid(axis="y", **_GRID)
    if layer is not None:
        ax.axvline(layer, color="#444444", lw=0.8, ls=(0, (1, 2)))
    if bottom:
        ax.set_xlabel("layer")


def _kind_legend(figure: Figure, kinds: Sequence[str], extra: Sequence[tuple[str, str]]) -> None:
    handles = [Line2D([], [], color=COLOURS[kind], label=KINDS[kind]) for kind in kinds]
    handles += [Line2D([], [], color="#444444", ls=style, label=label) for label, style in extra]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _grid(rows: int, columns: int, *, size: tuple[float, float], **options: Any) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(size[0] * columns + 0.6, size[1] * rows + 0.9))
    figure.set_layout_engine("constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _ordered(values: pd.Series, order: Mapping[str, Any]) -> list[str]:
    """The values that occur, in the order in which they are always shown."""
    found = set(values)
    return [name for name in order if name in found]
