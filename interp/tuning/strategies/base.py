"""What a strategy is: it makes some weights trainable, writes what they became, and leaves the model as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.files import atomic_file

if TYPE_CHECKING:
    from interp.models.base import Model
    from interp.tuning.config import TuneConfig

DELTA = "delta.safetensors"
"""Differences of whole parameters, under their names."""


class Strategy(ABC):
    """A strategy on one model, from when it is attached until it is detached.

    Attributes:
        model: the model that is trained.
        config: the run's settings.
        module: what the trainer is given.
    """

    name: ClassVar[str]
    trains: ClassVar[bool] = True
    """Whether there is anything to train."""
    summary: ClassVar[str]
    """What is trained, for the run card."""

    def __init__(self, model: Model, config: TuneConfig) -> None:
        self.model, self.config = model, config
        model.module.requires_grad_(False)
        self.module: nn.Module = self.attach()

    @abstractmethod
    def attach(self) -> nn.Module:
        """Make what is trained trainable, and return what the trainer is given."""

    @abstractmethod
    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write what was trained.

        Args:
            folder: exists.
            state: the trained parameters by their names in `module`.
        """

    @abstractmethod
    def update_norm(self, state: Mapping[str, Tensor]) -> float:
        """Frobenius norm of the change of all weights together."""

    @abstractmethod
    def detach(self) -> None:
        """Leave the model as it was before."""

    @property
    def autocast(self) -> bool:
        """Whether trained weights are kept in float32 while the rest computes in 16 bits."""
        return False

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trained parameters by their names in `module`."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}


class DeltaStrategy(Strategy):
    """Trains whole parameters, and writes by how much they changed."""

    def attach(self) -> nn.Module:
        if not self.model.is_whole:
            raise CrosstaskError(
                f"strategy {self.name!r} trains the weights themselves, but those of {self.model.name!r} are quantised "
                "or held elsewhere; use lora"
            )
        self.chosen = self.choose()
        self.before = {name: parameter.detach().clone().cpu() for name, parameter in self.chosen.items()}
        for parameter in self.chosen.values():
            parameter.requires_grad_(True)
            if parameter.dtype in (torch.bfloat16, torch.float16):  # steps would be smaller than the grid
                parameter.data = parameter.data.float()
        return self.model.module

    @abstractmethod
    def choose(self) -> dict[str, nn.Parameter]:
        """The parameters to train, by name.

        Raises:
            CrosstaskError: there are none.
        """

    @property
    def autocast(self) -> bool:
        return any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in self.before.values())

    def deltas(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameter name -> after minus before, in float32 (float64 of a float64 model)."""
        found = {}
        for name, before in self.before.items():
            dtype = torch.promote_types(before.dtype, torch.float32)
            found[name] = state[name].detach().cpu().to(dtype) - before.to(dtype)
        return found

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        with atomic_file(folder / DELTA) as draft:
            save_file(self.deltas(state), draft, metadata={"format": "pt"})

    def update_norm(self, state: Mapping[str, Tensor]) -> float:
        return sum(float(delta.double().square().sum()) for delta in self.deltas(state).values()) ** 0.5

    def detach(self) -> None:
        for name, parameter in self.chosen.items():
            parameter.data = self.before[name].to(parameter.device)
            parameter.grad = None
            parameter.requires_grad_(False)


def language_parameters(model: Model) -> dict[str, nn.Parameter]:
    """Parameters of the language model: its decoder and its head, by their names in the module."""
    own = {id(p) for part in (model.module.get_decoder(), model.head) for p in part.parameters()}
    return {name: p for name, p in model.module.named_parameters() if id(p) in own}
