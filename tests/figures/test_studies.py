"""Figures of the transfer tables, the curve over examples, robustness and cost are pure functions of their tables."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from figures import ensembles, prompting_cost, robustness, transfer
from interp.protocol import transfer as protocol
from tests.figures import tables

MAIN = "Q: {x}\\nA: {y}\\n\\n"


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    some = tables.predictions(items=3)
    some = some[some["task"].isin(tables.TASKS[:2])]
    frames = [some.assign(template=template) for template in (MAIN, "chat")]
    return pd.concat(frames, ignore_index=True)


def curve(tasks: tuple[str, ...] = ("all", "a", "b")) -> pd.DataFrame:
    """Rates of every arm that the curve's protocol writes; the rate is the number of examples over 100."""
    arms = [
        (method, source, n) for method in ("patch", "prompt") for source in ("text", "ensemble") for n in (1, 5, 10)
    ]
    arms += [(control, "text", n) for control in ("control_random", "control_wrong_task") for n in (1, 5, 10)]
    arms += [("patch", "instruction", 0), ("prompt", "instruction", 0), ("no_context", "", 0), ("majority", "", 0)]
    rows = [("image", *arm, task, 3, 20, arm[2] / 100, 0.0, 0.3, 0.01) for arm, task in itertools.product(arms, tasks)]
    columns = ["query", "method", "source", "examples", "task", "seeds", "items", "exact", "low", "high", "seed_sd"]
    return pd.DataFrame(rows, columns=columns)


def condition_rates(part: str) -> pd.DataFrame:
    """Rates of one part of the robustness experiment."""
    rows: list[tuple] = []
    for query in ("image", "text"):
        rows += [(part, query, method, "", "", 0.0, 0, None) for method in ("no_context", "majority")]
        if part == "template":
            rows += [(part, query, "patch", "text", f"template {a}", 0.0, b, 3) for a in (0, 1) for b in (0, 1)]
            others = ("prompt", "control_random", "control_wrong_task")
            rows += [(part, query, method, "text", f"template {b}", 0.0, b, 3) for method in others for b in (0, 1)]
        elif part == "instruction":
            levels = [("clean", 0.0), *((kind, level) for kind in ("typos", "synonyms") for level in (0.5, 1.0))]
            for source, method in itertools.product(("instruction", "ensemble"), ("patch", "prompt")):
                rows += [(part, query, method, source, kind, level, 0, 3) for kind, level in levels]
            rows += [
                (part, query, control, source, "clean", 0.0, 0, 3)
                for control in ("control_random", "control_wrong_task")
                for source in ("instruction", "ensemble")
            ]
        elif part == "strength":
            arms = itertools.product(
                ("patch", "control_random", "control_wrong_task"), ("replace", "add"), (0.5, 1.0, 2.0)
            )
            rows += [(part, query, method, "text", mode, scale, 0, 3) for method, mode, scale in arms]
        else:
            rows += [(part, query, method, "text", "", n, 0, 3) for method in ("patch", "prompt") for n in (1.0, 5.0)]
            rows += [
                (part, query, control, "text", "", 0.0, 0, 3) for control in ("control_random", "control_wrong_task")
            ]
    columns = ["part", "query", "method", "source", "setting", "level", "query_template", "layer"]
    table = pd.DataFrame(rows, columns=columns).assign(task="all", seeds=2, items=20)
    values = np.random.default_rng(0).random(len(table)) / 2
    return table.assign(exact=values, low=values / 2, high=values + 0.1)


def legend_is_beside_the_data(figure: Figure) -> bool:
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    return all(not legend.overlaps(ax.get_window_extent()) for ax in figure.axes)


def test_templates_are_lines_of_a_panel_for_each_query_modality(answers: pd.DataFrame) -> None:
    figure = transfer.templates(protocol.transfer_rates(answers))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["image queries", "text queries"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [MAIN, "chat"]
    assert legend_is_beside_the_data(figure)


def test_comparisons_are_filled_where_corrected_p_is_small(answers: pd.DataFrame) -> None:
    table = protocol.transfer_comparisons(answers, tables.MODEL, (tables.MODEL, tables.LLM))
    table = table.assign(p_holm=0.5)
    table.loc[table["comparison"] == "text patch - text prompt", "p_holm"] = 0.01
    figure = transfer.comparisons(table, template=MAIN)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    filled = {names[round(line.get_ydata()[0])] for line in dots if line.get_markerfacecolor() != "white"}
    assert filled == {"text patch - text prompt"}
    shown = table[(table["template"] == MAIN) & (table["task"] == "all") & (table["query"] == "image")]
    assert sorted(line.get_xdata()[0] for line in dots) == pytest.approx(sorted(shown["difference"]))


def test_curve_begins_at_the_instruction_and_at_the_bare_query() -> None:
    figure = ensembles.examples_curve(curve())
    patch, prompt = figure.axes
    for ax in (patch, prompt):
        text, ensemble = (line for line in ax.lines if line.get_marker() not in ("None", ""))
        assert list(text.get_xdata()) == list(ensemble.get_xdata()) == [0, 1, 5, 10]
        assert list(text.get_ydata()) == [0.0, 0.01, 0.05, 0.1]
    assert "20 items, 3 seeds" in figure.get_suptitle()
    assert legend_is_beside_the_data(figure)


def test_curve_per_task_has_a_panel_for_each_task() -> None:
    figure = ensembles.examples_curve_by_task(curve())
    assert [ax.get_title(loc="left").split(",")[0] for ax in figure.axes] == ["a", "b"]


def test_template_matrix_shows_the_rate_of_every_pair_and_its_controls() -> None:
    rates = condition_rates("template")
    figure = robustness.template_matrix(rates, [MAIN, "chat"])
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert len(shown) == 2 * (2 + 4)
    cell = rates.query("query == 'image' and method == 'patch' and setting == 'template 0' and query_template == 1")
    assert shown[1] == f"{cell['exact'].iloc[0]:.2f}"
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"0: {MAIN}", "1: chat", "prompt", "wrong task", "random", "bare"]


@pytest.mark.parametrize(
    ("part", "draw", "panels"),
    [
        ("instruction", robustness.noisy_instructions, 4),
        ("number", robustness.by_level, 2),
        ("labels", robustness.by_level, 2),
        ("strength", robustness.strength, 4),
    ],
)
def test_robustness_figures_have_a_panel_for_each_query_and_way(part: str, draw, panels: int) -> None:  # type: ignore[no-untyped-def]
    rates = condition_rates(part)
    figure = draw(rates)
    assert len(figure.axes) == panels
    own = rates[(rates["method"] == "patch") & (rates["query"] == "image")]["exact"]
    drawn = {round(float(y), 9) for ax in figure.axes for line in ax.lines for y in np.atleast_1d(line.get_ydata())}
    assert {round(value, 9) for value in own} <= drawn
    assert legend_is_beside_the_data(figure)


def test_cost_lines_begin_with_no_examples() -> None:
    sizes = [("none", 0), ("text", 5), ("text", 30), ("image", 1)]
    rows = [
        (method, modality, n, queries, 0.1 * (n + 1), 0.05, 0.3 * (n + 1), 10.0 if queries == 1 else np.nan)
        for (modality, n), method, queries in itertools.product(sizes, ("prompt", "patch", "extract"), (1, 8))
    ]
    columns = ["method", "modality", "examples", "queries", "seconds", "low", "high", "above_mb"]
    table = pd.DataFrame(rows, columns=columns)
    for figure in (prompting_cost.seconds(table), prompting_cost.memory(table)):
        assert [ax.get_title(loc="left") for ax in figure.axes] == ["text examples", "image examples"]
        assert list(figure.axes[0].lines[0].get_xdata()) == [0, 5, 30]
        assert list(figure.axes[1].lines[0].get_xdata()) == [0, 1]
        assert legend_is_beside_the_data(figure)
    assert plt.get_fignums() == []
