"""CoVFT as a tuner of peft (0.21 or newer), for those who train with peft alone: mixtures without norms and projector.

    register_with_peft()
    config = covft_peft_config(model, CoVFTOptions(text="hashing"), text_width=32)
    tuned = get_peft_model(model.module, config)             # and save_pretrained, PeftModel.from_pretrained, ...
    with tuned.base_model.slot.given(context):               # a TextContext
        tuned(**batch)

peft's own way to add a method takes only names of its enumeration of methods, so that one from outside is entered into
its tables of configurations and tuners by hand. Before 0.21 a method that is entered so cannot be saved. peft mixes no
two methods in one model: for mixtures with LoRA use the strategy, or mixtures as `modules_to_save`. Mixtures depend on
their input, so they cannot be merged. When peft loads a checkpoint from which weights are missing, it warns and leaves
those as they were drawn; the strategy's own format refuses it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import peft
import peft.mapping
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.strategies.covft.mixture import Mixture
from interp.tuning.strategies.covft.options import CoVFTOptions
from interp.tuning.strategies.covft.strategy import block_width
from interp.tuning.strategies.covft.tower import TowerPasses
from interp.tuning.strategies.options import read_options
from interp.tuning.strategies.towers import tower_blocks, used_blocks, vision_tower
from interp.tuning.text_context import ContextSlot

METHOD, PREFIX = "COVFT", "covft_"
OLDEST = (0, 21)


@dataclass
class CoVFTPeftConfig(peft.PeftConfig):
    """Settings of the tuner; made by `covft_peft_config`."""

    target_modules: list[str] | str | None = field(default=None)
    """Feed-forward parts of the tower's blocks."""
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)
    options: dict[str, Any] = field(default_factory=dict)
    """Of :class:`interp.tuning.strategies.covft.CoVFTOptions`."""
    width: int = 0
    """Of the tower."""
    text_width: int = 0
    """Of the question's vector."""
    tower: str = ""
    """Name of the tower in the module."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = METHOD


class CoVFTLayer(nn.Module, peft.tuners.tuners_utils.BaseTunerLayer):
    """A feed-forward part with a mixture for each adapter."""

    adapter_layer_names = ("covft_mixtures",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: CoVFTPeftConfig, passes: TowerPasses) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.covft_mixtures = nn.ModuleDict()
        self._passes = passes
        self._active_adapter = adapter_name
        self.merged_adapters: list[str] = []
        self.add_mixture(adapter_name, config)

    def add_mixture(self, adapter_name: str, config: CoVFTPeftConfig) -> None:
        """A new mixture of copies of the base layer."""
        options = read_options(CoVFTOptions, config.options, strategy="covft")
        self.covft_mixtures[adapter_name] = Mixture(
            self.get_base_layer(), self._passes, options, image=config.width, text=config.text_width
        )
        self.set_adapter(adapter_name, inference_mode=config.inference_mode)

    def forward(self, u: Tensor) -> Tensor:
        if self.disable_adapters or not self.active_adapters:
            return self.base_layer(u)
        (name,) = self.active_adapters
        return self.covft_mixtures[name](u) if name in self.covft_mixtures else self.base_layer(u)


class CoVFTModel(peft.tuners.tuners_utils.BaseTuner):
    """The tuner. `slot` takes the context of what is run."""

    prefix: str = PREFIX
    tuner_layer_cls = CoVFTLayer
    target_module_mapping: dict[str, Any] = {}  # noqa: RUF012 (peft's own name and kind)

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, CoVFTLayer):
            target.add_mixture(adapter_name, peft_config)
            return
        layer = CoVFTLayer(target, adapter_name, peft_config, self._watch(peft_config.tower))
        if adapter_name != self.active_adapter:
            layer.requires_grad_(False)
        self._passes.blocks.append(parent)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """peft's own takes a layer with one weight, and moves what it makes; mixtures are made where they are used."""
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise CrosstaskError("mixtures depend on their input and cannot be merged into the tower; use unload()")

    def _watch(self, tower: str) -> TowerPasses:
        """Hooks on the tower, once."""
        if not hasattr(self, "_passes"):
            self.slot = ContextSlot()
            part = self.model.get_submodule(tower)
            self._passes = TowerPasses(part, [], self.slot)
            part.register_forward_pre_hook(self._enter, with_kwargs=True)
            part.register_forward_hook(self._passes.leave, always_call=True)
        return self._passes

    def _enter(self, tower: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        at_work = [
            part.covft_mixtures[name]
            for part in self.model.modules()
            if isinstance(part, CoVFTLayer) and part._passes is self._passes and not part.disable_adapters
            for name in part.active_adapters
            if name in part.covft_mixtures
        ]
        if at_work:  # the base model asks no question
            self._passes.slot = self.slot if at_work[0].options.reads_text else None  # type: ignore[union-attr]
            self._passes.enter(tower, args, given)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Experts are copies in the tower's own type, and stay so."""

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key.replace(f".covft_mixtures.{adapter_name}.", ".covft_mixtures.", 1)


def covft_peft_config(model: Model, options: CoVFTOptions, *, text_width: int) -> CoVFTPeftConfig:
    """A configuration for a model's tower.

    Args:
        model: whose tower.
        options: of the mixtures; language and projector are left to peft.
        text_width: of the question's vector.
    """
    name, _ = vision_tower(model)
    blocks = tower_blocks(model)
    listed = next(key for key, part in model.module.named_modules() if part is blocks)
    layers = options.chosen(used_blocks(model), len(blocks))
    pattern = rf"{re.escape(listed)}\.(?:{'|'.join(map(str, layers))})\.mlp"
    return CoVFTPeftConfig(
        target_modules=pattern,
        options=asdict(options),
        width=block_width(blocks[layers[0]]),
        text_width=text_width,
        tower=name,
    )


def register_with_peft() -> None:
    """Let peft know the method.

    Raises:
        CrosstaskError: peft is older than 0.21.
    """
    found = tuple(int(part) for part in version("peft").split(".")[:2])
    if found < OLDEST:
        raise CrosstaskError(f"CoVFT as a tuner needs peft 0.21 or newer, and {version('peft')} is installed")
    peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[METHOD] = CoVFTPeftConfig  # type: ignore[index]
    peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[METHOD] = CoVFTModel  # type: ignore[index]
    peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING[METHOD] = PREFIX  # type: ignore[index]
