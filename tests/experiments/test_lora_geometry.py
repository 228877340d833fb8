"""Update geometry from its command line: adapters of a matrix and of anywhere, with gains and states on a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import lora_geometry
from figures import updates as figures
from interp.models.base import load_model
from interp.tasks.perception.datasets import training_data
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import as_example
from interp.tuning.run import finetune
from tests.interp.updates.made import dense, random_factors, write_adapter, write_checkpoint
from tests.places import Place, refuses, start


def run(argv: Sequence[object], *, draw: bool = False) -> int:
    """The exit code; figures are drawn where they are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(figures, "all_figures", lambda *_, **__: {})
        return start(lora_geometry, argv)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three tasks at two seeds, from elsewhere, of ranks 2, 3 and 4."""
    root = tmp_path_factory.mktemp("adapters")
    return [
        write_adapter(root / f"{task}-seed{seed}", random_factors(10 * index + seed, rank=2 + index))
        for index, task in enumerate(("counting", "RD", "my task"))
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def compared(adapters: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "run"
    assert run(["--adapters", *adapters, "--out", out], draw=True) == 0
    return out


@pytest.fixture(scope="module")
def matrix(place: Place) -> Path:
    """Real adapters of the tiny model on two tasks, laid out as the trainings of a matrix."""
    root = place.folder / "matrix"
    model = load_model(str(place.vlm), device="cpu")
    for task in ("relative_depth", "counting"):
        job = root / "jobs" / "train" / task / "seed0"
        options = {"model": str(place.vlm), "size": 32, "steps": 2, "batch": 2, "rank": 2, "learning_rate": 1e-2}
        config = TuneConfig(task=task, difficulty=0.0, features="off", **options)  # type: ignore[arg-type]
        data = training_data(task, n=4, size=32, difficulty=0.0)
        finetune(config, job / "run", model=model, examples=[as_example(data[index]) for index in range(4)])
        (job / "config.json").write_text(json.dumps({"source": task, "seed": 0, "fraction": 1.0}))
        payload = {"key": "trained", "payload": {"adapters": {"1": "adapter"}, "steps": 2}}
        (job / "journal.jsonl").write_text(json.dumps(payload) + "\n")
    return root


def test_tables_figures_and_report_are_written(compared: Path) -> None:
    for name in ("similarity", "similarity_long", "norms", "angles", "ceilings"):
        assert len(pd.read_csv(compared / f"{name}.csv")) > 0, name
    drawn = {path.stem for path in (compared / "figures").glob("*.png")}
    assert drawn == {"heatmaps", "tree", "layers", "angles", "norms"}
    assert "How alike is what fine-tuning on 3 tasks wrote" in (compared / "report.html").read_text()


def test_long_table_has_square_matrices_named_by_task(compared: Path) -> None:
    long = pd.read_csv(compared / "similarity_long.csv")
    assert list(long.columns) == ["measure", "layer", "source", "target", "value"]
    assert set(long["source"]) == {"counting", "relative_depth", "my task"}
    assert set(long["layer"].astype(str)) == {"all", "0", "1", "2"}
    assert (long.groupby(["measure", "layer"]).size() == 6).all()


def test_whole_cosine_is_that_of_the_matrices(compared: Path) -> None:
    def flat(seed: int, rank: int) -> np.ndarray:
        return np.concatenate([m.ravel() for m in dense(random_factors(seed, rank=rank)).values()])

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    table = pd.read_csv(compared / "similarity_long.csv").set_index(["measure", "layer", "source", "target"])["value"]
    expected = np.mean([cosine(flat(0, 2), flat(11, 3)), cosine(flat(1, 2), flat(10, 3))])
    assert table["update_cosine", "all", "relative_depth", "counting"] == pytest.approx(expected)


def test_running_again_gives_the_same_bytes_and_other_updates_are_told_apart(
    adapters: list[Path], compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    assert run(["--adapters", *reversed(adapters), "--out", out]) == 0
    for name in ("similarity.csv", "similarity_long.csv", "norms.csv", "angles.csv", "ceilings.csv"):
        assert (out / name).read_bytes() == (compared / name).read_bytes(), name
    assert run(["--adapters", *adapters[:4], "--out", out]) == 2
    assert "another configuration" in capsys.readouterr().err


def test_gains_and_states_of_a_matrix_are_measured_on_its_model(place: Place, matrix: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["--adapters", matrix, "--gains", 4, "--states", 3, "--out", out]) == 0
    long = pd.read_csv(out / "similarity_long.csv")
    measures = {"update_cosine", "gain", "gain_unit", "update_state_cosine", "update_state_projection"}
    assert measures <= set(long["measure"])
    gains = long[(long["measure"] == "gain") & (long["layer"] == "all")].set_index(["source", "target"])["value"]
    assert len(gains) == 2
    assert gains["relative_depth", "counting"] != pytest.approx(gains["counting", "relative_depth"])
    own = pd.read_csv(out / "ceilings.csv")
    assert set(own["measure"]) == {"gain", "gain_unit"}  # of each task on itself; there is one seed
    assert own.loc[(own["measure"] == "gain") & (own["layer"] == "all"), "value"].gt(0).any()
    foretold = pd.read_csv(out / "logme_long.csv")
    assert set(foretold["measure"]) <= {"logme"}
    environment = json.loads((out / "environment.json").read_text())
    assert str(place.vlm) in environment["models"]


def test_checkpoints_are_compared_against_their_base(tmp_path: Path) -> None:
    base = {f"model.{name}.weight": torch.from_numpy(m) for name, m in dense(random_factors(0)).items()}
    folder = write_checkpoint(tmp_path / "base", base, shards=2)
    tuned = []
    for seed in (1, 2):
        after = {f"model.{n}.weight": torch.from_numpy(m) for n, m in dense(random_factors(seed)).items()}
        tuned.append(write_checkpoint(tmp_path / f"m{seed}", {n: base[n] + after[n] for n in base}))
    assert run(["--adapters", *tuned, "--base", folder, "--out", tmp_path / "out"]) == 0
    assert len(pd.read_csv(tmp_path / "out" / "similarity_long.csv")) > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "type IA3"),
    ],
)
def test_bad_adapters_are_one_sentence_and_leave_nothing(
    adapters: list[Path], tmp_path: Path, change: dict, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_adapter(tmp_path / "bad", random_factors(5), **change)
    out = tmp_path / "out"
    refuses(lora_geometry, ["--adapters", adapters[0], bad, "--out", out], said, capsys, out)


def test_folders_that_clash_are_missing_or_are_too_few_are_refused(
    adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    refuses(lora_geometry, ["--adapters", adapters[0], adapters[0], "--out", out], "are both called", capsys, out)
    refuses(lora_geometry, ["--adapters", adapters[0], "--out", out], "1 updates", capsys, out)
    refuses(lora_geometry, ["--adapters", adapters[0], tmp_path / "x", "--out", out], "is no folder", capsys, out)
