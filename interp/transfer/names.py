"""The thirteen perception tasks of Sachdeva et al. (2025), by every name that data files give them.

Counts are those of BLINK's validation split (Fu et al., 2024). Of the two categories of a task, perceptual level and
granularity, the paper's page names only some; `level_published` and `granularity_published` say which, and the rest is
our assignment, so that trends over categories can be read with that in mind.

    >>> find_task("Multi-view_Reasoning").abbreviation
    'MR'
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from interp.errors import CrosstaskError

Level = Literal["low", "mid", "high"]
Granularity = Literal["pixel", "crop", "image"]
LEVELS: tuple[Level, ...] = get_args(Level)
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
BASELINE = "baseline"
"""The source that stands for the model as it was before any fine-tuning."""
CONTROLS = ("random_key", "caption")
"""Sources that teach no task: answers drawn at random (the answer format alone), and captions (no question)."""


@dataclass(frozen=True)
class TaskName:
    """What is known of a published task.

    Attributes:
        name: ours, such as "relative_depth".
        abbreviation: the paper's.
        blink: the name of BLINK's configuration.
        level: perceptual level.
        granularity: what the task looks at.
        level_published: whether the paper's page names the level; otherwise it is our assignment.
        granularity_published: likewise.
        options: answer options of an item.
        images: pictures of an item.
        key_counts: how often each letter is the key in BLINK's validation split.
        steps: training steps at batch 16 of the paper's Table A.2.
    """

    name: str
    abbreviation: str
    blink: str
    level: Level
    granularity: Granularity
    level_published: bool
    granularity_published: bool
    options: int
    images: int
    key_counts: tuple[int, ...]
    steps: int

    @property
    def n(self) -> int:
        """Items of BLINK's validation split."""
        return sum(self.key_counts)

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 1 / self.options


def _task(
    abbreviation: str, blink: str, level: str, granularity: str, images: int, key_counts: tuple[int, ...], steps: int
) -> TaskName:
    """A row of the table below; a star marks a category that the paper's page names."""
    return TaskName(
        name=_spelling(blink),
        abbreviation=abbreviation,
        blink=blink,
        level=level.rstrip("*"),  # type: ignore[arg-type]
        granularity=granularity.rstrip("*"),  # type: ignore[arg-type]
        level_published=level.endswith("*"),
        granularity_published=granularity.endswith("*"),
        options=len(key_counts),
        images=images,
        key_counts=key_counts,
        steps=steps,
    )


def _spelling(name: str) -> str:
    """A name without what differs between spellings: case, and what separates words."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


TASKS = (
    _task("VS", "Visual_Similarity", "high", "image", 3, (64, 71), 2500),
    _task("AS", "Art_Style", "high", "image*", 3, (55, 62), 1000),
    _task("VC", "Visual_Correspondence", "low*", "pixel", 2, (51, 33, 44, 44), 3750),
    _task("RD", "Relative_Depth", "low*", "pixel*", 1, (64, 60), 13125),
    _task("RR", "Relative_Reflectance", "low*", "pixel", 1, (40, 42, 52), 8750),
    _task("SR", "Spatial_Relation", "mid", "image", 1, (77, 66), 2188),
    _task("JG", "Jigsaw", "mid", "crop", 3, (79, 71), 920),
    _task("CN", "Counting", "high", "image*", 1, (31, 28, 31, 30), 15625),
    _task("FC", "Functional_Correspondence", "high", "pixel*", 2, (28, 21, 43, 38), 2000),
    _task("SC", "Semantic_Correspondence", "high", "pixel", 2, (45, 36, 25, 33), 11250),
    _task("MR", "Multi-view_Reasoning", "mid", "image", 2, (59, 74), 2500),
    _task("OL", "Object_Localization", "mid", "crop", 1, (53, 69), 1480),
    _task("FD", "Forensic_Detection", "high", "image*", 4, (33, 35, 34, 30), 100),
)
"""In the order of the paper's matrices."""

_BY_SPELLING = {_spelling(name): task for task in TASKS for name in (task.name, task.abbreviation, task.blink)}
_BY_SPELLING |= {key.replace("_", ""): task for key, task in _BY_SPELLING.items()}
_PLACES = {task.name: place for place, task in enumerate(TASKS)}


def find_task(name: str) -> TaskName | None:
    """The published task of that name, abbreviation or BLINK configuration, or None: spelling does not matter."""
    return _BY_SPELLING.get(_spelling(name))


def known_task(name: str) -> TaskName:
    """The published task of that name, where it has to be one.

    Raises:
        CrosstaskError: it is none of the thirteen; the nearest are offered.
    """
    task = find_task(name)
    if task is not None:
        return task
    close = near_misses(name, [known.name for known in TASKS])
    listed = ", ".join(f"{known.name} ({known.abbreviation})" for known in TASKS)
    hint = f"did you mean {' or '.join(close)}?" if close else f"they are {listed}."
    raise CrosstaskError(f"{name!r} is none of the thirteen perception tasks; {hint}")


def identity(name: str) -> str:
    """What two spellings of one task have in common: our name of a published task; any other name is kept as it is."""
    task = find_task(name)
    return task.name if task is not None else name.strip()


def abbreviation(name: str) -> str:
    """The paper's abbreviation of a task; any other name is kept as it is."""
    task = find_task(name)
    return task.abbreviation if task is not None else name.strip()


def near_misses(name: str, known: Iterable[str], *, cutoff: float = 0.75) -> list[str]:
    """Names that this one may be a slip of, nearest first; those of the same spelling are none."""
    spelt = {_spelling(other): other for other in known}
    found = difflib.get_close_matches(_spelling(name), spelt, n=3, cutoff=cutoff)
    return [spelt[key] for key in found if key != _spelling(name)]


def ordered(names: Iterable[str]) -> list[str]:
    """Task names in one order whatever the order of a file: the thirteen as in the paper, then others by name."""
    return sorted(names, key=lambda name: (_PLACES.get(identity(name), len(TASKS)), name.lower(), name))
