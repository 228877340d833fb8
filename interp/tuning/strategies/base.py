"""What a strategy is: it makes some weights trainable, writes what they became, and leaves the model as it was."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.files import atomic_file
from interp.tuning.strategies.options import NoOptions, read_options

if TYPE_CHECKING:
    from interp.models.base import Model
    from interp.tuning.config import TuneConfig

DELTA = "delta.safetensors"
"""Differences of whole parameters, under their names."""
VISION_CONFIG, VISION_WEIGHTS = "vision_config.json", "vision_model.safetensors"
"""What strategies that train the vision tower write, besides or in place of the others."""


class Adapter:
    """One adapter on a model. As it stands: that of strategy `freeze`, which is the base model."""

    reads_text: bool = False
    """Whether its vision tower reads the question, so that it must be told one (`context`)."""

    def on(self) -> None:
        """Put it to work."""

    def off(self) -> None:
        """The base model again."""

    def remove(self) -> None:
        """Take off what it put on the model."""

    def context(self, texts: Sequence[str], owner: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Tell the tower what is asked, while pictures are encoded in the block.

        Args:
            texts: one a conversation, cleaned by :func:`interp.tuning.text_context.context_text`.
            owner: the conversation of each image, images in the order of the pixel values.
        """
        return contextlib.nullcontext()


class Strategy(ABC):
    """A strategy on one model, from when it is attached until it is detached.

    Attributes:
        model: the model that is trained.
        config: the run's settings.
        options: the strategy's own settings.
        module: what the trainer is given.
    """

    Options: ClassVar[type] = NoOptions
    """A frozen dataclass: the strategy's own settings, read from `config.options`."""

    name: ClassVar[str]
    trains: ClassVar[bool] = True
    """Whether there is anything to train."""
    needs_weights: ClassVar[bool] = True
    """Whether it reads the model's weights when it begins, which must then be whole: ZeRO-3 divides them afterwards."""
    summary: ClassVar[str]
    """What is trained, for the run card."""

    def __init__(self, model: Model, config: TuneConfig) -> None:
        self.model, self.config = model, config
        self.options: Any = read_options(self.Options, config.options, strategy=self.name)
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

    @property
    def touches_vision(self) -> bool:
        """Whether tower or projector change, so that features of pictures cannot be kept."""
        return False

    @property
    def reads_text(self) -> bool:
        """Whether the tower reads the question, so that a batch must hold its context."""
        return False

    def text_inputs(self, texts: Sequence[str], owner: Sequence[int]) -> dict[str, Tensor]:
        """What a batch holds for a tower that reads text: tensors whose names begin with `context_`.

        Args:
            texts: one a conversation, cleaned.
            owner: the conversation of each image, images in the order of the pixel values.
        """
        return {}

    def context(self, inputs: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
        """While the module runs on this batch, its tower reads the batch's context."""
        return contextlib.nullcontext()

    def penalty(self) -> Tensor | None:
        """What is added to the loss of the micro-batch that was just run; None is nothing."""
        return None

    @classmethod
    def load(cls, model: Model, folder: Path, name: str) -> Adapter:
        """What `save` wrote, as an adapter on a model, for strategies with a format of their own.

        Args:
            model: the base model.
            folder: with the adapter.
            name: how errors call it.

        Raises:
            CrosstaskError: it is damaged, or does not match the model.
        """
        raise CrosstaskError(f"adapter {name!r} of strategy {cls.name!r} is not read by the strategy itself")

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
