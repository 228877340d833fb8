"""What a strategy puts on a module: submodules, whole parameters and hooks, all of which come off again.

A graft is at work from when it is made. `off` leaves the module bit for bit as it was, and `on` puts the trained part
back, so that several grafts can take turns on one module. What is grafted is held by the modules and parameters
themselves and not by their names, which other adapters may change in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.models.loading import STRATEGY_MARK


class Part(Protocol):
    """One change of the module."""

    def on(self) -> None:
        """Make the change."""

    def off(self) -> None:
        """Take it back."""


class Graft:
    """Changes of a module that go on and off together; those made last come off first."""

    def __init__(self) -> None:
        """Change nothing yet."""
        self._parts: list[Part] = []
        self.wholes: list[WholeParameter] = []
        self.modules: list[nn.Module] = []
        self.at_work = True

    def put(self, parent: nn.Module, name: str, module: nn.Module) -> None:
        """Put a submodule in the place of the one of that name, or where there is none."""
        self.add(_Submodule(parent, name, module))
        self.modules.append(module)

    def whole(self, parameter: nn.Parameter) -> None:
        """Train a parameter itself, in float32 at least: steps would be smaller than the grid of 16 bits."""
        part = WholeParameter(parameter)
        self.add(part)
        self.wholes.append(part)

    def hook(self, register: Callable[[], RemovableHandle]) -> None:
        """Register a hook, and again whenever the graft is put back.

        Args:
            register: registers it, e.g. ``lambda: block.register_forward_pre_hook(...)``.
        """
        self.add(_Hook(register))

    def on(self) -> None:
        """Put everything back to work; nothing happens if it is."""
        if not self.at_work:
            for part in self._parts:
                part.on()
            self.at_work = True

    def off(self) -> None:
        """Leave the module as it was before; nothing happens if it is."""
        if self.at_work:
            for part in reversed(self._parts):
                part.off()
            self.at_work = False

    def add(self, part: Part) -> None:
        """Make a change, and keep it."""
        part.on()
        self._parts.append(part)


class _Submodule:
    def __init__(self, parent: nn.Module, name: str, module: nn.Module) -> None:
        self.parent, self.name, self.module = parent, name, module
        self.before: nn.Module | None = None

    def on(self) -> None:
        self.before = self.parent._modules.get(self.name)
        self.parent.register_module(self.name, self.module)

    def off(self) -> None:
        if self.before is None:
            delattr(self.parent, self.name)
        else:
            self.parent.register_module(self.name, self.before)


class WholeParameter:
    """A parameter with two values: the base model's and the trained one.

    Attributes:
        parameter: holds the one that is at work.
        dtype: of the base model's value.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        """Begin with the base model's value as the trained one."""
        self.parameter, self.dtype = parameter, parameter.dtype
        self._other = parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
        self._trains = False

    def on(self) -> None:
        self._exchange()
        if not self._trains and not self.parameter.is_meta:
            self._other = self._other.cpu()  # a second copy of the model need not lie on the device while it trains
        self.parameter.requires_grad_(True)
        self._trains = True

    def off(self) -> None:
        self._exchange()
        self.parameter.grad = None
        self.parameter.requires_grad_(False)

    def _exchange(self) -> None:
        at_work = self.parameter.data
        self.parameter.data = self._other.to(at_work.device)
        self._other = at_work

    @property
    def before(self) -> Tensor:
        """The base model's value, while the trained one is at work."""
        return self._other


class _Hook:
    def __init__(self, register: Callable[[], RemovableHandle]) -> None:
        self.register = register

    def on(self) -> None:
        self.handle = self.register()

    def off(self) -> None:
        self.handle.remove()


class _Mark:
    def __init__(self, config: Any, name: str) -> None:
        self.config, self.name = config, name

    def on(self) -> None:
        setattr(self.config, STRATEGY_MARK, self.name)

    def off(self) -> None:
        with contextlib.suppress(AttributeError):
            delattr(self.config, STRATEGY_MARK)


def mark_config(graft: Graft, module: Any, name: str) -> None:
    """Note the strategy in the model's configuration: if someone saves the module as a whole, loading it as a plain
    model would draw the changed parts anew, and is refused by the mark (:func:`interp.models.base.load_model`)."""
    graft.add(_Mark(module.config, name))
