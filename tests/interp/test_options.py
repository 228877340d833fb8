"""How models are loaded: what is asked is done or refused, and spread or quantised models answer as they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from interp.errors import CrosstaskError
from interp.heads import extract_heads, sum_of_heads
from interp.models import loading
from interp.models.base import Model, load_model
from interp.models.comparison import compare
from interp.models.options import LoadOptions
from interp.patching import RowPatch, generate, sweep_logits
from interp.prompts import Example, Specification, render
from interp.vectors import extract
from tests.tiny import LAYERS, picture, tiny_llama, tiny_llava


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA as a folder on disk, in float32."""
    model, folder = tiny_llava(dtype=torch.float32), tmp_path_factory.mktemp("options") / "llava"
    assert model.processor is not None
    model.module.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    return folder


class Asked(Exception):
    """Carries what transformers was asked for."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> type[Asked]:
    """Loading ends where transformers would read the weights."""

    def stop(*_: Any, **given: Any) -> None:
        raise Asked(given)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", stop)
    return Asked


def measured(model: Model) -> list[torch.Tensor]:
    """Vectors, logits under patches at every layer, head states, and a sum of heads."""
    spec = Specification((Example(picture(0) if model.takes_images else "one", "Paris"), Example("a text", "b")))
    prompts = [render(model, spec, picture(1) if model.takes_images else "two"), render(model, Specification(), "q")]
    vector = torch.randn(model.width, generator=torch.Generator().manual_seed(0)) * 4
    rows = [[RowPatch(layer, vector) for layer in range(LAYERS)]] * len(prompts)
    packed = sweep_logits(model, prompts, rows, engine="packed")
    copied = sweep_logits(model, prompts, rows, engine="copied")
    heads = extract_heads(model, prompts)
    return [extract(model, prompts), *packed, *copied, heads, sum_of_heads(model, heads[0], [(1, 0), (2, 3)])]


def test_spread_model_is_measured_like_a_whole_one(saved: Path) -> None:
    """Accelerate's hooks move every block's inputs, and half of the weights are not here until they are needed."""
    places = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "lm_head": "cpu"}
    places |= {f"model.language_model.{name}": "cpu" for name in ("embed_tokens", "norm", "rotary_emb")}
    places |= {f"model.language_model.layers.{n}": ("cpu", "disk")[n % 2] for n in range(LAYERS)}
    whole, spread = load_model(str(saved), device="cpu"), load_model(str(saved), device_map=json.dumps(places))
    assert [p.is_meta for p in spread.blocks[1].parameters()] == [True] * 9
    assert spread.is_spread
    assert (spread.is_remote, spread.is_whole, str(spread.device)) == (False, False, "cpu")
    assert (whole.is_spread, whole.is_remote, whole.is_whole) == (False, False, True)
    for ours, theirs in zip(measured(spread), measured(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    prompts = [render(whole, Specification(), picture(0)), render(whole, Specification(), "text")]
    assert generate(spread, prompts, stop=None) == generate(whole, prompts, stop=None)
    assert spread.fingerprint == whole.fingerprint
    assert compare(whole, spread).distance is None
    assert compare(whole, whole).distance == 0


def test_model_whose_first_weights_are_put_off_is_not_taken_for_remote(tmp_path: Path) -> None:
    model = tiny_llama()
    prompts = [render(model, Specification(), "q")]
    expected = extract(model, prompts)
    places = {"model.embed_tokens": "disk", "model.layers": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    dispatch_model(model.module, places | {"model.rotary_emb": "cpu"}, offload_dir=tmp_path)
    assert model.module.device.type == "meta"
    assert not model.is_remote
    torch.testing.assert_close(extract(model, prompts), expected)


def test_quantisation_without_bitsandbytes_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "is_bitsandbytes_available", lambda: False)
    for bits in ("4bit", "8bit"):
        with pytest.raises(CrosstaskError, match=rf"--quantize {bits} needs bitsandbytes .* pip install 'crosstask"):
            load_model(str(saved), quantize=bits)  # type: ignore[arg-type]


def test_quantisation_on_a_machine_that_bitsandbytes_does_not_know_is_one_sentence(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(*_: Any, **__: Any) -> None:
        raise RuntimeError("None of the available devices are supported.\nLong advice.")

    monkeypatch.setattr(loading, "is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", validate)
    with pytest.raises(CrosstaskError, match=r"could not be loaded: None of the available devices are supported$"):
        load_model(str(saved), quantize="4bit")


def test_quantised_weights_are_asked_of_transformers(
    saved: Path, monkeypatch: pytest.MonkeyPatch, asked: type[Asked]
) -> None:
    monkeypatch.setattr(loading, "is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr(BitsAndBytesConfig, "post_init", lambda self: None)  # asks for the version of bitsandbytes
    with pytest.raises(asked) as four:
        load_model(str(saved), quantize="4bit", dtype="bfloat16", device="cpu")
    config = four.value.given["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
    assert config.bnb_4bit_compute_dtype == four.value.given["dtype"] == torch.bfloat16
    assert four.value.given["device_map"] == {"": "cpu"}
    with pytest.raises(asked) as eight:
        load_model(str(saved), quantize="8bit", device_map="auto")
    assert eight.value.given["quantization_config"].load_in_8bit
    assert eight.value.given["device_map"] == "auto"


def test_quantisation_is_never_passed_over(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr(loading, "_quantization", lambda *_: None)
    with pytest.raises(CrosstaskError, match="was not quantised to 8bit, as was asked"):
        load_model(str(saved), quantize="8bit")
    monkeypatch.undo()
    with pytest.raises(CrosstaskError, match=r"'bundled-llm' comes with the package, .* so --quantize 4bit is not"):
        load_model("bundled-llm", quantize="4bit")
    with pytest.raises(CrosstaskError, match="so --revision main is not for it"):
        load_model("bundled", revision="main")
    config = json.loads((saved / "config.json").read_text()) | {"quantization_config": {"quant_method": "awq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CrosstaskError, match=r"are quantised already \(awq\); leave out --quantize"):
        load_model(str(tmp_path), quantize="4bit")


def test_fingerprint_tells_quantised_weights_from_those_of_the_files() -> None:
    held = [
        loading._as_held("0" * 64, LoadOptions(quantize=bits, dtype=dtype))  # type: ignore[arg-type]
        for bits in (None, "4bit", "8bit")
        for dtype in ("float32", "bfloat16")
    ]
    assert held[:2] == ["0" * 64] * 2
    assert len(set(held[1:])) == 5
    assert {len(found) for found in held} == {64}


@pytest.mark.parametrize(("bits", "dtype"), [("4bit", "float32"), ("8bit", "bfloat16")])
def test_quantised_model_is_measured_in_its_compute_dtype(tmp_path: Path, bits: Any, dtype: str) -> None:
    sizes = {"hidden_size": 64, "num_key_value_heads": 4, "intermediate_size": 64}  # CPUs pack 64 columns
    tiny = tiny_llama(dtype=torch.float32, **sizes)
    tiny.module.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    whole = load_model(str(tmp_path), device="cpu", dtype=dtype)
    model = load_model(str(tmp_path), device="cpu", dtype=dtype, quantize=bits)
    assert model.dtype == getattr(torch, dtype)
    assert not next(model.blocks[0].self_attn.o_proj.parameters()).is_floating_point()  # type: ignore[union-attr, operator]
    assert model.fingerprint != whole.fingerprint
    assert not model.is_whole
    for ours, theirs in zip(measured(model), measured(whole), strict=True):
        assert ours.dtype == theirs.dtype
        assert 0 < (ours.float() - theirs.float()).norm() / theirs.float().norm() < 0.5


def test_attention_revision_and_remote_code_reach_transformers(saved: Path, asked: type[Asked]) -> None:
    with pytest.raises(asked) as loaded:
        load_model(str(saved), attention="eager", revision="abc", trust_remote_code=True)
    expected = {"attn_implementation": "eager", "revision": "abc", "trust_remote_code": True, "device_map": None}
    assert {name: loaded.value.given[name] for name in expected} == expected
    with pytest.raises(asked) as plain:
        load_model(str(saved))
    assert plain.value.given["trust_remote_code"] is False
    assert "quantization_config" not in plain.value.given


def test_remote_code_is_run_only_when_asked(tmp_path: Path) -> None:
    code = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(code))
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise ValueError('it ran')\n")
    with pytest.raises(CrosstaskError, match="brings its own code, which runs only with --trust-remote-code"):
        load_model(str(tmp_path))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cpu", "device_map": "auto"}, "device 'cpu' and device map 'auto' both say where the model goes"),
        ({"device_map": "everywhere"}, "unknown device map 'everywhere'; expected one of auto, balanced"),
        ({"device_map": "[1, 2]"}, "expected one of auto, .* or module: device as JSON"),
        ({"quantize": "3bit"}, "unknown quantisation '3bit'; expected one of 4bit, 8bit"),
        ({"quantize": "4bit", "dtype": "float64"}, "4bit weights are not computed in float64"),
        ({"quantize": "4bit", "device": "remote"}, "held elsewhere cannot be quantised to 4bit"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        LoadOptions(**options)


def test_configuration_holds_what_was_asked_for_and_no_device() -> None:
    assert LoadOptions(device="cuda:1").config() == {"dtype": "float32"}
    given = {"quantize": "8bit", "attention": "eager", "revision": "v1", "trust_remote_code": True}
    options = LoadOptions(dtype="bfloat16", device_map="auto", **given)  # type: ignore[arg-type]
    assert options.config() == given | {"dtype": "bfloat16", "device_map": "auto"}
