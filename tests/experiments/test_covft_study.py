"""The CoVFT study from the command line: real trainings and evaluations of a tiny random model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments import covft_study
from tests.places import Place, refuses, start

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def arguments(place: Place, out: Path, *more: object) -> list[str]:
    given = ["--model", place.vlm, "--tasks", "RD", "CN", "--seeds", 0, 1, "--out", out, "--strategies", "lora", "full"]
    given += ["--steps", 2, "--examples", 8, "--batch", 4, "--micro-batch", 4, "--learning-rate", 0.01, "--rank", 2]
    given += ["--items", 6, "--size", 32, "--dtype", "float64"]
    return list(map(str, [*given, *more]))


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "study"
    assert start(covft_study, arguments(place, out)) == 0
    return out


def test_arms_of_a_seed_see_the_same_data_and_are_tested_on_the_same_items(finished: Path) -> None:
    cells = pd.read_csv(finished / "cells.csv")
    trained = cells[cells["arm"] != "frozen"]
    assert len(trained) == 2 * 2 * 2
    assert trained.groupby("seed")["data"].nunique().eq(1).all()
    assert trained["data"].nunique() == 2
    assert set(trained["steps"]) == {2}
    assert set(trained["examples"]) == {8}
    items = {
        tuple(json.loads(line)["item"] for line in path.read_text().splitlines())
        for path in (finished / "units").rglob("counting.jsonl")
    }
    assert len(items) == 1


def test_comparisons_are_paired_and_their_mean_is_that_of_the_tasks(finished: Path) -> None:
    table = pd.read_csv(finished / "comparisons.csv")
    against = table[(table["arm"] == "full") & (table["reference"] == "lora")].set_index("task")
    assert set(against.index) == {"macro", "relative_depth", "counting"}
    assert against.loc["macro", "difference"] == pytest.approx(against.drop("macro")["difference"].mean())
    assert (against["low"] <= against["difference"]).all()
    assert (against["seeds"] == 2).all()
    cells = pd.read_csv(finished / "cells.csv").groupby(["arm", "task"])["accuracy"].mean()
    expected = cells["full", "counting"] - cells["lora", "counting"]
    assert against.loc["counting", "difference"] == pytest.approx(expected)


def test_report_is_the_last_line_and_a_finished_study_is_not_repeated(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "cells.csv").read_bytes()
    assert start(covft_study, arguments(place, finished)) == 0
    said = capsys.readouterr().out
    assert "Everything is done already" in said
    assert said.strip().splitlines()[-1] == str(finished / "report.html")
    assert (finished / "cells.csv").read_bytes() == before


def test_killed_process_continues_to_the_same_tables(place: Place, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", covft_study.MODULE, *arguments(place, out)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = out / "units" / "lora" / "RD-CN" / "seed0" / "records"
    while not (records / "relative_depth.jsonl").exists() and child.poll() is None:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (out / "cells.csv").exists()
    assert start(covft_study, arguments(place, out)) == 0
    for name in ("comparisons.csv", "arms.csv"):
        keep = [column for column in pd.read_csv(out / name) if column != "seconds"]
        one, other = (pd.read_csv(folder / name)[keep] for folder in (out, finished))
        pd.testing.assert_frame_equal(one, other)


def test_dry_run_prints_hours_and_writes_nothing(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(covft_study, arguments(place, tmp_path / "out", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "lora: " in said
    assert "| arm | units | left | hours | MB |" in said
    assert not (tmp_path / "out").exists()


def test_rates_are_chosen_on_selection_items_and_used(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    assert start(covft_study, arguments(place, out, "--choose-rates", 1e-4, 1e-1)) == 0
    path = out / "rates" / "rates.json"
    said = capsys.readouterr().out
    assert f"--rates {path}" in "".join(said.split("\n")).replace("  ", " ")
    assert "| lora | 0.0001 |" in said
    chosen = json.loads(path.read_text())
    assert set(chosen) == {"lora", "full"}
    assert (out / "rates" / "figures" / "rates.png").exists()
    assert not (out / "units").exists()
    assert start(covft_study, arguments(place, out, "--rates", path, "--seeds", 0)) == 0
    assert start(covft_study, arguments(place, out, "--choose-rates", 1e-4, 1e-1, "--strategies", "lora")) == 0
    assert json.loads(path.read_text()) == chosen  # what was chosen before is kept
    capsys.readouterr()
    given = arguments(place, out, "--choose-rates", 1e-4, 1e-1, "--rates", path)
    assert start(covft_study, given) == 2
    assert capsys.readouterr().err.strip().endswith("rates.json names every arm of table A already")
    for name, rate in chosen.items():
        run = out / "units" / name / "RD-CN" / "seed0" / "run" / "adapter" / "run.json"
        assert json.loads(run.read_text())["config"]["learning_rate"] == rate


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--choose-rates", 0.1], "0.1: expected two or more"),
        (["--strategies", "lora", "nothing_known"], "there is no strategy 'nothing_known'"),
        (["--tasks", "RD", "RD"], "each once, not RD RD"),
        (["--choose-rates", 0.1, "inf"], "0.1, inf: expected two or more"),
        (["--strategies", "full+pcgard"], "there is no surgery 'pcgard'; expected none, pcgrad, cagrad"),
        (["--table", "A", "--seeds"], "tables A with seeds none: expected one or more of each"),
        (["--seeds", -1], "tables A with seeds -1: expected"),
        (["--learning-rate", "inf"], "the learning rate is a number above 0, not inf"),
        (["--threads", 0], "threads are at least 1, and were given as 0"),
        (["--table", "G", "--fractions", 1, 0.5], "a share of 0.5 of 2 steps is the first step alone"),
        (["--tasks", "counting_sheep"], "There is no perception task"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    refuses(covft_study, arguments(place, tmp_path / "out", *more), said, capsys, tmp_path / "out")


def test_changed_settings_are_refused_with_their_difference(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(covft_study, arguments(place, finished, "--steps", 3)) == 2
    assert "training.steps was 2 and is now 3" in capsys.readouterr().err


@pytest.fixture(scope="module")
def every_table(place: Place) -> Path:
    out = place.folder / "tables"
    more = ["--table", *"ABCDEFGHI", "--seeds", 0, "--text", "hashing", "--items", 3, "--keep", "none"]
    more += ["--strategies", "covft", "vision_full", "vision_freeze", "qa_vit", "vision_full+pcgrad"]
    more += ["--types", 1, 2, "--fractions", 1, 0.75, "--repeats", 1, "--timed-steps", 2]
    assert start(covft_study, arguments(place, out, *more)) == 0
    return out


def test_every_table_has_a_command_and_every_expectation_an_answer(every_table: Path) -> None:
    expectations = pd.read_csv(every_table / "expectations.csv")
    assert set(expectations["table"]) == set("ABCDEFGHI")
    assert set(expectations["answer"]) == {"not decidable", "not measured"}  # one seed, one repeat
    missing = expectations.query("answer == 'not measured'")
    assert set(missing["key"]) == {"A2", "A3", "A4", "A5", "A8"}  # of strategies that were left out
    assert (expectations["contrast"].isna() == (expectations["answer"] == "not measured")).all()
    assert set(pd.read_csv(every_table / "arms.csv")["table"]) == set("ABCDEFGHI")
    cells = pd.read_csv(every_table / "cells.csv").query("arm != 'frozen'")
    assert cells.groupby(["mixture", "fraction"])["data"].nunique().eq(1).all()
    drawn = {path.stem for path in (every_table / "figures").glob("*.png")}
    names = {"strategies", "context", "routing", "layers", "experts", "data", "types", "parameters", "costs", "answers"}
    assert drawn == names


def test_counts_of_matched_arms_are_those_of_their_trainings(every_table: Path) -> None:
    said = pd.read_csv(every_table / "parameters.csv").set_index("arm")["trained_parameters"]
    trained = pd.read_csv(every_table / "arms.csv").query("table == 'I'").set_index("arm")["trained_parameters"]
    assert said.to_dict() == trained.drop("frozen")[said.index].to_dict()
    per_rank = 4 * 2 * 32 * 2  # projections, both sides, width and blocks of the tiny tower
    low_rank = said.filter(like="vision_lora")
    assert all((low_rank - said[arm]).abs().min() <= per_rank for arm in said.filter(like="covft").index)


def test_costs_have_the_flops_of_the_experts(every_table: Path) -> None:
    costs = pd.read_csv(every_table / "costs.csv").set_index("arm")
    assert (costs[["step_seconds", "item_seconds", "tower_flops", "trained_parameters"]] > 0).all(axis=None)
    assert costs.loc["covft", "tower_flops"] > costs.loc["vision_full", "tower_flops"]
    assert len(set(costs.loc[["vision_full", "vision_full+pcgrad", "vision_freeze"], "tower_flops"])) == 1


def test_adapters_that_are_not_kept_leave_their_record(every_table: Path) -> None:
    folders = [path for path in every_table.glob("units/covft/**/adapter") if path.is_dir()]
    assert folders
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {"run.json", "README.md"}
