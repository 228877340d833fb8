"""Task vectors: what is read, what is left out of a mean, and what is written down about them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from interp.batches import collate
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.comparison import compare
from interp.prompts import Example, Prompt, Specification, render
from interp.vectors import Provenance, TaskVectors, ensemble, extract, mean, norm_matched_random
from tests.tiny import LAYERS, WIDTH, picture, tiny_llama, tiny_llava

EXACT = {"rtol": 0.0, "atol": 1e-9}


def ragged(model: Model) -> list[Prompt]:
    """Prompts of different lengths with zero to three images."""
    one, two = Example(picture(0), "Paris"), Example(picture(1), "a longer answer: x")
    return [
        render(model, Specification((one, two)), picture(2)),
        render(model, Specification(), "q"),
        render(model, Specification((one,), "The capital:"), "a text query"),
        render(model, Specification((Example("text", "x"),)), picture(3)),
        render(model, Specification(instruction="The capital:"), None),
    ]


def vectors_of(model: Model, **changes: object) -> TaskVectors:
    states = torch.randn(model.n_layers, model.width, generator=torch.Generator().manual_seed(1))
    origin = Provenance.of(
        model,
        task="country-capital",
        kind="examples",
        modality="text",
        template="Q:{x}\nA:{y}\n\n",
        delimiter=":",
        demonstrations=4,
        contexts=1,
        seeds=(0,),
        items=("Åland", "France"),
    )
    return TaskVectors(states, replace(origin, **changes))  # type: ignore[arg-type]


def test_row_in_padded_batch_equals_row_alone(llava: Model) -> None:
    prompts = ragged(llava)
    together = extract(llava, prompts, budget=10**6)
    alone = torch.cat([extract(llava, [prompt]) for prompt in prompts])
    assert together.shape == (len(prompts), LAYERS, WIDTH)
    torch.testing.assert_close(together, alone, **EXACT)
    torch.testing.assert_close(extract(llava, prompts, budget=60), alone, **EXACT)  # in several chunks, out of order


def test_extract_reads_the_blocks_outputs_at_the_delimiter(llava: Model) -> None:
    prompt = ragged(llava)[0]
    output = llava.forward(collate(llava, [prompt]).inputs, output_hidden_states=True, use_cache=False)
    inner = torch.stack(output.hidden_states[1:-1])[:, 0, prompt.delimiter]
    states = extract(llava, [prompt])[0]
    torch.testing.assert_close(states[:-1], inner, **EXACT)
    torch.testing.assert_close(llava.head(llava.final_norm(states[-1])), output.logits[0, -1], **EXACT)


def test_image_run_leaves_no_trace_in_a_text_run(llava: Model) -> None:
    text, image = render(llava, Specification(), "q"), render(llava, Specification(), picture(0))
    before = extract(llava, [text])
    llava.module.model.rope_deltas = torch.ones(1)  # what the Qwen-VL line leaves behind
    try:
        extract(llava, [image])
        assert llava.module.model.rope_deltas is None
    finally:
        del llava.module.model.rope_deltas
    assert torch.equal(extract(llava, [text]), before)


def test_mean_leaves_out_the_contexts_that_contain_the_query() -> None:
    contexts = torch.arange(3.0)[:, None, None].expand(3, LAYERS, WIDTH)
    items = [frozenset({"France", "Japan"}), frozenset({"Italy"}), frozenset({"Japan", "Peru"})]
    assert mean(contexts, items=items, exclude="Japan").unique().tolist() == [1.0]
    assert mean(contexts, items=items, exclude="Italy").unique().tolist() == [1.0]  # of 0 and 2
    assert mean(contexts, items=items, exclude=None).unique().tolist() == [1.0]
    assert mean(contexts, items=items, exclude="France").unique().tolist() == [1.5]
    with pytest.raises(CrosstaskError, match="all 2 contexts contain the query item 'Japan'"):
        mean(contexts[[0, 2]], items=[items[0], items[2]], exclude="Japan")
    with pytest.raises(CrosstaskError, match="3 contexts"):
        mean(contexts, items=items[:2], exclude=None)


def test_vectors_come_back_from_disk_with_their_provenance(llama: Model, tmp_path: Path) -> None:
    vectors = vectors_of(llama)
    vectors.save(tmp_path / "new" / "v.safetensors")
    again = TaskVectors.load(tmp_path / "new" / "v.safetensors")
    assert torch.equal(again.states, vectors.states)
    assert again.provenance == vectors.provenance
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["v.safetensors"]


def test_files_that_hold_no_task_vectors_are_refused(llama: Model, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CrosstaskError, match=r"x\.safetensors"):
        TaskVectors.load(path)
    path.write_bytes(b"truncated")
    with pytest.raises(CrosstaskError, match=r"x\.safetensors"):
        TaskVectors.load(path)
    save_file({"states": torch.zeros(2, 2)}, path)
    with pytest.raises(CrosstaskError, match="holds no task vectors"):
        TaskVectors.load(path)
    stored = asdict(vectors_of(llama).provenance) | {"mood": "good"}
    header = {"format": "crosstask.task_vectors.1", "provenance": json.dumps(stored)}
    save_file({"states": torch.zeros(2, 2)}, path, metadata=header)
    with pytest.raises(CrosstaskError, match="unknown provenance: mood"):
        TaskVectors.load(path)


def test_vectors_of_another_width_or_depth_are_refused_and_other_weights_remarked(llama: Model) -> None:
    vectors = vectors_of(llama)
    assert vectors.compatible_with(llama) == []
    other = tiny_llama(seed=1)
    assert vectors.compatible_with(other) == ["the vectors come from other weights (tiny-llama) than tiny-llama's"]
    assert len(replace_tokenizer(vectors).compatible_with(other)) == 2
    with pytest.raises(CrosstaskError, match=r"4 layers of width 32\) cannot be patched .* \(2 layers"):
        vectors.compatible_with(tiny_llama(num_hidden_layers=2))
    with pytest.raises(CrosstaskError, match="width 16"):
        vectors.compatible_with(tiny_llama(hidden_size=16))


def replace_tokenizer(vectors: TaskVectors) -> TaskVectors:
    return TaskVectors(vectors.states, replace(vectors.provenance, tokenizer="another"))


def test_vlm_and_its_base_share_a_tokenizer_fingerprint(llama: Model) -> None:
    grown = tiny_llava()
    assert grown.tokenizer.add_tokens(["<row>"]) == 1
    assert grown.tokenizer_fingerprint == llama.tokenizer_fingerprint


def test_compare_reports_the_distance_of_the_weights(llama: Model) -> None:
    same, other = compare(llama, llama), compare(llama, tiny_llama(seed=1))
    assert same.distance == 0.0
    assert same.same_tokenizer
    assert other.distance is not None
    assert 1.0 < other.distance < 2.0
    assert compare(llama, tiny_llama(num_hidden_layers=2)).distance is None


def test_ensemble_is_the_plain_mean_and_remembers_both_sources(llama: Model) -> None:
    examples = vectors_of(llama)
    changes = {"kind": "instruction", "modality": "none", "demonstrations": 0, "items": ("Peru",), "seeds": (2,)}
    instruction = TaskVectors(examples.states * 3, replace(examples.provenance, **changes))
    both = ensemble([examples, instruction])
    torch.testing.assert_close(both.states, examples.states * 2)
    assert both.provenance.kind == "examples+instruction"
    assert both.provenance.items == ("France", "Peru", "Åland")
    assert (both.provenance.demonstrations, both.provenance.contexts, both.provenance.seeds) == (4, 2, (0, 2))
    with pytest.raises(CrosstaskError, match="one task"):
        ensemble([examples, vectors_of(llama, task="food-color")])
    with pytest.raises(CrosstaskError, match="at least one"):
        ensemble([])


def test_random_control_has_the_norms_but_not_the_directions(llama: Model) -> None:
    states = vectors_of(llama).states * torch.tensor([1.0, 10, 100, 1000])[:, None]
    control = norm_matched_random(states, seed=3)
    torch.testing.assert_close(control.norm(dim=-1), states.norm(dim=-1))
    assert torch.cosine_similarity(control, states, dim=-1).abs().max() < 0.6
    assert torch.equal(control, norm_matched_random(states, seed=3))
    assert not torch.equal(control, norm_matched_random(states, seed=4))


def test_layers_are_not_counted_from_the_end_and_states_are_finite(llama: Model) -> None:
    vectors = vectors_of(llama)
    with pytest.raises(CrosstaskError, match="layer -1 is out of range"):
        vectors.layer(-1)
    with pytest.raises(CrosstaskError, match="finite"):
        TaskVectors(vectors.states * float("nan"), vectors.provenance)
