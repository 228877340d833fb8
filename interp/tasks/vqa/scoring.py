"""VQA accuracy: how many people gave the answer.

    accuracy(a) = mean over people i of min(#{people other than i who answered a} / 3, 1)

so with ten people an answer that three of them gave scores 0.9, and one that four gave scores 1 (Antol et al. 2015,
section 5; the evaluation page of visualqa.org). Both sides are normalised first, by the rules of that page:

    lower case; no comma between digits; no period but in a decimal; every other sign but ' and : becomes a space;
    number words to ten become digits; no articles; a contraction gets its missing apostrophe

The page gives the rules and leaves the tables open. Here "none" counts as a number word, as it does in the published
program; a contraction is completed only where the bare form is no English word ("dont", but not "its" or "well"); and
an answer that is nothing but an article ("a", asked for a letter) stays.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from interp.errors import CrosstaskError

_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_NEGATED = "are could did does do had has have is might must need should was were would ca wo ai sha"
_JOINED = (
    "i'm i've you're you've you'll you'd he's she's it'll it'd we've they're they've they'll they'd that's that'll "
    "there's here's what's what're where's who's who've how's when's y'all ma'am o'clock could've would've should've "
    "might've must've"
)
_CONTRACTIONS = {f"{verb}nt": f"{verb}n't" for verb in _NEGATED.split()} | {
    word.replace("'", ""): word for word in _JOINED.split()
}
_APOSTROPHES = str.maketrans(dict.fromkeys("‘’ʼ`´", "'"))
_GROUPED = re.compile(r"(?<=\d),(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)|(?<=[^\W\d])\.")
CREDIT = 3
"""People whose agreement makes an answer right."""


@lru_cache(maxsize=65536)  # the answers of ten people to thousands of questions are few different words
def normalise_answer(text: str) -> str:
    """An answer as the VQA evaluation compares it."""
    text = _GROUPED.sub("", text.translate(_APOSTROPHES).lower())
    text = "".join(" " if _is_sign(character) else character for character in _PERIOD.sub("", text))
    words = [_DIGITS.get(word, word) for word in text.split()]
    words = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_CONTRACTIONS.get(word, word) for word in words)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """The VQA accuracy of an answer, between 0 and 1.

    Args:
        answer: what the model said.
        people: the answer of each person, ten in VQAv2 and OK-VQA. A data set with one right answer has one, and then
            the accuracy is 1 where the two are equal.

    Raises:
        CrosstaskError: if nobody answered.
    """
    if not people:
        raise CrosstaskError(f"the answer {answer!r} cannot be scored: nobody answered the question")
    given, others = normalise_answer(answer), [normalise_answer(other) for other in people]
    if not given or len(others) == 1:
        return float(bool(given) and given == others[0])
    agreeing = others.count(given)
    return sum(min((agreeing - (other == given)) / CREDIT, 1.0) for other in others) / len(others)


def accepted_answers(people: Sequence[str]) -> tuple[str, ...]:
    """The most frequent answer, then the others that at least three people gave; equal answers once."""
    counts = Counter(normalise_answer(answer) for answer in people)
    spelled: dict[str, str] = {}
    for answer in people:
        spelled.setdefault(normalise_answer(answer), " ".join(answer.split()))
    ordered = [form for form, _ in counts.most_common() if form]
    return tuple(spelled[form] for place, form in enumerate(ordered) if place == 0 or counts[form] >= CREDIT)


def _is_sign(character: str) -> bool:
    return character not in "':." and unicodedata.category(character)[0] in "PS"
