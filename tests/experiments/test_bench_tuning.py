"""The benchmark of training: all ways train the same, and the table says so."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments import bench_tuning, common
from experiments.benchmark import tuning
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import Example
from tests.tiny import picture, tiny_llava

EXAMPLES = [
    Example(f"e{i}", (picture(i), picture(i + 50)), ((f"Which is {i}?", "(A)" if i % 2 else "(B)"),)) for i in range(8)
]


@pytest.fixture
def model() -> Model:
    return tiny_llava(dtype=torch.float32)


def test_all_ways_train_the_same(model: Model, tmp_path: Path) -> None:
    config = TuneConfig(
        "RD",
        "tiny-llava",
        steps=3,
        batch=4,
        micro_batch=2,
        learning_rate=1e-2,
        warmup=0.0,
        features_at=tmp_path / "f",
        loading=LoadOptions("cpu"),
    )
    losses = {
        "kept": tuning.ours(model, config, EXAMPLES, tmp_path / "kept")[1],
        "pixels": tuning.ours(model, config.changed(features="off"), EXAMPLES, tmp_path / "pixels")[1],
        "plain": tuning.plain(model, config, EXAMPLES, tmp_path / "plain")[1],
    }
    assert losses["kept"] == pytest.approx(losses["plain"], rel=1e-4)
    assert losses["pixels"] == pytest.approx(losses["plain"], rel=1e-4)
    assert len(set(losses["plain"])) == 3


def test_summary_compares_medians_and_sees_another_loss() -> None:
    rows = [("ours, pixels", 4.0, 2.0), ("ours, pixels", 6.0, 2.0), ("ours, pixels", 5.0, 2.0)]
    rows += [(tuning.PLAIN, 2.0, 2.0), (tuning.PLAIN, 9.0, 2.0), (tuning.PLAIN, 2.5, 2.0)]
    rows += [("ours, kept features", 5.0, 2.1)] * 3
    measured = pd.DataFrame(rows, columns=["way", "examples_per_second", "first_loss"])
    table = tuning.summary(measured).set_index("way")
    assert table.loc["ours, pixels", "examples_per_second"] == 5
    assert table.loc["ours, pixels", "times_plain"] == 2
    assert (table.loc[tuning.PLAIN, "low"], table.loc[tuning.PLAIN, "high"]) == (2, 9)
    assert table["same_loss"].tolist() == [True, True, False]
    assert "WITH ANOTHER LOSS" in bench_tuning.lines(table.reset_index())[2]


def test_command_writes_table_and_figure(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.models.base.load_model", lambda name, **options: model)
    argv = ["--steps", "2", "--batch", "2", "--repeats", "1", "--size", "32", "--out", str(tmp_path / "run")]
    assert common.run(bench_tuning.Arguments, bench_tuning.main, module=bench_tuning.MODULE, argv=argv) == 0
    table = pd.read_csv(tmp_path / "run" / "throughput.csv")
    assert table["way"].tolist() == list(tuning.WAYS)
    assert table["same_loss"].all()
    assert (tmp_path / "run" / "figures" / "throughput.png").is_file()


def test_one_step_is_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--steps", "1", "--out", str(tmp_path / "run")]
    assert common.run(bench_tuning.Arguments, bench_tuning.main, module=bench_tuning.MODULE, argv=argv) == 2
    assert "at least 2 are needed" in capsys.readouterr().err
