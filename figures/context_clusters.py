"""Figures of contextual vectors' clusters, from the tables that `python -m experiments.context_clusters` saves:

projection  = pandas.read_csv("projection.csv")    two principal components of every item in each representation
agreement   = pandas.read_csv("agreement.csv")     clusters against task, form, question and number of pictures
nearest     = pandas.read_csv("nearest.csv")       the items nearest to the centre of each cluster
composition = pandas.read_csv("composition.csv")   the tasks of each cluster
"""

from collections.abc import Mapping, Sequence
from textwrap import fill, shorten
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

REPRESENTATIONS = {
    "context": "context",
    "text": "text embedding",
    "neutral": "context of the picture alone",
    "blank": "context of the question alone",
    "features": "mean feature",
    "frozen": "mean feature, frozen tower",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
COLUMN, WORDS = 2.4, 0.85
"""Inches: the width of an item among those nearest to a centre, and the height of what stands above it."""
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GRID: dict[str, Any] = {"color": "#E2E2E2", "linewidth": 0.6}


def all_figures(
    tables: Mapping[str, pd.DataFrame],
    pictures: Mapping[str, Sequence[np.ndarray]],
    *,
    layer: int,
    short: Mapping[str, str] | None = None,
) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, in the order of the report.

    Args:
        tables: as above.
        pictures: item -> its pictures, of the items in `nearest`.
        layer: whose vectors they are.
        short: task -> what to write for it.
    """
    return {
        "plane": (
            plane(tables["projection"], short=short),
            f"Items in the plane of their first two principal components. First: contextual vectors of layer {layer}; "
            "the others are what they are made of. Colour: task; marker: form.",
        ),
        "agreement": (
            agreement(tables["agreement"]),
            "Adjusted mutual information of k-means clusters with what is known of the items, with 95 % jackknife "
            "intervals. Lines: 95th percentile over shuffled labels.",
        ),
        "nearest": (
            nearest(tables["nearest"], pictures, tables["composition"], short=short),
            "The items nearest to each cluster's centre, a row for each cluster; above them the tasks that it holds.",
        ),
    }


def plane(table: pd.DataFrame, *, short: Mapping[str, str] | None = None) -> Figure:
    """A panel for each representation.

    Args:
        table: representation, task, form, x, y, share_x, share_y.
        short: task -> label.
    """
    kinds = [name for name in REPRESENTATIONS if name in set(table["representation"])]
    tasks, forms = list(dict.fromkeys(table["task"])), list(dict.fromkeys(table["form"]))
    colours = colormaps["tab20"]
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    axes = list(figure.subplots(2, 3).ravel())
    for ax, kind in zip(axes, kinds, strict=False):
        own = table[table["representation"] == kind]
        for (task, form), rows in own.groupby(["task", "form"], sort=False):
            place = tasks.index(task)
            ax.scatter(
                rows["x"], rows["y"], s=9, color=colours(place % 20), marker=MARKERS[forms.index(form) % len(MARKERS)],
                alpha=0.75, lw=0, label=(short or {}).get(str(task), str(task)),
            )  # fmt: skip
        ax.set_title(REPRESENTATIONS[kind], fontsize=10, loc="left")
        ax.set_xlabel(f"{own['share_x'].iloc[0]:.0%} of the variance", fontsize=8)
        ax.set_ylabel(f"{own['share_y'].iloc[0]:.0%} of the variance", fontsize=8)
        ax.tick_params(labelsize=7)
    for ax in axes[len(kinds) :]:
        ax.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    kept = dict(zip(labels, handles, strict=True))
    figure.legend(kept.values(), kept.keys(), loc="outside right center", frameon=False, fontsize=8, markerscale=2)
    return figure


def agreement(table: pd.DataFrame) -> Figure:
    """Bars of adjusted mutual information, a group for each label.

    Args:
        table: representation, label, ami, low, high, shuffled_high.
    """
    kinds = [name for name in REPRESENTATIONS if name in set(table["representation"])]
    labels = list(dict.fromkeys(table["label"]))
    figure = Figure(figsize=(3.6 + 1.7 * len(labels), 3.6), layout="constrained")
    ax = figure.subplots()
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        own = table[table["representation"] == kind].set_index("label").reindex(labels)
        x = np.arange(len(labels)) + (number - (len(kinds) - 1) / 2) * width
        error = np.abs(own[["low", "high"]].to_numpy().T - own["ami"].to_numpy())
        ax.bar(x, own["ami"], width, color=_COLOURS[number % len(_COLOURS)], label=REPRESENTATIONS[kind])
        ax.errorbar(x, own["ami"], yerr=error, fmt="none", ecolor="black", elinewidth=0.8)
        for place, high in zip(x, own["shuffled_high"], strict=True):
            ax.plot([place - width / 2, place + width / 2], [high, high], color="#888888", lw=1.2)
    ax.plot([], [], color="#888888", lw=1.2, label="95 % of shuffled labels")
    ax.set_xticks(range(len(labels)), labels)
    ax.set_ylabel("adjusted mutual information")
    ax.grid(axis="y", **_GRID)
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def nearest(
    table: pd.DataFrame,
    pictures: Mapping[str, Sequence[np.ndarray]],
    composition: pd.DataFrame,
    *,
    short: Mapping[str, str] | None = None,
) -> Figure:
    """A row of items for each cluster.

    Args:
        table: cluster, rank, item, task, question.
        pictures: item -> its pictures.
        composition: cluster, task, n, size.
        short: task -> label.
    """
    clusters, columns = sorted(set(table["cluster"])), int(table["rank"].max()) + 1
    shown = {number: table[table["cluster"] == number].set_index("rank") for number in clusters}
    images = {item: side_by_side(pictures[item]) for item in table["item"]}
    tall = [
        COLUMN * max(images[item].shape[0] / images[item].shape[1] for item in shown[number]["item"]) + WORDS
        for number in clusters
    ]
    figure = Figure(figsize=(COLUMN * columns, sum(tall)), layout="constrained")
    rows = figure.subfigures(len(clusters), 1, squeeze=False, height_ratios=tall)[:, 0]
    for row, number in zip(rows, clusters, strict=True):
        held = _held(composition, number, short or {})
        row.suptitle(held, x=0.01, horizontalalignment="left", fontsize=8, weight="bold")
        for rank, ax in enumerate(row.subplots(1, columns, squeeze=False)[0]):
            ax.axis("off")
            if rank not in shown[number].index:
                continue
            item = shown[number].loc[rank]
            ax.imshow(images[item["item"]])
            asked = shorten(
                f"{(short or {}).get(item['task'], item['task'])}: {item['question']}", 90, placeholder=" ..."
            )
            ax.set_title(fill(asked, 36), fontsize=6)
    return figure


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The pictures of an item in one row, with a white line between them."""
    height = min(picture.shape[0] for picture in pictures)
    parts = [pictures[0][:height]]
    for picture in pictures[1:]:
        parts += [np.full((height, 4, 3), 255, dtype=np.uint8), picture[:height]]
    return np.concatenate(parts, axis=1)


def _held(composition: pd.DataFrame, number: int, short: Mapping[str, str]) -> str:
    """What a cluster holds, in words."""
    own = composition[composition["cluster"] == number]
    counts = own.groupby("task")["n"].sum().sort_values(ascending=False)
    said = ", ".join(f"{short.get(str(task), str(task))} {n / counts.sum():.0%}" for task, n in counts.head(4).items())
    return f"cluster {number} ({counts.sum()} items): {said}"
