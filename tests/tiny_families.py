"""A tiny random model of every family, from its real configuration and processor classes, without a network.

Four blocks of width 32 behind a tower of two. Tiles, windows, grids and masks are kept, at sizes of a few pixels, so
that pictures of unlike shapes take unlike numbers of tokens wherever the family lets them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PretrainedConfig, PreTrainedTokenizerFast, ProcessorMixin

from interp.models.base import Model
from tests.tiny import LAYERS, WIDTH, tiny_tokenizer, trained_tokenizer, wrap

SIDE, PATCH = 8, 4
GRID = [[8, 16], [16, 8], [16, 16]]
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"height": SIDE, "width": SIDE}


def tokenizer_with(*added: str, **named: str) -> PreTrainedTokenizerFast:
    """The trained tokenizer with more special tokens, some of them under the names that a processor asks for."""
    backend = Tokenizer.from_str(trained_tokenizer())
    backend.add_special_tokens([*added, *named.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_specific_special_tokens=named,
    )


def sentencepiece_like(*added: str) -> PreTrainedTokenizerFast:
    """Characters, bytes for the others, and an underscore before the text: Fuyu's processor counts on the latter."""
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *map(chr, range(33, 127))]
    scores = {"<unk>": 0.0, "<s>": 0.0, "</s>": 0.0} | dict.fromkeys(pieces, -5.0) | dict.fromkeys(added, -1.0)
    backend = Tokenizer(models.Unigram([*scores.items()], unk_id=0, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<s>", "</s>", "<0x04>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def text(tokenizer: PreTrainedTokenizerFast, model_type: str, **changes: Any) -> dict[str, Any]:
    """The language model's part of a configuration."""
    return {
        "model_type": model_type,
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    } | changes


def build(
    name: str,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    processor: ProcessorMixin | None,
    *,
    dtype: torch.dtype = torch.float64,
    attention: str = "sdpa",
    seed: int = 0,
) -> Model:
    """Random weights under a configuration."""
    torch.manual_seed(seed)
    auto = t.AutoModelForCausalLM if processor is None else t.AutoModelForImageTextToText
    return wrap(name, auto.from_config(config, attn_implementation=attention), tokenizer, processor, dtype)  # type: ignore[arg-type]


def image_id(tokenizer: PreTrainedTokenizerFast, token: str = "<image>") -> int:
    return tokenizer.convert_tokens_to_ids(token)


def llava() -> Model:
    tokenizer = tiny_tokenizer()
    processor = t.LlavaProcessor(
        t.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = t.LlavaConfig(
        vision_config=TOWER | {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH},
        text_config=text(tokenizer, "llama"),
        image_token_id=image_id(tokenizer),
        vision_feature_layer=-1,
    )
    return build("llava", config, tokenizer, processor)


def llava_next() -> Model:
    tokenizer = tiny_tokenizer()
    processor = t.LlavaNextProcessor(
        t.LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=GRID),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = t.LlavaNextConfig(
        vision_config=TOWER | {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH},
        text_config=text(tokenizer, "mistral", sliding_window=None),
        image_token_index=image_id(tokenizer),
        image_grid_pinpoints=GRID,
        vision_feature_layer=-1,
    )
    return build("llava_next", config, tokenizer, processor)


def llava_onevision() -> Model:
    tokenizer = tokenizer_with("<video>")
    processor = t.LlavaOnevisionProcessor(
        t.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=GRID),
        tokenizer,
        t.LlavaOnevisionVideoProcessor(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
    )
    config = t.LlavaOnevisionConfig(
        vision_config=TOWER
        | {"model_type": "siglip_vision_model", "image_size": SIDE, "patch_size": PATCH, "vision_use_head": False},
        text_config=text(tokenizer, "qwen2"),
        image_token_index=image_id(tokenizer),
        video_token_index=image_id(tokenizer, "<video>"),
        image_grid_pinpoints=GRID,
    )
    return build("llava_onevision", config, tokenizer, processor)


def idefics2(*, splits: bool = False) -> Model:
    tokenizer = tokenizer_with("<fake_token_around_image>", "<end_of_utterance>")
    processor = t.Idefics2Processor(
        t.Idefics2ImageProcessor(size={"shortest_edge": 8, "longest_edge": 16}, do_image_splitting=splits),
        tokenizer,
        image_seq_len=3,
    )
    config = t.Idefics2Config(
        vision_config=TOWER | {"image_size": 16, "patch_size": PATCH},
        perceiver_config={
            "hidden_size": WIDTH,
            "resampler_n_latents": 3,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "num_key_value_heads": 1,
        },
        text_config=text(tokenizer, "mistral", sliding_window=None),
        image_token_id=image_id(tokenizer),
    )
    return build("idefics2", config, tokenizer, processor)


def _idefics3_tokens() -> list[str]:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    return ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles]


def idefics3() -> Model:
    tokenizer = tokenizer_with(*_idefics3_tokens())
    pixels = t.Idefics3ImageProcessor(size={"longest_edge": 16}, max_image_size={"longest_edge": SIDE})
    config = t.Idefics3Config(
        vision_config=TOWER | {"image_size": SIDE, "patch_size": 2},
        text_config=text(tokenizer, "llama"),
        image_token_id=image_id(tokenizer),
        scale_factor=2,
    )
    return build("idefics3", config, tokenizer, t.Idefics3Processor(pixels, tokenizer, image_seq_len=4))


def smolvlm() -> Model:
    from transformers.models.smolvlm import processing_smolvlm

    if not processing_smolvlm.num2words:  # spells out the number of a video's frames, and is asked for at the start
        processing_smolvlm.num2words = str
    tokenizer = tokenizer_with(*_idefics3_tokens(), "<video>")
    pixels = t.SmolVLMImageProcessor(size={"longest_edge": 16}, max_image_size={"longest_edge": SIDE})
    config = t.SmolVLMConfig(
        vision_config=TOWER | {"image_size": SIDE, "patch_size": 2},
        text_config=text(tokenizer, "llama"),
        image_token_id=image_id(tokenizer),
        scale_factor=2,
    )
    processor = t.SmolVLMProcessor(pixels, tokenizer, t.SmolVLMVideoProcessor(), image_seq_len=4)
    return build("smolvlm", config, tokenizer, processor)


QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return {name: image_id(tokenizer, token) for name, token in zip(names, QWEN_TOKENS, strict=True)}


def _qwen_pixels(patch: int = PATCH) -> Any:
    sizes = {"shortest_edge": 64, "longest_edge": 24 * 24}
    return t.Qwen2VLImageProcessor(size=sizes, patch_size=patch, temporal_patch_size=2, merge_size=2)


def qwen2_vl() -> Model:
    tokenizer = tokenizer_with(*QWEN_TOKENS)
    config = t.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 16, "hidden_size": WIDTH, "num_heads": 2, "patch_size": PATCH},
        text_config=text(tokenizer, "qwen2_vl_text", rope_parameters=MROPE),
        **_qwen_ids(tokenizer),
    )
    processor = t.Qwen2VLProcessor(_qwen_pixels(), tokenizer, t.Qwen2VLVideoProcessor())
    return build("qwen2_vl", config, tokenizer, processor)


def qwen2_5_vl() -> Model:
    tokenizer = tokenizer_with(*QWEN_TOKENS)
    tower = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": PATCH}
    config = t.Qwen2_5_VLConfig(
        vision_config=tower | {"window_size": 16, "out_hidden_size": WIDTH, "fullatt_block_indexes": [1]},
        text_config=text(tokenizer, "qwen2_5_vl_text", rope_parameters=MROPE),
        **_qwen_ids(tokenizer),
    )
    processor = t.Qwen2_5_VLProcessor(_qwen_pixels(), tokenizer, t.Qwen2VLVideoProcessor())
    return build("qwen2_5_vl", config, tokenizer, processor)


def qwen3_vl() -> Model:
    tokenizer = tokenizer_with(*QWEN_TOKENS)
    tower = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": PATCH}
    config = t.Qwen3VLConfig(
        vision_config=tower
        | {"out_hidden_size": WIDTH, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        text_config=text(tokenizer, "qwen3_vl_text", rope_parameters=MROPE),
        **_qwen_ids(tokenizer),
    )
    processor = t.Qwen3VLProcessor(_qwen_pixels(), tokenizer, t.Qwen3VLVideoProcessor())
    return build(
        "qwen3_vl", config, tokenizer, processor, seed=1
    )  # with 0 it answers with an image token, for which a rerun has no picture


GEMMA3 = {
    "query_pre_attn_scalar": 8,
    "sliding_window": 12,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}


def gemma3() -> Model:
    tokens = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = tokenizer_with(**tokens)
    processor = t.Gemma3Processor(t.Gemma3ImageProcessor(size=SQUARE), tokenizer, image_seq_length=4)
    config = t.Gemma3Config(
        vision_config=TOWER
        | {"model_type": "siglip_vision_model", "image_size": SIDE, "patch_size": PATCH, "vision_use_head": False},
        text_config=text(tokenizer, "gemma3_text", **GEMMA3),
        mm_tokens_per_image=4,
        image_token_index=image_id(tokenizer, "<image_soft_token>"),
        boi_token_index=image_id(tokenizer, "<start_of_image>"),
        eoi_token_index=image_id(tokenizer, "<end_of_image>"),
    )
    return build("gemma3", config, tokenizer, processor)


def internvl() -> Model:
    tokens = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = tokenizer_with(**tokens)
    pixels = t.GotOcr2ImageProcessor(size=SQUARE, min_patches=1, max_patches=4)
    processor = t.InternVLProcessor(pixels, tokenizer, t.InternVLVideoProcessor(), image_seq_length=4)
    config = t.InternVLConfig(
        vision_config=TOWER | {"image_size": [SIDE, SIDE], "patch_size": [2, 2]},
        text_config=text(tokenizer, "qwen2"),
        image_token_id=image_id(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return build("internvl", config, tokenizer, processor)


def fuyu() -> Model:
    tokenizer = sentencepiece_like("|SPEAKER|", "|NEWLINE|")
    sizes = {"size": {"height": 24, "width": 24}, "patch_size": {"height": PATCH, "width": PATCH}}
    config = t.FuyuConfig(
        text_config=text(tokenizer, "persimmon"),
        patch_size=PATCH,
        image_token_id=image_id(tokenizer, "|SPEAKER|"),
    )
    return build("fuyu", config, tokenizer, t.FuyuProcessor(t.FuyuImageProcessor(**sizes), tokenizer))


def paligemma() -> Model:
    tokenizer = tokenizer_with("<bos>")
    tokenizer.bos_token = "<bos>"
    pixels = t.SiglipImageProcessor(size=SQUARE)
    pixels.image_seq_length = 4
    processor = t.PaliGemmaProcessor(pixels, tokenizer)
    config = t.PaliGemmaConfig(
        vision_config=TOWER
        | {"model_type": "siglip_vision_model", "image_size": SIDE, "patch_size": PATCH, "vision_use_head": False},
        text_config=text(tokenizer, "gemma"),
        image_token_index=image_id(tokenizer),
        projection_dim=WIDTH,
        hidden_size=WIDTH,
    )
    return build("paligemma", config, tokenizer, processor)


def language_model(kind: str, *, dtype: torch.dtype = torch.float64, attention: str = "sdpa", **changes: Any) -> Model:
    """A language model alone."""
    tokenizer = tiny_tokenizer()
    settings = text(tokenizer, kind, **changes)
    return build(
        kind,
        t.AutoConfig.for_model(settings.pop("model_type"), **settings),
        tokenizer,
        None,
        dtype=dtype,
        attention=attention,
    )


VISION: dict[str, Callable[[], Model]] = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "idefics2": idefics2,
    "idefics2_split": lambda: idefics2(splits=True),
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "gemma3": gemma3,
    "internvl": internvl,
    "fuyu": fuyu,
    "paligemma": paligemma,
}
TEXT: dict[str, Callable[[], Model]] = {
    "llama": lambda: language_model("llama"),
    "mistral": lambda: language_model("mistral", sliding_window=12),
    "qwen2": lambda: language_model("qwen2"),
    "qwen3": lambda: language_model("qwen3"),
    "gemma": lambda: language_model("gemma"),
    "gemma2": lambda: language_model(
        "gemma2", dtype=torch.float32, attention="eager", query_pre_attn_scalar=8, sliding_window=12
    ),
    "gemma3_text": lambda: language_model("gemma3_text", **GEMMA3),
}
