"""Put the parts together: SmolLM2, the tower and a two-layer projector, as `LlavaForConditionalGeneration`.

The tokenizer gains one token, ``<image>``; its embedding row (the mean of all rows) is never read, because LLaVA puts
the projected cells in its place, and it never matters as an output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from interp.models.bundled.tower import STRIDE, ConvStemVisionConfig, image_processor
from interp.models.smollm2 import load_smollm2

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

IMAGE_TOKEN = "<image>"
IMAGE_SIZE = 160  # pixels a side: 5 x 5 cells, 25 tokens an image
TOWER = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "image_size": IMAGE_SIZE,
}


def assemble() -> tuple[LlavaForConditionalGeneration, LlavaProcessor, str]:
    """The bundled architecture on the base language model: tower and projector are freshly initialised.

    Returns:
        The model (float32), its processor, and the sha256 of the base language model's weights.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    language_model, tokenizer, base_sha256 = load_smollm2()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    text_config = language_model.config
    old_rows = language_model.get_input_embeddings().weight
    text_config.vocab_size = len(tokenizer)
    vision_config = ConvStemVisionConfig(**TOWER)
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_id=image_token_id,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=(IMAGE_SIZE // vision_config.patch_size) ** 2,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    rows = torch.cat([old_rows, old_rows.mean(0, keepdim=True)])
    state = {k: v for k, v in language_model.model.state_dict().items() if k != "embed_tokens.weight"}
    model.model.language_model.load_state_dict({**state, "embed_tokens.weight": rows})
    model.tie_weights()
    model.generation_config.eos_token_id = language_model.generation_config.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), processor_for(tokenizer, chat_template=tokenizer.chat_template), base_sha256


def processor_for(tokenizer: PreTrainedTokenizerFast, *, chat_template: str | None = None) -> LlavaProcessor:
    """The processor of a tower of ours: whole pictures at `IMAGE_SIZE`, a token for each cell and none besides."""
    from transformers import LlavaProcessor

    return LlavaProcessor(
        image_processor=image_processor(IMAGE_SIZE),
        tokenizer=tokenizer,
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=0,
        chat_template=chat_template,
    )
