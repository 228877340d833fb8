"""GPT-2 and its relatives: language models whose blocks or norms go by other names."""

from __future__ import annotations

from torch import Tensor, nn

from interp.models.families.base import Family
from interp.models.families.registry import register


@register("gpt2")
class Gpt2Family(Family):
    """Blocks at ``h``, final norm at ``ln_f``."""

    name = "gpt2"
    blocks_at = "h"
    norm_at = "ln_f"
    projection_at = "attn.c_proj"
    examples = ("openai-community/gpt2",)

    def projection_width(self, projection: nn.Module) -> int:
        return self.projection_weight(projection).shape[1]

    def projection_weight(self, projection: nn.Module) -> Tensor:
        return super().projection_weight(projection).T  # a Conv1D keeps it the other way round


@register("gptj")
class GptJFamily(Family):
    """GPT-2's names with a plain linear projection."""

    name = "gptj"
    blocks_at = "h"
    norm_at = "ln_f"
    projection_at = "attn.out_proj"
    examples = ("EleutherAI/gpt-j-6b",)


@register("gpt_neox")
class GptNeoxFamily(Family):
    """Pythia and GPT-NeoX: Llama's layout with another name for the norm."""

    name = "gpt_neox"
    norm_at = "final_layer_norm"
    projection_at = "attention.dense"
    examples = ("EleutherAI/pythia-160m",)
