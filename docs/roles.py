"""What the house style of docstrings means to the reference.

- Other objects are named as :func:`name`, which becomes a link; an imported name leads to where it is defined.
- Arguments that mean the same are described in one line, "a, b: ..."; each becomes a line of its own.
"""

import re
from typing import Any

from griffe import Extension, Object

SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): ", re.MULTILINE)
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`")


class SphinxRoles(Extension):
    """Rewrites :func:`name` to a cross-reference where the name is known, and else to the name as code."""

    def on_object(self, *, obj: Object, loader: Any, **_: Any) -> None:
        """Called for every module, class, function and attribute once it is read."""
        if obj.docstring is not None:
            text = ROLE.sub(lambda found: self._link(found[1], obj), obj.docstring.value)
            obj.docstring.value = "\n".join(self._apart(line, obj) for line in text.split("\n"))

    @staticmethod
    def _apart(line: str, obj: Object) -> str:
        """A line for each of several arguments that are described at once."""
        found = SEVERAL.match(line)
        names = found[2].split(", ") if found else []
        known = {parameter.name for parameter in getattr(obj, "parameters", ())}
        if found is None or not set(names) <= known:
            return line
        first, *others = names
        alike = [f"{found[1]}{name}: as `{first}`." for name in others]  # before it, since its text may go on
        return "\n".join([*alike, f"{found[1]}{first}: {line[found.end() :]}"])

    @staticmethod
    def _link(name: str, obj: Object) -> str:
        return f"[`{name}`][{_resolve(name, obj)}]"


def _resolve(name: str, obj: Object) -> str:
    """The full path of a name as it is meant in an object's docstring: of its class, its module, or full already."""
    if name.startswith(("interp.", "probes.", "figures.", "experiments.")):
        return name
    owner: Object | None = obj
    while owner is not None:
        first, _, rest = name.partition(".")
        if first in owner.members:
            member = owner.members[first]
            path = member.target_path if member.is_alias else member.path
            return f"{path}.{rest}" if rest else path
        owner = owner.parent if isinstance(owner.parent, Object) else None
    return name
