"""Forms that a rule can tell, conflicts that no answer can satisfy twice, and judges."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from interp.errors import CrosstaskError
from interp.judging import Case, ModelJudge, RuleJudge, Verdict
from interp.models.base import Model
from interp.tasks import load_task
from interp.tasks.conflicts import KINDS, TABLE, file_sets, instruction, set_names, task_sets
from interp.tasks.forms import FORMS, form, plural
from interp.tasks.vqa import easy_questions, read_questions
from tests.vqa_sets import Files, easy_wheel


def no_easy() -> tuple:
    raise AssertionError("easy-vqa was fetched, and nothing needed it")


OWN = [name for kind in KINDS for name in TABLE[kind] if "colour" not in name]

# Forms


@pytest.mark.parametrize(
    ("name", "answers", "right", "wrong"),
    [
        ("plain", ["Paris"], ["Paris", " paris.", "the Paris"], ["PARIS", "P", "Rome", ""]),
        ("plain", ["USD"], ["USD", "usd"], ["EUR"]),
        ("upper", ["yellow"], ["YELLOW", " YELLOW.", "THE YELLOW"], ["Yellow", "YELLOw", "RED", ""]),
        ("letter", ["Paris", "Lutetia"], ["P", "p.", " L"], ["Paris", "R", "PL", ""]),
        ("plural", ["calf", "puppy"], ["calves", "Puppies."], ["calf", "calfs", ""]),
        (
            "once",
            ["red"],
            ["Once there was a cat.", "once, a red cat sat"],
            ["Once a cat", "A cat once sat down", "red"],
        ),
        (
            "lovely",
            ["red"],
            ["What a lovely cat this is.", "this is so LOVELY"],
            ["a lovely cat", "What a cat this is"],
        ),
    ],
)
def test_rule_of_a_form_takes_its_own_answers_only(
    name: str, answers: list[str], right: list[str], wrong: list[str]
) -> None:
    found = form(name)
    written = found.write("cat", answers)
    assert all(found.accepts(text, written) for text in (*right, *written))
    assert not any(found.accepts(text, written) for text in wrong)
    for text in right:  # pruning must not lose a right answer
        assert all(found.may_become(text[:end], written) for end in range(len(text) + 1)), text


@pytest.mark.parametrize(("name", "hopeless"), [("upper", "Yel"), ("letter", "Pa"), ("plural", "dog"), ("once", "A c")])
def test_hopeless_text_may_stop_early(name: str, hopeless: str) -> None:
    found = form(name)
    assert not found.may_become(hopeless, found.write("cat", ["Paris", "yellow"]))


@pytest.mark.parametrize(
    ("one", "several"),
    [("cub", "cubs"), ("calf", "calves"), ("puppy", "puppies"), ("boy", "boys"), ("finch", "finches"), ("fox", "foxes"),
     ("chief", "chiefs"), ("wolf", "wolves"), ("red fish", "red fishes")],
)  # fmt: skip
def test_plural(one: str, several: str) -> None:
    assert plural(one) == several


def test_form_changes_the_instruction() -> None:
    asked = {name: found.ask("The color of the food:") for name, found in FORMS.items()}
    assert asked["plain"] == "The color of the food:"
    assert asked["upper"] == "The color of the food, in capital letters:"
    assert asked["letter"] == "The first letter of the color of the food:"
    assert all(text.endswith(":") for text in asked.values())
    with pytest.raises(CrosstaskError, match=r"no form 'rhyme' .* expected one of plain, upper"):
        form("rhyme")


# Conflicts


@pytest.mark.parametrize("name", OWN)
def test_no_accepted_answer_is_right_for_both_sides(name: str) -> None:
    (found,) = task_sets([name], no_easy)
    assert found.name == name
    for conflict in found.conflicts:
        assert not any(
            found.vector_form.accepts(answer, conflict.vector.accepted) for answer in conflict.query.accepted
        )
        assert not any(found.query_form.accepts(answer, conflict.query.accepted) for answer in conflict.vector.accepted)
        assert all(found.vector_form.accepts(answer, conflict.vector.accepted) for answer in conflict.vector.accepted)
    assert len(found.split("test")) >= 12
    assert len(found.split("selection")) >= 12


def test_sides_carry_the_instruction_and_answers_of_their_tasks() -> None:
    (found,) = task_sets(["country-capital:country-capital.letter"], no_easy)
    (egypt,) = [one for one in found.conflicts if one.item.input == "Egypt"]
    assert egypt.query.question == load_task("country-capital").instruction
    assert egypt.query.accepted[0] == "Cairo"
    assert egypt.vector.accepted == ("C",)
    assert {one.outputs[0] for one in found.vector_task.items if one.input == "Egypt"} == {"C"}


def test_easy_vqa_asks_two_things_of_each_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    easy_wheel(tmp_path, monkeypatch)
    parts = easy_questions("train"), easy_questions("test")
    colour, story = task_sets(["colour:shape", "shape:shape.once"], lambda: parts)
    for conflict in colour.conflicts:
        assert conflict.item.caption == f"a {conflict.query.accepted[0]} {conflict.vector.accepted[0]}"
        assert conflict.item.image.name.startswith("train" if conflict.item.split == "selection" else "test")
    assert (colour.kind, story.kind) == ("semantic", "creative")
    assert story.conflicts[0].vector.accepted == ("Once there was a black circle.",)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("food-color", "--sets 'food-color' is no pair; expected query:vector"),
        ("food-color:country-capital", "the tasks 'food-color' and 'country-capital' share no item"),
        ("food-color:food-color.rhyme", "no form 'rhyme'"),
        ("food-color:food-color", "no item has different answers"),
        ("food-color:food-colour", "no task 'food-colour'"),
    ],
)
def test_bad_set_is_one_sentence(name: str, said: str) -> None:
    with pytest.raises(CrosstaskError, match=re.escape(said)):
        task_sets([name], no_easy)


def test_pairs_of_a_vqa_set_are_about_one_picture_and_answered_differently(tmp_path: Path) -> None:
    files = Files(tmp_path, pictures=6)
    files.add(6, "Is it day?", "yes")
    files.add(6, "Is it night?", "no")
    files.add(7, "Which color is the car?", "red")
    files.add(7, "What color is the car?", "red")
    files.add(8, "Is the car red?", "no")
    files.add(8, "What color is the car?", "blue")
    for picture in (6, 7, 8):
        (files.images / f"COCO_val2014_{picture:012d}.jpg").write_bytes(b"")
    (found,) = file_sets([read_questions(*files.write())], ["semantic", "factual"])
    assert (found.kind, found.vector_task) == ("semantic", None)
    assert sorted(one.item.input for one in found.conflicts) == ["0", "1", "2", "3", "4", "5", "8"]
    (last,) = [one for one in found.conflicts if one.item.input == "8"]
    assert (last.query.question, last.vector.question) == ("Is the car red:", "What color is the car:")
    assert instruction("What is this ?") == "What is this:"


def test_pairs_of_ok_vqa_are_factual(tmp_path: Path) -> None:
    files = Files(tmp_path, pictures=4)
    files.annotations["question_types"] = {}
    read = read_questions(*files.write())
    found = file_sets([read], KINDS)
    assert [(one.kind, one.vector_form.name) for one in found] == [
        ("syntactic", "upper"),
        ("syntactic", "letter"),
        ("creative", "once"),
        ("creative", "lovely"),
        ("factual", "plain"),
    ]
    with pytest.raises(CrosstaskError, match="--kinds semantic has nothing in OK-VQA files: semantic takes two"):
        file_sets([read], ["semantic"])
    with pytest.raises(CrosstaskError, match="two files are OK-VQA questions; expected VQAv2"):
        file_sets([read, read], KINDS)


def test_knowledge_overrides_what_is_seen_where_both_sets_ask_about_a_picture(tmp_path: Path) -> None:
    seen, known = Files(tmp_path / "seen", pictures=4), Files(tmp_path / "known", pictures=3)
    known.annotations["question_types"] = {}
    known.questions["questions"], known.annotations["annotations"] = [], []
    for picture in (1, 2, 2):
        known.add(picture, "Which country is this dish from?", "Italy")
    sets = [read_questions(*files.write()) for files in (known, seen)]
    found = {one.name: one for one in file_sets(sets, ["semantic", "factual"])}
    assert set(found) == {"VQAv2:VQAv2", "VQAv2:OK-VQA"}
    factual = found["VQAv2:OK-VQA"]
    assert factual.kind == "factual"
    assert sorted(one.item.input for one in factual.conflicts) == ["1", "2"]
    for one in factual.conflicts:
        assert one.vector.question == "Which country is this dish from:"
        assert one.query.question == "What color is the man's shirt:"
        assert {other.item.split for other in found["VQAv2:VQAv2"].conflicts if other.item.input == one.item.input} == {
            one.item.split
        }


def test_names_of_all_kinds_are_those_of_the_table() -> None:
    assert set_names(KINDS) == [name for kind in KINDS for name in TABLE[kind]]


# Judges

CASES = [
    Case("The capital city:", ("Paris",), "Paris", FORMS["plain"]),
    Case("The capital city:", ("Paris",), "Rome {x}", FORMS["plain"]),
    Case("The capital city:", ("Paris",), "  ", FORMS["plain"]),
]


def test_rule_judge_goes_by_the_form() -> None:
    assert RuleJudge().judge(CASES) == [Verdict(True), Verdict(False), Verdict(False)]


def test_model_judge_reads_the_logits_of_yes_and_no(llama: Model) -> None:
    judge = ModelJudge(llama)
    verdicts = judge.judge(CASES)
    ids = llama.tokenizer(judge.text(CASES[1]) + "\nYes or no:", add_special_tokens=False).input_ids
    tokens = torch.tensor([[*(llama.bos_ids or ()), *ids]])
    logits = llama.module(input_ids=tokens).logits[0, -1]
    spelled = {
        word: llama.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("yes", "Yes", "no", "No")
    }
    yes, no = (torch.logsumexp(logits[[spelled[w], spelled[w.title()]]], 0) for w in ("yes", "no"))
    assert verdicts[1].score == pytest.approx((yes - no).item(), abs=1e-9)
    assert verdicts[1].right == (verdicts[1].score > 0)
    assert verdicts[1].said == pytest.approx(logits.softmax(0)[[*judge.yes, *judge.no]].sum().item(), abs=1e-9)
    assert verdicts[0].score != verdicts[1].score
    assert verdicts[2] == Verdict(False, None)  # nothing was said, so nothing is asked


def test_judge_template_is_configurable_and_checked(llama: Model) -> None:
    judge = ModelJudge(llama, r"{answer} {accepted} {question}\nSo:")
    assert judge.text(CASES[0]) == "Paris Paris The capital city:"
    for bad in (
        "{answer} {question}\\nSo:",
        "{answer} {accepted} {question}:",
        "{answer} {accepted} {question {\\nSo:",
    ):
        with pytest.raises(CrosstaskError, match="the judge's template"):
            ModelJudge(llama, bad)
