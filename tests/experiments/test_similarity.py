"""The similarity experiment from the command line, on tiny random models and tasks made on the spot."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments import common, similarity
from interp.models.base import load_model
from interp.models.pairs import agreement, matched, mismatched
from interp.protocol.contexts import source_prompts
from interp.protocol.states import StatePlan, StateSettings
from interp.tasks import load_task
from interp.vectors import extract
from probes.similarity import cka
from tests import tiny
from tests.places import Place, make_task, start

TABLES = ("choice", "layers", "cosines", "cka", "chosen_layers", "chosen_cka")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("place"))
    place.kinds = make_task(place.folder / "more" / "kinds", ["cat", "dog", "ox"], items=24)
    place.colours = make_task(place.folder / "more" / "colours", ["red", "blue"], items=24)
    return place


def arguments(place: Place, out: Path, *more: object) -> list[str]:
    given = ["--model", place.vlm, "--llm", place.llm, "--tasks", place.kinds, place.colours, "--out", out]
    given += ["--shots", 1, "--blocks", 4, "--choice-blocks", 2, "--permutations", 9, "--resamples", 20]
    return list(map(str, [*given, "--dtype", "float64", *more]))


run = partial(start, similarity)


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "similarity"
    assert run(arguments(place, out)) == 0
    return out


def states_by_hand(place: Place, path: Path, modality: str) -> torch.Tensor:
    """Task vectors [K, blocks, L, D], the mean over the orders of each block."""
    tasks = [load_task(str(task)) for task in (place.kinds, place.colours)]
    settings = StateSettings("m", ("kinds", "colours"), 1, 4, 2, 2, 0, similarity.Arguments().template)
    plan, model = StatePlan(settings, tasks), load_model(str(path), dtype="float64")
    found = []
    for task in tasks:
        prompts = source_prompts(model, task, modality, plan.contexts(task, "test"), template=plan.template)
        states = extract(model, prompts)
        found.append((states[::2] + states[1::2]) / 2)
    return torch.stack(found)


def test_tables_have_the_cosines_and_the_cka_of_states_extracted_by_hand(place: Place, finished: Path) -> None:
    llm, vlm = states_by_hand(place, place.llm, "text"), states_by_hand(place, place.vlm, "image")
    expected = agreement(llm.mean(1), vlm.mean(1))
    names = (f"{place.llm} text", f"{place.vlm} image")
    layers = pd.read_csv(finished / "layers.csv")
    pair = layers[(layers["source"] == names[0]) & (layers["target"] == names[1])]
    for centring in ("raw", "centred"):
        rows = pair[pair["centring"] == centring].sort_values("layer")
        cosines = getattr(expected, centring)
        assert rows["matched"].to_numpy() == pytest.approx(matched(cosines).numpy(), abs=1e-9)
        assert rows["mismatched"].to_numpy() == pytest.approx(mismatched(cosines).numpy(), abs=1e-9)
        assert rows["gap"].to_numpy() == pytest.approx((rows["matched"] - rows["mismatched"]).to_numpy(), abs=1e-9)
    aligned = pd.read_csv(finished / "cka.csv").query("kind == 'task_vector' and layer == 3")
    row = aligned[(aligned["source"] == names[0]) & (aligned["target"] == names[1])]
    first, second = (states[:, :, 3].flatten(0, 1).numpy() for states in (llm, vlm))
    assert row["cka"].item() == pytest.approx(cka(first, second), abs=1e-9)
    assert row["biased"].item() == pytest.approx(cka(first, second, estimator="biased"), abs=1e-9)


def test_every_pair_of_sources_is_compared_with_its_baselines(place: Place, finished: Path) -> None:
    layers, cosines, aligned = (pd.read_csv(finished / f"{name}.csv") for name in ("layers", "cosines", "cka"))
    assert len(cosines.groupby(["source", "target"])) == 15  # five sources, each with itself and with the others
    assert len(cosines) == 15 * tiny.LAYERS * 4
    assert len(layers.groupby(["source", "target"])) == 13  # a lone instruction has no halves
    assert len(aligned.groupby(["source", "target"])) == 3
    baselines = ["mismatched", "random_low", "random_high", "p"]
    assert layers[["matched", *baselines]].notna().all(axis=None)
    assert aligned[["null_high", "within_task_null_high", "biased_null_mean"]].notna().all(axis=None)
    instructions = layers["source"].str.endswith("instruction") & layers["target"].str.endswith("instruction")
    assert (layers["matched_low"].isna() == instructions).all()
    rest = layers[~instructions]
    assert (rest["matched_low"] <= rest["matched_high"]).all()


def test_layer_is_chosen_on_other_blocks_between_text_and_image(place: Place, finished: Path) -> None:
    choice = pd.read_csv(finished / "choice.csv")
    assert set(choice["source"]) == {f"{place.vlm} text"}
    assert set(choice["target"]) == {f"{place.vlm} image"}
    assert choice["gap"].idxmax() == choice.index[choice["chosen"]].item()
    chosen = pd.read_csv(finished / "chosen_layers.csv")
    assert len(chosen) == 13 * 2


@pytest.mark.usefixtures("undrawn")
def test_report_and_figures_are_written_and_the_report_is_the_last_line(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(place, finished)) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert Path(last) == finished / "report.html"
    assert "was chosen on 2 other blocks a family" in Path(last).read_text()
    names = ("matrix_raw", "matrix_centred", "layers_raw", "layers_centred", "cka")
    assert {path.name for path in (finished / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")
    }


@pytest.mark.usefixtures("undrawn")
def test_killed_run_continues_to_the_same_tables(place: Place, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    out.mkdir()
    for name in ("config.json", "environment.json"):
        (out / name).write_bytes((finished / name).read_bytes())
    lines = (finished / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:20])
    files = sorted((finished / "states").rglob("*.safetensors"))
    assert len(files) == 3 * 2 * 2 + 2 * 2  # example sources x tasks x splits, and instructions of two models
    for path in files[:5]:
        (out / path.relative_to(finished)).parent.mkdir(parents=True, exist_ok=True)
        (out / path.relative_to(finished)).write_bytes(path.read_bytes())
    assert run(arguments(place, out)) == 0
    for name in TABLES:
        assert (out / f"{name}.csv").read_bytes() == (finished / f"{name}.csv").read_bytes(), name


@pytest.mark.usefixtures("undrawn")
def test_layer_map_says_which_layer_of_the_llm_is_read(place: Place, finished: Path, tmp_path: Path) -> None:
    assert run(arguments(place, tmp_path / "out", "--layer-map", 3, 2, 1, 0)) == 0
    straight, mapped = (pd.read_csv(folder / "cosines.csv") for folder in (finished, tmp_path / "out"))
    text, instruction = f"{place.llm} text", f"{place.llm} instruction"
    both = [t[(t["source"] == text) & (t["target"] == instruction)] for t in (straight, mapped)]
    flipped = both[0].assign(layer=3 - both[0]["layer"]).sort_values(["layer", "source_task", "target_task"])
    assert both[1].sort_values(["layer", "source_task", "target_task"])["raw"].to_numpy() == pytest.approx(
        flipped["raw"].to_numpy(), abs=1e-9
    )


@pytest.mark.usefixtures("undrawn")
def test_model_alone_is_compared_with_itself_across_modalities(place: Place, tmp_path: Path) -> None:
    given = arguments(place, tmp_path / "out")
    given[given.index("--llm") + 1] = ""
    assert run(given) == 0
    layers = pd.read_csv(tmp_path / "out" / "layers.csv")
    assert set(layers["source"]) == {f"{place.vlm} {way}" for way in ("text", "image")}
    assert set(layers["target"]) == {f"{place.vlm} {way}" for way in ("text", "image", "instruction")}


@pytest.mark.usefixtures("undrawn")
def test_tasks_over_the_same_items_are_a_baseline_with_an_interval(place: Place, tmp_path: Path) -> None:
    more = ["--llm", "", "--tasks", "country-capital", "country-currency", "food-color", "--blocks", 3]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    layers, cosines = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("layers", "cosines"))
    assert layers["family_gap"].to_numpy() == pytest.approx((layers["matched"] - layers["same_family"]).to_numpy())
    known = layers["family_gap_low"].notna()
    assert known.any()
    assert (layers["family_gap_low"] <= layers["family_gap_high"])[known].all()
    first = layers[layers["centring"] == "raw"].iloc[0]
    pair = cosines[(cosines["source"] == first["source"]) & (cosines["target"] == first["target"])]
    mixed = pair[(pair["layer"] == first["layer"]) & (pair["source_task"] != pair["target_task"])]
    countries = mixed["source_task"].str.startswith("country") & mixed["target_task"].str.startswith("country")
    assert first["same_family"] == pytest.approx(mixed[countries]["raw"].mean())
    assert "different tasks over the same items" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--resamples", 0], "--resamples is 0"),
        (["--layer-map", 0, 1], "a layer map of 2 layers from 0 to 1 does not fit; expected 4 layers"),
        (["--tasks", "country-capital"], "--tasks names 1 task"),
        (["--blocks", 1], "--blocks is 1; it must be at least 2"),
        (["--blocks", 2], "2 blocks of 1 demonstrations and a dummy query of 'kinds'"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    assert run(arguments(place, tmp_path / "out", *more)) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_same_model_twice_is_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(place, tmp_path / "out", "--llm", place.vlm)) == 2
    assert "--llm and --model are both" in capsys.readouterr().err


def test_other_options_have_a_folder_of_their_own() -> None:
    plain, other = (common.run_folder(a, "similarity") for a in (similarity.Arguments(), similarity.Arguments(shots=2)))
    assert plain == Path("runs/similarity/bundled")
    assert other.name.startswith("bundled-")
