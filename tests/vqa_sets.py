"""VQA sets on disk, for tests: question and annotation files as VQAv2 has them, and a stand-in for easy-vqa's wheel."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from interp.tasks.vqa import easy
from tests import tiny

COLOURS, FOODS, THINGS = ("red", "blue", "white"), ("pizza", "cake"), ("phone", "frisbee")


class Files:
    """A question file, an annotation file, captions and images; `questions` and `annotations` may be changed."""

    def __init__(self, folder: Path, *, pictures: int = 30) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir(parents=True)
        head = {"info": {}, "data_type": "mscoco", "data_subtype": "val2014", "license": {}}
        self.questions: dict[str, Any] = {**head, "task_type": "Open-Ended", "questions": []}
        self.annotations: dict[str, Any] = {**head, "annotations": []}
        self.captions: dict[str, Any] = {"info": {}, "images": [], "annotations": []}
        for picture in range(pictures):
            tiny.picture(picture).load().save(self.images / f"COCO_val2014_{picture:012d}.jpg")
            self.captions["annotations"].append({"id": picture, "image_id": picture, "caption": f"scene {picture}"})
            self.add(picture, "What color is the man's shirt?", COLOURS[picture % 3])
            self.add(picture, "What kind of food is this?", FOODS[picture % 2])
            self.add(picture, "What is the man holding?", THINGS[picture // 2 % 2])

    def add(self, picture: int, text: str, answer: str | Sequence[str]) -> int:
        """A question with the answer of ten people, or with ten answers."""
        number = 1000 * picture + len(self.questions["questions"])
        people = [answer] * 10 if isinstance(answer, str) else list(answer)
        self.questions["questions"].append({"image_id": picture, "question": text, "question_id": number})
        answers = [
            {"answer": one, "answer_confidence": "yes", "answer_id": place} for place, one in enumerate(people, 1)
        ]
        self.annotations["annotations"].append(
            {
                "question_id": number,
                "image_id": picture,
                "question_type": "what",
                "answer_type": "other",
                "multiple_choice_answer": people[0],
                "answers": answers,
            }
        )
        return number

    def write(self) -> tuple[Path, Path, Path]:
        """Question file, annotation file and image folder."""
        for name in ("questions", "annotations", "captions"):
            (self.folder / f"{name}.json").write_text(json.dumps(getattr(self, name)))
        return self.folder / "questions.json", self.folder / "annotations.json", self.images

    @property
    def options(self) -> list[object]:
        questions, annotations, images = self.write()
        return ["--questions", questions, "--annotations", annotations, "--images", images]


def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if easy-vqa were not installed here."""
    installed = metadata.distribution

    def distribution(name: str) -> metadata.Distribution:
        if name == easy.PACKAGE:
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "distribution", distribution)


def easy_wheel(folder: Path, monkeypatch: pytest.MonkeyPatch, *, pictures: int = 26) -> Path:
    """A wheel that is laid out like easy-vqa's, served in place of it into a cache of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "easy_vqa-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for part, first in (("train", 0), ("test", 500)):
            questions = []
            for number in range(pictures):
                colour, shape = easy.COLOURS[number % 8], easy.SHAPES[number % 3]
                questions += [
                    ["what color is the shape?", colour, number],
                    [f"what is the {colour} shape?", shape, number],
                    ["is there a circle in the image?", "yes" if shape == "circle" else "no", number],
                    ["is there not a circle?", "no" if shape == "circle" else "yes", number],
                ]
                buffer = io.BytesIO()
                tiny.picture(first + number).load().save(buffer, format="PNG")
                file.writestr(f"easy_vqa/data/{part}/images/{number}.png", buffer.getvalue())
            file.writestr(f"easy_vqa/data/{part}/questions.json", json.dumps(questions))
        file.writestr("easy_vqa-1.0.dist-info/LICENSE", "MIT")
    not_installed(monkeypatch)
    monkeypatch.setenv("CROSSTASK_CACHE", str(folder / "cache"))
    monkeypatch.setattr(easy, "fetch_wheel", lambda package, version, sha256: wheel)
    return wheel
