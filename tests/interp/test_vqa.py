"""VQA sets: the accuracy of the published rules, files with every mistake named, question types as tasks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from interp.errors import CrosstaskError
from interp.tasks.vqa import (
    EASY_TYPES,
    FILE_TYPES,
    easy_questions,
    normalise_answer,
    question_type,
    read_questions,
    type_task,
    vqa_accuracy,
)
from interp.tasks.vqa.scoring import accepted_answers
from tests.vqa_sets import Files, easy_wheel

# Accuracy


@pytest.mark.parametrize(
    ("said", "compared"),
    [
        ("Yes", "yes"),
        ("the dog", "dog"),
        ("two dogs.", "2 dogs"),
        ("3.5", "3.5"),
        (".5 miles", ".5 miles"),
        ("U.S.A.", "usa"),
        ("100,978", "100978"),
        ("red,white", "red white"),
        ("t-shirt", "t shirt"),
        ("girl's", "girl's"),
        ("girl’s", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("dont know", "don't know"),
        ("cant", "can't"),
        ("its", "its"),
        ("well", "well"),
        ("none", "0"),
        ("  a   bowl of  soup ", "bowl of soup"),
        ("a", "a"),
        ("50%", "50"),
        ("?", ""),
    ],
)
def test_normalisation_follows_the_published_rules(said: str, compared: str) -> None:
    assert normalise_answer(said) == compared


@pytest.mark.parametrize(("agreeing", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_is_the_mean_over_sets_of_nine_people(agreeing: int, accuracy: float) -> None:
    assert vqa_accuracy("cat", ["a Cat."] * agreeing + ["dog"] * (10 - agreeing)) == pytest.approx(accuracy)


def test_accuracy_with_one_right_answer_is_equality() -> None:
    assert vqa_accuracy("Yes.", ["yes"]) == 1.0
    assert vqa_accuracy("no", ["yes"]) == 0.0
    assert vqa_accuracy("?", ["!"]) == 0.0
    with pytest.raises(CrosstaskError, match="nobody answered"):
        vqa_accuracy("yes", [])


def test_accepted_answers_are_the_most_frequent_and_those_of_three_people() -> None:
    assert accepted_answers(["cat"] * 2 + ["Dog"] * 3 + ["the dog"] + ["ox"] * 3 + ["pig"]) == ("Dog", "ox")
    assert accepted_answers(["b", "c"]) == ("b",)


# Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, pictures=3)


def test_questions_have_their_picture_people_and_caption(files: Files) -> None:
    number = files.add(1, "What is  on the\ttable?", ["cup"] * 6 + ["mug"] * 4)
    questions, annotations, images = files.write()
    found = read_questions(questions, annotations, images, captions=files.folder / "captions.json")
    last = found.questions[-1]
    assert found.name == "VQAv2"
    assert (last.name, last.text) == (f"question {number}", "What is on the table?")
    assert last.image == images / "COCO_val2014_000000000001.jpg"
    assert last.answers == ("cup",) * 6 + ("mug",) * 4
    assert last.accepted == ("cup", "mug")
    assert last.caption == "scene 1"
    assert read_questions(questions, annotations, images).questions[-1].caption is None


def test_ok_vqa_is_known_by_its_question_types_and_raw_answers(files: Files) -> None:
    files.annotations["question_types"] = {"one": "Vehicles and Transportation"}
    for annotation in files.annotations["annotations"]:
        del annotation["multiple_choice_answer"]
        annotation["confidence"] = 3
        for answer in annotation["answers"]:
            answer["raw_answer"] = answer["answer"]
    assert read_questions(*files.write()).name == "OK-VQA"


@pytest.mark.parametrize("name", ["000000000001.jpg", "1.jpg", "1.png", "val2014/COCO_val2014_000000000001.jpg"])
def test_images_are_found_under_the_names_of_both_releases(files: Files, name: str) -> None:
    questions, annotations, images = files.write()
    target = images / name
    target.parent.mkdir(exist_ok=True)
    (images / "COCO_val2014_000000000001.jpg").rename(target)
    assert target in {question.image for question in read_questions(questions, annotations, images).questions}


def test_a_question_that_is_not_kept_needs_no_image(files: Files) -> None:
    questions, annotations, images = files.write()
    files.add(77, "Is it raining?", "no")
    files.write()
    with pytest.raises(CrosstaskError):
        read_questions(questions, annotations, images)
    kept = read_questions(questions, annotations, images, keep=lambda text: text.startswith("What color"))
    assert len(kept.questions) == 3


def rename(entry: dict, old: str, new: str) -> None:
    entry[new] = entry.pop(old)


MISTAKES: dict[str, tuple[Callable[[Files], object], str]] = {
    "missing key": (
        lambda f: f.questions["questions"][1].pop("question"),
        r"questions\.json, questions\[1\] lacks the key 'question'; it has image_id, question_id",
    ),
    "unknown key": (
        lambda f: f.questions["questions"][2].update(colour="red"),
        r"questions\.json, questions\[2\] has the unknown key 'colour'; expected image_id, question, question_id",
    ),
    "misspelt list": (
        lambda f: rename(f.questions, "questions", "question"),
        r"questions\.json lacks the key 'questions'",
    ),
    "unknown head": (lambda f: f.questions.update(split="val"), r"questions\.json has the unknown key 'split'"),
    "type": (
        lambda f: f.questions["questions"][0].update(image_id="7"),
        r"questions\[0\] has '7' as 'image_id'; expected a whole number",
    ),
    "entry": (lambda f: f.questions["questions"].insert(0, "what?"), r"questions\[0\] is 'what\?'; expected an object"),
    "no annotation": (
        lambda f: f.annotations["annotations"].pop(),
        r"questions\[8\] \(question_id 2008\) has no annotation in .*annotations\.json",
    ),
    "twice": (
        lambda f: f.questions["questions"].append(f.questions["questions"][0]),
        r"questions\[9\] has the question_id 0 of questions\[0\]",
    ),
    "nine people": (
        lambda f: f.annotations["annotations"][4]["answers"].pop(),
        r"annotations\[4\] \(question_id 1004\) has 9 answers; expected those of 10 people",
    ),
    "answer": (
        lambda f: rename(f.annotations["annotations"][4]["answers"][2], "answer", "text"),
        r"annotations\[4\], answers\[2\] lacks the key 'answer'",
    ),
    "empty answers": (
        lambda f: [answer.update(answer=" ") for answer in f.annotations["annotations"][0]["answers"]],
        r"annotations\[0\] \(question_id 0\) has only empty answers",
    ),
    "other image": (
        lambda f: f.annotations["annotations"][3].update(image_id=9),
        r"annotations\[3\] is about image 9, and the question 1003 .* is about image 1",
    ),
    "no picture": (
        lambda f: (f.images / "COCO_val2014_000000000002.jpg").unlink(),
        r"questions\[6\] has image 2, but .*images holds no COCO_val2014_000000000002\.jpg or",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_named_with_its_file_and_entry(files: Files, name: str) -> None:
    make, said = MISTAKES[name]
    make(files)
    with pytest.raises(CrosstaskError, match=said) as error:
        read_questions(*files.write())
    assert "\n" not in str(error.value)


def test_malformed_or_missing_files_are_named(files: Files) -> None:
    questions, annotations, images = files.write()
    with pytest.raises(CrosstaskError, match="is not a folder"):
        read_questions(questions, annotations, images / "nowhere")
    annotations.write_text('{"annotations": [\n  {"question_id": 1,}\n]}')
    with pytest.raises(CrosstaskError, match=r"annotations\.json, line 2, column \d+: not JSON"):
        read_questions(questions, annotations, images)
    questions.unlink()
    with pytest.raises(CrosstaskError, match=r"questions\.json cannot be read: No such file"):
        read_questions(questions, annotations, images)


def test_swapped_files_are_noticed(files: Files) -> None:
    questions, annotations, images = files.write()
    with pytest.raises(CrosstaskError, match=r"annotations\.json lacks the key 'questions'; it has .*annotations"):
        read_questions(annotations, questions, images)


# Question types


@pytest.mark.parametrize(
    ("name", "text", "fits"),
    [
        ("food-class", "What kind of food is this?", True),
        ("food-class", "What food is on the plate?", True),
        ("food-class", "What color is the food?", False),
        ("food-class", "What foodstuff is this?", False),
        ("shirt-color", "What color is the man's shirt?", True),
        ("shirt-color", "What colour are their shirts?", True),
        ("shirt-color", "What color is the t-shirt?", True),
        ("shirt-color", "What color is the dog near the man in the shirt?", False),
        ("shirt-color", "What is written on the shirt?", False),
        ("man-holding", "What is the man holding?", True),
        ("man-holding", "What's this guy holding in his hand?", True),
        ("man-holding", "What is the woman holding?", False),
        ("man-holding", "Is the man holding a bat?", False),
        ("colour", "what is the color of the circle?", True),
        ("colour", "what is the red shape?", False),
        ("shape", "what is the red shape?", True),
        ("shape", "what shape does the image contain?", True),
        ("shape", "what color is the shape?", False),
        ("presence", "is there a circle in the image?", True),
        ("presence", "is a circle present?", True),
        ("presence", "is there not a circle?", False),
        ("presence", "is there a triangle?", False),
        ("presence-red", "does the image contain a red shape?", True),
        ("presence-red", "what is the red shape?", False),
    ],
)
def test_types_are_rules_on_the_text(name: str, text: str, fits: bool) -> None:
    assert question_type(name, easy=name not in FILE_TYPES).fits(text) == fits


def test_unknown_type_is_told_with_those_of_the_data() -> None:
    with pytest.raises(CrosstaskError, match=r"no question type 'colour' for VQAv2 .*expected food-class, shirt-color"):
        question_type("colour", easy=False)
    with pytest.raises(CrosstaskError, match=r"'food-class' for easy-vqa; expected colour, shape, presence"):
        question_type("food-class", easy=True)


def test_file_types_divide_pictures_between_the_splits_once(tmp_path: Path) -> None:
    found = read_questions(*Files(tmp_path).write())
    splits = {}
    for name in FILE_TYPES:
        task = type_task(question_type(name, easy=False), [(found, None)]).task
        splits[name] = {item.input: item.split for item in task.items}
        assert len(task.split("selection")) > 3 < len(task.split("test"))
    assert splits["food-class"] == splits["shirt-color"] == splits["man-holding"]  # a picture is in one split only


def test_one_question_of_a_type_is_taken_of_each_picture(tmp_path: Path) -> None:
    files = Files(tmp_path, pictures=4)
    files.add(2, "What color is the shirt?", "green")
    task = type_task(FILE_TYPES["shirt-color"], [(read_questions(*files.write()), None)])
    assert sorted(item.input for item in task.task.items) == ["0", "1", "2", "3"]
    assert task.people["2"] == ("white",) * 10


def test_a_type_without_questions_is_an_error(tmp_path: Path) -> None:
    files = Files(tmp_path, pictures=1)
    questions, *rest = files.write()
    found = read_questions(questions, *rest, keep=lambda text: "food" in text)
    with pytest.raises(
        CrosstaskError, match=rf"no question of {re.escape(str(questions))} is of the type 'man-holding'"
    ):
        type_task(FILE_TYPES["man-holding"], [(found, None)])


def test_easy_vqa_has_disjoint_pictures_and_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    easy_wheel(tmp_path, monkeypatch)
    train, test = easy_questions("train"), easy_questions("test")
    assert train.questions[0].caption == "a black circle"
    tasks = {name: type_task(kind, [(train, "selection"), (test, "test")]) for name, kind in EASY_TYPES.items()}
    for found in tasks.values():
        selection, scored = found.task.split("selection"), found.task.split("test")
        assert {item.image.name[:5] for item in selection} == {"train"}
        assert {item.image.name[:5] for item in scored} == {"test-"}
        assert all(item.image.is_file() for item in found.task.items)
    for item in tasks["colour"].task.items:
        assert item.outputs[0] in item.caption
    answers = [item.outputs[0] for item in tasks["presence"].task.split("test")]
    assert answers.count("yes") == answers.count("no") > 3  # balanced, so that a constant answer is right half the time
    for item in tasks["presence"].task.items:
        assert (item.outputs[0] == "yes") == ("circle" in item.caption)
