"""The tables of docs/scaling.md are those that the command writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import common, scaling
from interp.errors import CrosstaskError
from interp.models.base import Model

DOCUMENT = Path(__file__).parents[2] / scaling.DOCUMENT


def test_document_holds_the_predictions_of_the_formulas() -> None:
    text = DOCUMENT.read_text()
    assert common.replace_table(text, "predictions", common.markdown(scaling.prediction_table())) == text


def test_every_count_of_the_document_is_the_one_on_paper() -> None:
    _, _, rest = DOCUMENT.read_text().partition("<!-- counts -->\n")
    rows = [line.strip("| ").split(" | ") for line in rest.partition("<!-- end -->")[0].splitlines()][2:]
    assert len(rows) == 9
    for row in rows:
        assert row[4] == row[5]
        assert row[6] == row[7]


def test_counting_sees_what_a_sweep_runs(llava: Model) -> None:
    table = scaling.count_table(llava)
    assert (table["token-forwards, counted"] == table["on paper"]).all()
    assert (table["vision passes, counted"] == table["on paper "]).all()
    assert table["token-forwards, counted"].nunique() == 9


def test_tables_go_where_the_document_says() -> None:
    text = "a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\n"
    once = common.replace_table(text, "one", "new")
    assert once == "a\n<!-- one -->\nnew\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\n"
    assert common.replace_table(once, "two", "x").endswith("<!-- two -->\nx\n<!-- end -->\n")
    with pytest.raises(CrosstaskError, match="no place for the table 'three'"):
        common.replace_table(text, "three", "x")
