"""Trained adapters on a model: one or several, one of them at work at a time, and the model as before afterwards.

    with attached(model, {"RD": run.adapter, "CN": other.adapter}) as adapters:
        with adapters.use("RD"):
            ...  # the model with what it learnt from relative depth
        ...      # the model itself

An adapter that matched no weight would quietly be the base model, and one of another base model quietly nonsense; both
are refused. Folders are those of :func:`interp.tuning.run.finetune`, or of peft.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.strategies import strategy
from interp.tuning.strategies.base import DELTA, VISION_CONFIG, Adapter

LORA_CONFIG, LORA_WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "run.json"

_at_work: WeakKeyDictionary[Model, Adapter] = WeakKeyDictionary()


def adapter_at_work(model: Model) -> Adapter:
    """The adapter that is at work on a model; one that does nothing where there is none."""
    return _at_work.get(model) or Adapter()


class Adapters:
    """Several adapters on one model.

    Attributes:
        model: the model that they are on.
        names: of the adapters.
    """

    def __init__(self, model: Model, adapters: Mapping[str, Adapter]) -> None:
        self.model, self._adapters = model, dict(adapters)
        self._used: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._adapters)

    @contextlib.contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """The model with one adapter at work; None is the base model.

        Raises:
            CrosstaskError: there is no adapter of that name, or another is at work.
        """
        if name is not None and name not in self._adapters:
            raise CrosstaskError(f"there is no adapter {name!r}; attached are {', '.join(self._adapters) or 'none'}")
        if self._used is not None:
            raise CrosstaskError(f"adapter {self._used!r} is at work; leave it before {name!r}")
        if name is None:
            yield
            return
        self._used = name
        self._adapters[name].on()
        _at_work[self.model] = self._adapters[name]
        self.model.reset_state()
        try:
            yield
        finally:
            del _at_work[self.model]
            self._adapters[name].off()
            self.model.reset_state()
            self._used = None


@contextlib.contextmanager
def attached(model: Model, folders: Mapping[str, Path | str]) -> Iterator[Adapters]:
    """Attach adapters; none is at work until `use` says so.

    Args:
        model: the base model.
        folders: name -> folder with an adapter. A folder of strategy `freeze` stands for the base model.

    Raises:
        CrosstaskError: a folder holds no adapter, it is damaged, its weights match none of the model's, or it was
            trained on another model.
    """
    places = {name: Path(folder) for name, folder in folders.items()}
    for name, folder in places.items():
        check_base(model, folder, name)
    loras = {name: folder for name, folder in places.items() if (folder / LORA_CONFIG).is_file()}
    found: dict[str, Adapter] = {}
    try:
        for name, folder in places.items():  # before peft gives the adapted layers other names
            if name not in loras:
                found[name] = _beside_peft(model, folder, name)
        if loras:
            found |= _loras(model, loras)
        yield Adapters(model, {name: found[name] for name in places})
    finally:
        for adapter in found.values():
            adapter.remove()
        model.module.requires_grad_(False).eval()


def _beside_peft(model: Model, folder: Path, name: str) -> Adapter:
    """An adapter that is not peft's: of a strategy with a format of its own, of differences, or of nothing."""
    if (folder / VISION_CONFIG).is_file():
        return strategy(str(_json(folder / VISION_CONFIG, name).get("strategy"))).load(model, folder, name)
    return _Delta(model, _deltas(model, folder, name)) if (folder / DELTA).is_file() else Adapter()


def check_base(model: Model, folder: Path, name: str) -> None:
    """Hold an adapter to the model that it was trained on.

    Raises:
        CrosstaskError: the folder holds no adapter, or one of another base model.
    """
    record = _json(folder / RECORD, name) if (folder / RECORD).is_file() else None
    if record is not None:
        if not _same_base(model, record):
            raise CrosstaskError(
                f"adapter {name!r} was trained on {record['model']!r} with weights {record['fingerprint'][:12]}, and "
                f"model {model.name!r} has weights {model.fingerprint[:12]}"
            )
        weightless = record["strategy"] == "freeze"
    elif (folder / LORA_CONFIG).is_file():
        weightless, base = False, str(_json(folder / LORA_CONFIG, name).get("base_model_name_or_path") or "")
        if base and Path(base).name.lower() != Path(model.name).name.lower():
            raise CrosstaskError(f"adapter {name!r} was trained on {base!r}, and the model is {model.name!r}")
    else:
        weightless = False
    if not weightless and not any((folder / file).is_file() for file in (LORA_CONFIG, DELTA, VISION_CONFIG)):
        raise CrosstaskError(
            f"folder {str(folder)!r} of adapter {name!r} holds neither {LORA_CONFIG} nor {DELTA} nor {VISION_CONFIG}"
        )


def trained_limits(folders: Mapping[str, Path]) -> dict[str, int | None]:
    """The pixel limits that adapters were trained with, as their records say; None where none were set.

    Raises:
        CrosstaskError: two adapters were trained with different limits, so that they cannot share pictures.
    """
    found: dict[str, dict[str, int | None]] = {}
    for name, folder in folders.items():
        config = _json(folder / RECORD, name).get("config", {}) if (folder / RECORD).is_file() else {}
        found[name] = {limit: config.get(limit) for limit in ("min_pixels", "max_pixels")}
    if not found:
        return {"min_pixels": None, "max_pixels": None}
    (first, limits), *others = found.items()
    for name, other in others:
        if other != limits:
            raise CrosstaskError(
                f"adapter {first!r} was trained with pictures of {limits} and adapter {name!r} with {other}; evaluate "
                "them apart, or give --min-pixels and --max-pixels"
            )
    return limits


def _same_base(model: Model, record: Mapping[str, Any]) -> bool:
    """Whether a record's model is this one; it may have been quantised for training."""
    if record["fingerprint"] == model.fingerprint:
        return True
    loading = record["config"]["loading"]
    if not loading.get("quantize"):
        return False
    held = f"{model.fingerprint} {loading['quantize']} {loading['dtype']}"
    return record["fingerprint"] == hashlib.sha256(held.encode()).hexdigest()


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrosstaskError(f"{path.name} of adapter {name!r} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise CrosstaskError(f"{path.name} of adapter {name!r} holds {found!r:.80}; expected a JSON object")
    return found


def _tensors(path: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CrosstaskError(f"{path.name} of adapter {name!r} cannot be read ({error})") from error


class _Lora(Adapter):
    def __init__(self, adapted: Any, name: str, model: Model, *, first: bool) -> None:
        self.adapted, self.name, self.model, self.first = adapted, name, model, first

    def on(self) -> None:
        self.adapted.base_model.enable_adapter_layers()
        self.adapted.set_adapter(self.name)
        self.model.module.requires_grad_(False)

    def off(self) -> None:
        self.adapted.base_model.disable_adapter_layers()

    def remove(self) -> None:
        if self.first:
            self.adapted.unload()
            if hasattr(self.model.module, "peft_config"):
                del self.model.module.peft_config


def _loras(model: Model, folders: Mapping[str, Path]) -> dict[str, Adapter]:
    """peft adapters side by side on the module."""
    from peft import PeftConfig, PeftModel

    adapted: Any = None
    found: dict[str, Adapter] = {}
    names = {name: f"a{number}" for number, name in enumerate(folders)}  # peft's names may hold no dots
    try:
        for name, folder in folders.items():
            tensors = _tensors(folder / LORA_WEIGHTS, name)
            if not any(bool(t.any()) for key, t in tensors.items() if "lora_B" in key):
                raise CrosstaskError(f"adapter {name!r} changes nothing: all of its updates are zero")
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            try:
                if adapted is None:
                    adapted = PeftModel(model.module, config, adapter_name=names[name])
                else:
                    adapted.add_adapter(names[name], config)
                _fill(adapted, names[name], tensors, name)
            except (ValueError, RuntimeError, KeyError) as error:
                if isinstance(error, CrosstaskError):
                    raise
                first = str(error).strip().splitlines()[0]
                raise CrosstaskError(f"adapter {name!r} does not fit model {model.name!r}: {first}") from error
            found[name] = _Lora(adapted, names[name], model, first=not found)
    except BaseException:
        if adapted is not None:
            adapted.unload()
        if hasattr(model.module, "peft_config"):
            del model.module.peft_config
        raise
    model.module.eval()
    adapted.base_model.disable_adapter_layers()
    return found


def _fill(adapted: Any, name: str, tensors: Mapping[str, Tensor], said: str) -> None:
    """Put an adapter's tensors where they belong; all must have a place, and all places be filled."""
    from peft import set_peft_model_state_dict

    result: Any = set_peft_model_state_dict(adapted, dict(tensors), adapter_name=name)
    missing = [key for key in result.missing_keys if f".{name}." in key]
    if result.unexpected_keys or missing:
        what = f"{result.unexpected_keys[0]!r} has no place" if result.unexpected_keys else f"{missing[0]!r} is missing"
        raise CrosstaskError(f"the weights of adapter {said!r} do not match the model's: {what}")


class _Delta(Adapter):
    """Differences of whole parameters."""

    def __init__(self, model: Model, deltas: Mapping[str, Tensor]) -> None:
        parameters = dict(model.module.named_parameters())
        self.pairs = [(parameters[name], delta) for name, delta in deltas.items()]
        self.before: list[Tensor] = []

    @torch.no_grad()
    def on(self) -> None:
        self.before = [parameter.data for parameter, _ in self.pairs]
        for parameter, delta in self.pairs:
            dtype = torch.promote_types(parameter.dtype, delta.dtype)
            parameter.data = (parameter.data.to(dtype) + delta.to(parameter.device, dtype)).to(parameter.dtype)

    def off(self) -> None:
        for (parameter, _), before in zip(self.pairs, self.before, strict=True):
            parameter.data = before
        self.before = []


def _deltas(model: Model, folder: Path, name: str) -> dict[str, Tensor]:
    """Differences, each with a parameter of its name and shape, and at least one that is not zero."""
    if not model.is_whole:
        raise CrosstaskError(f"adapter {name!r} changes weights themselves, but those of {model.name!r} are quantised")
    deltas = _tensors(folder / DELTA, name)
    parameters = dict(model.module.named_parameters())
    for key, delta in deltas.items():
        if key not in parameters or parameters[key].shape != delta.shape:
            raise CrosstaskError(
                f"the weights of adapter {name!r} do not match the model's: {key!r} of shape {tuple(delta.shape)} has "
                "no place"
            )
    if not any(bool(delta.any()) for delta in deltas.values()):
        raise CrosstaskError(f"adapter {name!r} changes nothing: all of its updates are zero")
    return deltas
