"""Clusters of contextual vectors from the command line, under a CoVFT adapter of the tiny model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from experiments import context_clusters
from figures import context_clusters as figures
from interp.context_vectors.reading import context_strategy, read_contexts
from interp.models.base import load_model
from interp.tasks.perception.datasets import test_data as scored_data
from interp.tuning.adapters import attached
from interp.tuning.text_context import context_text
from tests.places import Place, killed, refuses, start, start_undrawn
from tests.tuned import tune_tiny

TASKS = ("counting", "visual_similarity")
TABLES = ("agreement", "clusterings", "composition", "nearest", "routing", "projection")
REPRESENTATIONS = {"context", "text", "neutral", "blank", "features", "frozen"}


def run(argv: Sequence[object], *, draw: bool = False) -> int:
    """The exit code; figures are drawn where they are looked at."""
    return start_undrawn(context_clusters, figures, argv, draw=draw)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def adapter(place: Place) -> Path:
    return tune_tiny(place.folder / "covft", place.vlm, "covft", TASKS, text="hashing")


@pytest.fixture(scope="module")
def arguments(place: Place, adapter: Path) -> list[object]:
    given = ["--model", place.vlm, "--adapter", adapter, "--tasks", *TASKS, "--items", 8, "--clusters", 3]
    return [
        *given,
        "--wordings",
        "brief",
        "described",
        "--shuffles",
        9,
        "--nearest",
        2,
        "--size",
        32,
        "--difficulty",
        0,
        "--dtype",
        "float64",
    ]


@pytest.fixture(scope="module")
def finished(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "run"
    assert run([*arguments, "--out", out], draw=True) == 0
    return out


def test_tables_figures_and_report_are_written(finished: Path) -> None:
    for name in TABLES:
        assert len(pd.read_csv(finished / f"{name}.csv")) > 0, name
    assert {path.stem for path in (finished / "figures").glob("*.png")} == {"plane", "agreement", "nearest"}
    assert "text embedding alone" in (finished / "report.html").read_text()


def test_every_representation_stands_beside_the_context(finished: Path) -> None:
    table = pd.read_csv(finished / "agreement.csv")
    assert set(table["representation"]) == REPRESENTATIONS
    assert {"task", "form", "wording", "question"} <= set(table["label"])
    assert ((table["low"] <= table["ami"]) & (table["ami"] <= table["high"])).all()
    assert table["shuffled_high"].notna().all()
    assert (table["n"] == 32).all()


def test_nearest_samples_are_items_of_their_cluster(finished: Path) -> None:
    nearest, plane = (pd.read_csv(finished / f"{name}.csv") for name in ("nearest", "projection"))
    own = plane[plane["representation"] == "context"].set_index(["item", "wording"])["cluster"]
    found = [own[place] for place in zip(nearest["item"], nearest["wording"], strict=True)]
    assert found == nearest["cluster"].tolist()
    assert (nearest.groupby("cluster")["distance"].diff().dropna() >= 0).all()


def test_vectors_are_those_of_each_item_alone_and_of_its_own_question(
    place: Place, adapter: Path, finished: Path
) -> None:
    kept = load_file(finished / "states" / "read-visual_similarity-brief.safetensors")
    model = load_model(str(place.vlm), device="cpu", dtype="float64")
    data = scored_data("visual_similarity", n=8, size=32, difficulty=0.0, seed=1000)
    with attached(model, {"covft": adapter}) as held, held.use("covft"):
        for index in (0, 5):
            alone = read_contexts(model, [data[index]], [context_text(data[index].prompt)])
            torch.testing.assert_close(kept["context/1"][index], alone["context/1"][0])
        pixels = [model.image_inputs(image).features["pixel_values"].double() for image in data[0].images]
        chosen = context_strategy(model)
        with chosen.context(chosen.text_inputs([context_text(data[0].prompt)], [0] * len(pixels))):
            model.module.get_image_features(pixel_values=torch.cat(pixels))
        torch.testing.assert_close(kept["context/1"][0], chosen.context_vectors()[1].mean(0))


def test_controls_take_away_what_they_say(finished: Path) -> None:
    """Grey pictures leave nothing but the question, and one question nothing but the pictures."""
    kept = load_file(finished / "states" / "read-visual_similarity-brief.safetensors")  # all ask the same question
    assert kept["text"].std(0).max() < 1e-6
    assert kept["blank/1"].std(0).max() < 1e-9
    assert kept["neutral/1"].std(0).max() > 1e-4
    assert kept["context/1"].std(0).max() > 1e-4
    np.testing.assert_allclose(kept["routing/1"].sum(1), 1.0)


def test_killed_run_continues_to_the_same_tables(finished: Path, arguments: list[object], tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(finished, out)
    killed(finished, out, 0.7)
    assert run([*arguments, "--out", out]) == 0
    for name in TABLES:
        one, other = (pd.read_csv(folder / f"{name}.csv") for folder in (finished, out))
        pd.testing.assert_frame_equal(one, other, rtol=1e-6, atol=1e-12)


def test_adapter_without_contexts_is_refused(
    place: Place, arguments: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tune_tiny(place.folder / "full", place.vlm, "vision_freeze", TASKS)
    capsys.readouterr()
    assert start(context_clusters, [*arguments, "--adapter", other, "--out", tmp_path / "run"]) == 2
    assert "of strategy 'vision_freeze'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--tasks", "counting"], "expected two or more"),
        (["--clusters", 32], "32 clusters of 32 items"),
        (["--adapter", "nowhere"], "holds no weights of an adapter"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[object], more: list[object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses(context_clusters, [*arguments, "--out", tmp_path / "run", *more], said, capsys, tmp_path / "run")


def test_layer_without_contexts_is_refused_before_anything_is_kept_and_leaves_the_folder_free(
    arguments: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run([*arguments, "--layer", 9, "--out", out]) == 2
    assert "layer 9 has no contextual vectors; expected 1" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} <= {".lock"}
