"""Everything that is measured inside a model. A notebook needs few names; they are here, loaded when first used.

Axis legend of every docstring and shape comment:
``B`` row of a batch, ``T`` token, ``L`` layer, ``D`` residual width, ``V`` vocabulary, ``I`` image, ``K`` task,
``S`` seed, ``R`` LoRA rank, ``P`` prompt.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "interp.backends.conversions": ("nnsight_edit", "transformer_lens_hook"),
    "interp.backends.registry": ("backend_for",),
    "interp.errors": ("CrosstaskError",),
    "interp.models": ("Model", "compare", "load_model"),
    "interp.prompts": ("Example", "Image", "Prompt", "Specification", "Template", "render"),
    "interp.vectors": ("Provenance", "TaskVectors", "ensemble", "extract", "norm_matched_random"),
    "interp.lens": ("log_probabilities", "ranks", "top_tokens"),
    "interp.patching": ("Generation", "RowPatch", "generate", "sweep"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Import a name from its module when it is first asked for: ``import interp`` must stay instant."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'interp' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
