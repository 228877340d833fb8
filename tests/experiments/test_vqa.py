"""Question types from the command line, on a tiny random model and VQA sets made on the spot."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from experiments import common, vqa
from interp.protocol.vqa import VqaWork
from interp.tasks.vqa import vqa_accuracy
from tests.places import Place
from tests.vqa_sets import COLOURS, Files, easy_wheel

TABLES = ("accuracy", "summary", "paired", "layers", "sweep")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


def run(argv: Sequence[object]) -> int:
    given = list(map(str, argv))
    return common.run(vqa.Arguments, vqa.main, module=vqa.MODULE, argv=given)


def arguments(place: Place, out: Path, *more: object) -> list[object]:
    given = ["--model", place.vlm, "--out", out, "--shots", 2, "--contexts", 2, "--dtype", "float64"]
    return [*given, "--selection-items", 3, "--test-items", 5, "--layers", 1, 3, *more]


@pytest.fixture(scope="module")
def finished(place: Place, files: Files) -> Path:
    out = place.folder / "files"
    files.write()
    captions = ["--captions", files.folder / "captions.json"]
    assert run(arguments(place, out, *files.options, *captions)) == 0
    return out


def test_every_arm_and_control_stands_beside_the_others(finished: Path) -> None:
    summary = pd.read_csv(finished / "summary.csv").fillna({"source": ""})
    assert set(summary["task"]) == {"all", "food-class", "shirt-color", "man-holding"}
    arms = set(zip(summary["method"], summary["source"], strict=True))
    for source in ("text", "image", "instruction"):
        expected = {"prompt", "patch_single", "control_random", "control_wrong_task", "control_blank"}
        assert {(method, source) for method in expected} <= arms
    assert {("no_context", ""), ("majority", ""), ("control_shuffled", "image"), ("patch_mean", "text")} <= arms
    assert (summary["low"] <= summary["exact"]).all()
    assert (summary["exact"] <= summary["high"]).all()
    single = summary[summary["method"].isin(["patch_single", "prompt"]) & summary["source"].isin(["text", "image"])]
    assert (single["demonstrations"] == 2).all()


def test_accuracy_is_that_of_ten_people(finished: Path, files: Files) -> None:
    answers = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    shirts = [row for row in answers if row["task"] == "shirt-color" and row["method"] == "majority"]
    assert len(shirts) == 5
    for row in shirts:
        assert row["vqa"] == vqa_accuracy(row["answer"], [COLOURS[int(row["item"]) % 3]] * 10)
    table = pd.read_csv(finished / "accuracy.csv").fillna({"source": ""})
    row = table[(table["task"] == "shirt-color") & (table["method"] == "majority")].iloc[0]
    assert row["vqa"] == pytest.approx(sum(one["vqa"] for one in shirts) / 5)
    assert row["low"] <= row["vqa"] <= row["high"]


def test_blank_picture_gives_one_answer_whatever_is_asked(finished: Path) -> None:
    answers = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    blank = [row for row in answers if row["method"] == "control_blank"]
    assert len(blank) == 3 * 3 * 5
    for task in ("food-class", "shirt-color"):
        said = {row["answer"] for row in blank if row["task"] == task and row["source"] == "text"}
        assert len(said) == 1


def test_report_is_complete(finished: Path) -> None:
    report = (finished / "report.html").read_text()
    assert "control_blank" in report
    drawn = {path.name for path in (finished / "figures").iterdir()}
    assert {"methods.png", "methods_image.pdf", "layers.png"} <= drawn
    assert not (finished / "contexts").exists()


def test_resumed_run_gives_the_same_tables(
    place: Place, files: Files, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "resumed"
    argv = arguments(place, out, *files.options, "--captions", files.folder / "captions.json")
    done, perform = [], VqaWork.perform

    def killed(self: VqaWork, unit: object) -> object:
        if len(done) == 19:
            raise KeyboardInterrupt
        done.append(unit)
        return perform(self, unit)

    with monkeypatch.context() as patched:
        patched.setattr(VqaWork, "perform", killed)
        assert run(argv) == 130
    assert run(argv) == 0
    for name in TABLES:
        assert (out / f"{name}.csv").read_text() == (finished / f"{name}.csv").read_text()


def test_easy_vqa_is_the_default(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    easy_wheel(tmp_path / "wheel", monkeypatch)
    assert run(arguments(place, tmp_path / "out", "--source", "text", "--types", "colour", "presence")) == 0
    assert capsys.readouterr().out.rstrip().endswith(str(tmp_path / "out" / "report.html"))
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").fillna({"source": ""})
    assert set(summary["task"]) == {"all", "colour", "presence"}
    answers = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert {row["item"].split()[0] for row in answers} == {"test"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--types", "food-class", "hat-color"], "no question type 'hat-color' for VQAv2"),
        (["--types", "food-class"], "--types names food-class; expected two different types"),
        (["--types", "food-class", "food-class"], "expected two different types"),
        (["--source", "text"], r"picture '\d+' of the question type 'food-class' has no caption"),
        (["--source", "sound"], "--source 'sound' is unknown"),
        (["--layers", 9], "--layers 9 is out of range"),
        (["--shots", 40], "selection items; 40 demonstrations"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    assert run(arguments(place, tmp_path / "out", *files.options, *more)) == 2
    message = capsys.readouterr().err
    assert re.search(said, message)
    assert len(message.strip().splitlines()) == 1


def test_files_go_together(place: Place, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(place, tmp_path / "out", *files.options[:4])) == 2
    assert "--images is missing; a VQA set needs" in capsys.readouterr().err


def test_text_examples_are_left_out_where_no_captions_are(place: Place, files: Files, tmp_path: Path) -> None:
    assert run(arguments(place, tmp_path / "out", *files.options, "--types", "food-class", "shirt-color")) == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").fillna({"source": ""})
    assert set(summary["source"]) == {"", "image", "instruction"}
