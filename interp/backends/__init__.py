"""The same captures and patches through other tools: independent oracles, and for users who work in them.

A backend is a file ``with_<name>.py`` of this folder that defines ``make(**options)``; nothing else changes. The tools
are imported when a backend is made, never before. A vector is the same whichever backend read it, so the files of
:class:`~interp.vectors.TaskVectors` do not say: what one backend wrote, another loads.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "interp.backends.base": ("Backend",),
    "interp.backends.conversions": ("nnsight_edit", "transformer_lens_hook"),
    "interp.backends.registry": ("DEFAULT", "backend_for", "backend_names"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Import a name from its module when it is first asked for: settings ask for names only, and need no torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME_OF[name]), name)
