"""Contextual mixture of experts: in place of a block's feed-forward part, several copies of it, weighed by the context.

    x <- x + Attn(LN1 x);    u = LN2 x;    x <- x + sum_n g_n E_n(u),    g = softmax(W c + b)

One g for each image and block, shared by all its tokens. Experts begin as exact copies and the weights sum to one, so
the tower's output is at first the pretrained one's, up to rounding. While experts are equal the router's gradient is
exactly zero, and with it the context's:

    dL/dlogit_n = g_n <delta, E_n(u) - sum_m g_m E_m(u)> = 0

Experts part because a random router weighs them unlike for unlike images. A router that began at zero would never
move, and neither would the experts part.

Routing: dense (all experts); sparse (the k with the largest weights, which are scaled to sum to one: whether the
paper's are is not published); uniform (1/E each: while the experts are equal copies this is one trainable feed-forward
part, as AdamW's steps do not depend on a gradient's scale); random (k by lot, 1/k each, in training; in evaluation 1/E
each, the mean over lots).

The optional balancing loss, which the paper does without, is that of sparse mixtures (Fedus, Zoph and Shazeer 2022):
E sum_n f_n P_n, with f_n the share of choices that fell on expert n and P_n its mean weight; 1 when both are equal.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.tuning.strategies.covft.context import context_extractor
from interp.tuning.strategies.covft.options import CoVFTOptions
from interp.tuning.strategies.covft.tower import Pass, TowerPasses


class Mixture(nn.Module):
    """Experts in the place of a feed-forward part. Called with its input alone, as the block calls it.

    Attributes:
        experts: E copies.
        context, router: None where routing asks no context.
        weights, vectors: g `[I, E]` and c `[I, W]` of the last pass, detached; None before, or without a router.
    """

    def __init__(
        self, feed_forward: nn.Module, passes: TowerPasses, options: CoVFTOptions, *, image: int, text: int
    ) -> None:
        """Copy a feed-forward part.

        Args:
            feed_forward: the pretrained one, [.., D] -> [.., D]; it is not changed.
            passes: tells whose tokens they are.
            options: how many experts, and how they are chosen.
            image: width D.
            text: width C of the question's vector.
        """
        super().__init__()
        like = next(feed_forward.parameters())
        self.options, self._passes = options, passes
        self.experts = nn.ModuleList(deepcopy(feed_forward) for _ in range(options.num_experts))
        self.experts.requires_grad_(True)
        with torch.device(like.device):
            self.context = context_extractor(image, text, options) if options.routes else None
            self.router = None if self.context is None else nn.Linear(self.context.width, options.num_experts)
        if self.context is not None and self.router is not None:
            self.context.to(like.dtype)
            self.router.to(like.dtype)
        self.weights: Tensor | None = None
        self.vectors: Tensor | None = None
        self._balance: Tensor | None = None

    def forward(self, u: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        now = self._passes.current()
        g = self._route(u, now)
        if self.options.routing in ("sparse", "random") and self.options.active < len(self.experts):
            return self._some(u, g, now)
        mixed = torch.zeros_like(u)
        for n, expert in enumerate(self.experts):
            mixed = mixed + now.to_tokens(g[:, n]) * expert(u)
        return mixed

    def take_balance(self) -> Tensor | None:
        """The balancing loss of the last pass, over all images of that pass; once."""
        found, self._balance = self._balance, None
        return found

    def _route(self, u: Tensor, now: Pass) -> Float[Tensor, "I E"]:
        """Weights of the experts for each image; they sum to one."""
        tokens, mask = now.by_image(u)
        count, active = len(self.experts), min(self.options.active, len(self.experts))
        if self.context is None or self.router is None:
            g = u.new_full((now.n_images, count), 1 / count)
            if self.options.routing == "random" and self.training:
                drawn = torch.rand(now.n_images, count, device=u.device).topk(active).indices
                g = torch.zeros_like(g).scatter(1, drawn, 1 / active)
            self.weights = g.detach()
            return g
        text = None if now.text is None else now.text.to(u.device, u.dtype)
        c = self.context(tokens, text, mask)
        logits = self.router(c)
        full = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
        g = full
        if self.options.routing == "sparse":
            top = full.topk(active)
            g = torch.zeros_like(full).scatter(1, top.indices, top.values / top.values.sum(-1, keepdim=True))
        if self.options.balance and self.training:
            chosen = (g > 0) if self.options.routing == "sparse" else nn.functional.one_hot(full.argmax(-1), count)
            shares = chosen.to(full).sum(0) / chosen.sum()
            balance = count * (shares * full.mean(0)).sum()  # run again with the rest of the block, and then let go
            self._balance = balance if now.first_for(self) else self._balance
        self.weights, self.vectors = g.detach(), c.detach()
        return g.to(u.dtype)

    def _some(self, u: Tensor, g: Float[Tensor, "I E"], now: Pass) -> Tensor:
        """As `forward`, running each expert on the images that chose it; on one of none, so that all take part."""
        mixed = torch.zeros_like(u)
        rows = torch.arange(len(u), device=u.device) if now.segments is None else now.segments.to(u.device)
        for n, expert in enumerate(self.experts):
            images = g[:, n].nonzero()[:, 0]
            images = images if len(images) else images.new_zeros(1)
            mine = images if now.segments is None else torch.isin(rows, images).nonzero()[:, 0]
            weights = g[images, n][:, None, None] if now.segments is None else g[rows[mine], n][:, None]
            mixed = mixed.index_add(0, mine, (weights * expert(u[mine])).to(mixed.dtype))
        return mixed
