"""One prompt from the inside: every number by another way."""

from __future__ import annotations

import pytest
import torch

from interp.batches import collate
from interp.errors import CrosstaskError
from interp.hooks import Edit, patch
from interp.models.base import Model
from interp.prompts import Example, Prompt, Specification, render
from interp.protocol.inside import Inside, look_inside, states_of
from interp.vectors import extract
from tests import tiny


@pytest.fixture(scope="module")
def prompt(llava: Model) -> Prompt:
    return render(llava, Specification((Example("France", "Paris"), Example("Japan", "Tokyo"))), tiny.picture(0))


@pytest.fixture(scope="module")
def query(llava: Model) -> Prompt:
    return render(llava, Specification(), tiny.picture(1))


@pytest.fixture(scope="module")
def inside(llava: Model, prompt: Prompt, query: Prompt) -> Inside:
    return look_inside(llava, prompt, query, "Paris", top=2)


def test_tokens_say_what_the_prompt_knows(llava: Model, prompt: Prompt, inside: Inside) -> None:
    tokens = inside.tokens.set_index("position")
    assert tokens.index.tolist() == list(range(prompt.n_tokens))
    assert tuple(tokens.index[tokens["delimiter"]]) == prompt.delimiters
    assert (tokens.loc[list(prompt.delimiters), "text"] == ":").all()
    (pictured,) = (s for s in prompt.segments if s.content == tiny.picture(0))
    assert tokens.index[tokens["image"] == 0].tolist() == list(range(pictured.start, pictured.stop))
    assert "".join(tokens["text"]) == llava.tokenizer.decode(list(prompt.input_ids))
    assert tokens[tokens["role"] == "output"]["example"].unique().tolist() == [0, 1]


def test_states_at_the_delimiter_are_the_task_vectors(llava: Model, prompt: Prompt) -> None:
    states = states_of(llava, prompt)
    assert states.shape == (llava.n_layers, prompt.n_tokens, llava.width)
    torch.testing.assert_close(states[:, prompt.delimiter], extract(llava, [prompt])[0])


def test_lens_after_the_last_block_is_what_the_model_says(llava: Model, prompt: Prompt, inside: Inside) -> None:
    logits = llava.forward(collate(llava, [prompt]).inputs, logits=None).logits[0]
    best = logits.float().softmax(-1).topk(2)
    last = inside.lens[inside.lens["layer"] == llava.n_layers - 1].sort_values(["position", "rank"])
    assert last["probability"].to_numpy() == pytest.approx(best.values.flatten().numpy(), rel=1e-4)
    assert last["token"].tolist() == [llava.tokenizer.decode([i]) for i in best.indices.flatten().tolist()]
    answer = llava.tokenizer("Paris", add_special_tokens=False).input_ids[0]
    said = inside.effects[inside.effects["layer"] == llava.n_layers - 1].sort_values("position")["lens_answer"]
    assert said.to_numpy() == pytest.approx(logits.float().softmax(-1)[:, answer].numpy(), rel=1e-4)


@pytest.mark.parametrize(("position", "layer"), [(0, 1), (5, 0), (-1, 2), (-1, 3)])
def test_gain_equals_a_whole_forward_pass_under_the_patch(
    llava: Model, prompt: Prompt, query: Prompt, inside: Inside, position: int, layer: int
) -> None:
    at = position % prompt.n_tokens
    batch = collate(llava, [query])
    answer = llava.tokenizer("Paris", add_special_tokens=False).input_ids[0]
    edit = Edit(torch.tensor([0]), batch.positions, states_of(llava, prompt)[layer, at][None])
    before = llava.forward(batch.inputs).logits[0, -1].log_softmax(-1)
    with patch(llava.blocks, {layer: edit}):
        after = llava.forward(batch.inputs).logits[0, -1].log_softmax(-1)
    (row,) = inside.effects[(inside.effects["position"] == at) & (inside.effects["layer"] == layer)].itertuples()
    assert row.gain == pytest.approx(float(after[answer] - before[answer]), rel=1e-3, abs=1e-4)
    assert row.says == llava.tokenizer.decode([int(after.argmax())])


def test_prompt_patched_into_itself_gains_nothing_at_its_delimiter(llava: Model, query: Prompt) -> None:
    found = look_inside(llava, query, query, "Paris").effects
    own = found[found["position"] == query.delimiter]["gain"]
    assert own.to_numpy() == pytest.approx([0.0] * llava.n_layers, abs=1e-4)
    assert found["gain"].abs().max() > 0.01


def test_control_has_a_row_for_each_layer_and_another_seed_other_numbers(
    llava: Model, prompt: Prompt, query: Prompt, inside: Inside
) -> None:
    assert inside.controls["layer"].tolist() == list(range(llava.n_layers))
    other = look_inside(llava, prompt, query, "Paris", seed=1).controls
    assert (other["gain"] - inside.controls["gain"]).abs().min() > 1e-6


def test_empty_answer_is_refused(llava: Model, prompt: Prompt, query: Prompt) -> None:
    with pytest.raises(CrosstaskError, match="the answer is empty"):
        look_inside(llava, prompt, query, " ")
