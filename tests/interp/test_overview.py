"""The page about models is what the registry says, and its last part what pytest reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import common, model_table
from interp.errors import CrosstaskError
from interp.models.families import families
from interp.models.families.base import Family
from interp.models.loading import SHIPPED
from interp.models.overview import REAL_WEIGHTS, battery_part, entries, read_battery, registry_part
from interp.models.pairs import KNOWN
from tests.tiny_families import TEXT, VISION

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
REPORT = """<testsuites><testsuite>
<testcase name="test_a_claim[llava]"/>
<testcase name="test_a_claim[fuyu]"><failure>why</failure></testcase>
<testcase name="test_a_claim[llama]"/>
<testcase name="test_of_two_kinds[text queries-llava]"/>
<testcase name="test_of_two_kinds[llava-image queries]"><error>why</error></testcase>
<testcase name="test_of_two_kinds[text queries-fuyu]"/>
<testcase name="test_of_one_family[llava]"/>
<testcase name="test_without_a_model"/>
</testsuite></testsuites>"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "battery.xml"
    path.write_text(REPORT)
    return path


def test_committed_page_holds_what_the_registry_says() -> None:
    assert registry_part() in PAGE.read_text(encoding="utf-8"), "run `make docs`"


def test_committed_page_has_a_row_of_the_battery_for_every_tiny_model() -> None:
    part = PAGE.read_text(encoding="utf-8").partition("## What the battery found")[2]
    rows = [line.split("`")[1] for line in part.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted({*VISION, *TEXT})


def test_every_registered_type_and_known_pair_is_on_the_page() -> None:
    text = registry_part()
    assert [entry.model_type for entry in entries()] == ["llama", *sorted(families())]
    assert all(f"| `{model_type}` |" in text for model_type in families())
    assert all(name in text for family in families().values() for name in family.examples)
    assert all(f"| {pair.llm} | {pair.vlm} |" in text for pair in KNOWN)
    assert set(REAL_WEIGHTS) == set(SHIPPED)


def test_page_follows_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    before = registry_part()
    monkeypatch.setattr(type(families()["llava"]), "causal_prefix", False)
    assert registry_part() != before
    assert {e.model_type: e.engines for e in entries()}["llava"] == ("plain",)


def test_engines_are_those_of_the_architecture() -> None:
    found = {entry.model_type: entry for entry in entries()}
    assert found["llava"].engines == found["qwen2_5_vl"].engines == ("packed", "copied", "plain")
    assert found["paligemma"].engines == ("plain",)
    assert found["gemma3"].layers == ("sliding_attention", "full_attention")
    assert found["gemma3"].windowed
    assert not found["llava"].windowed
    assert type(found["llama"].family) is Family


def test_battery_points_are_tests_over_most_models_and_fail_if_any_kind_does(report: Path) -> None:
    points = read_battery(report)
    assert points == {
        "test_a_claim": {"llava": True, "fuyu": False, "llama": True},
        "test_of_two_kinds": {"llava": False, "fuyu": True},
    }
    lines = battery_part(points).splitlines()
    assert "1. a claim" in lines
    assert lines[-3:] == ["| `llava` | + | **fails** |", "| `fuyu` | **fails** | + |", "| `llama` | + |  |"]


def test_page_is_written_from_a_report(report: Path, tmp_path: Path) -> None:
    out = tmp_path / "models.md"
    argv = ["--report", str(report), "--out", str(out)]
    assert common.run(model_table.Arguments, model_table.main, module=model_table.MODULE, argv=argv) == 0
    text = out.read_text(encoding="utf-8")
    assert registry_part() in text
    assert "2. of two kinds" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is no JUnit report"),
        ("<testsuite>", "is no JUnit report"),
        ("<testsuite><testcase name='test_a'/></testsuite>", "no test that was run on several families"),
    ],
)
def test_report_of_something_else_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "other.xml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CrosstaskError, match=said):
        read_battery(path)
