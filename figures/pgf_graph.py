"""The task-transfer graph, from the graph that `python -m experiments.analyse_transfer` saves:

graph = json.load(open("graph.json"))   nodes, directed edges with weights, and thresholds

A panel for each share of the edges, the strongest by absolute weight. Blue arrows help, red ones harm; width and
opacity follow the weight. Nodes stand in a ring by perceptual level.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

BLUE, RED = "#2166AC", "#B2182B"
LEVELS = {"low": "#FDE0B0", "mid": "#D9EAD3", "high": "#D9D2E9", None: "#EEEEEE"}
_RANK = {"low": 0, "mid": 1, "high": 2, None: 3}
_FULL = 0.6  # the weight at which an arrow is fully opaque


def transfer_graphs(graph: Mapping[str, Any]) -> Figure:
    """A panel for each threshold of the graph.

    Args:
        graph: nodes (id, abbreviation, level), edges (source, target, weight) and thresholds (share -> least weight).
    """
    thresholds = {float(share): value for share, value in graph["thresholds"].items()}
    shares = sorted(thresholds)
    columns = min(2, len(shares))
    rows = -(-len(shares) // columns)
    figure = Figure(figsize=(0.4 + 4.6 * columns, 0.9 + 4.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    nodes = sorted(graph["nodes"], key=lambda node: _RANK[node["level"]])
    places = _ring(nodes)
    for ax, share in zip(axes, shares, strict=False):
        edges = [edge for edge in graph["edges"] if abs(edge["weight"]) >= thresholds[share]]
        _draw(ax, nodes, places, edges)
        ax.set_title(f"{share:g} % of the edges: |weight| ≥ {thresholds[share]:.3f}", fontsize=10, loc="left")
    for ax in axes[len(shares) :]:
        ax.set_visible(False)
    handles = [Line2D([], [], color=BLUE, lw=2, label="helps"), Line2D([], [], color=RED, lw=2, label="harms")]
    for level in dict.fromkeys(node["level"] for node in nodes):
        name = f"{level} level" if level else "no known level"
        handles.append(
            Line2D([], [], marker="o", ls="", markersize=9, color=LEVELS[level], markeredgecolor="#555555", label=name)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    return figure


def _ring(nodes: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(nodes)) / len(nodes)
    return {node["id"]: np.array([np.cos(a), np.sin(a)]) for node, a in zip(nodes, angles, strict=True)}


def _draw(
    ax: Axes, nodes: Sequence[Mapping[str, Any]], places: Mapping[str, np.ndarray], edges: Sequence[Mapping[str, Any]]
) -> None:
    names = [str(node["abbreviation"]) for node in nodes]
    size = 17
    inside = max(map(len, names)) <= 4
    for edge in reversed(edges):  # the strongest last, on top
        weight = abs(edge["weight"])
        arrow = ax.add_patch(
            FancyArrowPatch(
                places[edge["source"]], places[edge["target"]], connectionstyle="arc3,rad=0.12", arrowstyle="-|>",
                mutation_scale=7, shrinkA=0.75 * size, shrinkB=0.75 * size, linewidth=0.4 + 2.6 * min(1.0, weight),
                color=BLUE if edge["weight"] > 0 else RED, alpha=float(np.clip(weight / _FULL, 0.12, 1.0)),
            )
        )  # fmt: skip
        arrow.set_in_layout(False)
    for node, name in zip(nodes, names, strict=True):
        x, y = places[node["id"]]
        ax.plot(x, y, marker="o", markersize=size + 5, color=LEVELS[node["level"]], markeredgecolor="#555555", zorder=5)
        if inside:
            ax.text(x, y, name, ha="center", va="center", fontsize=9, zorder=6)
        else:  # beside the node, away from the ring
            side = "center" if abs(x) < 0.3 else "left" if x > 0 else "right"
            ax.text(1.16 * x, 1.19 * y, name, ha=side, va="center", fontsize=8, zorder=6)
    ax.set_xlim(*((-1.25, 1.25) if inside else (-1.9, 1.9)))
    ax.set_ylim(-1.3, 1.3)
    ax.set_aspect("equal")
    ax.axis("off")
