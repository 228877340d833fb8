"""Whether a generated answer is right, by three rules of decreasing strictness.

exact        normalise(answer) is one of the normalised accepted answers. The rule that results are judged by.
first token  the first generated token is the first token of an accepted answer, case and all.
prefix       the first generated token and an accepted answer, both stripped: one begins with the other. This is the
             rule of Luo et al. (2025) and Hendel et al. (2023). It is lenient: "S" is right for Seoul, and for Sofia.

`could_become` is the exact rule asked of an unfinished answer. Let s(x) be the letters and digits of x, folded one
character at a time. Then s(xy) = s(x) s(y), and normalisation changes s only by removing leading articles. So an answer
that begins with x can be accepted only if s(x), after some articles, begins s(accepted): anything else may stop early.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from interp.errors import CrosstaskError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ARTICLES = ("the", "an", "a")
_ARTICLE = re.compile(rf"(?:{'|'.join(_ARTICLES)})\s+(?=\S)")
# Signs that mean something ("C#", "-5", ".5", "50%") stay; only what wraps or ends an answer goes.
_WRAPS = "\"'`*_()[]{}<>«»‹›“”„‘’"
_OPENS, _ENDS = _WRAPS + "¿¡:", _WRAPS + ".,;:!?…。、"
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-"))
_APOSTROPHES = str.maketrans(dict.fromkeys("‘’ʼ`", "'"))
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_ACCENT = re.compile("[\u0300-\u036f]")
_UNDECODED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Score:
    """Which rules accept an answer; see the module's docstring."""

    exact: bool
    first_token: bool
    prefix: bool


def normalise(text: str) -> str:
    """Fold what does not make an answer another answer: case, accents, width, spaces, wrapping signs, leading articles.

    A hyphen between letters equals a space. Accents are the marks of Latin, Greek and Cyrillic letters; the marks of
    other scripts, which often spell, stay.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = unicodedata.normalize("NFC", _ACCENT.sub("", unicodedata.normalize("NFD", text)))
    text = _HYPHEN.sub(" ", text.translate(_DASHES).translate(_APOSTROPHES))
    text = " ".join(text.split())
    while True:
        bare = text.lstrip(_OPENS + " ").rstrip(_ENDS + " ")
        if article := _ARTICLE.match(bare):
            bare = bare[article.end() :]
        if bare == text:
            return text
        text = bare


def score(
    text: str, first_token: str, answers: Sequence[str], answer_first_tokens: Sequence[str] | None = None
) -> Score:
    """Score one answer.

    Args:
        text: the generated answer, up to its stop.
        first_token: the first generated token as text.
        answers: accepted answers.
        answer_first_tokens: first token of each accepted answer as text, from :func:`first_tokens`. Without them the
            first-token rule asks that the generated token begins an accepted answer.

    Raises:
        CrosstaskError: no answer is accepted.
    """
    if not answers:
        raise CrosstaskError(f"The answer {text!r} cannot be scored: there is no accepted answer to compare it with.")
    token = first_token.strip()
    if not token or _UNDECODED in token:  # half a character begins every answer that begins with such a half
        begins = prefix = False
    else:
        stripped = [answer.strip() for answer in answers]
        begins = any(answer.startswith(token) for answer in stripped)
        prefix = begins or any(answer and token.startswith(answer) for answer in stripped)
        if answer_first_tokens is not None:
            begins = token in {first.strip() for first in answer_first_tokens}
    return Score(normalise(text) in {normalise(answer) for answer in answers}, begins, prefix)


def first_tokens(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> tuple[str, ...]:
    """First tokens with which a model may begin one of the answers, as stripped texts: with and without a space before.

    Raises:
        CrosstaskError: an answer has no visible token.
    """
    found: dict[str, None] = {}
    for answer in answers:
        ways = [tokenizer.encode(before + answer.strip(), add_special_tokens=False) for before in ("", " ")]
        pieces = [[piece for i in way if (piece := str(tokenizer.decode([i])).strip())] for way in ways]
        if not all(pieces):
            raise CrosstaskError(f"The answer {answer!r} has no visible token in this tokenizer.")
        found.update(dict.fromkeys(piece[0] for piece in pieces))
    return tuple(found)


def could_become(text: str, answers: Sequence[str]) -> bool:
    """Whether generation that goes on from `text` may still end in an exactly right answer.

    False is certain. True is not: the text may be spoilt by signs that this test ignores. A half-decoded character at
    the end, which the next token completes, is such a sign.
    """
    begun = _letters(text)
    return any(_may_begin(begun, _accepted_letters(answer)) for answer in answers)


def majority_answer(answers: Sequence[Sequence[str]]) -> str:
    """The most frequent canonical (first) answer; among equals, the one seen first.

    Raises:
        CrosstaskError: there is no answer.
    """
    if not answers:
        raise CrosstaskError("The majority answer needs at least one item.")
    return Counter(accepted[0] for accepted in answers).most_common(1)[0][0]


def majority_baseline(selection: Sequence[Sequence[str]], test: Sequence[Sequence[str]]) -> tuple[str, list[bool]]:
    """The control that always gives the majority answer of the selection split.

    Args:
        selection: accepted answers of every selection item, which choose the answer.
        test: accepted answers of every test item, which score it.

    Returns:
        The answer, and whether it is exactly right for each test item.
    """
    answer = majority_answer(selection)
    return answer, [score(answer, answer, accepted).exact for accepted in test]


def _letters(text: str) -> str:
    """Letters and digits, folded one character at a time, so that a beginning stays a beginning."""
    return "".join(_folded(character) for character in text)


@lru_cache(maxsize=4096)  # asked of the same answers at every step of every row of a sweep
def _accepted_letters(answer: str) -> str:
    return _letters(normalise(answer))


def _folded(character: str) -> str:
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(part for part in folded.translate(_APOSTROPHES) if part.isalnum())


def _may_begin(begun: str, answer: str) -> bool:
    """Whether `begun` is a beginning of (articles) + `answer`."""
    if answer.startswith(begun):
        return True
    return any(
        article.startswith(begun) or (begun.startswith(article) and _may_begin(begun[len(article) :], answer))
        for article in _ARTICLES
    )
