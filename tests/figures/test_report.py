"""The report is one page that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from figures import report
from interp.protocol import tables as protocol_tables
from tests.figures import tables

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (600).to_bytes(4, "big") + bytes(20)
VOID = {"meta", "br", "img", "wbr"}


class Balanced(HTMLParser):
    """Fails at a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    found = tables.predictions(items=3)
    return found[found["task"].isin(tables.TASKS[:2])]


@pytest.fixture(scope="module")
def page(predictions: pd.DataFrame) -> str:
    return report.cross_modal_report(
        title="Patching <bundled>",
        lead=["5 demonstrations & a dummy query."],
        summary=protocol_tables.summary_table(predictions),
        paired=protocol_tables.paired_table(predictions),
        layers=tables.layers(),
        predictions=predictions,
        figures={"methods": (PNG, "every arm"), "layers": (PNG, "every layer")},
        pictures={(tables.TASKS[0], "item 0"): b"not really a PNG"},
        details={"Configuration": '{"template": "Q:{x}"}'},
    )


def test_page_is_self_contained(page: str) -> None:
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert 'width="300"' in page
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_page_is_well_formed_and_escapes_what_models_say(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "wrong <b>" not in page
    assert "wrong &lt;b&gt;" in page
    assert "Patching &lt;bundled&gt;" in page


def test_examples_show_the_first_items_of_each_task_with_every_method(predictions: pd.DataFrame, page: str) -> None:
    assert report.example_items(predictions) == [(task, f"item {i}") for task in tables.TASKS[:2] for i in (0, 1)]
    card = page.split('<div class="card">')[1]
    shown = predictions[predictions["layer_choice"].isin(["", "pooled"]) & (predictions["query"] == "image")]
    arms = shown[["method", "source", "source_model"]].drop_duplicates()
    assert card.count("<tr>") == len(arms)


def test_rates_have_intervals_and_numbers_of_items(page: str) -> None:
    cell = re.search(r'title="(\.\d\d|1\.0)–(\.\d\d|1\.0), n = 3">(\.\d\d|1\.0)<', page)
    assert cell is not None


def test_markdown_has_a_row_for_each_arm_and_a_cell_for_each_column(predictions: pd.DataFrame) -> None:
    text = report.markdown_table(protocol_tables.summary_table(predictions))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    arms = predictions[predictions["layer_choice"].isin(["", "pooled"])]
    n_arms = len(arms[["method", "source", "source_model"]].drop_duplicates())
    assert len(rows) == 2 * (2 + n_arms)
    assert {row.count("|") for row in rows} == {3 + 2 + 1}
