"""The same captures and patches through other tools: independent oracles, and for users who work in them.

A backend is a file ``with_<name>.py`` of this folder that defines ``make(**options)``; nothing else changes. The tools
are imported when a backend is made, never before. A vector is the same whichever backend read it, so the files of
:class:`~interp.vectors.TaskVectors` do not say: what one backend wrote, another loads.
"""

from interp.backends.base import Backend
from interp.backends.registry import backend_for, backend_names

__all__ = ["Backend", "backend_for", "backend_names"]
