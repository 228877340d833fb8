"""CoVFT beside peft: mixtures as modules to save in a LoRA checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.strategies.covft import CoVFT, CoVFTOptions
from interp.tuning.strategies.covft.peft_tuner import covft_peft_config, register_with_peft
from interp.tuning.text_context import context_inputs, context_of
from interp.tuning.text_encoder import HashingEncoder
from tests.interp.tuning.covft import ASKED, batch, covft
from tests.tiny import tiny_llava
from tests.tiny_families import VISION

MIXTURES = ["vision_tower.encoder.layers.0.mlp", "vision_tower.encoder.layers.1.mlp"]


CONTEXT = context_of(context_inputs(HashingEncoder(), [question for question, _ in ASKED], [0, 0, 1]))


def asked(model: Model) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A batch without labels, and the logits of the model as it is."""
    bare = {name: t for name, t in batch(model, ASKED).items() if name != "labels"}
    with torch.no_grad():
        return bare, model.module(**bare).logits


def answered(module: torch.nn.Module, found: CoVFT) -> torch.Tensor:
    inputs = batch(found.model, ASKED, reads=found)
    bare = {name: t for name, t in inputs.items() if name != "labels" and not name.startswith("context_")}
    with found.context(inputs), torch.no_grad():
        return module(**bare).logits


def test_mixtures_and_lora_go_through_one_peft_checkpoint(tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=r".*language_model.*q_proj", modules_to_save=MIXTURES)
    model = tiny_llava()
    with covft(model, language="none", projector=False) as found:
        wrapped = get_peft_model(model.module, lora)
        part_experts_of(wrapped)
        expected = answered(wrapped, found)
        assert any("experts" in name for name, p in wrapped.named_parameters() if p.requires_grad)
        wrapped.save_pretrained(tmp_path, save_embedding_layers=False)  # else the hub is asked for a vocabulary
        wrapped.unload()
    again = tiny_llava()
    with covft(again, language="none", projector=False) as found:
        before = answered(again.module, found)
        loaded = PeftModel.from_pretrained(again.module, tmp_path)
        assert torch.equal(answered(loaded, found), expected)
        assert not torch.allclose(before, expected)
        loaded.unload()


def part_experts_of(wrapped: torch.nn.Module) -> None:
    """What training would do: all trained parameters move."""
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=drawn, dtype=parameter.dtype))


def test_tuner_is_saved_loaded_under_another_name_and_switched_off(tmp_path: Path) -> None:
    register_with_peft()
    options = CoVFTOptions(text="hashing", layers="all")
    model = tiny_llava()
    bare, before = asked(model)
    with torch.no_grad():
        tuned = get_peft_model(model.module, covft_peft_config(model, options, text_width=32))
        with tuned.base_model.slot.given(CONTEXT):
            torch.testing.assert_close(tuned(**bare).logits, before)
        part_experts_of(tuned)
        with tuned.base_model.slot.given(CONTEXT):
            expected = tuned(**bare).logits
        assert not torch.allclose(expected, before)
        with tuned.disable_adapter():
            assert torch.equal(tuned(**bare).logits, before)
        tuned.save_pretrained(tmp_path, save_embedding_layers=False)
        loaded = PeftModel.from_pretrained(tiny_llava().module, tmp_path, adapter_name="other")
        with loaded.base_model.slot.given(CONTEXT):
            assert torch.equal(loaded(**bare).logits, expected)


def tuned(model: Model, **options: Any) -> torch.nn.Module:
    register_with_peft()
    chosen = CoVFTOptions(text="hashing", layers="all", **options)
    return get_peft_model(model.module, covft_peft_config(model, chosen, text_width=32))


def test_tuner_comes_off_and_cannot_be_merged() -> None:
    model = tiny_llava()
    bare, before = asked(model)
    with torch.no_grad():
        wrapped = tuned(model)
        part_experts_of(wrapped)
        with pytest.raises(CrosstaskError, match=r"cannot be merged into the tower; use unload\(\)"):
            wrapped.merge_and_unload()
        assert torch.equal(wrapped.unload()(**bare).logits, before)


def test_tuner_that_reads_no_question_needs_none() -> None:
    model = tiny_llava()
    bare, before = asked(model)
    with torch.no_grad():
        torch.testing.assert_close(tuned(model, routing="uniform")(**bare).logits, before)


@pytest.mark.parametrize(
    ("make", "earlier"),
    [(VISION["qwen2_vl"], 0), (tiny_llava, 1)],  # the first tower calls the width of what it gives on its own
    ids=["width of the blocks", "on again after it came off"],
)
def test_tuner_begins_as_the_model(make: Callable[[], Model], earlier: int) -> None:
    model = make()
    bare, before = asked(model)
    for _ in range(earlier):
        tuned(model).unload()
    wrapped = tuned(model)
    with torch.no_grad(), wrapped.base_model.slot.given(CONTEXT):
        torch.testing.assert_close(wrapped(**bare).logits, before)


def test_adapters_may_stand_in_different_blocks() -> None:
    model = tiny_llava()
    bare, before = asked(model)
    register_with_peft()
    first, second = (covft_peft_config(model, CoVFTOptions(text="hashing", layers=n), text_width=32) for n in "01")
    with torch.no_grad():
        wrapped = get_peft_model(model.module, first)
        wrapped.add_adapter("other", second)
        part_experts_of(wrapped)
        with wrapped.base_model.slot.given(CONTEXT):
            one = wrapped(**bare).logits
            wrapped.set_adapter("other")
            assert torch.equal(wrapped(**bare).logits, before)
            part_experts_of(wrapped)
            other = wrapped(**bare).logits
        assert not torch.allclose(one, before)
        assert not torch.allclose(other, before)
        assert not torch.allclose(one, other)
