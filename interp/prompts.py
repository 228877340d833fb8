"""From a task specification to model inputs in which every position is known by construction.

A prompt is a list of pieces (instruction, inputs, outputs, and the template's frame between them). Each piece's text is
appended to one string, an image as the text its processor would put there (``<image>`` times its number of tokens),
and the string is tokenised once. The tokenizer's character offsets then say which tokens belong to which piece, in the
*expanded* sequence. Nothing is found by counting colons or searching token ids, so colons in the data, adjacent images
and padding change nothing.

A template may ask for the model's chat template around all this: the instruction, the examples and the query's input
are then the user's message, and the query's output prefix, with the delimiter at its end, begins the model's answer.

The end-delimiter is where the task is read and patched (Luo et al. 2025, section 3; Hendel et al. 2023): with
``Q:{x}\\nA:{y}\\n\\n`` the colon of ``A:``, right before an answer. It must be exactly one token, or rendering fails.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import CrosstaskError
from interp.images import Image

if TYPE_CHECKING:
    from interp.models.base import Model

__all__ = ["Content", "Example", "Image", "Prompt", "Role", "Segment", "Specification", "Template", "render"]

Role: TypeAlias = Literal["bos", "turn", "instruction", "input", "output", "frame"]
Content: TypeAlias = str | Image


@dataclass(frozen=True)
class Example:
    """One demonstration."""

    input: Content
    output: str


@dataclass(frozen=True)
class Template:
    """The frame around each example; the query gets the same frame up to and including the delimiter.

    Attributes:
        input_prefix: before the input.
        output_prefix: between input and output; ends in the delimiter.
        output_lead: white space between delimiter and output, e.g. the space of ``A: {y}``. It belongs to the answer
            (tokenizers join it to the word), so that a query ends in the delimiter itself.
        separator: between two examples.
        turns: ``chat`` puts the model's own chat template around the prompt, ``plain`` nothing.
    """

    input_prefix: str = "Q:"
    output_prefix: str = "\nA:"
    output_lead: str = ""
    separator: str = "\n\n"
    turns: Literal["plain", "chat"] = "plain"

    def __post_init__(self) -> None:
        if self.output_prefix != self.output_prefix.rstrip() or not self.output_prefix:
            raise CrosstaskError(
                f"template {self.text!r} has no delimiter: something visible, such as a colon, must stand between "
                "{x} and {y}, as in 'Q:{x}\\nA:{y}\\n\\n'"
            )

    @classmethod
    def parse(cls, text: str) -> Template:
        """A template from a string such as ``Q:{x}\\nA:{y}\\n\\n``; a written-out ``\\n`` is a newline.

        ``chat:`` before it asks for the model's chat template, and ``chat`` alone is ``chat:Q: {x}\\nA: {y}\\n\\n``.

        Raises:
            CrosstaskError: unless ``{x}`` and ``{y}`` occur once each, in this order, with a delimiter in between.
        """
        plain = text.replace("\\n", "\n").replace("\\t", "\t")
        turns: Literal["plain", "chat"] = "chat" if plain == "chat" or plain.startswith("chat:") else "plain"
        if turns == "chat":
            plain = plain.removeprefix("chat").removeprefix(":") or "Q: {x}\nA: {y}\n\n"
        match = re.fullmatch(r"(.*?)\{x\}(.*?)(\s*)\{y\}(.*)", plain, flags=re.DOTALL)
        if match is None or plain.count("{x}") != 1 or plain.count("{y}") != 1:
            raise CrosstaskError(
                f"template {text!r} must hold {{x}} once and then {{y}} once, as in 'Q:{{x}}\\nA:{{y}}\\n\\n'"
            )
        before, between, lead, after = match.groups()
        return cls(before, between, lead, after, turns)

    @property
    def text(self) -> str:
        """The template as :meth:`parse` reads it."""
        frame = f"{self.input_prefix}{{x}}{self.output_prefix}{self.output_lead}{{y}}{self.separator}"
        return f"chat:{frame}" if self.turns == "chat" else frame

    @property
    def delimiter(self) -> str:
        """The characters that must be one token: the punctuation at the end of ``output_prefix``, or its last word."""
        match = re.search(r"(?:[^\w\s]+|\w+)$", self.output_prefix)
        assert match is not None
        return match.group()


@dataclass(frozen=True)
class Specification:
    """What tells the model the task: examples, an instruction, both, or nothing.

    Attributes:
        examples: in the user's message, where there is a chat.
        instruction: before the examples.
        system: the system message of a chat, in place of the one that the chat template itself may write.
    """

    examples: tuple[Example, ...] = ()
    instruction: str | None = None
    system: str | None = None

    @property
    def kind(self) -> Literal["none", "examples", "instruction", "mixture"]:
        if self.examples:
            return "examples" if self.instruction is None else "mixture"
        return "none" if self.instruction is None else "instruction"

    @property
    def modality(self) -> Literal["none", "text", "image", "mixed"]:
        """In which modality the examples' inputs are given."""
        kinds = {"image" if isinstance(example.input, Image) else "text" for example in self.examples}
        return "mixed" if len(kinds) == 2 else kinds.pop() if kinds else "none"  # type: ignore[return-value]


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt and its tokens.

    Attributes:
        role: what the piece is; ``frame`` is the template's own text, ``turn`` the chat template's.
        content: the text or image.
        example: index of the example, or None for the query, the instruction and BOS.
        start: first token in the expanded sequence.
        stop: one past the last token.
    """

    role: Role
    content: Content
    example: int | None
    start: int
    stop: int

    @property
    def tokens(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True, eq=False)
class Prompt:
    """A rendered prompt of T tokens.

    Attributes:
        segments: the pieces in order; their token spans tile ``0..T`` without gaps.
        input_ids: T token ids, images expanded.
        images: what the processor returned for each image, in reading order.
        token_inputs: what the module takes for each token besides its id, ``[.., T]``: ``position_ids`` at least.
        delimiters: token index of each example's delimiter and, last, the query's.
        text: the prompt as tokenised, images as their placeholders, without the BOS at its start.
    """

    segments: tuple[Segment, ...]
    input_ids: tuple[int, ...]
    images: tuple[dict[str, Tensor], ...]
    token_inputs: dict[str, Int[Tensor, "... T"]]
    delimiters: tuple[int, ...]
    text: str

    @property
    def delimiter(self) -> int:
        """Where the task is read and patched: the last delimiter, which is the prompt's last token."""
        return self.delimiters[-1]

    @property
    def position(self) -> int:
        """The delimiter's position id, from which those of the answer count on."""
        return int(self.token_inputs["position_ids"].reshape(-1, self.n_tokens)[0, -1])

    @property
    def n_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def stem(self) -> int:
        """How many tokens come before the query: those that all queries of one specification begin with."""
        opening = ("bos", "turn")
        before = [
            s.stop
            for s in self.segments
            if s.example is not None or s.role == "instruction" or (s.role in opening and s.start == 0)
        ]
        return min(max(before, default=0), self.n_tokens - 1)

    def images_in(self, tokens: slice) -> list[dict[str, Tensor]]:
        """The images whose first token is among these, in reading order."""
        start, stop, _ = tokens.indices(self.n_tokens)
        starts = [s.start for s in self.segments if isinstance(s.content, Image)]
        return [image for image, at in zip(self.images, starts, strict=True) if start <= at < stop]

    def spans(self, role: Role, *, example: int | None = None) -> tuple[slice, ...]:
        """Token spans of one role in an example, or in the query for ``example=None``."""
        return tuple(s.tokens for s in self.segments if s.role == role and s.example == example)


def render(
    model: Model, specification: Specification, query: Content | None, *, template: Template | None = None
) -> Prompt:
    """Build the prompt of a specification and a query.

    ``[BOS] [instruction, separator] [examples] query``, ending right after the query's delimiter. An instruction alone
    (``query=None``) is a prompt too: the source of an instruction vector, which ends in the delimiter itself. In a chat
    the model's own template stands for BOS, and between the query's input and its output prefix the turn changes.

    Args:
        model: its tokenizer, processor and family decide on tokens and images.
        specification: examples, instruction, both, or none.
        query: what the task is to be done on; None only for an instruction alone.
        template: the frame, ``Q:{x}\\nA:{y}\\n\\n`` by default.

    Returns:
        The prompt, with the token span of every segment.

    Raises:
        CrosstaskError: if a delimiter is not one token, a text holds a special token or an image placeholder, the
            model takes no images but one is given, an image cannot be read, a text is empty, the prompt is longer than
            the model's positions, or a chat is asked of a model without a chat template.
    """
    template = template or Template()
    layout = _lay_out(model, specification, query, template)
    bos = [] if layout.begins_itself else list(model.bos_ids or ())
    encoding = model.tokenizer(layout.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = _Tokens(model, layout.text, encoding.input_ids, encoding.offset_mapping)
    _refuse_special_tokens(model, layout, tokens)
    limit = getattr(model.module.config.get_text_config(), "max_position_embeddings", None)
    if limit and len(bos) + len(tokens.ids) > limit:
        raise CrosstaskError(
            f"the prompt has {len(bos) + len(tokens.ids)} tokens, but model {model.name!r} takes at most {limit}; "
            "use fewer examples"
        )
    starts = [len(bos) + tokens.first_from(piece.start) for piece in layout.pieces] + [len(bos) + len(tokens.ids)]
    segments = [Segment("bos", model.bos_text, None, 0, len(bos))] if bos else []
    for piece, start, stop in zip(layout.pieces, starts, starts[1:], strict=False):
        segments.append(Segment(piece.role, piece.content, piece.example, start, stop))
    ids = (*bos, *tokens.ids)
    return Prompt(
        segments=tuple(segments),
        input_ids=ids,
        images=tuple(layout.images),
        token_inputs=model.family.token_inputs(model.module, torch.tensor(ids), layout.images),
        delimiters=tuple(len(bos) + tokens.exactly(start, stop, owner) for start, stop, owner in layout.delimiters),
        text=layout.text,
    )


@dataclass(frozen=True)
class _Piece:
    role: Role
    content: Content
    example: int | None
    start: int
    """First character in the prompt's text."""


@dataclass
class _Layout:
    """The prompt's text under construction, and where its pieces and delimiters are in it, in characters."""

    text: str = ""
    pieces: list[_Piece] = field(default_factory=list)
    images: list[dict[str, Tensor]] = field(default_factory=list)
    delimiters: list[tuple[int, int, str]] = field(default_factory=list)
    n_images: int = 0
    """How many images the prompt will have."""
    begins_itself: bool = False
    """The text holds the beginning of sequence, so it is not put before it."""
    closing: str = ""
    """What the chat template writes after the user's message."""

    def add(self, role: Role, content: Content, text: str, example: int | None = None) -> None:
        if text:
            self.pieces.append(_Piece(role, content, example, len(self.text)))
            self.text += text

    def end_in_delimiter(self, delimiter: str, owner: str) -> None:
        self.delimiters.append((len(self.text) - len(delimiter), len(self.text), owner))


def _lay_out(model: Model, specification: Specification, query: Content | None, template: Template) -> _Layout:
    inputs = [*(example.input for example in specification.examples), query]
    n_images = sum(isinstance(content, Image) for content in inputs)
    chat = template.turns == "chat"
    layout = _Layout(n_images=n_images, begins_itself=chat or bool(n_images and model.family.bos_after_images))
    if chat:
        _open_chat(model, layout, specification.system)
    elif specification.system is not None:
        raise CrosstaskError("a system message needs the model's chat template; use a template with 'chat:'")
    if specification.instruction is not None:
        instruction = _visible(specification.instruction, "the instruction")
        layout.add("instruction", instruction, instruction)
    if query is None:
        if specification.kind != "instruction":
            raise CrosstaskError(f"a specification of kind {specification.kind!r} needs a query")
        if not layout.text.endswith(template.delimiter):
            raise CrosstaskError(
                f"the instruction {layout.text!r} must end in the template's delimiter {template.delimiter!r}"
            )
        layout.end_in_delimiter(template.delimiter, "the instruction")
        return layout
    if specification.instruction is not None:
        layout.add("frame", template.separator, template.separator)
    for index, example in enumerate(specification.examples):
        _add_question(model, layout, example.input, template, index)
        output = template.output_lead + _visible(example.output, f"the output of example {index}")
        layout.add("output", example.output, output, index)
        layout.add("frame", template.separator, template.separator, index)
    _add_question(model, layout, query, template, None)
    return layout


def _open_chat(model: Model, layout: _Layout, system: str | None) -> None:
    """What comes before the user's message: the chat template's own text, with the system message if there is one."""
    if system is None:
        before, layout.closing = model.chat_frame
    else:
        opening, before, layout.closing = model.system_frame
        system = _visible(system, "the system message")
        layout.add("turn", opening, opening)
        layout.add("instruction", system, system)
    layout.add("turn", before, before)


def _add_question(model: Model, layout: _Layout, content: Content, template: Template, example: int | None) -> None:
    """Input prefix, input, and output prefix with its delimiter."""
    owner = "the query" if example is None else f"example {example}"
    prefix = template.input_prefix.rstrip(" ")
    lead = template.input_prefix[len(prefix) :]  # a space before a word is part of the word's token
    output_prefix = template.output_prefix
    if isinstance(content, Image):
        if layout.images and not model.family.several_images:
            raise CrosstaskError(
                f"model {model.name!r} takes one image a prompt, but {owner} brings another, {content}"
            )
        output_prefix = model.family.after_image(output_prefix)
        inputs = model.image_inputs(content, among=layout.n_images)
        layout.add("frame", template.input_prefix, template.input_prefix, example)
        layout.add("input", content, inputs.text, example)
        layout.images.append(inputs.features)
        if model.family.bos_after_images and len(layout.images) == layout.n_images and template.turns == "plain":
            layout.add("bos", model.bos_text, model.bos_text, example)
    else:
        layout.add("frame", prefix, prefix, example)
        layout.add("input", content, lead + _visible(content, f"the input of {owner}"), example)
    if example is None and template.turns == "chat":
        turn, output_prefix = layout.closing, output_prefix.lstrip()
        turn += "" if turn[-1:].isspace() else " "  # or the first word would be joined to the template's last
        layout.add("turn", turn, turn)
    layout.add("frame", output_prefix, output_prefix, example)
    layout.end_in_delimiter(template.delimiter, owner)


def _visible(text: str, what: str) -> str:
    if not text.strip():
        raise CrosstaskError(f"{what} is empty")
    return text


class _Tokens:
    """Token ids of a text with their character offsets."""

    def __init__(self, model: Model, text: str, ids: list[int], offsets: list[tuple[int, int]]) -> None:
        self.model, self.text, self.ids, self.offsets = model, text, ids, offsets
        self.starts = [start for start, _ in offsets]

    def first_from(self, character: int) -> int:
        """The first token that begins at this character or later."""
        return bisect_left(self.starts, character)

    def exactly(self, start: int, stop: int, owner: str) -> int:
        """The one token that covers these characters and nothing else."""
        touching = [i for i, (a, b) in enumerate(self.offsets) if a < stop and b > start]
        if len(touching) == 1 and self.offsets[touching[0]] == (start, stop):
            return touching[0]
        wide = any(self.offsets[i][0] < start or self.offsets[i][1] > stop for i in touching)
        near = range(max(0, min(touching, default=0) - 3), min(len(self.ids), max(touching, default=0) + 4))
        raise CrosstaskError(
            f"the delimiter {self.text[start:stop]!r} of {owner} must be one token, but the tokenizer of "
            f"{self.model.name!r} {'joins it to its neighbours' if wide else 'splits it'}: "
            f"text {self.text[max(0, start - 20) : stop + 20]!r}, "
            f"tokens {self.model.tokenizer.convert_ids_to_tokens([self.ids[i] for i in near])}; change the template "
            "(--template), for example to one with a space after the delimiter: 'Q: {x}\\nA: {y}\\n\\n'"
        )


def _refuse_special_tokens(model: Model, layout: _Layout, tokens: _Tokens) -> None:
    """Data must not open an image, end a document, or change the speaker."""
    special = model.special_tokens
    starts = [piece.start for piece in layout.pieces]
    for token, (start, stop) in zip(tokens.ids, tokens.offsets, strict=True):
        if token not in special or special[token] not in tokens.text[start:stop]:
            continue  # an unknown character may get a special id too, without being written as one
        piece = layout.pieces[bisect_left(starts, start + 1) - 1]
        if not isinstance(piece.content, Image) and piece.role not in ("bos", "turn"):
            kind = "an image placeholder" if special[token] == model.family.image_placeholder else "a special token"
            raise CrosstaskError(
                f"the text {piece.content!r} holds {special[token]!r}, which model {model.name!r} reads as {kind}; "
                "remove it from the data, or pass the picture as an Image"
            )
