"""Tiny random models from the real classes, made in a moment and without a network.

The tokenizer is a byte-level BPE trained on a few lines, so that ``:`` is a token of its own, and ``<|endoftext|>``,
``<|im_start|>``, ``<|im_end|>`` and ``<image>`` are special, as in SmolLM2. Weights are random but scaled up: at the
default initialisation every token's logits are nearly the same, and a wrong position would go unnoticed.
"""

from __future__ import annotations

from functools import cache

import torch
from PIL import Image as Pillow
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from interp.images import Image
from interp.models.base import Model
from interp.models.families import family_for
from interp.models.loading import state_fingerprint

CORPUS = """Q:France
A:Paris

Q:Japan
A:Tokyo

The capital city of the country: a ratio of 3:1, the term for the baby of the animal: kitten
"""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
LAYERS, WIDTH, IMAGE_SIZE, PATCH = 4, 32, 8, 4


@cache
def trained_tokenizer(*, merge_colon: bool = False) -> str:
    """The tokenizer as JSON; with ``merge_colon`` a colon is joined to the word after it, as in GPT-4's pattern."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r":?\p{L}+|\s+|[^\s\p{L}]+"), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not merge_colon)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level]) if merge_colon else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS] * 4, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(*, merge_colon: bool = False, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """SmolLM2's special tokens; with ``adds_bos`` the tokenizer itself begins every text, as Llama's does."""
    backend = Tokenizer.from_str(trained_tokenizer(merge_colon=merge_colon))
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


def text_config(tokenizer: PreTrainedTokenizerFast, **changes: object) -> LlamaConfig:
    """Grouped heads, as SmolLM2 has."""
    settings: dict = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    return LlamaConfig(**settings | changes)


def tiny_llama(
    *, dtype: torch.dtype = torch.float64, seed: int = 0, adds_bos: bool = False, **changes: object
) -> Model:
    """A text-only model."""
    tokenizer = tiny_tokenizer(adds_bos=adds_bos)
    torch.manual_seed(seed)
    return wrap("tiny-llama", LlamaForCausalLM(text_config(tokenizer, **changes)), tokenizer, None, dtype)


def tiny_gpt2(*, dtype: torch.dtype = torch.float64, seed: int = 0) -> Model:
    """A text-only model with learned positions and other names for its parts."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=256)
    config.bos_token_id = config.eos_token_id = 2
    return wrap("tiny-gpt2", GPT2LMHeadModel(config), tokenizer, None, dtype)


def tiny_llava(
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    cls: bool = True,
    merge_colon: bool = False,
    attn_implementation: str = "sdpa",
) -> Model:
    """A VLM of 4 tokens an image: a CLIP tower, whose class token is cut off, or a SigLIP tower, which has none."""
    tokenizer = tiny_tokenizer(merge_colon=merge_colon)
    strategy = "default" if cls else "full"
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(cls),
    )
    torch.manual_seed(seed)
    vision = (CLIPVisionConfig if cls else SiglipVisionConfig)(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text_config(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-1,
    )
    module = LlavaForConditionalGeneration._from_config(config, attn_implementation=attn_implementation)
    return wrap("tiny-llava", module, tokenizer, processor, dtype)


def wrap(
    name: str,
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    processor: LlavaProcessor | None,
    dtype: torch.dtype,
) -> Model:
    """Scale the weights up so that tokens differ, and wrap the module as a Model."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    module = module.to(dtype)
    return Model(name, module, tokenizer, processor, family_for(module.config), state_fingerprint(module))


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> Image:
    """A random picture."""
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed))
    return Image(pixels=Pillow.fromarray(pixels.to(torch.uint8).numpy()))
