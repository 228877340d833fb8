"""The evaluation of adapters from the command line, on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model

from experiments import evaluate
from interp.models.base import load_model
from tests.places import Place, refuses, start


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("place"))
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = load_model(str(place.vlm), dtype="float64")
        adapted = get_peft_model(
            model.module, LoraConfig(r=2, target_modules=r".*language_model.*q_proj", init_lora_weights=False)
        )
        adapted.peft_config["default"].base_model_name_or_path = str(place.vlm)
        adapted.save_pretrained(str(place.folder / f"run{seed}" / "adapter"), save_embedding_layers=False)
    return place


def arguments(place: Place, out: Path, *more: object) -> list[object]:
    adapters = [place.folder / f"run{seed}" / "adapter" for seed in (1, 2)]
    given = ["--model", place.vlm, "--adapters", *adapters, "--tasks", "counting", "RD", "--items", 12]
    return [*given, "--size", 32, "--out", out, "--dtype", "float64", *more]


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "evaluated"
    assert start(evaluate, arguments(place, out)) == 0
    return out


def test_every_model_meets_every_task_with_intervals_and_paired_differences(finished: Path) -> None:
    table = pd.read_csv(finished / "accuracy.csv")
    assert list(zip(table["task"], table["model"], strict=True)) == [
        (task, model) for task in ("counting", "relative_depth") for model in ("frozen", "run1", "run2")
    ]
    assert (table["n"] == 12).all()
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    trained = table[table["model"] != "frozen"]
    frozen = table[table["model"] == "frozen"].set_index("task")["accuracy"]
    assert trained["difference"].tolist() == pytest.approx((trained["accuracy"] - trained["task"].map(frozen)).tolist())
    assert (12 * trained["difference"]).round().tolist() == (trained["only_model"] - trained["only_frozen"]).tolist()
    assert (trained["p_holm"] >= trained["p_value"]).all()
    assert table.loc[table["model"] == "frozen", "p_value"].isna().all()


def test_every_item_has_its_record(finished: Path) -> None:
    table = pd.read_csv(finished / "accuracy.csv").set_index(["task", "model"])
    rows = [json.loads(line) for line in (finished / "records" / "counting" / "run1.jsonl").read_text().splitlines()]
    assert len({row["item"] for row in rows}) == 12
    assert sum(row["correct"] for row in rows) / 12 == pytest.approx(table.loc[("counting", "run1"), "accuracy"])
    assert all(sum(row["letters"]) == pytest.approx(1) for row in rows)


def test_same_command_does_nothing_again_and_says_where_the_report_is(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.tuning.evaluation import evaluate as engine

    monkeypatch.setattr(engine, "prepare_items", None)
    before = (finished / "journal.jsonl").read_bytes()
    assert start(evaluate, arguments(place, finished)) == 0
    assert (finished / "journal.jsonl").read_bytes() == before
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(finished / "report.html")


def test_generated_answers_name_their_rule(place: Place, tmp_path: Path) -> None:
    more = ("--scoring", "generation", "--max-new-tokens", 3, "--items", 4)
    assert start(evaluate, arguments(place, tmp_path / "out", *more)) == 0
    rows = (tmp_path / "out" / "records" / "counting" / "frozen.jsonl").read_text().splitlines()
    assert all(json.loads(row)["rule"] for row in rows)
    assert pd.read_csv(tmp_path / "out" / "accuracy.csv")["exact_accuracy"].notna().all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--tasks", "relative_dept"], "There is no perception task 'relative_dept'; did you mean relative_depth"),
        (["--tasks", "RD/pictures"], "relative_depth has no form 'pictures'"),
        (["--adapters", "nowhere"], "there is no folder 'nowhere' with an adapter"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    refuses(evaluate, arguments(place, tmp_path / "out", *more), said, capsys, tmp_path / "out")


def test_adapter_of_another_model_is_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for path in (place.folder / "run1" / "adapter").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "run.json").write_text(
        json.dumps({"model": "another", "fingerprint": "0" * 64, "strategy": "lora", "config": {"loading": {}}})
    )
    assert start(evaluate, arguments(place, tmp_path / "out", "--adapters", folder)) == 2
    assert "was trained on 'another'" in capsys.readouterr().err
