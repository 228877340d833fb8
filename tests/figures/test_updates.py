"""Figures of update geometry say what their tables say."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from figures import updates

TASKS = ("a", "b", "c")
MEASURES = ("cosine", "overlap_output", "overlap_input", "energy_output", "paper")


def value_of(measure: str, source: str, target: str, layer: object, seeds: str) -> float:
    base = 0.1 * TASKS.index(source) + 0.2 * TASKS.index(target) + 0.01 * (0 if layer == "all" else int(str(layer)))
    return base + (0.5 if seeds == "same" else 0.0) + (0.05 if measure.startswith("energy") else 0.0)


@pytest.fixture
def similarity() -> pd.DataFrame:
    rows = []
    parts = [("all", "all"), *itertools.product((0, 1, 2), ("all", "q_proj"))]
    for measure, (layer, projection), seeds in itertools.product(MEASURES, parts, ("same", "different")):
        if measure == "paper" and (layer, projection) != (2, "q_proj"):
            continue
        pairs = itertools.permutations(TASKS, 2) if measure in updates.DIRECTED else itertools.combinations(TASKS, 2)
        for source, target in pairs:
            value = value_of(measure, source, target, layer, seeds)
            for centred in (False, True) if measure == "cosine" else (False,):
                rows.append((measure, layer, projection, source, target, value, 0.02, centred, seeds, 2))
    columns = ["measure", "layer", "projection", "source", "target", "value", "chance", "centred", "seeds", "pairs"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def ceilings() -> pd.DataFrame:
    rows = [("cosine", layer, "all", task, 0.7, False) for layer, task in itertools.product(("all", 0, 1, 2), TASKS)]
    table = pd.DataFrame(rows, columns=["measure", "layer", "projection", "task", "value", "centred"])
    return table.assign(chance=0.0)


@pytest.fixture
def norms() -> pd.DataFrame:
    rows = itertools.product(("all", 0, 1, 2), TASKS, (0, 1))
    return pd.DataFrame(
        {"layer": layer, "projection": "all", "task": task, "seed": seed, "norm": 1.0 + seed, "effective_rank": 3.0}
        for layer, task, seed in rows
    )


@pytest.fixture
def angles() -> pd.DataFrame:
    rows = []
    for side, layer, (source, target), index in itertools.product(
        ("output", "input"), (0, 1), [("a", "b"), ("a", "c"), ("b", "c"), ("a", "a")], range(4)
    ):
        for seeds, degrees in (("same", 10.0), ("different", 40.0 + 10 * index)):
            if source != target or seeds == "different":
                rows.append((layer, "q_proj", side, source, target, index, degrees, 80.0, seeds, 1))
    return pd.DataFrame(
        rows,
        columns=["layer", "projection", "side", "source", "target", "index", "degrees", "chance", "seeds", "pairs"],
    )


def test_a_matrix_is_of_pairs_with_different_seeds_and_keeps_directions(similarity: pd.DataFrame) -> None:
    cosine = updates.square(similarity, "cosine")
    assert cosine.loc["a", "c"] == pytest.approx(value_of("cosine", "a", "c", "all", "different"))
    assert cosine.loc["c", "a"] == cosine.loc["a", "c"]
    assert np.isnan(cosine.loc["a", "a"])
    energy = updates.square(similarity, "energy_output")
    assert energy.loc["c", "a"] == pytest.approx(value_of("energy_output", "c", "a", "all", "different"))
    assert energy.loc["c", "a"] != pytest.approx(energy.loc["a", "c"])
    one = updates.square(similarity[similarity["seeds"] == "same"], "cosine")
    assert one.loc["a", "c"] == pytest.approx(value_of("cosine", "a", "c", "all", "same"))


def test_heatmaps_have_a_panel_for_each_measure_and_ceilings_on_the_diagonal(
    similarity: pd.DataFrame, ceilings: pd.DataFrame
) -> None:
    figure = updates.heatmaps(similarity, ceilings, short={"a": "A!"})
    panels = [ax for ax in figure.axes if ax.get_images() and ax.get_title(loc="left")]
    assert len(panels) == len(MEASURES) + 1  # cosine twice
    first = panels[0]
    assert [text.get_text() for text in first.texts] == ["0.7"] * 3
    assert first.get_yticklabels()[0].get_text() == "A!"
    shown = first.get_images()[0].get_array()
    assert shown[0, 2] == pytest.approx(value_of("cosine", "a", "c", "all", "different"))


def test_profiles_are_means_over_pairs_with_their_ceiling(similarity: pd.DataFrame, ceilings: pd.DataFrame) -> None:
    figure = updates.layer_profiles(similarity, ceilings)
    ax = figure.axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    pairs = list(itertools.combinations(TASKS, 2))
    expected = [np.mean([value_of("cosine", s, t, layer, "different") for s, t in pairs]) for layer in (0, 1, 2)]
    assert list(lines["all projections"].get_ydata()) == pytest.approx(expected)
    assert list(lines["two seeds of a task"].get_ydata()) == pytest.approx([0.7] * 3)
    assert list(lines["chance"].get_ydata()) == pytest.approx([0.02] * 3)
    empty = updates.layer_profiles(similarity, ceilings.iloc[:0].astype(object))
    assert "two seeds of a task" not in {line.get_label() for line in empty.axes[0].lines}


def test_the_tree_joins_the_tasks_that_are_most_alike_first(similarity: pd.DataFrame) -> None:
    figure = updates.tree(similarity)
    dendrogram, plane = figure.axes[0], figure.axes[1]
    assert {label.get_text() for label in dendrogram.get_xticklabels()} == set(TASKS)
    highest = max(TASKS, key=lambda t: min(updates.square(similarity, "cosine").loc[t].dropna()))
    assert highest in TASKS
    heights = [y for path in dendrogram.collections[0].get_segments() for y in path[:, 1]]
    assert min(h for h in heights if h > 0) == pytest.approx(1 - 0.5)  # b and c
    assert len(plane.collections[0].get_offsets()) == 3


def test_scaling_keeps_distances_in_a_plane() -> None:
    points = np.random.default_rng(0).standard_normal((6, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    placed = updates.scaled(distances)
    assert np.linalg.norm(placed[:, None] - placed[None], axis=2) == pytest.approx(distances)
    assert updates.scaled(np.array([[0.0, 3.0], [3.0, 0.0]])).shape == (2, 2)


def test_spectra_show_pairs_chance_and_ceiling(angles: pd.DataFrame) -> None:
    figure = updates.angle_spectra(angles)
    assert len(figure.axes) == 2
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["pairs of tasks"].get_ydata()) == pytest.approx([40, 50, 60, 70])
    assert list(lines["random subspaces"].get_ydata()) == pytest.approx([80] * 4)
    assert list(lines["two seeds of a task"].get_ydata()) == pytest.approx([40, 50, 60, 70])


def test_norms_are_means_over_seeds(norms: pd.DataFrame) -> None:
    figure = updates.norm_profiles(norms)
    assert len(figure.axes[0].lines) == 3
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([1.5] * 3)
    assert list(figure.axes[1].lines[0].get_ydata()) == pytest.approx([3.0] * 3)


def test_what_there_is_no_table_for_is_not_drawn(
    similarity: pd.DataFrame, ceilings: pd.DataFrame, norms: pd.DataFrame, angles: pd.DataFrame
) -> None:
    tables = {"similarity": similarity, "ceilings": ceilings, "norms": norms, "angles": angles}
    assert list(updates.all_figures(tables)) == ["heatmaps", "tree", "layers", "angles", "norms"]
    whole = similarity[similarity["layer"] == "all"]
    assert list(updates.all_figures(tables | {"similarity": whole, "angles": angles.iloc[:0]})) == [
        "heatmaps",
        "tree",
        "norms",
    ]
