"""From a name to the parts of a model: the bundled pair, a local folder, or a hub id. Errors are one sentence."""

from __future__ import annotations

import difflib
import hashlib
import re
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import cached_file

from interp.errors import CrosstaskError
from interp.files import sha256_of
from interp.models.families import family_for, suggestions

BUNDLED = ("bundled", "bundled-llm")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")

Parts: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin | None, str]


def load_parts(
    name: str,
    *,
    dtype: str,
    device: str,
    attn_implementation: str | None,
    revision: str | None,
    trust_remote_code: bool,
) -> Parts:
    """Module (eval, on its device), tokenizer, processor or None, and the weights' fingerprint.

    Raises:
        CrosstaskError: see :func:`interp.models.base.load_model`.
    """
    if dtype not in DTYPES:
        raise CrosstaskError(f"unknown dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    if device == "remote":
        return _without_weights(name, dtype, attn_implementation, revision, trust_remote_code)
    place = _device(device)
    if name in BUNDLED:
        module, tokenizer, processor, fingerprint = _bundled(name)
        if attn_implementation is not None:
            module.set_attn_implementation(attn_implementation)
        return module.to(place, DTYPES[dtype]).eval(), tokenizer, processor, fingerprint
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = _config(name, hub)
    family_for(config)  # an unsupported architecture is refused before its weights are read
    takes_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    try:
        module, report = (AutoModelForImageTextToText if takes_images else AutoModelForCausalLM).from_pretrained(
            name,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=attn_implementation,
            use_safetensors=True,
            device_map="auto" if device == "split" else None,
            output_loading_info=True,
            **hub,
        )
        processor = AutoProcessor.from_pretrained(name, **hub) if takes_images else None
        tokenizer = processor.tokenizer if processor is not None else AutoTokenizer.from_pretrained(name, **hub)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise CrosstaskError(f"model {name!r} could not be loaded: {_first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
        raise CrosstaskError(
            f"the weights of {name!r} lack {len(missing)} of the tensors that {type(module).__name__} needs, "
            f"such as {missing[0]}"
        )
    module = module if device == "split" else module.to(place)
    return module.eval(), tokenizer, processor, _fingerprint(name, module, revision)


def _without_weights(
    name: str, dtype: str, attn_implementation: str | None, revision: str | None, trust_remote_code: bool
) -> Parts:
    """Everything but the weights, for a model that a server holds: they stay on the meta device.

    The fingerprint is over the name and the commit of its files, since nobody here has seen the weights.
    """
    if name in BUNDLED or trust_remote_code:
        what = f"model {name!r}" if name in BUNDLED else "a model that brings its own code"
        raise CrosstaskError(f"{what} is not held by NDIF; device 'remote' is for models of the hub")
    hub = {"revision": revision, "trust_remote_code": False}
    config = _config(name, hub)
    family_for(config)
    takes_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    try:
        with torch.device("meta"):
            module = (AutoModelForImageTextToText if takes_images else AutoModelForCausalLM).from_config(
                config, dtype=DTYPES[dtype], attn_implementation=attn_implementation
            )
        processor = AutoProcessor.from_pretrained(name, **hub) if takes_images else None
        tokenizer = processor.tokenizer if processor is not None else AutoTokenizer.from_pretrained(name, **hub)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise CrosstaskError(f"model {name!r} could not be loaded: {_first_line(error)}") from error
    module.remote_revision = revision
    commit = getattr(config, "_commit_hash", None) or revision or "main"
    return module.eval(), tokenizer, processor, hashlib.sha256(f"remote {name} {commit}".encode()).hexdigest()


def _bundled(name: str) -> Parts:
    """The pair that comes with the package. Imported here, since each brings its own dependencies."""
    if name == "bundled":
        from interp.models.bundled.load import load_bundled_vlm

        module, processor, fingerprint = load_bundled_vlm()
        return module, processor.tokenizer, processor, fingerprint
    from interp.models.smollm2 import load_smollm2

    module, tokenizer, fingerprint = load_smollm2()
    return module, tokenizer, None, fingerprint


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "split":
        return torch.device("cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CrosstaskError(f"device {device!r} is not available: {_first_line(error)}") from error
    return torch.device(device)


def _config(name: str, hub: dict[str, Any]) -> PretrainedConfig:
    """The configuration behind a name; a name that leads nowhere is answered with its nearest neighbours."""
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise CrosstaskError(f"folder {name!r} holds no config.json, so it is not a saved model")
    typo = difflib.get_close_matches(name, BUNDLED, n=1, cutoff=0.8)
    if typo and not Path(name).exists():  # the hub would be asked for half a minute
        raise CrosstaskError(f"no model {name!r}: did you mean {typo[0]!r}?")
    try:
        return AutoConfig.from_pretrained(name, **hub)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise CrosstaskError(
                f"model {name!r} brings its own code, which runs only with --trust-remote-code"
            ) from error
        known = (*BUNDLED, *suggestions())
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(BUNDLED)
        raise CrosstaskError(
            f"no model {name!r}: it is neither {' nor '.join(map(repr, BUNDLED))}, nor a local folder, nor could it be "
            f"read from the hub ({_first_line(error)}); did you mean {' or '.join(map(repr, nearest))}?"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _fingerprint(name: str, module: PreTrainedModel, revision: str | None) -> str:
    """sha256 over the weight files, or over the state dict when there are none.

    In the hub's cache a weight file is a link to a blob named by its sha256, so that nothing has to be read.
    """
    if Path(name).is_dir():
        files = sorted(Path(name).glob("*.safetensors"))
    else:
        commit = getattr(module.config, "_commit_hash", None) or revision
        found = [
            cached_file(name, file, revision=commit, _raise_exceptions_for_missing_entries=False)
            for file in WEIGHT_FILES
        ]
        files = sorted({file for path in found if path for file in Path(path).parent.glob("*.safetensors")})
    total = hashlib.sha256()
    if not files:
        return state_fingerprint(module)
    for file in files:
        total.update(_file_sha256(file).encode())
    return total.hexdigest()


def _file_sha256(file: Path) -> str:
    blob = file.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    return sha256_of(file)


def state_fingerprint(module: PreTrainedModel) -> str:
    """sha256 over names, shapes and bytes of the state dict."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
