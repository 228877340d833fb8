"""LLaVA-NeXT and LLaVA-OneVision: a picture is cut into tiles, as many as its shape asks for, beside the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.models.families.registry import register
from interp.models.families.vision import VisionFamily

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from transformers import ProcessorMixin


@register("llava_next")
class LlavaNextFamily(VisionFamily):
    """``LlavaNextForConditionalGeneration``."""

    name = "llava_next"
    examples = ("llava-hf/llava-v1.6-mistral-7b-hf",)


@register("llava_onevision")
class LlavaOnevisionFamily(VisionFamily):
    """``LlavaOnevisionForConditionalGeneration``: only a picture that is alone in its prompt is cut into tiles.

    ``batch_num_images`` tells the model how many images each prompt has, and so which of them were cut. All images of a
    prompt therefore go through it together.
    """

    name = "llava_onevision"
    alone_differs = True
    continues_with_images = False
    examples = ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "llava-hf/llava-onevision-qwen2-7b-ov-hf")

    def features(self, processor: ProcessorMixin, picture: Picture, among: int) -> dict[str, Any]:
        if among == 1:
            return super().features(processor, picture, among)
        together = processor.image_processor(images=[[picture, picture]], return_tensors="pt")
        return {name: tensor[:1] for name, tensor in together.items()} | {"batch_num_images": torch.tensor([among])}

    def collate(self, images: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        joined = super().collate(images)
        counts: list[int] = []
        while (place := sum(counts)) < len(images):
            counts.append(int(images[place]["batch_num_images"]))
        assert sum(counts) == len(images)
        return joined | ({"batch_num_images": torch.tensor(counts)} if images else {})
