"""Difficulties: what a calibration chooses, and what a file of them may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from interp.errors import CrosstaskError
from interp.tuning.matrix.calibration import COLUMNS, choose_row, chosen, difficulties_of, grid, read_difficulties
from interp.tuning.matrix.plan import MatrixSettings


def rows(frozen: list[float], gain: list[float | None]) -> pd.DataFrame:
    made = [
        {"task": "jigsaw", "difficulty": 0.25 * i, "frozen": f, "gain": g, "chosen": False}
        for i, (f, g) in enumerate(zip(frozen, gain, strict=True))
    ]
    return pd.DataFrame(made, columns=list(COLUMNS))


def test_with_direct_training_the_largest_gain_below_the_ceiling_is_taken() -> None:
    table = rows([0.95, 0.7, 0.6, 0.5], [0.0, 0.1, 0.3, 0.2])
    assert choose_row(table) == 2
    assert choose_row(rows([0.9, 0.7, 0.6], [0.5, 0.1, 0.1])) == 1  # the easier of two equal ones


def test_without_direct_training_the_easiest_below_the_ceiling_is_taken() -> None:
    assert choose_row(rows([0.95, 0.8, 0.6], [None] * 3)) == 1
    assert choose_row(rows([0.95, 0.9, 0.85], [None] * 3)) == 2  # the hardest, where all are above


def test_grid_asks_selection_items_at_each_difficulty() -> None:
    settings = MatrixSettings(model="m", sources=("counting",), targets=("jigsaw", "relative_depth/words"), items=5)
    points = list(grid(settings, difficulties=(0.0, 0.5), direct=True))
    assert [(point.task, point.difficulty) for point in points] == [
        (task, d) for task in settings.targets for d in (0.0, 0.5)
    ]
    for point in points:
        assert [job.kind for job in point.jobs] == ["train", "evaluate", "evaluate"]
        assert all(job.config["difficulty"] == point.difficulty for job in point.jobs)
        assert {job.config["split"] for job in point.jobs if job.kind == "evaluate"} == {"selection"}
        assert {key for job in point.jobs for key in job.needs} == {point.jobs[0].key}
    keys = [job.key for point in points for job in point.jobs]
    assert len(set(keys)) == len(keys)
    with pytest.raises(CrosstaskError, match="between 0 and 1"):
        list(grid(settings, difficulties=(2.0,)))


def test_tasks_that_a_file_does_not_name_get_the_usual_difficulty(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"RD": 0.25, "jigsaw/yes_no": 1}')
    found = difficulties_of(["relative_depth/words", "counting"], tmp_path / "d.json", otherwise=0.4)
    assert found == {"relative_depth": 0.25, "counting": 0.4, "jigsaw": 1.0}
    assert difficulties_of(["counting"], None, otherwise=0.0) == {"counting": 0.0}
    with pytest.raises(CrosstaskError, match="between 0 and 1, and was given as 2"):
        difficulties_of(["counting"], None, otherwise=2)


def test_difficulties_are_read_from_json_and_from_a_calibrations_table(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"jigsaw": 0.25, "counting": 1}')
    assert read_difficulties(tmp_path / "d.json") == {"jigsaw": 0.25, "counting": 1.0}
    table = rows([0.95, 0.7, 0.6], [None] * 3)
    table.loc[1, "chosen"] = True
    table.to_csv(tmp_path / "d.csv", index=False)
    assert read_difficulties(tmp_path / "d.csv") == chosen(table) == {"jigsaw": 0.25}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("d.json", "[0.5]", "holds a list; expected an object"),
        ("d.json", '{"jigsaw": 2}', "'jigsaw' the difficulty 2; expected a number from 0 to 1"),
        ("d.json", '{"jigsaw": "hard"}', "the difficulty 'hard'"),
        ("d.json", '{"jigsaw": ', "cannot be read"),
        ("d.csv", "task,level\njigsaw,1\n", "has no column 'difficulty'"),
        ("d.csv", "task,difficulty\njigsaw,1\njigsaw,0\n", "gives 'jigsaw' two difficulties"),
    ],
)
def test_bad_files_of_difficulties_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CrosstaskError, match=said):
        read_difficulties(tmp_path / name)


def test_settings_are_plain_json() -> None:
    settings = MatrixSettings(model="m", sources=("counting",), targets=("jigsaw",))
    assert json.loads(json.dumps(settings.config()))["items"] == 200
    assert "sources" not in settings.config()
    assert settings.extent()["sources"] == ("counting",)
