"""Fuyu, and Mantis made from it: no vision tower; patches of pixels go straight into a Persimmon decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from interp.models.families.base import ImageInputs
from interp.models.families.registry import register
from interp.models.families.vision import VisionFamily

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from transformers import ProcessorMixin


@register("fuyu")
class FuyuFamily(VisionFamily):
    """``FuyuForCausalLM``: rows of patches, a newline token after each.

    The processor knows one image a prompt, at its beginning and followed by BOS. Here BOS begins the prompt, and an
    image is its rows alone, wherever and however often it stands. That Mantis-Fuyu, which was fine-tuned on several
    images a prompt, reads them so is an assumption: its own processor has not been compared.
    """

    name = "fuyu"
    image_placeholder = "|SPEAKER|"
    norm_at = "final_layernorm"
    examples = ("adept/fuyu-8b",)

    def image(self, processor: ProcessorMixin, picture: Picture, *, among: int = 1) -> ImageInputs:
        inputs = processor(images=[picture], text="", return_legacy_image_output=False)
        rows = [i for i in torch.as_tensor(inputs["input_ids"][0]).tolist() if i in processor.image_token_ids]
        text = "".join(processor.tokenizer.convert_ids_to_tokens(rows))
        return ImageInputs(text=text, features={"pixel_values": inputs["pixel_values"]})
