"""Put the parts together: the multi-scale tower, a two-layer projector, and a small decoder over SmolLM2's tokens.

The decoder is a Llama of six blocks that is trained from scratch. Its token embeddings are SmolLM2's, projected onto
their leading principal directions, and stay as they are: words that SmolLM2 holds to be alike begin alike. The output
layer is tied to them. It is no language model; it reads short questions and answers with a letter, a word or a number.

There is no chat template, so that conversations take the plain form of :mod:`interp.tuning.encoding`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from interp.models.bundled.assemble import IMAGE_SIZE, IMAGE_TOKEN, processor_for
from interp.models.perception.tower import MultiScaleVisionConfig
from interp.models.smollm2 import load_smollm2

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

WIDTH = 256
TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": WIDTH // 64,
    "image_size": IMAGE_SIZE,
}
DECODER = {
    "hidden_size": WIDTH,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": WIDTH // 64,
    "num_key_value_heads": WIDTH // 64,
}
CELL_SCALE, POSITION_SCALE = 0.005, 0.5
"""Standard deviations of initial weights, with which cells are about 1 and a cell's place can be read beside what it
shows; CLIP's 0.02 for both leaves places at half a percent of the stem's features."""
RESIDUAL_SCALE = 0.3
"""Of initial weights that write into the residual stream; the others keep the size of what they read. Llama's 0.02 is
meant for wide models: at this width attention would begin all but uniform."""
EMBEDDING_SCALE = 0.5
"""Root mean square of an embedding's entries; the final norm learns how far apart logits are."""


def leading_directions(rows: Float[torch.Tensor, "V W"], width: int = WIDTH) -> Float[torch.Tensor, "W D"]:
    """The principal directions of the embeddings with the largest variance, scaled for `EMBEDDING_SCALE`."""
    centred = rows.double() - rows.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(rows))
    chosen = directions.flip(1)[:, :width]
    scale = EMBEDDING_SCALE / variances.flip(0)[:width].mean().sqrt()
    return (chosen * scale).float()


def assemble(
    directions: Float[torch.Tensor, "W D"] | None = None,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor, torch.Tensor, str]:
    """The architecture with SmolLM2's projected embeddings; tower, projector and blocks are freshly initialised.

    Args:
        directions: the embeddings' projection of weights that were saved; by default it is computed.

    Returns:
        The model (float32, evaluation mode), its processor, the projection, and the sha256 of SmolLM2's weights.
    """
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    language_model, tokenizer, base_sha256 = load_smollm2()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.chat_template = None
    rows = language_model.get_input_embeddings().weight.detach()
    if directions is None:
        directions = leading_directions(rows)
    embeddings = (rows - rows.mean(0)) @ directions
    embeddings = torch.cat([embeddings, torch.zeros(1, WIDTH)])  # never read: projected cells take its place
    base = language_model.config
    text_config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        bos_token_id=base.bos_token_id,
        eos_token_id=base.eos_token_id,
        pad_token_id=base.pad_token_id,
        tie_word_embeddings=True,
        **DECODER,
    )
    vision_config = MultiScaleVisionConfig(**TOWER)
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        projector_hidden_act="gelu",
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=(IMAGE_SIZE // vision_config.patch_size) ** 2,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    cells = model.model.vision_tower.embeddings
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(embeddings)
        cells.patch_embedding.weight.normal_(std=CELL_SCALE)
        cells.position_embedding.weight.normal_(std=POSITION_SCALE)
        for name, weight in model.model.language_model.layers.named_parameters():
            if weight.ndim > 1:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                weight.normal_(std=weight.shape[1] ** -0.5 * (RESIDUAL_SCALE if writes else 1.0))
    model.tie_weights()
    model.generation_config.eos_token_id = language_model.generation_config.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), processor_for(tokenizer), directions, base_sha256
