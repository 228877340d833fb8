"""The lens at the last block is the model's prediction; sets, ranks and top tokens are counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.batches import collate
from interp.errors import CrosstaskError
from interp.lens import (
    SPACE,
    best_rank,
    check_lens,
    first_token_ids,
    is_word,
    log_probabilities,
    project,
    ranks,
    spell,
    top_tokens,
    word_token_ids,
)
from interp.models.base import Model
from interp.models.families import Family
from interp.prompts import Example, Prompt, Specification, render
from interp.vectors import extract
from tests import tiny
from tests.tiny_families import TEXT, VISION, language_model, sentencepiece_like

CAPPED = {
    "gemma3_text, capped": lambda: language_model("gemma3_text", final_logit_softcapping=3.0),
    "granite": lambda: language_model("granite", logits_scaling=4.0),
    "cohere": lambda: language_model("cohere", logit_scale=0.25),
}


def prompts_for(model: Model) -> list[Prompt]:
    """Ragged; with pictures where the model takes them."""
    spec = Specification((Example("ratio 3:1", "x: y"),))
    asked = [render(model, spec, "a longer query: 12:30"), render(model, Specification(), "q")]
    return [*asked, render(model, Specification(), tiny.picture(0))] if model.takes_images else asked


@pytest.mark.parametrize("name", [*VISION, *TEXT, *CAPPED])
def test_lens_at_the_last_block_is_the_models_own_prediction(name: str) -> None:
    model = {**VISION, **TEXT, **CAPPED}[name]()
    prompts = prompts_for(model)
    seen = project(model, extract(model, prompts)[:, -1])
    tolerance = 1e-9 if model.dtype == torch.float64 else 1e-4
    for prompt, logits in zip(prompts, seen, strict=True):
        own = model.forward(collate(model, [prompt]).inputs, use_cache=False).logits[0, -1]
        torch.testing.assert_close(logits, own, rtol=0.0, atol=tolerance)
    assert check_lens(model, prompts[0]) <= tolerance


def test_what_a_family_does_not_say_about_its_logits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CAPPED["gemma3_text, capped"]()
    monkeypatch.setattr(Family, "logits", lambda self, module, normed: self.head(module)(normed))
    with pytest.raises(CrosstaskError, match="lens at the last block of 'gemma3_text' differs from its logits by"):
        check_lens(model, prompts_for(model)[0])


@pytest.fixture
def states(llava: Model) -> Tensor:
    return extract(llava, prompts_for(llava))


@pytest.mark.parametrize("rows", [None, 1, 5])
def test_probability_of_a_set_is_the_sum_of_its_tokens(llava: Model, states: Tensor, rows: int | None) -> None:
    sets = [[[1, 2, 3], [7]], [[4], [5, 6]], [[8], []]]
    found = log_probabilities(llava, states, sets, rows=rows)
    chances = project(llava, states).softmax(-1)
    for p, own in enumerate(sets):
        for c, tokens in enumerate(own):
            expected = sum((chances[p, :, token] for token in tokens), torch.zeros(tiny.LAYERS, dtype=torch.float64))
            torch.testing.assert_close(found[p, :, c].exp(), expected, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("rows", [None, 1, 5])
def test_ranks_count_the_tokens_above(llava: Model, states: Tensor, rows: int | None) -> None:
    logits = project(llava, states)
    tokens = torch.arange(3, 30)
    found = ranks(llava, states, tokens, rows=rows)
    for column, token in enumerate(tokens.tolist()):
        above = (logits > logits[..., token : token + 1]).sum(-1)
        assert torch.equal(found[..., column], above + 1)
    assert torch.equal(best_rank(llava, states, tokens.tolist(), rows=rows), found.amin(-1))
    ids, chances = top_tokens(llava, states, 4, rows=rows)
    assert (ranks(llava, states[0, 0], ids[0, 0]) == torch.arange(1, 5)).all()
    torch.testing.assert_close(chances, logits.softmax(-1).gather(-1, ids))


def test_length_of_a_vector_does_not_matter(llava: Model, states: Tensor) -> None:
    ids, _ = top_tokens(llava, states, 5)
    assert torch.equal(top_tokens(llava, 7 * states, 5)[0], ids)
    assert not torch.equal(top_tokens(llava, -states, 5)[0], ids)


def test_states_of_another_width_and_sets_of_other_prompts_are_refused(llava: Model, states: Tensor) -> None:
    with pytest.raises(CrosstaskError, match=r"states of width 3 cannot be read .* width is 32"):
        project(llava, torch.ones(2, 3))
    with pytest.raises(CrosstaskError, match="3 prompts, but token sets for 1"):
        log_probabilities(llava, states, [[[1]]])


def spelled(ids: tuple[int, ...]) -> list[str]:
    return [spell(tiny.tiny_tokenizer(), token) for token in ids]


def test_first_tokens_are_those_with_and_without_a_space() -> None:
    tokenizer = tiny.tiny_tokenizer()
    assert spelled(first_token_ids(tokenizer, ["the", " Paris "])) == ["t", f"{SPACE}the", "Paris"]
    with pytest.raises(CrosstaskError, match="' ' has no visible token"):
        first_token_ids(tokenizer, [" "])


def test_word_counts_by_the_tokens_that_spell_it_or_else_by_its_first() -> None:
    tokenizer = tiny.tiny_tokenizer()
    assert spelled(word_token_ids(tokenizer, ["the"])) == [f"{SPACE}the", "The"]  # "the" alone is two tokens
    assert spelled(word_token_ids(tokenizer, ["zz"])) == ["z", "Z"]


def test_a_leading_space_is_shown_whatever_the_tokenizer_writes() -> None:
    tokenizer = tiny.tiny_tokenizer()
    assert spell(tokenizer, tokenizer.encode(" the")[0]) == f"{SPACE}the"
    assert spell(tokenizer, tokenizer.encode("\n")[0]) == "\\n"
    pieces = sentencepiece_like()
    assert spell(pieces, pieces.convert_tokens_to_ids("\u2581")) == SPACE


def test_a_token_is_a_word_or_how_one_begins() -> None:
    tokenizer = tiny.tiny_tokenizer()
    words = ["the", "zz"]
    found = {spell(tokenizer, token): is_word(tokenizer, token, words) for token in word_token_ids(tokenizer, words)}
    assert found == {f"{SPACE}the": True, "The": True, "z": False, "Z": False}


def test_model_whose_final_norm_is_not_found_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.tiny_llama()
    monkeypatch.setattr(type(model.family), "norm_at", "nowhere")
    with pytest.raises(CrosstaskError, match=r"found no final norm at get_decoder\(\)\.nowhere of LlamaForCausalLM"):
        project(model, torch.ones(1, model.width, dtype=torch.float64))
