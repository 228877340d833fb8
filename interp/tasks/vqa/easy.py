"""easy-vqa (Victor Zhou, MIT licence): pictures of one coloured shape, 64 x 64, with questions of 13 answers.

The package `easy-vqa==1.0` is taken where it is installed, and otherwise fetched from the package index like the parts
of the bundled pair and verified. What is needed of it is unpacked into the cache; nothing of it is shipped. It has
4,000 pictures for training and 1,000 for tests, and the first 1,000 of each are used. Each is one of three shapes in
one of eight colours, which some of its questions tell: both together are its caption ("a teal circle").
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from interp.errors import CrosstaskError
from interp.models.download import build_folder, fetch_wheel
from interp.tasks.vqa.files import Question, QuestionSet

PACKAGE, VERSION = "easy-vqa", "1.0"
SHA256 = "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f"
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
PICTURES = 1000
_BYTES_NEEDED = 40_000_000

Part = Literal["train", "test"]


def easy_questions(part: Part) -> QuestionSet:
    """All questions about the pictures of one part whose colour and shape its questions tell.

    Raises:
        CrosstaskError: the package is not installed and cannot be fetched, or is not the expected one.
    """
    folder = build_folder(f"{PACKAGE}-{VERSION}-1", _unpack, bytes_needed=_BYTES_NEEDED)
    return _questions(folder, part)


@cache
def _questions(folder: Path, part: Part) -> QuestionSet:
    source = folder / f"{part}.json"
    asked: dict[int, list[tuple[str, str]]] = {}
    for text, answer, picture in json.loads(source.read_text(encoding="utf-8")):
        asked.setdefault(picture, []).append((text, answer))
    found = []
    for picture, pairs in sorted(asked.items()):
        caption = _caption(pairs)
        if caption is None or picture >= PICTURES:
            continue
        for place, (text, answer) in enumerate(pairs):
            name = f"{part} {picture}"
            image = folder / f"{part}-{picture}.png"
            found.append(Question(f"{name}, question {place}", text, image, name, (answer,), caption))
    return QuestionSet("easy-vqa", tuple(found), source)


def _caption(pairs: Iterable[tuple[str, str]]) -> str | None:
    """ "a teal circle", from what the questions about a picture say and confirm; None if they leave something open."""
    told = {
        word
        for text, answer in pairs
        for word in [answer, *(re.findall(r"\w+", text) if answer == "yes" and not _NEGATED.search(text) else ())]
    }
    told |= {word for text, _ in pairs if text.startswith("what") for word in re.findall(r"\w+", text)}
    colours, shapes = told & set(COLOURS), told & set(SHAPES)
    return f"a {colours.pop()} {shapes.pop()}" if len(colours) == len(shapes) == 1 else None


_NEGATED = re.compile(r"\b(?:not|no)\b")


def _unpack(folder: Path) -> Mapping[str, Any]:
    """The two question files and all pictures, flat."""
    for name, read in _files():
        if found := re.fullmatch(r"easy_vqa/data/(train|test)/(?:images/(\d+)\.png|questions(\.json))", name):
            part, picture, questions = found.groups()
            if questions or int(picture) < PICTURES:
                target = folder / (f"{part}{questions}" if questions else f"{part}-{picture}.png")
                target.write_bytes(read())
        elif name.endswith(".dist-info/LICENSE"):
            (folder / "LICENSE").write_bytes(read())
    return {"package": PACKAGE, "version": VERSION, "sha256": SHA256, "licence": "MIT"}


def _files() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The package's files, installed or in the wheel, each with what reads it."""
    try:
        installed = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        installed = None
    if installed is not None and installed.version == VERSION and installed.files:
        for file in installed.files:
            yield str(file), Path(str(installed.locate_file(file))).read_bytes
        return
    try:
        wheel = fetch_wheel(PACKAGE, VERSION, SHA256)
    except CrosstaskError as error:
        raise CrosstaskError(
            f"{PACKAGE} is not installed and was not fetched: {str(error).rstrip('?.')}; run `pip install "
            f"{PACKAGE}=={VERSION}`, or ask what needs no {PACKAGE}."
        ) from error
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            yield name, partial(archive.read, name)
