"""The benchmark of evaluations on a tiny model: whether its peers agree, and not how fast they are."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from experiments import bench_evaluation
from experiments.benchmark.evaluation import PEERS, Workload, random_adapters
from interp.tasks.perception.registry import perception_task
from tests import tiny
from tests.places import Place, refuses, start


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def arguments(place: Place, out: Path, *more: object) -> list[object]:
    given = ["--model", place.vlm, "--tasks", "counting", "RD", "--items", 3, "--adapters", 1, "--repeats", 2]
    return [*given, "--size", 32, "--dtype", "float64", "--out", out, *more]


def test_peers_give_the_same_numbers_and_all_are_timed(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert start(bench_evaluation, arguments(place, out)) == 0
    table = pd.read_csv(out / "results.csv").set_index("peer")
    assert tuple(table.index) == PEERS
    assert (table["answers"] == 2 * (3 * 4 + 3 * 2)).all()
    assert (table["repeats"] == 2).all()
    assert table.loc["loop_letters", "difference"] < 1e-9
    assert table.loc["loop_letters", "same_predictions"] == 1
    assert 0 <= table.loc["loop", "generated_alike"] <= 1
    before = (out / "results.csv").read_bytes()
    assert start(bench_evaluation, arguments(place, out)) == 0  # nothing is measured again
    assert (out / "results.csv").read_bytes() == before


def test_loop_answers_every_shift_of_every_item_under_every_adapter(tmp_path: Path) -> None:
    model = tiny.tiny_llava()
    items = perception_task("relative_depth").items("test", 2, size=32)
    folders = {"frozen": None, **random_adapters(model, tmp_path, 1)}
    work = Workload(model, tuple(items), folders)
    found = work.loop()
    assert set(found) == {(name, item.name) for name in folders for item in items}
    assert all(len(letters) == 2 and set(letters) <= set("ABZ") for letters in found.values())
    assert work.answers == 2 * 2 * 2


def test_unknown_task_is_one_sentence(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuses(
        bench_evaluation,
        arguments(place, tmp_path / "out", "--tasks", "nothing"),
        "no perception task",
        capsys,
        tmp_path / "out",
    )
