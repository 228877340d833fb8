"""Figures and the table of the logit lens, from made-up tables in the columns that the protocols write."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pandas as pd
import pytest

from figures import lens

TASKS, LAYERS = ["country-capital", "food-color"], 6


@pytest.fixture
def evolution() -> pd.DataFrame:
    rows = []
    curves = ("input", "task", "answer", "other_task", "other_answer")
    for task, query, labels, curve, layer in itertools.product(
        [*TASKS, "all"], ("text", "image"), ("right", "shuffled"), curves, range(LAYERS)
    ):
        height = layer / LAYERS if curve == "answer" else 0.3
        where = {"task": task, "source": query, "query": query, "labels": labels, "curve": curve, "layer": layer}
        rows.append({**where, "relative": height, "low": height - 0.1, "high": height + 0.1, "sets": 10, "items": 8})
    return pd.DataFrame(rows)


@pytest.fixture
def switches() -> pd.DataFrame:
    rows = [
        {"task": task, "query": query, "labels": labels, "switch": switch, "layer": layer, "low": 1, "high": high}
        for task, query, labels in itertools.product([*TASKS, "all"], ("text", "image"), ("right", "shuffled"))
        for switch, layer, high in (("input ends", 2, 3), ("answer over task", None, None))
    ]
    return pd.DataFrame(rows).astype({"layer": "Int64", "low": "Int64", "high": "Int64"})


def test_evolution_has_a_panel_per_query_and_task_with_bands_and_the_dashed_control(
    evolution: pd.DataFrame, switches: pd.DataFrame
) -> None:
    figure = lens.token_evolution(evolution, switches)
    assert len(figure.axes) == 6
    for ax in figure.axes:
        curves = [line for line in ax.lines if len(line.get_xdata()) == LAYERS]
        assert [line.get_linestyle() for line in curves].count("--") == 3
        assert len(curves) == 6
        marks = [line for line in ax.lines if line.get_marker() == "|"]
        assert [list(mark.get_xdata()) for mark in marks] == [[2.0]]  # the switch that never happens has no mark
    assert "10 example sets a task, of 8 queries" in figure.get_suptitle()
    figure.savefig(io.BytesIO())


def test_switch_that_may_not_happen_reaches_past_the_last_layer(
    evolution: pd.DataFrame, switches: pd.DataFrame
) -> None:
    (first, second) = lens.token_evolution(evolution, switches).axes[0].collections[-2:]
    assert [tuple(point) for point in first.get_segments()[0][:, :1].T] == [(1.0, 3.0)]
    assert [tuple(point) for point in second.get_segments()[0][:, :1].T] == [(1.0, LAYERS - 0.5)]


def test_controls_stand_beside_task_and_answer(evolution: pd.DataFrame) -> None:
    figure = lens.evolution_controls(evolution[~evolution["curve"].eq("other_task")])  # a run of a single task
    for ax in figure.axes:
        assert [line.get_linestyle() for line in ax.lines if len(line.get_xdata())].count(":") == 1


def rank_table() -> pd.DataFrame:
    rows = []
    for task, vector, tokens, layer in itertools.product(
        TASKS, ("text", "instruction", "image minus text"), ("task words", "answers"), range(LAYERS)
    ):
        where = {"task": task, "vector": vector, "tokens": tokens, "layer": layer}
        missing = np.nan if vector == "instruction" else 1.0
        rows.append({**where, "control": "", "rank": 10, "low": 5 * missing, "high": 20 * missing})
        rows.append({**where, "control": "other tasks", "rank": 500, "low": 100, "high": 900})
        if vector == "text":
            rows.append({**where, "control": "random", "rank": 9000, "low": 4000, "high": 20000})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("tokens", ["task words", "answers"])
def test_ranks_have_specifications_above_differences_and_the_best_on_top(tokens: str) -> None:
    figure = lens.ranks_over_layers(rank_table(), tokens=tokens)
    assert len(figure.axes) == 2 * len(TASKS)
    top, bottom = figure.axes[0], figure.axes[len(TASKS)]
    assert (len(top.lines), len(bottom.lines)) == (5, 3)
    assert top.yaxis_inverted()
    assert top.get_yscale() == "log"
    figure.savefig(io.BytesIO())


def test_token_table_marks_task_words_and_answers_and_escapes_tokens() -> None:
    tokens = pd.DataFrame(
        {"task": "food-color", "vector": "text", "control": control, "layer": layer, "place": place}
        | {"token": "<b" if place == 2 else "color", "probability": 0.25, "task_word": place == 1, "answer": place == 3}
        for control in ("", "random")
        for layer in range(3)
        for place in range(1, 8)
    )
    html = lens.token_table(tokens, layers=[0, 2], count=3)
    assert (
        html.count("<td class='text'><b>color</b> <small>.25</small><br>&lt;b <small>.25</small><br><u>color</u>") == 4
    )
    assert "layer 2" in html
    assert "layer 1" not in html
    assert "control: random" in html
