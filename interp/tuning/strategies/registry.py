"""Strategies by name: every file of this folder is imported once, and registers what it defines."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from interp.errors import CrosstaskError
from interp.tuning.strategies.base import Strategy

_STRATEGIES: dict[str, type[Strategy]] = {}


def register(kind: type[Strategy]) -> type[Strategy]:
    """Class decorator: this strategy is known by its `name`."""
    _STRATEGIES[kind.name] = kind
    return kind


@cache
def _discover() -> None:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


def strategies() -> dict[str, type[Strategy]]:
    """Every strategy by name."""
    _discover()
    return dict(sorted(_STRATEGIES.items()))


def strategy(name: str) -> type[Strategy]:
    """A strategy by name.

    Raises:
        CrosstaskError: there is none of that name.
    """
    known = strategies()
    if name not in known:
        raise CrosstaskError(f"there is no strategy {name!r}; expected {', '.join(known)}")
    return known[name]
