"""Loading models, and the names under which their parts are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Blip2Config, BloomConfig, BloomForCausalLM, CLIPConfig, LlamaConfig

import interp
from interp.errors import CrosstaskError
from interp.models.base import Model, load_model
from interp.models.families import family_for
from interp.patching import generate
from interp.prompts import Specification, render
from tests.tiny import LAYERS, WIDTH, picture, tiny_llama, tiny_llava


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A tiny LLaVA as a folder on disk."""
    model = tiny_llava(dtype=torch.float32)
    assert model.processor is not None
    model.module.save_pretrained(tmp_path / "llava")
    model.processor.save_pretrained(tmp_path / "llava")
    return tmp_path / "llava"


def test_parts_have_the_same_names_in_every_architecture(llava: Model, llama: Model, gpt2: Model) -> None:
    for model in (llava, llama, gpt2):
        assert (model.n_layers, len(model.blocks), model.width) == (LAYERS, LAYERS, WIDTH)
        assert model.head(model.final_norm(torch.zeros(1, WIDTH).double())).shape == (1, len(model.tokenizer))
        assert model.stop_ids == {0, 2}
        assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert (llava.takes_images, llama.takes_images) == (True, False)


def test_model_saved_and_loaded_answers_the_same(saved: Path) -> None:
    first = tiny_llava(dtype=torch.float32)
    again = load_model(str(saved), device="cpu")
    answers = [generate(model, [render(model, Specification(), picture(0))]) for model in (first, again)]
    assert answers[0] == answers[1]
    assert again.dtype == torch.float32
    assert load_model(str(saved), dtype="bfloat16", device="cpu", attention="eager").dtype == torch.bfloat16


def test_fingerprint_is_of_the_weights(saved: Path) -> None:
    before = load_model(str(saved)).fingerprint
    assert len(before) == 64
    assert load_model(str(saved)).fingerprint == before
    tiny_llava(dtype=torch.float32, seed=1).module.save_pretrained(saved)
    assert load_model(str(saved)).fingerprint != before
    assert tiny_llama(seed=0).fingerprint == tiny_llama(seed=0).fingerprint != tiny_llama(seed=1).fingerprint


def test_text_model_is_loaded_without_a_processor(tmp_path: Path, llama: Model) -> None:
    llama.module.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype="float64")
    assert model.processor is None
    assert model.family.name == "text"


def test_mistyped_names_are_answered_with_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, neighbour in (
        ("bundeld", "'bundled'"),
        ("llava-hf/llava-1.5-7b", "llava-hf/llava-1.5-7b-hf"),
        ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ):
        with pytest.raises(CrosstaskError, match="did you mean") as error:
            load_model(name)
        assert neighbour in str(error.value)
        assert "\n" not in str(error.value)


def test_bad_settings_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(CrosstaskError, match="unknown dtype 'int3'; expected one of float32"):
        load_model("bundled", dtype="int3")
    with pytest.raises(CrosstaskError, match="device 'cuda:99' is not available"):
        load_model("bundled", device="cuda:99")
    with pytest.raises(CrosstaskError, match=r"holds no config\.json"):
        load_model(str(tmp_path))


def test_folder_with_missing_weights_is_refused(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(CrosstaskError, match="could not be loaded"):
        load_model(str(saved))


def test_truncated_weights_are_refused(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CrosstaskError, match="could not be loaded"):
        load_model(str(saved))


def test_weights_that_lack_a_tensor_are_refused(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    name = next(name for name in tensors if "layers.2.mlp" in name)
    save_file(
        {key: value for key, value in tensors.items() if key != name}, saved / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(CrosstaskError, match=r"lack 1 of the tensors .*layers\.2\.mlp"):
        load_model(str(saved))


def test_float64_with_eager_attention_is_refused() -> None:
    with pytest.raises(CrosstaskError, match="softmax in float32"):
        tiny_llava(attn_implementation="eager", dtype=torch.float64)


def test_families_are_found_by_configuration() -> None:
    assert family_for(LlamaConfig()).name == "text"
    with pytest.raises(CrosstaskError, match="type 'blip-2' are not supported; supported are fuyu, gemma3, idefics2"):
        family_for(Blip2Config())
    with pytest.raises(CrosstaskError, match="'clip' are not decoder-only"):
        family_for(CLIPConfig())


def test_unknown_layout_is_refused_at_load() -> None:
    module = BloomForCausalLM(BloomConfig(vocab_size=320, hidden_size=16, n_layer=2, n_head=2))
    llama = tiny_llama()
    with pytest.raises(CrosstaskError, match=r"expected 2 decoder blocks at get_decoder\(\)\.layers"):
        Model("bloom", module, llama.tokenizer, None, family_for(module.config), "0")


def test_processor_that_disagrees_with_the_model_is_refused() -> None:
    model = tiny_llava()
    assert model.processor is not None
    model.processor.vision_feature_select_strategy = "full"
    with pytest.raises(CrosstaskError, match="disagree on the feature selection: 'full' against 'default'"):
        Model("x", model.module, model.tokenizer, model.processor, model.family, "0")
    model.processor.vision_feature_select_strategy = model.processor.patch_size = None
    Model("x", model.module, model.tokenizer, model.processor, model.family, "0")  # taken from the configuration
    assert model.processor.patch_size == 4
    with pytest.raises(CrosstaskError, match="needs its processor"):
        Model("x", model.module, model.tokenizer, None, model.family, "0")


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, interp, interp.models; assert 'torch' not in sys.modules; print(dir(interp))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "load_model" in done.stdout
    assert all(getattr(interp, name) for name in dir(interp))
    with pytest.raises(AttributeError, match="has no attribute 'load_modell'"):
        _ = interp.load_modell
