"""The comparison of two models from the command line, on tiny random models and tasks made on the spot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments import common, compare_pair
from interp.models.base import load_model
from interp.models.pairs import agreement, matched, mismatched
from interp.prompts import Template
from interp.protocol.contexts import draw, source_prompts
from interp.tasks import load_task
from interp.vectors import extract
from tests import tiny
from tests.places import Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def run(argv: Sequence[object]) -> int:
    given = list(map(str, argv))
    return common.run(compare_pair.Arguments, compare_pair.main, module=compare_pair.MODULE, argv=given)


def arguments(place: Place, out: Path, *more: object) -> list[object]:
    given = ["--source", place.llm, "--target", place.vlm, "--tasks", place.kinds, place.colours, "--out", out]
    return [*given, "--shots", 2, "--contexts", 3, "--dtype", "float64", *more]


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    assert run(arguments(place, place.folder / "pair", "--target-modality", "image")) == 0
    return place.folder / "pair"


def test_table_has_the_cosines_of_vectors_extracted_by_hand(place: Place, finished: Path) -> None:
    template = Template.parse(compare_pair.Arguments().template)

    def vectors(path: Path, modality: str) -> list:
        model, found = load_model(str(path), dtype="float64"), []
        for task in (load_task(str(place.kinds)), load_task(str(place.colours))):
            contexts = draw(task.split("selection"), shots=2, contexts=3, seed=0, task=task.name)
            found.append(extract(model, source_prompts(model, task, modality, contexts, template=template)).mean(0))
        return found

    expected = agreement(torch.stack(vectors(place.llm, "text")), torch.stack(vectors(place.vlm, "image")))
    layers = pd.read_csv(finished / "layers.csv")
    assert layers["source_layer"].tolist() == list(range(tiny.LAYERS))
    for kind, cosines in (("raw", expected.raw), ("centred", expected.centred)):
        assert layers[f"{kind}_matched"].to_numpy() == pytest.approx(matched(cosines).numpy(), abs=1e-6)
        assert layers[f"{kind}_mismatched"].to_numpy() == pytest.approx(mismatched(cosines).numpy(), abs=1e-6)
    assert (layers["weight_distance"] > 0.5).all()  # two random models
    pairs = pd.read_csv(finished / "cosines.csv")
    assert len(pairs) == tiny.LAYERS * 2 * 2
    same = pairs[pairs["source_task"] == pairs["target_task"]].groupby("layer")["raw"].mean()
    assert same.to_numpy() == pytest.approx(layers["raw_matched"].to_numpy(), abs=1e-6)


def test_summary_says_what_they_share_and_the_figure_is_drawn(finished: Path) -> None:
    summary = (finished / "summary.md").read_text()
    assert "the same vocabulary" in summary
    assert re.search(r"Delimiter ':': token \d+ in both", summary)
    assert {path.name for path in (finished / "figures").iterdir()} == {"agreement.png", "agreement.pdf"}


def test_layer_map_says_which_source_layer_is_read(place: Place, tmp_path: Path) -> None:
    mapped = [3, 2, 1, 0]
    assert run(arguments(place, tmp_path / "out", "--layer-map", *mapped)) == 0
    assert pd.read_csv(tmp_path / "out" / "layers.csv")["source_layer"].tolist() == mapped


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--layer-map", 0, 1], "a layer map of 2 layers from 0 to 1 does not fit; expected 4 layers"),
        (["--source-modality", "image"], "takes no images; read its vectors from text"),
        (["--source-modality", "sound"], "--source-modality 'sound' is unknown"),
        (["--source", ""], "no base LLM of .* is known; name one with --source"),
        (["--contexts", 0], "--contexts is 0"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    assert run(arguments(place, tmp_path / "out", *more)) == 2
    assert re.search(said, capsys.readouterr().err)


def test_one_task_is_no_comparison(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--source", place.llm, "--target", place.vlm, "--tasks", place.kinds, "--out", tmp_path / "out"]
    assert run(given) == 2
    assert "--tasks names 1 task; a comparison needs two" in capsys.readouterr().err
