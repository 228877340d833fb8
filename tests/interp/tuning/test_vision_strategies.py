"""Strategies of the vision tower: what they begin as, what they train, and that the model is as before afterwards."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.adapters import attached
from interp.tuning.config import TuneConfig
from interp.tuning.strategies import strategy
from interp.tuning.strategies.vision import VisionAdapter, VisionStrategy
from tests.interp.tuning.covft import ASKED, batch, logits
from tests.tiny import tiny_llava
from tests.tiny_families import VISION

OPTIONS: dict[str, dict[str, Any]] = {
    "vision_freeze": {},
    "vision_full": {},
    "vision_bitfit": {},
    "vision_lora": {"r": 4},
    "vpt": {"prompts": 3},
    "qa_vit": {"text": "hashing"},
    "text_connector": {"text": "hashing"},
}
"""Every strategy but CoVFT, which has its own tests."""
IDENTITIES = [name for name in OPTIONS if name != "vpt"]
MAKERS = {
    "clip": tiny_llava,
    "siglip": lambda: tiny_llava(cls=False),
    "internvl": VISION["internvl"],
    "qwen2_5_vl": VISION["qwen2_5_vl"],
}
TOWERS = ("clip", "siglip", "internvl")


@cache
def tiny(tower: str = "clip") -> Model:
    """A model that all tests share, since strategies leave it as it was."""
    return MAKERS[tower]()


def config(name: str, **options: Any) -> TuneConfig:
    return TuneConfig("RD", "tiny-llava", name, options=OPTIONS.get(name, {}) | options)


@contextlib.contextmanager
def at_work(model: Model, name: str, **options: Any) -> Iterator[VisionStrategy]:
    found = strategy(name)(model, config(name, **options))
    assert isinstance(found, VisionStrategy)
    try:
        yield found
    finally:
        found.detach()


def output(model: Model, found: VisionStrategy | None = None) -> Tensor:
    reads: Any = found if found is not None and found.reads_text else None
    with torch.no_grad():
        return logits(model, batch(model, ASKED, reads=reads), reads)


def train(found: VisionStrategy, scale: float = 0.05) -> None:
    """Change what is trained, as training would."""
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in found.trainable().values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=drawn, dtype=parameter.dtype))


def saved(folder: Path, found: VisionStrategy) -> Path:
    folder.mkdir()
    found.save(folder, {name: parameter.detach() for name, parameter in found.trainable().items()})
    return folder


def adapter_output(model: Model, adapter: VisionAdapter) -> Tensor:
    bare = batch(model, ASKED)
    owner = [0, 0, 1]
    with torch.no_grad(), adapter.context([question for question, _ in ASKED], owner):
        return logits(model, bare)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("name", IDENTITIES)
def test_model_is_as_before_at_the_start(name: str, tower: str) -> None:
    model = tiny(tower)
    before = output(model)
    with at_work(model, name) as found:
        torch.testing.assert_close(output(model, found), before, atol=1e-12, rtol=0)


def test_qa_vit_whose_frozen_path_reads_the_question_is_not_as_before() -> None:
    model = tiny()
    before = output(model)
    with at_work(model, "qa_vit", path="question") as found:
        assert float((output(model, found) - before).abs().max()) > 1e-3


@pytest.mark.parametrize("name", OPTIONS)
def test_detaching_leaves_every_bit_as_it_was(name: str) -> None:
    model = tiny()
    expected = output(model)
    before = {key: (tensor, tensor.clone()) for key, tensor in model.module.state_dict(keep_vars=True).items()}
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.module.modules()]
    with at_work(model, name) as found:
        train(found)
        assert not torch.equal(output(model, found), expected)
        assert model.module.config.crosstask_strategy == name  # so that a module saved whole is not read as plain
    assert not hasattr(model.module.config, "crosstask_strategy")
    after = model.module.state_dict(keep_vars=True)
    assert before.keys() == after.keys()
    assert all(after[key] is same and torch.equal(after[key], value) for key, (same, value) in before.items())
    assert hooks == [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.module.modules()]
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert torch.equal(output(model), expected)


TOWER = r"model\.vision_tower\.encoder\.layers\.(\d)\."
TRAINED = {
    "vision_freeze": r"$^",
    "vision_full": r"model\.vision_tower\..*",
    "vision_bitfit": r"model\.vision_tower\..*bias",
    "vision_lora": TOWER + r"self_attn\.(q_proj|k_proj|v_proj|out_proj)\.lora_[AB]\.default\.weight",
    "vpt": TOWER + r"prompts\.weight",
    "qa_vit": TOWER + r"self_attn\.(gate|question\.\d\.(weight|bias)|second\.(weight|bias))",
    "text_connector": r"model\.multi_modal_projector\.(experts\.\d\.linear_[12]|router)\.(weight|bias)",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_trained_is_the_towers_part_projector_and_lora(name: str) -> None:
    model = tiny()
    with at_work(model, name) as found:
        names = set(found.trainable())
    own = {key for key in names if re.fullmatch(TRAINED[name], key)}
    language = {key for key in names if re.fullmatch(r"model\.language_model\..*lora_[AB].*", key)}
    assert len(language) == 2 * 4 * model.n_layers
    projector = set() if name == "text_connector" else {key for key in names if ".multi_modal_projector." in key}
    assert projector or name == "text_connector"
    assert own | language | projector == names
    assert own or name == "vision_freeze"


def test_language_model_is_trained_as_the_options_say() -> None:
    model = tiny()
    with at_work(model, "vision_bitfit", language="none", projector=False) as found:
        assert all(re.fullmatch(TRAINED["vision_bitfit"], key) for key in found.trainable())
    with at_work(model, "vision_freeze", language="full") as found:
        language = {key for key in found.trainable() if "language_model" in key or "lm_head" in key}
        assert "model.language_model.embed_tokens.weight" in language
        assert not any("lora" in key for key in language)
    with pytest.raises(CrosstaskError, match=r"vision_freeze.* trains nothing"):
        strategy("vision_freeze")(model, config("vision_freeze", language="none", projector=False))


def test_qa_vit_enters_the_late_half_alone() -> None:
    with at_work(tiny(), "qa_vit") as found:
        layers = {match[1] for key in found.trainable() if (match := re.match(TOWER, key))}
    assert layers == {"1"}


COVFT: tuple[dict[str, Any], ...] = (
    {},
    {"layers": "1", "num_experts": 3, "res_mult": 1.0, "train_norms": False},
    {"routing": "sparse", "active": 1},
    {"routing": "uniform"},
    {"context": "text"},
    {"context": "image", "heads": 2},
    {"context": "concat"},
)


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in OPTIONS), *(("covft", {"text": "hashing", "layers": "all"} | one) for one in COVFT)],
    ids=str,
)
def test_saved_adapter_gives_what_was_trained(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = tiny()
    before = output(model)
    with at_work(model, name, **options) as found:
        train(found)
        trained = output(model, found)
        folder = saved(tmp_path / "adapter", found)
    assert {path.name for path in folder.iterdir()} == {"vision_config.json", "vision_model.safetensors"}
    with attached(model, {"x": folder}) as adapters:
        assert torch.equal(output(model), before)
        with adapters.use("x"):
            torch.testing.assert_close(
                adapter_output(model, adapters._adapters["x"]),  # type: ignore[arg-type]
                trained,
                atol=1e-12,
                rtol=0,
            )
        assert torch.equal(output(model), before)


def test_adapters_take_turns_on_one_model(tmp_path: Path) -> None:
    model, folders, alone = tiny(), {}, {}
    before = output(model)
    for name in OPTIONS:
        with at_work(model, name) as found:
            train(found)
            alone[name] = output(model, found)
            folders[name] = saved(tmp_path / name, found)
    with attached(model, folders) as adapters:
        for name in [*folders, *reversed(folders)]:
            with adapters.use(name):
                seen = adapter_output(model, adapters._adapters[name])  # type: ignore[arg-type]
                torch.testing.assert_close(seen, alone[name], atol=1e-12, rtol=0)
            assert torch.equal(output(model), before)


def test_adapter_of_another_base_model_is_refused(tmp_path: Path) -> None:
    with at_work(tiny(), "vision_lora") as found:
        train(found)
        folder = saved(tmp_path / "adapter", found)
    with (
        pytest.raises(CrosstaskError, match=r"adapter 'x' is of strategy 'vision_lora' on 'tiny-llava' with weights"),
        attached(tiny_llava(seed=1), {"x": folder}),
    ):
        pass


@pytest.mark.parametrize("spoilt", ["missing", "unknown", "shape", "untrained", "torn"])
def test_damaged_adapter_is_refused_and_the_model_left_alone(spoilt: str, tmp_path: Path) -> None:
    model = tiny()
    before = output(model)
    with at_work(model, "vision_lora") as found:
        if spoilt != "untrained":
            train(found)
        folder = saved(tmp_path / "adapter", found)
    path = folder / "vision_model.safetensors"
    tensors = load_file(path)
    key = next(iter(tensors))
    if spoilt == "missing":
        del tensors[key]
    elif spoilt == "unknown":
        tensors["model.nothing.weight"] = torch.ones(2)
    elif spoilt == "shape":
        tensors[key] = tensors[key][..., :1].contiguous()
    save_file(tensors, path)
    if spoilt == "torn":
        path.write_bytes(path.read_bytes()[:50])
    said = {"untrained": "changes nothing", "torn": "cannot be read", "missing": "is missing"}.get(spoilt, "no place")
    with pytest.raises(CrosstaskError, match=f"adapter 'x'.*{said}"), attached(model, {"x": folder}):
        pass
    assert torch.equal(output(model), before)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "vision_freeze"])
def test_gradient_reaches_what_is_trained_through_llavas_tower(name: str) -> None:
    model = tiny()
    with at_work(model, name) as found:
        train(found)
        reads: Any = found if found.reads_text else None
        inputs = batch(model, ASKED, reads=reads)
        made = logits(model, inputs, reads)
        (made * torch.randn(made.shape, generator=torch.Generator().manual_seed(1), dtype=made.dtype)).sum().backward()
        unread = ("post_layernorm",)
        own = {key: p for key, p in found.trainable().items() if re.fullmatch(TRAINED[name], key)}
        without = [key for key, p in own.items() if p.grad is None or not p.grad.any()]
        assert [key for key in without if not any(part in key for part in unread)] == []


def test_gate_of_qa_vit_opens_the_path_of_the_question() -> None:
    model = tiny()
    with at_work(model, "qa_vit") as found:
        reads: Any = found
        inputs = batch(model, ASKED, reads=reads)
        logits(model, inputs, reads).sum().backward()
        gate, rest = [], []
        for key, parameter in found.trainable().items():
            if re.fullmatch(TRAINED["qa_vit"], key):
                (gate if key.endswith("gate") else rest).append(parameter.grad)
    assert all(grad is not None and grad.any() for grad in gate)
    assert not any(grad is not None and grad.any() for grad in rest)


@pytest.mark.parametrize("name", ["qa_vit", "text_connector"])
def test_question_changes_what_is_seen_of_its_own_pictures_alone(name: str) -> None:
    model = tiny()
    with at_work(model, name) as found:
        train(found, 0.3)
        pixels = batch(model, ASKED)["pixel_values"]

        def features(texts: list[str]) -> Tensor:
            with found.context(found.text_inputs(texts, [0, 0, 1])), torch.no_grad():
                made: Any = model.module.get_image_features(pixel_values=pixels, return_dict=True)
            return torch.stack(list(made.pooler_output))

        one, other = features(["How many dots are there?", "Where?"]), features(["How many dots are there?", "Why so?"])
        assert float((one[2] - other[2]).abs().max()) > 1e-6
        torch.testing.assert_close(one[:2], other[:2], atol=1e-12, rtol=0)  # also under other padding
        with pytest.raises(CrosstaskError, match="reads the question"):
            model.module.get_image_features(pixel_values=pixels)


def test_padding_of_a_question_is_not_read() -> None:
    model = tiny()
    with at_work(model, "qa_vit") as found:
        train(found, 0.3)
        pixels = batch(model, ASKED)["pixel_values"][:1]
        made = []
        for texts in (["Where?"], ["Where?", "a much longer question than that"]):
            with found.context(found.text_inputs(texts, [0])), torch.no_grad():
                made.append(model.module.get_image_features(pixel_values=pixels, return_dict=True).pooler_output[0])  # type: ignore[operator]
    torch.testing.assert_close(made[0], made[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("tower", TOWERS)
def test_prompts_are_read_and_dropped_before_features_are(tower: str) -> None:
    model = tiny(tower)
    before = output(model)  # also lets transformers install its own hooks first
    with at_work(model, "vpt") as found:
        after = output(model, found)
        assert after.shape == before.shape
        assert not torch.allclose(after, before)
        for key, parameter in found.trainable().items():
            if key.endswith("prompts.weight"):
                assert parameter.shape == (3, 16)
    assert torch.equal(output(model), before)


def test_prompts_stand_behind_the_class_token() -> None:
    for cls in (True, False):
        model = tiny("clip" if cls else "siglip")
        with at_work(model, "vpt") as found:
            (one, *_) = (part for part in model.module.modules() if type(part).__name__ == "Prompts")
            tokens = torch.arange(5.0).reshape(1, 5, 1).expand(1, 5, 16).double()
            longer = one.into(tokens)  # type: ignore[operator]
            assert longer[0, :, 0].tolist()[: int(cls)] == [0.0] * int(cls)
            assert torch.equal(longer[0, int(cls) : int(cls) + 3], one.weight)
            assert torch.equal(one.out_of(longer), tokens)  # type: ignore[operator]
            assert found.name == "vpt"


@pytest.mark.parametrize("name", ["vpt", "qa_vit"])
def test_tower_without_room_for_more_tokens_is_refused(name: str) -> None:
    model = tiny("qwen2_5_vl")
    with pytest.raises(
        CrosstaskError, match=r"has no room for .*: its blocks take the tokens of all images in one row"
    ):
        strategy(name)(model, config(name))


@pytest.mark.parametrize("name", ["vision_full", "vision_bitfit", "vision_lora"])
def test_packed_tower_is_trained_without_its_merger_twice(name: str) -> None:
    model = tiny("qwen2_5_vl")
    with at_work(model, name) as found:
        assert len(found.trainable()) == len({id(p) for p in found.trainable().values()})
        assert any(".merger." in key for key in found.trainable())
    if name == "vision_lora":
        with pytest.raises(CrosstaskError, match="lies in its tower"):
            strategy("text_connector")(model, config("text_connector"))


def test_model_without_a_tower_is_refused() -> None:
    with pytest.raises(CrosstaskError, match="no vision tower"):
        strategy("vision_full")(VISION["fuyu"](), config("vision_full"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vision_lora", {"r": 0}),
        ("vpt", {"prompts": 0}),
        ("text_connector", {"num_experts": 1}),
        ("qa_vit", {"tokens": 0}),
    ],
)
def test_bad_option_is_refused(name: str, options: dict[str, int]) -> None:
    with pytest.raises(CrosstaskError, match=f"{next(iter(options))}.* is at least"):
        config(name, **options)


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    with at_work(tiny(), "vision_freeze") as found:
        files = [saved(tmp_path / str(n), found) / "vision_model.safetensors" for n in range(8)]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf")])
def test_scale_of_the_towers_update_is_above_zero(alpha: float) -> None:
    with pytest.raises(CrosstaskError, match=f"alpha of vision_lora is a number above 0, and was given as {alpha}"):
        config("vision_lora", alpha=alpha)
