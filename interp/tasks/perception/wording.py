"""A second wording of the tasks: the pictures are described before the question is asked, as BLINK's prompts do.

    brief        Which point is closer to the camera?
    described    Two points are circled in the picture and labelled A and B. Consider how far each lies from the viewer.
                 Which of the two is nearer to the camera?

Pictures, key and ground truth are the same, so that two wordings of an item differ in words alone. A model that was
taught with one of them may not answer in the other what it sees very well, which little training mends: as a rule, so
are users' models and BLINK. Tasks have a described wording in BLINK's own form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from interp.errors import CrosstaskError
from interp.tasks.perception.items import PerceptionItem

Wording: TypeAlias = Literal["brief", "described"]
WORDINGS: tuple[Wording, ...] = get_args(Wording)


@dataclass(frozen=True)
class Described:
    """How a question is asked in more words.

    Attributes:
        brief: the whole of a brief question, as a regular expression; its groups are what changes between items.
        question: the described one, with the groups in braces.
        options: brief option -> described option; those that are not named stay.
    """

    brief: str
    question: str
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


_REFERENCE = "A point labelled REF is circled in the first image"
_CHOICES = "and four points labelled A, B, C and D in the second one"

DESCRIBED: Mapping[str, Described] = MappingProxyType(
    {
        "visual_similarity": Described(
            r"Which image is most similar to the first image in shapes and layout\?",
            "There are three pictures. Take the first image as the reference. Which of the other two resembles it more "
            "in its shapes and their layout?",
        ),
        "counting": Described(
            r"How many (.+) shapes are there\?",
            "There are many shapes of several colours in the picture. Count only those that are {0}. What is their "
            "number?",
        ),
        "relative_depth": Described(
            r"Which point is closer to the camera\?",
            "Two points are circled in the picture and labelled A and B. Consider how far each lies from the viewer. "
            "Which of the two is nearer to the camera?",
            {"A is closer": "the point at A", "B is closer": "the point at B"},
        ),
        "jigsaw": Described(
            r"Which image is the missing lower right corner of the first image\?",
            "The lower right corner of the first image is missing, and the other two images are pieces. One of them "
            "goes on where the picture ends. Which piece completes the picture?",
        ),
        "art_style": Described(
            r"Which image has the same art style as the first image\?",
            "There are three pictures. Take the first image as the reference for the way of drawing. Which of the "
            "other two has the same art style?",
        ),
        "functional_correspondence": Described(
            r"Action: (.+)\. Which point does what REF does\?",
            f"{_REFERENCE}, {_CHOICES}. Think of the action of the part at REF, which is to {{0}}. Which of the four "
            "parts is used for that?",
        ),
        "semantic_correspondence": Described(
            r"Which point is the same body part as REF\?",
            f"{_REFERENCE}, on an animal, {_CHOICES}, on another animal. Consider what the animals' bodies consist "
            "of. Where is the part that REF lies on?",
        ),
        "spatial_relation": Described(
            r"Is the (.+) (.+ of|above|below) the (.+)\?",
            "There are several things in the picture, among them two that are asked about: one is the {0} and the "
            "other is the {2}. Compare their places. Do you find the former {1} the latter?",
        ),
        "object_localization": Described(
            r"Which box fits the (.+) tightly\?",
            "Two boxes labelled A and B are drawn around the {0}. One of them is as small as it can be and the other "
            "is not. Which is the accurate one?",
        ),
        "visual_correspondence": Described(
            r"Which point in the second image is the point REF of the first\?",
            f"{_REFERENCE}, {_CHOICES}, which was taken after the camera had moved. Which of the four shows what REF "
            "shows?",
        ),
        "multi_view_reasoning": Described(
            r"Which way does the camera move from the first frame to the second\?",
            "The two images are frames of a video of a scene that does not change. Judge by what moved and how far. "
            "In which direction was the camera taken?",
        ),
        "relative_reflectance": Described(
            r"Ignoring the shadows, which surface is darker\?",
            "Two points are circled in the picture and labelled A and B. Consider the surfaces themselves and not how "
            "they are lit. Which point lies on the one that reflects less?",
            {"A is darker": "A reflects less", "B is darker": "B reflects less", "About the same": "both alike"},
        ),
        "forensic_detection": Described(
            r"Which image is most likely real, with nothing faked\?",
            "There are four images, and three of them were tampered with. Look for what no camera could have taken. "
            "Which one is the photograph?",
        ),
    }
)
"""Task -> its described wording."""


def worded(item: PerceptionItem, wording: Wording) -> PerceptionItem:
    """An item in a wording; `meta["wording"]` says which where it is not the brief one.

    Args:
        item: as its task draws it, or another one's such as of the control `random_key`; one without options, such as
            a caption's, asks nothing and stays as it is.
        wording: brief or described.

    Raises:
        CrosstaskError: there is no such wording, or none of that kind of question.
    """
    if wording not in WORDINGS:
        raise CrosstaskError(f"there is no wording {wording!r}; expected {' or '.join(WORDINGS)}")
    if wording == "brief" or not item.options:
        return item
    for described in DESCRIBED.values():
        if found := re.fullmatch(described.brief, item.question):
            return replace(
                item,
                question=described.question.format(*found.groups()),
                options=tuple(described.options.get(option, option) for option in item.options),
                meta={**item.meta, "wording": wording},
            )
    raise CrosstaskError(
        f"item {item.name!r} asks {item.question!r}, which has no described wording; the thirteen tasks have one in "
        "BLINK's own form"
    )
