"""Gradient conflict from the command line, on a tiny model with tiny trainings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import gradient_conflict
from figures import conflict as figures
from interp.conflict import Arm, ConflictSettings, ConflictWork
from interp.models.base import load_model
from interp.runs import Run
from interp.tasks.perception.datasets import training_data
from interp.tuning.dataset import as_example
from tests.places import Place, killed, refuses, start_undrawn

TABLES = ("alignment", "differences", "conflict", "pairs", "gradients", "distance", "distance_summary")
ARMS = ("vision_full", "covft:text=hashing")
SMALL = (
    "--arms", *ARMS, "--tasks", "counting", "RD", "--micro-batch", 2, "--micro-batches", 3, "--points", 0, 0.5, 1,
    "--steps", 4, "--batch", 2, "--examples", 8, "--learning-rate", 1e-2, "--difficulty", 0, "--size", 32,
    "--draws", 20, "--dtype", "float64", "--device", "cpu",
)  # fmt: skip


def run(argv: Sequence[object], *, draw: bool = False) -> int:
    """The exit code; figures are drawn where they are looked at."""
    return start_undrawn(gradient_conflict, figures, argv, draw=draw)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def arguments(place: Place) -> list[object]:
    return ["--model", place.vlm, *SMALL, "--pair", "counting", "RD"]


@pytest.fixture(scope="module")
def finished(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "run"
    assert run([*arguments, "--out", out], draw=True) == 0
    return out


def test_micro_batches_ask_in_the_wording_and_at_the_difficulties(place: Place, tmp_path: Path) -> None:
    settings = ConflictSettings(
        str(place.vlm), ("counting", "relative_depth"), (Arm.parse("vision_full"),), micro_batch=2, micro_batches=2,
        difficulties={"counting": 0.0, "relative_depth": 1.0}, wording="described", size=32,
    )  # fmt: skip
    model = load_model(str(place.vlm), device="cpu", dtype="float64")
    with Run.open(tmp_path / "run", settings.config(), seeds=(0,), models={}) as run:
        given = ConflictWork(settings, run, model)._micro_batches()
    wanted = []
    for task, level in settings.difficulties.items():
        data = training_data(task, n=4, size=32, seed=settings.seed, wording="described", difficulty=level)
        wanted += [as_example(data[index]).turns[0][0] for index in range(4)]
    assert [row.questions[0] for batch in given for row in batch] == wanted


def test_tables_figures_and_report_are_written(finished: Path) -> None:
    for name in TABLES:
        assert len(pd.read_csv(finished / f"{name}.csv")) > 0, name
    assert {path.stem for path in (finished / "figures").glob("*.png")} == {
        "alignment",
        "conflict",
        "pairs",
        "distance",
    }
    assert "by chance" in (finished / "report.html").read_text()
    assert not list(finished.glob(".gradients-*"))


def test_every_arm_has_the_same_summed_gradients_at_the_start(finished: Path) -> None:
    """Copies of one FFN whose weights sum to one have together the gradient of that FFN."""
    table = pd.read_csv(finished / "gradients.csv")
    shown = table[(table["point"] == 0) & (table["experts"] == "summed")]
    by_arm = [rows[["loss", "norm", "mean", "principal", "others"]].to_numpy() for _, rows in shown.groupby("arm")]
    assert len(by_arm) == len(ARMS)
    for one in by_arm[1:]:
        np.testing.assert_allclose(one, by_arm[0], rtol=1e-6, atol=1e-8)


def test_intervals_hold_values_and_chance_stands_beside_them(finished: Path) -> None:
    table = pd.read_csv(finished / "alignment.csv")
    assert ((table["low"] <= table["cosine"]) & (table["cosine"] <= table["high"])).all()
    assert table["chance"].notna().all()
    assert set(table["definition"]) == {"mean", "principal", "others"}
    assert set(table["layer"]) == {-1, 1}  # the late half of two blocks


def test_pairs_are_of_all_tasks_and_of_each_with_itself(finished: Path) -> None:
    table = pd.read_csv(finished / "pairs.csv")
    found = set(zip(table["task_a"], table["task_b"], strict=True))
    assert found == {("counting", "counting"), ("counting", "relative_depth"), ("relative_depth", "relative_depth")}


def test_distances_have_two_tasks_and_the_control_of_two_seeds(finished: Path) -> None:
    table = pd.read_csv(finished / "distance.csv")
    counts = table[table["layer"] == -1].groupby(["kind", "arm", "point"]).size()
    assert (counts["tasks"] == 4).all()
    assert (counts["seeds"] == 2).all()
    assert (table["distance"] >= 0).all()
    first, last = (table[(table["point"] == p) & (table["layer"] == -1)]["distance"].mean() for p in (0.5, 1.0))
    assert 0 < first < last * 2


def test_killed_run_continues_to_the_same_tables(finished: Path, arguments: list[object], tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(finished, out)
    killed(finished, out, 0.6)
    assert run([*arguments, "--out", out]) == 0
    for name in TABLES:
        one, other = (pd.read_csv(folder / f"{name}.csv") for folder in (finished, out))
        pd.testing.assert_frame_equal(one, other, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--tasks", "counting"], "expected two or more"),
        (["--arms", "nothing"], "there is no strategy 'nothing'"),
        (["--arms", "covft:routing=round"], "option 'routing'"),
        (["--points", 2], "expected 0 .* to 1"),
        (["--points", 0.2], "learning rate is 0"),
        (["--micro-batches", 1], "expected at least 2 of 1"),
        (["--pair", "counting", "counting"], "two tasks"),
        (["--points", 0, 0], "points 0 0 .*: expected each once"),
        (["--pair", "counting", "RD", "--pair-seeds", 0, 0, 1], "pair seeds 0 0 1: expected each once"),
        (["--seed", -1], "seeds are 0 or more, not -1"),
        (["--draws", 0], "4 steps and 0 draws: expected at least 1"),
        (["--seed", 0], "seed 0 draws the micro-batches and is one that trainings draw with"),
        (["--layers", 7], "layer 7 of the tower"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[object], more: list[object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses(gradient_conflict, [*arguments, "--out", tmp_path / "run", *more], said, capsys, tmp_path / "run")
