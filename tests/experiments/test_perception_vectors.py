"""Vectors of perception tasks from the command line: vectors, similarities, moves under adapters, patch-transfer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from experiments import perception_vectors
from figures import perception_vectors as figures
from interp.models.base import load_model
from interp.perception_vectors import read_vectors
from interp.perception_vectors.contexts import context_items, interleaved
from interp.perception_vectors.settings import VectorSettings
from interp.relation.matrices import read_matrices
from interp.runs import Run
from interp.tasks.perception.datasets import training_data
from interp.tuning.adapters import adapter_at_work, attached
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import as_example
from interp.tuning.encoding import encode
from interp.tuning.run import finetune
from interp.tuning.text_context import context_text
from tests.places import Place, killed, refuses, start
from tests.tuned import tune_tiny

TASKS = ("relative_depth", "counting", "visual_similarity")
SMALL = ("--contexts", 4, "--shots", 1, "--items", 4, "--selection-items", 4, "--size", 32, "--dtype", "float64")
TABLES = (
    "reliability", "similarity_long", "moves", "moves_long", "patch_transfer", "patch_selection", "patch_transfer_long",
    "layers",
)  # fmt: skip


def run(argv: Sequence[object], *, draw: bool = False) -> int:
    """The exit code; figures are drawn where they are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(figures, "all_figures", lambda *_, **__: {})
        return start(perception_vectors, argv)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def matrix(place: Place) -> Path:
    """A real adapter of the tiny model, laid out as the training of a matrix."""
    job = place.folder / "matrix" / "jobs" / "train" / "counting" / "seed0"
    model = load_model(str(place.vlm), device="cpu", dtype="float64")
    options = {"model": str(place.vlm), "size": 32, "steps": 2, "batch": 2, "rank": 2, "learning_rate": 1e-2}
    config = TuneConfig(task="counting", difficulty=0.0, features="off", **options)  # type: ignore[arg-type]
    data = training_data("counting", n=4, size=32, difficulty=0.0)
    finetune(config, job / "run", model=model, examples=[as_example(data[index]) for index in range(4)])
    (job / "config.json").write_text(json.dumps({"source": "counting", "seed": 0, "fraction": 1.0}))
    payload = {"key": "trained", "payload": {"adapters": {"1": "adapter"}, "steps": 2}}
    (job / "journal.jsonl").write_text(json.dumps(payload) + "\n")
    return place.folder / "matrix"


@pytest.fixture(scope="module")
def arguments(place: Place, matrix: Path) -> list[object]:
    return ["--model", place.vlm, "--tasks", "RD", *TASKS[1:], "--matrix", matrix, *SMALL]


@pytest.fixture(scope="module")
def finished(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "run"
    assert run([*arguments, "--out", out], draw=True) == 0
    return out


def test_tables_figures_vectors_and_report_are_written(finished: Path) -> None:
    for name in TABLES:
        assert len(pd.read_csv(finished / f"{name}.csv")) > 0, name
    drawn = {path.stem for path in (finished / "figures").glob("*.png")}
    assert drawn == {"similarity", "profile", "patch_transfer", "patch_layers", "moves"}
    report = (finished / "report.html").read_text()
    assert "Vectors of 3 perception tasks" in report
    assert "chosen on the selection split" in report


def test_vector_is_the_mean_state_at_the_last_token_of_open_items(finished: Path, place: Place) -> None:
    model = load_model(str(place.vlm), device="cpu", dtype="float64")
    settings = VectorSettings(str(place.vlm), TASKS, contexts=4, size=32, difficulties={"counting": 0.0})
    states = []
    for (item,) in context_items(settings, "counting", examples=False):
        one = encode(model, item.images, [(item.prompt, None)])
        features = [model.image_inputs(image).features["pixel_values"].double() for image in item.images]
        output = model.module(
            input_ids=one.input_ids[None], pixel_values=torch.cat(features), output_hidden_states=True
        )
        states.append(torch.stack(output.hidden_states)[1:-1, 0, -1])  # the last one is after the norm
    vectors = read_vectors(finished / "vectors.safetensors")
    assert set(vectors) == {"item", "examples", "instruction", "both"}
    assert set(vectors["item"]) == set(TASKS)
    assert torch.allclose(vectors["item"]["counting"][:-1], torch.stack(states).mean(0), atol=1e-8)


def test_items_are_as_hard_as_the_trainings_unless_it_is_said_otherwise(
    finished: Path, place: Place, tmp_path: Path
) -> None:
    """The adapter of counting was trained at difficulty 0; a file goes before, and the option before trainings."""

    def difficulties(out: Path) -> dict[str, float]:
        return json.loads((out / "config.json").read_text())["difficulties"]

    assert difficulties(finished) == {"relative_depth": 0.5, "counting": 0.0, "visual_similarity": 0.5}
    file = tmp_path / "difficulties.json"
    file.write_text(json.dumps({"CN": 0.3, "jigsaw": 0.9}))
    argv = ["--model", place.llm, "--tasks", "RD", "CN", *SMALL, "--items", 0, "--difficulties", file]
    argv += ["--settings", "instruction", "--patched", "instruction", "--difficulty", 0.8]
    assert run([*argv, "--out", tmp_path / "out"]) == 0
    assert difficulties(tmp_path / "out") == {"relative_depth": 0.8, "counting": 0.3}


def test_long_tables_are_read_as_matrices_of_task_vectors(finished: Path) -> None:
    for name in ("similarity_long", "patch_transfer_long", "moves_long"):
        matrices = read_matrices(finished / f"{name}.csv")
        assert {matrix.family for matrix in matrices} == {"task vectors"}, name
    measures = set(pd.read_csv(finished / "patch_transfer_long.csv")["measure"])
    assert "patch_transfer" in measures


def test_patch_table_has_every_task_and_control_at_every_layer(finished: Path) -> None:
    table = pd.read_csv(finished / "patch_transfer.csv")
    assert len(table) == 3 * (1 + 3 * (3 + 2))
    assert set(table["control"]) == {"other", "own", "random", "mean", "none"}
    assert (table["low"] <= table["change"] + 1e-12).all()
    assert (table["change"] <= table["high"] + 1e-12).all()
    assert (table["items"] == 4).all()


def test_moves_are_those_of_the_adapter_and_its_model_is_left_as_it_was(finished: Path) -> None:
    table = pd.read_csv(finished / "moves.csv")
    assert set(table["source"]) == {"counting"}
    assert set(table["target"]) == set(TASKS)
    assert (table["change"] > 0).all()
    own = table[table["target"] == "counting"]
    assert own["towards"].isna().all()
    assert own["towards_tuned"].to_numpy() == pytest.approx(1)
    # Patches come after the adapter was at work, and were made on the model without it.
    bare = pd.read_csv(finished / "patch_transfer.csv").query("control == 'none'")
    assert (bare["change"] == 0).all()


def test_killed_run_goes_on_and_gives_the_same_bytes(arguments: list[object], finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    killed(finished, out, 0.6)
    (out / "states").mkdir()
    for path in (finished / "states").iterdir():
        (out / "states" / path.name).write_bytes(path.read_bytes())
    assert run([*arguments, "--out", out]) == 0
    for name in TABLES:
        assert (out / f"{name}.csv").read_bytes() == (finished / f"{name}.csv").read_bytes(), name


def test_states_that_were_changed_are_not_used(
    arguments: list[object], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "changed"
    killed(finished, out, 1.0)
    assert run([*arguments, "--out", out]) == 2
    assert "is missing or was changed" in capsys.readouterr().err


def test_other_settings_are_told_apart(
    arguments: list[object], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--position", "letter", "--out", finished]) == 2
    assert "another configuration" in capsys.readouterr().err


def test_language_model_has_vectors_of_instructions_and_no_patching(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "llm"
    argv = ["--model", place.llm, "--tasks", "RD", "CN", *SMALL, "--items", 0, "--out", out]
    assert run([*argv, "--settings", "instruction", "--patched", "instruction"]) == 0
    assert set(read_vectors(out / "vectors.safetensors")) == {"instruction"}
    assert not (out / "patch_transfer.csv").exists()
    with Run.open(out, json.loads((out / "config.json").read_text())) as kept:
        assert len(kept) == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--tasks", "RD"], "expected two or more"),
        (["--tasks", "RD", "counted"], "There is no perception task 'counted'"),
        (["--tasks", "RD", "CN", "--layers", "3"], "layer 3 cannot be patched"),
        (["--tasks", "RD", "CN", "--difficulty", "2"], "between 0 and 1, and was given as 2"),
        (["--tasks", "RD", "CN", "--contexts", "3"], "expected an even number"),
        (["--tasks", "RD", "CN", "--matrix", "nowhere"], "is no folder"),
        (["--tasks", "RD", "CN", "--settings", "item", "--patched", "both"], "patched both"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    place: Place, tmp_path: Path, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    refuses(perception_vectors, ["--model", place.vlm, "--dtype", "float64", *argv, "--out", out], said, capsys, out)


def test_two_adapters_of_one_name_are_refused(
    place: Place, matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["--model", place.vlm, "--tasks", "RD", "CN", "--matrix", matrix, matrix, "--out", out]
    refuses(perception_vectors, argv, "two adapters are called", capsys, out)


def test_tower_of_an_adapter_is_told_what_each_context_asks(place: Place, tmp_path: Path) -> None:
    """Under CoVFT a context's pictures are encoded with its own questions, those of its examples as well."""
    adapter = tune_tiny(tmp_path / "covft", place.vlm, "covft", TASKS[:2], text="hashing")
    out = tmp_path / "run"
    given = ["--model", place.vlm, "--tasks", *TASKS, "--adapters", f"counting@0={adapter}", *SMALL, "--out", out]
    given += ["--settings", "examples", "--patched", "examples", "--difficulty", 0]
    assert run(given) == 0
    (path,) = (out / "states").glob("moved*")
    kept = load_file(path)
    model = load_model(str(place.vlm), device="cpu", dtype="float64")
    settings = VectorSettings(
        str(place.vlm), TASKS, contexts=4, shots=1, size=32, difficulties=dict.fromkeys(TASKS, 0.0)
    )
    states = []
    with attached(model, {"covft": adapter}) as held, held.use("covft"):
        for items in context_items(settings, "relative_depth"):
            one = interleaved(model, items)
            pixels = torch.cat([model.image_inputs(image).features["pixel_values"].double() for image in one.images])
            told = context_text([item.prompt for item in items])
            assert told.count("?") == 2
            with adapter_at_work(model).context([told], [0] * len(pixels)):
                output = model.module(input_ids=one.input_ids[None], pixel_values=pixels, output_hidden_states=True)
            states.append(torch.stack(output.hidden_states)[1:-1, 0, -1])
    found = next(value for name, value in kept.items() if name == "examples/relative_depth").mean(0)
    assert torch.allclose(found[:-1], torch.stack(states).mean(0), atol=1e-8)
