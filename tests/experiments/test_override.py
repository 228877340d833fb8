"""Overriding from the command line, on a tiny random model, the built-in tasks and VQA files made on the spot."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import override
from interp.judging import ModelJudge
from interp.models.base import load_model
from interp.patching import generate
from interp.prompts import Specification, Template, render
from interp.protocol import override_estimate, override_tables
from interp.protocol.contexts import draw, picture, source_prompts
from interp.protocol.override import OverrideWork
from interp.protocol.override_inputs import OverrideInputs
from interp.runs import Run
from interp.tasks import load_task
from interp.tasks.conflicts import task_sets
from interp.vectors import extract, mean
from tests.places import Place, start
from tests.vqa_sets import Files

SETS = ["food-color:food-flavor", "food-color:food-color.upper", "country-capital:country-capital.once"]
TABLES = ("summary", "paired", "layers", "sweep", "judge", "examples")
TEMPLATE = Template.parse(override.Arguments().template)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


run = partial(start, override)


def arguments(place: Place, out: Path, *more: object) -> list[object]:
    given = ["--model", place.vlm, "--out", out, "--shots", 2, "--contexts", 2, "--dtype", "float64"]
    return [*given, "--selection-items", 2, "--test-items", 3, "--layers", 1, 3, *more]


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "override"
    assert run(arguments(place, out, "--sets", *SETS, "--judge", place.llm)) == 0
    return out


def answers_of(out: Path) -> pd.DataFrame:
    lines = (out / "predictions.jsonl").read_text().splitlines()
    return pd.DataFrame(json.loads(line) for line in lines)


def test_every_arm_is_scored_for_both_questions(finished: Path) -> None:
    summary = pd.read_csv(finished / "summary.csv").fillna({"source": ""})
    overall = summary[summary["kind"] == "all"]
    expected = {("before", ""), ("prefix", ""), ("majority", "")}
    expected |= {(arm, source) for arm in ("patch", "random", "wrong") for source in ("text", "instruction")}
    assert set(zip(overall["arm"], overall["source"], strict=True)) == expected
    assert set(summary["kind"]) == {"all", "semantic", "syntactic", "creative"}
    for side in ("query", "vector"):
        assert (summary[f"{side}_low"] <= summary[side]).all()
        assert (summary[side] <= summary[f"{side}_high"]).all()
    answers = answers_of(finished)
    assert not (answers["query"] & answers["vector"]).any()
    assert len(answers) == 3 * 3 * 9


def test_majority_answer_is_right_for_the_vector_as_often_as_it_is_accepted(finished: Path) -> None:
    answers = answers_of(finished)
    rows = answers[(answers["arm"] == "majority") & (answers["set"] == SETS[0])]
    for row in rows.itertuples():
        assert row.vector == (row.answer in row.vector_accepted.split(" | "))


def test_prompts_carry_their_question_and_the_prefix_comes_first(place: Place, finished: Path) -> None:
    model, answers = load_model(str(place.vlm), dtype="float64"), answers_of(finished)
    (found,) = task_sets(SETS[:1], lambda: pytest.fail("not needed"))
    colour, flavour = load_task("food-color").instruction, load_task("food-flavor").instruction
    for arm, text in (("before", colour), ("prefix", f"{flavour}\n{colour}")):
        said = answers[(answers["arm"] == arm) & (answers["set"] == SETS[0])].set_index("item")["answer"]
        for conflict in found.split("test")[:3]:
            prompt = render(model, Specification(instruction=text), picture(conflict.item), template=TEMPLATE)
            (alone,) = generate(model, [prompt], max_new_tokens=40)
            assert alone.text.startswith(said[conflict.item.input])


def test_patch_writes_the_mean_vector_of_the_other_question_at_the_chosen_layer(place: Place, finished: Path) -> None:
    model, answers = load_model(str(place.vlm), dtype="float64"), answers_of(finished)
    (found,) = task_sets(SETS[:1], lambda: pytest.fail("not needed"))
    task = load_task("food-flavor")
    contexts = draw(task.split("selection"), shots=2, contexts=2, seed=0, task=task.name)
    states = extract(model, source_prompts(model, task, "text", contexts, template=TEMPLATE))
    vector = mean(states, items=[context.items for context in contexts], exclude=None)
    layers = pd.read_csv(finished / "layers.csv").set_index(["kind", "source"])["layer"]
    layer = int(layers["semantic", "text"])
    patched = answers[(answers["arm"] == "patch") & (answers["source"] == "text") & (answers["set"] == SETS[0])]
    assert (patched["layer"] == layer).all()
    instruction = load_task("food-color").instruction
    for conflict in found.split("test")[:3]:
        prompt = render(model, Specification(instruction=instruction), picture(conflict.item), template=TEMPLATE)
        (alone,) = generate(model, [prompt], vectors=[vector[layer]], layers=[layer], max_new_tokens=40)
        assert alone.text.startswith(patched.set_index("item")["answer"][conflict.item.input])
        (bare,) = generate(model, [prompt], max_new_tokens=40)
        assert alone.text != bare.text  # so that the comparison can tell


def test_layer_is_the_best_of_the_selection_split(finished: Path) -> None:
    sweep, layers = pd.read_csv(finished / "sweep.csv"), pd.read_csv(finished / "layers.csv")
    rates = sweep.groupby(["kind", "source", "layer"])["vector"].mean()
    for row in layers.itertuples():
        curve = rates[row.kind, row.source]
        assert row.layer == curve.idxmax()
        assert row.vector == pytest.approx(curve.max())


def made_up(*cells: tuple[str, str, str, str, bool, bool]) -> pd.DataFrame:
    columns = ["kind", "set", "arm", "item", "query", "vector"]
    table = pd.DataFrame([dict(zip(columns, cell, strict=True)) for cell in cells])
    source = np.where(table["arm"] == "patch", "text", "")
    return table.assign(family="f", layer=1, source=source).astype({"layer": "Int64"})


def test_tables_give_sets_equal_weight_and_count_an_item_once() -> None:
    cells = [("k", "one", "before", item, True, False) for item in "abcd"]
    cells += [("k", "one", "patch", item, item == "a", item != "a") for item in "abcd"]
    cells += [("k", "two", "before", item, True, False) for item in "ab"]
    cells += [("k", "two", "patch", item, False, item == "a") for item in "ab"]
    table = made_up(*cells)
    pooled = override_tables.summary_table(table).set_index(["set", "arm"])
    assert pooled.loc[("all", "patch"), "vector"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert pooled.loc[("all", "patch"), "items"] == 4
    assert pooled.loc[("two", "patch"), "vector"] == pytest.approx(1 / 2)
    paired = override_tables.paired_table(table)
    row = paired[(paired["set"] == "one") & (paired["against"] == "before")].set_index("side")
    assert row.loc["vector", ["difference", "only_patch", "only_other"]].tolist() == [3 / 4, 3, 0]
    assert row.loc["query", ["difference", "only_patch", "only_other"]].tolist() == [-3 / 4, 0, 3]
    assert row.loc["vector", "p"] == pytest.approx(2 * 0.5**3)  # McNemar, three against none
    assert (paired["p_holm"] >= paired["p"]).all()
    both = paired[(paired["set"] == "all") & (paired["against"] == "before") & (paired["side"] == "vector")].iloc[0]
    assert both["items"] == 4
    assert both["difference"] == pytest.approx((1 / 2 + 1 / 2 + 1 + 1) / 4)  # a: 0 and 1, b: 1 and 0, c, d: 1


def test_differences_that_never_vary_have_an_interval() -> None:
    cells = [("k", "one", arm, item, False, False) for arm in ("before", "patch") for item in "abcd"]
    row = override_tables.paired_table(made_up(*cells)).iloc[0]
    assert row["difference"] == 0
    assert row["low"] < 0 < row["high"]


def test_judge_agreement_is_measured_against_the_rules() -> None:
    table = made_up(*[("k", "one", "patch", item, item in "ab", False) for item in "abcd"])
    table["judged_query"], table["judged_vector"] = [True, False, False, False], [False] * 4
    table["said_query"], table["said_vector"] = [0.5, 0.7, 0.9, None], [0.1] * 4
    found = override_tables.judge_table(table).set_index(["kind", "side"])
    assert found.loc[("k", "query"), "agreement"] == 3 / 4
    assert found.loc[("k", "query"), "kappa"] == pytest.approx(0.5)
    assert np.isnan(found.loc[("all", "vector"), "kappa"])
    assert found.loc[("k", "query"), "said"] == pytest.approx(0.7)  # of those that it was asked about


def test_verdicts_are_the_judges(place: Place, finished: Path) -> None:
    answers = answers_of(finished)
    judged = pd.read_csv(finished / "judge.csv")
    assert judged["answers"].tolist() == [27] * 6 + [81] * 2
    both = judged[judged["kind"] == "all"].set_index("side")
    for side in ("query", "vector"):
        assert both.loc[side, "agreement"] == pytest.approx((answers[side] == answers[f"judged_{side}"]).mean())
    assert ModelJudge(load_model(str(place.llm))).yes


def test_resumed_run_gives_the_same_tables(
    place: Place, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "resumed"
    argv = arguments(place, out, "--sets", *SETS, "--judge", place.llm)
    done, perform = [], OverrideWork.perform

    def killed(self: OverrideWork, key: str) -> None:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(key)
        perform(self, key)

    with monkeypatch.context() as patched:
        patched.setattr(OverrideWork, "perform", killed)
        assert run(argv) == 130
    assert run(argv) == 0
    for name in TABLES:
        assert (out / f"{name}.csv").read_text() == (finished / f"{name}.csv").read_text()


def test_last_line_is_the_report(place: Place, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(place, finished, "--sets", *SETS, "--judge", place.llm)) == 0  # everything is done
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == str(finished / "report.html")
    assert {path.name for path in (finished / "figures").iterdir()} == {
        "both.png", "both.pdf", "layers.png", "layers.pdf"
    }  # fmt: skip


def test_question_by_examples_and_image_examples(place: Place, tmp_path: Path) -> None:
    sets = [*SETS[:2], "food-flavor:food-color"]
    more = ["--question", "examples", "--source", "image", "--sets", *sets]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    assert set(answers_of(tmp_path / "out")["source"]) == {"", "image"}


def test_only_the_bundled_pair_shows_its_question_by_examples_unless_told() -> None:
    told = {"model": "bundled-llm", "question": "instruction"}
    files = {"questions": (Path("questions.json"),)}
    found = [override.Arguments(**given).settings().question for given in ({}, {"model": "org/other"}, told, files)]
    assert found == ["examples", "instruction", "instruction", "instruction"]


def test_vqa_files_have_questions_of_their_own(place: Place, tmp_path: Path) -> None:
    files = Files(tmp_path / "set", pictures=12)
    more = [*files.options, "--source", "instruction", "--kinds", "semantic", "creative"]
    assert run(arguments(place, tmp_path / "out", *more)) == 0
    answers = answers_of(tmp_path / "out")
    assert set(answers["set"]) == {"VQAv2:VQAv2", "VQAv2:VQAv2.once", "VQAv2:VQAv2.lovely"}
    pairs = answers[answers["set"] == "VQAv2:VQAv2"]
    assert set(pairs["query_question"]) == {"What color is the man's shirt:"}
    assert set(pairs["vector_question"]) == {"What kind of food is this:"}


def test_wrong_vector_needs_another_question(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path / "set", pictures=12)  # whose pairs all ask of the shirt and then of the food
    more = [*files.options, "--source", "instruction", "--kinds", "semantic"]
    assert run(arguments(place, tmp_path / "out", *more)) == 2
    assert "the wrong vector of 'VQAv2:VQAv2' needs a question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--kinds", "poetic"], "--kinds 'poetic' is unknown"),
        (["--source", "sound"], "--source 'sound' is unknown"),
        (["--question", "song"], "--question 'song' is unknown"),
        (["--shots", 0], "--shots is 0; it must be at least 1"),
        (["--sets", "food-color"], "is no pair; expected query:vector"),
        (["--sets", SETS[0]], "needs a set whose vector asks for something else"),
        (["--sets", *SETS, "--layers", 4], "--layers 4 is out of range"),
        (["--sets", *SETS, "--shots", 70], "70 demonstrations"),
        (["--questions", "q.json"], "--annotations and --images are missing"),
        (["--sets", *SETS, "--judge", "VLM", "--judge-template", "hm"], "the judge's template 'hm' must hold"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    given = [place.vlm if one == "VLM" else one for one in more]
    assert run(arguments(place, tmp_path / "out", *given)) == 2
    message = capsys.readouterr().err
    assert re.search(said, message)
    assert len(message.strip().splitlines()) == 1


def test_files_cannot_give_examples(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path / "set", pictures=12)
    assert run(arguments(place, tmp_path / "out", *files.options, "--source", "text")) == 2
    assert "has questions of its own for each picture, which only --source instruction" in capsys.readouterr().err


# The system prompt

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.usefixtures("undrawn")
def test_system_prompt_carries_the_vectors_instruction_where_there_is_a_chat(place: Place, tmp_path: Path) -> None:
    chatty = tmp_path / "chatty"
    shutil.copytree(place.vlm, chatty)
    (chatty / "chat_template.jinja").write_text(CHAT)
    out = tmp_path / "out"
    assert run([*arguments(place, out, "--sets", *SETS[::2]), "--model", chatty]) == 0
    answers, model = answers_of(out), load_model(str(chatty), dtype="float64")
    assert {"before", "prefix", "chat", "system", "patch"} < set(answers["arm"])
    assert "chat template" in (out / "report.html").read_text()
    (found,) = task_sets(SETS[:1], lambda: pytest.fail("not needed"))
    template = Template.parse(f"chat:{override.Arguments().template}")
    own, other = load_task("food-color").instruction, load_task("food-flavor").instruction
    for arm, asked in (("chat", Specification((), own)), ("system", Specification((), own, system=other))):
        said = answers[(answers["arm"] == arm) & (answers["set"] == SETS[0])].set_index("item")["answer"]
        for conflict in found.split("test")[:3]:
            prompt = render(model, asked, picture(conflict.item), template=template)
            (alone,) = generate(model, [prompt], max_new_tokens=40)
            assert alone.text.startswith(said[conflict.item.input])
    paired = pd.read_csv(out / "paired.csv")
    assert {"chat", "system"} < set(paired["against"])


def test_without_a_chat_template_the_prefix_stands_for_the_system_prompt(finished: Path) -> None:
    assert not {"chat", "system"} & set(answers_of(finished)["arm"])
    assert "the prefix stands for it" in (finished / "report.html").read_text()


# Pictures, judges, time


def test_no_scored_picture_is_in_a_context(place: Place, finished: Path) -> None:
    answers = answers_of(finished)
    for found in task_sets(SETS, lambda: pytest.fail("not needed")):
        items = {conflict.item.input: conflict.item for conflict in found.conflicts}
        scored = {items[name].image.read_bytes() for name in answers[answers["set"] == found.name]["item"]}
        for task in (found.query_task, found.vector_task):
            assert not scored & {item.image.read_bytes() for item in task.split("selection")}


@pytest.mark.usefixtures("undrawn")
def test_a_picture_that_cannot_be_decoded_stops_before_any_work_or_is_left_out(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(tmp_path / "set", pictures=12)
    for name in sorted(files.images.iterdir())[:5]:
        name.write_bytes(b"not a picture")
    more = [*files.options, "--source", "instruction", "--kinds", "semantic", "syntactic", "--test-items", 12]
    assert run(arguments(place, tmp_path / "out", *more)) == 2
    assert "cannot be decoded" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(arguments(place, tmp_path / "out", *more, "--on-error", "continue")) == 0
    assert "Skipped: " in capsys.readouterr().out
    assert not {str(picture) for picture in range(5)} & set(answers_of(tmp_path / "out")["item"].astype(str))


def test_judge_that_gives_too_few_verdicts_is_an_error(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ModelJudge, "judge", lambda self, cases: [])
    assert run(arguments(place, tmp_path / "out", "--sets", *SETS, "--judge", place.llm)) == 2
    assert "the judge gave 0 verdicts; expected one for each of" in capsys.readouterr().err


def test_time_is_estimated_from_a_conflict_of_each_form(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = override.Arguments(
        model=str(place.vlm), sets=tuple(SETS), shots=2, contexts=2, layers=(1,), selection_items=2, test_items=3
    ).settings()
    inputs = OverrideInputs(
        settings, task_sets(SETS, lambda: pytest.fail("not needed")), load_model(str(place.vlm), dtype="float64")
    )
    with Run.open(tmp_path / "run", {}) as record:
        work = OverrideWork(inputs, record)
        assert override_estimate.seconds_left(work) > 0
        times = {False: {"vectors": 1.0, "selection": 10.0, "test": 100.0}}
        times[True] = {name: 10 * value for name, value in times[False].items()}
        monkeypatch.setattr(override_estimate, "_measure", lambda _, found: times[found.vector_form.invents])
        assert override_estimate.seconds_left(work) == (1 + 20 + 300) * (2 + 10)
        for unit in work.units():
            record.record(unit.key, {})
        assert override_estimate.seconds_left(work) == 0


def test_full_has_more_conflicts_contexts_and_layers() -> None:
    quick, full = override.Arguments().settings(), override.Arguments(full=True, test_items=7).settings()
    assert (quick.layer_step, full.layer_step, quick.second_half, full.second_half) == (2, 1, True, False)
    assert quick.contexts < full.contexts
    assert quick.selection_items < full.selection_items
    assert (quick.test_items, full.test_items) == (8, 7)  # what is given goes before
