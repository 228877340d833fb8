"""CoVFT through the runner: training, saving, loading, evaluating, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.errors import CrosstaskError
from interp.models.base import Model, load_model
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.adapters import adapter_at_work, attached
from interp.tuning.dataset import Example
from interp.tuning.evaluation.evaluate import EvaluationOptions, evaluate
from interp.tuning.run import TunedRun, finetune
from tests.interp.tuning.covft import ASKED, batch, config, logits
from tests.processes import trained_by_two
from tests.tiny import picture, tiny_llava

CHANGES = {"steps": 2, "batch": 4, "micro_batch": 2, "learning_rate": 1e-2}
QUESTIONS = ("How many dots are there?", "Is the moon left of the tree?", "Which is nearer?")
ITEMS = [
    PerceptionItem(f"item/{n}", "RD", (picture(n),) * (1 + n % 2), QUESTIONS[n % 3], ("yes", "no"), n % 2)
    for n in range(6)
]

TALK = [Example(f"talk/{n}", (picture(n),) if n % 4 == 1 else (), ((QUESTIONS[n % 3], "yes"),)) for n in range(8)]
"""Few examples have a picture."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, TunedRun]:
    """A model, and a run of two steps on it."""
    model = tiny_llava(dtype=torch.float32)
    changed = config(balance=0.01).changed(**CHANGES)
    return model, finetune(changed, tmp_path_factory.mktemp("covft") / "run", model=model, examples=ITEMS)


@pytest.fixture
def adapter(made: tuple[Model, TunedRun], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[1].adapter, tmp_path / "adapter"))


def test_run_trains_tower_projector_and_language_model(made: tuple[Model, TunedRun]) -> None:
    model, run = made
    written = load_file(run.adapter / "vision_model.safetensors")
    assert run.record["update_norm"] > 0
    assert run.record["config"]["options"] == {"balance": 0.01, "layers": "all", "text": "hashing"}
    assert not any(part in name for name in written for part in ("text_encoder", "bert", "base_layer"))
    moved = [name for name, t in written.items() if ".lora_B." in name and bool(t.any())]
    assert moved
    assert run.record["trained_parameters"] == sum(t.numel() for t in written.values())
    assert not hasattr(model.module.config, "crosstask_strategy")


def test_loaded_adapter_gives_the_logits_of_its_weights_and_takes_itself_off(made: tuple[Model, TunedRun]) -> None:
    model, run = made
    inputs = batch(model, ASKED)
    texts, owner = [question for question, _ in ASKED], [0, 0, 1]
    with torch.no_grad():
        before = logits(model, inputs)
        with attached(model, {"one": run.adapter, "two": run.adapter}) as adapters:
            found = []
            for name in ("one", "two"):
                with adapters.use(name), adapter_at_work(model).context(texts, owner):
                    found.append(logits(model, inputs))
            with adapters.use("one"), adapter_at_work(model).context(texts[::-1], owner):
                other = logits(model, inputs)
            assert torch.equal(logits(model, inputs), before)
        assert torch.equal(found[0], found[1])
        assert not torch.allclose(found[0], before)
        assert not torch.equal(found[0], other)
        assert torch.equal(logits(model, inputs), before)


PROCESSES = """
from tests.interp.tuning.test_covft_run import CHANGES, ITEMS, TALK, config
from tests.tiny import tiny_llava
from interp.tuning.run import finetune
changed = config(balance=0.01).changed(**CHANGES)
finetune(changed, out / "run", model=tiny_llava(dtype=torch.float32), examples={examples})
"""


def same_training(ours: TunedRun, theirs: TunedRun) -> None:
    assert theirs.to_frame()["loss"].tolist() == pytest.approx(ours.to_frame()["loss"].tolist(), rel=1e-4)
    one, other = (load_file(run.adapter / "vision_model.safetensors") for run in (ours, theirs))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-4) for name in one)


def test_two_processes_train_as_one(made: tuple[Model, TunedRun], tmp_path: Path) -> None:
    same_training(made[1], trained_by_two(PROCESSES.format(examples="ITEMS"), tmp_path))


def test_two_processes_train_as_one_though_one_of_them_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    alone = finetune(
        config(balance=0.01).changed(**CHANGES), tmp_path / "one", model=tiny_llava(dtype=torch.float32), examples=TALK
    )
    same_training(alone, trained_by_two(PROCESSES.format(examples="TALK"), tmp_path / "two"))


@pytest.mark.parametrize("name", ["covft", "vision_full"])
def test_two_processes_train_blocks_that_nothing_reads(name: str, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    options = config().options if name == "covft" else {}
    settings = config().changed(**CHANGES, strategy=name, options=options)
    alone = finetune(settings, tmp_path / "one", model=reading_the_last_but_one(), examples=ITEMS)
    code = LAST_BUT_ONE.format(name=name, options=options)
    same_training(alone, trained_by_two(code, tmp_path / "two"))


LAST_BUT_ONE = """
from tests.interp.tuning.test_covft_run import CHANGES, ITEMS, config, reading_the_last_but_one
from interp.tuning.run import finetune
settings = config().changed(**CHANGES, strategy="{name}", options={options})
finetune(settings, out / "run", model=reading_the_last_but_one(), examples=ITEMS)
"""


def reading_the_last_but_one() -> Model:
    """A model that reads its tower as LLaVA-1.5 does."""
    model = tiny_llava(dtype=torch.float32)
    model.module.config.vision_feature_layer = -2
    return model


def test_checkpointing_beside_a_balancing_loss_trains_as_without_it(tmp_path: Path) -> None:
    settings = config(balance=1.0).changed(**CHANGES | {"micro_batch": 1})
    runs = [
        finetune(
            settings.changed(gradient_checkpointing=again),
            tmp_path / str(again),
            model=tiny_llava(dtype=torch.float32),
            examples=TALK,
        )
        for again in (False, True)
    ]
    same_training(*runs)


def test_deepspeed_and_examples_without_a_picture_are_refused(made: tuple[Model, TunedRun], tmp_path: Path) -> None:
    changed = config().changed(**CHANGES, deepspeed="zero2")
    with pytest.raises(CrosstaskError, match=r"'talk/0' has no picture, and under DeepSpeed strategy 'covft'"):
        finetune(changed, tmp_path / "run", model=made[0], examples=TALK)


def test_model_in_bfloat16_keeps_its_precision_and_what_is_trained_is_in_float32(tmp_path: Path) -> None:
    model = tiny_llava(dtype=torch.bfloat16)
    with torch.no_grad():
        plain = logits(model, batch(model, ASKED))
    run = finetune(config().changed(**CHANGES), tmp_path / "run", model=model, examples=ITEMS)
    assert all(math.isfinite(row["loss"]) for row in run.record["curve"])
    with torch.no_grad():
        assert torch.equal(logits(model, batch(model, ASKED)), plain)
    written = load_file(run.adapter / "vision_model.safetensors")
    assert {t.dtype for t in written.values()} == {torch.float32}
    with (
        attached(model, {"one": run.adapter}) as adapters,
        adapters.use("one"),
        torch.no_grad(),
        adapter_at_work(model).context([question for question, _ in ASKED], [0, 0, 1]),
    ):
        tuned = logits(model, batch(model, ASKED))
    assert tuned.dtype == plain.dtype == torch.bfloat16
    assert torch.isfinite(tuned).all()
    assert not torch.equal(tuned, plain)


def test_float16_on_a_cpu_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    model = tiny_llava(dtype=torch.float16)
    with pytest.raises(CrosstaskError, match="is in float16; on a CPU it expects float32 or bfloat16"):
        finetune(config().changed(**CHANGES), tmp_path / "run", model=model, examples=ITEMS)
    assert model.dtype == torch.float16


def test_adapter_at_work_without_a_question_raises(made: tuple[Model, TunedRun]) -> None:
    model, run = made
    with (
        attached(model, {"one": run.adapter}) as adapters,
        adapters.use("one"),
        pytest.raises(CrosstaskError, match="reads the question, and was called without one"),
    ):
        logits(model, batch(model, ASKED))


@pytest.mark.parametrize("scoring", ["choice", "generation"])
def test_items_evaluated_together_are_those_evaluated_alone(made: tuple[Model, TunedRun], scoring: str) -> None:
    model, run = made
    options = EvaluationOptions(scoring=scoring)  # type: ignore[arg-type]
    [(_, together)] = evaluate(model, ITEMS[:3], {"covft": run.adapter}, options)
    alone = [
        records[0] for item in ITEMS[:3] for _, records in evaluate(model, [item], {"covft": run.adapter}, options)
    ]
    for ours, theirs in zip(together, alone, strict=True):
        assert (ours.prediction, ours.reply) == (theirs.prediction, theirs.reply)
        if ours.log_p_key is not None:
            assert ours.log_p_key == pytest.approx(theirs.log_p_key, abs=1e-4)


def test_missing_and_foreign_weights_are_refused(made: tuple[Model, TunedRun], adapter: Path) -> None:
    model, _ = made
    weights = adapter / "vision_model.safetensors"
    whole = load_file(weights)
    name = next(name for name in whole if "router.weight" in name)
    save_file({key: t for key, t in whole.items() if key != name}, weights)
    with pytest.raises(CrosstaskError, match=f"{name}' is missing"), attached(model, {"RD": adapter}):
        pass
    save_file(whole | {"extra": whole[name].clone()}, weights)
    with pytest.raises(CrosstaskError, match=r"'extra' of shape .* has no place"), attached(model, {"RD": adapter}):
        pass
    written = json.loads((adapter / "vision_config.json").read_text())
    save_file(whole, weights)
    (adapter / "vision_config.json").write_text(
        json.dumps(written | {"options": {"num_experts": 2, "text": "hashing"}})
    )
    with pytest.raises(CrosstaskError, match="do not match"), attached(model, {"RD": adapter}):
        pass


def test_adapter_of_another_model_is_refused(adapter: Path) -> None:
    with pytest.raises(CrosstaskError, match="was trained on"), attached(tiny_llava(seed=5), {"RD": adapter}):
        pass


def test_adapter_folder_is_not_loaded_as_a_model(adapter: Path) -> None:
    with pytest.raises(CrosstaskError, match="holds an adapter and not a model"):
        load_model(str(adapter))


def test_model_that_was_saved_whole_with_experts_is_not_loaded_as_a_plain_one(
    made: tuple[Model, TunedRun], tmp_path: Path
) -> None:
    model, run = made
    with attached(model, {"RD": run.adapter}) as adapters, adapters.use("RD"):
        model.module.save_pretrained(tmp_path)
    with pytest.raises(CrosstaskError, match="strategy 'covft' was at work in its vision tower"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_expert": 2}, "has no option 'num_expert'; it has language"),
        ({"num_experts": "two"}, "option 'num_experts' is a whole number, and was given as 'two'"),
        ({"routing": "top"}, "option 'routing' is one of dense, sparse, uniform, random"),
        ({"routing": "sparse", "active": 5}, "at most num_experts"),
        ({"layers": "4-"}, "and was given as '4-'"),
        ({"routing": "uniform", "balance": 0.1}, "needs a router"),
        ({"balance": math.inf}, "0 or more, and was given as inf"),
        ({"res_mult": math.inf}, "above 0, and was given as inf"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(options: dict, said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        config(**options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ([], r"holds \[\]; expected a JSON object"),
        ({"options": None}, "has options None; expected an object"),
        ({"rank": "eight"}, "has rank 'eight'; expected a whole number"),
        ({"targets": [1]}, r"has targets \[1\]; expected a list of texts"),
        ({"fingerprint": ...}, "lacks fingerprint; expected a text"),
        ({"alpha": 32}, "are not those that its weights were trained with"),
        (
            {"options": {"layers": "all", "text": "hashing", "heads": 2}},
            "are not those that its weights were trained with",
        ),
        ({"text_encoder": "hashing 8"}, "was trained with text encoder 'hashing 8', now 'hashing 32'"),
    ],
)
def test_damaged_settings_are_one_sentence(
    made: tuple[Model, TunedRun], adapter: Path, change: dict | list, said: str
) -> None:
    place = adapter / "vision_config.json"
    written = json.loads(place.read_text())
    changed = written | change if isinstance(change, dict) else change
    if isinstance(changed, dict):
        changed = {key: value for key, value in changed.items() if value is not ...}
    place.write_text(json.dumps(changed))
    with pytest.raises(CrosstaskError, match=said), attached(made[0], {"RD": adapter}):
        pass


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t: t.fill_(math.nan), "holds NaN or infinity"),
        (lambda t: t.to(torch.int64), r"of shape .* and type torch.int64 has no place"),
    ],
)
def test_damaged_weights_are_one_sentence(made: tuple[Model, TunedRun], adapter: Path, damage, said: str) -> None:
    weights = adapter / "vision_model.safetensors"
    whole = load_file(weights)
    name = next(name for name in whole if "router.weight" in name)
    save_file(whole | {name: damage(whole[name])}, weights)
    with pytest.raises(CrosstaskError, match=said), attached(made[0], {"RD": adapter}):
        pass
