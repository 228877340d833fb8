"""What strategies of the vision tower have in common: the language model's part, the projector, and their files.

Besides its own part in the tower, each trains what its options say: the language model by LoRA (rank, alpha, dropout
and targets of the run's configuration), whole, or not at all, and the projector whole. So the rows of a comparison
differ in the tower alone, as in CoVFT's (Zhou et al. 2026, table D). Everything lies in one folder:

    vision_config.json          strategy, options, LoRA's settings, fingerprints of the base model and the text encoder
    vision_model.safetensors    each trained tensor as it is after training, by its name in the module; in its metadata
                                the sha256 of the settings

Tensors are whole and not differences, since most belong to modules that the base model does not have.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.files import atomic_file
from interp.tuning.strategies.base import VISION_CONFIG, VISION_WEIGHTS, Adapter, Strategy, language_parameters
from interp.tuning.strategies.graft import Graft, mark_config
from interp.tuning.strategies.towers import projector_parameters, vision_tower

if TYPE_CHECKING:
    from interp.models.base import Model


@dataclass(frozen=True)
class VisionOptions:
    """What is trained besides the tower's part."""

    language: Literal["lora", "full", "none"] = "lora"
    """The language model: by LoRA with the run's rank, alpha, dropout and targets; whole; or not at all."""
    projector: bool = True
    """Whether the projector between tower and language model is trained, whole."""


class VisionStrategy(Strategy):
    """A strategy with a part in the vision tower. Subclasses graft that part (`attach_tower`).

    Attributes:
        graft: all changes of the module.
        loras: low-rank updates by the name of the layer that they are on.
    """

    Options: ClassVar[type] = VisionOptions
    options: Any

    @abstractmethod
    def attach_tower(self) -> None:
        """Graft what is trained in the tower: new modules, hooks, and whole parameters, through `self.graft`.

        Random numbers are those of the run's `start_seed`. Parameters of new modules are trained as they ask to be
        (`requires_grad`), in float32 at least.
        """

    @property
    def touches_vision(self) -> bool:
        return True

    @property
    def autocast(self) -> bool:
        return self.model.dtype in (torch.bfloat16, torch.float16)

    def attach(self) -> nn.Module:
        if not self.model.is_whole:
            raise CrosstaskError(
                f"strategy {self.name!r} trains the vision tower's weights, but those of {self.model.name!r} are "
                "quantised or held elsewhere; use lora"
            )
        vision_tower(self.model)
        self.graft = Graft()
        self.loras: dict[str, Any] = {}
        try:
            with torch.random.fork_rng():
                torch.manual_seed(self.config.start_seed)
                self.attach_tower()
                if self.options.projector:
                    self.attach_projector()
                self._attach_language()
            for part in self.graft.modules:
                part.train(self.model.module.training)
            if self.graft.modules:
                mark_config(self.graft, self.model.module, self.name)
            if not self.trainable_of(self.model.module):
                raise CrosstaskError(f"strategy {self.name!r} with options {asdict(self.options)} trains nothing")
        except BaseException:
            self.graft.off()
            raise
        self._refine()
        return self.model.module

    def attach_projector(self) -> None:
        """Graft what is trained of the projector, where the options ask for it: all of it."""
        self.train_whole(projector_parameters(self.model))

    def train_whole(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Train parameters of the module themselves."""
        for parameter in parameters.values():
            self.graft.whole(parameter)

    def train_lora(self, layers: Mapping[str, nn.Module], *, rank: int, alpha: float) -> None:
        """Train low-rank updates of linear layers, through peft's own layer.

        Args:
            layers: linear layers by their names in the module.
            rank: r.
            alpha: the update is scaled by alpha / r.

        Raises:
            CrosstaskError: one is no linear layer.
        """
        from peft import LoraConfig
        from peft.tuners.lora import Linear

        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=self.config.dropout)  # type: ignore[arg-type]
        for name, layer in layers.items():
            if not isinstance(layer, nn.Linear):
                raise CrosstaskError(f"{name!r} is a {type(layer).__name__}, and LoRA here takes linear layers")
            with layer.weight.device if layer.weight.is_meta else contextlib.nullcontext():
                updated = Linear(layer, "default", config, r=rank, lora_alpha=alpha)  # type: ignore[arg-type]
            parent, _, child = name.rpartition(".")
            self.graft.put(self.model.module.get_submodule(parent), child, updated)
            self.loras[name] = updated

    def _attach_language(self) -> None:
        from interp.tuning.strategies.lora import targeted_layers

        if self.options.language == "full":
            self.train_whole(language_parameters(self.model))
        elif self.options.language == "lora":
            layers = targeted_layers(self.model, self.config.targets)
            self.train_lora(layers, rank=self.config.rank, alpha=self.config.alpha)

    def _refine(self) -> None:
        """New weights in float32 at least; and what they begin with, from which `update_norm` counts."""
        for module in self.graft.modules:
            for parameter in module.parameters():
                if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
                    parameter.data = parameter.data.float()
        whole = {id(part.parameter) for part in self.graft.wholes}
        self._start = {
            name: _copy(parameter)
            for name, parameter in self.trainable_of(self.model.module).items()
            if id(parameter) not in whole
        }

    def beside(self) -> dict[str, str]:
        """Fingerprints, by name, of what must be the same when an adapter is used, besides the base model."""
        return {}

    @staticmethod
    def trainable_of(module: nn.Module) -> dict[str, nn.Parameter]:
        """Parameters of a module that are trained, by name."""
        return {name: p for name, p in module.named_parameters() if p.requires_grad}

    def update_norm(self, state: Mapping[str, Tensor]) -> float:
        total = 0.0
        names = {id(parameter): name for name, parameter in self.trainable().items()}
        for part in self.graft.wholes:
            total += _squared(state[names[id(part.parameter)]], part.before)
        for name, start in self._start.items():
            if ".lora_A." not in name and ".lora_B." not in name:
                total += _squared(state[name], start)
        for name, layer in self.loras.items():
            a, b = (state[f"{name}.lora_{which}.default.weight"].detach().double().cpu() for which in "AB")
            total += layer.scaling["default"] ** 2 * float(((b.T @ b) * (a @ a.T)).sum())  # ||BA||^2
        return total**0.5

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        written = {
            "strategy": self.name,
            "options": asdict(self.options),
            "rank": self.config.rank,
            "alpha": self.config.alpha,
            "targets": list(self.config.targets),
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            **self.beside(),
        }
        noted = {SETTINGS: _digest(written)}  # of several entries safetensors would draw the order
        with atomic_file(folder / VISION_WEIGHTS) as draft:
            save_file({name: t.detach().cpu().contiguous() for name, t in state.items()}, draft, noted)
        with atomic_file(folder / VISION_CONFIG) as draft:
            draft.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model: Model, folder: Path, name: str) -> Adapter:
        from interp.tuning.config import TuneConfig

        written, state = _read(folder, name)
        if written["strategy"] != cls.name or written["fingerprint"] != model.fingerprint:
            raise CrosstaskError(
                f"adapter {name!r} is of strategy {written['strategy']!r} on {written['model']!r} with weights "
                f"{written['fingerprint'][:12]}, and was to be read as {cls.name!r} on {model.name!r} with weights "
                f"{model.fingerprint[:12]}"
            )
        settings = {key: written[key] for key in ("rank", "alpha", "options")}
        strategy = cls(
            model, TuneConfig("adapter", model.name, cls.name, targets=tuple(written["targets"]), **settings)
        )
        try:
            for what, now in strategy.beside().items():
                if (then := written.get(what, now)) != now:
                    raise CrosstaskError(
                        f"adapter {name!r} was trained with {what.replace('_', ' ')} {then!r:.60}, now {now!r:.60}"
                    )
            strategy.fill(state, name)
        finally:
            strategy.graft.off()
        return VisionAdapter(strategy)

    @torch.no_grad()
    def fill(self, state: Mapping[str, Tensor], name: str = "given") -> None:
        """Take trained values, for use and not for further training: in the model's own dtype.

        Args:
            state: a value for each trained parameter, and no other.
            name: how errors call the adapter.

        Raises:
            CrosstaskError: a value has no place, is no number, or is missing, or they change nothing.
        """
        parameters = self.trainable()
        for key in sorted(parameters.keys() | state.keys()):
            if key in parameters and key in state and _alike(parameters[key], state[key]):
                if not bool(state[key].isfinite().all()):
                    raise CrosstaskError(f"the weights of adapter {name!r} are damaged: {key!r} holds NaN or infinity")
                continue
            kind = f"{tuple(state[key].shape)} and type {state[key].dtype}" if key in state else ""
            what = f"{key!r} of shape {kind} has no place" if key in state else f"{key!r} is missing"
            raise CrosstaskError(f"the weights of adapter {name!r} do not match the model's: {what}")
        if not self.update_norm(state) > 0:
            raise CrosstaskError(f"adapter {name!r} changes nothing: all of its updates are zero")
        dtypes = {id(part.parameter): part.dtype for part in self.graft.wholes}
        for key, parameter in parameters.items():
            dtype = dtypes.get(id(parameter))
            if dtype is None:
                dtype = self.model.dtype if parameter.is_floating_point() else parameter.dtype
            parameter.data = state[key].to(parameter.device, dtype)
        for module in self.graft.modules:
            module.eval()
        self.model.module.requires_grad_(False)

    def detach(self) -> None:
        self.graft.off()
        self.model.module.requires_grad_(False)


class VisionAdapter(Adapter):
    """What a strategy of the tower trained, put on and taken off as a whole."""

    def __init__(self, strategy: VisionStrategy) -> None:
        """Take a strategy that was filled and is off."""
        self.strategy = strategy
        self.reads_text = strategy.reads_text

    def on(self) -> None:
        self.strategy.graft.on()
        self.strategy.model.module.requires_grad_(False)

    def off(self) -> None:
        self.strategy.graft.off()

    def remove(self) -> None:
        self.strategy.detach()

    @contextlib.contextmanager
    def context(self, texts: Sequence[str], owner: Sequence[int]) -> Iterator[None]:
        with self.strategy.context(self.strategy.text_inputs(texts, owner)):
            yield


SETTINGS = "settings"
"""In the metadata of the weights: sha256 of the settings that they were trained with."""
WRITTEN: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "strategy": ("a text", str),
    "options": ("an object", dict),
    "rank": ("a whole number", int),
    "alpha": ("a number", (int, float)),
    "targets": ("a list of texts", list),
    "model": ("a text", str),
    "fingerprint": ("a text", str),
}
"""Fields of `vision_config.json`."""


def _read(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights of an adapter's folder."""
    weights = folder / VISION_WEIGHTS
    try:
        written = json.loads((folder / VISION_CONFIG).read_text(encoding="utf-8"))
        state = load_file(weights)
        with safe_open(weights, "pt") as file:
            noted = (file.metadata() or {}).get(SETTINGS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CrosstaskError(f"adapter {name!r} in {str(folder)!r} cannot be read ({error})") from error
    if not isinstance(written, dict):
        raise CrosstaskError(f"{VISION_CONFIG} of adapter {name!r} holds {written!r:.80}; expected a JSON object")
    for key, (said, kind) in WRITTEN.items():
        fits = isinstance(written.get(key), kind)
        if not fits or (key == "targets" and not all(isinstance(one, str) for one in written[key])):
            given = f"has {key} {written[key]!r:.60}" if key in written else f"lacks {key}"
            raise CrosstaskError(f"{VISION_CONFIG} of adapter {name!r} {given}; expected {said}")
    if noted is not None and noted != _digest(written):
        raise CrosstaskError(
            f"the settings in {VISION_CONFIG} of adapter {name!r} are not those that its weights were trained with"
        )
    return written, state


def _digest(written: Mapping[str, Any]) -> str:
    """sha256 of the settings that decide what the weights compute."""
    kept = [written[key] for key in ("strategy", "options", "rank", "alpha", "targets")]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _alike(parameter: Tensor, value: Tensor) -> bool:
    return parameter.shape == value.shape and parameter.is_floating_point() == value.is_floating_point()


def _copy(parameter: Tensor) -> Tensor:
    return parameter.detach().clone() if parameter.is_meta else parameter.detach().to("cpu", copy=True)


def _squared(after: Tensor, before: Tensor) -> float:
    return float((after.detach().double().cpu() - before.double().cpu()).square().sum())
