"""LLaVA: a vision tower, a projector, and a language model; each image is a run of ``<image>`` placeholders.

The tower need not be CLIP and need not have a CLS token: how many placeholders an image takes is the processor's
``replace_image_token``, and :meth:`LlavaFamily.check` holds the processor to the model's configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from interp.errors import CrosstaskError
from interp.models.families.registry import register
from interp.models.families.vision import VisionFamily

if TYPE_CHECKING:
    from transformers import ProcessorMixin


@register("llava")
class LlavaFamily(VisionFamily):
    """``LlavaForConditionalGeneration`` with a ``LlavaProcessor``."""

    name = "llava"
    image_placeholder = "<image>"
    examples = ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf", "llava-hf/bakLlava-v1-hf")

    def check(self, module: PreTrainedModel, processor: ProcessorMixin | None) -> None:
        """The processor must expand images the way the model's configuration says its tower does."""
        processor = self.given(processor)
        if processor.patch_size is None or processor.vision_feature_select_strategy is None:
            # Repositories older than transformers 4.46 leave both to the model's configuration.
            processor.patch_size = module.config.vision_config.patch_size
            processor.vision_feature_select_strategy = module.config.vision_feature_select_strategy
            processor.num_additional_image_tokens = int(processor.vision_feature_select_strategy == "default")
        pairs = {
            "the image token's id": (processor.image_token_id, module.config.image_token_id),
            "the feature selection": (
                processor.vision_feature_select_strategy,
                module.config.vision_feature_select_strategy,
            ),
            "the image token": (processor.image_token, self.image_placeholder),
        }
        for what, (given, expected) in pairs.items():
            if given != expected:
                raise CrosstaskError(f"processor and model disagree on {what}: {given!r} against {expected!r}")
        super().check(module, processor)
