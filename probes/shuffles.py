"""Labels permuted over contexts: the null hypothesis of every baseline in this package.

Several states may be of one context (`types`): as text and as image, or with its demonstrations in another order. They
carry the same label, so they are given the same new one; permuting them one by one would count them as independent.

Several contexts may show the same items (`groups`): one for each task of a family. They resemble each other whatever
the task, and each label is shown once. A permutation that gave one of two such contexts a label and left the other
would make labels of unlike items, and a probe that learns from the other groups would find its label too seldom or too
often. So a group keeps a whole set of labels: groups of one size trade their sets, and within a group the contexts
trade labels.

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
    labels: Labels,
    *,
    types: Labels,
    groups: Labels | None = None,
    strata: Labels | None = None,
    rng: np.random.Generator,
) -> Shaped[np.ndarray, " N"]:
    """The labels, permuted among types.

    Args:
        labels: of N states.
        types: states of one type have one label, before and after.
        groups: the types of a group keep a set of labels that some group of their stratum with as many types had. By
            default every type is a group of its own. A group that is alone in its size trades within itself only.
        strata: types trade labels with types of their own stratum only; by default with all.
        rng: source of the permutation.

    Raises:
        CrosstaskError: if a type has two labels or is in two groups or strata, or the lengths differ.
    """
    found, kinds = np.asarray(labels), codes(types)
    check_lengths(len(found), types=types, groups=groups, strata=strata)
    houses = kinds if groups is None else codes(groups)
    layers = np.zeros(len(found), dtype=int) if strata is None else codes(strata)
    first = np.unique(kinds, return_index=True)[1]
    for name, values in (("label", found), ("group", houses), ("stratum", layers)):
        mixed = np.flatnonzero(values != values[first][kinds])
        if len(mixed):
            raise CrosstaskError(
                f"type {str(np.asarray(types)[mixed[0]])!r} has more than one {name}; expected one a type"
            )
    homes: dict[tuple[int, int], list[int]] = {}  # (stratum, group) -> its types
    for kind, (layer, house) in enumerate(zip(layers[first].tolist(), houses[first].tolist(), strict=True)):
        homes.setdefault((layer, house), []).append(kind)
    alike: dict[tuple[int, int], list[list[int]]] = {}  # (stratum, size) -> groups that may trade
    for (layer, _), members in homes.items():
        alike.setdefault((layer, len(members)), []).append(members)
    new, old = found[first].copy(), found[first]
    for traders in alike.values():
        for members, other in zip(traders, rng.permutation(len(traders)), strict=True):
            new[members] = old[rng.permutation(traders[other])]
    return new[kinds]


def p_value(observed: float, null: Shaped[np.ndarray, " R"]) -> float:
    """One-sided: the share of values at least as great as the observed one, itself counted among them."""
    return float((1 + np.sum(null >= observed - 1e-12)) / (1 + len(null)))
