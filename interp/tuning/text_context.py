"""What a text-conditioned vision tower is told while it encodes pictures: the question of each picture's conversation.

Images stand flat, in the order of the module's pixel values, and `owner` says which conversation each belongs to:

    conversation   0        1   2
    text           t_0      t_1 t_2          embeds [S, C], S = 3
    images         i_0 i_1  i_2              owner  [I] = (0, 0, 1)

A tower is called deep inside the module (in `generate()` even before the first forward), so the context is not passed
down but held in a slot beside the module, for as long as the block lasts:

    with slot.given(context):
        module(**inputs)                     # or module.generate(**inputs)

A tower that finds no context, or one for another number of images, raises: a wrong context is worse than none.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import CrosstaskError

if TYPE_CHECKING:
    from interp.images import Image
    from interp.models.base import Model
    from interp.tuning.text_encoder import TextEncoder

PREFIX = "context_"
"""Of the tensors in a batch that are not the module's."""

_OPTION = re.compile(r"^\s*\(?[A-Ha-h][).:]\s+\S.*$|^\s*\([A-H]\)\s*\S.*$")
_MARK = re.compile(r"<\|?(?:image|image_pad|vision_start|vision_end|img|video)\|?>|<image_soft_token>|\[image\]", re.I)
_FORMAT = re.compile(
    r"^\s*(?:please\s+)?(?:"
    r"(?:answer|reply|respond)\b.*\b(?:with|by|in|using|directly|yes or no)\b"
    r"|(?:select|choose|pick)\b.*\b(?:choices|options|answers|letter)\b"
    r"|(?:give|write|return|output|state)\b.*\b(?:letter|option's|only|just)\b)",
    re.I,
)
"""Sentences that begin by saying in which form to answer."""


@dataclass(frozen=True, eq=False)
class TextContext:
    """The texts of a batch, and whose image is whose.

    Attributes:
        embeds: one vector a conversation.
        owner: the conversation of each image, images in the order of the pixel values; of each tile, where images are
            cut into tiles (:func:`owners`).
        states: the text encoder's state of each token, padded; None unless they were asked for.
        mask: which states are there.
    """

    embeds: Float[Tensor, "S C"]
    owner: Int[Tensor, " I"]
    states: Float[Tensor, "S Q C"] | None = None
    mask: Bool[Tensor, "S Q"] | None = None

    def __post_init__(self) -> None:
        conversations = len(self.embeds)
        if self.owner.numel() and not 0 <= int(self.owner.min()) <= int(self.owner.max()) < conversations:
            raise CrosstaskError(
                f"a context's owners number its {conversations} texts from 0, and were given as {self.owner.tolist()}"
            )
        if (self.states is None) != (self.mask is None) or (
            self.states is not None and len(self.states) != conversations
        ):
            raise CrosstaskError(f"a context of {conversations} texts has states and mask for each of them, or neither")

    @property
    def n_images(self) -> int:
        return len(self.owner)

    @property
    def of_images(self) -> Float[Tensor, "I C"]:
        """The text vector of each image."""
        return self.embeds[self.owner]

    def to(self, device: torch.device | str) -> TextContext:
        """The same context on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return TextContext(**moved)


class ContextSlot:
    """Where a tower finds its context. It stands beside the module, not in it, and copies of the module share it."""

    def __init__(self) -> None:
        self._held: TextContext | None = None
        self._kind: str | None = None

    @contextlib.contextmanager
    def given(self, context: TextContext) -> Iterator[None]:
        """Hold a context; the one before it comes back afterwards."""
        before = self._held, self._kind
        self._held, self._kind = context, None
        try:
            yield
        finally:
            self._held, self._kind = before

    def current(self, images: int | None = None) -> TextContext:
        """The context that is held.

        Args:
            images: how many images the tower is encoding, if it knows.

        Raises:
            CrosstaskError: there is none, or it is for another number of images.
        """
        if self._held is None:
            raise CrosstaskError(
                "the vision tower reads the question, and was called without one: run the module within "
                "`with adapter.context(texts, owner):` (or `strategy.context(batch)`)"
            )
        if images is not None and images != self._held.n_images:
            raise CrosstaskError(
                f"the vision tower encodes {images} images, but its context is for {self._held.n_images}: owner names "
                "the conversation of every image (of every tile, where a picture is cut into tiles)"
            )
        return self._held

    def encodes(self, kind: str) -> None:
        """Note what a tower encodes with the context that is held.

        Args:
            kind: "images" or "videos".

        Raises:
            CrosstaskError: it was the other kind before. Both would be told the first texts.
        """
        if self._kind not in (None, kind):
            raise CrosstaskError(
                f"the vision tower encodes {kind} with a context that it has read for {self._kind}: owner names the "
                "conversations of one kind, so give each kind a pass and a context of its own"
            )
        self._kind = kind

    def __deepcopy__(self, memo: dict[int, Any]) -> ContextSlot:
        return self


def owners(model: Model, conversations: Iterable[Sequence[Image]]) -> list[int]:
    """The conversation of each picture that the tower is given: of each tile, where images are cut into tiles.

    Args:
        model: cuts them.
        conversations: the images of each.
    """
    return [
        index
        for index, images in enumerate(conversations)
        for image in images
        for _ in range(model.tower_images(image, among=len(images)))
    ]


def context_inputs(
    encoder: TextEncoder, texts: Sequence[str], owner: Sequence[int], *, states: bool = False
) -> dict[str, Tensor]:
    """The tensors of a context, for a batch.

    Args:
        encoder: of the texts.
        texts: one a conversation, as `context_text` gives them.
        owner: the conversation of each image.
        states: the states of all tokens as well.
    """
    found: dict[str, Tensor] = {
        "context_embeds": encoder.encode(texts),
        "context_owner": torch.tensor(list(owner), dtype=torch.long),
    }
    if states:
        found["context_states"], found["context_mask"] = encoder.states(texts)
    return found


def context_of(inputs: Mapping[str, Tensor]) -> TextContext:
    """The context that `context_inputs` put into a batch.

    Raises:
        CrosstaskError: the batch holds none.
    """
    if "context_embeds" not in inputs or "context_owner" not in inputs:
        raise CrosstaskError("the batch holds no context_embeds and context_owner, which the vision tower reads")
    return TextContext(
        inputs["context_embeds"], inputs["context_owner"], inputs.get("context_states"), inputs.get("context_mask")
    )


def without_context(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch without the tensors that are not the module's."""
    return {name: value for name, value in inputs.items() if not name.startswith(PREFIX)}


def context_text(question: str | Sequence[str]) -> str:
    """What a tower is told of a question: what is asked, and neither the options nor how to answer.

    One rule for training and evaluation: image marks are taken out, then lines that hold an option ("(A) ..."), then
    sentences that say in which form to answer. What is left stands in one line. If nothing is left, the question
    without image marks is taken.

    Args:
        question: a question, or all human turns of a conversation.
    """
    turns = [question] if isinstance(question, str) else list(question)
    bare = [_MARK.sub(" ", turn) for turn in turns]
    kept = " ".join(_cleaned(turn) for turn in bare)
    return " ".join((kept if kept.strip() else " ".join(bare)).split())


def _cleaned(turn: str) -> str:
    lines = [line for line in turn.splitlines() if not _OPTION.match(line)]
    sentences = [part for line in lines for part in re.split(r"(?<=[.?!])\s+", line)]
    return " ".join(part for part in sentences if part.strip() and not _FORMAT.search(part))
