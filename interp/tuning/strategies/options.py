"""A strategy's own settings: a frozen dataclass, filled from values or from the words of a command line.

@dataclass(frozen=True)
class Options:
    rank: int = 8
    \"\"\"Of the tower's LoRA.\"\"\"

read_options(Options, {"rank": "64"}, strategy="vision_lora")      # Options(rank=64)
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from interp.errors import CrosstaskError

O = TypeVar("O")  # noqa: E741


@dataclass(frozen=True)
class NoOptions:
    """Of a strategy that has none."""


def read_options(kind: type[O], given: Mapping[str, Any], *, strategy: str) -> O:
    """Options of a strategy from what was given; the others keep their defaults.

    Args:
        kind: the strategy's dataclass of options.
        given: name -> value, or the value in words.
        strategy: its name, for errors.

    Raises:
        CrosstaskError: there is no such option, or a value is none that it takes.
    """
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            listed = f"it has {', '.join(known)}" if known else "it has none"
            raise CrosstaskError(f"strategy {strategy!r} has no option {name!r}; {listed}")
    return kind(**{name: _value(name, value, known[name]) for name, value in given.items()})


def given_options(words: tuple[str, ...]) -> dict[str, str]:
    """Options of a command line, such as `num_experts=8 routing=uniform`, by name.

    Raises:
        CrosstaskError: a word is not of the form name=value, or a name is given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise CrosstaskError(f"an option of a strategy is given as name=value, and was given as {word!r}")
        if name in found:
            raise CrosstaskError(f"option {name!r} is given twice, as {found[name]!r} and {value!r}")
        found[name] = value
    return found


def _value(name: str, value: Any, hint: Any) -> Any:
    """A value of the type that an option is declared with."""
    for choice in _choices(hint):
        found = _as(value, choice)
        if found is not None or (choice is type(None) and value in (None, "none")):
            return found
    raise CrosstaskError(f"option {name!r} is {_said(hint)}, and was given as {value!r}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _as(value: Any, hint: Any) -> Any:
    """The value as this type, or None if it is none of it."""
    if get_origin(hint) is Literal:
        return next((known for known in get_args(hint) if value == known or str(value) == str(known)), None)
    if hint is bool:
        words = {"true": True, "false": False}
        return value if isinstance(value, bool) else words.get(str(value).lower())
    if hint in (int, float):
        if isinstance(value, bool):
            return None
        try:
            number = hint(value)
        except (TypeError, ValueError):
            return None
        return number if not isinstance(value, float) or number == value else None
    return value if isinstance(value, str) and hint is str else None


def _said(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    said = [
        "one of " + ", ".join(map(str, get_args(one))) if get_origin(one) is Literal else words.get(one, str(one))
        for one in _choices(hint)
    ]
    return " or ".join(said)
