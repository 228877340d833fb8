"""The head experiment from the command line, on tiny random models and tasks made on the spot."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from experiments import common, head_effects
from interp.heads import extract_heads, strongest, sum_of_heads
from interp.models.base import load_model
from interp.prompts import Template
from interp.protocol.contexts import draw, source_prompts
from interp.tasks import load_task
from tests import tiny
from tests.places import Place

TABLES = ("effects.csv", "ranking.csv", "curve.csv")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def arguments(place: Place, out: Path, *more: object) -> list[str]:
    given = ["--model", place.vlm, "--tasks", place.kinds, place.colours, "--out", out, "--shots", 2, "--contexts", 4]
    return list(map(str, [*given, "--trials", 3, "--top", 3, "--test-items", 3, "--dtype", "float64", *more]))


def run(argv: Sequence[str]) -> int:
    return common.run(head_effects.Arguments, head_effects.main, module=head_effects.MODULE, argv=argv)


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "heads"
    assert run(arguments(place, out, "--modality", "image", "--query", "image")) == 0
    return out


def test_every_head_of_every_task_has_an_effect_with_its_interval(finished: Path) -> None:
    effects = pd.read_csv(finished / "effects.csv")
    assert len(effects) == 2 * tiny.LAYERS * 4
    assert set(effects["task"]) == {"kinds", "colours"}
    assert ((effects["low"] <= effects["log_gain"]) & (effects["log_gain"] <= effects["high"])).all()
    assert (effects["n"] == 3).all()
    assert effects["log_gain"].abs().max() > 0.01


def test_ranking_is_by_the_mean_over_tasks(finished: Path) -> None:
    effects, ranking = (pd.read_csv(finished / f"{name}.csv") for name in ("effects", "ranking"))
    mean = effects.groupby(["layer", "head"])["log_gain"].mean()
    assert [mean[row.layer, row.head] for row in ranking.itertuples()] == pytest.approx(
        sorted(mean, reverse=True), abs=1e-6
    )


def test_saved_vector_is_the_sum_of_the_tasks_strongest_heads(place: Place, finished: Path) -> None:
    model, task = load_model(str(place.vlm), dtype="float64"), load_task(str(place.kinds))
    contexts = draw(task.split("selection"), shots=2, contexts=4, seed=0, task=task.name)
    template = Template.parse(head_effects.Arguments().template)
    means = extract_heads(model, source_prompts(model, task, "image", contexts, template=template)).mean(0)
    effects = pd.read_csv(finished / "effects.csv").query("task == 'kinds'")
    table = torch.tensor(effects.pivot_table("log_gain", "layer", "head").to_numpy())
    expected = sum_of_heads(model, means, strongest(table, 3))
    saved = load_file(finished / "vectors" / "kinds.safetensors")
    torch.testing.assert_close(saved["top"], expected, rtol=0, atol=1e-9)
    assert not torch.allclose(saved["random"], expected)


def test_curve_has_both_sums_at_every_layer_and_figures_are_drawn(finished: Path) -> None:
    curve = pd.read_csv(finished / "curve.csv")
    assert len(curve) == 2 * 2 * tiny.LAYERS
    assert set(curve["heads"]) == {"top", "random"}
    assert {path.name for path in (finished / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in ("effects", "curve") for suffix in ("png", "pdf")
    }


def test_killed_run_continues_to_the_same_tables(place: Place, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    out.mkdir()
    for name in ("config.json", "environment.json"):
        (out / name).write_bytes((finished / name).read_bytes())
    lines = (finished / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(lines[0] + lines[1] + lines[2][:20])
    (out / "heads").mkdir()
    for path in (finished / "heads").iterdir():
        (out / "heads" / path.name).write_bytes(path.read_bytes())
    assert run(arguments(place, out, "--modality", "image", "--query", "image")) == 0
    for name in TABLES:
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_how_the_model_is_loaded_is_in_the_configuration_and_the_memory_plan_on_the_terminal(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--device-map", '{"": "cpu"}', "--attention", "sdpa", "--trials", 1, "--test-items", 1]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["device_map"], config["attention"], config["dtype"]) == ('{"": "cpu"}', "sdpa", "float64")
    assert not {"device", "loading", "quantize", "revision", "trust_remote_code"} & set(config)
    printed = capsys.readouterr().out
    assert re.search(r"^sweep of model '.*': \d+ tokens a forward pass, \d+ packed rows, from ", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--top", 99], "--top is 99, but .* has 16 heads"),
        (["--trials", 0], "--trials is 0"),
        (["--modality", "sound"], "--modality 'sound' is unknown"),
        (["--shots", 30], "30 demonstrations"),
        (["--dtype", "int3"], "unknown dtype 'int3'; expected one of float32"),
        (["--device", "cpu", "--device-map", "auto"], "both say where the model goes"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    assert run(arguments(place, tmp_path / "out", *more)) == 2
    assert re.search(said, capsys.readouterr().err)


def test_model_without_images_is_not_asked_images(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(place, tmp_path / "out", "--model", place.llm, "--modality", "image")) == 2
    assert "takes no images" in capsys.readouterr().err
