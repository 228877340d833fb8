"""The figures are pure functions of the saved tables."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from figures import cross_modal
from interp.protocol import tables as protocol_tables
from tests.figures import tables


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    return tables.predictions(items=4)


@pytest.fixture(scope="module")
def summary(predictions: pd.DataFrame) -> pd.DataFrame:
    return protocol_tables.summary_table(predictions)


def test_layer_curve_draws_the_mean_over_tasks_and_the_chosen_layer() -> None:
    sweep, layers = tables.sweep(layers=6), tables.layers().assign(layer=3)
    figure = cross_modal.accuracy_per_layer(sweep, layers)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [f"{q} queries, vectors from {m}" for q in ("image", "text") for m in ("bundled", "bundled-llm")]
    curve = figure.axes[0].lines[0]
    rows = sweep[(sweep["query"] == "image") & (sweep["source_model"] == "bundled") & (sweep["source"] == "text")]
    expected = rows.groupby(["layer", "task"])["exact"].mean().groupby("layer").mean()
    assert list(curve.get_ydata()) == pytest.approx(list(expected))
    assert list(figure.axes[0].lines[1].get_xdata()) == [3, 3]
    assert "n = 10 items a task, 1 seed" in figure.get_suptitle()


def test_curves_per_task_have_a_panel_for_each_task_and_query() -> None:
    figure = cross_modal.accuracy_per_layer_and_task(tables.sweep(layers=4), tables.layers(), source_model="bundled")
    assert len(figure.axes) == len(tables.TASKS) * len(tables.QUERIES)


def test_every_arm_of_the_table_is_drawn_with_its_interval(summary: pd.DataFrame) -> None:
    figure = cross_modal.method_comparison(summary)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    shown = summary[(summary["task"] == "all") & summary["layer_choice"].isin(["", "pooled"])]
    assert len(labels) == shown.groupby(["method", "source", "source_model"]).ngroups
    for ax, query in zip(figure.axes, ("image", "text"), strict=True):
        rows = shown[shown["query"] == query]
        drawn = sorted((s[0][0], s[1][0]) for c in ax.collections for s in c.get_segments())
        assert np.allclose(drawn, sorted(zip(rows["low"], rows["high"], strict=True)))
        assert "n = 12" in ax.get_title(loc="left")  # three families of four items


def test_methods_per_task_have_a_panel_for_each_task(summary: pd.DataFrame) -> None:
    figure = cross_modal.method_comparison(summary, query="image")
    assert [ax.get_title(loc="left").splitlines()[0] for ax in figure.axes] == tables.TASKS


def test_paired_differences_show_the_pooled_layer_only(predictions: pd.DataFrame) -> None:
    some = predictions[predictions["task"].isin(tables.TASKS[:2])]
    figure = cross_modal.paired_differences(protocol_tables.paired_table(some))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [*tables.TASKS[:2], "all tasks"]


def test_figures_leave_no_state_in_pyplot(summary: pd.DataFrame) -> None:
    cross_modal.method_comparison(summary)
    assert plt.get_fignums() == []


def test_no_legend_lies_over_data() -> None:
    figure = cross_modal.accuracy_per_layer(tables.sweep(layers=6), tables.layers())
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert all(not legend.overlaps(ax.get_window_extent()) for ax in figure.axes)


def test_title_of_a_narrow_figure_is_not_cut() -> None:
    figure = Figure(figsize=(7.3, 4), layout="constrained")
    text = (
        "Methods compared, mean over tasks (test split, 2 seeds; bars: 95 % Wilson intervals, each item counted once)"
    )
    cross_modal._title(figure, text)
    figure.draw_without_rendering()
    assert figure._suptitle is not None
    title = figure._suptitle.get_window_extent()
    assert figure.bbox.x0 < title.x0 < title.x1 < figure.bbox.x1
