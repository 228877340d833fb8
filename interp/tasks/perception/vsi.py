"""VSI-Bench (Yang et al. 2024, arXiv 2412.14171): questions about videos of rooms, from files that a user has.

A row has dataset, scene_name, question_type, question, options (null for numbers) and ground_truth. Multiple choice is
scored by accuracy, numbers by mean relative accuracy (:mod:`interp.tasks.perception.replies`). A scene is a folder of
frames, or a video, which is read where PyAV is installed:

    videos/scannet/scene0011_00/0001.jpg ...     or     videos/scannet/scene0011_00.mp4
"""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from interp.errors import CrosstaskError
from interp.images import Image
from interp.tasks.perception.items import LETTERS, PerceptionItem
from interp.tasks.perception.rows import Row, read_rows
from interp.tasks.perception.sequences import Lazy

CHOICE_TYPES = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)
NUMBER_TYPES = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
BEFORE = "These are frames of a video."
AFTER_CHOICE = "Answer with the option's letter from the given choices directly."
AFTER_NUMBER = "Please answer the question using a single word or phrase."
"""The frame of a prompt in the benchmark's own evaluation."""
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def read_vsi(
    path: Path | str,
    *,
    videos: Path | str | None = None,
    question_type: str | None = None,
    frames: int = 8,
) -> Lazy[PerceptionItem]:
    """The items of a file; frames are read when an item is asked for.

    Args:
        path: .json, .jsonl or .parquet.
        videos: folder of the scenes; the file's own by default.
        question_type: one type alone, such as "object_counting"; "object_rel_direction" stands for its three.
        frames: most frames of a scene, equally spaced from the first to the last.

    Raises:
        CrosstaskError: a row that is not of VSI-Bench, a scene that is missing, no question of that type.
    """
    if frames < 1:
        raise CrosstaskError(f"{frames} frames of a scene; expected at least 1.")
    rows = read_rows(path, folder=videos)
    known = (*CHOICE_TYPES, *NUMBER_TYPES)
    if question_type is not None and not any(name.startswith(question_type) for name in known):
        raise CrosstaskError(f"VSI-Bench has no questions of type {question_type!r}; expected {', '.join(known)}.")
    asked = [row for row in rows if _type(row).startswith(question_type or "")]
    if not asked:
        raise CrosstaskError(f"{path} has no questions of type {question_type!r}.")
    scenes = {row.where: _scene(row) for row in asked}
    for row in asked:
        _question(row)
    return Lazy(len(asked), partial(_item, asked, scenes, frames))


def _item(rows: list[Row], scenes: dict[str, Path], frames: int, index: int) -> PerceptionItem:
    row = rows[index]
    question, options, key, number = _question(row)
    text = [BEFORE, question]
    if options:
        listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
        text += ["Options:", *listed, AFTER_CHOICE]
    else:
        text.append(AFTER_NUMBER)
    return PerceptionItem(
        name=f"vsi/{row.values.get('id', row.where.rpartition(' ')[2])}",
        task=_type(row),
        images=_frames(scenes[row.where], frames),
        question="\n".join(text[:2]) if options else "\n".join(text),
        options=options,
        key=key,
        reply=None if options else row_answer(row),
        number=number,
        meta={name: row.values.get(name) for name in ("dataset", "scene_name", "question_type")},
        written="\n".join(text) if options else None,
    )


def row_answer(row: Row) -> str:
    """The `ground_truth` of a row, which files hold as a text or as a number."""
    value = row.values.get("ground_truth")
    return f"{value:g}" if isinstance(value, (int, float)) else row.text("ground_truth").strip()


def _type(row: Row) -> str:
    name = row.text("question_type")
    if name not in (*CHOICE_TYPES, *NUMBER_TYPES):
        raise CrosstaskError(
            f"{row.where}: the question type {name!r} is unknown; expected {', '.join((*CHOICE_TYPES, *NUMBER_TYPES))}."
        )
    return name


def _question(row: Row) -> tuple[str, tuple[str, ...], int, float | None]:
    """Question, options without their letters, key and number of a row."""
    question, answer = row.text("question"), row_answer(row)
    if _type(row) in NUMBER_TYPES:
        try:
            return question, (), 0, float(answer)
        except ValueError as error:
            raise CrosstaskError(
                f"{row.where}: the answer {answer!r} is no number, which {_type(row)} asks for."
            ) from error
    options = tuple(re.sub(r"^\(?[A-H][.):]\s*", "", option) for option in row.texts("options"))
    if len(answer) != 1 or answer not in LETTERS[: len(options)]:
        raise CrosstaskError(f"{row.where}: the answer {answer!r} is no letter of its {len(options)} options.")
    return question, options, LETTERS.index(answer), None


def _scene(row: Row) -> Path:
    """A scene's folder of frames, or its video."""
    dataset, scene = row.text("dataset"), row.text("scene_name")
    for place in (row.folder / dataset / scene, row.folder / scene):
        if place.is_dir():
            return place
        for suffix in _VIDEOS:
            if (video := place.with_name(place.name + suffix)).is_file():
                return video
    raise CrosstaskError(
        f"{row.where}: the scene {dataset}/{scene} is not in {row.folder}; expected a folder of frames "
        f"{dataset}/{scene}/ or a video {dataset}/{scene}.mp4."
    )


def _frames(scene: Path, most: int) -> tuple[Image, ...]:
    if scene.is_dir():
        paths = sorted((path for path in scene.iterdir() if path.suffix.lower() in _PICTURES), key=_in_order)
        if not paths:
            raise CrosstaskError(
                f"The folder {scene} has no frames; expected pictures ({', '.join(sorted(_PICTURES))})."
            )
        return tuple(Image(path=paths[place]) for place in _spaced(len(paths), most))
    return tuple(Image(pixels=picture) for picture in _video_frames(scene, most))


def _video_frames(video: Path, most: int) -> list[Pillow.Image]:
    try:
        av = import_module("av")
    except ImportError as error:
        raise CrosstaskError(
            f"Reading {video} needs PyAV (pip install av); or write its frames into the folder {video.with_suffix('')}."
        ) from error
    with av.open(str(video)) as container:
        count = sum(1 for _ in container.decode(video=0))
    wanted = set(_spaced(count, most))
    with av.open(str(video)) as container:
        found = [frame.to_image() for place, frame in enumerate(container.decode(video=0)) if place in wanted]
    if not found:
        raise CrosstaskError(f"The video {video} has no frames.")
    return found


def _spaced(count: int, most: int) -> list[int]:
    """At most so many of `count` places, equally spaced, with the first and the last."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(most, count)).tolist()}) if count else []


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Names by the numbers in them: frame 2 before frame 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name) if part]
