"""Items as what the model reads, in the words and tokens that training uses.

The reply "(B)" is encoded with its question exactly as in training. Replies with different letters begin with the same
tokens, as a rule "(", and then differ in one: the reading stops before it, and the letters are the tokens that may
follow. Where letters differ in more than one token (or in how many there are), the whole reply is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from interp.errors import CrosstaskError
from interp.images import Image
from interp.models.base import Model
from interp.tasks.perception.items import LETTERS, PerceptionItem
from interp.tuning.encoding import Encoded, encode
from interp.tuning.evaluation.packing import Reading, Shown


@dataclass(eq=False)
class ItemReader:
    """Reads items for one model, and keeps their pictures by key.

    Attributes:
        model: the model.
        pictures: the pictures of the items read so far, and among how many each is shown.
    """

    model: Model
    pictures: dict[str, tuple[Image, int]] = field(default_factory=dict)

    def readings(self, item: PerceptionItem) -> list[Reading]:
        """One reading up to the token before the letter; or, where letters are not one token each, one for each letter
        up to the last token of the whole reply."""
        if self.single:
            return [self._reading(item, 0)]
        return [self._reading(item, letter) for letter in range(len(item.options))]

    def reply_ids(self, n: int) -> list[tuple[int, ...]]:
        """For each of n letters the tokens that tell it from the others: one, or those of the whole reply."""
        if not self.single:
            return self.replies[:n]
        return [(reply[self.common],) for reply in self.replies[:n]]

    @cached_property
    def replies(self) -> list[tuple[int, ...]]:
        """The tokens of "(A)" to "(H)" after a question, with what ends them."""
        encoded = [encode(self.model, [], [("Which?", f"({letter})")]) for letter in LETTERS]
        return [tuple(one.input_ids[one.first_answer :].tolist()) for one in encoded]

    @cached_property
    def single(self) -> bool:
        """Whether letters differ in exactly one token."""
        after = {reply[self.common + 1 :] for reply in self.replies}
        letters = {reply[self.common : self.common + 1] for reply in self.replies}
        return len(after) == 1 and len(letters) == len(LETTERS)

    @cached_property
    def common(self) -> int:
        """How many tokens all replies begin with alike."""
        n = 0
        for column in zip(*self.replies, strict=False):
            if len(set(column)) > 1:
                break
            n += 1
        return n

    def _reading(self, item: PerceptionItem, letter: int) -> Reading:
        encoded = encode(self.model, item.images, [(item.prompt, f"({LETTERS[letter]})")])
        reply, first = self.replies[letter], encoded.first_answer
        if tuple(encoded.input_ids[first : first + len(reply)].tolist()) != reply:
            raise CrosstaskError(
                f"after item {item.name!r} the reply ({LETTERS[letter]}) is tokenised otherwise than after other items"
            )
        stop = first + (self.common if self.single else len(reply) - 1)
        return self.reading_of(encoded, item.images, stop)

    def open(self, item: PerceptionItem) -> Reading:
        """The item as a prompt to be answered."""
        encoded = encode(self.model, item.images, [(item.prompt, None)])
        return self.reading_of(encoded, item.images, encoded.n_tokens)

    def reading_of(self, encoded: Encoded, images: Sequence[Image], stop: int) -> Reading:
        """The first tokens of a conversation, with the places of its pictures."""
        ids = encoded.input_ids[:stop]
        tokens = {name: tensor[..., :stop] for name, tensor in encoded.token_inputs.items()}
        return Reading(tuple(ids.tolist()), tokens, self._shown(ids, images))

    def _shown(self, ids: Any, images: Sequence[Image]) -> tuple[Shown, ...]:
        """Where each picture's features go."""
        if not images:
            return ()
        token = int(self.model.module.config.image_token_id)
        text = self.model.tokenizer.convert_ids_to_tokens(token)
        places = torch.nonzero(ids == token)[:, 0].tolist()
        counts = [self.model.image_inputs(image, among=len(images)).text.count(text) for image in images]
        if sum(counts) != len(places) or 0 in counts:
            raise CrosstaskError(
                f"model {self.model.name!r} writes {len(images)} pictures with {sum(counts)} image tokens, but the "
                f"prompt holds {len(places)}"
            )
        starts = [sum(counts[:n]) for n in range(len(counts) + 1)]
        return tuple(
            Shown(self._keep(image, len(images)), places[a], places[b - 1] + 1)
            for image, a, b in zip(images, starts, starts[1:], strict=False)
        )

    def _keep(self, image: Image, among: int) -> str:
        """Remember a picture; its key says among how many it is shown, where that matters."""
        key = f"{image.key} {among if self.model.family.alone_differs else 1}"
        self.pictures[key] = image, among
        return key
