"""States in the plane: PCA, t-SNE (van der Maaten & Hinton 2008) and UMAP (McInnes et al. 2018), for pictures only.

t-SNE and UMAP take cosine distances and keep neighbourhoods, not distances or the sizes of gaps; numbers are in
:mod:`probes.clusters`. The same states and seed give the same picture.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float

from interp.errors import CrosstaskError

Method: TypeAlias = Literal["pca", "tsne", "umap"]
METHODS: tuple[Method, ...] = get_args(Method)
NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
LEAST = {"pca": 3, "tsne": 10, "umap": 10}
"""Fewest states that each method places in a way that means anything."""
PERPLEXITY, UMAP_NEIGHBOURS = 30, 15


def check_count(n: int, method: Method) -> None:
    """Raises CrosstaskError if a method is unknown, or n states are too few for it."""
    if method not in METHODS:
        raise CrosstaskError(f"projection {method!r} is unknown; expected one of {', '.join(METHODS)}")
    if n < LEAST[method]:
        raise CrosstaskError(f"{NAMES[method]} of {n} states; it needs at least {LEAST[method]}")


def project(states: Float[np.ndarray, "N D"], method: Method, *, seed: int = 0) -> Float[np.ndarray, "N 2"]:
    """Two coordinates for every state.

    Args:
        states: N states.
        method: ``pca``, ``tsne`` (perplexity 30, or a third of the other states where they are few) or ``umap``
            (15 neighbours, or all where they are few).
        seed: of the placement; PCA has none, its axes point so that the largest loading is positive.

    Raises:
        CrosstaskError: for an unknown method, too few states, or states that are not finite.
    """
    states = np.asarray(states, dtype=np.float64)
    check_count(len(states), method)
    if not np.isfinite(states).all():
        raise CrosstaskError("a state is not finite, so the states cannot be projected")
    if method == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, svd_solver="full").fit_transform(states)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(PERPLEXITY, (len(states) - 1) / 3)
        placed = TSNE(2, perplexity=perplexity, metric="cosine", init="pca", random_state=seed).fit_transform(states)
        return np.asarray(placed, dtype=np.float64)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap and numba announce changes of their own that concern no user of this
        from umap import UMAP

        count = min(UMAP_NEIGHBOURS, len(states) - 1)
        placed = UMAP(n_neighbors=count, metric="cosine", random_state=seed, n_jobs=1).fit_transform(states)
    return np.asarray(placed, dtype=np.float64)
