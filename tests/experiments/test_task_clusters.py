"""The cluster experiment from the command line, on tiny random models and tasks made on the spot."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

from experiments import task_clusters
from interp.models.base import load_model
from interp.prompts import Template
from interp.protocol.contexts import source_prompts
from interp.protocol.states import StatePlan
from interp.tasks import load_task
from interp.vectors import extract
from probes.task_clusters import ClusterSettings
from tests import tiny
from tests.places import Place, make_task, start

TABLES = ("choice", "clusters", "cosines", "probes", "projection", "chosen_clusters", "chosen_probes", "chosen_cosines")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("place"))
    place.kinds = make_task(place.folder / "more" / "kinds", ["cat", "dog", "ox"], items=24)
    place.colours = make_task(place.folder / "more" / "colours", ["red", "blue"], items=24)
    return place


def arguments(place: Place, out: Path, *more: object) -> list[str]:
    given = ["--model", place.vlm, "--tasks", place.kinds, place.colours, "--out", out, "--shots", 1, "--blocks", 4]
    given += ["--choice-blocks", 3, "--permutations", 9, "--neighbours", 2, "--projections", "pca", "tsne"]
    return list(map(str, [*given, "--dtype", "float64", *more]))


run = partial(start, task_clusters)


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "clusters"
    assert run(arguments(place, out)) == 0
    return out


def test_every_value_has_its_baseline_and_interval_at_every_layer(finished: Path) -> None:
    clusters, probes = (pd.read_csv(finished / f"{name}.csv") for name in ("clusters", "probes"))
    questions = {("task", "all"), ("task", "other modality"), ("modality", "all")}
    assert set(zip(clusters["label"], clusters["among"], strict=True)) == questions
    assert len(clusters) == 2 * tiny.LAYERS * len(questions) * 2
    assert (clusters["n"] == 2 * 4 * 2 * 2).all()
    assert len(probes) == 2 * tiny.LAYERS * 4  # two kinds; trained on each modality, tested on each
    for table, value in ((clusters, "value"), (probes, "accuracy")):
        assert table[[value, "low", "high", "chance"]].notna().all(axis=None)
        assert ((table["low"] <= table[value] + 1e-9) & (table[value] <= table["high"] + 1e-9)).all()
    assert probes["selectivity"].to_numpy() == pytest.approx((probes["accuracy"] - probes["control"]).to_numpy())
    chosen = pd.read_csv(finished / "choice.csv").query("chosen")["layer"].item()
    assert set(probes[probes["p"].notna()]["layer"]) == {chosen}


def test_silhouette_by_modality_is_that_of_states_extracted_by_hand(place: Place, finished: Path) -> None:
    """The pairs of a block are few; with one block's states taken out in turn scikit-learn gives the same means."""
    tasks = [load_task(str(path)) for path in (place.kinds, place.colours)]
    model = load_model(str(place.vlm), dtype="float64")
    plan = StatePlan(
        ClusterSettings("m", ("kinds", "colours"), 1, 4, 3, 2, 0, r"Q: {x}\nA: {y}\n\n", ("text",), 2, 9, ()), tasks
    )
    template = Template.parse(task_clusters.Arguments().template)
    states, labels = [], []
    for modality in ("text", "image"):
        for task in tasks:
            prompts = source_prompts(model, task, modality, plan.contexts(task, "test"), template=template)
            states.append(extract(model, prompts)[:, 2].numpy())
            labels += [modality] * len(prompts)
    expected = silhouette_score(np.concatenate(states), labels, metric="cosine")
    clusters = pd.read_csv(finished / "clusters.csv")
    row = clusters.query("kind == 'task_vector' and layer == 2 and label == 'modality' and metric == 'silhouette'")
    assert row["value"].item() == pytest.approx(expected, abs=0.1)


def test_random_model_has_context_embeddings_that_cluster_by_modality(finished: Path) -> None:
    """Pictures and texts enter even a random model by different doors."""
    clusters = pd.read_csv(finished / "clusters.csv").query("kind == 'context_embedding' and metric == 'silhouette'")
    first = clusters[clusters["layer"] == 0].set_index(["label", "among"])["value"]
    assert first["modality", "all"] > first["task", "all"]
    assert first["modality", "all"] > 0.2


def test_layer_is_the_best_of_the_selection_blocks_and_projections_are_of_it(finished: Path) -> None:
    choice = pd.read_csv(finished / "choice.csv")
    assert choice["chosen"].sum() == 1
    assert choice["silhouette"].idxmax() == choice.index[choice["chosen"]].item()
    projection = pd.read_csv(finished / "projection.csv")
    assert set(projection["layer"]) == {choice.query("chosen")["layer"].item()}
    counts = projection.groupby(["kind", "method", "modality"]).size()
    assert set(counts.xs("instruction", level="modality")) == {2}
    assert set(counts.xs("image", level="modality")) == {16}


def test_cosines_of_every_relation_are_there(finished: Path) -> None:
    cosines = pd.read_csv(finished / "cosines.csv")
    assert set(cosines["tasks"]) == {"same task", "other family"}
    assert set(cosines["modalities"]) == {"same modality", "other modality"}
    assert len(cosines) == 2 * tiny.LAYERS * 2 * 4
    assert (cosines["q05"] <= cosines["q95"]).all()
    assert ((cosines["low"] <= cosines["mean"]) & (cosines["mean"] <= cosines["high"])).all()


@pytest.mark.usefixtures("undrawn")
def test_report_and_figures_are_written_and_the_report_is_the_last_line(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(place, finished)) == 0  # a finished run is not repeated
    said = capsys.readouterr().out
    assert "Everything is done already" in said
    assert "should take" not in said
    last = said.strip().splitlines()[-1]
    assert Path(last) == finished / "report.html"
    page = Path(last).read_text()
    assert "was chosen on 3 other blocks a family" in page
    assert "chance" in page
    names = ("projections", "clusters", "probes", "cosines")
    assert {path.name for path in (finished / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")
    }


@pytest.mark.usefixtures("undrawn")
def test_killed_run_continues_to_the_same_tables(
    place: Place, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    out.mkdir()
    for name in ("config.json", "environment.json"):
        (out / name).write_bytes((finished / name).read_bytes())
    lines = (finished / "journal.jsonl").read_bytes().splitlines(keepends=True)
    extracted = sum(b"states / " in line for line in lines)
    (out / "journal.jsonl").write_bytes(b"".join(lines[: extracted + 3]) + lines[extracted + 3][:20])
    files = sorted((finished / "states").rglob("*.safetensors"))
    assert len(files) == extracted == 2 * 2 * 2 + 2  # modalities x tasks x splits, and the instructions
    for path in files[1:]:  # one is lost, and is read again
        (out / path.relative_to(finished)).parent.mkdir(parents=True, exist_ok=True)
        (out / path.relative_to(finished)).write_bytes(path.read_bytes())
    assert run(arguments(place, out)) == 0
    assert f"Continuing: {extracted + 3} of" in capsys.readouterr().out
    for name in TABLES:
        assert (out / f"{name}.csv").read_bytes() == (finished / f"{name}.csv").read_bytes(), name


@pytest.mark.usefixtures("undrawn")
def test_tasks_of_one_family_are_told_apart_within_it(tmp_path: Path, place: Place) -> None:
    given = ["--tasks", "country-capital", "country-currency", "food-color", "food-flavor", "--modalities", "text"]
    more = [*given, "--blocks", 2, "--choice-blocks", 2, "--projections", "pca"]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    clusters, probes = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("clusters", "probes"))
    assert set(clusters["among"]) == {"all", "same family"}
    assert set(clusters["label"]) == {"task"}
    assert probes.groupby("scope")["chance"].first().to_dict() == {"all tasks": 0.25, "within families": 0.5}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--modalities", "sound"], "--modalities 'sound' is unknown; expected one of text, image"),
        (["--projections", "mds"], "--projections 'mds' is unknown; expected one of pca, tsne, umap"),
        (["--permutations", 0], "--permutations is 0"),
        (["--shots", 4], "has 8 test items; two blocks of 4 demonstrations and a dummy query need 10"),
        (["--modalities", "text", "--blocks", 2], "t-SNE of 8 states; it needs at least 10"),
        (["--template", "no braces"], "must hold {x} once"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    assert run(arguments(place, tmp_path / "out", *more)) == 2
    assert re.search(re.escape(said), capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("undrawn")
def test_model_without_images_is_not_asked_images_unless_told_to(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--model", place.llm, "--projections", "pca"]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    assert set(pd.read_csv(tmp_path / "out" / "probes.csv")["test"]) == {"text"}
    assert run(arguments(place, tmp_path / "other", *more, "--modalities", "image")) == 2
    assert "takes no images" in capsys.readouterr().err
