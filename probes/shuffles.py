"""Labels permuted over contexts: the null hypothesis of every baseline in this package.

Several states may be of one context (`types`): as text and as image, or with its demonstrations in another order. They
carry the same label, so they are given the same new one; permuting them one by one would count them as independent.
Within `strata` (families of tasks, for instance) the labels stay among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Shaped

from interp.errors import CrosstaskError

Labels: TypeAlias = Sequence[Any] | Shaped[np.ndarray, " N"]


def codes(values: Labels) -> Shaped[np.ndarray, " N"]:
    """Values as whole numbers from 0, in sorted order."""
    return np.unique(np.asarray(values), return_inverse=True)[1]


def check_lengths(n: int, **given: Labels | None) -> None:
    """Raises CrosstaskError unless there is one of each for each of n states."""
    for name, values in given.items():
        if values is not None and len(values) != n:
            raise CrosstaskError(f"{n} states, but {len(values)} {name}; expected one for each state")


def shuffled(
    labels: Labels, *, types: Labels, strata: Labels | None = None, rng: np.random.Generator
) -> Shaped[np.ndarray, " N"]:
    """The labels, permuted among types.

    Args:
        labels: of N states.
        types: states of one type have one label, before and after.
        strata: types trade labels with types of their own stratum only; by default with all.
        rng: source of the permutation.

    Raises:
        CrosstaskError: if a type has two labels or is in two strata, or the lengths differ.
    """
    found, kinds = np.asarray(labels), codes(types)
    check_lengths(len(found), types=types, strata=strata)
    layers = np.zeros(len(found), dtype=int) if strata is None else codes(strata)
    first = np.unique(kinds, return_index=True)[1]
    for name, values in (("label", found), ("stratum", layers)):
        mixed = np.flatnonzero(values != values[first][kinds])
        if len(mixed):
            raise CrosstaskError(
                f"type {str(np.asarray(types)[mixed[0]])!r} has more than one {name}; expected one a type"
            )
    new = found[first]
    for stratum in np.unique(layers):
        members = np.flatnonzero(layers[first] == stratum)
        new[members] = new[rng.permutation(members)]
    return new[kinds]


def p_value(observed: float, null: Shaped[np.ndarray, " R"]) -> float:
    """One-sided: the share of values at least as great as the observed one, itself counted among them."""
    return float((1 + np.sum(null >= observed - 1e-12)) / (1 + len(null)))
