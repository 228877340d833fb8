"""QA-ViT (Ganz et al. 2024): the late half of a frozen tower attends to the question as well as to the picture.

At each block of the late half, with question states t_1 .. t_Q, a projection of them for this block alone,

    q_j = W_2 gelu(W_1 LN(t_j)),                       in R^D
    a = Attention(queries: x; keys, values: [q_1 .. q_Q, x])
    out = P(Attention(x)) + tanh(beta) P'(a)           P' a copy of P, beta = 0 at the start

where Attention has the tower's own frozen weights and P is its output projection. So the model begins as it was.
Departures, from a reading of the release (Apache-2.0): there the frozen path reads the question too, P(a) in place of
P(Attention(x)), which changes the model from the first step on (option `path=question`); padding of the questions is
masked here and is not there; and here blocks that nothing reads are left out.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.tuning.strategies.checkpoints import keep_held
from interp.tuning.strategies.registry import register
from interp.tuning.strategies.text import ReadsText
from interp.tuning.strategies.towers import no_more_tokens, tower_blocks, tower_width, used_blocks, vision_tower
from interp.tuning.strategies.vision import VisionOptions, VisionStrategy
from interp.tuning.text_context import ContextSlot

ATTENTION = ("self_attn", "attention", "attn")
OUTPUT = ("out_proj", "projection_layer", "o_proj", "proj")


@dataclass(frozen=True)
class QaVitOptions(VisionOptions):
    """How the question enters."""

    text: str = "minilm"
    """Encoder of the question: minilm, hashing, or a hub id."""
    tokens: int = 30
    """Most question tokens that are read."""
    path: Literal["picture", "question"] = "picture"
    """What the frozen output projection reads: attention to the picture alone, so that the model begins as it was, or
    to picture and question, as in the release."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise CrosstaskError(f"option tokens of qa_vit is at least 1, and was given as {self.tokens}")


class QuestionAttention(nn.Module):
    """In the place of a block's attention."""

    def __init__(
        self, attention: nn.Module, output: nn.Module, slot: ContextSlot, *, text_width: int, width: int, options: Any
    ) -> None:
        """Begin as the block's own attention.

        Args:
            attention: the tower's, without its output projection.
            output: that projection, P.
            slot: where the question is found.
            text_width: of the question's states.
            width: D.
            options: of the strategy.
        """
        super().__init__()
        self.attention, self.output, self.options = attention, output, options
        self._slot = slot
        self.question = nn.Sequential(
            nn.LayerNorm(text_width),
            nn.Linear(text_width, width, bias=False),
            nn.GELU(),
            nn.Linear(width, width, bias=False),
        ).to(next(output.parameters()))
        self.second = deepcopy(output).requires_grad_(True)
        self.gate = nn.Parameter(next(output.parameters()).new_zeros(()))

    def forward(self, hidden_states: Float[Tensor, "I N D"], *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        context = self._slot.current(len(hidden_states))
        assert context.states is not None
        assert context.mask is not None
        states = context.states[context.owner, : self.options.tokens]
        mask = context.mask[context.owner, : self.options.tokens]
        question = self.question(states.to(next(self.question.parameters()).dtype)).to(hidden_states.dtype)
        joined = torch.cat([question, hidden_states], 1)
        own = kwargs.get("attention_mask", args[0] if args else None)
        attended = self.attention(joined, attention_mask=_hidden(mask, own, joined))[0][:, question.shape[1] :]
        plain, weights = (
            (attended, None) if self.options.path == "question" else self.attention(hidden_states, *args, **kwargs)
        )
        return self.output(plain) + torch.tanh(self.gate) * self.second(attended), weights


def _hidden(
    mask: Bool[Tensor, "I Q"], own: Tensor | None, joined: Float[Tensor, "I Q+N D"]
) -> Float[Tensor, "I 1 Q+N Q+N"] | None:
    """An additive mask over keys that hides the padding of questions, and what the tower itself hides (the filling of
    images of unlike sizes); None if nothing is hidden.

    Args:
        mask: which question tokens are there.
        own: the tower's mask of an image's tokens: `[I, N]` of those there, or `[I, 1, N or 1, N]`, true for those seen
            or added to the logits.
        joined: question tokens, then image tokens.
    """
    if own is None and bool(mask.all()):
        return None
    (images, tokens, _), asked = joined.shape, mask.shape[1]
    least = torch.finfo(joined.dtype).min
    added = joined.new_zeros(images, 1, tokens, tokens)
    added[..., :asked].masked_fill_(~mask[:, None, None], least)
    if own is not None:
        own = own.bool()[:, None, None] if own.dim() == 2 else own
        hides = joined.new_zeros(own.shape).masked_fill(~own, least) if own.dtype == torch.bool else own
        added[:, :, asked:, asked:] += hides
        added[:, :, :asked, asked:] += hides[:, :, :1]  # rows of the question, which nobody reads
    return added


@register
class QaVit(ReadsText, VisionStrategy):
    """Question states as further keys and values of the tower's late half."""

    name = "qa_vit"
    summary = "language model, projector, and a gated path by which the vision tower's late half reads the question"
    wants_states = True
    Options = QaVitOptions

    def attach_tower(self) -> None:
        if reason := no_more_tokens(self.model):
            raise CrosstaskError(f"the vision tower of {self.model.name!r} has no room for the question: {reason}")
        blocks, width = tower_blocks(self.model), tower_width(self.model)
        for block in blocks[len(blocks) // 2 : used_blocks(self.model)]:
            at, attention = _child(block, ATTENTION)
            out, output = _child(attention, OUTPUT)
            asked = QuestionAttention(
                attention, output, self.slot, text_width=self.encoder.width, width=width, options=self.options
            )
            self.graft.put(attention, out, nn.Identity())  # the projection is applied by the module around it
            self.graft.put(block, at, asked)
        keep_held(self.graft, vision_tower(self.model)[1], blocks, self.slot)


def _child(module: nn.Module, names: tuple[str, ...]) -> tuple[str, nn.Module]:
    for name, child in module.named_children():
        if name in names:
            return name, child
    raise CrosstaskError(f"{type(module).__name__} has none of {', '.join(names)}, so the question cannot enter it")
