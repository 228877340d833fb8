"""Contextual vectors beside task vectors from the command line, under a CoVFT adapter of the tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from experiments import context_and_vectors
from figures import context_and_vectors as figures
from interp.context_vectors.compare import CompareSettings, Trained, differences
from interp.context_vectors.kept import asked_items
from interp.errors import CrosstaskError
from interp.models.base import load_model
from interp.statistics import bootstrap_mean, bootstrap_two_way
from interp.tasks.perception.datasets import test_data as scored_data
from interp.tuning.adapters import adapter_at_work, attached
from interp.tuning.encoding import encode
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.text_context import context_text
from tests import tiny
from tests.places import Place, killed, refuses, start_undrawn
from tests.tuned import tune_tiny

TASKS = ("counting", "visual_similarity", "relative_depth", "jigsaw")
TABLES = ("direct", "cross", "rsa")


def run(argv: Sequence[object], *, draw: bool = False) -> int:
    """The exit code; figures are drawn where they are looked at."""
    return start_undrawn(context_and_vectors, figures, argv, draw=draw)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def adapter(place: Place) -> Path:
    return tune_tiny(place.folder / "covft", place.vlm, "covft", TASKS[:2], text="hashing")


@pytest.fixture(scope="module")
def arguments(place: Place, adapter: Path) -> list[object]:
    given = ["--model", place.vlm, "--adapter", adapter, "--tasks", *TASKS, "--items", 4, "--layers", 1, 3]
    return [*given, "--permutations", 9, "--size", 32, "--difficulty", 0, "--dtype", "float64"]


@pytest.fixture(scope="module")
def finished(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "run"
    assert run([*arguments, "--out", out], draw=True) == 0
    return out


def test_tables_figures_and_report_are_written(finished: Path) -> None:
    for name in TABLES:
        assert len(pd.read_csv(finished / f"{name}.csv")) > 0, name
    assert {path.stem for path in (finished / "figures").glob("*.png")} == {"cross", "rsa"}
    assert "chosen on the selection split" in (finished / "report.html").read_text()


def test_both_directions_have_every_map_and_every_control(finished: Path) -> None:
    table = pd.read_csv(finished / "cross.csv")
    sides = {"context/1", "neutral/1", "blank/1", "text", "features", "frozen"}
    forward = table[table["target"].str.startswith("delimiter")]
    assert set(forward["source"]) == sides
    assert len(table) == 2 * len(sides) * 2 * 4
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    assert set(table[table["map"] == "held_out"]["chance"]) == {0.5}
    assert set(table[table["map"] == "all"]["chance"]) == {0.25}
    assert table[table["source"] == "context/1"]["beyond_text"].notna().all()


def test_delimiter_states_are_those_of_each_item_alone_under_the_adapter(
    place: Place, adapter: Path, finished: Path
) -> None:
    kept = load_file(finished / "states" / "read-test-counting.safetensors")
    assert kept["delimiter/3"].shape == (4, tiny.WIDTH)
    model = load_model(str(place.vlm), device="cpu", dtype="float64")
    item = scored_data("counting", n=4, size=32, difficulty=0.0, seed=1000)[2]
    one = encode(model, item.images, [(item.prompt, None)])
    pixels = torch.cat([model.image_inputs(image).features["pixel_values"].double() for image in item.images])
    given = {"input_ids": one.input_ids[None], "pixel_values": pixels, "output_hidden_states": True}
    with attached(model, {"covft": adapter}) as held:
        with held.use("covft"), adapter_at_work(model).context([context_text(item.prompt)], [0] * len(pixels)):
            tuned = model.module(**given).hidden_states[2][0, -1]  # after block 1
        base = model.module(**given).hidden_states[2][0, -1]
    torch.testing.assert_close(kept["delimiter/1"][2], tuned)
    assert not torch.allclose(tuned, base)


def test_splits_share_no_picture(finished: Path) -> None:
    frozen = [load_file(finished / "states" / f"read-{split}-counting.safetensors")["frozen"] for split in
              ("train", "selection", "test")]  # fmt: skip
    assert torch.cdist(frozen[0], frozen[1]).min() > 0
    assert torch.cdist(frozen[0], frozen[2]).min() > 0


def test_killed_run_continues_to_the_same_tables(finished: Path, arguments: list[object], tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(finished, out)
    killed(finished, out, 0.05)
    assert run([*arguments, "--out", out]) == 0
    for name in TABLES:
        one, other = (pd.read_csv(folder / f"{name}.csv") for folder in (finished, out))
        pd.testing.assert_frame_equal(one, other, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def counterpart(place: Place) -> Path:
    return tune_tiny(place.folder / "freeze", place.vlm, "vision_freeze", TASKS[:2])


@pytest.fixture(scope="module")
def comparing(place: Place, adapter: Path, counterpart: Path) -> list[object]:
    given = ["--model", place.vlm, "--tasks", *TASKS[:3], "--items", 4, "--contexts", 4, "--size", 32]
    return [*given, "--difficulty", 0, "--dtype", "float64", "--compare", adapter, counterpart]


@pytest.fixture(scope="module")
def compared(comparing: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared")
    assert run([*comparing, "--out", out], draw=True) == 0
    return out / "compare"


def test_compared_adapters_have_every_measure_of_every_target(compared: Path) -> None:
    rows, table = (pd.read_csv(compared / f"{name}.csv") for name in ("compare_rows", "compare"))
    assert set(rows["strategy"]) == {"covft", "vision_freeze"}
    assert set(rows["target"]) == set(TASKS[:3])
    assert {"change", "patch_own", "patch_other", "accuracy", "pgf"} <= set(rows["measure"])
    wide = rows.pivot_table("value", ["target", "measure"], "strategy").xs("change", level="measure")
    mean = (wide["covft"] - wide["vision_freeze"]).mean()
    assert table.set_index("measure").loc["change", "difference"] == pytest.approx(mean)
    assert (wide > 0).all(axis=None)
    assert {path.stem for path in (compared / "figures").glob("*.png")} == {"compare"}


def test_at_the_letter_the_last_block_is_compared_and_vectors_are_read_there(
    comparing: list[object], compared: Path, place: Place, adapter: Path, tmp_path: Path
) -> None:
    last = tiny.LAYERS - 1
    assert run([*comparing, "--position", "letter", "--patch-layer", last, "--out", tmp_path]) == 0
    rows = pd.read_csv(tmp_path / "compare" / "compare_rows.csv")
    patched = rows[rows["measure"].isin(["patch_own", "patch_other"])]["value"]
    assert patched.notna().all()
    assert patched.abs().max() > 0
    kept, there = (
        load_file(next((folder / "states").glob("under-covft*.safetensors")))["counting"]
        for folder in (tmp_path / "compare", compared)
    )
    assert not torch.allclose(kept, there)
    model = load_model(str(place.vlm), device="cpu", dtype="float64")
    reader = ItemReader(model)
    begun = torch.tensor(reader.replies[0][: reader.common], dtype=torch.long)
    assert len(begun) > 0
    states = []
    with attached(model, {"covft": adapter}) as held, held.use("covft"):
        for item in asked_items("counting", n=4, split="train", difficulty=0.0, size=32, seed=1000):
            one = encode(model, item.images, [(item.prompt, None)])
            pixels = torch.cat([model.image_inputs(image).features["pixel_values"].double() for image in item.images])
            given = {"input_ids": torch.cat([one.input_ids, begun])[None], "pixel_values": pixels}
            with adapter_at_work(model).context([context_text(item.prompt)], [0] * len(pixels)):
                states.append(model.module(**given, output_hidden_states=True).hidden_states[last][0, -1])
    expected = torch.stack([half.mean(0) for half in torch.stack(states).chunk(2)])
    torch.testing.assert_close(kept[:, last - 1], expected)


def test_adapters_of_unequal_dose_are_not_compared(
    place: Place, adapter: Path, counterpart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(counterpart, other)
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(record | {"steps": 5}))
    given = ["--model", place.vlm, "--tasks", *TASKS[:3], "--compare", adapter, other]
    refuses(context_and_vectors, [*given, "--out", tmp_path / "run"], "different doses", capsys, tmp_path / "run")
    given = ["--model", place.vlm, "--tasks", *TASKS[:3], "--compare", adapter]
    refuses(context_and_vectors, [*given, "--out", tmp_path / "run"], "are adapters of covft", capsys, tmp_path / "run")
    twice = [*given, adapter, counterpart, "--out", tmp_path / "run"]
    refuses(context_and_vectors, twice, "adapter 'covft mixture@0' is given 2 times", capsys, tmp_path / "run")
    (other / "run.json").write_text("[]")
    refuses(context_and_vectors, [*given, other], "has no run.json of a training", capsys, tmp_path / "run")


def test_trained_task_is_known_by_its_abbreviation(counterpart: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(counterpart, other)
    record = json.loads((other / "run.json").read_text())
    for given, known in (
        ("RD/yes_no", "relative_depth"),
        ("RD", "relative_depth"),
        ("counting", "counting"),
        ("VS-RD", "VS-RD"),
    ):
        changed = record | {"config": record["config"] | {"task": given}}
        (other / "run.json").write_text(json.dumps(changed))
        assert Trained.read(other).task == known


def test_a_block_whose_patch_reaches_no_answer_is_refused(
    comparing: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--patch-layer", tiny.LAYERS - 1, "--out", tmp_path / "run"]
    said = f"layer {tiny.LAYERS - 1} cannot be patched at the delimiter"
    refuses(context_and_vectors, [*comparing, *more], said, capsys, tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--tasks", *TASKS[:3]], "expected four or more"),
        (["--layers", 9], "layer 9 of the decoder"),
        (["--items", 2], "expected at least 4"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[object], more: list[object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses(context_and_vectors, [*arguments, "--out", tmp_path / "run", *more], said, capsys, tmp_path / "run")


def test_seed_of_the_training_draws_no_items(
    comparing: list[object], arguments: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (arguments, comparing):
        refuses(context_and_vectors, [*given, "--seed", 0, "--out", tmp_path / "run"], "seed 0 is the one that", capsys,
                tmp_path / "run")  # fmt: skip


def test_a_patch_of_the_own_vector_beyond_another_s_is_their_difference(compared: Path) -> None:
    rows = pd.read_csv(compared / "compare_rows.csv").pivot_table("value", ["strategy", "target"], "measure")
    expected = rows["patch_own"] - rows["patch_other"]
    pd.testing.assert_series_equal(rows["patch_specific"], expected, check_names=False, atol=1e-12)


def test_differences_resample_trained_tasks_and_targets() -> None:
    rng = np.random.default_rng(0)
    names = ["a", "b", "c", "d"]
    rows = [
        (strategy, source, seed, target, "pgf", rng.normal())
        for source in names[:3]
        for seed in (0, 1)
        for target in names
        for strategy in ("covft", "lora")
    ]
    rows[13] = (*rows[13][:5], np.nan)  # a cell with one seed alone
    table = pd.DataFrame(rows, columns=["strategy", "source", "seed", "target", "measure", "value"])
    found = differences(table, seed=1).set_index("targets")
    wide = table.pivot_table("value", ["source", "target", "seed"], "strategy").dropna()
    wide = (wide["covft"] - wide["lora"]).rename("value").reset_index()
    own, others = wide[wide["source"] == wide["target"]], wide[wide["source"] != wide["target"]]
    expected = bootstrap_mean(own["value"].to_numpy(), groups=own["source"].tolist(), seed=1)
    assert found.loc["own", ["difference", "low", "high"]].tolist() == pytest.approx(list(expected))
    expected = bootstrap_two_way(
        others["value"].to_numpy(), rows=others["source"].tolist(), columns=others["target"].tolist(), seed=1
    )
    assert found.loc["others", ["difference", "low", "high"]].tolist() == pytest.approx(list(expected))
    assert (found["covft"] - found["other"]).tolist() == pytest.approx(found["difference"].tolist())


def test_a_task_in_two_forms_is_no_two_targets() -> None:
    with pytest.raises(CrosstaskError, match="expected three or more, each once"):
        CompareSettings("m", {}, ("relative_depth", "relative_depth/yes_no", "counting"))
