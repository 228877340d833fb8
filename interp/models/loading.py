"""From a name to the parts of a model: the bundled pair, a local folder, or a hub id. Errors are one sentence."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import BITSANDBYTES_MIN_VERSION, cached_file, is_bitsandbytes_available

from interp.errors import CrosstaskError
from interp.files import sha256_of
from interp.models.families import family_for, suggestions
from interp.models.options import LoadOptions

BUNDLED = ("bundled", "bundled-llm")
"""The pair: a base LLM, and the VLM tuned from it."""
PERCEPTION = "perception"
"""The model that sees what perception tasks ask about; no language model."""
SHIPPED = (*BUNDLED, PERCEPTION)
"""Models that come with the package."""
STRATEGY_MARK = "crosstask_strategy"
"""In a model's configuration while its tower holds modules that its class does not know."""
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")

Parts: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin | None, str]


def load_parts(name: str, options: LoadOptions) -> Parts:
    """Module (eval, on its device), tokenizer, processor or None, and the weights' fingerprint.

    Raises:
        CrosstaskError: see :func:`interp.models.base.load_model`.
    """
    if options.device == "remote":
        return _without_weights(name, options)
    place, dtype = _device(options.device), getattr(torch, options.dtype)
    if name in SHIPPED or _holds_perception_model(name):
        _refuse_for_shipped(name, options)
        module, tokenizer, processor, fingerprint = _shipped(name)
        if options.attention is not None:
            module.set_attn_implementation(options.attention)
        return module.to(place, dtype).eval(), tokenizer, processor, fingerprint
    hub = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    config = _config(name, hub)
    family_for(config)  # an unsupported architecture is refused before its weights are read
    takes_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    quantization = _quantization(name, config, options)
    placed = options.places()
    if placed is None and quantization is not None:
        placed = {"": str(place)}  # quantised as it is read, and not moved any more
    with _one_sentence(name):
        tokenizer, processor = _tokenizer(name, takes_images, hub)
        module, report = (AutoModelForImageTextToText if takes_images else AutoModelForCausalLM).from_pretrained(
            name,
            config=config,
            dtype=dtype,
            attn_implementation=options.attention,
            use_safetensors=True,
            device_map=placed,
            output_loading_info=True,
            **({} if quantization is None else {"quantization_config": quantization}),
            **hub,
        )
    if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
        raise CrosstaskError(
            f"the weights of {name!r} lack {len(missing)} of the tensors that {type(module).__name__} needs, "
            f"such as {missing[0]}"
        )
    if options.quantize is not None and not getattr(module, f"is_loaded_in_{options.quantize}", False):
        raise CrosstaskError(f"model {name!r} was not quantised to {options.quantize}, as was asked")
    module = module if placed is not None else module.to(place)
    return module.eval(), tokenizer, processor, _as_held(_fingerprint(name, module, options.revision), options)


def _refuse_changed(name: str, config: PretrainedConfig) -> None:
    """A model that was saved with a strategy's modules in it: its class would draw the parts it misses anew.

    Raises:
        CrosstaskError: its configuration has a strategy's mark.
    """
    if (strategy := getattr(config, STRATEGY_MARK, None)) is not None:
        raise CrosstaskError(
            f"{name!r} was saved while strategy {strategy!r} was at work in its vision tower, whose modules a plain "
            f"{config.model_type} does not have: load the base model, and attach the adapter's folder to it "
            "(interp.tuning.adapters.attached)"
        )


def _refuse_for_shipped(name: str, options: LoadOptions) -> None:
    """A model of the package has one form; what asks for another is not passed over."""
    for option in ("quantize", "device_map", "revision"):
        if (given := getattr(options, option)) is not None:
            raise CrosstaskError(
                f"model {name!r} comes with the package, small and in one version, so --{option.replace('_', '-')} "
                f"{given} is not for it"
            )


def _quantization(name: str, config: PretrainedConfig, options: LoadOptions) -> BitsAndBytesConfig | None:
    """What bitsandbytes is to do, or None.

    Raises:
        CrosstaskError: if bitsandbytes is missing, or the weights are quantised already.
    """
    if options.quantize is None:
        return None
    if (held := getattr(config, "quantization_config", None)) is not None:
        method = held.get("quant_method") if isinstance(held, dict) else getattr(held, "quant_method", None)
        raise CrosstaskError(f"the weights of {name!r} are quantised already ({method}); leave out --quantize")
    if not is_bitsandbytes_available():
        raise CrosstaskError(
            f"--quantize {options.quantize} needs bitsandbytes {BITSANDBYTES_MIN_VERSION} or newer, which is not "
            "installed; pip install 'crosstask[quantize]'"
        )
    if options.quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, options.dtype)
    )


def _tokenizer(
    name: str, takes_images: bool, hub: dict[str, Any]
) -> tuple[PreTrainedTokenizerFast, ProcessorMixin | None]:
    """Read before the weights, since what they lack is said sooner."""
    processor = AutoProcessor.from_pretrained(name, **hub) if takes_images else None
    tokenizer = processor.tokenizer if processor is not None else AutoTokenizer.from_pretrained(name, **hub)
    return tokenizer, processor


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Whatever the libraries raise while they read a model, as a CrosstaskError."""
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise CrosstaskError(f"model {name!r} could not be loaded: {_first_line(error)}") from error


def _without_weights(name: str, options: LoadOptions) -> Parts:
    """Everything but the weights, for a model that a server holds: they stay on the meta device.

    The fingerprint is over the name and the commit of its files, since nobody here has seen the weights.
    """
    if name in SHIPPED or options.trust_remote_code:
        what = f"model {name!r}" if name in SHIPPED else "a model that brings its own code"
        raise CrosstaskError(f"{what} is not held by NDIF; device 'remote' is for models of the hub")
    hub = {"revision": options.revision, "trust_remote_code": False}
    config = _config(name, hub)
    family_for(config)
    takes_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    with _one_sentence(name):
        tokenizer, processor = _tokenizer(name, takes_images, hub)
        with torch.device("meta"):
            module = (AutoModelForImageTextToText if takes_images else AutoModelForCausalLM).from_config(
                config, dtype=getattr(torch, options.dtype), attn_implementation=options.attention
            )
    module.remote_revision = options.revision
    commit = getattr(config, "_commit_hash", None) or options.revision or "main"
    return module.eval(), tokenizer, processor, hashlib.sha256(f"remote {name} {commit}".encode()).hexdigest()


def _shipped(name: str) -> Parts:
    """A model of the package, or a perception model from its folder; imported when they are used."""
    if name == "bundled":
        from interp.models.bundled.load import load_bundled_vlm

        module, processor, fingerprint = load_bundled_vlm()
        return module, processor.tokenizer, processor, fingerprint
    if name not in BUNDLED:
        from interp.models.perception.load import WEIGHTS, load_perception_vlm

        module, processor, fingerprint = load_perception_vlm(WEIGHTS if name == PERCEPTION else Path(name))
        return module, processor.tokenizer, processor, fingerprint
    from interp.models.smollm2 import load_smollm2

    module, tokenizer, fingerprint = load_smollm2()
    return module, tokenizer, None, fingerprint


def _holds_perception_model(name: str) -> bool:
    """Whether a folder is one of weights that `experiments.build_perception_vlm` made."""
    return all((Path(name) / file).is_file() for file in ("manifest.json", "decoder.safetensors"))


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CrosstaskError(f"device {device!r} is not available: {_first_line(error)}") from error
    return torch.device(device)


def _config(name: str, hub: dict[str, Any]) -> PretrainedConfig:
    """The configuration behind a name; a name that leads nowhere is answered with its nearest neighbours."""
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        if (Path(name) / "run.json").is_file() or (Path(name) / "vision_config.json").is_file():
            raise CrosstaskError(
                f"folder {name!r} holds an adapter and not a model: load its base model, and attach the folder to it "
                "(interp.tuning.adapters.attached)"
            )
        raise CrosstaskError(f"folder {name!r} holds no config.json, so it is not a saved model")
    typo = difflib.get_close_matches(name, SHIPPED, n=1, cutoff=0.8)
    if typo and not Path(name).exists():  # the hub would be asked for half a minute
        raise CrosstaskError(f"no model {name!r}: did you mean {typo[0]!r}?")
    try:
        config = AutoConfig.from_pretrained(name, **hub)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise CrosstaskError(
                f"model {name!r} brings its own code, which runs only with --trust-remote-code"
            ) from error
        known = (*SHIPPED, *suggestions())
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(SHIPPED)
        raise CrosstaskError(
            f"no model {name!r}: it is none of {', '.join(map(repr, SHIPPED))}, no local folder, and could not be "
            f"read from the hub ({_first_line(error)}); did you mean {' or '.join(map(repr, nearest))}?"
        ) from error
    _refuse_changed(name, config)
    return config


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


def _as_held(fingerprint: str, options: LoadOptions) -> str:
    """Quantised weights are others than those of the files, and so are the vectors read from them."""
    if options.quantize is None:
        return fingerprint
    return hashlib.sha256(f"{fingerprint} {options.quantize} {options.dtype}".encode()).hexdigest()


def _file_sha256(file: Path) -> str:
    blob = file.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    return sha256_of(file)


def state_fingerprint(module: PreTrainedModel) -> str:
    """sha256 over names, shapes and bytes of the state dict."""
    return tensors_fingerprint(module.state_dict())


def tensors_fingerprint(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and bytes of tensors."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
