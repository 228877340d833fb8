"""Generated answers, and what the rules find in them.

The model writes greedily after the prompt as training gives it. The cascade of rules in
:mod:`interp.tasks.perception.replies` finds the letter (which rule did is recorded: how often it was not the first is
itself a result), BLINK's own scorer stands beside it, and a number is scored by its mean relative accuracy. Prompts of
like length are read together, with pictures encoded once, and finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from interp.decoding import Answers, decode, new_cache
from interp.errors import CrosstaskError
from interp.memory import memory_plan
from interp.models.base import Model
from interp.tasks.perception.items import LETTERS, PerceptionItem
from interp.tasks.perception.replies import blink_prediction, mean_relative_accuracy, read_choice, read_number
from interp.tuning.evaluation.packing import Pack, batches, collate_packs
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.records import Record
from interp.tuning.evaluation.vision import Vision, asked, last_logits, vision_for
from interp.tuning.features import FeatureStore

MAX_NEW_TOKENS = 16
"""Enough for "(A)" and for an option's text; what has not named a letter by then seldom does."""
ROOM = 0.5
"""Part of the budget of tokens that prompts take; answers and caches take the rest."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Items made ready to be answered by any number of variants of a model.

    Attributes:
        model: the model.
        items: N of them.
        packs: the prompt of each.
        vision: how pictures enter.
        max_new_tokens: most tokens of an answer.
        budget: most tokens of a forward pass.
    """

    model: Model
    items: tuple[PerceptionItem, ...]
    packs: tuple[Pack, ...]
    vision: Vision
    max_new_tokens: int
    budget: int
    groups: tuple[tuple[int, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        groups = batches(self.packs, self.budget, device=self.model.device.type)
        object.__setattr__(self, "groups", tuple(map(tuple, groups)))

    @property
    def n_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(pack.n_tokens for pack in self.packs)


def prepare_questions(
    model: Model,
    items: Sequence[PerceptionItem],
    *,
    reader: ItemReader,
    vision: Vision | None = None,
    store: FeatureStore | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    budget: int | None = None,
) -> Questions:
    """Read items and lay them out in batches.

    Args:
        model: the model.
        items: of any tasks, of unique names.
        reader: how they are read.
        vision: how pictures enter; by default each is encoded once, where that is exact.
        store: where the features of pictures are kept on disk as well.
        max_new_tokens: most tokens of an answer.
        budget: most tokens of a forward pass; by the memory that is free by default.
    """
    packs = tuple(Pack((reader.open(item),), 0) for item in items)
    vision = vision or vision_for(model, reader, packs, store=store)
    budget = budget or max(1, int(ROOM * memory_plan(model).tokens))
    return Questions(model, tuple(items), packs, vision, max_new_tokens, budget)


@torch.no_grad()
def replies(questions: Questions, *, progress: Callable[[int], object] | None = None) -> list[str]:
    """What the model writes after each item, as it stands (with whatever adapter is applied to it)."""
    model, texts = questions.model, [""] * len(questions.items)
    for group in questions.groups:
        packs = [questions.packs[index] for index in group]
        batch = collate_packs(packs, pad_id=model.pad_id, dtype=model.dtype, device=model.device)
        cache = new_cache(model)
        with asked(model, [questions.items[index] for index in group], batch, questions.vision):
            inputs = questions.vision.join(batch.inputs, batch.pictures)
            logits = last_logits(model, inputs, 1, past_key_values=cache, use_cache=True)[:, -1]
        answers = Answers(model, len(group), max_new_tokens=questions.max_new_tokens, stop=None)
        ends = [int(pack.readings[0].token_inputs["position_ids"].reshape(-1, pack.n_tokens)[0, -1]) for pack in packs]
        decode(model, answers, range(len(group)), cache, batch.inputs["attention_mask"], ends, logits)
        for index, answer in zip(group, answers.results(), strict=True):
            texts[index] = answer.text
        if progress is not None:
            progress(sum(pack.n_tokens for pack in packs))
    return texts


def answer(questions: Questions, *, progress: Callable[[int], object] | None = None) -> list[Record]:
    """Generate answers and score them.

    Args:
        questions: the items, made ready.
        progress: is told the tokens of each batch.

    Returns:
        One record for each item, in their order.
    """
    found = replies(questions, progress=progress)
    return [reply_record(item, reply) for item, reply in zip(questions.items, found, strict=True)]


def reply_record(item: PerceptionItem, reply: str) -> Record:
    """The record of a generated answer.

    Args:
        item: multiple choice, or with a number.
        reply: as it was generated.

    Raises:
        CrosstaskError: the item has neither options nor a number, so that no rule can score it.
    """
    if item.options:
        choice = read_choice(reply, item.options)
        exact = blink_prediction(reply, len(item.options)) == item.answer
        return Record(
            item.name,
            LETTERS[item.key],
            choice.letter,
            float(choice.key == item.key),
            rule=choice.rule,
            reply=reply,
            exact=float(exact),
        )
    if item.number is None:
        raise CrosstaskError(f"item {item.name!r} has neither options nor a number, so its answer cannot be scored")
    found = read_number(reply)
    said = "" if found.value is None else f"{found.value:g}"
    correct = mean_relative_accuracy(found.value, item.number)
    return Record(item.name, "", said, correct, rule=found.rule, reply=reply)
