"""QLoRA on a CPU: 4-bit weights in the form through which gradients go.

In evaluation bitsandbytes packs 4-bit weights for the CPU's own instructions, at the first forward pass. The packed
product has no gradient, and says so in a warning only: the rest of a backward pass would go around every layer, through
the residual stream alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

PACKS = "support_avx512bf16_for_cpu"
"""The attribute of a 4-bit layer that says whether it may pack its weights."""


@contextlib.contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """No 4-bit weight is packed meanwhile; one that is already is brought back.

    Packing rounds the weights' scales to bfloat16, and so they stay.
    """
    packing = [part for part in module.modules() if getattr(part, PACKS, False)]
    for part in packing:
        setattr(part, PACKS, False)
        _unpack(part)
    try:
        yield
    finally:
        for part in packing:
            setattr(part, PACKS, True)


def _unpack(layer: Any) -> None:
    state = layer.weight.quant_state
    if not getattr(state, "packing_format_for_cpu", False):
        return
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

    layer.weight.data, state = _convert_weight_packed_for_cpu_inverse(layer.weight.data, state)
    if not state.nested:  # the inverse leaves the scales as packing laid them out
        state.absmax = state.absmax.T.reshape(-1).float()
    layer.weight.quant_state = state
