"""GPT-2 and its relatives: language models whose blocks or norms go by other names."""

from __future__ import annotations

from interp.models.families.base import Family
from interp.models.families.registry import register


@register("gpt2", "gptj")
class Gpt2Family(Family):
    """Blocks at ``h``, final norm at ``ln_f``."""

    name = "gpt2"
    blocks_at = "h"
    norm_at = "ln_f"
    examples = ("openai-community/gpt2",)


@register("gpt_neox")
class GptNeoxFamily(Family):
    """Pythia and GPT-NeoX: Llama's layout with another name for the norm."""

    name = "gpt_neox"
    norm_at = "final_layer_norm"
    examples = ("EleutherAI/pythia-160m",)
