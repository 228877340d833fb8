"""The decoding of task vectors from its command line, on tiny random models and tasks made on the spot."""

from __future__ import annotations

import math
import re
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from experiments import decode_vectors
from interp.lens import first_token_ids, project, word_token_ids
from interp.models.base import load_model
from interp.prompts import Template
from interp.protocol.contexts import draw, source_prompts
from interp.protocol.words import report_layers
from interp.tasks import load_task
from interp.vectors import extract
from tests import tiny
from tests.places import Place, refuses, start

TABLES = ("tokens.csv", "ranks.csv", "words.csv", "summary.csv")
VECTORS = [
    "text",
    "image",
    "instruction",
    "text minus base LLM",
    "image minus text",
    "text minus mean of tasks",
    "image minus mean of tasks",
    "instruction minus mean of tasks",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("place"))
    (made.kinds / "words.txt").write_text("term\nbaby\n")
    (made.colours / "words.txt").write_text("the\n")
    (made.colours / "instruction.txt").write_text("The colour of the thing:")
    return made


def arguments(place: Place, out: Path, *more: object) -> list[str]:
    given = ["--model", place.vlm, "--base", place.llm, "--tasks", place.kinds, place.colours, "--out", out]
    given += ["--shots", 2, "--contexts", 4, "--draws", 5, "--top", 3, "--dtype", "float64"]
    return list(map(str, [*given, *more]))


run = partial(start, decode_vectors)


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "decoded"
    assert run(arguments(place, out)) == 0
    return out


def by_hand(place: Place) -> dict[str, Tensor]:
    """The mean vector of kinds, and its differences, `[L, D]` each."""
    vlm, llm = (load_model(str(path), dtype="float64") for path in (place.vlm, place.llm))
    template = Template.parse(decode_vectors.Arguments().template)
    found: dict[tuple[str, str, str], Tensor] = {}
    for folder in (place.kinds, place.colours):
        task = load_task(str(folder))
        contexts = draw(task.split("selection"), shots=2, contexts=4, seed=0, task=task.name)
        for name, model, source in [
            ("vlm", vlm, "text"),
            ("vlm", vlm, "image"),
            ("vlm", vlm, "instruction"),
            ("llm", llm, "text"),
        ]:
            prompts = source_prompts(model, task, source, contexts, template=template)
            found[name, source, task.name] = extract(model, prompts).mean(0)
    own = {source: found["vlm", source, "kinds"] for source in ("text", "image", "instruction")}
    own["text minus base LLM"] = own["text"] - found["llm", "text", "kinds"]
    own["image minus text"] = own["image"] - own["text"]
    for source in ("text", "image", "instruction"):
        own[f"{source} minus mean of tasks"] = (own[source] - found["vlm", source, "colours"]) / 2
    return own


def test_tokens_and_ranks_are_those_of_the_vectors_made_by_hand(place: Place, finished: Path) -> None:
    model, task = load_model(str(place.vlm), dtype="float64"), load_task(str(place.kinds))
    tokens, ranks = (pd.read_csv(finished / f"{name}.csv").fillna({"control": ""}) for name in ("tokens", "ranks"))
    words = torch.tensor(word_token_ids(model.tokenizer, task.words))
    answers = [list(first_token_ids(model.tokenizer, item.outputs)) for item in task.split("test")]
    vectors = by_hand(place)
    assert list(vectors) == VECTORS
    for name, states in vectors.items():
        logits = project(model, states)
        shown = tokens[(tokens["task"] == "kinds") & (tokens["vector"] == name) & (tokens["control"] == "")]
        best, ids = logits.softmax(-1).topk(3)
        assert shown["token_id"].tolist() == ids.flatten().tolist()
        assert shown["probability"].tolist() == pytest.approx(best.flatten().tolist(), rel=1e-9)
        assert shown["task_word"].tolist() == torch.isin(ids, words).flatten().tolist()
        own = ranks[(ranks["task"] == "kinds") & (ranks["vector"] == name) & (ranks["control"] == "")]
        place_of = (logits[:, :, None] > logits[:, None, :]).sum(1) + 1  # rank of every token
        assert own[own["tokens"] == "task words"]["rank"].tolist() == place_of[:, words].amin(1).tolist()
        logs = torch.stack([place_of[:, item].amin(1).double().log() for item in answers]).mean(0)
        assert own[own["tokens"] == "answers"]["rank"].tolist() == pytest.approx(logs.exp().tolist(), rel=1e-9)


def test_controls_are_the_tasks_own_tokens_in_other_vectors(place: Place, finished: Path) -> None:
    model, task = load_model(str(place.vlm), dtype="float64"), load_task(str(place.colours))
    ranks = pd.read_csv(finished / "ranks.csv")
    words = torch.tensor(word_token_ids(model.tokenizer, task.words))
    logits = project(model, by_hand(place)["text"])  # kinds' vector, the only other task's
    best = logits[:, words].amax(1, keepdim=True)
    expected = ((logits > best).sum(1) + 1).tolist()
    shown = ranks[(ranks["task"] == "colours") & (ranks["tokens"] == "task words")]
    others = shown[(shown["control"] == "other tasks") & (shown["vector"] == "text")]
    assert others["rank"].tolist() == pytest.approx(expected)
    drawn = shown[shown["control"] == "random"]
    assert set(drawn["vector"]) == {"text"}
    assert (drawn["n"] == 5).all()
    vocabulary = len(model.tokenizer)
    assert math.exp(drawn["rank"].map(math.log).mean()) == pytest.approx(
        vocabulary / math.e, rel=0.6
    )  # of uniform ranks


def test_every_rank_has_an_interval_but_that_of_a_single_prompt(finished: Path) -> None:
    ranks = pd.read_csv(finished / "ranks.csv").fillna({"control": ""})
    assert len(ranks) == 2 * tiny.LAYERS * (len(VECTORS) * 2 * 2 + 2)
    alone = (
        (ranks["vector"].str.startswith("instruction")) & (ranks["tokens"] == "task words") & (ranks["control"] == "")
    )
    assert ranks[alone]["low"].isna().all()
    rest = ranks[~alone]
    assert (rest["low"] <= rest["high"]).all()
    geometric = rest[rest["over"] != "contexts"]
    assert (
        (geometric["low"] <= geometric["rank"] * (1 + 1e-9)) & (geometric["rank"] <= geometric["high"] * (1 + 1e-9))
    ).all()
    assert (rest["high"] > rest["low"]).any()


def test_summary_is_the_geometric_mean_over_tasks(finished: Path) -> None:
    ranks, summary = (pd.read_csv(finished / f"{name}.csv") for name in ("ranks", "summary"))
    assert sorted(set(summary["layer"])) == report_layers(tiny.LAYERS)
    assert len(summary) == 2 * len(VECTORS) * len(report_layers(tiny.LAYERS))
    row = summary[(summary["tokens"] == "answers") & (summary["vector"] == "image") & (summary["layer"] == 1)].iloc[0]
    own = ranks[(ranks["tokens"] == "answers") & (ranks["vector"] == "image") & (ranks["layer"] == 1)]
    product = own[own["control"].isna()]["rank"].product()
    assert row["rank"] == pytest.approx(math.sqrt(product))
    assert row["rank_in_other_tasks"] == pytest.approx(
        math.sqrt(own[own["control"] == "other tasks"]["rank"].product())
    )
    assert row["in_top_3"] == (own[own["control"].isna()]["rank"] <= 3).sum()
    assert summary["rank_in_random_vectors"].notna().all()


def test_report_shows_the_words_and_is_named_last(
    place: Place, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(place, finished)) == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == str(finished / "report.html")
    assert {path.name for path in (finished / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in ("ranks_words", "ranks_answers") for suffix in ("png", "pdf")
    }
    report = (finished / "report.html").read_text()
    assert "<h2>Top tokens</h2>" in report
    assert "text minus base LLM" in report


def test_killed_run_continues_to_the_same_tables(place: Place, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    out.mkdir()
    for name in ("config.json", "environment.json"):
        (out / name).write_bytes((finished / name).read_bytes())
    lines = (finished / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:30])
    for path in sorted((finished / "states").rglob("*.safetensors")):
        if re.search(r"vlm.*(kinds-text|colours-text|kinds-image)", str(path)):
            copy = out / path.relative_to(finished)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    assert run(arguments(place, out)) == 0
    for name in TABLES:
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_one_task_and_a_language_model_alone(place: Place, tmp_path: Path) -> None:
    given = ["--model", place.llm, "--tasks", place.kinds, "--out", tmp_path / "out", "--shots", 2, "--contexts", 3]
    assert run(list(map(str, given))) == 0
    assert set(pd.read_csv(tmp_path / "out" / "ranks.csv")["vector"]) == {"text", "instruction"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--contexts", 0], "--contexts is 0"),
        (["--source", "sound"], "--source 'sound' is unknown"),
        (["--source", "image"], "--base .* is compared on text examples, so --source must name text"),
        (["--shots", 30], "30 demonstrations"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    refuses(decode_vectors, arguments(place, tmp_path / "out", *more), said, capsys, tmp_path / "out")


def test_base_of_another_shape_is_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny.tiny_llama(num_hidden_layers=2)
    other.module.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    assert run(arguments(place, tmp_path / "out", "--base", tmp_path / "other")) == 2
    assert re.search(r"\(2 layers of width 32\) cannot be taken off those of .* \(4 layers", capsys.readouterr().err)


@pytest.mark.usefixtures("undrawn")
def test_difference_of_equal_models_says_nothing_instead_of_everything(place: Place, tmp_path: Path) -> None:
    """A zero vector gives every token the same logit, which would make every token the first."""
    shutil.copytree(place.vlm, tmp_path / "copy")
    more = ["--base", tmp_path / "copy", "--source", "text"]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    tokens, ranks, summary = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("tokens", "ranks", "summary"))
    assert set(tokens["vector"]) == {"text", "text minus mean of tasks"}
    assert ranks[ranks["vector"] == "text minus base LLM"]["rank"].isna().all()
    assert ranks[ranks["vector"] != "text minus base LLM"]["rank"].notna().all()
    assert set(summary[summary["vector"] == "text minus base LLM"]["tasks"]) == {0}


def test_base_that_is_the_model_is_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(place, tmp_path / "out", "--base", place.vlm)) == 2
    assert "--base and --model are both" in capsys.readouterr().err
