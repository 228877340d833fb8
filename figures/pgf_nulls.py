"""What a transfer matrix is held against, from the tables that `python -m experiments.analyse_transfer` saves:

nulls       = pandas.read_csv("nulls.csv")         clique statistics beside those of random matrices
null_values = pandas.read_csv("null_values.csv")   how often random matrices had each value
variance    = pandas.read_csv("variance.csv")      shares of sources, targets and pairs
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

NULLS = {
    "shuffle": ("values of each target dealt anew", "#0072B2"),
    "additive": ("sources + targets, rest dealt anew", "#E69F00"),
    "additive_noise": ("sources + targets, noise of the runs", "#009E73"),
}
STATISTICS = {"pairs": "reciprocal pairs", "cliques": "maximal cliques", "largest": "tasks in the largest clique"}
PARTS = {
    "target": ("targets", "#0072B2"),
    "source_after_target": ("sources, after targets", "#56B4E9"),
    "symmetric": ("pairs, same both ways", "#E69F00"),
    "antisymmetric": ("pairs, opposite ways", "#D55E00"),
}
_GRID = {"color": "#E2E2E2", "linewidth": 0.6}


def null_histograms(nulls: pd.DataFrame, null_values: pd.DataFrame) -> Figure:
    """Random values of each statistic as lines, a row for each sign; the measured one is the vertical line.

    Args:
        nulls: table of nulls.csv.
        null_values: table of null_values.csv.
    """
    signs = [sign for sign in ("positive", "negative") if (nulls["sign"] == sign).any()]
    present = [null for null in NULLS if (nulls["null"] == null).any()]
    figure = Figure(figsize=(11.0, 0.9 + 2.9 * len(signs)), layout="constrained")
    axes = figure.subplots(len(signs), len(STATISTICS), squeeze=False)
    for row, sign in enumerate(signs):
        for column, (statistic, name) in enumerate(STATISTICS.items()):
            ax = axes[row, column]
            tests = nulls[(nulls["sign"] == sign) & (nulls["statistic"] == statistic)].set_index("null")
            values = null_values[(null_values["sign"] == sign) & (null_values["statistic"] == statistic)]
            for null in present:
                found = values[values["null"] == null].set_index("value")["count"]
                whole = np.arange(found.index.min() - 1, found.index.max() + 2)
                share = found.reindex(whole, fill_value=0) / found.sum()
                ax.step(whole, share, where="mid", color=NULLS[null][1], linewidth=1.5)
            observed = float(tests["observed"].iloc[0])
            ax.axvline(observed, color="#222222", linewidth=1.6)
            ax.set_ylim(0, 1.12 * ax.get_ylim()[1])
            p = ", ".join(f"{tests.loc[null, 'p']:.2g}" for null in present)
            ax.set_title(f"{sign}: {observed:g}\np = {p}", loc="left", fontsize=9)
            ax.set_xlabel(name if row == len(signs) - 1 else "")
            ax.grid(axis="y", **_GRID)
            ax.set_axisbelow(True)
            ax.xaxis.get_major_locator().set_params(integer=True)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        axes[row, 0].set_ylabel("share of random matrices")
    handles = [Line2D([], [], color=NULLS[null][1], lw=1.5, label=NULLS[null][0]) for null in present]
    handles.append(Line2D([], [], color="#222222", lw=1.6, label="measured"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    count = int(nulls["permutations"].max())
    figure.suptitle(f"Cliques of the measured matrix and of {count:,} random ones; p in the order of the legend")
    return figure


def variance_bars(variance: pd.DataFrame) -> Figure:
    """Shares of the variance off the diagonal, each beside the share that unstructured noise would have.

    Args:
        variance: table of variance.csv.
    """
    shares = variance.set_index("part")
    figure = Figure(figsize=(8.6, 3.8), layout="constrained")
    ax = figure.subplots()
    for place, (part, (_, colour)) in enumerate(PARTS.items()):
        share, chance = float(shares.loc[part, "share"]), float(shares.loc[part, "chance"])
        ax.barh(place, share, color=colour, height=0.6)
        ax.plot([chance, chance], [place - 0.38, place + 0.38], color="#222222", linewidth=2)
        ax.annotate(
            f"{100 * share:.0f} %", (max(share, chance), place), xytext=(6, 0), textcoords="offset points", va="center"
        )  # fmt: skip
    ax.set_yticks(range(len(PARTS)), [name for name, _ in PARTS.values()])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the variance of cells off the diagonal")
    ax.grid(axis="x", **_GRID)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    said = {
        "run_noise": "noise of the runs alone: {:.0%} of the variance",
        "reliability": "reliability over runs of what pairs add: {:.2f}",
        "symmetric_ceiling": "most that a similarity without direction can correlate with it: {:.2f}",
    }
    lines = [
        text.format(shares.loc[part, "share"]) for part, text in said.items() if pd.notna(shares.loc[part, "share"])
    ]
    ax.set_title("\n".join(lines), loc="left", fontsize=9)
    handles = [
        Patch(color="#888888", label="measured"),
        Line2D([], [], color="#222222", lw=2, label="unstructured noise would have"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure
