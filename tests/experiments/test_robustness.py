"""The robustness experiment from its command line, on tiny random models and tasks made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments import robustness
from interp.models.base import Model, load_model
from interp.patching import generate
from interp.prompts import Example, Specification, Template, render
from interp.protocol.contexts import draw, source_prompts, wrong_labels
from interp.protocol.noise import noisy
from interp.protocol.variations import with_usable_templates
from interp.tasks import Task, load_task
from interp.vectors import extract
from tests.places import Place, answers, killed, refuses, start

TABLES = ("rates.csv", "comparisons.csv", "layers.csv", "layer_curves.csv", "predictions.jsonl")
TEMPLATES = (r"Q: {x}\nA: {y}\n\n", r"{x}: {y}\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


run = partial(start, robustness)


def arguments(place: Place, out: Path, *more: object) -> list[object]:
    given = ["--model", place.vlm, "--tasks", place.kinds, place.colours, "--out", out, "--shots", 2, "--seeds", 0]
    given += ["--templates", *TEMPLATES, "--numbers", 1, 3, "--wrong", 0, 0.5, 1, "--label-shots", 4]
    given += ["--scales", 0.5, 1, 2, "--noise", 0.5, 1, "--contexts", 3, "--layers", 1, 3, "--dtype", "float64"]
    return [*given, *more]


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "robust"
    assert run(arguments(place, out)) == 0
    return out


def rows_of(out: Path, **where: object) -> list[dict]:
    """The answers of one arm to the text queries of the first task, in the order of the items."""
    where = {"query": "text", "task": "kinds", **where}
    return [row for row in answers(out) if all(row[name] == value for name, value in where.items())]


@pytest.fixture(scope="module")
def model(place: Place) -> Model:
    return load_model(str(place.vlm), dtype="float64")


@pytest.fixture(scope="module")
def task(place: Place) -> Task:
    return load_task(str(place.kinds))


def patched(
    model: Model, task: Task, rows: list[dict], vectors: list[torch.Tensor], template: str, *, mode: str = "replace"
) -> list[str]:
    """What the model answers to the rows' items when query j is patched with vector j modulo their number."""
    prompts = [render(model, Specification(), row["item"], template=Template.parse(template)) for row in rows]
    layers = [row["layer"] for row in rows]
    given = [vectors[j % len(vectors)][layer] for j, layer in enumerate(layers)]
    longest = 1 + max(
        len(ids)
        for ids in model.tokenizer(
            [before + a for i in task.items for a in i.outputs for before in ("", " ")], add_special_tokens=False
        ).input_ids
    )
    found = generate(model, prompts, vectors=given, layers=layers, mode=mode, max_new_tokens=longest)  # type: ignore[arg-type]
    return [g.text for g in found]


def states(model: Model, task: Task, contexts: Sequence, template: str, source: str = "text") -> torch.Tensor:
    return extract(model, source_prompts(model, task, source, contexts, template=Template.parse(template)))


def contexts_of(task: Task, shots: int) -> tuple:
    return draw(task.split("selection"), shots=shots, contexts=3, seed=0, task="kinds")


@pytest.mark.parametrize(("read", "asked"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_vector_of_one_template_is_patched_into_queries_of_another(
    finished: Path, model: Model, task: Task, read: int, asked: int
) -> None:
    rows = rows_of(finished, part="template", method="patch", setting=f"template {read}", query_template=asked)
    vector = states(model, task, contexts_of(task, 2), TEMPLATES[read]).mean(0)
    assert len(rows) == 4
    assert patched(model, task, rows, [vector], TEMPLATES[asked]) == [row["answer"] for row in rows]


@pytest.mark.parametrize(("kind", "level"), [("typos", 0.5), ("unrelated", 1.0)])
def test_noisy_instruction_is_in_the_prompt_and_behind_the_vector(
    finished: Path, model: Model, task: Task, kind: str, level: float
) -> None:
    text, template = noisy(task.instruction, kind, level, seed=0), Template.parse(TEMPLATES[0])
    assert text != task.instruction
    where = {"part": "instruction", "setting": kind, "level": level}
    words = extract(model, [render(model, Specification(instruction=text), None, template=template)])[0]
    examples = states(model, task, contexts_of(task, 2), TEMPLATES[0])
    for source, vectors in (("instruction", [words]), ("ensemble", [(one + words) / 2 for one in examples])):
        rows = rows_of(finished, method="patch", source=source, **where)
        assert {row["instruction"] for row in rows} == {text}
        assert patched(model, task, rows, vectors, TEMPLATES[0]) == [row["answer"] for row in rows]
    rows = rows_of(finished, method="prompt", source="instruction", **where)
    prompts = [render(model, Specification(instruction=text), row["item"], template=template) for row in rows]
    found = generate(model, prompts, max_new_tokens=12)
    assert all(g.text.startswith(row["answer"]) for g, row in zip(found, rows, strict=True))


@pytest.mark.parametrize(("part", "level"), [("number", 1.0), ("number", 3.0), ("labels", 0.5), ("labels", 1.0)])
def test_prompt_and_vector_see_the_same_demonstrations(
    finished: Path, model: Model, task: Task, part: str, level: float
) -> None:
    if part == "number":
        contexts = [context.first(int(level)) for context in contexts_of(task, 3)]
    else:
        pool = task.split("selection")
        contexts = [
            wrong_labels(context, pool, wrong=round(4 * level), seed=0, task="kinds")
            for context in contexts_of(task, 4)
        ]
    rows = rows_of(finished, part=part, method="patch", level=level)
    vectors = list(states(model, task, contexts, TEMPLATES[0]))
    assert patched(model, task, rows, vectors, TEMPLATES[0]) == [row["answer"] for row in rows]
    asked = rows_of(finished, part=part, method="prompt", level=level)
    template = Template.parse(TEMPLATES[0])
    prompts = []
    for j, row in enumerate(asked):
        pairs = zip(contexts[j % 3].demonstrations, contexts[j % 3].outputs, strict=True)
        shown = tuple(Example(item.input, output) for item, output in pairs)
        prompts.append(render(model, Specification(shown), row["item"], template=template))
    found = generate(model, prompts, max_new_tokens=12)
    assert all(g.text.startswith(row["answer"]) for g, row in zip(found, asked, strict=True))


@pytest.mark.parametrize(("mode", "scale"), [("replace", 2.0), ("add", 0.5), ("add", 1.0)])
def test_strength_scales_the_vector(finished: Path, model: Model, task: Task, mode: str, scale: float) -> None:
    rows = rows_of(finished, part="strength", method="patch", setting=mode, level=scale)
    vector = scale * states(model, task, contexts_of(task, 2), TEMPLATES[0]).mean(0)
    assert patched(model, task, rows, [vector], TEMPLATES[0], mode=mode) == [row["answer"] for row in rows]


def test_every_part_has_its_baselines_and_every_patch_its_controls(finished: Path) -> None:
    rates = pd.read_csv(finished / "rates.csv", keep_default_na=False)
    for part, rows in rates.groupby("part"):
        methods = {"patch", "control_random", "control_wrong_task", "no_context", "majority"}
        assert methods | ({"prompt"} if part != "strength" else set()) == set(rows["method"]), part
        assert set(rows["query"]) == {"image", "text"}
    strength = rates[(rates["part"] == "strength") & (rates["task"] == "all")]
    assert (strength[strength["setting"] != ""].groupby(["query", "setting", "level"]).size() == 3).all()


def test_table_says_how_many_words_a_noise_changed(finished: Path, task: Task) -> None:
    rates = pd.read_csv(finished / "rates.csv", keep_default_na=False)
    rows = rates[(rates["part"] == "instruction") & (rates["task"] == "kinds") & (rates["method"] == "patch")]
    changed = rows.groupby(["setting", "level"])["changed"].unique().map(lambda found: float(found[0])).to_dict()
    words = len(task.instruction.split())
    assert changed["clean", 0.0] == 0
    assert changed["unrelated", 1.0] == words > changed["unrelated", 0.5] > 0
    assert changed["synonyms", 1.0] == 0  # the table has none for these words, and the reader sees it


def test_every_condition_is_compared_with_its_reference(finished: Path) -> None:
    table = pd.read_csv(finished / "comparisons.csv", keep_default_na=False)
    table = table[(table["task"] == "all") & (table["query"] == "text")]
    against = table[table["comparison"] == "condition - reference"]
    counts = against.groupby("part").size().to_dict()
    # 2 off-diagonal cells; 2 methods x 2 sources x 3 kinds x 2 levels; 2 methods x 2 shares; 6 strengths but one
    assert counts == {"template": 2, "instruction": 24, "labels": 4, "strength": 5}
    assert set(against.loc[against["part"] == "template", "setting"]) == {"template 0", "template 1"}
    patch = table[table["comparison"] == "patch - prompt"].groupby("part").size().to_dict()
    assert patch == {"template": 2, "instruction": 14, "number": 2, "labels": 3}
    assert (table["p_holm"] >= table["p"]).all()


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_killed_run_continues_to_the_same_bytes(place: Place, finished: Path, tmp_path: Path, share: float) -> None:
    out = tmp_path / "killed"
    killed(finished, out, share)
    assert run(arguments(place, out)) == 0
    for name in TABLES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_last_line_is_the_report_and_every_part_has_a_figure(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(place, finished)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(finished / "report.html")
    assert {path.stem for path in (finished / "figures").iterdir()} == set(robustness.PARTS)


def test_one_part_alone_needs_nothing_of_the_others(place: Place, tmp_path: Path) -> None:
    more = ["--parts", "strength", "--templates", TEMPLATES[1], "--query", "text", "--label-shots", 40]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    assert set(pd.read_csv(tmp_path / "out" / "rates.csv")["part"]) == {"strength"}


def test_default_templates_are_those_that_the_model_can_delimit(model: Model) -> None:
    variations = robustness.Arguments(full=True).variations()
    impossible = replace(variations, templates=(*TEMPLATES, "{x}=>%{y}"))
    assert with_usable_templates(impossible, model).templates == TEMPLATES


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--parts", "strenght"], "Did you mean 'strength'"),
        (["--templates", TEMPLATES[0]], "names one template"),
        (["--templates", TEMPLATES[0], "Q:{x}"], "must hold {x} once"),
        (["--templates", TEMPLATES[0], "{x}=>%{y}"], "must be one token"),
        (["--noise", 1.5], "--noise 1.5 is no share"),
        (["--wrong", -0.5], "--wrong -0.5 is no share"),
        (["--scales", 0], "--scales 0.0 is no factor"),
        (["--numbers", 0], "--numbers is 0"),
        (["--numbers", 9], "--numbers is 9, and task 'kinds' has 8 selection items, enough for 6"),
        (["--label-shots", 9], "--label-shots is 9, and task 'kinds' has 8 selection items"),
        (["--scales", 0.5, 2], "--scales lacks 1"),
        (["--noise", 0], "--noise 0.0 is no share of words"),
        (["--parts", "strength", "--templates", TEMPLATES[0], "Q:{x}"], "must hold {x} once"),
        (["--scales", 1, 1], "--scales names a value twice"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    out = tmp_path / "out"
    refuses(robustness, arguments(place, out, *more), said, capsys, out)
