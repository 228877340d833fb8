"""Greedy decoding with the cache: what every engine of patching shares.

The answer of a row ends at the stop string, at an end-of-sequence token, after ``max_new_tokens``, or when the caller
says that it can no longer become what is looked for. Finished rows leave the batch. Position ids and the attention mask
are explicit, so left padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from interp.errors import CrosstaskError
from interp.models.base import Model


@dataclass(frozen=True)
class Generation:
    """What a row answered.

    Attributes:
        text: the decoded tokens up to the stop string.
        token_ids: the generated ids, the one that ended the answer included.
        first_token: text of the first generated token; empty if that ended the sequence.
        stopped: the answer ended by itself, not by a limit or by pruning.
    """

    text: str
    token_ids: tuple[int, ...]
    first_token: str
    stopped: bool


@dataclass
class _Answer:
    ids: list[int] = field(default_factory=list)
    text: str = ""
    done: bool = False
    stopped: bool = False


class Answers:
    """The answers of N rows while they are written, one token at a time."""

    def __init__(
        self,
        model: Model,
        n_rows: int,
        *,
        max_new_tokens: int,
        stop: str | None,
        keep: Callable[[int, str], bool] | None = None,
    ) -> None:
        if max_new_tokens < 1:
            raise CrosstaskError(f"an answer takes at least one new token, got max_new_tokens={max_new_tokens}")
        self.model, self.max_new_tokens, self.stop, self.keep = model, max_new_tokens, stop, keep
        self.answers = [_Answer() for _ in range(n_rows)]

    def push(self, rows: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """Give each row its next token, unless it is finished.

        Returns:
            Indices into ``rows`` of those that go on.
        """
        for row, token in zip(rows, tokens, strict=True):
            if not self.answers[row].done:
                self._append(row, self.answers[row], token)
        return [index for index, row in enumerate(rows) if not self.answers[row].done]

    def _append(self, row: int, answer: _Answer, token: int) -> None:
        answer.ids.append(token)
        answer.text = self._decode(answer.ids)
        if token in self.model.stop_ids:
            answer.done = answer.stopped = True
        elif self.stop is not None and self.stop in answer.text:
            answer.text = answer.text.partition(self.stop)[0]
            answer.done = answer.stopped = True
        else:
            # A character may take several tokens; until the last it is shown as U+FFFD, which decides nothing.
            answer.done = len(answer.ids) == self.max_new_tokens or (
                self.keep is not None and not self.keep(row, answer.text.rstrip("\ufffd"))
            )

    def _decode(self, ids: list[int]) -> str:
        return self.model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def results(self) -> list[Generation]:
        """The finished answers, in row order."""
        return [Generation(a.text, tuple(a.ids), self._decode(a.ids[:1]), a.stopped) for a in self.answers]


def new_cache(model: Model) -> DynamicCache:
    """An empty cache that keeps every position.

    For attention layers the configuration is left out on purpose: sliding windows are then a matter of the mask, and
    the cache can be cut back and continued. Recurrent layers need caches of their own.
    """
    return DynamicCache() if model.family.caches(model.module) else DynamicCache(config=model.module.config)


def decode(
    model: Model,
    answers: Answers,
    rows: Sequence[int],
    cache: DynamicCache,
    mask: Int[Tensor, "B T"],
    positions: Sequence[int],
    logits: Float[Tensor, "B V"],
) -> None:
    """Continue greedily until every answer is finished.

    Args:
        model: the model that filled the cache.
        answers: takes the tokens.
        rows: for each row of the cache the answer that it writes.
        cache: keys and values of the sequence so far; is used up.
        mask: which of its columns are real tokens.
        positions: the position id of the last token of each row.
        logits: the prediction for the first new token.
    """
    held, position = list(rows), torch.tensor(positions, device=mask.device)[:, None]
    while True:
        tokens = logits.argmax(-1)
        going = answers.push(held, tokens.tolist())
        if not going:
            return
        if 2 * len(going) <= len(held) and model.family.caches(model.module):
            kept = torch.tensor(going)  # on the CPU, since the blocks' caches may lie on several devices
            cache.batch_select_indices(kept)
            tokens, mask, position, held = tokens[kept], mask[kept], position[kept], [held[i] for i in going]
        position = position + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        step = {"input_ids": tokens[:, None], "attention_mask": mask, "position_ids": position}
        logits = model.forward(step, fresh=False, past_key_values=cache, use_cache=True).logits[:, -1]
