"""What strategies whose tower reads the question have in common: an encoder of texts, and the slot of the context."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from interp.tuning.text_context import ContextSlot, context_inputs, context_of
from interp.tuning.text_encoder import TextEncoder, text_encoder


class ReadsText:
    """Mixin before a strategy: batches hold the context of their images, and the tower finds it in `slot`.

    The strategy's options name the encoder as `text`. The modules that it puts into the tower are given `slot`.
    """

    wants_states = False
    """Whether the states of all tokens are needed, besides one vector a text."""
    options: Any
    model: Any

    @property
    def reads_text(self) -> bool:
        return True

    @property
    def encoder(self) -> TextEncoder:
        return text_encoder(self.options.text)

    @property
    def slot(self) -> ContextSlot:
        if not hasattr(self, "_slot"):
            self._slot = ContextSlot()
        return self._slot

    def text_inputs(self, texts: Sequence[str], owner: Sequence[int]) -> dict[str, Tensor]:
        if not self.reads_text:
            return {}
        return context_inputs(self.encoder, texts, owner, states=self.wants_states)

    def beside(self) -> dict[str, str]:
        return {"text_encoder": self.encoder.fingerprint} if self.reads_text else {}

    @contextlib.contextmanager
    def context(self, inputs: Mapping[str, Tensor]) -> Iterator[None]:
        """While the module runs on this batch, its tower reads the batch's context."""
        if not self.reads_text:
            yield
            return
        with self.slot.given(context_of(inputs).to(self.model.device)):
            yield
