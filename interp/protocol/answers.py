"""Generated answers with their scores, as the journal and the tables of predictions hold them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from interp.patching import Generation
from interp.scoring import Score, first_tokens, score
from interp.tasks import Item


class Scorer:
    """Scores what a model generated; each item's first answer tokens are looked up once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._first_tokens = cache(lambda answers: first_tokens(tokenizer, answers))

    def score(self, item: Item, generation: Generation) -> Score:
        """The scores of an answer to an item."""
        return score(generation.text, generation.first_token, item.outputs, self._first_tokens(item.outputs))

    def answer(self, item: Item, generation: Generation) -> dict[str, Any]:
        """The item, the answer, what is accepted, and the scores."""
        return _row(item, generation.text, self.score(item, generation))


def constant_answers(items: Iterable[Item], text: str, labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a baseline that gives the same answer to every item, such as the majority answer."""
    return [{**labels, "layer": None, **_row(item, text, score(text, text, item.outputs))} for item in items]


def _row(item: Item, text: str, found: Score) -> dict[str, Any]:
    return {"item": item.input, "answer": text, "accepted": list(item.outputs), **asdict(found)}
