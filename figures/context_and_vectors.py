"""Figures of contextual vectors beside task vectors, from what `python -m experiments.context_and_vectors` saves:

direct  = pandas.read_csv("direct.csv")    probes on one representation
cross   = pandas.read_csv("cross.csv")     a probe on one representation reads the other through a linear map
rsa     = pandas.read_csv("rsa.csv")       whether the same tasks are alike in both
compare = pandas.read_csv("compare.csv")   adapters of CoVFT and of another strategy, each against the frozen model
"""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.context_clusters import REPRESENTATIONS

MAPS = {
    "all": "map of all tasks",
    "held_out": "map of other tasks",
    "within": "map of items of a task",
    "shuffled": "map of no pairs",
}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#444444")
_GRID: dict[str, Any] = {"color": "#E2E2E2", "linewidth": 0.6}


def all_figures(tables: Mapping[str, pd.DataFrame]) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, in the order of the report.

    Args:
        tables: as above.
    """
    drawn: dict[str, tuple[Figure, str]] = {}
    if "cross" in tables:
        drawn["cross"] = (
            cross(tables["cross"]),
            "Accuracy of a probe of the decoder's states on mapped representations of the tower's side, by decoder "
            "block, with 95 % intervals over items; below, the other way round. Dotted: chance.",
        )
        drawn["rsa"] = (
            rsa(tables["rsa"]),
            "Spearman's correlation of which tasks are alike, tower's side against decoder block; right: without what "
            "the text embedding explains. Dots: p below 0.05 over permuted tasks, uncorrected.",
        )
    if "compare" in tables:
        drawn["compare"] = (
            compare(tables["compare"]),
            "CoVFT minus the other strategy on the same task at equal dose, each against the frozen model: means over "
            "tasks, with 95 % intervals over trained tasks and targets; on the right the differences themselves.",
        )
    return drawn


def cross(table: pd.DataFrame) -> Figure:
    """Curves over decoder blocks, a column for each kind of map, a row for each direction.

    Args:
        table: source, target, map, accuracy, low, high, chance.
    """
    figure = Figure(figsize=(12.0, 5.6), layout="constrained")
    axes = figure.subplots(2, len(MAPS), sharex=True, sharey=True)
    forward = table[table["target"].str.startswith("delimiter")]
    backward = table[table["source"].str.startswith("delimiter")]
    for row, (shown, side, other) in zip(
        axes, ((forward, "source", "target"), (backward, "target", "source")), strict=True
    ):
        for ax, (kind, title) in zip(row, MAPS.items(), strict=True):
            own = shown[shown["map"] == kind]
            own = own.assign(block=own[other].str.partition("/")[2].astype(int))
            for number, name in enumerate(dict.fromkeys(own[side])):
                curve = own[own[side] == name].sort_values("block")
                colour = _COLOURS[number % len(_COLOURS)]
                ax.plot(curve["block"], curve["accuracy"], color=colour, lw=1.3, marker="o", ms=2.5, label=_side(name))
                ax.fill_between(curve["block"], curve["low"], curve["high"], color=colour, alpha=0.1, lw=0)
            ax.axhline(own["chance"].mean(), color="#888888", ls=":", lw=1.0)
            ax.set_title(title if side == "source" else f"back, {title}", fontsize=9, loc="left")
            ax.grid(axis="y", **_GRID)
    for ax in axes[-1]:
        ax.set_xlabel("decoder block")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.05)
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy")
    axes[0, 0].legend(frameon=False, fontsize=6)
    return figure


def rsa(table: pd.DataFrame) -> Figure:
    """Heatmaps of correlations, raw and partial.

    Args:
        table: source, target, rho, p, partial, partial_p.
    """
    sources, targets = list(dict.fromkeys(table["source"])), list(dict.fromkeys(table["target"]))
    figure = Figure(figsize=(4.0 + 0.6 * len(targets), 1.6 + 0.3 * len(sources)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, value, p, title in (
        (axes[0], "rho", "p", "correlation"),
        (axes[1], "partial", "partial_p", "without the text's share"),
    ):
        matrix, chance = (
            table.pivot_table(column, "source", "target", dropna=False).reindex(index=sources, columns=targets)
            for column in (value, p)
        )
        image = ax.imshow(matrix.to_numpy(dtype=float), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        rows, columns = np.nonzero(chance.to_numpy(dtype=float) < 0.05)
        ax.scatter(columns, rows, s=7, color="black")
        ax.set_xticks(range(len(targets)), [name.partition("/")[2] for name in targets], fontsize=7)
        ax.set_yticks(range(len(sources)), [_side(name) for name in sources], fontsize=7)
        ax.set_xlabel("decoder block")
        ax.set_title(f"{title} (dot: p < .05)", fontsize=9, loc="left")
    bar = figure.colorbar(image, ax=list(axes), shrink=0.8)
    bar.set_label("Spearman's correlation", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def compare(table: pd.DataFrame) -> Figure:
    """Differences with intervals, a line for each measure, and their sizes in its own units on the right.

    Args:
        table: measure, targets, difference, low, high, scale.
    """
    shown = table.dropna(subset=["low", "scale"]).reset_index(drop=True)
    figure = Figure(figsize=(7.0, 1.2 + 0.34 * len(shown)), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(shown))[::-1]
    scale = shown["scale"].to_numpy(dtype=float)
    value = shown["difference"].to_numpy(dtype=float) / scale
    error = np.abs(np.stack([shown["low"], shown["high"]]).astype(float) / scale - value)
    ax.errorbar(value, places, xerr=error, fmt="o", color=_COLOURS[0], ms=4, elinewidth=1.2)
    ax.axvline(0, color="#888888", lw=0.9)
    ax.set_yticks(places, shown["measure"] + ", " + shown["targets"], fontsize=8)
    ax.set_xlabel("CoVFT minus the other strategy, in standard deviations over tasks")
    ax.grid(axis="x", **_GRID)
    sizes = ax.twinx()
    sizes.set_ylim(ax.get_ylim())
    sizes.set_yticks(places, [_size(found) for found in shown["difference"]], fontsize=8)
    sizes.tick_params(length=0)
    left = table[~table.index.isin(table.dropna(subset=["low", "scale"]).index)]
    if len(left):
        named = ", ".join(f"{row.measure} ({row.targets})" for row in left.itertuples())
        ax.set_title(fill(f"without a spread over tasks, and not drawn: {named}", 95), fontsize=7, loc="left")
    return figure


def _side(name: str) -> str:
    """A representation of the tower's side, such as "context/2", in words."""
    kind, _, block = name.partition("/")
    return REPRESENTATIONS.get(kind, kind) + (f", block {block}" if block else "")


def _size(difference: float) -> str:
    """With three decimals, or in powers of ten where these would be zeros."""
    return f"{difference:+.3f}" if abs(difference) >= 0.0005 or difference == 0 else f"{difference:+.0e}"
