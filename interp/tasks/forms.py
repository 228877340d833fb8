"""Forms of an answer that a rule can tell: plain, in capital letters, its first letter, its plural, or a sentence.

A form says how an instruction asks for it, how an answer is written in it, and by which rule a text has it:

    plain    the answer, but not in capital letters
    upper    the answer, all its letters capital
    letter   the first letter of the answer, nothing else
    plural   the plural of the answer, by the rules of English spelling
    once     a sentence of four words or more that begins with "Once"
    lovely   a sentence of four words or more that has the word "lovely"

The last two ask for invention: any such sentence is right, whatever it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp.errors import CrosstaskError
from interp.scoring import could_become, normalise

Rule = Callable[[str, Sequence[str]], bool]
SENTENCE = 4
"""Words of the shortest sentence."""


@dataclass(frozen=True)
class Form:
    """How an answer looks.

    Attributes:
        name: of the form.
        ask: makes an instruction that asks for the plain answer ask for this form.
        write: (name of the thing, accepted plain answers) -> accepted answers in this form, the canonical one first.
        accepts: whether a text is right, given the accepted answers in this form.
        may_become: whether a text that generation goes on from may still become right; False is certain.
        invents: the answer is free, so that the accepted answers are examples only.
    """

    name: str
    ask: Callable[[str], str]
    write: Callable[[str, Sequence[str]], tuple[str, ...]]
    accepts: Rule
    may_become: Rule
    invents: bool = False


def form(name: str) -> Form:
    """The form of this name.

    Raises:
        CrosstaskError: there is none.
    """
    if name not in FORMS:
        raise CrosstaskError(f"there is no form {name!r} of an answer; expected one of {', '.join(FORMS)}.")
    return FORMS[name]


def plural(word: str) -> str:
    """The regular plural of an English noun, or of the last word of a name; -f becomes -ves where it does in "calf"."""
    if re.search(r"(?:[sxz]|ch|sh)$", word, re.IGNORECASE):
        return f"{word}es"
    if re.search(r"[^aeiou]y$", word, re.IGNORECASE):
        return f"{word[:-1]}ies"
    if re.search(r"(?:al|el|ol|ar|ea|oa)f$", word, re.IGNORECASE):
        return f"{word[:-1]}ves"
    return f"{word}s"


def _exact(text: str, accepted: Sequence[str]) -> bool:
    return normalise(text) in {normalise(answer) for answer in accepted}


def _shouted(text: str) -> bool:
    return text.isupper() and sum(map(str.isalpha, text)) > 1


def _plain(text: str, accepted: Sequence[str]) -> bool:
    return _exact(text, accepted) and (not _shouted(text) or text.strip() in accepted)


def _upper(text: str, accepted: Sequence[str]) -> bool:
    return _exact(text, accepted) and text.isupper()


def _may_be_upper(text: str, accepted: Sequence[str]) -> bool:
    return text == text.upper() and could_become(text, accepted)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def _begins_once(text: str, _accepted: Sequence[str]) -> bool:
    words = _words(text)
    return len(words) >= SENTENCE and words[0] == "once"


def _may_begin_once(text: str, _accepted: Sequence[str]) -> bool:
    begun = "".join(filter(str.isalpha, text.lower()))
    return begun.startswith("once") or "once".startswith(begun)


def _is_lovely(text: str, _accepted: Sequence[str]) -> bool:
    words = _words(text)
    return len(words) >= SENTENCE and "lovely" in words


def _of(phrase: str) -> Callable[[str], str]:
    """Puts a phrase before an instruction, whose first letter then is small."""
    return lambda instruction: f"{phrase} {instruction[0].lower()}{instruction[1:]}"


def _each(change: Callable[[str], str]) -> Callable[[str, Sequence[str]], tuple[str, ...]]:
    return lambda _name, answers: tuple(dict.fromkeys(change(answer) for answer in answers))


FORMS: dict[str, Form] = {
    found.name: found
    for found in (
        Form("plain", lambda instruction: instruction, _each(str), _plain, could_become),
        Form(
            "upper",
            lambda instruction: f"{instruction.rstrip(': ')}, in capital letters:",
            _each(str.upper),
            _upper,
            _may_be_upper,
        ),
        Form("letter", _of("The first letter of"), _each(lambda answer: answer[0].upper()), _exact, could_become),
        Form("plural", _of("The plural of"), _each(plural), _exact, could_become),
        Form(
            "once",
            lambda _: "A sentence about it that begins with Once:",
            lambda name, _: (f"Once there was a {name}.",),
            _begins_once,
            _may_begin_once,
            invents=True,
        ),
        Form(
            "lovely",
            lambda _: "A sentence about it with the word lovely:",
            lambda name, _: (f"What a lovely {name} this is.",),
            _is_lovely,
            lambda text, accepted: True,
            invents=True,
        ),
    )
}
