"""Scoring: what counts as right, and that pruning never drops what could still be right."""

import csv
import itertools
import random
import unicodedata
from pathlib import Path

import pytest

from interp.errors import CrosstaskError
from interp.scoring import (
    could_become,
    first_tokens,
    majority_answer,
    majority_baseline,
    normalise,
    score,
)

TABLES = sorted((Path(__file__).parents[2] / "interp" / "tasks" / "semantic" / "data").glob("*.csv"))
AWKWARD = [
    "The Hague", "A", "an", "The", "A Coruña", "C#", "-5", ".5", "50%", "+", "“Euro”", "São Tomé", "Port-au-Prince",
    "Sana'a", "Sanaʼa", "Łódź", "İstanbul", "Straße", "ﬁsh", "Ｔｏｋｙｏ", "東京", "はが", "서울", "Αθήνα", "ᾳ", "Київ",
    "हिन्दी", "ŉ", "½ cup", "anan", "theatre", "Athens", "Washington, D.C.", "¿Qué?", "New  York", "x²",
]  # fmt: skip
BEFORE = [
    "",
    " ",
    "\n",
    "the ",
    "The ",
    "A ",
    "an ",
    "the the ",
    "**",
    '"',
    "(the ",
    "the “",
    ": ",
    " '",
    "¡",
    "the \n",
]
AFTER = ["", " ", ".", "\n", "**", '"', ").", " !", "…", ", ", "”."]


def accepted_answers() -> list[str]:
    answers = []
    for table in TABLES:
        with table.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                answers += [row["output"], *filter(None, row["aliases"].split("|"))]
    return sorted(set(answers))


def disguises(answer: str, rng: random.Random) -> list[str]:
    """Other ways to write the same answer."""
    ways = [
        answer,
        answer.upper(),
        answer.lower(),
        unicodedata.normalize("NFD", answer),
        unicodedata.normalize("NFKD", answer),
        answer.replace("-", " "),
        answer.replace(" ", "  "),
        answer.replace("'", "’"),
        "".join(rng.choice((c.upper(), c.lower())) for c in answer),
        "".join(c + rng.choice(("", "\u0301")) if "a" <= c <= "z" else c for c in answer),
    ]
    return [way for way in ways if normalise(way) == normalise(answer)]


# ---- exact


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        " paris\n",
        "PARIS.",
        "the Paris",
        "**Paris**",
        "“Paris”",
        "'Paris'.",
        "Páris",
        "Ｐａｒｉｓ",
        "A (Paris)!",
    ],
)
def test_exact_ignores_what_does_not_change_an_answer(text):
    assert score(text, "Paris", ["Paris"]).exact


@pytest.mark.parametrize("text", ["", ".", "Pari", "Paris, France", "Paris is", "Parisian", "not Paris", "Paris\nQ:"])
def test_exact_asks_for_the_whole_answer_and_nothing_else(text):
    assert not score(text, "Paris", ["Paris"]).exact


@pytest.mark.parametrize(
    ("text", "answer"),
    [("C", "C#"), ("5", "-5"), ("5", ".5"), ("50", "50%"), ("はか", "はが"), ("co", "CO2")],
)
def test_signs_and_marks_that_mean_something_are_kept(text, answer):
    assert not score(text, text, [answer]).exact


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Port au Prince", "Port-au-Prince"),
        ("Yaounde", "Yaoundé"),
        ("Sana’a", "Sana'a"),
        ("STRASSE", "Straße"),
        ("Hague", "The Hague"),
        ("the", "The"),
    ],
)
def test_spellings_of_one_answer_are_equal(text, answer):
    assert score(text, text, [answer]).exact


def test_any_accepted_answer_is_right():
    assert score("renminbi", "ren", ["Yuan", "Renminbi"]).exact


def test_normalising_twice_changes_nothing():
    for answer, before, after in itertools.product(AWKWARD, BEFORE, AFTER):
        once = normalise(before + answer + after)
        assert normalise(once) == once


def test_without_an_accepted_answer_nothing_can_be_scored():
    with pytest.raises(CrosstaskError, match="'Paris' cannot be scored"):
        score("Paris", "Paris", [])


# ---- first token and prefix


def test_first_token_compares_with_the_answers_own_first_token():
    assert score("Port Louis", " Port", ["Port Louis"], ["Port"]).first_token
    assert not score("Po", "Po", ["Port Louis"], ["Port"]).first_token
    assert score("Po", "Po", ["Port Louis"]).first_token  # without the tokeniser, any beginning of the answer


@pytest.mark.parametrize("token", ["", " ", "\n", "paris", "Parisian", "\N{REPLACEMENT CHARACTER}"])
def test_first_token_is_case_sensitive_and_never_empty(token):
    assert not score("Paris", token, ["Paris", "\N{REPLACEMENT CHARACTER}s"]).first_token


def test_prefix_rule_works_both_ways_and_is_the_lenient_one():
    assert score("S", "S", ["Seoul"]).prefix
    assert score("Parisian", "Parisian", ["Paris"]).prefix
    assert not score("seoul", "seoul", ["Seoul"]).prefix
    assert not score("", " ", ["Seoul"]).prefix
    assert not score("Rome", "Rome", ["Seoul"]).prefix


class PiecesOfTwo:
    """Splits text into pieces of two characters; a space stays with what follows it."""

    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        return [text[i : i + 2] for i in range(0, len(text), 2)]

    def decode(self, ids):
        return "".join(ids)


def test_first_tokens_are_those_with_and_without_a_space():
    assert first_tokens(PiecesOfTwo(), ["Paris", "a"]) == ("Pa", "P", "a")
    with pytest.raises(CrosstaskError, match="no visible token"):
        first_tokens(PiecesOfTwo(), [" "])


# ---- pruning


def all_beginnings_are_kept(answer: str, text: str) -> bool:
    """Whether no beginning of a right answer is pruned; False also if the text is not right."""
    right = score(text, text, [answer]).exact
    return right and all(could_become(text[:end], ["something else", answer]) for end in range(len(text) + 1))


@pytest.mark.parametrize("answer", AWKWARD)
def test_pruning_keeps_every_beginning_of_an_awkward_answer(answer):
    rng = random.Random(answer)
    for way, before in itertools.product(disguises(answer, rng), BEFORE):
        text = before + way + rng.choice(AFTER)
        assert all_beginnings_are_kept(answer, text), text


def test_pruning_keeps_every_beginning_of_every_answer_of_the_six_tasks():
    rng = random.Random(0)
    for answer in accepted_answers():
        for way in disguises(answer, rng):
            text = rng.choice(BEFORE) + way + rng.choice(AFTER)
            assert all_beginnings_are_kept(answer, text), text


@pytest.mark.parametrize("answer", ["São Tomé", "東京", "Київ", "हिन्दी", "Reykjavík"])
def test_pruning_keeps_answers_cut_within_a_character(answer):
    raw = answer.encode()
    for end in range(len(raw) + 1):
        assert could_become(raw[:end].decode(errors="replace"), ["Rome", answer])


def test_letters_of_any_script_survive_normalising_so_that_pruning_may_count_on_them():
    for code in itertools.chain(range(0x3400), range(0xA640, 0xAC00), range(0xF900, 0x1_0000)):
        text = f"x{chr(code)}y"
        assert could_become(text, [text])
        assert could_become(normalise(text), [text])


@pytest.mark.parametrize("text", ["Berlin", "Paris is", "Parisian", "the Rome", "Pb", "1"])
def test_pruning_stops_what_cannot_become_right(text):
    assert not could_become(text, ["Paris", "Lutetia"])


def test_pruning_stops_nearly_every_wrong_answer():
    pairs = list(itertools.permutations(accepted_answers()[::5], 2))
    kept = [pair for pair in pairs if could_become(pair[0], [pair[1]])]
    assert len(kept) < 0.01 * len(pairs)


# ---- majority


def test_majority_takes_the_most_frequent_canonical_answer_and_the_first_of_equals():
    assert majority_answer([("b", "a"), ("a",), ("b",)]) == "b"
    assert majority_answer([("b",), ("a",)]) == "b"
    with pytest.raises(CrosstaskError, match="at least one item"):
        majority_answer([])


def test_majority_is_chosen_on_the_selection_items_and_scored_on_the_test_items():
    answer, right = majority_baseline([("sweet",), ("sweet",), ("sour",)], [("sour", "sweet"), ("sour",), ("sour",)])
    assert (answer, right) == ("sweet", [True, False, False])
