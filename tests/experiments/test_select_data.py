"""Data selection from the command line on a tiny model, from a matrix that is written by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from experiments import select_data
from interp.errors import CrosstaskError
from interp.tuning.matrix.plan import MatrixSettings
from interp.tuning.selection.plan import Arm, arms, counts, factors, read_matrix
from tests.places import Place, refuses, start

TASKS = ("counting", "relative_depth", "spatial_relation", "object_localization")


def matrix_folder(folder: Path, model: str, *, split: str = "selection") -> Path:
    """A measured matrix: of the sources proper spatial_relation and counting help relative_depth most."""
    settings = MatrixSettings(
        model=model,
        sources=(*TASKS, "random_key"),
        targets=TASKS,
        training={"strategy": "lora", "rank": 2, "examples": 8, "steps": 2, "batch": 4, "learning_rate": 0.01},
        split=split,
        size=32,
        loading={"dtype": "float64"},
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings.config()))
    (folder / "extent.json").write_text(json.dumps(settings.extent()))
    gains = {"spatial_relation": 0.2, "counting": 0.1, "object_localization": -0.1, "random_key": 0.4}
    rows = [("baseline", 0.5)] + [(source, 0.5 + gains.get(source, 0.3)) for source in settings.sources]
    cells = [
        {"source": source, "seed": 0, "fraction": 1.0, "target": target, "form": "", "accuracy": accuracy}
        for target in TASKS
        for source, accuracy in rows
    ]
    pd.DataFrame(cells).to_csv(folder / "cells.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("place"))
    matrix_folder(place.folder / "matrix", str(place.vlm))
    return place


def arguments(place: Place, out: Path, *more: object) -> list[object]:
    given = ["--target", "RD", "--matrix", place.folder / "matrix", "--sources", 2, "--draws", 2, "--items", 8]
    return [*given, "--seeds", 0, "--dtype", "float64", "--out", out, *more]


def test_factors_leave_out_the_target_itself_and_the_controls(place: Place) -> None:
    found = factors(read_matrix(place.folder / "matrix"), "relative_depth")
    assert found == pytest.approx({"spatial_relation": 0.4, "counting": 0.2, "object_localization": -0.2})


def test_guided_takes_the_best_and_random_never_the_same() -> None:
    ranked = {"a": 0.4, "b": 0.1, "c": 0.0, "d": -0.2}
    guided, *drawn, direct = arms(ranked, "t", sources=2, draws=9)
    assert guided == Arm("guided", {"a": 0.5, "b": 0.5})
    assert direct == Arm("direct", {"t": 1.0})
    assert len(drawn) == 5  # of six pairs all but the guided one
    assert all(set(arm.shares) != {"a", "b"} for arm in drawn)
    by_factor, *_ = arms(ranked, "t", sources=2, draws=1, weights="pgf")
    assert by_factor.shares == pytest.approx({"a": 0.8, "b": 0.2})
    with pytest.raises(CrosstaskError, match="no source has a positive factor"):
        arms({"a": 0.0, "b": -0.1}, "t", sources=1, draws=1)
    with pytest.raises(CrosstaskError, match="cannot be chosen"):
        arms(ranked, "t", sources=4, draws=1)


def test_shares_become_whole_numbers_that_add_up() -> None:
    assert counts({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 100) == {"a": 34, "b": 33, "c": 33}
    assert counts({"a": 0.8, "b": 0.2}, 7) == {"a": 6, "b": 1}


def test_arms_are_tested_on_the_same_test_items_at_the_same_budget(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert start(select_data, arguments(place, out)) == 0
    table = pd.read_csv(out / "selection.csv").set_index("arm")
    assert list(table.index) == ["frozen", "guided", "random", "direct", "random1", "random2"]
    assert table.loc["guided", "sources"] == "spatial_relation 50 %, counting 50 %"
    assert (table["n"] == 8).all()
    assert table.loc["random", "accuracy"] == pytest.approx(table.loc[["random1", "random2"], "accuracy"].mean())
    difference = table.loc["guided", "accuracy"] - table.loc["random", "accuracy"]
    assert table.loc["guided", "over_random"] == pytest.approx(difference)
    records = [json.loads(path.read_text()) for path in out.glob("jobs/train/**/adapter/run.json")]
    assert len(records) == 4
    assert {(record["steps"], record["data"]["examples"]) for record in records} == {(2, 8)}
    items = {json.loads(line)["item"] for path in out.glob("jobs/evaluate/**/records/*.jsonl") for line in path.open()}
    assert len(items) == 8
    assert all(name.split("/")[2] == "test" for name in items)
    before = (out / "selection.csv").read_bytes()
    assert start(select_data, arguments(place, out)) == 0
    assert (out / "selection.csv").read_bytes() == before


def test_matrix_of_test_items_is_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = matrix_folder(tmp_path / "matrix", str(place.vlm), split="test")
    refuses(
        select_data,
        arguments(place, tmp_path / "out", "--matrix", folder),
        "--split selection",
        capsys,
        tmp_path / "out",
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--target", "JG"], "has no target 'jigsaw'"),
        (["--sources", "3"], "a mixture of 3 sources cannot be chosen"),
        (["--matrix", "nowhere"], "nowhere holds no transfer matrix"),
        (["--dtype", "float32"], "the matrix was measured with"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    refuses(select_data, arguments(place, tmp_path / "out", *more), said, capsys, tmp_path / "out")


def test_settings_come_back_from_a_folder(place: Place) -> None:
    found = read_matrix(place.folder / "matrix").settings
    assert asdict(found)["training"]["steps"] == 2
    assert found.targets == TASKS
