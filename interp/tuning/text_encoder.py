"""Encoders of the question for a vision tower that reads it: frozen, and never part of the model or of what is saved.

    minilm     all-MiniLM-L6-v2 (22.7 million parameters, width 384, Apache-2.0) from a Python package: mean over the
               token states, scaled to length 1
    hashing    a fixed random vector a word: for tests, and a control that knows words and no meaning
    a hub id   any BERT-like encoder, such as google-bert/bert-base-uncased: the state of the first token ([CLS])

Texts are few and come back in every epoch, so their vectors are kept on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


class TextEncoder(Protocol):
    """Turns questions into vectors, on the CPU, in float32.

    Attributes:
        name: as options give it.
        width: C.
        fingerprint: tells its vectors from those of others.
    """

    name: str
    width: int
    fingerprint: str

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "S C"]:
        """One vector a text."""

    def states(self, texts: Sequence[str]) -> tuple[Float[Tensor, "S Q C"], Bool[Tensor, "S Q"]]:
        """The state of each token, padded, and which are there."""


class HashingEncoder:
    """A fixed random vector for each word, by the word's sha256; a text is the mean of its words."""

    name = "hashing"

    def __init__(self, width: int = 32) -> None:
        """Make an encoder of a width."""
        self.width = width
        self.fingerprint = f"hashing {width}"

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "S C"]:
        return torch.stack([self._words(text).mean(0) for text in texts])

    def states(self, texts: Sequence[str]) -> tuple[Float[Tensor, "S Q C"], Bool[Tensor, "S Q"]]:
        words = [self._words(text) for text in texts]
        lengths = torch.tensor([len(one) for one in words])
        padded = torch.nn.utils.rnn.pad_sequence(words, batch_first=True)
        return padded, torch.arange(padded.shape[1]) < lengths[:, None]

    def _words(self, text: str) -> Float[Tensor, "Q C"]:
        return torch.stack([self._word(word) for word in text.lower().split() or [""]])

    def _word(self, word: str) -> Float[Tensor, " C"]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(self.width)).float()


@cache
def text_encoder(name: str) -> TextEncoder:
    """An encoder by name.

    Raises:
        CrosstaskError: it cannot be loaded.
    """
    if name == "hashing":
        return HashingEncoder()
    from interp.tuning.text_models import hub_encoder, minilm_encoder

    return minilm_encoder() if name == "minilm" else hub_encoder(name)
