"""Figures of perception tasks' vectors say what their tables say."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from figures import perception_vectors as figures

TASKS = ("counting", "jigsaw", "mine")
SETTINGS = ("item", "examples")


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    similarity, reliability, transfer, moves = [], [], [], []
    for setting, layer in itertools.product(SETTINGS, (0, 1)):
        for source, target in itertools.permutations(TASKS, 2):
            for name in ("cosine", "centred"):
                value = 0.1 * TASKS.index(source) + 0.1 * TASKS.index(target) + 0.3 * layer - 0.5 * (name == "centred")
                similarity.append((f"task_vector_{name}_{setting}", layer, source, target, value))
        for task in TASKS:
            reliability.append((setting, layer, task, 0.9, 0.5 + 0.4 * layer))
    for layer, target, source in itertools.product((0, 1), TASKS, (*TASKS, "random", "mean")):
        change = {"random": -1.0, "mean": -0.5}.get(source, -0.2 if source != target else 0.0) * (1 + layer)
        kind = source if source not in TASKS else "own" if source == target else "other"
        transfer.append(("item", layer, source, target, change, 2 * change, -change / 2, kind))
    for layer, source, target in itertools.product((0, 1), (*TASKS[:2], "random_key"), TASKS):
        cosine = np.nan if source == "random_key" else 0.3
        moves.append(("item", layer, source, 0, target, 0.1 + layer, cosine, cosine, cosine))
    effects = ["change", "log_p_change", "changed_rate"]
    table = pd.DataFrame(transfer, columns=["setting", "layer", "source", "target", *effects, "control"])
    layers = table.groupby(["setting", "layer", "control"])[effects].mean().reset_index()
    named = ["setting", "layer", "source", "seed", "target", "change", "cosine", "towards", "towards_tuned"]
    return {
        "similarity_long": pd.DataFrame(similarity, columns=["measure", "layer", "source", "target", "value"]),
        "reliability": pd.DataFrame(reliability, columns=["setting", "layer", "task", "raw", "centred"]),
        "patch_transfer": table,
        "layers": layers.rename(columns={"control": "vector"}),
        "moves": pd.DataFrame(moves, columns=named),
    }


def test_all_figures_have_captions_and_those_without_tables_are_left_out(tables: dict[str, pd.DataFrame]) -> None:
    drawn = figures.all_figures(tables, main="item", layer=1, patch_layer=1)
    assert list(drawn) == ["similarity", "profile", "patch_transfer", "patch_layers", "moves"]
    assert all(caption.endswith(".") for _, caption in drawn.values())
    few = {name: tables[name] for name in ("similarity_long", "reliability")}
    assert list(figures.all_figures(few, main="item", layer=0)) == ["similarity", "profile"]


def test_similarity_has_a_panel_for_each_setting_with_halves_on_the_diagonal(tables: dict[str, pd.DataFrame]) -> None:
    figure = figures.similarity(
        tables["similarity_long"], tables["reliability"], layer=1, short={"counting": "CN", "jigsaw": "JG"}
    )
    panels = [ax for ax in figure.axes if ax.get_title(loc="left") in SETTINGS]
    assert len(panels) == 2
    image = np.asarray(panels[0].images[0].get_array(), dtype=float)
    assert image[0, 1] == pytest.approx(0.1 + 0.3 - 0.5)
    assert np.isnan(image[0, 0])
    assert [text.get_text() for text in panels[0].texts] == [".90"] * 3
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["CN", "JG", "mine"]


def test_profile_is_the_mean_over_pairs_at_each_layer(tables: dict[str, pd.DataFrame]) -> None:
    figure = figures.profile(tables["similarity_long"], tables["reliability"])
    line, halves, *_ = figure.axes[0].lines
    assert np.asarray(line.get_ydata()) == pytest.approx([0.2, 0.5])
    assert np.asarray(halves.get_ydata()) == pytest.approx([0.9, 0.9])


def test_patch_transfer_has_rows_of_vectors_and_controls_below(tables: dict[str, pd.DataFrame]) -> None:
    figure = figures.patch_transfer(tables["patch_transfer"], main="item", layer=1)
    log_p, accuracy, rate = figure.axes[:3]
    values = np.asarray(log_p.images[0].get_array(), dtype=float)
    assert values.shape == (5, 3)
    assert values[0, 1] == pytest.approx(-0.8)  # counting's vector, jigsaw's items, twice the change of accuracy
    assert values[3] == pytest.approx(-4.0)
    assert [label.get_text() for label in log_p.get_yticklabels()] == [*TASKS, "random", "mean"]
    assert np.asarray(accuracy.images[0].get_array(), dtype=float)[0, 1] == pytest.approx(-0.4)
    assert rate.images[0].get_clim()[0] == 0


def test_patch_layers_has_a_line_for_each_kind_of_vector(tables: dict[str, pd.DataFrame]) -> None:
    figure = figures.patch_layers(tables["layers"], main="item", layer=1)
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[1].lines}
    assert lines["random"] == pytest.approx([-1.0, -2.0])
    assert lines["its own"] == pytest.approx([0.0, 0.0])
    assert lines["another task's"] == pytest.approx([-0.2, -0.4])


def test_moves_show_sources_that_have_no_vector_by_their_changes_alone(tables: dict[str, pd.DataFrame]) -> None:
    figure = figures.moves(tables["moves"], main="item", layer=1)
    change, cosine = (np.asarray(ax.images[0].get_array(), dtype=float) for ax in figure.axes[:2])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["counting", "jigsaw", "random_key"]
    assert change == pytest.approx(1.1)
    assert np.isnan(cosine[2]).all()
    assert cosine[:2] == pytest.approx(0.3)
