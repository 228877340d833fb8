"""The items that a name stands for, for training and for testing.

    relative_depth, RD, RD/yes_no         a procedural task, in its own form or another; random_key and caption too
    conversations.jsonl                   training conversations; conversations.json%50 takes half of them
    my-task.jsonl                         a user's own perception task
    blink:Relative_Depth                  BLINK from the hub (val)
    blink:FOLDER#Relative_Depth           BLINK from a folder, or from another hub id
    vsi:FILE, vsi:FILE#object_counting    VSI-Bench, all questions or one type

Procedural items are drawn when they are asked for, so that a data set of any size costs nothing until it is read.
"""

# ruff: noqa: PT028 (test_data is no test)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast, get_args

from interp.errors import CrosstaskError
from interp.tasks.perception.base import SPLITS, Form, MarkStyle, PerceptionTask, Split
from interp.tasks.perception.blink import HUB_ID, read_blink
from interp.tasks.perception.conversations import Conversation, conversation
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.own import read_own
from interp.tasks.perception.registry import perception_task
from interp.tasks.perception.rows import read_rows
from interp.tasks.perception.sequences import Lazy, drawn
from interp.tasks.perception.vsi import read_vsi
from interp.tasks.perception.wording import Wording, worded

Example: TypeAlias = PerceptionItem | Conversation
Entry = TypeVar("Entry")


def training_data(
    name: str | Path,
    *,
    n: int | None = None,
    split: Split = "train",
    form: Form | None = None,
    difficulty: float = 0.5,
    size: int = 224,
    seed: int = 0,
    marks: MarkStyle = "red",
    wording: Wording = "brief",
    image_folder: Path | str | None = None,
) -> Sequence[Example]:
    """What a name stands for, to be learnt.

    Args:
        name: see the module's docstring.
        n: how many examples; of a file all by default, else drawn from it by the seed.
        split: of a procedural task or of a user's own one.
        form: of a procedural task; BLINK's own by default.
        difficulty: of a procedural task, 0 to 1.
        size: side of its pictures in pixels.
        seed: of the data.
        marks: how a procedural task marks points and boxes.
        wording: how it asks, see :mod:`interp.tasks.perception.wording`.
        image_folder: what image names in a file are relative to; its own folder by default.

    Raises:
        CrosstaskError: the name stands for nothing that can be learnt, or has fewer than n examples.
    """
    name = str(name)
    kind, _, rest = name.partition(":")
    if kind in ("blink", "vsi") and rest:
        raise CrosstaskError(
            f"{name!r} is for testing alone; train on a procedural task or on a file of conversations."
        )
    path, share = _share(name)
    if _is_file(path):
        found: Sequence[Example] = _file(path, split, seed, image_folder)
        if share is not None:
            found = _some(found, max(1, round(len(found) * share / 100)), name, seed)
        if n is not None and n > len(found):
            raise CrosstaskError(f"{name} has {len(found)} examples to learn from, and {n} are asked for.")
        return _some(found, n, name, seed)
    return _procedural(name, n, split, form, difficulty, size, seed, marks, wording)


def test_data(
    name: str | Path,
    *,
    n: int | None = None,
    split: str | None = None,
    form: Form | None = None,
    difficulty: float = 0.5,
    size: int = 224,
    seed: int = 0,
    marks: MarkStyle = "red",
    wording: Wording = "brief",
    image_folder: Path | str | None = None,
    disclaimer: str = "",
    joined: bool = False,
    frames: int = 8,
) -> Sequence[PerceptionItem]:
    """What a name stands for, to be scored.

    Args:
        name: see the module's docstring.
        n: how many items; of a published or a user's set at most so many, drawn by the seed, all by default.
        split: "test" by default; of BLINK "val", whose keys are published ("test" is refused, since they are not).
        form, difficulty, size, seed, marks, wording, image_folder: as in :func:`training_data`; for VSI-Bench the image
            folder is that of the scenes.
        disclaimer, joined: of BLINK, see :func:`interp.tasks.perception.blink.read_blink`.
        frames: of VSI-Bench: most frames of a scene.

    Raises:
        CrosstaskError: the name stands for nothing that can be scored.
    """
    name = str(name)
    kind, _, rest = name.partition(":")
    if kind == "blink" and rest:
        source, _, config = rest.rpartition("#")
        items = read_blink(
            config, source or HUB_ID, split=split or "val", disclaimer=disclaimer, joined=joined,  # type: ignore[arg-type]
        )  # fmt: skip
        return _some(items, n, name, seed)
    if kind == "vsi" and rest:
        if split not in (None, "test"):
            raise CrosstaskError(f"VSI-Bench has no split {split!r}; expected test.")
        path, _, question_type = rest.partition("#")
        return _some(
            read_vsi(path, videos=image_folder, question_type=question_type or None, frames=frames), n, name, seed
        )
    if _is_file(name):
        found = _file(name, split or "test", seed, image_folder)
        if any(isinstance(example, Conversation) for example in found[:1]):
            raise CrosstaskError(
                f"{name} holds conversations, which are for training alone; expected items with options."
            )
        return _some(cast("Sequence[PerceptionItem]", found), n, name, seed)
    return _procedural(name, n, split or "test", form, difficulty, size, seed, marks, wording)


test_data.__test__ = False  # type: ignore[attr-defined]  # it is no test, whatever pytest thinks of its name


def mixture(
    shares: Sequence[tuple[str, float]],
    *,
    n: int,
    split: Split = "train",
    form: Form | None = None,
    difficulty: float | Mapping[str, float] = 0.5,
    size: int = 224,
    seed: int = 0,
    marks: MarkStyle = "red",
    wording: Wording = "brief",
    image_folder: Path | str | None = None,
) -> Sequence[Example]:
    """Several sources in given shares, evenly interleaved: every beginning of the sequence has nearly the same shares.

    Args:
        shares: names and their weights, which need not add up to one.
        n: examples in all.
        difficulty: of all, or of each by its name.
        split, form, size, seed, marks, wording, image_folder: as in :func:`training_data`.

    Raises:
        CrosstaskError: no source, one named twice, a weight below zero, or what :func:`training_data` refuses.
    """
    names = [name for name, _ in shares]
    weights = [weight for _, weight in shares]
    if not shares or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise CrosstaskError(f"A mixture needs sources with weights of zero or more, not all zero; got {list(shares)}.")
    if len(set(names)) < len(names):
        raise CrosstaskError(f"A mixture names each source once; got {', '.join(names)}.")
    counts = _apportioned(weights, n)
    sources = [
        training_data(
            name, n=count, split=split, form=form, size=size, seed=seed, marks=marks,
            difficulty=difficulty[name] if isinstance(difficulty, Mapping) else difficulty, wording=wording,
            image_folder=image_folder,
        )
        for name, count in zip(names, counts, strict=True) if count
    ]  # fmt: skip
    places = [
        ((item + 0.5) / len(source), number, item)
        for number, source in enumerate(sources)
        for item in range(len(source))
    ]
    return Lazy(n, partial(_at, sources, [place[1:] for place in sorted(places)]))


def _procedural(
    name: str,
    n: int | None,
    split: str,
    form: Form | None,
    difficulty: float,
    size: int,
    seed: int,
    marks: MarkStyle,
    wording: Wording,
) -> Lazy[PerceptionItem]:
    short, _, own_form = name.partition("/")
    if name.endswith((".json", ".jsonl", ".parquet")) or (own_form and own_form not in get_args(Form)):
        raise CrosstaskError(f"There is no file {name}.")
    task, form = perception_task(short), cast("Form | None", own_form) or form
    if n is None or n < 0:
        raise CrosstaskError(f"{task.name} draws as many items as are asked for; expected their number, not {n}.")
    if split not in SPLITS:
        raise CrosstaskError(f"{task.name} has no split {split!r}; expected {', '.join(SPLITS)}.")
    # One draw now: a form that the task does not have is refused here, and not in the middle of a training.
    given = {"form": form, "difficulty": difficulty, "size": size, "seed": seed, "marks": marks}
    draw = partial(_draw, task, split, wording, given)
    if n:
        draw(0)
    return Lazy(n, draw)


def _draw(task: PerceptionTask, split: Split, wording: Wording, given: dict[str, Any], index: int) -> PerceptionItem:
    return worded(task.item(split, index, **given), wording)


def _at(sources: Sequence[Sequence[Example]], places: Sequence[tuple[int, int]], index: int) -> Example:
    source, item = places[index]
    return sources[source][item]


def _file(name: str, split: str, seed: int, image_folder: Path | str | None) -> Sequence[Example]:
    """The conversations of a file, or a split of a user's own task; which of the two it is, its first row says."""
    path = Path(name).expanduser()
    rows = read_rows(path, folder=image_folder)
    if "conversations" in rows[0].values:
        return [conversation(row) for row in rows]
    if "question" not in rows[0].values:
        raise CrosstaskError(
            f"{rows[0].where}: neither 'conversations' nor 'question' is there; expected a training conversation or an "
            "item of a perception task."
        )
    found = read_own(path, image_folder=image_folder)
    if split not in found:
        raise CrosstaskError(f"A user's task has no split {split!r}; expected {', '.join(found)}.")
    if not found[split]:
        counts = ", ".join(f"{len(items)} of {split}" for split, items in found.items())
        raise CrosstaskError(f"{path} has no items of the split {split!r} ({counts}); give its lines a 'split'.")
    return found[split]


def _some(found: Sequence[Entry], n: int | None, name: str, seed: int) -> Sequence[Entry]:
    if n is not None and n < 1:
        raise CrosstaskError(f"{n} items of {name}; expected at least 1.")
    if n is None or n >= len(found):
        return found
    numbers = drawn(len(found), n, Path(name).name, seed)
    return found.at(numbers) if isinstance(found, Lazy) else [found[number] for number in numbers]


def _share(name: str) -> tuple[str, float | None]:
    """`file.jsonl%50` -> the file and 50, as in Qwen's registry of data sets."""
    path, sign, share = name.rpartition("%")
    if not sign or not _is_file(path):
        return name, None
    try:
        percent = float(share)
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise CrosstaskError(f"{name!r}: {share!r} is no share in percent; expected more than 0 and at most 100.")
    return path, percent


def _is_file(name: str) -> bool:
    return Path(name).expanduser().is_file()


def _apportioned(weights: Sequence[float], n: int) -> list[int]:
    """Whole numbers in the ratio of the weights that add up to n: largest remainders, the earlier first."""
    exact = [n * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    order = sorted(range(len(weights)), key=lambda place: (counts[place] - exact[place], place))
    for place in order[: n - sum(counts)]:
        counts[place] += 1
    return counts
