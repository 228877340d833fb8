"""LLaVA-NeXT and LLaVA-OneVision: a picture is cut into tiles, as many as its shape asks for, beside the whole.

OneVision's processor cuts a picture into tiles when it is alone in its sample, or when pictures come as a flat list,
and leaves it whole when several come as one sample's list. Pictures are processed one by one here, hence cut.
"""

from __future__ import annotations

from interp.models.families.registry import register
from interp.models.families.vision import VisionFamily


@register("llava_next", "llava_onevision")
class LlavaNextFamily(VisionFamily):
    """``LlavaNextForConditionalGeneration`` and ``LlavaOnevisionForConditionalGeneration``."""

    name = "llava_next"
    examples = ("llava-hf/llava-v1.6-mistral-7b-hf", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf")
