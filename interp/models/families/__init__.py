"""Model families: what differs between architectures, one file each.

A family is found by the ``model_type`` of the configuration, never by the model's name. To add one, put a file into
this folder with a subclass of :class:`~interp.models.families.base.Family` decorated with ``@register("model_type")``;
nothing else changes.
"""

from interp.models.families.base import Family, ImageInputs
from interp.models.families.registry import families, family_for, register, suggestions

__all__ = ["Family", "ImageInputs", "families", "family_for", "register", "suggestions"]
