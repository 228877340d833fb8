"""The counts on paper are those of real sweeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from interp.cost import ENGINES, Shape, Sweep, cached_positions, operations, token_forwards, vision_passes
from interp.decoding import Answers
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.patching import RowPatch, sweep
from interp.prefix import CopiedRows, Manner, PackedRows, Prefix
from interp.prompts import Example, Prompt, Specification, render
from tests import tiny

ANSWER = 3


@contextmanager
def counted(model: Model) -> Iterator[dict[str, float]]:
    """Tokens that pass through the blocks (one that passes through half of them counts half), and pictures."""
    counts = {"tokens": 0.0, "images": 0.0}

    def norm(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        counts["tokens"] += inputs[0].shape[0] * inputs[0].shape[1] / model.n_layers

    def tower(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        counts["images"] += len(inputs[0])

    norms = [block.get_submodule("input_layernorm") for block in model.blocks]
    handles = [part.register_forward_pre_hook(norm) for part in norms]
    if model.takes_images:
        part = model.module.get_submodule("model.vision_tower")
        handles.append(part.register_forward_pre_hook(tower))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def queries(model: Model) -> list[Prompt]:
    """Three prompts of one length, with two images each."""
    shot = Example(tiny.picture(0), "a")
    return [render(model, Specification((shot,)), tiny.picture(n)) for n in (1, 2, 3)]


def endless(model: Model) -> Model:
    """The model without tokens that end an answer."""
    never = replace(model)
    never.__dict__["stop_ids"] = frozenset()
    return never


@pytest.mark.parametrize("engine", ["plain", "copied", "packed"])
def test_counts_are_those_of_a_real_sweep(engine: str, llava: Model) -> None:
    model = endless(llava)
    prompts = queries(model)
    vectors = torch.randn(2, model.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [[RowPatch(layer, vector) for vector in vectors for layer in range(model.n_layers)]] * len(prompts)
    paper = Sweep(len(prompts), prompts[0].n_tokens, 2, model.n_layers, ANSWER, images=2)
    with counted(model) as counts:
        sweep(model, prompts, rows, engine=engine, max_new_tokens=ANSWER, stop=None)  # type: ignore[arg-type]
    assert counts["tokens"] == pytest.approx(token_forwards(engine, paper))  # type: ignore[arg-type]
    assert counts["images"] == vision_passes(engine, paper)  # type: ignore[arg-type]


def test_cache_holds_as_many_positions_as_on_paper(llava: Model) -> None:
    model = endless(llava)
    prompt = queries(model)[0]
    vectors = torch.randn(2, model.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    patches = [RowPatch(layer, vector) for vector in vectors for layer in range(model.n_layers)]
    paper = Sweep(1, prompt.n_tokens, 2, model.n_layers, ANSWER, images=2)
    for engine, kind in (("copied", CopiedRows), ("packed", PackedRows)):
        prefix = Prefix(model, [prompt])
        run = kind(prefix, [(0, n) for n in range(len(patches))])
        answers = Answers(model, len(patches), max_new_tokens=ANSWER, stop=None)
        run.decode(answers, run.start(patches, Manner()))
        keys = [layer.keys for cache in (prefix.cache, run.cache) for layer in cache.layers[:1]]
        held = sum(key.shape[0] * key.shape[2] for key in keys)
        assert held == cached_positions(engine, paper)  # type: ignore[arg-type]


def test_cache_free_decoding_runs_the_growing_sequence_again() -> None:
    assert token_forwards("uncached", Sweep(2, 10, 3, 1, answer=4)) == 2 * 3 * (10 + 11 + 12 + 13)
    assert vision_passes("uncached", Sweep(2, 10, 3, 1, answer=4, images=5)) == 2 * 3 * 4 * 5
    assert token_forwards("uncached", Sweep(2, 10, 3, 1)) == token_forwards("plain", Sweep(2, 10, 3, 1))


def test_shape_counts_the_parameters_of_the_real_blocks(llama: Model) -> None:
    config = llama.module.config
    shape = Shape(
        config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads,
        config.num_key_value_heads, config.head_dim, config.vocab_size,
    )  # fmt: skip
    matrices = sum(p.numel() for p in llama.blocks.parameters() if p.ndim == 2)
    assert shape.block_parameters == matrices
    assert shape.weight_bytes(4) == 4 * (matrices + 2 * config.vocab_size * config.hidden_size)
    assert shape.position_bytes(2) == 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def test_operations_of_one_forward_are_two_a_parameter_and_the_attention() -> None:
    shape = Shape(layers=2, width=8, inner=16, heads=2, key_heads=1, head_width=4, vocabulary=10)
    one = Sweep(1, 5, 1, 1)
    expected = 2 * shape.block_parameters * 5 + 4 * 2 * 2 * 4 * (1 + 2 + 3 + 4 + 5) + 2 * 8 * 10
    for engine in ENGINES:
        assert operations(engine, one, shape) == expected
    seen = replace(shape, image_operations=1000.0)
    many = Sweep(3, 5, 2, 2, answer=2, images=1)
    gap = {engine: operations(engine, many, seen) - operations(engine, many, shape) for engine in ENGINES}
    assert gap == {"uncached": 24000, "plain": 12000, "copied": 3000, "packed": 3000}


def test_what_is_no_sweep_is_refused() -> None:
    with pytest.raises(CrosstaskError, match="a sweep of 0 vectors; expected at least 1"):
        Sweep(1, 5, 0, 1)
    with pytest.raises(CrosstaskError, match="unknown engine 'quick'; expected one of uncached"):
        token_forwards("quick", Sweep(1, 5, 1, 1))  # type: ignore[arg-type]
