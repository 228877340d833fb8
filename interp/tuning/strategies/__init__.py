"""Strategies: which weights of a model are trained, one file each, found by registration.

To add one, put a file into this folder with a subclass of :class:`~interp.tuning.strategies.base.Strategy` decorated
with ``@register``; nothing else changes.
"""

from interp.tuning.strategies.base import Strategy
from interp.tuning.strategies.registry import register, strategies, strategy

__all__ = ["Strategy", "register", "strategies", "strategy"]
