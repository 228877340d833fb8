"""How many numbers strategies train, on CLIP ViT-L/14-336 behind LLaVA's projector, without any weights.

Expected counts: CoVFT's supplement, table D, recomputed from the architecture (block 12,596,224; attention projections
1024 x 1024; 24 blocks, of which LLaVA reads the output of the 23rd).
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from interp.models.base import Model
from interp.models.bundled.tower import ConvStemVisionConfig
from interp.models.families import family_for
from interp.tuning.config import TuneConfig
from interp.tuning.strategies import strategy
from interp.tuning.strategies.towers import tower_parameters, used_blocks
from tests.tiny import tiny_llava

CLIP, PROJECTOR, BIASES, WIDTH = 303_507_456, 20_979_712, 272_384, 1024


class Outline(Model):
    """A model without weights, behind the processor of another."""

    is_whole = True  # type: ignore[assignment]


@cache
def outline(*, stem: bool = False) -> Model:
    """LLaVA-1.5 7B in outline, with two blocks of the language model; or with a tower on a convolutional stem."""
    tiny = tiny_llava()
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    stemmed = ConvStemVisionConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=64)
    config = LlavaConfig(
        vision_config=stemmed if stem else vision,
        text_config=LlamaConfig(num_hidden_layers=2, vocab_size=1000),
        image_token_id=tiny.module.config.image_token_id,
        vision_feature_layer=-2,
    )
    with torch.device("meta"):
        module = LlavaForConditionalGeneration(config)
    return Outline("outline", module, tiny.tokenizer, tiny.processor, family_for(config), "none")


def trained(name: str, **options: object) -> int:
    """Numbers that a strategy trains in tower and projector."""
    model = outline()
    found = strategy(name)(model, TuneConfig("RD", strategy=name, options={"language": "none"} | options))
    try:
        return sum(parameter.numel() for parameter in found.trainable().values())
    finally:
        found.detach()


def late(width: int) -> int:
    """QA-ViT's for one block: norm and projection of the question, the second output projection, and the gate."""
    return 2 * width + width * WIDTH + WIDTH * WIDTH + WIDTH * WIDTH + WIDTH + 1


@pytest.mark.parametrize(
    ("name", "options", "tower"),
    [
        ("vision_freeze", {}, 0),
        ("vision_full", {}, CLIP),
        ("vision_bitfit", {}, BIASES),
        ("vision_lora", {"r": 8}, 24 * 4 * 2 * WIDTH * 8),
        ("vision_lora", {"r": 512}, 24 * 4 * 2 * WIDTH * 512),
        ("vpt", {}, 1_228_800),
        ("qa_vit", {"text": "hashing"}, 11 * late(32)),
        ("text_connector", {"text": "hashing"}, 3 * PROJECTOR + 4 * 32 + 4),
    ],
)
def test_counts_are_those_of_the_architecture(name: str, options: dict, tower: int) -> None:
    assert trained(name, **options) == tower + PROJECTOR


def test_language_model_of_7b_gives_the_papers_billions() -> None:
    vicuna = 6_738_415_616
    rows = {"vision_freeze": 6.7594, "vision_full": 7.0629}
    for name, billions in rows.items():
        assert round((vicuna + trained(name)) / 1e9, 4) == billions
    for rank, billions in ((8, 6.7610), (512, 6.8601)):
        assert round((vicuna + trained("vision_lora", r=rank)) / 1e9, 4) == billions


def test_tower_of_which_state_minus_two_is_read_uses_all_blocks_but_one() -> None:
    assert used_blocks(outline()) == 23


def test_convolutional_stem_stays_frozen_unless_it_is_asked_for() -> None:
    model = outline(stem=True)
    names, all_of_them = tower_parameters(model), tower_parameters(model, stem=True)
    assert "model.vision_tower.embeddings.patch_embedding.weight" in names
    assert "model.vision_tower.embeddings.position_embedding.weight" in names
    stem = set(all_of_them) - set(names)
    assert stem
    assert all(name.startswith("model.vision_tower.embeddings.") for name in stem)
    assert {name.split(".")[3] for name in stem} == {"stem", "blocks", "head"}
    for name, wanted in (("vision_full", False), ("vision_bitfit", False)):
        found = strategy(name)(model, TuneConfig("RD", strategy=name))
        assert bool(stem & set(found.trainable())) == wanted
        found.detach()
    found = strategy("vision_full")(model, TuneConfig("RD", strategy="vision_full", options={"stem": True}))
    assert stem <= set(found.trainable())
    found.detach()
