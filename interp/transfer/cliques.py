"""Task cliques and the task-transfer graph (Sachdeva et al. 2025, Definition 3 and Figure 2).

A positive clique is a set of three tasks or more in which every ordered pair transfers with a factor above 0, a
negative one with a factor below 0; cliques are listed if they are maximal. Factors are means over seeds, the effect of
a task on itself is ignored, and there is no threshold and no test: this rule gives the paper's Table A.1 exactly, and
`interp.transfer.nulls` says how many such cliques arise by chance.

The graph has an edge from source to target weighted by the factor. A share of the edges is shown, the strongest by
absolute factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import networkx
import numpy as np
from jaxtyping import Bool, Float

from interp.errors import CrosstaskError

SMALLEST = 3
SIGNS: tuple[Literal["positive", "negative"], ...] = ("positive", "negative")
SHOWN = (25, 50, 75, 100)
"""Per cent of edges shown in the paper's ablation of the threshold."""


def reciprocal(mu: Float[np.ndarray, "... K K"], sign: str) -> Bool[np.ndarray, "... K K"]:
    """Pairs of tasks that transfer with this sign in both directions; never a task with itself."""
    one_way = mu > 0 if sign == "positive" else mu < 0
    return one_way & np.swapaxes(one_way, -1, -2) & ~np.eye(mu.shape[-1], dtype=bool)


def cliques(
    mu: Float[np.ndarray, "K K"], *, names: Sequence[str], smallest: int = SMALLEST
) -> dict[str, list[list[str]]]:
    """Maximal cliques of each sign: the tasks of each sorted, and the list sorted.

    Args:
        mu: mean factors; rows sources, columns targets.
        names: of the tasks.
        smallest: fewest tasks of a clique.

    Returns:
        {"positive": [[...], ...], "negative": [[...], ...]}.
    """
    return {
        sign: sorted(sorted(names[i] for i in members) for members in maximal(reciprocal(mu, sign), smallest=smallest))
        for sign in SIGNS
    }


def maximal(pairs: Bool[np.ndarray, "K K"], *, smallest: int = SMALLEST) -> list[list[int]]:
    """Maximal cliques of an undirected graph, given as a symmetric matrix, with so many members or more."""
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(pairs)))
    graph.add_edges_from(np.argwhere(np.triu(pairs)).tolist())
    return [members for members in networkx.find_cliques(graph) if len(members) >= smallest]


def off_diagonal(side: int) -> Bool[np.ndarray, "K K"]:
    """Every cell but a task's with itself."""
    return ~np.eye(side, dtype=bool)


def thresholds(mu: Float[np.ndarray, "K K"], shown: Sequence[float] = SHOWN) -> dict[float, float]:
    """Per cent of edges shown -> the least absolute factor of these, over cells off the diagonal.

    Raises:
        CrosstaskError: a share is not in (0, 100], or there is no factor.
    """
    sizes = np.abs(mu[off_diagonal(len(mu))])
    sizes = sizes[~np.isnan(sizes)]
    if not len(sizes):
        raise CrosstaskError("The matrix has no factor off its diagonal; a graph needs one or more.")
    for share in shown:
        if not 0 < share <= 100:
            raise CrosstaskError(f"{share:g} % of the edges were asked for; expected above 0 and at most 100.")
    return {share: float(np.quantile(sizes, 1 - share / 100)) for share in shown}


def transfer_graph(
    mu: Float[np.ndarray, "K K"],
    *,
    names: Sequence[str],
    nodes: Sequence[Mapping[str, Any]] = (),
    shown: Sequence[float] = SHOWN,
    edges: Mapping[str, Float[np.ndarray, "K K"]] | None = None,
) -> dict[str, Any]:
    """The graph as JSON values.

    Args:
        mu: mean factors.
        names: of the tasks.
        nodes: what else is to be said of each task.
        shown: per cent of edges for which a threshold is given.
        edges: what else is to be said of each edge, as matrices.

    Returns:
        nodes (id, ...), edges (source, target, weight, reciprocal, ...; strongest first), and thresholds ({per cent of
        edges shown: least absolute weight}).
    """
    extra = nodes or [{} for _ in names]
    both = reciprocal(mu, "positive") | reciprocal(mu, "negative")
    listed = [
        {"source": names[i], "target": names[j], "weight": float(mu[i, j]), "reciprocal": bool(both[i, j])}
        | {key: _plain(values[i, j]) for key, values in (edges or {}).items()}
        for i, j in np.argwhere(off_diagonal(len(mu)) & ~np.isnan(mu))
    ]
    listed.sort(key=lambda edge: (-abs(edge["weight"]), edge["source"], edge["target"]))
    return {
        "nodes": [{"id": name, **more} for name, more in zip(names, extra, strict=True)],
        "edges": listed,
        "thresholds": {f"{share:g}": value for share, value in thresholds(mu, shown).items()},
    }


def _plain(value: Any) -> Any:
    """A JSON value; NaN is null."""
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and np.isnan(number) else number
