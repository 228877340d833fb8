"""The curve over examples from its command line, on tiny random models and tasks made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from experiments import ensemble_curve
from interp.decoding import Generation
from interp.models.base import Model, load_model
from interp.patching import generate
from interp.prompts import Example, Image, Specification, Template, render
from interp.protocol.contexts import draw_apart, source_prompts
from interp.protocol.ensembles import EnsembleStudy
from interp.protocol.study import Unit
from interp.tasks import Task, load_task
from interp.vectors import extract
from tests import tiny
from tests.places import Place, answers, killed, refuses, start

TABLES = ("rates.csv", "comparisons.csv", "layers.csv", "layer_curves.csv", "predictions.jsonl")
TEMPLATE = Template.parse(ensemble_curve.Arguments().template)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


run = partial(start, ensemble_curve)


def arguments(place: Place, out: Path, *more: object, query: Sequence[str] = ("--query", "image")) -> list[object]:
    given = [
        *query,
        "--model",
        place.vlm,
        "--tasks",
        place.kinds,
        place.colours,
        "--out",
        out,
        "--shots",
        2,
        "--seeds",
        0,
        1,
    ]
    return [*given, "--examples", 0, 1, 2, 6, "--layers", 1, 3, "--dtype", "float64", *more]


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "curve"
    assert run(arguments(place, out)) == 0
    return out


def picked(out: Path, **where: object) -> list[dict]:
    return [row for row in answers(out) if all(row[name] == value for name, value in where.items())]


def longest(model: Model, task: Task) -> int:
    """Tokens that an answer may have."""
    answers = [before + answer for item in task.items for answer in item.outputs for before in ("", " ")]
    return 1 + max(len(ids) for ids in model.tokenizer(answers, add_special_tokens=False).input_ids)


def test_ensemble_of_n_examples_is_half_their_mean_and_half_the_instruction(place: Place, finished: Path) -> None:
    model, task = load_model(str(place.vlm), dtype="float64"), load_task(str(place.kinds))
    contexts = draw_apart(task.split("selection"), shots=2, contexts=3, seed=1, task="kinds")
    instruction = extract(model, source_prompts(model, task, "instruction", (), template=TEMPLATE))[0]
    items = {item.input: item for item in task.items}
    for n, shown in ((1, [contexts[0].first(1)]), (2, contexts[:1]), (6, contexts)):
        text = extract(model, source_prompts(model, task, "text", shown, template=TEMPLATE)).mean(0)
        for source, vector in (("text", text), ("ensemble", (text + instruction) / 2)):
            rows = picked(finished, task="kinds", seed=1, method="patch", source=source, examples=n)
            assert len(rows) == 4
            images = [Image(path=items[row["item"]].image) for row in rows]
            prompts = [render(model, Specification(), image, template=TEMPLATE) for image in images]
            layers, given = [row["layer"] for row in rows], [vector[rows[0]["layer"]]] * 4
            found = generate(model, prompts, vectors=given, layers=layers, max_new_tokens=longest(model, task))
            assert [g.text for g in found] == [row["answer"] for row in rows]


def test_prompt_holds_the_very_same_examples(place: Place, finished: Path) -> None:
    model, task = load_model(str(place.vlm), dtype="float64"), load_task(str(place.kinds))
    contexts = draw_apart(task.split("selection"), shots=2, contexts=3, seed=0, task="kinds")
    shown = tuple(Example(i.input, i.outputs[0]) for context in contexts for i in context.demonstrations)
    items = {item.input: item for item in task.items}
    for source, instruction in (("text", None), ("ensemble", task.instruction)):
        rows = picked(finished, task="kinds", seed=0, method="prompt", source=source, examples=6)
        query = [Image(path=items[row["item"]].image) for row in rows]
        prompts = [render(model, Specification(shown, instruction), image, template=TEMPLATE) for image in query]
        found = generate(model, prompts, max_new_tokens=longest(model, task))
        assert [g.text for g in found] == [row["answer"] for row in rows]


def test_every_number_has_its_arms_controls_and_baselines(finished: Path) -> None:
    rates = pd.read_csv(finished / "rates.csv", keep_default_na=False)
    arms = {key: set(group["examples"]) for key, group in rates.groupby(["method", "source"])}
    assert arms["patch", "text"] == arms["patch", "ensemble"] == arms["prompt", "text"] == {1, 2, 6}
    for control in ("control_random", "control_wrong_task"):
        assert arms[control, "text"] == arms[control, "ensemble"] == {1, 2, 6}
        assert arms[control, "instruction"] == {0}
    assert all(arms[key] == {0} for key in (("no_context", ""), ("majority", ""), ("prompt", "instruction")))
    assert set(rates["seeds"]) == {2}
    assert set(rates["task"]) == {"all", "kinds", "colours"}
    majority = rates[(rates["method"] == "majority") & (rates["task"] == "colours")]
    assert majority["exact"].iloc[0] > 0  # some answer is right, so a rate can be


def test_layer_is_chosen_among_those_asked_for_on_selection_items(place: Place, finished: Path) -> None:
    layers, curves = (pd.read_csv(finished / f"{name}.csv") for name in ("layers", "layer_curves"))
    assert set(curves["layer"]) == {1, 3}
    assert set(layers["source"]) == {"text", "instruction", "ensemble"}
    chosen = layers[layers["task"] == "all"].set_index("source")["layer"]
    patched = pd.DataFrame(picked(finished, method="patch"))
    assert patched.groupby("source")["layer"].unique().map(list).to_dict() == {s: [n] for s, n in chosen.items()}
    assert tiny.LAYERS == 4


def test_layer_that_answers_right_on_selection_items_is_chosen(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def right_at_three(model, prompts, rows, **options):  # type: ignore[no-untyped-def]
        return [[Generation("cat" if patch.layer == 3 else "none", (1,), "cat", True) for patch in q] for q in rows]

    monkeypatch.setattr("interp.protocol.asking.sweep", right_at_three)
    assert run(arguments(place, tmp_path / "out", "--selection-items", 8)) == 0
    layers = pd.read_csv(tmp_path / "out" / "layers.csv")
    assert set(layers.loc[layers["task"] == "all", "layer"]) == {3}


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_killed_run_continues_to_the_same_bytes(place: Place, finished: Path, tmp_path: Path, share: float) -> None:
    out = tmp_path / "killed"
    killed(finished, out, share)
    assert run(arguments(place, out)) == 0
    for name in TABLES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_time_is_said_before_anything_is_done(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: EnsembleStudy, unit: Unit) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EnsembleStudy, "perform", interrupt)
    assert run(arguments(place, tmp_path / "out")) == 130
    assert "This should take about" in capsys.readouterr().out


def test_last_line_is_the_report_and_figures_are_drawn(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(place, finished)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(finished / "report.html")
    assert any("Everything is done already" in line for line in printed)
    drawn = {path.stem for path in (finished / "figures").iterdir()}
    assert drawn == {"curve_image", "curve_image_tasks", "layers"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--examples", 3], "--examples 3 does not fit contexts of 2"),
        (["--examples", 2, 2], "--examples names a number twice"),
        (["--examples", 0], "no number above 0"),
        (["--examples", 200], "use fewer examples"),
        (["--examples", -2], "--examples -2 does not fit"),
        (["--shots", 7], "has 8 selection items"),
        (["--query", "sound"], "--query 'sound' is unknown"),
        (["--layers", 9], "--layers 9 is out of range"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    out = tmp_path / "out"
    given = [*arguments(place, out), *(["--examples", 7] if "--shots" in more else []), *more]
    refuses(ensemble_curve, given, said, capsys, out)


def test_language_model_alone_is_asked_text(place: Place, tmp_path: Path) -> None:
    given = arguments(place, tmp_path / "out", "--model", place.llm, "--examples", 0, 2, "--seeds", 0, query=())
    assert run(given) == 0
    assert set(pd.read_csv(tmp_path / "out" / "rates.csv")["query"]) == {"text"}


def test_unused_vectors_are_not_confused(finished: Path) -> None:
    """Random vectors, other tasks' vectors and the task's own answer differently somewhere."""
    texts = {
        method: tuple(row["answer"] for row in picked(finished, method=method, source="text"))
        for method in ("patch", "control_random", "control_wrong_task")
    }
    assert len(set(texts.values())) == 3
