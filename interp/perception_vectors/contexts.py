"""Prompts that specify a perception task, each up to the token at which its vector is read.

    item          one item as training and evaluation ask it: pictures, question, options
    examples      k answered items of the task, then an unanswered one; each turn shows its own pictures
    instruction   question and options in words, without the pictures
    both          an instruction once, then the examples

Questions may name what an item shows ("Is the cat left of the cup?"), so items keep theirs among examples; these are
contexts of :class:`interp.prompts.Specification` kinds `none`, `examples`, `instruction` and `mixture`, but for inputs
that are pictures and a question at once. The answer is left open in the words of :mod:`interp.tuning.conversation`, so
the last token is the *end delimiter*: the colon of "Answer:" in the plain form, the last token that a chat template
writes before an answer. It is known because the prompt ends there, and nothing is searched. Position `letter` goes on
with what all replies begin with, as a rule "(", and ends right before the letter.

Context c ends in item c of the task, in every setting, and its examples are items of their own: nothing is shown twice,
and keys of the last items are balanced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from jinja2 import TemplateError

from interp.errors import CrosstaskError
from interp.images import Image
from interp.models.base import Model
from interp.perception_vectors.settings import Position, Setting, VectorSettings
from interp.tasks.perception.datasets import test_data, training_data
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.conversation import MARK, chat_frame
from interp.tuning.encoding import IGNORED, Encoded, encode
from interp.tuning.evaluation.packing import Reading
from interp.tuning.evaluation.reading import ItemReader


def context_items(settings: VectorSettings, task: str, *, examples: bool = True) -> list[list[PerceptionItem]]:
    """For each context its items, the unanswered one last.

    Args:
        settings: of the study.
        task: one of its tasks, as given.
        examples: with the answered items before it; or the unanswered one alone.

    Raises:
        CrosstaskError: the task has too few items to learn from, or they are no multiple choice.
    """
    n, shots = settings.contexts, settings.shots if examples else 0
    data = training_data(
        task, n=n * (1 + shots), difficulty=settings.difficulty(task), wording=settings.wording,
        size=settings.size, seed=settings.seed,
    )  # fmt: skip

    def item(number: int) -> PerceptionItem:
        found = data[number]
        if not isinstance(found, PerceptionItem) or not found.options:
            raise CrosstaskError(f"task {task!r} holds {type(found).__name__}s without options; expected choices")
        return found

    return [[*(item(n + c * shots + k) for k in range(shots)), item(c)] for c in range(n)]


def scored_items(settings: VectorSettings, task: str, split: str) -> list[PerceptionItem]:
    """The items of a split on which a task's answers are scored.

    Raises:
        CrosstaskError: the task has no items of that split, or they are no multiple choice.
    """
    data = test_data(
        task, n=settings.n_items(split), split=split, difficulty=settings.difficulty(task),
        wording=settings.wording, size=settings.size, seed=settings.seed,
    )  # fmt: skip
    items = [data[index] for index in range(len(data))]
    if open_ones := [item.name for item in items if not item.options]:
        raise CrosstaskError(f"item {open_ones[0]!r} of task {task!r} has no options; expected choices")
    return items


def read_context(reader: ItemReader, setting: Setting, items: Sequence[PerceptionItem], position: Position) -> Reading:
    """A context as tokens, up to and including the one whose state is read.

    Args:
        reader: of the model; keeps the pictures.
        setting: how the task is specified.
        items: from :func:`context_items`; the last is left open.
        position: where the reading ends.

    Raises:
        CrosstaskError: as :func:`interp.tuning.encoding.encode`.
    """
    model, last = reader.model, items[-1]
    if setting == "item":
        encoded = encode(model, last.images, [(last.prompt, None)])
    elif setting == "instruction":
        encoded = encode(model, [], [(last.prompt, None)])
    else:
        encoded = interleaved(model, items, instruction=last.prompt if setting == "both" else "")
    if position == "letter":
        encoded = _extended(model, encoded, reader.replies[0][: reader.common])
    return reader.reading_of(encoded, encoded.images, encoded.n_tokens)


def interleaved(model: Model, items: Sequence[PerceptionItem], *, instruction: str = "") -> Encoded:
    """Answered items and an open last one, each with its pictures before its question.

    (:func:`interp.tuning.encoding.encode` shows all pictures before the first question, as a conversation about them.)

    Args:
        model: its tokenizer, processor, chat template and family decide.
        items: the answers of all but the last are written.
        instruction: stands before the first item's pictures, if it is not empty.

    Returns:
        The prompt, which ends right before the last answer.

    Raises:
        CrosstaskError: the model takes no images, or not several; its chat template cannot show pictures in later
            turns; a text holds a special token; or the prompt is longer than the model's positions.
    """
    images = tuple(image for item in items for image in item.images)
    _check(model, items, images, instruction)
    inputs = [model.image_inputs(image, among=len(images)) for image in images]
    texts = iter([found.text for found in inputs])
    pictures = [[next(texts) for _ in item.images] for item in items]
    chat = chat_frame(model, len(items[-1].images), 1) is not None
    text = (_chat if chat else _plain)(model, items, pictures, instruction).rstrip(" ")
    found = model.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    ids = torch.tensor([*(() if chat else model.bos_ids or ()), *found])
    limit = getattr(model.module.config.get_text_config(), "max_position_embeddings", None)
    if limit and len(ids) > limit:
        raise CrosstaskError(
            f"{len(items) - 1} examples and an item of {items[-1].task!r} have {len(ids)} tokens, but model "
            f"{model.name!r} takes at most {limit}: use fewer --shots"
        )
    tokens = model.family.token_inputs(model.module, ids, [found.features for found in inputs])
    return Encoded(ids, torch.full_like(ids, IGNORED), images, tokens, text, "chat" if chat else "plain")


def _check(model: Model, items: Sequence[PerceptionItem], images: Sequence[Image], instruction: str) -> None:
    if not model.takes_images or (len(images) > 1 and not model.family.several_images):
        takes = "no images" if not model.takes_images else "one image a prompt"
        raise CrosstaskError(
            f"model {model.name!r} takes {takes}, but {len(items) - 1} examples of {items[-1].task!r} and an item show "
            f"{len(images)}: use --settings item instruction"
        )
    if model.family.bos_after_images:
        raise CrosstaskError(
            f"model {model.name!r} is told where a prompt's pictures end by a token that can be there once, so it "
            "takes no examples: use --settings item instruction"
        )
    for text in (instruction, *(part for item in items for part in (item.prompt, item.answer))):
        for token in model.special_tokens.values():
            if token in text:
                raise CrosstaskError(f"an item of {items[-1].task!r} holds {token!r}, which the model reads as special")


def _plain(model: Model, items: Sequence[PerceptionItem], pictures: Sequence[Sequence[str]], instruction: str) -> str:
    """Items below each other in the plain form of :mod:`interp.tuning.conversation`."""
    ending = model.tokenizer.eos_token
    if not ending:
        raise CrosstaskError(f"the tokenizer of model {model.name!r} has no end of sequence, so no answer can end")
    text = f"{instruction}\n" if instruction else ""
    for number, (item, shown) in enumerate(zip(items, pictures, strict=True)):
        text += ("\n" if number else "") + "".join(shown) + (model.family.after_image("\n") if shown else "")
        text += item.prompt + "\nAnswer: "
        if number < len(items) - 1:
            text += item.answer + ending
    return text


def _chat(model: Model, items: Sequence[PerceptionItem], pictures: Sequence[Sequence[str]], instruction: str) -> str:
    """Items as turns of the model's chat template, each user's turn with its own pictures."""
    pieces = _frame(model, [len(shown) for shown in pictures])
    text = ""
    for number, (item, shown) in enumerate(zip(items, pictures, strict=True)):
        before = _with_pictures(model, pieces[2 * number], shown, instruction if number == 0 else "")
        text += before + item.prompt + pieces[2 * number + 1]
        if number < len(items) - 1:
            text += item.answer
    return text


def _frame(model: Model, counts: Sequence[int]) -> list[str]:
    """What the chat template writes around the texts of turns with so many pictures each."""
    marks = [MARK.format(number) for number in range(2 * len(counts))]
    listed = model.processor is not None
    messages = []
    for number, mark in enumerate(marks):
        shown = [{"type": "image"}] * (0 if number % 2 else counts[number // 2])
        content = [*shown, {"type": "text", "text": mark}] if listed else mark
        messages.append({"role": "assistant" if number % 2 else "user", "content": content})
    writer = model.tokenizer if model.processor is None else model.processor
    pattern = "|".join(map(re.escape, marks))
    try:
        written = str(writer.apply_chat_template(messages, tokenize=False))
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise CrosstaskError(f"the chat template of model {model.name!r} takes no examples: {error}") from error
    if re.findall(pattern, written) != marks:
        raise CrosstaskError(f"the chat template of model {model.name!r} changes examples: it writes {written!r}")
    return re.split(pattern, written)


def _with_pictures(model: Model, before: str, shown: Sequence[str], instruction: str) -> str:
    """What stands before a turn's text, with its pictures in place of their placeholders and the instruction first."""
    if not shown:
        return before + (f"{instruction}\n" if instruction else "")
    frame = chat_frame(model, len(shown), 1)
    placeholder = frame.placeholder if frame is not None else ""
    parts = before.split(placeholder) if placeholder else [before]
    if len(parts) != len(shown) + 1:
        raise CrosstaskError(
            f"the chat template of model {model.name!r} shows {len(parts) - 1} pictures in a later turn that has "
            f"{len(shown)}: use --settings item instruction"
        )
    parts[0] += f"{instruction}\n" if instruction else ""
    return "".join(part + picture for part, picture in zip(parts, [*shown, ""], strict=True))


def _extended(model: Model, encoded: Encoded, more: Sequence[int]) -> Encoded:
    """A prompt that goes on with given tokens."""
    ids = torch.cat([encoded.input_ids, torch.tensor(list(more), dtype=encoded.input_ids.dtype)])
    features = [model.image_inputs(image, among=len(encoded.images)).features for image in encoded.images]
    tokens = model.family.token_inputs(model.module, ids, features)
    labels = torch.full_like(ids, IGNORED)
    text = encoded.text + model.tokenizer.decode(list(more))
    return Encoded(ids, labels, encoded.images, tokens, text, encoded.template)
