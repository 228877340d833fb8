"""Contact sheets from the command line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from experiments import contact_sheets
from tests.places import refuses, start

run = partial(start, contact_sheets)
FEW = ["--items", 2, "--size", 32, "--difficulty", 0, 1]


def test_there_is_a_sheet_for_each_task_and_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheets"
    assert run([*FEW, "--tasks", "visual_correspondence", "caption", "--out", out]) == 0
    expected = {"VC_marks.png", "VC_yes_no.png", "CP_words.png"}
    assert {path.name for path in out.iterdir()} == expected
    assert {Path(line).name for line in capsys.readouterr().out.split()} == expected
    for path in out.iterdir():
        with Image.open(path) as sheet:
            assert min(sheet.size) > 100


def test_the_same_command_draws_the_same_sheet_and_another_seed_another(tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 0, 1):
        assert run([*FEW, "--tasks", "DS", "--form", "words", "--seed", seed, "--out", tmp_path]) == 0
        drawn.append((tmp_path / "DS_words.png").read_bytes())
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_tasks_without_the_form_are_left_out(tmp_path: Path) -> None:
    assert run([*FEW, "--tasks", "VC", "DS", "--form", "words", "--out", tmp_path]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["DS_words.png"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--tasks", "VX"], "no perception task 'VX'"),
        (["--tasks", "VC", "--form", "words"], "None of the tasks has the form 'words'"),
        (["--tasks", "VC", "--items", "0"], "--items 0 is no number of items"),
        (["--tasks", "VC", "--difficulty", "2"], "difficulty 2.0 is out of range"),
        (["--tasks", "VC", "--difficulty"], "--difficulty has no value"),
    ],
)
def test_bad_input_is_one_sentence(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheets"
    refuses(contact_sheets, [*given, "--out", out], said, capsys, out)
