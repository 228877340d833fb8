"""Instructions made worse by degrees: typos, synonyms, unrelated words. The same seed always spoils the same words.

A level is the share of words that are changed, of those that a kind can change; the words of a lower level are among
those of a higher one. Everything but the words (spaces, and the colon at the end, which is the delimiter) stays.
"""

import random
import re

from interp.errors import CrosstaskError

KINDS = ("typos", "synonyms", "unrelated")
CLEAN = "clean"
"""The instruction as it is."""
SYNONYMS = {
    "animal": "creature",
    "animal's": "creature's",
    "baby": "young",
    "capital": "main",
    "city": "town",
    "color": "hue",
    "country": "nation",
    "currency": "money",
    "descriptor": "description",
    "flavor": "taste",
    "food": "dish",
    "last": "final",
    "latin": "Roman",
    "name": "designation",
    "official": "formal",
    "scientific": "technical",
    "species": "kind",
    "term": "expression",
    "word": "expression",
}
"""For the words of the built-in instructions; a word of another instruction that is not here stays."""
UNRELATED = (
    "window", "seven", "paper", "slowly", "under", "bridge", "music", "often", "green", "walk", "table", "loud",
    "winter", "borrow", "circle", "beyond",
)  # fmt: skip


WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def noisy(instruction: str, kind: str, level: float, *, seed: int) -> str:
    """The instruction with a share of its words changed.

    Args:
        instruction: one line, which ends in the delimiter.
        kind: ``typos`` swaps two neighbouring letters inside a word of three or more; ``synonyms`` takes another word
            for it from a small table; ``unrelated`` puts any other word in its place.
        level: share of the words that the kind can change, from 0 to 1, rounded to whole words.
        seed: which words, and how.

    Raises:
        CrosstaskError: for an unknown kind or a level that is not between 0 and 1.
    """
    if kind not in KINDS:
        raise CrosstaskError(f"noise of kind {kind!r} is unknown; expected one of {', '.join(KINDS)}.")
    if not 0 <= level <= 1:
        raise CrosstaskError(f"a noise level of {level} is no share of the words; expected 0 to 1.")
    words = list(WORD.finditer(instruction))
    rng = random.Random(f"{kind}, seed {seed}, {instruction}")
    changed = {index: new for index, word in enumerate(words) if (new := _changed(word[0], kind, rng)) != word[0]}
    order = rng.sample(sorted(changed), len(changed))
    for index in sorted(order[: round(level * len(order))], reverse=True):
        start, stop = words[index].span()
        instruction = instruction[:start] + changed[index] + instruction[stop:]
    return instruction


def words_changed(clean: str, instruction: str) -> int:
    """How many words of a noisy instruction are not those of the clean one; noise keeps their number."""
    return sum(a != b for a, b in zip(WORD.findall(clean), WORD.findall(instruction), strict=True))


def _changed(word: str, kind: str, rng: random.Random) -> str:
    """The word made worse; itself where the kind cannot change it."""
    if kind == "synonyms":
        new = SYNONYMS.get(word.lower(), word)
    elif kind == "unrelated":
        new = rng.choice([other for other in UNRELATED if other != word.lower()])
    else:
        places = [place for place in range(len(word) - 1) if word[place].lower() != word[place + 1].lower()]
        inner = [place for place in places if place or len(word) < 4] if len(word) > 2 else []
        if not inner:
            return word
        place = rng.choice(inner)
        new = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return new.capitalize() if word[0].isupper() and new != word else new
