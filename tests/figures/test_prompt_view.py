"""The view of one prompt: whole, self-contained, and safe against what stands in the prompt."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from figures.prompt_view import SCRIPT, framed, prompt_view

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    """Three tokens, two layers."""
    tokens = pd.DataFrame(
        {
            "position": [0, 1, 2],
            "text": [HOSTILE, "<image>", ":"],
            "role": ["input", "input", "frame"],
            "example": [0, pd.NA, pd.NA],
            "image": [pd.NA, 0, pd.NA],
            "delimiter": [False, False, True],
        }
    ).astype({"example": "Int64", "image": "Int64"})
    places = [(position, layer) for layer in (0, 1) for position in (0, 1, 2)]
    lens = pd.DataFrame(
        [
            {"position": p, "layer": k, "rank": r, "token": f"t{p}{k}{r}", "probability": 0.5 / (r + 1)}
            for p, k in places
            for r in (0, 1)
        ]
    )
    effects = pd.DataFrame(
        [{"position": p, "layer": k, "lens_answer": p / 10, "gain": p - k, "says": HOSTILE} for p, k in places]
    )
    return {
        "tokens": tokens,
        "lens": lens,
        "effects": effects,
        "controls": pd.DataFrame({"layer": [1, 0], "gain": [4.0, 3.0]}),
    }


def data_of(view: str) -> dict:
    (stored,) = re.findall(r'<script type="application/json">(.*?)</script>', view, re.DOTALL)
    return json.loads(stored)


def test_data_comes_through_by_token_and_layer(tables: dict[str, pd.DataFrame]) -> None:
    data = data_of(prompt_view(**tables, answer="Oslo", pictures=[PNG]))
    assert [token["text"] for token in data["tokens"]] == [HOSTILE, "<image>", ":"]
    assert [token["image"] for token in data["tokens"]] == [None, 0, None]
    assert data["start"] == 2
    assert data["layers"] == 2
    assert data["cells"]["gain"] == [0, -1, 1, 0, 2, 1]  # position by position, layers inside
    assert data["controls"] == [3, 4]
    words = [[data["words"][word] for word, _ in cell] for cell in data["lens"]]
    assert words == [
        ["t000", "t001"],
        ["t010", "t011"],
        ["t100", "t101"],
        ["t110", "t111"],
        ["t200", "t201"],
        ["t210", "t211"],
    ]
    assert {data["words"][i] for i in data["says"]} == {HOSTILE}


def test_text_of_the_prompt_cannot_leave_the_data(tables: dict[str, pd.DataFrame]) -> None:
    view = prompt_view(**tables, answer=HOSTILE)
    assert HOSTILE not in view
    assert HOSTILE not in prompt_view(**tables, answer="Oslo")
    assert view.count("<script") == 2
    assert view.count("</script>") == 2
    assert "innerHTML" not in view


def test_view_refers_to_nothing_outside(tables: dict[str, pd.DataFrame]) -> None:
    view = prompt_view(**tables, answer="Oslo", pictures=[PNG])
    assert not re.search(r"https?://|\b(?:src|href)=[\"']", view)
    assert "data:image/png;base64," in view


def test_view_without_patches_has_the_lens_alone(tables: dict[str, pd.DataFrame]) -> None:
    view = prompt_view(
        tables["tokens"], tables["lens"], tables["effects"].drop(columns=["gain", "says"]), answer="Oslo"
    )
    assert "patch effect</th>" not in view
    assert set(data_of(view)["cells"]) == {"lens_answer"}


def test_frame_holds_the_view_as_it_is(tables: dict[str, pd.DataFrame]) -> None:
    view = prompt_view(**tables, answer="Oslo")
    frame = framed(view, height=300)
    (inside,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert view in unescape(inside)
    assert "height: 300px" in frame


def test_without_a_script_the_prompt_and_its_last_delimiter_are_there(tables: dict[str, pd.DataFrame]) -> None:
    bare = re.sub(r"<script.*?</script>", "", prompt_view(**tables, answer="Oslo"), flags=re.DOTALL)
    (head,) = re.findall(r"<thead>(.*?)</thead>", bare, re.DOTALL)
    assert re.findall(r"<th[^>]*>(.*?)</th>", head) == [
        "layer",
        "lens 1",
        "lens 2",
        "patch effect",
        "says",
        "random vector",
    ]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", bare.partition("<tbody>")[2])]
    plain = [[re.sub(r"<[^>]*>", "", cell) for cell in row] for row in rows]
    assert [row[:4] + row[5:] for row in plain] == [
        ["1", "t210 0.50", "t211 0.25", "+1.00", "+4.00"],
        ["0", "t200 0.50", "t201 0.25", "+2.00", "+3.00"],
    ]
    text = unescape(re.sub(r"<[^>]*>", "", bare))
    assert f"{HOSTILE}[image 1]:" in text


def test_every_key_that_the_view_promises_is_handled(tables: dict[str, pd.DataFrame]) -> None:
    view = prompt_view(**tables, answer="Oslo")
    for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"):
        assert f"{key}: () =>" in view
    assert '<canvas tabindex="0"' in view
    assert 'aria-live="polite"' in view
    assert "@media print" in view


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_script_is_valid(tmp_path: Path) -> None:
    (tmp_path / "view.js").write_text(SCRIPT, encoding="utf-8")
    subprocess.run(["node", "--check", "view.js"], cwd=tmp_path, check=True)
