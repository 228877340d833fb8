"""Figures of the cost of prompting and patching: table = pandas.read_csv("cost.csv"), one row per case."""

from itertools import cycle

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
_COLOURS = {"prompt": "#D55E00", "patch": "#0072B2", "extract": "#888888"}
_LABELS = {
    "prompt": "prompt with the examples",
    "patch": "patch, bare query",
    "extract": "reading the vector (once)",
}
_STYLES = ("-", "--", ":", "-.")


def seconds(table: pd.DataFrame) -> Figure:
    """Seconds a query against the number of examples, from the fastest to the slowest repeat; a panel per modality.

    Args:
        table: with columns method, modality, examples, queries, seconds, low, high.
    """
    figure, axes, modalities = _panels(table)
    counts = sorted(set(table["queries"]))
    for ax, modality in zip(axes, modalities, strict=True):
        for method, colour in _COLOURS.items():
            for queries, style in zip(counts, cycle(_STYLES), strict=False):
                line = _line(table, modality, method)
                line = line[line["queries"] == queries]
                ax.vlines(line["examples"], line["low"], line["high"], color=colour, linewidth=1)
                ax.plot(line["examples"], line["seconds"], style, color=colour, marker="o", markersize=4)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("seconds a query")
    handles = [Line2D([], [], color=_COLOURS[m], marker="o", label=_LABELS[m]) for m in _COLOURS]
    handles += [
        Line2D([], [], color="#444444", linestyle=style, label=f"queries at once: {queries}")
        for queries, style in zip(counts, cycle(_STYLES), strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Time of prompting and of patching")
    return figure


def memory(table: pd.DataFrame) -> Figure:
    """Peak memory of one query above the loaded model, in MiB, against the number of examples; a panel per modality.

    Args:
        table: with columns method, modality, examples, queries, above_mb.
    """
    one = table[table["above_mb"].notna()]
    figure, axes, modalities = _panels(one)
    for ax, modality in zip(axes, modalities, strict=True):
        for method, colour in _COLOURS.items():
            line = _line(one, modality, method)
            ax.plot(line["examples"], line["above_mb"], color=colour, marker="o", markersize=4)
    axes[0].set_ylim(0, 1.05 * one["above_mb"].max())  # of all panels, which share the axis
    axes[0].set_ylabel("peak above the loaded model, MiB")
    handles = [Line2D([], [], color=_COLOURS[m], marker="o", label=_LABELS[m]) for m in _COLOURS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Memory of prompting and of patching")
    return figure


def _panels(table: pd.DataFrame) -> tuple[Figure, list, list[str]]:
    modalities = [name for name in ("text", "image") if name in set(table["modality"])] or ["none"]
    figure = Figure(figsize=(4.2 * len(modalities) + 0.6, 3.9))
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(1, len(modalities), squeeze=False, sharey=True)[0])
    for ax, modality in zip(axes, modalities, strict=True):
        ax.set_title(f"{modality} examples", loc="left")
        ax.set_xlabel("examples")
        ax.grid(axis="y", **_GRID)
    return figure, axes, modalities


def _line(table: pd.DataFrame, modality: str, method: str) -> pd.DataFrame:
    """A method's rows, the case without examples included."""
    rows = table[table["modality"].isin([modality, "none"]) & table["method"].eq(method)]
    return rows.sort_values("examples")
