"""Google's pair: Gemma 3, whose images see themselves in both directions, and PaliGemma, whose whole prompt does."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from interp.models.families.registry import register
from interp.models.families.vision import VisionFamily


@register("gemma3")
class Gemma3Family(VisionFamily):
    """``Gemma3ForConditionalGeneration``: blocks with a window and blocks without take turns.

    An image's tokens see each other whatever their order, so an image has to be run as a whole, at the beginning of a
    sequence; what comes after it is causal.
    """

    name = "gemma3"
    image_placeholder = "<image_soft_token>"
    continues_with_images = False
    examples = ("google/gemma-3-4b-it",)

    def logits(self, module: PreTrainedModel, normed: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Uncapped, whatever the text configuration says; only the language model alone reads it."""
        return self.head(module)(normed)

    def token_inputs(
        self, module: PreTrainedModel, ids: Int[Tensor, " T"], images: list[dict[str, Tensor]]
    ) -> dict[str, Int[Tensor, " T"]]:
        """``token_type_ids`` are 1 on image tokens; left out, the model takes them for text and masks what follows."""
        kinds = (ids == module.config.image_token_id).long()
        return {"position_ids": torch.arange(len(ids)), "token_type_ids": kinds}


@register("paligemma")
class PaliGemmaFamily(VisionFamily):
    """``PaliGemmaForConditionalGeneration``: the prompt's tokens all see each other, the answer is causal.

    A patch at the delimiter therefore changes the tokens before it too, and no prefix can be shared. As its processor
    has it, BOS stands behind the last image, and first only in a prompt without images. The newline with which the
    processor ends a prompt is left out: a prompt of ours ends in its delimiter.
    """

    name = "paligemma"
    causal_prefix = False
    bos_after_images = True
    continues_with_images = False
    examples = ("google/paligemma-3b-mix-224", "google/paligemma2-3b-pt-224")

    def token_inputs(
        self, module: PreTrainedModel, ids: Int[Tensor, " T"], images: list[dict[str, Tensor]]
    ) -> dict[str, Int[Tensor, " T"]]:
        """Positions count from 1; ``token_type_ids`` are 0 in the prompt, and without them it would be run causally."""
        return {"position_ids": torch.arange(len(ids)) + 1, "token_type_ids": torch.zeros_like(ids)}
