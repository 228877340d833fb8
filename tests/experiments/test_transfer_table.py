"""The transfer tables from their command line, on tiny random models and tasks made on the spot."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments import common, cross_modal_patch, transfer_table
from interp.models.pairs import agreement, matched, mismatched
from interp.runs import Run
from interp.vectors import TaskVectors
from tests.places import Place, answers, refuses, start

TABLES = ("rates.csv", "comparisons.csv", "layers.csv", "image_queries.csv", "templates.csv", "predictions.jsonl")
TEMPLATES = (r"Q: {x}\nA: {y}\n\n", r"Input: {x}\nOutput: {y}\n\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


run = partial(start, transfer_table)


def arguments(place: Place, out: Path, *more: object) -> list[object]:
    return [*place.arguments(out), "--templates", *TEMPLATES, "--seeds", 0, 1, "--layers", 1, 3, *more]


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "tables"
    assert run(arguments(place, out)) == 0
    return out


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables only: figures take longer than the tiny models."""
    for module in (transfer_table, cross_modal_patch):
        monkeypatch.setattr(module, "_figures", lambda *_: {})


@pytest.mark.usefixtures("no_drawing")
def test_each_template_is_a_run_of_the_main_experiment(place: Place, finished: Path, tmp_path: Path) -> None:
    more = ["--template", TEMPLATES[1], "--seeds", 0, 1, "--layers", 1, 3]
    out = tmp_path / "alone"
    given = list(map(str, place.arguments(out, *more)))
    assert common.run(cross_modal_patch.Arguments, cross_modal_patch.main, module="x", argv=given) == 0
    ours = [row for row in answers(finished) if row.pop("template") == TEMPLATES[1]]
    assert ours == answers(out)
    assert len(answers(finished)) == 2 * len(ours)


def test_tables_have_every_source_query_and_template(place: Place, finished: Path) -> None:
    rates = pd.read_csv(finished / "rates.csv", keep_default_na=False)
    assert set(rates["template"]) == set(TEMPLATES)
    patched = rates[rates["method"] == "patch_single"]
    pairs = set(zip(patched["source"], patched["query"], strict=True))
    assert pairs == {(s, q) for s in ("text", "image", "instruction", "ensemble") for q in ("image", "text")}
    assert set(patched["source_model"]) == {str(place.vlm), str(place.llm)}
    assert set(rates["budget"]) == {"", "matched", "unmatched"}
    assert set(rates["seeds"]) == {2}
    assert (rates["low"] <= rates["exact"]).all()
    assert (rates["exact"] <= rates["high"]).all()
    assert (rates["exact"] > 0).any()
    for name in ("image_queries", "source_models", "source_by_query", "templates"):
        assert len(pd.read_csv(finished / f"{name}.csv")) > 0


def test_cosines_are_those_of_the_saved_vectors_at_the_patched_layer(place: Place, finished: Path) -> None:
    table = pd.read_csv(finished / "cosines.csv")
    row = table[(table["source"] == "text") & (table["query"] == "image") & (table["template"] == TEMPLATES[0])].iloc[0]
    folder = finished / "templates" / "0" / "vectors"

    def stacked(name: str, seed: int) -> torch.Tensor:
        (inside,) = [path for path in folder.iterdir() if path.name.startswith(name)]
        files = [inside / f"{task}-text-seed{seed}.safetensors" for task in ("kinds", "colours")]
        return torch.stack([TaskVectors.load(file).states for file in files])

    found = [agreement(stacked("llm", seed), stacked("vlm", seed)) for seed in (0, 1)]
    expected = sum(matched(one.raw)[row["layer"]] for one in found) / 2
    assert row["raw_same_task"] == pytest.approx(float(expected))
    other = sum(mismatched(one.centred)[row["layer"]] for one in found) / 2
    assert row["centred_other_task"] == pytest.approx(float(other))


@pytest.mark.usefixtures("no_drawing")
def test_interrupted_run_goes_on_in_the_second_template(
    place: Place, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, out = Run.record, tmp_path / "interrupted"
    units = len((finished / "templates" / "1" / "journal.jsonl").read_text().splitlines())

    def interrupt(self: Run, key: str, payload: dict) -> None:
        if self.folder.name == "1" and len(self) == units // 2:
            raise KeyboardInterrupt
        record(self, key, payload)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "record", interrupt)
        assert run(arguments(place, out)) == 130
    before = (out / "templates" / "0" / "journal.jsonl").read_bytes()
    assert run(arguments(place, out)) == 0
    assert (out / "templates" / "0" / "journal.jsonl").read_bytes() == before
    for name in TABLES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    assert not list(out.rglob("contexts"))


def test_last_line_is_the_report_and_figures_are_drawn(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(place, finished)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(finished / "report.html")
    assert {path.stem for path in (finished / "figures").iterdir()} == {"methods", "templates", "comparisons"}
    assert json.loads((finished / "config.json").read_text())["template"] is None


@pytest.mark.usefixtures("no_drawing")
def test_language_model_alone_has_no_image_tables(place: Place, tmp_path: Path) -> None:
    more = ["--model", place.llm, "--source-model", place.llm, "--seeds", 0, "--templates", TEMPLATES[0]]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    assert not (tmp_path / "out" / "image_queries.csv").exists()
    assert not (tmp_path / "out" / "cosines.csv").exists()
    assert set(pd.read_csv(tmp_path / "out" / "rates.csv")["query"]) == {"text"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--templates", TEMPLATES[0], TEMPLATES[0]], "--templates names a template twice"),
        (["--templates", "chat"], "has no chat template"),
        (["--templates", TEMPLATES[0], "Q:{x}"], "must hold {x} once"),
        (["--tasks", "country-captial"], "did you mean country-capital"),
        (["--query", "sound"], "--query 'sound' is unknown"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    out = tmp_path / "out"
    refuses(transfer_table, arguments(place, out, *more), said, capsys, out)


def test_chat_is_left_out_of_the_defaults_where_a_model_cannot(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.models.base import load_model

    given = transfer_table.Arguments(model=str(place.vlm), full=True)
    settings = given.settings(load_model)
    assert len(settings) == len(transfer_table.TEMPLATES) - 1
    assert not any(one.template.startswith("chat") for one in settings)
    assert settings[0].seeds == (0, 1, 2)
    assert settings[0].tasks == ()


def test_tasks_are_those_given_one_of_each_family_or_all() -> None:
    quick, full = transfer_table.Arguments(), transfer_table.Arguments(full=True)
    one, two = transfer_table.Arguments(tasks=("kinds",)), transfer_table.Arguments(tasks=("kinds", "colours"))
    told = transfer_table.Arguments(tasks=("kinds",), wrong_tasks=("colours",))
    found = [tuple(common.chosen_tasks(given).values()) for given in (quick, full, one, two, told)]
    family = ("country-capital", "animal-young", "food-color")
    assert found == [
        (family, family),
        ((), ()),  # the six
        (("kinds",), ()),  # which has no other task among those given
        (("kinds", "colours"), ("kinds", "colours")),
        (("kinds",), ("colours",)),
    ]
