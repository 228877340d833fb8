"""How far two trainings from one start come apart, layer by layer (Zhou et al. 2026, figure 1).

    d_l(t)   = |theta_A - theta_B| / |theta_0|             over the common parameters of layer l after part t of a run
    cos_l(t) = cos(theta_A - theta_0, theta_B - theta_0)   whether they left in the same direction

A and B are runs on two tasks. Any two runs come apart, so the control is two runs on *one* task with two seeds (data,
order and initialisation): tasks pull the tower apart only as far as d between tasks exceeds d between seeds, and their
displacements agree less than those of two seeds do. The paper's norm and its controls are not stated; this is our
reading. Experts stand side by side; theta_0 are their copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.conflict.places import Place

Weights: TypeAlias = dict[int, Float[Tensor, " size"]]
"""Layer -> all of its common parameters in one row."""
Trained: TypeAlias = tuple[str, int]
"""Task and seed of a run."""
COLUMNS = ("arm", "point", "layer", "kind", "a", "b", "distance", "cosine", "norm_a", "norm_b")
Kind: TypeAlias = Literal["tasks", "seeds"]


@torch.no_grad()
def weights_of(places: Sequence[Place]) -> Weights:
    """The common parameters as they are now, on the CPU in float64."""
    layers = sorted({place.layer for place in places})
    return {
        layer: torch.cat(
            [
                p.detach().double().cpu().reshape(-1)
                for place in places
                if place.layer == layer
                for p in place.parameters
            ]
        )
        for layer in layers
    }


def distances(start: Weights, ends: Mapping[Trained, Weights]) -> list[dict[str, object]]:
    """All pairs of runs, in each layer and in all together (layer -1).

    Args:
        start: weights that all runs began with.
        ends: task and seed -> weights.

    Returns:
        Rows of layer, kind ("tasks": two tasks; "seeds": one task), a, b, distance, cosine (NaN where a run left the
        layer as it was), and the relative lengths of both displacements.
    """
    runs = list(ends)
    rows: list[dict[str, object]] = []
    for place, one in enumerate(runs):
        for other in runs[place + 1 :]:
            sums = {layer: _sums(start[layer], ends[one][layer], ends[other][layer]) for layer in start}
            sums[-1] = np.sum(list(sums.values()), axis=0)
            kind: Kind = "seeds" if one[0] == other[0] else "tasks"
            for layer, (apart, base, a, b, dot) in sums.items():
                moved = np.sqrt(a * b)
                rows.append(
                    {
                        "layer": layer,
                        "kind": kind,
                        "a": _name(one),
                        "b": _name(other),
                        "distance": float(np.sqrt(apart / base)),
                        "cosine": float(dot / moved) if moved > 0 else float("nan"),
                        "norm_a": float(np.sqrt(a / base)),
                        "norm_b": float(np.sqrt(b / base)),
                    }
                )
    return rows


def distance_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over pairs of runs, with the least and the largest pair: the pairs are too few for an interval.

    Args:
        table: columns as `COLUMNS`.
    """
    by = table.groupby(["arm", "point", "layer", "kind"], sort=False)
    found = by[["distance", "cosine"]].agg(["mean", "min", "max"])
    found.columns = [f"{name}_{what}" for name, what in found.columns]
    return found.assign(pairs=by.size()).reset_index()


def _sums(start: Tensor, a: Tensor, b: Tensor) -> Float[np.ndarray, " sums"]:
    """|a - b|^2, |start|^2, |a - start|^2, |b - start|^2 and <a - start, b - start>."""
    one, other = a - start, b - start
    return np.array(
        [float(x @ y) for x, y in ((a - b, a - b), (start, start), (one, one), (other, other), (one, other))]
    )


def _name(trained: Trained) -> str:
    return f"{trained[0]}@{trained[1]}"
