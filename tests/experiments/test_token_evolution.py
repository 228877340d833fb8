"""The token evolution from its command line, on tiny random models and tasks made on the spot."""

from __future__ import annotations

import random
import re
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments import token_evolution
from interp.batches import collate
from interp.lens import first_token_ids, project, word_token_ids
from interp.models.base import load_model
from interp.prompts import Template
from interp.protocol.contexts import draw, query_prompt, shuffle_labels
from interp.tasks import load_task
from tests import tiny
from tests.places import Place, refuses, start

TABLES = ("evolution.csv", "switches.csv", "labels.csv", "tokens.csv")
SETS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("place"))
    (made.kinds / "words.txt").write_text("term\ndog\n")  # an answer too
    (made.colours / "words.txt").write_text("the\n")
    return made


def arguments(place: Place, out: Path, *more: object) -> list[str]:
    given = ["--model", place.vlm, "--tasks", place.kinds, place.colours, "--out", out, "--shots", 2, "--sets", SETS]
    return list(map(str, [*given, "--dtype", "float64", *more]))


run = partial(start, token_evolution)


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "evolution"
    assert run(arguments(place, out)) == 0
    return out


@pytest.fixture
def evolution(finished: Path) -> pd.DataFrame:
    return pd.read_csv(finished / "evolution.csv")


@pytest.mark.parametrize("labels", ["right", "shuffled"])
def test_last_layer_is_what_the_model_itself_predicts(
    place: Place, finished: Path, evolution: pd.DataFrame, labels: str
) -> None:
    """Every set of tokens is made by hand, and its share taken from the model's own logits."""
    model, task = load_model(str(place.vlm), dtype="float64"), load_task(str(place.kinds))
    template = Template.parse(token_evolution.Arguments().template)
    items = list(task.split("test"))
    random.Random("kinds, seed 0, queries").shuffle(items)
    tokens = pd.read_csv(finished / "tokens.csv")
    begun = set(tokens[tokens["of"] == "image queries"]["token_id"])
    words, foreign = (
        set(word_token_ids(model.tokenizer, load_task(str(p)).words)) for p in (place.kinds, place.colours)
    )
    found: dict[str, list[list[float]]] = {}
    contexts = draw(task.split("selection"), shots=2, contexts=SETS, seed=0, task="kinds")
    for index, context in enumerate(contexts):
        item = items[index % len(items)]
        shown = context if labels == "right" else shuffle_labels(context, seed=0)
        prompt = query_prompt(model, task, item, "image", source="image", context=shown, template=template)
        logits = model.forward(collate(model, [prompt]).inputs, use_cache=False).logits[0, -1]
        answers = set(first_token_ids(model.tokenizer, item.outputs))
        others = (items[(index + step) % len(items)] for step in (1, 2, 3))
        taken = begun | words | answers
        other_answers = (set(first_token_ids(model.tokenizer, other.outputs)) - taken for other in others)
        own = [begun - answers - words, words - answers, answers]
        controls = [foreign - taken, next(filter(None, other_answers))]
        chances, beside = (
            [sum(logits.softmax(-1)[token].item() for token in tokens) for tokens in sets] for sets in (own, controls)
        )
        shares = [chance / sum(chances) for chance in chances]
        shares.append(beside[0] / (chances[0] + beside[0] + chances[2]))
        shares.append(beside[1] / (chances[0] + chances[1] + beside[1]))
        found.setdefault(item.input, []).append(shares)
    expected = torch.tensor([torch.tensor(rows).mean(0).tolist() for rows in found.values()]).mean(0)
    rows = evolution.query(
        f"task == 'kinds' and query == 'image' and labels == {labels!r} and layer == {tiny.LAYERS - 1}"
    )
    seen = rows.set_index("curve")["relative"]
    names = ["input", "task", "answer", "other_task", "other_answer"]
    assert seen[names].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert (rows["sets"] == SETS).all()
    assert (rows["items"] == 4).all()


def test_input_token_is_what_bare_queries_say_in_the_first_quarter(place: Place, finished: Path) -> None:
    from interp.vectors import extract

    model, template = load_model(str(place.vlm), dtype="float64"), Template.parse(token_evolution.Arguments().template)
    prompts = []
    for folder in (place.kinds, place.colours):
        task = load_task(str(folder))
        context = draw(task.split("selection"), shots=2, contexts=1, seed=0, task="any")[0]
        for item in task.split("selection"):
            prompts.append(query_prompt(model, task, item, "text", source="", context=context, template=template))
    chances = project(model, extract(model, prompts)[:, 0]).softmax(-1).mean(0)
    tokens = pd.read_csv(finished / "tokens.csv")
    assert tokens[tokens["of"] == "text queries"]["token_id"].tolist() == [int(chances.argmax())]


def test_every_curve_has_every_layer_with_its_interval(evolution: pd.DataFrame) -> None:
    assert len(evolution) == 3 * 2 * 2 * 5 * tiny.LAYERS  # two tasks and their mean
    assert (
        (evolution["low"] <= evolution["relative"] + 1e-9) & (evolution["relative"] <= evolution["high"] + 1e-9)
    ).all()
    assert (evolution["high"] - evolution["low"]).max() > 0.01
    three = evolution[evolution["curve"].isin(["input", "task", "answer"])]
    sums = three.groupby(["task", "query", "labels", "layer"])["relative"].sum()
    assert sums.to_numpy() == pytest.approx(1.0)
    assert evolution["probability"].between(0, 1).all()


def test_mean_over_tasks_and_label_effects_are_those_of_the_table(finished: Path, evolution: pd.DataFrame) -> None:
    keys = ["query", "labels", "layer", "curve"]
    own = evolution[evolution["task"] != "all"].groupby(keys)["relative"].mean()
    overall = evolution[evolution["task"] == "all"].set_index(keys)["relative"]
    assert own.sort_index().to_numpy() == pytest.approx(overall.sort_index().to_numpy())
    keys = ["task", "query", "layer", "curve"]
    right, shuffled = (
        evolution[evolution["labels"] == labels].set_index(keys)["relative"] for labels in ("right", "shuffled")
    )
    gains = pd.read_csv(finished / "labels.csv").set_index(keys)["difference"]
    assert set(gains.index.get_level_values("curve")) == {"task", "answer"}
    assert gains.to_numpy() == pytest.approx((right - shuffled)[gains.index].to_numpy(), abs=1e-9)
    assert gains.abs().max() > 1e-4


def test_switches_have_intervals_within_the_layers(finished: Path) -> None:
    switches = pd.read_csv(finished / "switches.csv")
    assert len(switches) == 3 * 2 * 2 * 2
    for name in ("layer", "low", "high"):
        assert switches[name].dropna().between(0, tiny.LAYERS - 1).all()
    assert switches["never"].between(0, 1).all()
    assert (switches["layer"].isna() == (switches["never"] > 0.5)).mean() > 0.7


def test_report_holds_tables_and_figures_and_is_named_last(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(place, finished)) == 0  # everything is done, so nothing is run again
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == str(finished / "report.html")
    assert {path.name for path in (finished / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in ("evolution", "controls") for suffix in ("png", "pdf")
    }
    assert "The input token, what a bare delimiter says" in (finished / "report.html").read_text()


def test_killed_run_continues_to_the_same_tables(
    place: Place, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    (out / "probabilities").mkdir(parents=True)
    for name in ("config.json", "environment.json"):
        (out / name).write_bytes((finished / name).read_bytes())
    lines = (finished / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    for name in ("kinds-text-right", "kinds-text-shuffled"):
        path = Path("probabilities") / f"{name}.safetensors"
        (out / path).write_bytes((finished / path).read_bytes())
    assert run(arguments(place, out)) == 0
    assert re.search(r"Reading the prompts should take about \d+ s\.", capsys.readouterr().out)
    for name in TABLES:
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_input_may_be_the_querys_name_and_examples_of_another_modality(place: Place, tmp_path: Path) -> None:
    more = ["--input", "name", "--source", "text", "--query", "image", "--tasks", place.colours]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    found = pd.read_csv(tmp_path / "out" / "evolution.csv")
    assert set(found["source"]) == {"text"}
    assert set(found["query"]) == {"image"}
    assert set(found["curve"]) == {"input", "task", "answer", "other_answer"}  # there is no other task
    assert "input" not in set(pd.read_csv(tmp_path / "out" / "tokens.csv")["set"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--sets", 0], "--sets is 0"),
        (["--query", "text", "text"], "--query names a value twice: text text"),
        (["--query", "sound"], "--query 'sound' is unknown"),
        (["--source", "instruction"], "--source 'instruction' is unknown; expected one of same, text, image"),
        (["--input", "colon"], "--input 'colon' is unknown; expected one of delimiter, name"),
        (["--shots", 30], "30 demonstrations"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    refuses(token_evolution, arguments(place, tmp_path / "out", *more), said, capsys, tmp_path / "out")


def test_task_without_words_is_told_where_to_write_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = Place(tmp_path)
    assert run(arguments(bare, tmp_path / "out")) == 2
    assert re.search(r"Task 'kinds' has no task words; write .*words\.txt", capsys.readouterr().err)


def test_model_without_images_is_asked_text_alone(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(place, tmp_path / "a", "--model", place.llm, "--query", "image")) == 2
    assert "takes no images" in capsys.readouterr().err
    assert run(arguments(place, tmp_path / "b", "--model", place.llm)) == 0
    assert set(pd.read_csv(tmp_path / "b" / "evolution.csv")["query"]) == {"text"}
