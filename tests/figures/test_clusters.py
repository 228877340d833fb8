"""Figures of the cluster and similarity experiments say what their tables say."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from figures import clusters, similarity

KINDS = ("context_embedding", "task_vector")


@pytest.fixture
def cluster_table() -> pd.DataFrame:
    questions = [("task", "all"), ("task", "other modality"), ("modality", "all")]
    rows = itertools.product(KINDS, range(3), questions, ("silhouette", "purity"))
    return pd.DataFrame(
        {
            "kind": kind, "layer": layer, "label": label, "among": among, "metric": metric, "n": 8,
            "value": 0.1 * layer, "low": 0.1 * layer - 0.05, "high": 0.1 * layer + 0.05, "chance_high": 0.02,
        }
        for kind, layer, (label, among), metric in rows
    )  # fmt: skip


def test_curves_have_a_panel_for_each_question_and_a_line_with_its_baseline_for_each_kind(
    cluster_table: pd.DataFrame,
) -> None:
    figure = clusters.cluster_curves(cluster_table, layer=1)
    assert len(figure.axes) == 2 * 3
    for ax in figure.axes:
        curves = [line for line in ax.lines if len(line.get_xdata()) == 3]
        assert len(curves) == 4  # value and baseline of two kinds
        assert list(curves[0].get_ydata()) == pytest.approx([0, 0.1, 0.2])
        assert list(curves[1].get_ydata()) == pytest.approx([0.02] * 3)
    assert "n = 8" in figure.get_suptitle()


def test_without_a_projection_there_is_no_picture_of_one(cluster_table: pd.DataFrame) -> None:
    probes = pd.DataFrame(
        {"kind": "task_vector", "layer": [0, 1], "scope": "all tasks", "train": "text", "test": "text", "n": 4}
        | {"accuracy": 0.5, "low": 0.4, "high": 0.6, "chance": 0.25, "control": 0.3}
    )
    cosines = pd.DataFrame(
        {"kind": ["task_vector"], "layer": 1, "centring": "raw", "tasks": "same task", "modalities": "same modality"}
        | {"pairs": 3} | dict.fromkeys(("q05", "q25", "q50", "q75", "q95"), 0.5)
    )  # fmt: skip
    tables = {"clusters": cluster_table, "probes": probes, "cosines": cosines, "projection": pd.DataFrame()}
    assert list(clusters.all_figures(tables, layer=1)) == ["clusters", "probes", "cosines"]


def test_projection_draws_every_context_once_with_its_tasks_colour_and_modalitys_marker() -> None:
    rng = np.random.default_rng(0)
    rows = itertools.product(KINDS, ("pca", "umap"), ("a", "b"), ("text", "image"), range(5))
    table = pd.DataFrame(
        {"kind": k, "method": m, "task": t, "modality": w, "layer": 4, "x": rng.normal(), "y": rng.normal()}
        for k, m, t, w, _ in rows
    )
    figure = clusters.projections(table)
    assert len(figure.axes) == 4
    for ax in figure.axes:
        assert sum(len(points.get_offsets()) for points in ax.collections) == 20
        assert len({tuple(points.get_facecolor()[0][:3]) for points in ax.collections}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "text", "image"]


def test_matrix_puts_each_pair_of_sources_in_its_place_and_mirrors_it() -> None:
    tasks = ("x", "y")
    blocks = {("A", "A"): 0.9, ("A", "B"): 0.5, ("B", "B"): 0.8}
    table = pd.DataFrame(
        {
            "layer": 2, "source": a, "target": b, "source_task": first, "target_task": second,
            "raw": value + (0.01 if first == "x" and second == "y" else 0),
        }
        for (a, b), value in blocks.items()
        for first in tasks
        for second in tasks
    )  # fmt: skip
    figure = similarity.cosine_matrices(table, layer=2, centring="raw")
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert drawn[0, 2:] == pytest.approx([0.5, 0.51])
    assert drawn[2:, 0] == pytest.approx([0.5, 0.51])
    assert drawn[3, 3] == pytest.approx(0.8)


def test_curves_of_a_pair_without_intervals_are_drawn_all_the_same() -> None:
    table = pd.DataFrame(
        {
            "layer": layer, "source": "A", "target": "B", "centring": "raw", "matched": 0.9, "matched_low": None,
            "matched_high": None, "mismatched": 0.5, "mismatched_low": None, "mismatched_high": None,
            "same_family": None, "random_low": -0.1, "random_high": 0.1,
        }
        for layer in range(3)
    )  # fmt: skip
    figure = similarity.cosine_curves(table, centring="raw", layer=1)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["random", "same task", "different tasks"]
