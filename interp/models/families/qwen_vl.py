"""The Qwen-VL line: images of any size, at positions of three axes (time, height, width).

The module finds those positions by itself only for a sequence that begins with it and that says which of its tokens are
images; else it counts tokens without a word, or goes on from an offset that an earlier run left behind. Here they are
computed once for every prompt and always given, so that nothing is guessed and no state arises.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from interp.models.families.registry import register
from interp.models.families.vision import VisionFamily


@register("qwen2_vl", "qwen2_5_vl")
class QwenVlFamily(VisionFamily):
    """``Qwen2VLForConditionalGeneration`` and ``Qwen2_5_VLForConditionalGeneration``."""

    name = "qwen_vl"
    image_placeholder = "<|image_pad|>"
    image_frame = ("<|vision_start|>", "<|vision_end|>")  # written by the chat template, not by the processor
    examples: ClassVar[tuple[str, ...]] = ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct")

    def token_inputs(
        self, module: PreTrainedModel, ids: Int[Tensor, " T"], images: list[dict[str, Tensor]]
    ) -> dict[str, Int[Tensor, "3 T"]]:
        """Positions on three axes; text has the same on all, and goes on after an image's longest side."""
        if not images:
            return {"position_ids": torch.arange(len(ids)).expand(3, -1)}
        kinds = (ids == module.config.image_token_id).int()
        grids = torch.cat([image["image_grid_thw"] for image in images])
        positions, _ = module.base_model.get_rope_index(ids[None], mm_token_type_ids=kinds[None], image_grid_thw=grids)
        return {"position_ids": positions[:, 0]}


@register("qwen3_vl")
class Qwen3VlFamily(QwenVlFamily):
    """``Qwen3VLForConditionalGeneration``: DeepStack adds features of the tower after the first blocks as well."""

    name = "qwen3_vl"
    vision_between_blocks = True
    examples = ("Qwen/Qwen3-VL-2B-Instruct",)
