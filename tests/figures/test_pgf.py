"""Figures of transfer analysis say what their tables say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Polygon, Rectangle

from figures.pgf import accuracy_heatmap, difference_heatmap, factor_heatmap
from figures.pgf_graph import transfer_graphs
from figures.pgf_nulls import PARTS, STATISTICS, null_histograms, variance_bars
from figures.pgf_report import all_figures
from figures.pgf_scores import category_trends, dose_scatter, fraction_curves, score_bars
from interp.transfer.analysis import Analysis, Settings
from tests.transfer_data import factor_rows, matrix_folder, write_csv


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return Analysis.read(matrix_folder(tmp_path_factory.mktemp("matrix") / "m"), Settings(permutations=19))


def texts(figure: Figure, ax: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[ax].texts]


def test_heatmap_writes_every_mean_and_its_spread_marks_discoveries_and_constant_answers(analysis: Analysis) -> None:
    edges = analysis.tables["edges"]
    figure = factor_heatmap(edges, short=analysis.short, constant=analysis.tables["constant_cells"])
    ax = figure.axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["AS", "RD", "JG", "CN", "object_order"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["AS", "RD", "JG", "CN", "caption", "random_key"]
    written = texts(figure)
    assert len(written) == 2 * len(edges)
    assert sum("*" in text for text in written) == int((edges["q"] < 0.05).sum()) > 0
    cell = edges.set_index(["source", "target"]).loc[("relative_depth", "jigsaw")]
    place = next(text for text in ax.texts if text.get_text().endswith("*") and text.get_position()[0] == 2)
    assert place.get_position()[1] == pytest.approx(1 - 0.04)
    assert float(place.get_text().rstrip("*")) == pytest.approx(cell["mean"], abs=0.005)
    (corner,) = [patch for patch in ax.patches if isinstance(patch, Polygon) and not isinstance(patch, Rectangle)]
    assert corner.get_xy()[0].tolist() == [1.5, -0.5]  # art_style to relative_depth
    assert len([patch for patch in ax.patches if isinstance(patch, Rectangle)]) == 4  # a task on itself


def test_small_numbers_are_written_without_a_sign_of_nothing_and_undefined_ones_as_such() -> None:
    edges = pd.DataFrame(
        {"source": list("aabb"), "target": list("abab"), "family": ["itself", "transfer", "transfer", "itself"]}
        | {"mean": [-0.001, -0.25, np.nan, 1.204], "sd": [np.nan] * 4, "runs": 1, "q": np.nan}
    )
    figure = factor_heatmap(edges, short={})
    assert [text for text in texts(figure) if text] == [".00", "-.25", "n/a", "1.20"]
    assert figure.get_suptitle() == "PGF over 1 run"


def test_accuracies_begin_with_the_baseline(analysis: Analysis) -> None:
    edges = analysis.tables["edges"]
    figure = accuracy_heatmap(edges, short=analysis.short)
    first = [float(text) for text in texts(figure)[:10:2]]
    base = edges.drop_duplicates("target").set_index("target")["baseline"]
    order = ["art_style", "relative_depth", "jigsaw", "counting", "object_order"]
    assert first == pytest.approx(100 * base[order].to_numpy(), abs=0.05)


def test_measures_have_a_panel_each(analysis: Analysis) -> None:
    columns = {"pgf": "PGF", "log_p": "log p", "absent": "?"}
    figure = difference_heatmap(analysis.tables["measures"], short=analysis.short, columns=columns)
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["PGF", "log p"]


def test_bars_are_as_high_as_the_scores_and_name_personas(analysis: Analysis) -> None:
    scores = analysis.scores
    figure = score_bars(scores, short=analysis.short)
    for ax, score in zip(figure.axes, ("transferability", "malleability"), strict=True):
        heights = [patch.get_height() for patch in ax.patches]
        expected = [*scores[f"{score}_positive"], *scores[f"{score}_negative"]]
        assert heights == pytest.approx(expected)
    named = sorted(text for ax in (0, 1) for text in texts(figure, ax))
    assert named == sorted(name for names in scores["persona"] for name in names.split(" + ") if name != "none")


def test_trends_have_a_bar_for_each_category_and_a_point_for_each_task(analysis: Analysis) -> None:
    categories = analysis.tables["categories"]
    figure = category_trends(categories, analysis.scores, analysis.graph["nodes"])
    low = categories.query("axis == 'level' and category == 'low'")["transferability_positive"].item()
    assert figure.axes[0].patches[0].get_height() == pytest.approx(low)
    points = [c for c in figure.axes[0].collections if c.get_sizes()[0] == 7]
    assert sum(len(c.get_offsets()) for c in points) == 2 * len(analysis.tasks)


def test_curves_over_fractions_end_at_the_mean_scores(analysis: Analysis) -> None:
    figure = fraction_curves(analysis.tables["fractions"], short=analysis.short)
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() > 2]
    assert [list(line.get_xdata()) for line in thick] == [[50, 100], [50, 100]]
    assert thick[0].get_ydata()[-1] == pytest.approx(analysis.scores["transferability_positive"].mean())


def test_dose_is_on_a_log_axis_where_it_spans_one(analysis: Analysis) -> None:
    dose = pd.DataFrame(
        {"score": ["transferability_positive", "transferability_negative"], "spearman": 0.1, "p": 0.5, "n": 4}
    )
    for most, scale in ((120, "linear"), (9000, "log")):
        steps = dict(zip(analysis.labels, np.linspace(100, most, 4), strict=True))
        figure = dose_scatter(analysis.scores, steps, dose, short=analysis.short)
        assert figure.axes[0].get_xscale() == scale
        assert sorted(texts(figure)) == ["AS", "CN", "JG", "RD"]


def test_each_panel_of_the_graph_has_the_edges_above_its_threshold(analysis: Analysis) -> None:
    graph = analysis.graph
    figure = transfer_graphs(graph)
    for ax, share in zip(figure.axes, (25, 50, 75, 100), strict=True):
        arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
        least = graph["thresholds"][str(share)]
        assert len(arrows) == sum(abs(edge["weight"]) >= least for edge in graph["edges"])
        assert f"{share} %" in ax.get_title(loc="left")
    assert len(arrows) == 12


def test_null_histograms_mark_the_measured_value(analysis: Analysis) -> None:
    nulls = analysis.tables["nulls"]
    figure = null_histograms(nulls, analysis.tables["null_values"])
    assert len(figure.axes) == 2 * len(STATISTICS)
    tests = nulls.set_index(["sign", "statistic", "null"])
    for ax, (sign, statistic) in zip(
        figure.axes, [(s, t) for s in ("positive", "negative") for t in STATISTICS], strict=True
    ):
        lines = [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1]
        assert lines == [tests.loc[(sign, statistic, "shuffle"), "observed"]]
        for line in ax.lines[:-1]:
            assert sum(line.get_ydata()) == pytest.approx(1)


def test_variance_bars_have_the_shares_of_the_table(analysis: Analysis) -> None:
    table = analysis.tables["variance"]
    ax = variance_bars(table).axes[0]
    shares = table.set_index("part")["share"]
    assert [patch.get_width() for patch in ax.patches] == pytest.approx([shares[part] for part in PARTS])
    assert "reliability" in ax.get_title(loc="left")


def test_what_the_data_has_nothing_on_is_not_drawn(analysis: Analysis, tmp_path: Path) -> None:
    def drawn(found: Analysis) -> list[str]:
        steps = {found.measured.label(task): value for task, value in found.steps.items()}
        return list(all_figures(found.tables, found.graph, short=found.short, steps=steps))

    everything = [
        "pgf",
        "accuracy",
        "scores",
        "categories",
        "graph",
        "nulls",
        "variance",
        "dose",
        "fractions",
        "measures",
    ]
    assert drawn(analysis) == everything
    path = write_csv(tmp_path / "two.csv", factor_rows(("a", "b"), runs=1))
    assert drawn(Analysis.read(path, Settings(permutations=9))) == ["pgf", "scores", "graph", "measures"]
