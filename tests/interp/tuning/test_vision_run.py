"""Strategies of the tower through the runner: a training of two steps, and the evaluation of what it saved."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.adapters import adapter_at_work, attached
from interp.tuning.batch import collate
from interp.tuning.config import TuneConfig
from interp.tuning.encoding import encode
from interp.tuning.evaluation.evaluate import EvaluationOptions, evaluate
from interp.tuning.run import TunedRun, finetune
from interp.tuning.text_context import context_text
from tests.interp.tuning.test_vision_strategies import OPTIONS
from tests.tiny import picture, tiny_llava

QUESTIONS = ("How many dots are there?", "Is the moon left of the tree?", "Which is nearer?")
ITEMS = [
    PerceptionItem(
        f"item/{n}", ("RD", "CN")[n % 2], tuple(picture(10 * n + i) for i in range(1 + n % 2)), QUESTIONS[n % 3],
        ("yes", "no"), n % 2,
    )
    for n in range(4)
]  # fmt: skip


@cache
def model() -> Model:
    return tiny_llava(dtype=torch.float32)


def run_of(name: str, folder: Path, **changes: Any) -> TunedRun:
    settings = {"steps": 2, "batch": 4, "micro_batch": 2, "learning_rate": 1e-2, "warmup": 0.0} | changes
    config = TuneConfig("RD", strategy=name, options=OPTIONS[name], loading=LoadOptions("cpu"), **settings)
    return finetune(config, folder / "run", model=model(), examples=ITEMS)


def log_p_key(item: PerceptionItem, adapter: Path) -> float:
    """Of the item's letters without a shift, by one plain pass under the adapter."""
    encoded = encode(model(), item.images, [(item.prompt, None)], answer_prefix="(")
    inputs = collate(model(), [encoded])
    del inputs["labels"]
    with attached(model(), {"x": adapter}) as adapters, adapters.use("x"), torch.no_grad():
        at_work = adapter_at_work(model())
        with at_work.context([context_text(item.prompt)], [0] * len(item.images)):
            scores = model().module(**inputs).logits[0, -1].double()
    ids = [model().tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "AB"]
    return float((scores[ids].log_softmax(0))[item.key])


@pytest.mark.parametrize("name", OPTIONS)
def test_run_trains_and_what_it_saved_is_evaluated_as_it_was_trained(name: str, tmp_path: Path) -> None:
    before = {key: tensor.clone() for key, tensor in model().module.state_dict().items()}
    run = run_of(name, tmp_path)
    assert run.record["update_norm"] > 0
    assert len({entry["loss"] for entry in run.record["curve"]}) == 2
    after = model().module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    found = dict(evaluate(model(), ITEMS[:2], {"frozen": None, "tuned": run.adapter}, EvaluationOptions(shifts=False)))
    assert found["frozen"][0].log_p_key != found["tuned"][0].log_p_key
    for item, record in zip(ITEMS[:2], found["tuned"], strict=True):
        assert record.log_p_key is not None
        assert math.isclose(record.log_p_key, log_p_key(item, run.adapter), abs_tol=1e-4)


def test_run_that_was_killed_continues_to_the_same_weights(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 2:
            raise Killed

    config = TuneConfig(
        "RD", strategy="vpt", options=OPTIONS["vpt"], steps=3, batch=4, micro_batch=2, learning_rate=1e-2,
        surgery="pcgrad", save_every=1, loading=LoadOptions("cpu"),
    )  # fmt: skip
    whole = finetune(config, tmp_path / "whole", model=model(), examples=ITEMS)
    with pytest.raises(Killed):
        finetune(config, tmp_path / "killed", model=model(), examples=ITEMS, tell=kill)
    again = finetune(config, tmp_path / "killed", model=model(), examples=ITEMS)
    losses = [[entry["loss"] for entry in run.record["curve"]] for run in (whole, again)]
    assert losses[0] == losses[1]
    assert again.record["update_norm"] == whole.record["update_norm"]
