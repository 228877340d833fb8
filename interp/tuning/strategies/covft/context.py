"""Contextual vectors: one an image and block, of what the block sees and what is asked.

Zhou et al. (2026), Context Vector Extraction:

    z_hat = Res(z),  t_hat = Res'(t),     Res(v) = LayerNorm(v + W2 QuickGELU(W1 v)), hidden width 2 dim(v)
    c = MultiHead(query = t_hat, key = value = [z_hat_i ; t_hat] for every token i)

z [I, N, D] is the block's input to its feed-forward part and t [I, C] the question's vector; text is joined to each
token along its channels. Since t_hat is the same in every key, its part of a key adds one constant to all logits of a
head, which the softmax takes away, so the vector is exactly

    c = W_o (sum_i a_i W_v^z z_hat_i + W_v^t t_hat + b_v) + b_o,     a = softmax_i(q(t_hat) . W_k^z z_hat_i)

an attention pooling of the image with a linear way past it for the text. It is computed in that form, in which keys
need not be made: q is taken through W_k^z first, and values after the sum. Each block has weights of its own.

The other contexts are the paper's ablations, whose exact form is not published; ours are

    text    c = t_hat
    image   the same pooling with a learned query, and without text
    concat  c = [mean_i z_hat_i ; t_hat]
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from interp.errors import CrosstaskError
from interp.tuning.strategies.covft.options import CoVFTOptions


class Residual(nn.Module):
    """v -> LayerNorm(v + W2 QuickGELU(W1 v))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        if hidden < 1:
            raise CrosstaskError(
                f"option res_mult of covft leaves no hidden layer to a residual block of width {width}"
            )
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.act = ACT2FN["quick_gelu"]
        self.norm = nn.LayerNorm(width)

    def forward(self, v: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return self.norm(v + self.down(self.act(self.up(v))))


class Pooling(nn.Module):
    """Multi-head attention of one query over an image's tokens, with text of width E joined to every token.

    Weights are laid out, drawn and counted as those of `torch.nn.MultiheadAttention` with keys and values of width
    D + E, so the text's part of the key matrix and the key's bias are there, although nothing depends on them and their
    gradient is zero. E is 0 without text.
    """

    def __init__(self, width: int, image: int, text: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise CrosstaskError(f"option heads of covft divides the context's width {width}, and was given as {heads}")
        self.image, self.heads = image, heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(image + text, width), nn.Linear(image + text, width)
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Float[Tensor, "I C"],
        tokens: Float[Tensor, "I N D"],
        text: Float[Tensor, "I E"] | None,
        mask: Bool[Tensor, "I N"] | None,
    ) -> Float[Tensor, "I C"]:
        d, heads, each = self.image, self.heads, query.shape[-1] // self.heads
        of_image = [layer.weight[:, :d].unflatten(0, (heads, each)) for layer in (self.key, self.value)]
        q = self.query(query).unflatten(-1, (heads, each))
        folded = torch.einsum("ihe,hed->ihd", q, of_image[0]) / each**0.5
        logits = torch.einsum("ihd,ind->ihn", folded, tokens)
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None], -torch.inf)
        weights = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1).to(tokens.dtype)
        pooled = torch.einsum("ihn,ind->ihd", weights, tokens)
        values = torch.einsum("ihd,hed->ihe", pooled, of_image[1]).flatten(1)
        if text is not None:
            values = values + nn.functional.linear(text, self.value.weight[:, d:])
        values = values + self.value.bias + 0 * self.key.bias  # distributed training asks that all take part
        return self.out(values)


class ContextExtractor(nn.Module, ABC):
    """Makes one vector an image.

    Attributes:
        width: of the vectors.
    """

    width: int

    @abstractmethod
    def forward(
        self,
        tokens: Float[Tensor, "I N D"],
        text: Float[Tensor, "I C"] | None,
        mask: Bool[Tensor, "I N"] | None = None,
    ) -> Float[Tensor, "I W"]:
        """One vector an image.

        Args:
            tokens: the block's input to its feed-forward part.
            text: the question's vector, for each image.
            mask: which tokens are there, where images have unlike numbers of them.
        """


class CVE(ContextExtractor):
    """Attention of the question over the image: the paper's context."""

    def __init__(self, image: int, text: int, options: CoVFTOptions) -> None:
        super().__init__()
        self.width = text
        self.image_block = Residual(image, int(options.res_mult * image))
        self.text_block = Residual(text, int(options.res_mult * text))
        self.pooling = Pooling(text, image, text, options.heads)

    def forward(self, tokens: Tensor, text: Tensor | None, mask: Tensor | None = None) -> Tensor:
        told = self.text_block(_told(text))
        return self.pooling(told, self.image_block(tokens), told, mask)


class TextContextVector(ContextExtractor):
    """The question alone."""

    def __init__(self, image: int, text: int, options: CoVFTOptions) -> None:
        super().__init__()
        self.width = text
        self.text_block = Residual(text, int(options.res_mult * text))

    def forward(self, tokens: Tensor, text: Tensor | None, mask: Tensor | None = None) -> Tensor:
        return self.text_block(_told(text))


class ImageContextVector(ContextExtractor):
    """The image alone, pooled with a learned query."""

    def __init__(self, image: int, text: int, options: CoVFTOptions) -> None:
        super().__init__()
        self.width = text
        self.query = nn.Parameter(torch.randn(text) / text**0.5)
        self.image_block = Residual(image, int(options.res_mult * image))
        self.pooling = Pooling(text, image, 0, options.heads)

    def forward(self, tokens: Tensor, text: Tensor | None, mask: Tensor | None = None) -> Tensor:
        query = self.query.expand(len(tokens), -1)
        return self.pooling(query, self.image_block(tokens), None, mask)


class JoinedContextVector(ContextExtractor):
    """The mean of the image's tokens, and the question, side by side."""

    def __init__(self, image: int, text: int, options: CoVFTOptions) -> None:
        super().__init__()
        self.width = image + text
        self.image_block = Residual(image, int(options.res_mult * image))
        self.text_block = Residual(text, int(options.res_mult * text))

    def forward(self, tokens: Tensor, text: Tensor | None, mask: Tensor | None = None) -> Tensor:
        seen = self.image_block(tokens)
        if mask is None:
            mean = seen.mean(1)
        else:
            shown = mask[..., None].to(seen)
            mean = (seen * shown).sum(1) / shown.sum(1)
        return torch.cat([mean, self.text_block(_told(text))], dim=-1)


EXTRACTORS: dict[str, type[ContextExtractor]] = {
    "cve": CVE,
    "text": TextContextVector,
    "image": ImageContextVector,
    "concat": JoinedContextVector,
}


def context_extractor(image: int, text: int, options: CoVFTOptions) -> ContextExtractor:
    """A new extractor of the kind that the options say, with random weights.

    Args:
        image: width D of the tower.
        text: width C of the question's vector.
        options: kind, heads and hidden width.
    """
    return EXTRACTORS[options.context](image, text, options)


def _told(text: Tensor | None) -> Tensor:
    if text is None:
        raise CrosstaskError("the context of this block reads the question, and none was given")
    return text
