"""Adapters at work one after another on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.loading import state_fingerprint
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.adapters import trained_limits
from interp.tuning.evaluation.evaluate import EvaluationOptions, evaluate
from interp.tuning.evaluation.variants import changes_vision, variants
from interp.tuning.pixels import pixel_limits
from tests import tiny, tiny_families


def adapter(model: Model, folder: Path, seed: int, *, targets: str = r".*language_model.*\.(q|v)_proj") -> Path:
    """A LoRA adapter with random updates."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    adapted = get_peft_model(model.module, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = model.name
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    adapted.unload()
    return folder


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    return model.forward({"input_ids": torch.arange(10, 22)[None]}).logits


@pytest.fixture
def model() -> Model:
    return tiny.tiny_llava()


@pytest.mark.parametrize("how", ["merge", "beside"])
def test_each_variant_is_at_work_alone_and_the_model_is_as_before(model: Model, tmp_path: Path, how: str) -> None:
    folders = {"one": adapter(model, tmp_path / "1", 1), "frozen": None, "two": adapter(model, tmp_path / "2", 2)}
    before, weights = logits(model), state_fingerprint(model.module)
    found = {name: logits(model) for name in variants(model, folders, how=how)}
    assert torch.equal(found["frozen"], before)
    alone = {
        name: next(logits(model) for _ in variants(model, {name: folders[name]}, how="beside"))
        for name in ("one", "two")
    }
    for name, expected in alone.items():
        assert (found[name] - before).abs().max() > 1e-3
        assert torch.allclose(found[name], expected, atol=1e-10)
    assert state_fingerprint(model.module) == weights
    assert not hasattr(model.module, "peft_config")


def test_model_is_as_before_after_an_error_in_the_middle(model: Model, tmp_path: Path) -> None:
    folder, weights = adapter(model, tmp_path / "1", 1), state_fingerprint(model.module)
    steps = variants(model, {"one": folder})
    next(steps)
    with pytest.raises(RuntimeError, match="the reason"):
        steps.throw(RuntimeError("the reason"))
    assert state_fingerprint(model.module) == weights


def test_adapter_that_matches_no_weights_is_refused(model: Model, tmp_path: Path) -> None:
    folder = adapter(model, tmp_path / "1", 1)
    path = folder / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "w_proj"): tensor for name, tensor in load_file(path).items()}, path)
    weights = state_fingerprint(model.module)
    with pytest.raises(CrosstaskError, match="do not match"):
        next(variants(model, {"one": folder}))
    assert state_fingerprint(model.module) == weights


def test_adapter_that_is_no_number_is_refused(model: Model, tmp_path: Path) -> None:
    folder = adapter(model, tmp_path / "1", 1)
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)
    weights = state_fingerprint(model.module)
    with pytest.raises(CrosstaskError, match="no numbers"):
        next(variants(model, {"one": folder}, how="merge"))
    assert state_fingerprint(model.module) == weights


def test_training_of_the_tower_is_known_from_the_record(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"config": {"train_tower": true}}')
    assert changes_vision(tmp_path)
    assert not changes_vision(None)
    (tmp_path / "run.json").write_text('{"config": {"train_tower": false}}')
    assert not changes_vision(tmp_path)


def test_pictures_have_the_limits_that_they_had_in_training() -> None:
    model = tiny_families.qwen2_5_vl()
    shown = [PerceptionItem("big", "task", (tiny.picture(1, (60, 60)),), "Which?", ("Paris", "Tokyo"), 0)]

    def log_p(options: EvaluationOptions) -> float | None:
        ((_, (record,)),) = evaluate(model, shown, {"frozen": None}, options)
        return record.log_p_key

    limited = EvaluationOptions(min_pixels=64, max_pixels=256)
    with pixel_limits(model, 64, 256):
        expected = log_p(EvaluationOptions())
    assert log_p(limited) == expected
    assert log_p(EvaluationOptions()) != expected


def test_adapters_of_other_limits_are_not_evaluated_together(tmp_path: Path) -> None:
    def folder(name: str, most: int | None) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"config": {"min_pixels": None, "max_pixels": most}}))
        return tmp_path / name

    small, large, plain = folder("small", 256), folder("large", 512), tmp_path
    assert trained_limits({}) == trained_limits({"peft": plain}) == {"min_pixels": None, "max_pixels": None}
    assert trained_limits({"small": small}) == {"min_pixels": None, "max_pixels": 256}
    with pytest.raises(CrosstaskError, match=r"'small' was trained with .*256.* and adapter 'large' with .*512"):
        trained_limits({"small": small, "large": large})
