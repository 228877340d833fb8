"""Comparison with plain full forwards.

difference    largest deviation from the reference as a share of its scale: of a row's logits, or of a layer's states;
              for generated tokens the share that differs
"""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

from experiments.benchmark.peers.plain import PlainForwards
from experiments.benchmark.workloads import NEW_TOKENS, Call
from interp.models.base import Model

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
"""Largest difference of a right row, by dtype."""


def reference(model: Model, call: Call) -> Shaped[Tensor, "N ..."]:
    """What the checked rows should be: a plain full forward of one query at a time, without padding or cache."""
    alone, plain = call.alone(), PlainForwards(use_cache=False)
    if call.kind == "capture":
        return plain.extract(model, alone.prompts, budget=1)
    patches = [pairs[0] for pairs in alone.patches]
    if call.kind == "sweep":
        return plain.logits(model, alone.prompts, patches, budget=1)
    answers = plain.generate(
        model,
        alone.prompts,
        vectors=[patch.vector for patch in patches],
        layers=[patch.layer for patch in patches],
        max_new_tokens=NEW_TOKENS,
        stop=None,
        budget=1,
    )
    return torch.tensor([[*a.token_ids, *[-1] * (NEW_TOKENS - len(a.token_ids))] for a in answers])


def difference(found: Shaped[Tensor, "N ..."], expected: Shaped[Tensor, "N ..."]) -> float:
    """The largest deviation, as a share of the scale; infinite if the shapes differ or a value is not finite."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.is_floating_point():
        return float((found != expected).double().mean())
    found, expected = found.double(), expected.double()
    if expected.ndim == 3:  # states [N, L, D]: each layer has a scale of its own
        found, expected = found.transpose(0, 1).flatten(1), expected.transpose(0, 1).flatten(1)
    share = (found - expected).abs().amax(-1) / expected.abs().amax(-1)
    return float(share.max()) if torch.isfinite(share).all() else float("inf")
