"""How much goes through a model at once, and what happens when a GPU has less than was thought."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import psutil
import pytest
import torch

from interp import memory
from interp.errors import CrosstaskError
from interp.memory import ROW_TOKENS, MemoryPlan, free_memory, memory_plan, within_memory
from interp.models.base import Model
from interp.patching import RowPatch, sweep_logits
from interp.prompts import Specification, render
from interp.vectors import extract
from tests.tiny import WIDTH, tiny_llama

GIB = 2**30
TOKEN = (2 * 4 * 2 * 8 + 16 * 32 + 4 * 48) * 8
"""Bytes of a token of the tiny model in float64: keys and values of 4 layers x 2 heads x 8, and activations."""


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> Model:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    return tiny_llama()


def test_plan_is_what_keeps_the_cores_busy_where_memory_is_plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_plan(with_free(monkeypatch, 8 * GIB)) == MemoryPlan(2048, 2048, 8 * GIB)


def test_plan_shrinks_with_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = memory_plan(with_free(monkeypatch, 2_000_000))
    assert plan == MemoryPlan(800_000 // TOKEN, 800_000 // TOKEN // ROW_TOKENS, 2_000_000)
    assert plan.tokens < 2048
    assert plan.rows < 2048
    assert memory_plan(with_free(monkeypatch, 100)) == MemoryPlan(1, 1, 100)
    monkeypatch.setattr(memory, "LOGIT_BYTES", 100 * 8 * tiny_llama().module.config.vocab_size)
    assert memory_plan(with_free(monkeypatch, 8 * GIB)).rows == 100


def test_sweep_in_little_memory_equals_the_sweep_in_plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = torch.randn(WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    found = []
    for free in (8 * GIB, 100):
        model = with_free(monkeypatch, free)
        prompts = [render(model, Specification(), text) for text in ("q", "another: 1")]
        rows = [[RowPatch(layer, vector) for layer in range(4)]] * 2
        found.append(torch.stack([*sweep_logits(model, prompts, rows)]))
        found.append(extract(model, prompts))
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[1], found[3], rtol=0, atol=1e-9)


def test_plan_is_said_once_and_kept(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="interp")
    model = with_free(monkeypatch, 8 * GIB)
    first = memory_plan(model)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    extract(model, [render(model, Specification(), "q")])
    assert memory_plan(model) == first
    assert [record.message for record in caplog.records] == [
        "sweep of model 'tiny-llama': 2048 tokens a forward pass, 2048 packed rows, from 8.0 GiB free"
    ]


def test_fullest_gpu_decides_and_what_pytorch_reserved_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [torch.device("cuda:0"), torch.device("cuda:1")]
    free, reserved, allocated = {0: 4 * GIB, 1: 3 * GIB}, {0: 5 * GIB, 1: GIB}, {0: 2 * GIB, 1: GIB // 2}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved[device.index])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated[device.index])
    for devices, expected in ((gpus, 3.5), (gpus[:1], 7.0)):
        monkeypatch.setattr(Model, "devices", property(lambda _, devices=devices: devices))
        assert free_memory(tiny_llama()) == expected * GIB


def fits_from(model: Model, tokens: int) -> list[MemoryPlan]:
    """Work that runs out of memory while the plan is larger than this; returns the plans that it saw."""
    seen = []

    @within_memory
    def work(model: Model, *, budget: int | None = None) -> list[MemoryPlan]:
        seen.append(memory_plan(model))
        if (budget or seen[-1].tokens) > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return seen

    return work(model)


def test_out_of_memory_halves_the_plan_and_the_call_is_done_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = with_free(monkeypatch, 8 * GIB)
    assert [plan.tokens for plan in fits_from(model, 600)] == [2048, 1024, 512]
    assert memory_plan(model) == MemoryPlan(512, 512, 8 * GIB)
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said[0].startswith("model 'tiny-llama' ran out of memory; halved to 1024 tokens a forward pass, 1024 packed")
    assert [plan.tokens for plan in fits_from(model, 600)] == [512]


def test_sweep_that_ran_out_of_memory_gives_what_one_that_did_not_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model, vector = with_free(monkeypatch, 8 * GIB), torch.ones(WIDTH, dtype=torch.float64) * 3
    prompts = [render(model, Specification(), text) for text in ("q", "another: 1")]
    rows = [[RowPatch(layer, vector) for layer in range(4)]] * 2
    expected = sweep_logits(model, prompts, rows)
    forward, calls = Model.forward, []

    def fail_second(self: Model, *args: object, **options: object) -> object:
        calls.append(0)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "forward", fail_second)
    torch.testing.assert_close(sweep_logits(model, prompts, rows), expected, rtol=0, atol=1e-9)
    assert memory_plan(model).tokens == 1024


def test_what_never_fits_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_free(monkeypatch, 8 * GIB)
    with pytest.raises(CrosstaskError, match="'tiny-llama' ran out of memory on cpu with 512 tokens a forward pass"):
        fits_from(model, 100)

    @within_memory
    def work(model: Model, *, budget: int) -> None:
        assert not memory._plans.get(model), "a budget of the caller's own leaves the plan alone"
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(CrosstaskError, match=r"ran out of memory on cpu with budget 3000$"):
        work(with_free(monkeypatch, 8 * GIB), budget=3000)
