"""Settings of fine-tuning: the paper's defaults, its schedules and presets, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.tasks.perception.registry import perception_tasks
from interp.tuning.config import TuneConfig
from interp.tuning.encoding import encode
from interp.tuning.pixels import pixel_limits
from interp.tuning.presets import PRESETS, jobs, preset
from interp.tuning.run import finetune
from interp.tuning.schedules import PAPER
from interp.tuning.strategies import strategies
from tests import tiny_families as tiny
from tests.tiny import picture


def test_defaults_are_the_papers() -> None:
    config = TuneConfig("relative_depth")
    assert (config.rank, config.alpha, config.dropout, config.targets) == (
        8,
        16,
        0.0,
        ("q_proj", "k_proj", "v_proj", "o_proj"),
    )
    assert (config.batch, config.learning_rate, config.weight_decay, config.warmup) == (16, 1e-4, 0.0, 0.03)
    assert config.lr_scheduler == "cosine"


def test_strategies_are_found() -> None:
    assert {"bitfit", "freeze", "full", "lora"} <= strategies().keys()


STEPS = {"VS": 2500, "CN": 15_625, "RD": 13_125, "JG": 920, "AS": 1000, "FC": 2000, "SC": 11_250, "SR": 2188}
STEPS |= {"OL": 1480, "VC": 3750, "MR": 2500, "RR": 8750, "FD": 100}


@pytest.mark.parametrize("task", PAPER)
def test_paper_schedule_makes_its_steps(task: str) -> None:
    """Steps at batch 16 from Table A.2."""
    config = TuneConfig(task, schedule="paper")
    assert config.n_steps(config.n_examples) == STEPS[task]


def test_paper_has_a_schedule_for_every_task() -> None:
    assert {task.abbreviation for task in perception_tasks().values()} <= PAPER.keys()
    assert TuneConfig("counting", schedule="paper").n_examples == 250_000
    assert TuneConfig("CN/words", schedule="paper").n_examples == 250_000


def test_what_is_given_goes_before_the_schedule() -> None:
    config = TuneConfig("RD", schedule="paper", steps=10, examples=40)
    assert config.n_steps(config.n_examples) == 10
    assert config.n_examples == 40
    assert TuneConfig("RD", epochs=2, examples=40).n_steps(40) == 5
    assert TuneConfig("RD", steps=100, fraction=0.25).n_steps(1000) == 25


@pytest.mark.parametrize("name", PRESETS)
def test_preset_makes_a_job_for_each_task(name: str) -> None:
    made = jobs(name)
    assert [job.task for job in made] == list(PAPER)
    for job in made:
        assert job.n_steps(job.n_examples) == STEPS[job.task]
        assert (job.batch, job.rank, job.loading.dtype) == (16, 8, "bfloat16")
        assert job.accumulation(8) == (2, 1)
        assert job.deepspeed == ("zero3" if "32b" in name else "zero2")


def own_class(name: str) -> Callable[[], Model]:
    return tiny.llava if "llava" in name else tiny.qwen2_5_vl


@pytest.mark.parametrize("name", PRESETS)
def test_preset_runs_on_a_tiny_model_of_its_class(name: str, tmp_path: Path) -> None:
    model = own_class(name)()
    changes = {
        "steps": 1,
        "examples": 2,
        "batch": 2,
        "size": 32,
        "deepspeed": None,
        "loading": LoadOptions(device="cpu"),
    }
    job = jobs(name, **changes, features_at=tmp_path / "features")[2]
    run = finetune(job, tmp_path / "run", model=model)
    assert run.record["steps"] == 1
    assert type(model.module).__name__.startswith("Llava" if "llava" in name else "Qwen2_5_VL")


def test_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(CrosstaskError, match=re.escape("did you mean 'sachdeva-qwen2.5-vl-3b'?")):
        preset("sachdeva-qwen-3b")


@pytest.mark.parametrize("make", [tiny.qwen2_vl, tiny.qwen2_5_vl, tiny.qwen3_vl])
def test_pixel_limits_hold_for_a_while(make: Callable[[], Model]) -> None:
    model = make()

    def tokens() -> int:
        return encode(model, [picture(1, (40, 40))], [("What?", "(A)")]).n_tokens

    before = tokens()
    with pixel_limits(model, 64, 256):
        assert tokens() < before
    assert tokens() == before


def test_pixel_limits_of_other_processors_are_refused() -> None:
    with pytest.raises(CrosstaskError, match="without pixel limits"), pixel_limits(tiny.llava(), None, 100):
        pass


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown strategy": ({"strategy": "prefix"}, "there is no strategy 'prefix'; expected bitfit, covft, freeze,"),
    "steps and epochs": ({"steps": 3, "epochs": 2}, "steps (3) and epochs (2) both say how long"),
    "rank": ({"rank": 0}, "rank is at least 1, and was given as 0"),
    "dropout": ({"dropout": 1.5}, "the dropout lies between 0 and 1, and was given as 1.5"),
    "learning rate": ({"learning_rate": 0}, "the learning rate is a number above 0, not 0"),
    "fraction": ({"fraction": 0}, "a part of the run lies above 0"),
    "snapshot": ({"snapshots": (0.5, 2)}, "and was given as 2"),
    "micro-batch": ({"batch": 16, "micro_batch": 5}, "a batch of 16 cannot be made of micro-batches of 5"),
    "tower under lora": ({"train_tower": True}, "are of strategy full, and were given with 'lora'"),
    "endless rate": ({"learning_rate": math.inf}, "the learning rate is a number above 0, not inf"),
    "surgery": ({"surgery": "pcgard"}, "there is no surgery 'pcgard'; expected none, pcgrad, cagrad"),
    "paper's schedule": (
        {"task": "random_key", "schedule": "paper"},
        "the paper has no schedule for task 'random_key'",
    ),
    "unknown task": ({"task": "relative_dept", "schedule": "paper"}, "did you mean relative_depth"),
    "pixels": ({"min_pixels": 9, "max_pixels": 4}, "min_pixels 9 is above max_pixels 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_settings_are_refused_in_one_sentence(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(CrosstaskError) as refusal:
        TuneConfig(**{"task": "RD"} | changes)
    assert message in str(refusal.value)


@pytest.mark.parametrize(("processes", "shared"), [(1, (4, 4)), (2, (4, 2)), (8, (2, 1)), (16, (1, 1))])
def test_batch_is_shared_by_processes(processes: int, shared: tuple[int, int]) -> None:
    assert TuneConfig("RD").accumulation(processes) == shared


def test_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(CrosstaskError, match="a batch of 16 cannot be shared by 3 processes"):
        TuneConfig("RD").accumulation(3)
    with pytest.raises(CrosstaskError, match="micro-batches of 4 do not make up; set micro_batch to a divisor of 6"):
        TuneConfig("RD", batch=12, micro_batch=4).accumulation(2)


def test_speed_is_no_part_of_what_decides_the_numbers() -> None:
    config = TuneConfig("RD")
    fast = config.changed(micro_batch=16, compile_blocks=True, report_to=("tensorboard",), loading=LoadOptions("cpu"))
    assert fast.settings() == config.settings()
    assert config.changed(rank=4).settings() != config.settings()
