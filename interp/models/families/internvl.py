"""InternVL in transformers' own port: tiles of one size, between tokens that the processor writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.models.families.base import ImageInputs
from interp.models.families.registry import register
from interp.models.families.vision import VisionFamily

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from transformers import ProcessorMixin


@register("internvl")
class InternVlFamily(VisionFamily):
    """``InternVLForConditionalGeneration``."""

    name = "internvl"
    image_placeholder = "<IMG_CONTEXT>"
    examples = ("OpenGVLab/InternVL3-1B-hf",)

    def image(self, processor: ProcessorMixin, picture: Picture) -> ImageInputs:
        inputs = super().image(processor, picture)
        del inputs.features["num_patches"]  # said by the text already
        return inputs
