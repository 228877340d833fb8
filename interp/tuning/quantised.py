"""QLoRA on a CPU: 4-bit weights in the form through which gradients go.

In evaluation bitsandbytes packs 4-bit weights for the CPU's own instructions, at the first forward pass. The packed
product has no gradient, and says so in a warning only: the rest of a backward pass would go around every layer, through
the residual stream alone.
"""

from __future__ import annotations

from torch import nn


def unpack(module: nn.Module) -> None:
    """Bring every packed weight back to its plain form; nothing is done where none is packed."""
    for part in module.modules():
        weight = getattr(part, "weight", None)
        state = getattr(weight, "quant_state", None)
        if weight is not None and state is not None and getattr(state, "packing_format_for_cpu", False):
            from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

            weight.data, weight.quant_state = _convert_weight_packed_for_cpu_inverse(weight.data, state)
