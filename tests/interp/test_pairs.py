"""The check of a pair of models, before vectors of one are patched into the other."""

from __future__ import annotations

import pytest
import torch

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.pairs import KNOWN, agreement, base_of, check_pair, matched, mismatched
from interp.prompts import Template
from tests.tiny import LAYERS, tiny_llama


def test_known_pairs_are_found_by_their_vlm() -> None:
    assert base_of("bundled") == "bundled-llm"
    assert base_of("llava-hf/llava-1.5-7b-hf") == "lmsys/vicuna-7b-v1.5"
    assert base_of("nobody/knows-this") is None
    assert len({pair.vlm for pair in KNOWN}) == len(KNOWN)


def test_pair_with_one_vocabulary_agrees_on_the_delimiter(llama: Model, llava: Model) -> None:
    report = check_pair(llama, llava)
    assert report.same_delimiter
    assert report.layer_map == tuple(range(LAYERS))
    assert report.weights.distance == pytest.approx(2**0.5, abs=0.3)  # two random models


def test_delimiter_of_two_tokens_is_no_delimiter(llama: Model, llava: Model) -> None:
    report = check_pair(llama, llava, template=Template.parse("{x}=>{y}\n"))
    assert report.delimiter == "=>"
    assert [len(ids) for ids in report.delimiter_ids] == [2, 2]
    assert not report.same_delimiter


def test_depths_need_a_layer_map_that_fits(llama: Model) -> None:
    deeper = tiny_llama(num_hidden_layers=2 * LAYERS)
    with pytest.raises(CrosstaskError, match=f"has {LAYERS} blocks and .* has {2 * LAYERS}; give a layer map"):
        check_pair(llama, deeper)
    doubled = [layer // 2 for layer in range(2 * LAYERS)]
    assert check_pair(llama, deeper, layer_map=doubled).layer_map == tuple(doubled)
    with pytest.raises(CrosstaskError, match="does not fit; expected 8 layers between 0 and 3"):
        check_pair(llama, deeper, layer_map=[LAYERS] * 2 * LAYERS)
    with pytest.raises(CrosstaskError, match=r"width 32 and .* width 16"):
        check_pair(llama, tiny_llama(hidden_size=16))


def test_agreement_separates_matched_from_mismatched_tasks() -> None:
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, 3, 400, generator=generator) * 4  # what all tasks share
    tasks = torch.randn(5, 3, 400, generator=generator)
    found = agreement(common + tasks, common + tasks + 0.3 * torch.randn(5, 3, 400, generator=generator))
    assert (matched(found.raw) > 0.97).all()
    assert (mismatched(found.raw) > 0.9).all()  # high, though the tasks differ
    assert (matched(found.centred) > 0.9).all()
    assert mismatched(found.centred).numpy() == pytest.approx(-1 / 4, abs=0.03)
    assert found.random_spread == pytest.approx(0.05)
    unrelated = agreement(tasks, torch.randn(5, 3, 400, generator=generator))
    assert matched(unrelated.centred).abs().max() < 0.15


def test_agreement_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(CrosstaskError, match=r"\(1, 2, 3\).*at least two tasks"):
        agreement(torch.ones(1, 2, 3), torch.ones(1, 2, 3))
