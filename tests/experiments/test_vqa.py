"""Question types from the command line, on a tiny random model and VQA sets made on the spot."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image as Pillow

from experiments import common, vqa
from interp.images import Image
from interp.models.base import load_model
from interp.patching import generate
from interp.prompts import Specification, Template, render
from interp.protocol.vqa import VqaWork, load_types
from interp.tasks.vqa import vqa_accuracy
from interp.vectors import TaskVectors
from tests import tiny
from tests.places import Place, start
from tests.vqa_sets import COLOURS, Files, easy_wheel

TABLES = ("accuracy", "comparisons", "summary", "layers", "sweep")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


run = partial(start, vqa)


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
    alone = {("no_context", ""), ("majority", ""), ("question", ""), ("question_blank", "")}
    assert alone | {("control_shuffled", "image"), ("patch_mean", "text")} <= arms
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


def test_question_is_asked_as_it_stands_with_and_without_its_picture(
    place: Place, files: Files, finished: Path
) -> None:
    model = load_model(str(place.vlm), dtype="float64")
    answers = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    template = Template.parse(vqa.Arguments().template)
    asked = Specification(instruction="What kind of food is this?")
    for method in ("question", "question_blank"):
        rows = [row for row in answers if row["method"] == method and row["task"] == "food-class"]
        assert len(rows) == 5
        for row in rows:
            path = files.images / f"COCO_val2014_{int(row['item']):012d}.jpg"
            picture = (
                Image(path=path) if method == "question" else Image(pixels=Pillow.new("RGB", (64, 64), (128,) * 3))
            )
            (alone,) = generate(model, [render(model, asked, picture, template=template)], max_new_tokens=40)
            assert alone.text.startswith(row["answer"])
    blank = [row["answer"] for row in answers if row["method"] == "question_blank" and row["task"] == "food-class"]
    assert len(set(blank)) == 1


def test_accuracy_is_the_mean_over_types_and_differences_are_paired_by_picture(finished: Path) -> None:
    table = pd.read_csv(finished / "accuracy.csv").fillna({"source": "", "layer_choice": ""})
    for _, arm in table.groupby(["method", "source", "layer_choice"]):
        overall, types = arm[arm["task"] == "all"], arm[arm["task"] != "all"]
        assert overall["vqa"].item() == pytest.approx(types["vqa"].mean())
        assert (arm["low"] < arm["high"]).all()  # where nothing varies too
    answers = pd.read_json(finished / "predictions.jsonl", lines=True)
    found = pd.read_csv(finished / "comparisons.csv")
    expected = {"prompt", "question", "question_blank", "no_context", "majority", "control_random"}
    expected |= {"control_wrong_task", "control_blank"}
    assert expected <= set(found["against"])
    pooled = answers[answers["layer_choice"].isin(["", "pooled"])]
    mean = pooled.groupby(["method", "source", "task"])["vqa"].mean()
    for row in found[found["task"] != "all"].itertuples():
        source = "" if (row.against, "", row.task) in mean.index else row.source
        difference = mean[row.method, row.source, row.task] - mean[row.against, source, row.task]
        assert row.difference == pytest.approx(difference)
        assert row.low <= row.difference <= row.high
    assert (found["p_holm"] >= found["p"]).all()


def test_vectors_layers_and_scores_are_of_different_pictures(place: Place, files: Files, finished: Path) -> None:
    answers = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    scored = {(row["task"], row["item"]) for row in answers}
    tasks = load_types((), *files.write(), None)
    for name, found in tasks.items():
        chosen = {item.image.read_bytes() for item in found.task.split("selection")}
        items = {item.input: item for item in found.task.items}
        assert not chosen & {items[item].image.read_bytes() for task, item in scored if task == name}
        for vectors in (finished / "vectors").rglob(f"{name}-*.safetensors"):
            shown = TaskVectors.load(vectors).provenance.items
            assert not set(shown) & {item for task, item in scored if task == name}


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
    more = ["--source", "text", "--types", "colour", "presence", "food-class"]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    assert capsys.readouterr().out.rstrip().endswith(str(tmp_path / "out" / "report.html"))
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").fillna({"source": ""})
    assert set(summary["task"]) == {"all", "colour", "presence", "food-class"}
    answers = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert {row["item"].split()[0] for row in answers if row["task"] != "food-class"} == {"test"}
    assert all(row["item"].startswith("foods/") for row in answers if row["task"] == "food-class")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--types", "food-class", "hat-color"], "no question type 'hat-color' for VQAv2"),
        (["--types", "food-class"], "--types names food-class; expected two different types"),
        (["--types", "food-class", "food-class"], "expected two different types"),
        (["--source", "text"], r"picture '\d+' of the question type 'food-class' has no caption"),
        (["--source", "sound"], "--source 'sound' is unknown"),
        (["--layers", 9], "--layers 9 is out of range"),
        (["--shots", 40], r"type 'food-class' has 30 pictures in .*; --shots 40 needs 42 and 1, so use fewer shots"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    assert run(arguments(place, tmp_path / "out", *files.options, *more)) == 2
    message = capsys.readouterr().err
    assert re.search(said, message)
    assert len(message.strip().splitlines()) == 1


def test_a_type_with_two_questions_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = Files(tmp_path / "set", pictures=12)
    kept = [entry for entry in few.questions["questions"] if "holding" not in entry["question"]]
    few.questions["questions"] = kept
    for picture in (0, 1):
        few.add(picture, "What is the man holding?", "phone")
    few.annotations["annotations"] = list({a["question_id"]: a for a in few.annotations["annotations"]}.values())
    assert run(arguments(place, tmp_path / "out", *few.options)) == 2
    message = capsys.readouterr().err
    assert re.search(r"type 'man-holding' has 2 pictures in .*questions\.json, \d to show", message)
    assert len(message.strip().splitlines()) == 1


def test_a_picture_that_cannot_be_decoded_stops_or_is_left_out(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = Files(tmp_path / "set")
    for picture in (3, 6):  # one of each split
        (torn.images / f"COCO_val2014_{picture:012d}.jpg").write_bytes(b"not a picture")
    (torn.images / "COCO_val2014_000000000005.jpg").unlink()
    more = ["--types", "food-class", "shirt-color", "--source", "instruction"]
    assert run(arguments(place, tmp_path / "out", *torn.options, *more)) == 2
    assert "holds no COCO_val2014_000000000005.jpg" in capsys.readouterr().err
    tiny.picture(5).load().save(torn.images / "COCO_val2014_000000000005.jpg")
    assert run(arguments(place, tmp_path / "out", *torn.options, *more)) == 2
    assert re.search(r"COCO_val2014_00000000000[36]\.jpg' cannot be decoded", capsys.readouterr().err)
    assert run(arguments(place, tmp_path / "out", *torn.options, *more, "--on-error", "continue")) == 0
    assert "Skipped: " in capsys.readouterr().out
    answers = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert not {"3", "6"} & {row["item"] for row in answers}


def test_files_go_together(place: Place, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(place, tmp_path / "out", *files.options[:4])) == 2
    assert "--images is missing; a VQA set needs" in capsys.readouterr().err


def test_text_examples_are_left_out_where_no_captions_are(place: Place, files: Files, tmp_path: Path) -> None:
    assert run(arguments(place, tmp_path / "out", *files.options, "--types", "food-class", "shirt-color")) == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").fillna({"source": ""})
    assert set(summary["source"]) == {"", "image", "instruction"}


def test_full_takes_all_types_three_seeds_and_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    easy_wheel(tmp_path, monkeypatch)
    quick, full = vqa.Arguments(), vqa.Arguments(full=True, contexts=3)
    assert set(load_types((), None, None, None, None)) < set(load_types((), None, None, None, None, full=True))
    one, all_of_it = (a.settings(("colour", "shape"), captioned=True) for a in (quick, full))
    assert (one.layer_step, all_of_it.layer_step) == (2, 1)
    assert (one.seeds, all_of_it.seeds) == ((0,), (0, 1, 2))
    assert (one.contexts, all_of_it.contexts) == (4, 3)  # what is given goes before
    assert common.run_folder(quick, "vqa") != common.run_folder(full, "vqa")
