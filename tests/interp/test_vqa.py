"""VQA sets: the accuracy of the published rules, files with every mistake named, question types as tasks."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from interp.errors import CrosstaskError
from interp.tasks.vqa import (
    EASY_TYPES,
    FILE_TYPES,
    PICTURE_TYPES,
    easy,
    easy_questions,
    normalise_answer,
    picture_questions,
    question_type,
    read_questions,
    type_task,
    vqa_accuracy,
)
from interp.tasks.vqa.scoring import accepted_answers
from tests.vqa_sets import Files, easy_wheel, not_installed

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


def test_answer_of_ok_vqa_is_the_one_that_its_evaluation_takes(files: Files) -> None:
    for answer in files.annotations["annotations"][0]["answers"]:
        answer.update(answer="run", raw_answer="running")
    for answer in files.annotations["annotations"][1]["answers"]:
        rename(answer, "answer", "raw_answer")
    found = read_questions(*files.write()).questions
    assert found[0].answers == ("run",) * 10
    assert found[1].accepted == ("pizza",)


def test_further_keys_are_passed_over(files: Files) -> None:
    files.questions["source"] = "mine"
    files.questions["questions"][0]["split"] = "val"
    files.annotations["annotations"][0]["difficulty"] = 3
    assert len(read_questions(*files.write()).questions) == 9


def test_files_may_have_a_byte_order_mark_and_any_letters(files: Files) -> None:
    number = files.add(0, "¿Qué color tiene la camisa? 👕", "añil")
    questions, annotations, images = files.write()
    for path in (questions, annotations):
        path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding="utf-8-sig")
    last = read_questions(questions, annotations, images).questions[-1]
    assert (last.name, last.text, last.accepted) == (f"question {number}", "¿Qué color tiene la camisa? 👕", ("añil",))


def zipped(path: Path, *names: str) -> Path:
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.write(path, name)
    return archive


def test_a_zip_of_one_file_is_read_as_the_file(files: Files) -> None:
    questions, annotations, images = files.write()
    packed = zipped(annotations, "v2_mscoco_val2014_annotations.json", "__MACOSX/._annotations.json")
    assert read_questions(questions, packed, images) == read_questions(questions, annotations, images)
    with pytest.raises(CrosstaskError, match=r"annotations\.zip holds 2 JSON files \(a\.json, b\.json\); expected one"):
        read_questions(questions, zipped(annotations, "a.json", "b.json"), images)
    with pytest.raises(CrosstaskError, match=r"annotations\.zip holds 0 JSON files; expected one"):
        read_questions(questions, zipped(annotations, "a.txt"), images)
    packed = zipped(annotations, "a.json")
    packed.write_bytes(packed.read_bytes().replace(b"question_id", b"question-id"))
    with pytest.raises(CrosstaskError, match=r"annotations\.zip cannot be unpacked: Bad CRC"):
        read_questions(questions, packed, images)


def test_missing_images_are_left_out_where_that_is_asked(files: Files) -> None:
    questions, annotations, images = files.write()
    (images / "COCO_val2014_000000000001.jpg").unlink()
    skipped: list[str] = []
    found = read_questions(questions, annotations, images, skipped=skipped).questions
    assert {question.image_name for question in found} == {"0", "2"}
    assert len(skipped) == 3
    assert all("has image 1, but" in line for line in skipped)


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
    "misspelt list": (
        lambda f: rename(f.questions, "questions", "question"),
        r"questions\.json lacks the key 'questions'",
    ),
    "two splits": (
        lambda f: f.annotations.update(data_subtype="train2014"),
        r"questions\.json has the questions of 'val2014', and .*annotations\.json the answers to 'train2014'",
    ),
    "annotated twice": (
        lambda f: f.annotations["annotations"].append(f.annotations["annotations"][2]),
        r"annotations\[9\] has the question_id 2 of annotations\[2\]; ids must differ",
    ),
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
    assert question_type(name, files=name in FILE_TYPES).fits(text) == fits


def test_unknown_type_is_told_with_those_of_the_data() -> None:
    with pytest.raises(CrosstaskError, match=r"no question type 'colour' for VQAv2 .*expected food-class, shirt-color"):
        question_type("colour", files=True)
    with pytest.raises(CrosstaskError, match=r"'man-holding' for easy-vqa and .*; expected colour, shape, presence"):
        question_type("man-holding", files=False)


def test_file_types_divide_pictures_between_the_splits_once(tmp_path: Path) -> None:
    found = read_questions(*Files(tmp_path).write())
    splits = {}
    for name in FILE_TYPES:
        task = type_task(question_type(name, files=True), [(found, None)]).task
        splits[name] = {item.input: item.split for item in task.items}
        assert len(task.split("selection")) > 3 < len(task.split("test"))
    assert splits["food-class"] == splits["shirt-color"] == splits["man-holding"]  # a picture is in one split only


def test_one_question_of_a_type_is_taken_of_each_picture(tmp_path: Path) -> None:
    files = Files(tmp_path, pictures=4)
    files.add(2, "What color is the shirt?", "green")
    task = type_task(FILE_TYPES["shirt-color"], [(read_questions(*files.write()), None)])
    assert sorted(item.input for item in task.task.items) == ["0", "1", "2", "3"]
    assert task.people["2"] == ("white",) * 10
    assert task.asked["2"] == "What color is the man's shirt?"


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


def test_installed_easy_vqa_is_taken_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = easy_wheel(tmp_path, monkeypatch, pictures=4)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
        names = file.namelist()

    class Installed:
        version, files = "1.0", names
        locate_file = staticmethod(lambda name: tmp_path / "site" / name)

    fetched = easy_questions("test")
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(easy, "fetch_wheel", lambda *_: pytest.fail("fetched"))
    monkeypatch.setattr(metadata, "distribution", lambda _: Installed)
    installed = easy_questions("test")
    assert [question.text for question in installed.questions] == [question.text for question in fetched.questions]
    assert installed.questions[0].image.is_file()


def test_easy_vqa_that_is_nowhere_is_one_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: str) -> Path:
        raise CrosstaskError("pip could not fetch easy-vqa==1.0 (ERROR: no network): is there a network?")

    not_installed(monkeypatch)
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path))
    monkeypatch.setattr(easy, "fetch_wheel", unreachable)
    with pytest.raises(
        CrosstaskError, match=r"easy-vqa is not installed .*no network.* `pip install easy-vqa==1\.0`"
    ) as e:
        easy_questions("train")
    assert "\n" not in str(e.value)


def test_questions_about_the_packages_own_pictures() -> None:
    selection, test = picture_questions("selection"), picture_questions("test")
    shown = {question.image for question in selection.questions}
    assert not shown & {question.image for question in test.questions}
    contents = [{image.read_bytes() for image in {q.image for q in part.questions}} for part in (selection, test)]
    assert not contents[0] & contents[1]  # nor is a picture there twice under two names
    for name, kind in PICTURE_TYPES.items():
        task = type_task(kind, [(selection, "selection"), (test, "test")]).task
        assert len(task.split("selection")) >= 10 <= len(task.split("test")), name
        for item in task.items:
            assert len(item.outputs) == 1
            if name != "food-color":
                assert item.caption.endswith(f" {item.outputs[0]}")
                assert item.input.endswith(f"/{item.outputs[0]}")
