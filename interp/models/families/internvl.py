"""InternVL in transformers' own port: tiles of one size, between tokens that the processor writes."""

from __future__ import annotations

from interp.models.families.registry import register
from interp.models.families.vision import VisionFamily


@register("internvl")
class InternVlFamily(VisionFamily):
    """``InternVLForConditionalGeneration``."""

    name = "internvl"
    image_placeholder = "<IMG_CONTEXT>"
    said_by_the_text = frozenset({"num_patches"})
    examples = ("OpenGVLab/InternVL3-1B-hf",)
