"""Adapters in peft's format: what is read is what peft would add to the weights, and what is no BA is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from interp.errors import CrosstaskError
from interp.updates.lora import LoraUpdate, read_lora
from interp.updates.places import Place, place
from interp.updates.update import Name
from tests.interp.updates.made import dense, random_factors, write_adapter

NAME = Name("counting", 3)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v_proj(self.q_proj(x))


class Net(nn.Module):
    """Two blocks and an embedding, as peft wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(Attention() for _ in range(2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.layers[1](self.embed_tokens(ids))


def saved_by_peft(folder: Path, **config: object) -> dict[str, torch.Tensor]:
    """An adapter with random weights, saved by peft; module -> the update that peft would merge."""
    torch.manual_seed(0)
    settings = {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"]} | config
    adapted = get_peft_model(Net(), LoraConfig(**settings))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in adapted.named_modules()
        if hasattr(module, "get_delta_weight")
    }


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 9}},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.1.v_proj": 11}},
        {"rank_pattern": {r".*0\.q_proj": 3}, "alpha_pattern": {r"layers\.\d+\.q_proj": 7}, "use_rslora": True},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["v_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    ],
)
def test_update_is_what_peft_adds_to_the_weights(tmp_path: Path, config: dict) -> None:
    known = saved_by_peft(tmp_path / "adapter", **config)
    update = read_lora(tmp_path / "adapter", NAME)
    assert set(update.places) == {place(name) for name in known}
    for name, expected in known.items():
        delta = update.delta(place(name))
        assert delta is not None
        assert delta.shape == tuple(expected.shape)
        assert delta.rows(0, delta.shape[0]) == pytest.approx(expected.double().numpy(), rel=1e-5, abs=1e-6)


def test_bfloat16_factors_are_read_as_they_are(tmp_path: Path) -> None:
    factors = {name: (b.bfloat16(), a.bfloat16()) for name, (b, a) in random_factors(0).items()}
    update = read_lora(write_adapter(tmp_path / "a", factors), NAME)
    expected = dense({name: (b.double(), a.double()) for name, (b, a) in factors.items()})
    for name, matrix in expected.items():
        delta = update.delta(place(name))
        assert delta is not None
        assert delta.rows(0, len(matrix)) == pytest.approx(matrix)


def test_a_weight_that_was_left_alone_has_no_delta(tmp_path: Path) -> None:
    update = read_lora(write_adapter(tmp_path / "a", random_factors(0)), NAME)
    assert update.delta(Place(7, "layers.7.self_attn.q_proj")) is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LOHA"}, "type LOHA"),
        ({"peft_type": "PREFIX_TUNING"}, "type PREFIX_TUNING"),
        ({"use_dora": True}, "use_dora.*rescales each column"),
        ({"bias": "all"}, "bias='all'"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "moves the base weights"),
        ({"init_lora_weights": "olora"}, "moves the base weights"),
        ({"use_qalora": True}, "QALoRA"),
    ],
)
def test_what_is_no_product_of_factors_is_refused_with_its_reason(tmp_path: Path, config: dict, said: str) -> None:
    folder = write_adapter(tmp_path / "a", random_factors(0), **config)
    with pytest.raises(CrosstaskError, match=rf"counting \(seed 3\).*{said}"):
        read_lora(folder, NAME)


def test_an_adapter_that_matched_nothing_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", {})
    with pytest.raises(CrosstaskError, match=r"counting \(seed 3\).*matched nothing"):
        read_lora(folder, NAME)


def test_a_pickle_is_refused_with_advice(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", random_factors(0))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CrosstaskError, match=r"adapter_model\.bin, which is a pickle.*save it again"):
        read_lora(folder, NAME)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(CrosstaskError, match=r"no adapter_model\.safetensors"):
        read_lora(folder, NAME)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", random_factors(0))
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:50])
    with pytest.raises(CrosstaskError, match=r"adapter_model\.safetensors of update 'counting.* cannot be read"):
        read_lora(folder, NAME)
    weights.write_bytes(whole)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CrosstaskError, match=r"adapter_config\.json of update 'counting.* cannot be read"):
        read_lora(folder, NAME)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(CrosstaskError, match="holds no settings"):
        read_lora(folder, NAME)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(CrosstaskError, match="no lora_alpha"):
        read_lora(folder, NAME)


def test_tensors_that_are_no_factors_or_have_no_partner_are_named(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", random_factors(0))
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"base_model.model.lm_head.weight": torch.ones(3, 3)}, path)
    with pytest.raises(CrosstaskError, match=r"base_model\.model\.lm_head\.weight"):
        read_lora(folder, NAME)
    key = next(name for name in tensors if "lora_B" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, path)
    with pytest.raises(CrosstaskError, match="only A of the factors"):
        read_lora(folder, NAME)


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    factors = random_factors(0)
    factors["layers.1.self_attn.v_proj"][0][2, 1] = float("nan")
    update = read_lora(write_adapter(tmp_path / "a", factors), NAME)
    with pytest.raises(CrosstaskError, match=r"layers\.1\.self_attn\.v_proj\.lora_B.*not finite"):
        update.delta(place("layers.1.self_attn.v_proj"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base_model.model.model.language_model.layers.3.self_attn.q_proj", Place(3, "layers.3.self_attn.q_proj")),
        ("language_model.model.layers.3.self_attn.q_proj.weight", Place(3, "layers.3.self_attn.q_proj")),
        ("model.text_model.layers.3.self_attn.q_proj", Place(3, "layers.3.self_attn.q_proj")),
        ("transformer.h.11.attn.c_proj.weight", Place(11, "layers.11.attn.c_proj")),
        ("model.language_model.layers.0.self_attn.q_proj.bias", Place(0, "layers.0.self_attn.q_proj.bias")),
        ("model.vision_tower.encoder.layers.3.q_proj", Place(-1, "vision_tower.encoder.layers.3.q_proj")),
        ("model.visual.blocks.3.attn.qkv.weight", Place(-1, "visual.blocks.3.attn.qkv")),
        ("lm_head.weight", Place(-1, "lm_head")),
    ],
)
def test_a_weight_has_one_place_whatever_wraps_it(name: str, expected: Place) -> None:
    assert place(name) == expected


def test_projections_and_attention_outputs_are_recognised() -> None:
    assert place("layers.0.self_attn.q_proj.bias").projection == "q_proj.bias"
    assert place("model.vision_tower.layers.3.q_proj").projection == "vision_tower.q_proj"  # not the decoder's
    assert place("lm_head.weight").projection == "lm_head"
    assert place("layers.0.self_attn.o_proj").is_attention_output
    assert place("transformer.h.1.attn.c_proj").is_attention_output
    assert not place("transformer.h.1.mlp.c_proj").is_attention_output
    assert not place("vision_tower.layers.0.self_attn.out_proj").is_attention_output


def test_scale_is_that_of_the_factors_own_rank(tmp_path: Path) -> None:
    factors = random_factors(0, rank=3) | random_factors(1, rank=2, shapes={"layers.0.self_attn.k_proj": (6, 12)})
    update = read_lora(write_adapter(tmp_path / "a", factors, lora_alpha=6), NAME)
    assert isinstance(update, LoraUpdate)
    scales = {where.projection: update.delta(where).scale for where in update.places}  # type: ignore[union-attr]
    assert scales["q_proj"] == pytest.approx(2)
    assert scales["k_proj"] == pytest.approx(3)
    assert np.isfinite(list(scales.values())).all()
