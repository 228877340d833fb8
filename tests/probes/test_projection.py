"""Projections of a few states; UMAP is started once, since numba compiles it."""

from __future__ import annotations

import numpy as np
import pytest

from interp.errors import CrosstaskError
from probes.projection import project

RNG = np.random.default_rng(0)
CENTRES = 8 * RNG.normal(size=(2, 20))
STATES = RNG.normal(size=(24, 20)) + CENTRES[np.arange(24) % 2]


@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_two_clusters_stay_apart_and_the_same_seed_gives_the_same_picture(method: str) -> None:
    placed = project(STATES, method, seed=3)
    assert placed.shape == (24, 2)
    first, second = placed[::2], placed[1::2]
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > np.linalg.norm(first - first.mean(0), axis=1).mean()
    assert (project(STATES, method, seed=3) == placed).all()


@pytest.mark.parametrize(("method", "n"), [("pca", 2), ("tsne", 9), ("umap", 9)])
def test_too_few_states_are_refused(method: str, n: int) -> None:
    with pytest.raises(CrosstaskError, match=rf"of {n} states; it needs at least {n + 1}"):
        project(STATES[:n], method)


def test_unknown_method_and_states_that_are_not_finite_are_refused() -> None:
    with pytest.raises(CrosstaskError, match="'mds' is unknown; expected one of pca, tsne, umap"):
        project(STATES, "mds")
    with pytest.raises(CrosstaskError, match="not finite"):
        project(np.full((4, 3), np.nan), "pca")
