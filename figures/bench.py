"""Figures of the benchmark: who needs how long for the same work, and what was aimed at.

results = pandas.read_csv("results.csv")   one row per workload and peer
targets = pandas.read_csv("targets.csv")   one row per target
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
_NAMES = {
    "ours": "crosstask",
    "ours_copied": "crosstask, cache copied",
    "bare": "one bare forward",
    "plain": "plain hooks, no cache",
    "plain_cached": "plain hooks, cache",
    "nnsight": "nnsight",
    "transformer_lens": "TransformerBridge",
    "pyvene": "pyvene",
}
_COLOURS = {"ours": "#0072B2", "ours_copied": "#56B4E9", "bare": "#999999"}
_PEER, _WRONG = "#D55E00", "#F3C6A5"


def seconds(results: pd.DataFrame) -> Figure:
    """Seconds of every peer for each workload, with the range over repeats and the ratio to ours.

    Args:
        results: table with columns workload, title, peer, queries, repeats, seconds, seconds_min, seconds_max, ratio,
            verdict. Peers that did not run are named without a bar; those with wrong numbers are pale and say so.

    Returns:
        The figure, one panel per workload; seconds on a logarithmic axis.
    """
    workloads = list(dict.fromkeys(results["workload"]))
    columns = min(len(workloads), 2)
    rows = -(-len(workloads) // columns)
    figure = Figure(figsize=(5.6 * columns, 2.5 * rows + 0.5))
    figure.set_layout_engine("constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, workload in zip(axes, workloads, strict=False):
        _panel(ax, results[results["workload"] == workload])
    for ax in axes[len(workloads) :]:
        ax.remove()
    figure.suptitle("Time for the same n queries (bars: median; lines: range over repeats; number: ratio to crosstask)")
    return figure


def _panel(ax: Axes, here: pd.DataFrame) -> None:
    ran = here[here["seconds"].notna()]
    for place, row in enumerate(here.itertuples()):
        if pd.isna(row.seconds):
            ax.annotate("not run", (0.01, place), xycoords=("axes fraction", "data"), va="center", color="#777777")
            continue
        wrong = row.verdict == "wrong"
        colour = _WRONG if wrong else _COLOURS.get(row.peer, _PEER)
        ax.barh(place, row.seconds, color=colour, height=0.7)
        ax.plot([row.seconds_min, row.seconds_max], [place, place], color="black", linewidth=1.2)
        label = f" {row.ratio:.3g}×{', wrong numbers' if wrong else ''}"
        ax.annotate(label, (max(row.seconds, row.seconds_max), place), va="center")
    ax.set_yticks(range(len(here)), [_NAMES.get(peer, peer) for peer in here["peer"]])
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set_xlim(ran["seconds_min"].min() / 2, ran["seconds_max"].max() * 6)
    ax.set_xlabel("seconds")
    ax.grid(axis="x", **_GRID)
    ax.set_axisbelow(True)
    first = here.iloc[0]
    ax.set_title(f"{first['title']} (n = {int(first['queries'])})", loc="left", fontsize=10)


def targets(targets: pd.DataFrame) -> Figure:
    """What was found as a share of what was wanted, one bar a target; to the right of the line is better.

    Args:
        targets: table with columns target, wanted ("at least 15" or "at most 1.05"), found, met. Rows about the
            difference of numbers are left to the table.
    """
    measured = targets[targets["found"].notna() & ~targets["target"].str.startswith("difference")]
    figure = Figure(figsize=(8.4, 0.42 * max(1, len(measured)) + 1.2))
    figure.set_layout_engine("constrained")
    ax, shares = figure.subplots(), [1.0]
    for place, row in enumerate(measured.itertuples()):
        limit = float(row.wanted.split()[-1])
        share = row.found / limit if row.wanted.startswith("at least") else limit / row.found
        shares.append(share)
        ax.barh(place, share - 1, left=1, color="#009E73" if row.met == "yes" else _PEER, height=0.7)
        ax.annotate(f" {row.found:.3g} ({row.wanted})", (max(share, 1), place), va="center")
    ax.set_yticks(range(len(measured)), list(measured["target"]))
    ax.invert_yaxis()
    ax.set_xlim(min(shares) * 0.9, max(shares) * 1.1 + 0.8)
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xlabel("times as good as wanted")
    ax.grid(axis="x", **_GRID)
    ax.set_axisbelow(True)
    ax.set_title("Targets (green: met)", loc="left")
    return figure
