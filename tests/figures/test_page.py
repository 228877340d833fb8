"""The page that every experiment writes."""

from __future__ import annotations

import io
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure

from figures.page import Section, cell, page, table_with_note


def png() -> bytes:
    buffer = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


class Seen(HTMLParser):
    """Tags that were opened and not closed, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_refers_to_nothing_outside() -> None:
    table = pd.DataFrame({"name": ["a < b"], "rate": [0.123]})
    text = page(
        "Title & more",
        ["Asked <this>."],
        [Section("Figures", figures=[(png(), "a figure")]), Section("Tables", tables=[(table, "a note")])],
        {"Configuration": '{"a": 1}'},
    )
    seen = Seen()
    seen.feed(text)
    assert seen.open == []
    assert [address[:22] for address in seen.addresses] == ["data:image/png;base64,"]
    for shown in ("Title &amp; more", "Asked &lt;this&gt;.", "a &lt; b", ".12", "a note", 'width="50"'):
        assert shown in text


def test_text_is_left_and_numbers_are_right() -> None:
    found = table_with_note(pd.DataFrame({"some_name": ["x"], "n": [12]}))
    assert '<th class="text">some name</th><th>n</th>' in found
    assert '<td class="text">x</td><td>12</td>' in found


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.123, ".12"),
        (-0.5, "-.50"),
        (0.0, ".00"),
        (0.999, "1.00"),
        (1e-5, "1.0e-05"),
        (1234.5, "1,234.50"),
        (12, "12"),
        ("a", "a"),
        (None, ""),
        (float("nan"), ""),
        (pd.NA, ""),
        (True, "True"),
    ],
)
def test_cells_read_well(value: object, shown: str) -> None:
    assert cell(value) == shown
