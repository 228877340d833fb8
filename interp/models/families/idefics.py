"""The Idefics line: images between tokens of their own, cut into tiles, their pixels padded and masked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from interp.models.families.base import ImageInputs
from interp.models.families.registry import register
from interp.models.families.vision import VisionFamily

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from transformers import ProcessorMixin


@register("idefics2")
class Idefics2Family(VisionFamily):
    """``Idefics2ForConditionalGeneration``: the processor writes images itself, and has no ``replace_image_token``."""

    name = "idefics2"
    examples = ("HuggingFaceM4/idefics2-8b",)

    def image(self, processor: ProcessorMixin, picture: Picture, *, among: int = 1) -> ImageInputs:
        features = dict(processor.image_processor(images=[[picture]], return_tensors="pt"))
        tiles = features["pixel_values"].shape[1]  # one, or five where images are split
        boundary, run = processor.fake_image_token, processor.image_token * processor.image_seq_len
        return ImageInputs(text=boundary + (run + boundary) * tiles, features=features)

    def after_image(self, text: str) -> str:
        """The processor keeps a word apart from the boundary token."""
        return f" {text}" if re.match(r"[^\s<]", text) else text


@register("idefics3", "smolvlm")
class Idefics3Family(VisionFamily):
    """``Idefics3ForConditionalGeneration`` and ``SmolVLMForConditionalGeneration``."""

    name = "idefics3"
    said_by_the_text = frozenset({"rows", "cols"})
    examples = ("HuggingFaceM4/Idefics3-8B-Llama3", "HuggingFaceTB/SmolVLM-256M-Instruct")
