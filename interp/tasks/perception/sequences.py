"""Sequences whose entries are made when they are asked for, and parts of sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

from interp.tasks.perception.base import generator

Entry = TypeVar("Entry", covariant=True)


class Lazy(Sequence[Entry]):
    """A sequence of known length; entry i is `make(i)`, anew at each access.

    Args:
        n: its length.
        make: makes entry 0 to n - 1.
    """

    def __init__(self, n: int, make: Callable[[int], Entry]) -> None:
        self._numbers: Sequence[int] = range(n)
        self._make = make

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Lazy[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Lazy[Entry]:
        if isinstance(index, slice):
            return self.at(range(len(self))[index])
        return self._make(self._numbers[index])

    def at(self, numbers: Sequence[int]) -> Lazy[Entry]:
        """The entries of these numbers, in this order, as lazy as before."""
        part: Lazy[Entry] = Lazy(0, self._make)
        part._numbers = [self._numbers[number] for number in numbers]
        return part


def drawn(length: int, n: int, *of: object) -> list[int]:
    """Numbers of n out of so many entries, ascending, drawn at random from what the further arguments say."""
    return sorted(generator("part", *of).permutation(length)[:n].tolist())
