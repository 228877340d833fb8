"""Docstrings name other objects as :func:`name`; the reference shows them as links."""

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`")


class SphinxRoles(Extension):
    """Rewrites :func:`name` to a cross-reference where the name is known, and else to the name as code."""

    def on_object(self, *, obj: Object, loader: Any, **_: Any) -> None:
        """Called for every module, class, function and attribute once it is read."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(lambda found: self._link(found[1], obj), obj.docstring.value)

    @staticmethod
    def _link(name: str, obj: Object) -> str:
        return f"[`{name}`][{_resolve(name, obj)}]"


def _resolve(name: str, obj: Object) -> str:
    """The full path of a name as it is meant in an object's docstring: of its class, its module, or full already."""
    if name.startswith(("interp.", "probes.", "figures.", "experiments.")):
        return name
    owner: Object | None = obj
    while owner is not None:
        if name.split(".")[0] in owner.members:
            return f"{owner.path}.{name}"
        owner = owner.parent if isinstance(owner.parent, Object) else None
    return name
