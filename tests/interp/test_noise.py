"""Noisy instructions: nothing but so many words changes, and the same seed always changes the same."""

from __future__ import annotations

import re

import pytest

from interp.errors import CrosstaskError
from interp.protocol.noise import KINDS, SYNONYMS, UNRELATED, noisy
from interp.tasks import load_task, task_names

LINE = "The last word of the official currency of the country:"


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text)


@pytest.mark.parametrize("kind", KINDS)
def test_more_noise_keeps_the_words_of_less(kind: str) -> None:
    before, clean = {}, words(LINE)
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = noisy(LINE, kind, level, seed=3)
        assert text == noisy(LINE, kind, level, seed=3)
        assert text.endswith(":")
        now = {i: word for i, word in enumerate(words(text)) if word != clean[i]}
        assert len(words(text)) == len(clean)
        assert before.items() <= now.items()
        assert len(now) > len(before) or level == 0.0
        before = now
    assert noisy(LINE, kind, 0.0, seed=3) == LINE
    assert noisy(LINE, kind, 1.0, seed=3) != noisy(LINE, kind, 1.0, seed=4) or kind == "synonyms"


def test_each_kind_does_what_it_is_called() -> None:
    typed, same, other = (words(noisy(LINE, kind, 1.0, seed=0)) for kind in KINDS)
    for word, found in zip(words(LINE), typed, strict=True):
        assert sorted(word.lower()) == sorted(found.lower())
        assert (word != found) == (len(word) > 2)
    assert same == [SYNONYMS.get(word, word) for word in words(LINE)]
    assert {word.lower() for word in other} <= set(UNRELATED)
    assert other[0][0].isupper()


@pytest.mark.parametrize("name", task_names())
def test_every_built_in_instruction_has_synonyms(name: str) -> None:
    instruction = load_task(name).instruction
    found = noisy(instruction, "synonyms", 1, seed=0)
    assert sum(a != b for a, b in zip(words(instruction), words(found), strict=True)) >= 2


@pytest.mark.parametrize(
    ("kind", "level", "said"), [("smudges", 0.5, "'smudges' is unknown"), ("typos", 2, "no share")]
)
def test_unknown_noise_is_one_sentence(kind: str, level: float, said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        noisy(LINE, kind, level, seed=0)
