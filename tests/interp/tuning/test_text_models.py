"""Encoders of questions that are transformers, on a tiny BERT of random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

from interp.errors import CrosstaskError
from interp.tuning.text_models import TransformerEncoder, hub_encoder

WORDS = ("how", "many", "dots", "are", "there", "moon", "left", "of", "tree", "is", "the")
TEXTS = ["how many dots are there", "is the moon left of the tree"]


@pytest.fixture
def bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path / "cache"))
    vocabulary = {word: n for n, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(tmp_path / "bert")
    drawn(0).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def drawn(seed: int) -> BertModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=15, max_position_embeddings=512, **sizes)).eval()


def test_text_is_the_state_of_the_first_token(bert: Path) -> None:
    encoder = hub_encoder(str(bert))
    vectors = encoder.encode(TEXTS)
    states, mask = encoder.states(TEXTS)
    assert vectors.shape == (2, 16)
    torch.testing.assert_close(vectors, states[:, 0], atol=1e-5, rtol=0)
    assert mask.sum(1).tolist() == [7, 9]


def test_mean_is_over_the_tokens_that_are_there_and_of_length_one(bert: Path) -> None:
    encoder = TransformerEncoder("tiny", bert, pooling="mean", tokens=64)
    [vector, _] = encoder.encode(TEXTS)
    states, mask = encoder.states(TEXTS)
    mean = states[0, mask[0]].mean(0)
    torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=0)


def test_vectors_are_kept_and_those_of_other_weights_are_not_taken(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hub_encoder(str(bert)).encode(TEXTS)
    again = hub_encoder(str(bert))
    with monkeypatch.context() as only_kept:
        only_kept.setattr(TransformerEncoder, "_run", lambda *_: pytest.fail("encoded again"))
        assert torch.equal(again.encode(TEXTS), before)
    drawn(1).save_pretrained(bert)
    other = hub_encoder(str(bert))
    assert other.fingerprint != again.fingerprint
    vectors = other.encode(TEXTS)
    assert float((vectors - before).abs().max()) > 0.1
    torch.testing.assert_close(vectors, other.states(TEXTS)[0][:, 0], atol=1e-5, rtol=0)


def test_long_questions_are_read_up_to_512_tokens(bert: Path) -> None:
    encoder = hub_encoder(str(bert))
    long = ["dots " * length + last for length in (400, 600) for last in ("moon", "tree")]
    one, other, cut, same = encoder.encode(long)
    assert not torch.equal(one, other)
    assert torch.equal(cut, same)


def test_encoder_that_is_nowhere_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CrosstaskError, match=r"there is no text encoder '.*nowhere' .*expected minilm, hashing, or"):
        hub_encoder(str(tmp_path / "nowhere"))


def test_encoder_whose_files_lack_a_pooler_is_the_same_at_every_load_and_draws_no_lots(bert: Path) -> None:
    torch.manual_seed(0)
    BertForMaskedLM(drawn(0).config).save_pretrained(bert)
    fingerprints = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        fingerprints.append(hub_encoder(str(bert)).fingerprint)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert fingerprints[0] == fingerprints[1]


def test_encoder_with_another_vocabulary_is_another(bert: Path) -> None:
    before = hub_encoder(str(bert)).fingerprint
    path = bert / "tokenizer.json"
    path.write_text(path.read_text().replace('"moon"', '"sun"'))
    assert hub_encoder(str(bert)).fingerprint != before


def test_encoder_with_few_positions_reads_as_many_tokens(bert: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(**drawn(0).config.to_dict() | {"max_position_embeddings": 64})
    BertModel(config).save_pretrained(bert)
    assert hub_encoder(str(bert)).encode(["dots " * 200]).shape == (1, 16)
