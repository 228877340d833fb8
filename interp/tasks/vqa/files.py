"""VQAv2 and OK-VQA from the JSON files that their sites give out, with a folder of images.

    questions     {"questions": [{"image_id", "question", "question_id"}], "data_subtype": "train2014", ...}
    annotations   {"annotations": [{"question_id", "image_id", "answers": [{"answer", ...}, ten of them], ...}], ...}
    captions      optional, in COCO's format: {"annotations": [{"image_id", "caption", ...}], ...}

An image is looked for as COCO_<data_subtype>_<image_id, 12 digits>.jpg, as in the release of 2014, then as
<image_id, 12 digits>.jpg, as in that of 2017, then as <image_id>.jpg, in the folder and in its subfolder
<data_subtype>; .png is taken too. Every entry is checked for its keys; images only for the questions that are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import CrosstaskError
from interp.tasks.vqa.scoring import accepted_answers

PEOPLE = 10


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Attributes:
        name: unique in its set.
        text: the question.
        image: the picture.
        image_name: what questions about one picture share.
        answers: the answer of each person, or the one right answer.
        caption: the picture in words, or None.
    """

    name: str
    text: str
    image: Path
    image_name: str
    answers: tuple[str, ...]
    caption: str | None = None

    @property
    def accepted(self) -> tuple[str, ...]:
        """The most frequent answer first, then those that enough people gave."""
        return accepted_answers(self.answers)


@dataclass(frozen=True)
class QuestionSet:
    """Questions with where they come from.

    Attributes:
        name: "VQAv2", "OK-VQA" or "easy-vqa".
        questions: in the order of the file.
        source: the file, for messages.
    """

    name: str
    questions: tuple[Question, ...]
    source: Path

    @property
    def has_captions(self) -> bool:
        return any(question.caption is not None for question in self.questions)


@dataclass(frozen=True)
class _Keys:
    """The keys of an entry: those it must have, with their types, and those it may have."""

    required: Mapping[str, type]
    optional: frozenset[str]

    def check(self, entry: object, where: str) -> dict[str, Any]:
        expected = f"expected {', '.join(self.required)}"
        if not isinstance(entry, dict):
            raise CrosstaskError(f"{where} is {entry!r:.80}; expected an object with {', '.join(self.required)}.")
        for key, kind in self.required.items():
            if key not in entry:
                given = ", ".join(map(str, entry)) or "nothing"
                raise CrosstaskError(f"{where} lacks the key {key!r}; it has {given}, {expected}.")
            if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
                names = {int: "a whole number", str: "a text", list: "a list"}
                raise CrosstaskError(f"{where} has {entry[key]!r:.80} as {key!r}; expected {names[kind]}.")
        for key in entry:
            if key not in self.required and key not in self.optional:
                known = ", ".join(sorted(self.optional))
                raise CrosstaskError(f"{where} has the unknown key {key!r}; {expected}, and optionally {known}.")
        return entry


_HEAD = frozenset({"info", "license", "licenses", "task_type", "data_type", "data_subtype", "num_choices"})
_QUESTIONS = _Keys({"questions": list}, _HEAD)
_QUESTION = _Keys({"image_id": int, "question": str, "question_id": int}, frozenset({"multiple_choices"}))
_ANNOTATIONS = _Keys({"annotations": list}, _HEAD | {"question_types"})
_ANNOTATION = _Keys(
    {"question_id": int, "image_id": int, "answers": list},
    frozenset({"question_type", "answer_type", "multiple_choice_answer", "confidence"}),
)
_ANSWER = _Keys({"answer": str}, frozenset({"answer_confidence", "answer_id", "raw_answer"}))
_CAPTIONS = _Keys({"annotations": list}, _HEAD | {"images", "type"})
_CAPTION = _Keys({"image_id": int, "caption": str}, frozenset({"id"}))


def read_questions(
    questions: Path,
    annotations: Path,
    images: Path,
    *,
    captions: Path | None = None,
    keep: Callable[[str], bool] = lambda text: True,
) -> QuestionSet:
    """Read a question file with its annotations.

    Args:
        questions: the question file.
        annotations: the annotation file of the same split.
        images: the folder of the images.
        captions: captions of the images in COCO's format; the first of each image is taken.
        keep: called with the text of each question; a question that is not kept needs no image.

    Raises:
        CrosstaskError: naming the file and the entry: unreadable or malformed JSON, a missing or unknown key, a
            question without an annotation, other than ten answers, a question id twice, a missing image.
    """
    asked, answered = _read(questions, _QUESTIONS), _read(annotations, _ANNOTATIONS)
    if not images.is_dir():
        raise CrosstaskError(f"{str(images)!r} is not a folder; expected the folder of the images.")
    known = {entry["question_id"]: (where, entry) for where, entry in _entries(answered, annotations, _ANNOTATION)}
    described: dict[int, str] = {}
    if captions is not None:
        for _, entry in _entries(_read(captions, _CAPTIONS), captions, _CAPTION):
            described.setdefault(entry["image_id"], " ".join(entry["caption"].split()))
    found: list[Question] = []
    seen: dict[int, str] = {}
    for where, entry in _entries(asked, questions, _QUESTION, key="questions"):
        number, text = entry["question_id"], " ".join(entry["question"].split())
        if number in seen:
            raise CrosstaskError(f"{where} has the question_id {number} of {seen[number]}; ids must differ.")
        seen[number] = where.removeprefix(f"{questions}, ")
        if not keep(text):
            continue
        if number not in known:
            raise CrosstaskError(f"{where} (question_id {number}) has no annotation in {annotations}.")
        answer_where, annotation = known[number]
        if annotation["image_id"] != entry["image_id"]:
            raise CrosstaskError(
                f"{answer_where} is about image {annotation['image_id']}, and the question {number} in {questions} is "
                f"about image {entry['image_id']}; do the two files belong together?"
            )
        answers = _answers(annotation, answer_where)
        image = _image(entry["image_id"], asked.get("data_subtype"), images, where)
        caption = described.get(entry["image_id"]) or None
        found.append(Question(f"question {number}", text, image, str(entry["image_id"]), answers, caption))
    knowledge = "question_types" in answered  # which only the annotations of OK-VQA have
    return QuestionSet("OK-VQA" if knowledge else "VQAv2", tuple(found), questions)


def _read(path: Path, keys: _Keys) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CrosstaskError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CrosstaskError(f"{path} is not UTF-8 text ({error}).") from error
    except json.JSONDecodeError as error:
        raise CrosstaskError(f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}).") from error
    return keys.check(content, str(path))


def _entries(
    content: dict[str, Any], path: Path, keys: _Keys, *, key: str = "annotations"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each entry with its place, as messages name it."""
    for place, entry in enumerate(content[key]):
        where = f"{path}, {key}[{place}]"
        yield where, keys.check(entry, where)


def _answers(annotation: dict[str, Any], where: str) -> tuple[str, ...]:
    given = annotation["answers"]
    if len(given) != PEOPLE:
        raise CrosstaskError(
            f"{where} (question_id {annotation['question_id']}) has {len(given)} answers; expected those of {PEOPLE} "
            "people."
        )
    answers = tuple(
        _ANSWER.check(answer, f"{where}, answers[{place}]")["answer"].strip() for place, answer in enumerate(given)
    )
    if not accepted_answers(answers):
        raise CrosstaskError(f"{where} (question_id {annotation['question_id']}) has only empty answers.")
    return answers


def _image(number: int, subtype: object, folder: Path, where: str) -> Path:
    stems = [f"{number:012d}", str(number)]
    folders = [folder]
    if isinstance(subtype, str) and subtype:
        stems.insert(0, f"COCO_{subtype}_{number:012d}")
        folders.append(folder / subtype)
    for place in folders:
        for name in (f"{stem}{suffix}" for stem in stems for suffix in (".jpg", ".png")):
            if (place / name).is_file():
                return place / name
    raise CrosstaskError(f"{where} has image {number}, but {folder} holds no {' or '.join(f'{s}.jpg' for s in stems)}.")
