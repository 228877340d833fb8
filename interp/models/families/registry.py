"""Which family a configuration belongs to: files of this folder register themselves by ``model_type``."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from interp.errors import CrosstaskError
from interp.models.families.base import Family

_FAMILIES: dict[str, Family] = {}


def register(*model_types: str) -> Callable[[type[Family]], type[Family]]:
    """Class decorator: this family handles configurations with one of these ``model_type`` names."""

    def add(family: type[Family]) -> type[Family]:
        for model_type in model_types:
            _FAMILIES[model_type] = family()
        return family

    return add


@cache
def _discover() -> None:
    """Import every file beside this one once, so that its families are registered."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


def family_for(config: PretrainedConfig) -> Family:
    """The family of a configuration.

    A registered ``model_type`` decides. Any other decoder-only language model is read like Llama, whose layout
    (``get_decoder().layers``) nearly all share; :class:`~interp.models.base.Model` asserts that layout.

    Raises:
        CrosstaskError: for a vision-language model without a family, since how its images are laid out in the token
            sequence has to be known, and for anything that is not a decoder-only model.
    """
    _discover()
    if config.model_type in _FAMILIES:
        return _FAMILIES[config.model_type]
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise CrosstaskError(
            f"vision-language models of type {config.model_type!r} are not supported; supported are "
            f"{', '.join(sorted(kind for kind, family in _FAMILIES.items() if family.image_placeholder))} "
            "(a new one is one file in interp/models/families)"
        )
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "auto_map", None):
        return Family()
    raise CrosstaskError(f"models of type {config.model_type!r} are not decoder-only language models")


def families() -> dict[str, Family]:
    """Every registered family, by the ``model_type`` that it handles."""
    _discover()
    return dict(_FAMILIES)


def suggestions() -> tuple[str, ...]:
    """Hub names that are known to work, for the error message of a mistyped one."""
    _discover()
    return tuple(dict.fromkeys(name for family in (Family(), *_FAMILIES.values()) for name in family.examples))
