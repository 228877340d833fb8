"""Fine-tuning runs on tiny models: what is trained, what is written, and going on after a kill."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.tuning.adapters import attached
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import Example, training_order
from interp.tuning.run import TunedRun, finetune, without_dropout
from interp.tuning.strategies import strategy
from interp.tuning.trainer import TuneTrainer, deepspeed_file
from tests import tiny_families as tiny
from tests.processes import trained_by_two
from tests.tiny import picture, tiny_gpt2, tiny_llama, tiny_llava

EXAMPLES = [
    Example(f"e{i}", (picture(i),), ((f"Which is {i}?\n(A) a\n(B) b" + " or c" * (i % 3), "(A)" if i % 2 else "(B)"),))
    for i in range(12)
]
CPU = LoadOptions(device="cpu")


def settings(tmp_path: Path, **changes: Any) -> TuneConfig:
    given = {"model": "tiny-llava", "steps": 4, "batch": 8, "learning_rate": 1e-2, "loading": CPU}
    return TuneConfig(task="relative_depth", features_at=tmp_path / "features", **given | changes)  # type: ignore[arg-type]


def weights(run: TunedRun) -> dict[str, torch.Tensor]:
    return load_file(run.adapter / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_llava(dtype=torch.float32)


@pytest.fixture(scope="module")
def run(model: Model, tmp_path_factory: pytest.TempPathFactory) -> TunedRun:
    """The plain run that others are compared with."""
    folder = tmp_path_factory.mktemp("plain")
    return finetune(settings(folder), folder / "run", model=model, examples=EXAMPLES)


def test_loss_falls_and_the_record_says_what_was_done(run: TunedRun, model: Model) -> None:
    record = json.loads((run.adapter / "run.json").read_text())
    curve = run.to_frame()
    assert curve["step"].tolist() == [1, 2, 3, 4]
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    assert record["steps"] == 4
    assert record["examples_seen"] == 32
    assert record["fingerprint"] == model.fingerprint
    assert record["update_norm"] > 0
    assert record["answer_tokens"] < record["tokens"]
    assert {"torch", "transformers", "peft"} <= record["versions"].keys()


def test_folder_is_ready_for_the_hub(run: TunedRun) -> None:
    card = (run.adapter / "README.md").read_text()
    assert card.startswith("---\nbase_model: tiny-llava\nlibrary_name: peft\n")
    assert "r 8, alpha 16, dropout 0" in card
    assert {path.name for path in run.adapter.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "run.json",
    }
    assert not (run.folder / "checkpoints").exists()


def test_lora_is_on_the_language_model_alone(run: TunedRun) -> None:
    names = weights(run)
    assert len(names) == 4 * 4 * 2  # blocks, projections, A and B
    assert all("language_model.layers" in name and "vision_tower" not in name for name in names)


def test_norm_of_the_update_is_that_of_its_products(run: TunedRun) -> None:
    tensors = weights(run)
    squares = [
        (2.0 * tensors[name.replace("lora_A", "lora_B")] @ a).double().square().sum()  # alpha / r = 2
        for name, a in tensors.items()
        if "lora_A" in name
    ]
    assert run.record["update_norm"] == pytest.approx(float(sum(squares)) ** 0.5, rel=1e-5)


def test_model_is_afterwards_as_before(run: TunedRun) -> None:
    fresh = tiny_llava(dtype=torch.float32)
    used = tiny_llava(dtype=torch.float32)
    finetune(settings(run.folder / "x", strategy="full"), run.folder / "x" / "full", model=used, examples=EXAMPLES)
    finetune(settings(run.folder / "x"), run.folder / "x" / "lora", model=used, examples=EXAMPLES)
    states = fresh.module.state_dict(), used.module.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not used.module.training
    assert not any(p.requires_grad for p in used.module.parameters())


def test_features_train_as_pixels_do(tmp_path: Path) -> None:
    """In float64: at this learning rate float32's rounding grows with the steps, more with several threads."""
    model, double = tiny_llava(), LoadOptions("cpu", dtype="float64")
    pixels = finetune(
        settings(tmp_path, features="off", loading=double), tmp_path / "pixels", model=model, examples=EXAMPLES
    )
    assert not (tmp_path / "features").exists()
    kept = finetune(settings(tmp_path, loading=double), tmp_path / "kept", model=model, examples=EXAMPLES)
    assert any((tmp_path / "features").rglob("*.safetensors"))
    ours, theirs = weights(kept), weights(pixels)
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-5) for name in ours)


def test_micro_batches_make_the_same_step(run: TunedRun, model: Model, tmp_path: Path) -> None:
    other = finetune(settings(tmp_path, micro_batch=2), tmp_path / "run", model=model, examples=EXAMPLES)
    ours, theirs = weights(run), weights(other)
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-4) for name in ours)


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_killed_run_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    model = tiny_llava(dtype=torch.float32)
    config = settings(tmp_path, strategy=kind, steps=6, save_every=2, dropout=0.3 if kind == "lora" else 0.0)
    whole = finetune(config, tmp_path / "whole", model=model, examples=EXAMPLES)

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        finetune(config, tmp_path / "killed", model=model, examples=EXAMPLES, tell=kill)
    torch.manual_seed(12345)  # another process has another generator
    seen: list[int] = []
    again = finetune(
        config, tmp_path / "killed", model=model, examples=EXAMPLES, tell=lambda step, *rest: seen.append(step)
    )
    assert seen == [5, 6]
    file = "adapter_model.safetensors" if kind == "lora" else "delta.safetensors"
    assert (whole.adapter / file).read_bytes() == (again.adapter / file).read_bytes()
    assert whole.to_frame()["loss"].tolist() == again.to_frame()["loss"].tolist()
    assert again.to_frame()["seconds"].is_monotonic_increasing


def test_torn_checkpoint_is_passed_over(tmp_path: Path, model: Model) -> None:
    config = settings(tmp_path, save_every=1, keep_checkpoints=5)

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        finetune(config, tmp_path / "run", model=model, examples=EXAMPLES, tell=kill)
    (tmp_path / "run" / "checkpoints" / "checkpoint-3" / "trainer_state.json").write_text('{"epoch"')
    seen: list[int] = []
    finetune(config, tmp_path / "run", model=model, examples=EXAMPLES, tell=lambda step, *rest: seen.append(step))
    assert seen == [3, 4]


def test_finished_run_is_read_and_not_repeated(run: TunedRun, model: Model) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError("it trained again")

    config = settings(run.folder.parent)
    assert finetune(config, run.folder, model=model, examples=EXAMPLES, tell=refuse).record == run.record
    with pytest.raises(CrosstaskError, match="rank was 8 and is now 4"):
        finetune(config.changed(rank=4), run.folder, model=model, examples=EXAMPLES)


def test_snapshots_are_the_run_until_then(tmp_path: Path, model: Model, run: TunedRun) -> None:
    config = settings(tmp_path, snapshots=(0.5, 1.0))
    both = finetune(config, tmp_path / "run", model=model, examples=EXAMPLES)
    assert list(both.snapshots) == [0.5, 1.0]
    at_the_end = load_file(both.snapshots[1.0] / "adapter_model.safetensors")
    assert all(torch.equal(at_the_end[name], tensor) for name, tensor in weights(run).items())
    half = json.loads((both.snapshots[0.5] / "run.json").read_text())
    assert half["steps"] == 2
    assert 0 < half["update_norm"] < run.record["update_norm"]


def test_freeze_writes_a_card_and_no_weights(tmp_path: Path, model: Model) -> None:
    frozen = finetune(settings(tmp_path, strategy="freeze"), tmp_path / "run", model=model, examples=EXAMPLES)
    assert {path.name for path in frozen.adapter.iterdir()} == {"README.md", "run.json"}
    assert frozen.record["steps"] == 0


def test_bitfit_trains_biases_alone(tmp_path: Path) -> None:
    qwen = tiny.qwen2_5_vl()
    config = settings(tmp_path, model="qwen2_5_vl", strategy="bitfit")
    run = finetune(config, tmp_path / "run", model=qwen, examples=EXAMPLES)
    deltas = load_file(run.adapter / "delta.safetensors")
    assert all(name.endswith("bias") and "language_model" in name for name in deltas)
    assert run.record["curve"][-1]["loss"] < run.record["curve"][0]["loss"]
    norm = sum(float(delta.square().sum()) for delta in deltas.values()) ** 0.5
    assert run.record["update_norm"] == pytest.approx(norm)


def test_bitfit_says_that_there_are_no_biases(tmp_path: Path, model: Model) -> None:
    with pytest.raises(CrosstaskError, match="has no bias terms"):
        finetune(settings(tmp_path, strategy="bitfit"), tmp_path / "run", model=model, examples=EXAMPLES)


@pytest.mark.parametrize("parts", [(), ("projector",), ("projector", "tower")])
def test_full_trains_what_was_asked(tmp_path: Path, parts: tuple[str, ...]) -> None:
    model = tiny_llava(dtype=torch.float32)
    asked = {f"train_{part}": True for part in parts}
    chosen = strategy("full")(model, settings(tmp_path, strategy="full", **asked)).trainable()
    for part, word in (("projector", "multi_modal_projector"), ("tower", "vision_tower")):
        assert any(word in name for name in chosen) == (part in parts)
    assert any("embed_tokens" in name for name in chosen)


def test_full_keeps_weights_in_float32_where_the_model_computes_in_bfloat16(tmp_path: Path) -> None:
    model = tiny_llava(dtype=torch.bfloat16)
    config = settings(
        tmp_path, strategy="full", learning_rate=1e-5, loading=LoadOptions(device="cpu", dtype="bfloat16")
    )
    run = finetune(config, tmp_path / "run", model=model, examples=EXAMPLES)
    assert model.forward({"input_ids": torch.tensor([[1, 2, 3]])}).logits.dtype == torch.bfloat16
    deltas = load_file(run.adapter / "delta.safetensors")
    moved = [float((delta != 0).double().mean()) for name, delta in deltas.items() if "q_proj" in name]
    assert min(moved) > 0.9
    assert model.dtype == torch.bfloat16


def test_lora_stays_in_float32_on_a_bfloat16_model(tmp_path: Path) -> None:
    model = tiny_llava(dtype=torch.bfloat16)
    config = settings(tmp_path, loading=LoadOptions(device="cpu", dtype="bfloat16"))
    with pytest.warns(UserWarning, match="loses the update"):
        run = finetune(config, tmp_path / "run", model=model, examples=EXAMPLES)
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.float32}


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_dropout_is_exactly_what_was_asked(dropout: float, tmp_path: Path, model: Model) -> None:
    chosen = strategy("lora")(model, settings(tmp_path, dropout=dropout))
    rates = {part.p for part in chosen.module.modules() if isinstance(part, torch.nn.Dropout)}
    chosen.detach()
    assert rates == ({dropout} if dropout else set())


def test_the_models_own_dropout_is_off_while_it_trains() -> None:
    module = tiny_gpt2().module
    rates = lambda: {part.p for part in module.modules() if isinstance(part, torch.nn.Dropout)}  # noqa: E731
    before = rates()
    assert max(before) > 0
    with without_dropout(module):
        assert rates() == {0.0}
    assert rates() == before


def test_layer_that_is_not_there_is_named(tmp_path: Path, model: Model) -> None:
    with pytest.raises(CrosstaskError, match="no linear layer 'query' that LoRA could adapt; they have down_proj, "):
        finetune(settings(tmp_path, targets=("query",)), tmp_path / "run", model=model, examples=EXAMPLES)


def test_wrong_example_is_named_before_anything_is_trained(tmp_path: Path, model: Model) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    from interp.images import Image

    bad = Example("data.jsonl, line 7", (Image(path=tmp_path / "bad.png"),), (("What?", "(A)"),))
    with pytest.raises(CrosstaskError, match=r"example 13 \('data.jsonl, line 7'\) cannot be used: .*bad.png"):
        finetune(
            settings(tmp_path),
            tmp_path / "run",
            model=model,
            examples=[*EXAMPLES, bad],
            tell=lambda *_: pytest.fail("it trained"),
        )


def test_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    model = tiny_llava(dtype=torch.float32)
    with torch.no_grad():
        model.final_norm.weight.fill_(float("nan"))
    with pytest.raises(CrosstaskError, match="the loss is nan at step 1: lower the learning rate"):
        finetune(settings(tmp_path, features="off"), tmp_path / "run", model=model, examples=EXAMPLES)


def test_seeds_of_order_and_initialisation_are_apart(tmp_path: Path, model: Model) -> None:
    def start(**seeds: int) -> torch.Tensor:
        chosen = strategy("lora")(model, settings(tmp_path, **seeds))
        (first, *_) = chosen.trainable().values()
        chosen.detach()
        return first.detach().clone()

    assert torch.equal(start(seed=1), start(seed=0, init_seed=1))
    assert torch.equal(start(seed=1, data_seed=5), start(seed=1))
    assert not torch.equal(start(seed=1), start(seed=0))
    orders = [training_order([1] * 12, steps=2, batch=8, seed=seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_every_epoch_shows_every_example_once() -> None:
    order = training_order([1, 2, 3, 4], steps=4, batch=2, seed=3)
    assert sorted(order[:4]) == sorted(order[4:]) == [0, 1, 2, 3]


def test_language_model_learns_without_pictures(tmp_path: Path) -> None:
    examples = [Example(f"e{i}", (), ((f"Say {i}.", "yes"),)) for i in range(8)]
    config = settings(tmp_path, model="tiny-llama")
    run = finetune(config, tmp_path / "run", model=tiny_llama(dtype=torch.float32), examples=examples)
    assert run.record["curve"][-1]["loss"] < run.record["curve"][0]["loss"]


@pytest.mark.filterwarnings("error:.*autograd kernel was not registered")
def test_quantised_model_learns_by_lora(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from interp.models.base import load_model

    sizes = {"hidden_size": 64, "num_key_value_heads": 4, "intermediate_size": 128}  # CPUs pack 64 columns
    plain = tiny_llama(dtype=torch.float32, **sizes)
    plain.module.save_pretrained(tmp_path / "model")
    plain.tokenizer.save_pretrained(tmp_path / "model")
    loading = LoadOptions(device="cpu", quantize="4bit")
    model, evaluated = (load_model(str(tmp_path / "model"), **vars(loading)) for _ in range(2))
    evaluated.forward({"input_ids": torch.tensor([[1, 2, 3]])})  # a CPU now holds its weights in another form
    examples = [Example(f"e{i}", (), ((f"Say {i}.", "yes"),)) for i in range(8)]
    config = settings(tmp_path, model=str(tmp_path / "model"), loading=loading)
    run = finetune(config, tmp_path / "run", model=model, examples=examples)
    assert run.record["curve"][-1]["loss"] < run.record["curve"][0]["loss"]
    other = finetune(config, tmp_path / "evaluated", model=evaluated, examples=examples)
    assert other.to_frame()["loss"].tolist() == pytest.approx(run.to_frame()["loss"].tolist(), rel=0.02)
    with attached(load_model(str(tmp_path / "model"), device="cpu"), {"tuned": run.adapter}):
        pass  # what was trained on quantised weights fits the whole ones
    with pytest.raises(CrosstaskError, match="quantised"):
        finetune(config.changed(strategy="full"), tmp_path / "full", model=model, examples=examples)


PROCESSES = """
from tests.interp.test_tuning_run import EXAMPLES, settings
from tests.tiny import tiny_llava
from interp.tuning.run import finetune
finetune(settings(out), out / "run", model=tiny_llava(dtype=torch.float32), examples=EXAMPLES)
"""


def test_two_processes_train_as_one(run: TunedRun, tmp_path: Path) -> None:
    both = trained_by_two(PROCESSES, tmp_path)
    ours, theirs = weights(run), weights(both)
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-4) for name in ours)
    assert both.to_frame()["loss"].tolist() == pytest.approx(run.to_frame()["loss"].tolist(), rel=1e-4)


def test_shipped_deepspeed_settings_are_found_and_the_package_asked_for() -> None:
    for name in ("zero2", "zero3"):
        with pytest.raises(CrosstaskError, match=f"deepspeed '{name}' needs the package deepspeed"):
            deepspeed_file(TuneConfig("relative_depth", deepspeed=name))
    with pytest.raises(CrosstaskError, match="neither zero2, zero3 nor a file"):
        deepspeed_file(TuneConfig("relative_depth", deepspeed="zero9"))


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_accelerate_reads_the_shipped_deepspeed_settings(name: str, stage: int) -> None:
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    import interp.tuning

    read = HfDeepSpeedConfig(str(Path(interp.tuning.__file__).parent / "deepspeed" / f"{name}.json"))
    assert (read.is_zero2(), read.is_zero3()) == (stage == 2, stage == 3)
    assert not read.is_offload()
    assert read.get_value("train_batch_size") == "auto"
    assert read.get_value("bf16.enabled") == "auto"
    if stage == 3:
        assert read.is_true("zero_optimization.stage3_gather_16bit_weights_on_model_save")


class Divides:
    """Stands for what transformers makes of ZeRO-3's settings, and refers to weakly."""

    def is_zero3(self) -> bool:
        return True


@pytest.mark.parametrize(("strategy", "divided"), [("lora", True), ("full", False), ("covft", False)])
def test_zero3_divides_weights_as_they_are_read_unless_the_strategy_reads_them(
    strategy: str, divided: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, set_hf_deepspeed_config

    class Read(Exception):
        pass

    def arguments(*_: object, **__: object) -> Divides:
        made = Divides()
        set_hf_deepspeed_config(made)
        return made

    def load(*_: object, **__: object) -> None:
        raise Read(is_deepspeed_zero3_enabled())

    monkeypatch.setattr("interp.tuning.run.training_arguments", arguments)
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(init_distributed=lambda: None))
    monkeypatch.setattr("interp.models.base.load_model", load)
    earlier = arguments()
    with pytest.raises(Read) as caught:
        finetune(TuneConfig("RD", "any", strategy, deepspeed="zero3"), tmp_path / "run")
    assert caught.value.args == (divided,)
    set_hf_deepspeed_config(earlier)  # of a run in this process whose settings are still held
    with pytest.raises(Read) as caught:
        finetune(TuneConfig("RD", "any", strategy), tmp_path / "plain")
    assert caught.value.args == (False,)


def test_processes_beside_the_main_one_write_nothing_of_a_checkpoint_that_was_gathered(tmp_path: Path) -> None:
    """As under ZeRO-3, where asking for the weights once more would wait for a process that does not ask."""
    trainer: Any = object.__new__(TuneTrainer)
    trainer.args, trainer.strategy = SimpleNamespace(should_save=False), SimpleNamespace(trainable=dict)
    trainer.is_deepspeed_enabled, trainer.model_wrapped = True, None
    asked: list[object] = []
    trainer.accelerator = SimpleNamespace(get_state_dict=asked.append)  # which is None beside the main process
    trainer._save(str(tmp_path / "checkpoint"), state_dict=None)
    assert not asked
    assert not (tmp_path / "checkpoint").exists()
    assert trainer.trained_state() is None
