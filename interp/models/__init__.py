"""Models as the rest of the instrument sees them: loaded, frozen, and with their parts under one set of names."""

from __future__ import annotations

from typing import Any

__all__ = ["Model", "compare", "load_model"]


def __getattr__(name: str) -> Any:
    """Import torch and transformers only when a model is asked for, not when a program prints its help."""
    if name in ("Model", "load_model"):
        from interp.models import base

        return getattr(base, name)
    if name == "compare":
        from interp.models.comparison import compare

        return compare
    raise AttributeError(f"module 'interp.models' has no attribute {name!r}; it has {', '.join(__all__)}")
