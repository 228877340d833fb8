"""Adapters on a model: one at work at a time, the base model otherwise, and none that changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.tuning.adapters import attached
from interp.tuning.batch import collate
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import Example
from interp.tuning.encoding import encode
from interp.tuning.run import finetune
from tests.tiny import picture, tiny_llama, tiny_llava

EXAMPLES = [Example(f"e{i}", (picture(i),), (("Which?", "(A)" if i % 2 else "(B)"),)) for i in range(8)]


def trained(folder: Path, strategy: str, model: Model, seed: int = 0) -> Path:
    config = TuneConfig(
        "RD",
        "tiny-llava",
        strategy,
        steps=2,
        batch=8,
        seed=seed,
        learning_rate=1e-2,
        features="off",
        loading=LoadOptions("cpu"),
    )
    return finetune(config, folder, model=model, examples=EXAMPLES).adapter


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("adapters")
    model = tiny_llava()
    found = {kind: trained(base / kind, kind, model) for kind in ("lora", "full", "freeze")}
    return found | {"lora.2": trained(base / "lora2", "lora", model, seed=1)}


def logits(model: Model) -> Tensor:
    batch = collate(model, [encode(model, [picture(1)], [("Which?", None)])])
    del batch["labels"]
    with torch.no_grad():
        return model.module(**batch).logits


def test_each_adapter_is_at_work_alone(folders: dict[str, Path]) -> None:
    model = tiny_llava()
    before = logits(model)
    with attached(model, folders) as adapters:
        assert adapters.names == ("lora", "full", "freeze", "lora.2")
        assert torch.equal(logits(model), before)
        seen = {}
        for name in adapters.names:
            with adapters.use(name):
                seen[name] = logits(model)
            assert torch.equal(logits(model), before)
    assert torch.equal(seen["freeze"], before)
    assert len({float(each.sum()) for each in seen.values()}) == 4
    for name in folders:
        with attached(model, {"alone": folders[name]}) as adapters, adapters.use("alone"):
            assert torch.allclose(logits(model), seen[name], atol=1e-12)


def test_model_is_afterwards_as_before(folders: dict[str, Path]) -> None:
    model, fresh = tiny_llava(), tiny_llava()
    with attached(model, folders) as adapters, adapters.use("full"):
        pass
    states = model.module.state_dict(), fresh.module.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not hasattr(model.module, "peft_config")


def test_peft_reads_the_adapter_by_itself(folders: dict[str, Path]) -> None:
    from peft import PeftModel

    model, theirs = tiny_llava(), tiny_llava()
    with attached(model, {"lora": folders["lora"]}) as adapters, adapters.use("lora"):
        ours = logits(model)
    PeftModel.from_pretrained(theirs.module, str(folders["lora"]))
    assert torch.allclose(logits(theirs), ours, atol=1e-12)


def zeroed(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: torch.zeros_like(t) if "lora_B" in name else t for name, t in tensors.items()}, path)


def renamed(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name.replace("language_model", "text_model"): t for name, t in load_file(path).items()}, path)


def halved(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[: len(tensors) // 2]), path)


def narrower(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: t[..., : t.shape[-1] // 2].contiguous() for name, t in load_file(path).items()}, path)


def torn(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "zero": (zeroed, "adapter 'RD' changes nothing: all of its updates are zero"),
    "other names": (renamed, "the weights of adapter 'RD' do not match the model's: '.*text_model.*' has no place"),
    "half": (halved, "the weights of adapter 'RD' do not match the model's: '.*' is missing"),
    "other width": (narrower, "adapter 'RD' does not fit model 'tiny-llava'"),
    "torn": (torn, "adapter_model.safetensors of adapter 'RD' cannot be read"),
    "empty": (empty, "of adapter 'RD' holds neither adapter_config.json nor delta.safetensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_adapter_that_would_not_work_is_refused(case: str, folders: dict[str, Path], tmp_path: Path) -> None:
    spoil, message = REFUSED[case]
    shutil.copytree(folders["lora"], tmp_path / "adapter")
    spoil(tmp_path / "adapter")
    model = tiny_llava()
    before = logits(model)
    with pytest.raises(CrosstaskError, match=message), attached(model, {"RD": tmp_path / "adapter"}):
        pass
    assert torch.equal(logits(model), before)
    assert not hasattr(model.module, "peft_config")


@pytest.mark.parametrize("kind", ["lora", "full", "freeze"])
def test_adapter_of_another_base_is_refused(kind: str, folders: dict[str, Path]) -> None:
    refused = pytest.raises(
        CrosstaskError, match=r"was trained on 'tiny-llava' with weights .* and model 'tiny-llava' has"
    )
    with refused, attached(tiny_llava(seed=1), {"RD": folders[kind]}):
        pass


def test_adapter_of_peft_is_held_to_the_name_of_its_base(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["lora"], tmp_path / "adapter")
    (tmp_path / "adapter" / "run.json").unlink()
    with attached(tiny_llava(), {"RD": tmp_path / "adapter"}):
        pass
    refused = pytest.raises(CrosstaskError, match=r"was trained on 'tiny-llava', and the model is 'tiny-llama'")
    with refused, attached(tiny_llama(), {"RD": tmp_path / "adapter"}):
        pass


def test_delta_without_a_place_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["full"], tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "delta.safetensors")
    save_file(tensors | {"model.nowhere": torch.ones(2)}, tmp_path / "adapter" / "delta.safetensors")
    refused = pytest.raises(CrosstaskError, match=r"'model.nowhere' of shape \(2,\) has no place")
    with refused, attached(tiny_llava(), {"RD": tmp_path / "adapter"}):
        pass


def test_adapter_trained_on_quantised_weights_fits_the_whole_ones(folders: dict[str, Path], tmp_path: Path) -> None:
    from interp.models.loading import _as_held

    shutil.copytree(folders["lora"], tmp_path / "adapter")
    record = json.loads((tmp_path / "adapter" / "run.json").read_text())
    loading = LoadOptions(quantize="4bit", dtype="bfloat16")
    record["fingerprint"] = _as_held(record["fingerprint"], loading)
    record["config"]["loading"] = loading.config()
    (tmp_path / "adapter" / "run.json").write_text(json.dumps(record))
    with attached(tiny_llava(), {"RD": tmp_path / "adapter"}):
        pass


def test_unknown_and_doubled_adapters_are_refused(folders: dict[str, Path]) -> None:
    with attached(tiny_llava(), {"RD": folders["lora"]}) as adapters:
        with pytest.raises(CrosstaskError, match="no adapter 'CN'; attached are RD"), adapters.use("CN"):
            pass
        with adapters.use("RD"), pytest.raises(CrosstaskError, match="'RD' is at work"), adapters.use(None):
            pass
