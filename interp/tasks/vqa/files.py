"""VQAv2 and OK-VQA from the JSON files that their sites give out, with a folder of images.

    questions     {"questions": [{"image_id", "question", "question_id"}], "data_subtype": "train2014", ...}
    annotations   {"annotations": [{"question_id", "image_id", "answers": [{"answer", ...}, ten of them], ...}], ...}
    captions      optional, in COCO's format: {"annotations": [{"image_id", "caption", ...}], ...}

Each may be the zip that the site gives out, with one JSON file in it. Further keys are passed over. OK-VQA has a
"raw_answer" beside each "answer"; the latter is the one that is scored, as in its own evaluation.

An image is looked for as COCO_<data_subtype>_<image_id, 12 digits>.jpg, as in the release of 2014, then as
<image_id, 12 digits>.jpg, as in that of 2017, then as <image_id>.jpg, in the folder and in its subfolder
<data_subtype>; .png is taken too. Every entry is checked for its keys; images only for the questions that are kept.
"""

from __future__ import annotations

import io
import json
import zipfile
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


_QUESTION: Mapping[str, type] = {"image_id": int, "question": str, "question_id": int}
_ANNOTATION: Mapping[str, type] = {"question_id": int, "image_id": int, "answers": list}
_CAPTION: Mapping[str, type] = {"image_id": int, "caption": str}
_KINDS = {int: "a whole number", str: "a text", list: "a list"}


def _checked(entry: object, keys: Mapping[str, type], where: str) -> dict[str, Any]:
    """The entry, if it has these keys with values of these types."""
    if not isinstance(entry, dict):
        raise CrosstaskError(f"{where} is {entry!r:.80}; expected an object with {', '.join(keys)}.")
    for key, kind in keys.items():
        if key not in entry:
            given = ", ".join(map(str, entry)) or "nothing"
            raise CrosstaskError(f"{where} lacks the key {key!r}; it has {given:.200}, expected {', '.join(keys)}.")
        if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
            raise CrosstaskError(f"{where} has {entry[key]!r:.80} as {key!r}; expected {_KINDS[kind]}.")
    return entry


def read_questions(
    questions: Path,
    annotations: Path,
    images: Path,
    *,
    captions: Path | None = None,
    keep: Callable[[str], bool] = lambda text: True,
    skipped: list[str] | None = None,
) -> QuestionSet:
    """Read a question file with its annotations.

    Args:
        questions: the question file, or its zip.
        annotations: the annotation file of the same split, or its zip.
        images: the folder of the images.
        captions: captions of the images in COCO's format; the first of each image is taken.
        keep: called with the text of each question; a question that is not kept needs no image.
        skipped: takes a sentence for each question whose image is missing, which is then left out; None makes a
            missing image an error.

    Raises:
        CrosstaskError: naming the file and the entry: unreadable or malformed JSON, a missing key, files of two splits,
            a question without an annotation, other than ten answers, an id twice, a missing image.
    """
    asked = _checked(_read(questions), {"questions": list}, str(questions))
    answered = _checked(_read(annotations), {"annotations": list}, str(annotations))
    _check_split(asked, questions, answered, annotations)
    if not images.is_dir():
        raise CrosstaskError(f"{str(images)!r} is not a folder; expected the folder of the images, unpacked.")
    known = _by_id(answered["annotations"], annotations)
    described = _captions(captions)
    found: list[Question] = []
    seen: dict[int, str] = {}
    for where, entry in _entries(asked["questions"], _QUESTION, f"{questions}, questions"):
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
        try:
            image = _image(entry["image_id"], asked.get("data_subtype"), images, where)
        except CrosstaskError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
            continue
        caption = described.get(entry["image_id"]) or None
        found.append(Question(f"question {number}", text, image, str(entry["image_id"]), answers, caption))
    knowledge = "question_types" in answered  # which only the annotations of OK-VQA have
    return QuestionSet("OK-VQA" if knowledge else "VQAv2", tuple(found), questions)


def _check_split(asked: dict[str, Any], questions: Path, answered: dict[str, Any], annotations: Path) -> None:
    """Both files are of the same split, if they say."""
    one, other = asked.get("data_subtype"), answered.get("data_subtype")
    if one and other and one != other:
        raise CrosstaskError(
            f"{questions} has the questions of {one!r}, and {annotations} the answers to {other!r}; expected two files "
            "of one split."
        )


def _read(path: Path) -> Any:
    """The JSON of a file, or of the only JSON file in a zip."""
    try:
        content = path.read_bytes()
        if zipfile.is_zipfile(io.BytesIO(content)):
            content = _unzipped(content, path)
        return json.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise CrosstaskError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise CrosstaskError(f"{path} is not UTF-8 text ({error}); expected JSON, or a zip of it.") from error
    except json.JSONDecodeError as error:
        raise CrosstaskError(f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}).") from error


def _unzipped(content: bytes, path: Path) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX")]
            if len(names) != 1:
                listed = f" ({', '.join(names):.200})" if names else ""
                raise CrosstaskError(
                    f"{path} holds {len(names)} JSON files{listed}; expected one, so unpack it and name the file."
                )
            return archive.read(names[0])
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # damaged, encrypted, packed otherwise
        raise CrosstaskError(f"{path} cannot be unpacked: {error}.") from error


def _entries(entries: list[Any], keys: Mapping[str, type], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each entry with its place, as messages name it."""
    for place, entry in enumerate(entries):
        here = f"{where}[{place}]"
        yield here, _checked(entry, keys, here)


def _by_id(entries: list[Any], annotations: Path) -> dict[int, tuple[str, dict[str, Any]]]:
    """The annotations with their places, by the question that they answer."""
    known: dict[int, tuple[str, dict[str, Any]]] = {}
    for where, entry in _entries(entries, _ANNOTATION, f"{annotations}, annotations"):
        number = entry["question_id"]
        if number in known:
            earlier = known[number][0].removeprefix(f"{annotations}, ")
            raise CrosstaskError(f"{where} has the question_id {number} of {earlier}; ids must differ.")
        known[number] = where, entry
    return known


def _captions(path: Path | None) -> dict[int, str]:
    """The first caption of each image."""
    described: dict[int, str] = {}
    if path is not None:
        content = _checked(_read(path), {"annotations": list}, str(path))
        for _, entry in _entries(content["annotations"], _CAPTION, f"{path}, annotations"):
            described.setdefault(entry["image_id"], " ".join(entry["caption"].split()))
    return described


def _answers(annotation: dict[str, Any], where: str) -> tuple[str, ...]:
    given, number = annotation["answers"], annotation["question_id"]
    if len(given) != PEOPLE:
        raise CrosstaskError(
            f"{where} (question_id {number}) has {len(given)} answers; expected those of {PEOPLE} people."
        )
    answers = []
    for place, answer in enumerate(given):
        raw = isinstance(answer, dict) and "answer" not in answer and "raw_answer" in answer
        key = "raw_answer" if raw else "answer"
        answers.append(_checked(answer, {key: str}, f"{where}, answers[{place}]")[key].strip())
    if not accepted_answers(answers):
        raise CrosstaskError(f"{where} (question_id {number}) has only empty answers.")
    return tuple(answers)


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
