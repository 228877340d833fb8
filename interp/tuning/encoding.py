"""A conversation about pictures as token ids, with the answers alone in the loss.

Pictures come first, then the question. A model whose chat template can write pictures is asked in that template, and
its own end of turn closes each answer; any other ("plain") reads

    <image> ... <image>\\n{question}\\nAnswer: {answer}{end of sequence}

Which tokens are the answer is found from the character offsets of the whole text, and then checked: decoded, the
labelled tokens must spell the answers and nothing else. The text of a picture, and the positions of its tokens, come
from the model's family, as in :mod:`interp.prompts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import CrosstaskError
from interp.images import Image
from interp.models.base import Model
from interp.tuning.conversation import Conversation, conversation

IGNORED = -100
"""Label of tokens that are not in the loss, as PyTorch's cross entropy has it."""

Turns: TypeAlias = Sequence[tuple[str, str | None]]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One conversation, ready for a batch.

    Attributes:
        input_ids: the tokens, pictures expanded.
        labels: the same ids on the answers and what ends them, else `IGNORED`.
        images: the pictures in reading order; a batch asks the model for their pixels.
        token_inputs: what the family gives each token besides its id: `position_ids` (on three axes for Qwen-VL) and
            perhaps `token_type_ids`, `[.., T]`.
        text: what was tokenised, pictures expanded; without the beginning of sequence.
        template: whether the model's chat template or the plain form was used.
        questions: the human turns, as they were given.
        task: the name of the task that it belongs to, where that is known.
    """

    input_ids: Int[Tensor, " T"]
    labels: Int[Tensor, " T"]
    images: tuple[Image, ...]
    token_inputs: dict[str, Int[Tensor, "... T"]]
    text: str
    template: Literal["chat", "plain"]
    questions: tuple[str, ...] = ()
    task: str | None = None

    @property
    def n_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def n_answer_tokens(self) -> int:
        return int((self.labels != IGNORED).sum())

    @property
    def first_answer(self) -> int:
        """Index of the first labelled token; the number of tokens if there is none."""
        labelled = (self.labels != IGNORED).nonzero()
        return int(labelled[0]) if len(labelled) else self.n_tokens


def encode(model: Model, images: Sequence[Image], turns: Turns, *, answer_prefix: str = "") -> Encoded:
    """Tokens and labels of a conversation.

    Args:
        model: its tokenizer, processor, chat template and family decide.
        images: shown before the first question, in this order.
        turns: (question, answer) pairs; the answer of the last may be None, for a prompt to be continued.
        answer_prefix: with an open last answer, what it begins with, such as "(".

    Returns:
        The conversation; with an open last answer it ends right before it, or after the prefix.

    Raises:
        CrosstaskError: there is no turn, a text is empty or holds a special token or an image placeholder, the model
            takes no images (or no more than one), a picture cannot be read, the conversation is longer than the
            model's positions, or the labelled tokens do not spell the answers.
    """
    _check(model, images, turns, answer_prefix)
    inputs = [model.image_inputs(image, among=len(images)) for image in images]
    written = conversation(model, [i.text for i in inputs], turns, answer_prefix=answer_prefix)
    encoding = model.tokenizer(written.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    bos = [] if written.begins_itself else list(model.bos_ids or ())
    ids = torch.tensor([*bos, *encoding.input_ids])
    labels = torch.full_like(ids, IGNORED)
    for span, answer in zip(written.answers, (answer for _, answer in turns), strict=False):
        labelled = _labelled(model, written, encoding, span, str(answer))
        places = torch.tensor(labelled) + len(bos)
        labels[places] = ids[places]
    limit = getattr(model.module.config.get_text_config(), "max_position_embeddings", None)
    if limit and len(ids) > limit:
        raise CrosstaskError(f"the conversation has {len(ids)} tokens, but model {model.name!r} takes at most {limit}")
    token_inputs = model.family.token_inputs(model.module, ids, [i.features for i in inputs])
    questions = tuple(question for question, _ in turns)
    encoded = Encoded(ids, labels, tuple(images), token_inputs, written.text, written.template, questions)
    if not model.family.causal_prefix and "token_type_ids" in token_inputs:
        # A prompt's tokens see each other; what is to be learnt must not be seen.
        token_inputs["token_type_ids"][..., encoded.first_answer :] = 1
    return encoded


def _check(model: Model, images: Sequence[Image], turns: Turns, answer_prefix: str) -> None:
    """Refuse what no conversation can be made of."""
    if not turns:
        raise CrosstaskError("a conversation needs at least one turn, and none was given")
    if images and not model.takes_images:
        raise CrosstaskError(f"model {model.name!r} takes no images, but the conversation shows {len(images)}")
    if len(images) > 1 and not model.family.several_images:
        raise CrosstaskError(f"model {model.name!r} takes one image a prompt, but the conversation shows {len(images)}")
    if answer_prefix and turns[-1][1] is not None:
        raise CrosstaskError(f"the answer prefix {answer_prefix!r} is for an open answer, but the last one is given")
    for number, (question, answer) in enumerate(turns, start=1):
        for what, text in (("question", question), ("answer", answer)):
            if text is None and what == "answer" and number == len(turns):
                continue
            if not isinstance(text, str) or not text.strip():
                raise CrosstaskError(f"the {what} of turn {number} is empty")
            _refuse_special(model, text, f"the {what} of turn {number}")


def _refuse_special(model: Model, text: str, what: str) -> None:
    """Data must not open a picture, end a document, or change the speaker."""
    for token in model.special_tokens.values():
        if token in text:
            kind = "an image placeholder" if token == model.family.image_placeholder else "a special token"
            raise CrosstaskError(
                f"{what} holds {token!r}, which model {model.name!r} reads as {kind}: pictures are given as images, "
                f"and shown before the text (it reads {text[:80]!r})"
            )


def _labelled(model: Model, written: Conversation, encoding: Any, span: tuple[int, int, int], answer: str) -> list[int]:
    """Tokens of one answer and its end, which must spell the answer.

    Args:
        model: whose tokenizer.
        written: the conversation.
        encoding: its tokens and their offsets.
        span: where the white space before the answer begins, where the answer ends, and where what ends it ends.
        answer: what it has to spell.
    """
    lead, stop, end = span
    text = written.text
    touching = [i for i, (a, b) in enumerate(encoding.offset_mapping) if a < end and b > lead and b > a]
    begins = encoding.offset_mapping[touching[0]][0]
    content = [i for i in touching if encoding.offset_mapping[i][0] < stop]
    spelt = model.tokenizer.decode([encoding.input_ids[i] for i in content], clean_up_tokenization_spaces=False)
    if begins < lead or spelt.strip() != answer.strip():
        raise CrosstaskError(
            f"the tokens in the loss spell {spelt!r}, but the answer is {answer!r}, after "
            f"{text[max(0, lead - 30) : lead]!r}: the tokenizer of {model.name!r} joins them to their neighbours"
        )
    ending = model.tokenizer.decode([encoding.input_ids[i] for i in touching if i not in content])
    if ending.strip() != text[stop:end].strip():
        raise CrosstaskError(f"the token after the answer {answer!r} is {ending!r}, and not {text[stop:end]!r}")
    return touching
