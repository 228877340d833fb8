"""Heads are read and patched where they are, and their parts add up to what the attention writes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.batches import collate
from interp.errors import CrosstaskError
from interp.heads import extract_heads, indirect_effects, strongest, sum_of_heads
from interp.hooks import HookError
from interp.models.base import Model
from interp.patching import RowPatch, sweep_logits
from interp.prompts import Example, Prompt, Specification, render
from tests.tiny import LAYERS, picture

EXACT = {"rtol": 0.0, "atol": 1e-9}


def prompts_for(model: Model) -> list[Prompt]:
    """Ragged, with several images where the model takes them."""
    shots = [Example("one: 1", "a: b"), Example("two", "c")]
    queries = ["q", "a longer query: 12:30"]
    if model.takes_images:
        shots[0] = Example(picture(0), "Paris")
        queries = [picture(1), "a text query"]
    return [render(model, Specification(tuple(shots)), q) for q in queries] + [render(model, Specification(), "x")]


@pytest.fixture(params=["llava", "llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Model:
    return request.getfixturevalue(request.param)


def attention_output(model: Model, prompt: Prompt, layer: int) -> Tensor:
    """What the output projection of a layer gives at the last position, read without this project's hooks."""
    seen = []
    handle = model.projections[layer].register_forward_hook(lambda module, inputs, output: seen.append(output[0, -1]))
    try:
        model.forward(collate(model, [prompt]).inputs, use_cache=False)
    finally:
        handle.remove()
    return seen[0]


def test_heads_add_up_to_what_the_attention_writes(model: Model) -> None:
    prompts = prompts_for(model)
    states = extract_heads(model, prompts)
    assert states.shape == (3, LAYERS, model.n_heads, model.head_width)
    for index, prompt in enumerate(prompts):  # the batch is padded, the check is not
        for layer in range(LAYERS):
            bias = getattr(model.projections[layer], "bias", None)
            total = sum_of_heads(model, states[index], [(layer, head) for head in range(model.n_heads)])
            expected = attention_output(model, prompt, layer) - (0 if bias is None else bias)
            torch.testing.assert_close(total, expected, **EXACT)


@pytest.mark.parametrize("engine", ["packed", "copied", "plain"])
def test_patched_head_equals_writing_its_slice_by_hand(model: Model, engine: str) -> None:
    prompts = prompts_for(model)
    state = torch.randn(model.head_width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    rows = [RowPatch(layer, state, head=head) for layer in range(LAYERS) for head in range(model.n_heads)]
    found = sweep_logits(model, prompts, [rows] * len(prompts), engine=engine)
    for prompt, logits in zip(prompts, found, strict=True):
        for row, patch in zip(logits, rows, strict=True):
            torch.testing.assert_close(row, by_hand(model, prompt, patch), **EXACT)


def by_hand(model: Model, prompt: Prompt, patch: RowPatch) -> Tensor:
    width = model.head_width

    def write(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = inputs[0].clone()
        changed[0, -1, patch.head * width : (patch.head + 1) * width] = patch.vector
        return (changed, *inputs[1:])

    handle = model.projections[patch.layer].register_forward_pre_hook(write)
    try:
        return model.forward(collate(model, [prompt]).inputs, use_cache=False).logits[0, -1]
    finally:
        handle.remove()


def test_heads_and_blocks_are_patched_in_one_sweep(llava: Model) -> None:
    prompt = prompts_for(llava)[0]
    head = RowPatch(1, torch.ones(llava.head_width, dtype=torch.float64), head=2)
    block = RowPatch(1, torch.ones(llava.width, dtype=torch.float64))
    (together,) = sweep_logits(llava, [prompt], [[head, block, RowPatch(0, None)]])
    alone = [sweep_logits(llava, [prompt], [[row]])[0][0] for row in (head, block, RowPatch(0, None))]
    torch.testing.assert_close(together, torch.stack(alone), **EXACT)


def test_effect_of_a_heads_own_state_is_none_and_of_another_is_its_gain(model: Model) -> None:
    prompts = prompts_for(model)[:2]
    own = extract_heads(model, prompts)
    answers = torch.tensor([5, 7])
    for index, prompt in enumerate(prompts):
        logs, chances = indirect_effects(model, [prompt], answers[index : index + 1], own[index])
        assert logs.abs().max() < 1e-5
        assert chances.abs().max() < 1e-5
    logs, chances = indirect_effects(model, prompts[:1], answers[:1], own[1])
    layer, head = strongest(logs[0], 1)[0]
    rows = [RowPatch(0, None), RowPatch(layer, own[1, layer, head], head=head)]
    before, after = sweep_logits(model, prompts[:1], [rows], engine="plain")[0].log_softmax(-1)[:, 5]
    assert logs[0, layer, head].item() == pytest.approx((after - before).item(), abs=1e-5)
    assert chances[0, layer, head].item() == pytest.approx((after.exp() - before.exp()).item(), abs=1e-5)
    assert logs.abs().max() > 1e-3


def test_strongest_heads_come_in_order_of_their_effect() -> None:
    effects = torch.tensor([[0.1, 0.5, 0.1], [0.4, -2.0, 0.5]])
    assert strongest(effects, 4) == [(0, 1), (1, 2), (1, 0), (0, 0)]
    with pytest.raises(CrosstaskError, match="7 strongest heads of 6"):
        strongest(effects, 7)


def test_heads_that_do_not_fit_are_refused(llava: Model) -> None:
    prompt = prompts_for(llava)[0]
    state = torch.ones(llava.head_width, dtype=torch.float64)
    with pytest.raises(CrosstaskError, match=f"head 4 is out of range.*0 to {llava.n_heads - 1}"):
        sweep_logits(llava, [prompt], [[RowPatch(0, state, head=llava.n_heads)]])
    with pytest.raises(CrosstaskError, match="cannot be patched into the heads"):
        sweep_logits(llava, [prompt], [[RowPatch(0, torch.ones(llava.width), head=0)]])
    own = extract_heads(llava, [prompt])[0]
    with pytest.raises(HookError, match="changes nothing"):
        sweep_logits(llava, [prompt], [[RowPatch(2, own[2, 1], head=1)]], engine="plain")
    with pytest.raises(CrosstaskError, match="mean head states have shape"):
        indirect_effects(llava, [prompt], torch.tensor([1]), own[:1])
