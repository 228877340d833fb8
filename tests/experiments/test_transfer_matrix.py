"""The transfer matrix from the command line: real trainings and evaluations of a tiny random model."""

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

from experiments import analyse_transfer, transfer_matrix
from tests.places import Place, refuses, start

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def arguments(place: Place, out: Path, *more: object) -> list[str]:
    given = ["--model", place.vlm, "--sources", "counting", "RD", "--targets", "RD", "CN", "--seeds", 0, "--out", out]
    given += ["--steps", 4, "--examples", 8, "--batch", 4, "--micro-batch", 4, "--learning-rate", 0.01, "--rank", 2]
    given += ["--items", 8, "--size", 32, "--fractions", 0.5, 1.0, "--dtype", "float64"]
    return list(map(str, [*given, *more]))


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "matrix"
    assert start(transfer_matrix, arguments(place, out)) == 0
    return out


def same_tables(one: Path, other: Path) -> None:
    for name in ("cells.csv", "items.csv.gz"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_cells_hold_every_source_and_fraction_beside_the_frozen_model(finished: Path) -> None:
    cells = pd.read_csv(finished / "cells.csv")
    assert len(cells) == (2 * 2 + 1) * 2
    assert set(cells["source"]) == {"baseline", "counting", "relative_depth"}
    trained = cells[cells["source"] != "baseline"].set_index(["source", "fraction", "target"])
    assert len(trained) == 8
    assert (trained["dose_steps"] == 4 * trained.index.get_level_values("fraction")).all()
    assert (trained["update_norm"] > 0).all()
    items = pd.read_csv(finished / "items.csv.gz")
    means = items.groupby(["source", "fraction", "target"])["correct"].mean()
    assert trained["accuracy"].to_dict() == pytest.approx(means.drop("baseline").to_dict())
    last = items[items["fraction"] == 1].set_index("item")["log_p_key"]
    baseline, changed = (
        last[items.loc[items["fraction"] == 1, "source"].to_numpy() == s] for s in ("baseline", "counting")
    )
    assert (changed - baseline.reindex(changed.index)).abs().max() > 1e-6


def test_analysis_reads_the_folder(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "analysis"
    assert start(analyse_transfer, ["--pgf", finished, "--permutations", 19, "--out", out]) == 0
    assert len(pd.read_csv(out / "pgf_mean.csv")) > 0


@pytest.mark.parametrize("after", ["train/relative_depth/seed0"])
def test_killed_process_continues_to_the_same_tables(place: Place, finished: Path, tmp_path: Path, after: str) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", transfer_matrix.MODULE, *arguments(place, out)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = out / "jobs" / after / "journal.jsonl"
    while not journal.exists() and child.poll() is None:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (out / "cells.csv").exists()
    assert start(transfer_matrix, arguments(place, out)) == 0
    same_tables(out, finished)


def test_changed_settings_are_refused_with_their_difference(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(transfer_matrix, arguments(place, finished, "--steps", 5)) == 2
    assert "training.steps was 4 and is now 5" in capsys.readouterr().err


def test_dry_run_prints_jobs_hours_and_disk_and_writes_nothing(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(transfer_matrix, arguments(place, tmp_path / "out", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "train/counting/seed0: 1 units, about" in said
    assert "evaluate/relative_depth/seed0: 4 units, about" in said
    assert "| what | jobs | done | units left | hours | MB |" in said
    assert not (tmp_path / "out").exists()


def test_calibration_chooses_a_difficulty_on_selection_items(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ("--calibrate", "--calibrate-direct", "--grid", 0.0, 1.0, "--targets", "RD")
    assert start(transfer_matrix, arguments(place, out, *more)) == 0
    table = pd.read_csv(out / "calibration" / "difficulties.csv")
    assert table["difficulty"].tolist() == [0.0, 1.0]
    assert table["chosen"].sum() == 1
    assert table[["frozen", "direct", "gain", "p_value"]].notna().all(axis=None)
    chosen = json.loads((out / "calibration" / "difficulties.json").read_text())
    assert chosen == {"relative_depth": table.loc[table["chosen"], "difficulty"].item()}
    rows = (out / "calibration" / "jobs").rglob("*.jsonl")
    names = {json.loads(line)["item"] for path in rows if path.parent.name == "records" for line in path.open()}
    assert all(name.split("/")[2] == "selection" for name in names)
    path = out / "calibration" / "difficulties.json"
    assert (
        start(
            transfer_matrix,
            arguments(place, tmp_path / "then", "--difficulties", path, "--sources", "RD", "--targets", "RD"),
        )
        == 0
    )
    cells = pd.read_csv(tmp_path / "then" / "cells.csv")
    assert set(cells["difficulty"]) == set(chosen.values())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--sources", "RD", "relative_depth"], "sources has 'relative_depth' twice"),
        (["--targets", "RD/sideways"], "relative_depth has no form 'sideways'"),
        (["--fractions", "1.5"], "fractions are above 0 and at most 1"),
        (["--difficulties", "nowhere.json"], "nowhere.json cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    refuses(transfer_matrix, arguments(place, tmp_path / "out", *more), said, capsys, tmp_path / "out")
