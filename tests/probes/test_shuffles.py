"""Permuted labels keep what they must keep."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from interp.errors import CrosstaskError
from probes.shuffles import p_value, shuffled

LABELS = ["a", "a", "b", "b", "c", "c", "d", "d"]
TYPES = [0, 0, 1, 1, 2, 2, 3, 3]


def test_states_of_one_type_keep_a_common_label_and_every_label_stays_as_frequent() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        new = shuffled(LABELS, types=TYPES, rng=rng)
        assert (new[::2] == new[1::2]).all()
        assert Counter(new.tolist()) == Counter(LABELS)
        seen.add(tuple(new))
    assert len(seen) > 10


def test_labels_stay_within_their_stratum() -> None:
    rng = np.random.default_rng(0)
    strata = ["x", "x", "x", "x", "y", "y", "y", "y"]
    found = [shuffled(LABELS, types=TYPES, strata=strata, rng=rng) for _ in range(50)]
    assert all(set(new[:4]) == {"a", "b"} and set(new[4:]) == {"c", "d"} for new in found)
    assert len({tuple(new) for new in found}) == 4


def test_groups_keep_a_whole_set_of_labels() -> None:
    """Two families of two tasks over two blocks each: a block shows both tasks of one family, whichever it is."""
    rng = np.random.default_rng(0)
    labels, types, groups = ["a", "b", "a", "b", "c", "d", "c", "d"], range(8), [0, 0, 1, 1, 2, 2, 3, 3]
    found = [shuffled(labels, types=types, groups=groups, rng=rng) for _ in range(2000)]
    sets = [[frozenset(new[at : at + 2].tolist()) for at in range(0, 8, 2)] for new in found]
    assert {part for parts in sets for part in parts} == {frozenset("ab"), frozenset("cd")}
    assert all(Counter(parts) == {frozenset("ab"): 2, frozenset("cd"): 2} for parts in sets)
    assert len({tuple(new) for new in found}) == 6 * 2**4  # which blocks are of which family, and each one's order
    free = [shuffled(labels, types=types, rng=rng) for _ in range(50)]
    assert any(new[0] == new[1] for new in free)


def test_group_of_another_size_trades_within_itself_and_strata_trade_apart() -> None:
    rng = np.random.default_rng(0)
    labels, groups = ["a", "b", "c", "d", "e"], [0, 0, 1, 2, 3]
    found = [shuffled(labels, types=range(5), groups=groups, rng=rng) for _ in range(100)]
    assert {tuple(new[:2]) for new in found} == {("a", "b"), ("b", "a")}
    assert len({tuple(new[2:]) for new in found}) == 6
    strata = ["x", "x", "x", "y", "y"]
    apart = [shuffled(labels, types=range(5), groups=groups, strata=strata, rng=rng) for _ in range(100)]
    assert {new[2] for new in apart} == {"c"}
    assert {tuple(new[3:]) for new in apart} == {("d", "e"), ("e", "d")}


def test_type_with_two_labels_is_refused() -> None:
    with pytest.raises(CrosstaskError, match="type '0' has more than one label"):
        shuffled(["a", "b"], types=[0, 0], rng=np.random.default_rng(0))
    with pytest.raises(CrosstaskError, match="type '0' has more than one group"):
        shuffled(["a", "a"], types=[0, 0], groups=[0, 1], rng=np.random.default_rng(0))
    with pytest.raises(CrosstaskError, match="2 states, but 1 types"):
        shuffled(["a", "b"], types=[0], rng=np.random.default_rng(0))


def test_p_value_counts_the_observed_value_itself() -> None:
    assert p_value(1.0, np.zeros(99)) == pytest.approx(0.01)
    assert p_value(0.0, np.zeros(99)) == 1.0
