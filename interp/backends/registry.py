"""Backends by name; the names are those of the files ``with_<name>.py`` beside this one, so none has to be imported."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from interp.errors import CrosstaskError

if TYPE_CHECKING:
    from interp.backends.base import Backend

DEFAULT = "hooks"
_PREFIX = "with_"


@cache
def backend_names() -> tuple[str, ...]:
    """Every backend's name, the default first."""
    found = sorted(path.stem.removeprefix(_PREFIX) for path in Path(__file__).parent.glob(f"{_PREFIX}*.py"))
    return (DEFAULT, *(name for name in found if name != DEFAULT))


def backend_for(name: str, **options: Any) -> Backend:
    """Make a backend.

    Args:
        name: ``hooks``, ``nnsight`` or ``transformer_lens``.
        **options: of that backend, e.g. ``remote`` of nnsight's.

    Raises:
        CrosstaskError: for an unknown name (the nearest known one is offered), or when its package is not installed.
    """
    if name not in backend_names():
        near = difflib.get_close_matches(name, backend_names(), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CrosstaskError(f"unknown backend {name!r}, expected one of {', '.join(backend_names())}{hint}")
    return import_module(f"interp.backends.{_PREFIX}{name}").make(**options)


def needed_package(package: str, *, backend: str) -> ModuleType:
    """Import the package that a backend stands on.

    Raises:
        CrosstaskError: if it is not installed, or is installed and cannot be imported.
    """
    try:
        return import_module(package)
    except ImportError as error:
        install = package.replace("_", "-")
        raise CrosstaskError(
            f"backend {backend!r} needs the package {install}, which cannot be imported ({error}); "
            f"`pip install {install}` brings it, and backend {DEFAULT!r} needs none"
        ) from error
