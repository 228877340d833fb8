"""What a generated reply answers: the first of a cascade of rules that finds an option, and which rule that was.

In place of a language model that extracts answers (the transfer paper asks GPT-4.1). How often a rule other than the
first fires is itself a result: the model drifts from the form that it was asked to answer in. Rules, in their order:

    letter              the whole reply is a letter: "(A)", "A", "A."
    letter and text     a letter and its own option: "(B) B is closer"
    answer is           "the answer is (B)", "Answer: the third image", "\\boxed{B}"; the last such place
    last paragraph      one letter in brackets in the last paragraph
    brackets            one letter in brackets anywhere
    option first        the reply begins with an option's text: "Yes, it is."
    option text         the text of one option; a longer text is no occurrence of a shorter one within it
    bare letter         one capital letter that stands alone, never "A" as an article
    none                nothing: the reply is wrong

What follows "not" is no answer. BLINK's own scorer (Fu et al. 2024, evaluation code) is `blink_prediction`, and numbers
are scored by mean relative accuracy (VSI-Bench, arXiv 2412.14171, section 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp.tasks.perception.items import LETTERS

NONE = "Z"
"""The letter of a reply that answers nothing, as in BLINK's evaluation."""
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Of mean relative accuracy: .50 to .95."""
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SPECIAL = re.compile(r"<\|[^|<>]*\|>|</?s>|<(?:end_of_utterance|eos|bos|pad|unk|end_of_turn)>|</?answer>|[*`]")
_BRACKETED = re.compile(r"(?<!not )[(\[]\s?([A-H])\s?[)\]]")
_ANSWER_IS = re.compile(
    r"(?:\b(?:answer|choice|option)\b\s*(?:is|:|=|would be|should be)+\s*:?\s*(?:(?:option|choice|letter)\s+)?"
    r"|\\boxed\{)",
    re.IGNORECASE,
)
_BARE = re.compile(r"(?<![\w'(])([A-H])(?![\w'])")
_NAMED = re.compile(r"\b(?:point|box|option|choice|letter|image|region|object|and|or|than)\s+$", re.IGNORECASE)
_NEGATED = re.compile(r"\bnot\s+(?:(?:the\s+)?(?:point|box|option|choice|letter|image)\s+)?$", re.IGNORECASE)
_AFTER_LETTER = {"is", "and", "or", "because", "since", "as", "has", "to", "but", "than", "seems", "appears", "looks"}


@dataclass(frozen=True)
class Choice:
    """An option that a reply names.

    Attributes:
        key: its index; None if the reply names none.
        rule: what found it.
    """

    key: int | None
    rule: str

    @property
    def letter(self) -> str:
        """The option's letter, or "Z"."""
        return NONE if self.key is None else LETTERS[self.key]


@dataclass(frozen=True)
class Number:
    """A number that a reply names; the value is None if it names none, the rule says what found it."""

    value: float | None
    rule: str


def read_choice(reply: str, options: Sequence[str]) -> Choice:
    """The option that a reply names, by the first rule that finds one.

    Args:
        reply: as it was generated; special tokens and emphasis are ignored.
        options: texts of the options, in the order of the letters.
    """
    text = _SPECIAL.sub("", reply).strip().strip("\"'“”").strip()
    for rule, find in RULES.items():
        key = find(text, options)
        if key is not None:
            return Choice(key, rule)
    return Choice(None, "none")


def blink_prediction(reply: str, n_options: int) -> str:
    """What BLINK's evaluation stores before it compares by string equality, without its last resort, an extractor.

    A bare letter from A to E gets brackets; "(A)" stays; else the single "(X)" among the words of the last paragraph,
    or of the whole reply. "(Z)" where BLINK asks a language model. White space around a letter is not forgiven.

    Args:
        reply: as it was generated.
        n_options: options of the item.

    Returns:
        A string such as "(B)", to be compared with the item's answer.
    """
    letters = [f"({letter})" for letter in LETTERS[:5]]
    if f"({reply})" in letters:
        return f"({reply})"
    if reply in letters:
        return reply
    valid = set(letters[:n_options])
    everywhere, last = (valid.intersection(part.split()) for part in (reply, reply.split("\n\n")[-1]))
    for found in (last, everywhere):
        if len(found) == 1:
            return found.pop()
    return f"({NONE})"


def read_number(reply: str) -> Number:
    """The number that a reply names: its first word (the benchmark's own rule), else the only number in it."""
    text = _SPECIAL.sub("", reply).strip()
    first = text.split()[0].rstrip(".") if text else ""
    try:
        return Number(float(first), "first word")
    except ValueError:
        pass
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    found = {float(number) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", text)}
    if len(found) == 1:
        return Number(found.pop(), "number")
    words = {_NUMBERS.index(word) for word in re.findall(r"[a-z]+", text.lower()) if word in _NUMBERS}
    if not found and len(words) == 1:
        return Number(float(words.pop()), "number word")
    return Number(None, "none")


def mean_relative_accuracy(predicted: float | None, truth: float) -> float:
    """The share of thresholds t in .50, .55, ..., .95 with |predicted - truth| / |truth| <= 1 - t.

    The paper writes <, its evaluation code <=, which published numbers come from.

    Args:
        predicted: None scores 0.
        truth: of zero, only the same number is right, at every threshold.
    """
    if predicted is None:
        return 0.0
    error = abs(predicted - truth)
    passed = [error <= (1 - threshold) * abs(truth) + 1e-9 * abs(truth) for threshold in THRESHOLDS]
    return sum(passed) / len(passed)


# The rules: text and options -> index of an option or None


def _letter(text: str, options: Sequence[str]) -> int | None:
    found = re.fullmatch(r"[(\[]?\s*([A-Ha-h])\s*[)\]]?\s*[.:,;!]?", text)
    return _valid(found[1], options) if found else None


def _letter_and_text(text: str, options: Sequence[str]) -> int | None:
    found = re.fullmatch(r"[(\[]?([A-H])(?:[)\]][.:]?|[.:])\s*(.+)", text, re.DOTALL)
    key = _valid(found[1], options) if found else None
    return key if found and key is not None and _words(found[2]) == _words(options[key]) else None


def _answer_is(text: str, options: Sequence[str]) -> int | None:
    places = list(_ANSWER_IS.finditer(text))
    if not places:
        return None
    rest = text[places[-1].end() :].lstrip()
    key = _at_start(rest, options)
    if key is not None:
        return key
    found = re.match(r"[\"']?[(\[]?([A-H])(?![\w'])[)\]}]?", rest)
    if not found or (found[0] == "A" and _is_article(rest, 1)):
        return None
    return _valid(found[1], options)


def _last_paragraph(text: str, options: Sequence[str]) -> int | None:
    return _brackets(re.split(r"\n\s*\n", text)[-1], options)


def _brackets(text: str, options: Sequence[str]) -> int | None:
    return _single({_valid(letter, options) for letter in _BRACKETED.findall(text)})


def _option_first(text: str, options: Sequence[str]) -> int | None:
    for end in re.finditer(r"[,.;:!\n]|$", text):
        words = _words(text[: end.start()])
        same = [key for key, option in enumerate(options) if words and words == _words(option)]
        if same:
            return _single(set(same))
    return None


def _option_text(text: str, options: Sequence[str]) -> int | None:
    """The only option whose words occur; those of longer options are taken out before shorter ones are looked for."""
    left = f" {_words(text)} "
    found: set[int | None] = set()
    for key in sorted(range(len(options)), key=lambda key: -len(_words(options[key]))):
        words = f" {_words(options[key])} "
        if not words.strip():
            continue
        left = left.replace(f" not{words}", " | ").replace(f" not the{words}", " | ")
        if words in left:
            found.add(key)
            left = left.replace(words, " | ")
    return _single(found)


def _bare_letter(text: str, options: Sequence[str]) -> int | None:
    found: set[int | None] = set()
    for place in _BARE.finditer(text):
        before = text[: place.start()]
        article = place[1] == "A" and not _NAMED.search(before) and _is_article(text, place.end())
        if not article and not _NEGATED.search(before):
            found.add(_valid(place[1], options))
    return _single(found)


RULES: dict[str, Callable[[str, Sequence[str]], int | None]] = {
    "letter": _letter,
    "letter and text": _letter_and_text,
    "answer is": _answer_is,
    "last paragraph": _last_paragraph,
    "brackets": _brackets,
    "option first": _option_first,
    "option text": _option_text,
    "bare letter": _bare_letter,
}
"""Name -> rule, in the order in which they are tried."""


def _valid(letter: str, options: Sequence[str]) -> int | None:
    key = LETTERS.index(letter.upper())
    return key if key < len(options) else None


def _single(found: set[int | None]) -> int | None:
    """The only option found; a letter beyond the options makes it two."""
    return found.pop() if len(found) == 1 else None


def _at_start(text: str, options: Sequence[str]) -> int | None:
    """The option whose words a text begins with, the longest if there are two."""
    words = f"{_words(text)} "
    for key in sorted(range(len(options)), key=lambda key: -len(_words(options[key]))):
        if _words(options[key]) and words.startswith(f"{_words(options[key])} "):
            return key
    return None


def _is_article(text: str, end: int) -> bool:
    """Whether an "A" that ends here begins a phrase such as "A dog"."""
    following = re.match(r"\s+([a-z]+)", text[end:])
    return following is not None and following[1] not in _AFTER_LETTER


def _words(text: str) -> str:
    """Lower-case words and numbers of a text, number words as digits, without a "the" before them."""
    words = re.findall(r"\w+(?:\.\d+)?", text.casefold())
    words = [str(_NUMBERS.index(word)) if word in _NUMBERS else word for word in words]
    return " ".join(words).removeprefix("the ")
