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


def test_type_with_two_labels_is_refused() -> None:
    with pytest.raises(CrosstaskError, match="type '0' has more than one label"):
        shuffled(["a", "b"], types=[0, 0], rng=np.random.default_rng(0))
    with pytest.raises(CrosstaskError, match="2 states, but 1 types"):
        shuffled(["a", "b"], types=[0], rng=np.random.default_rng(0))


def test_p_value_counts_the_observed_value_itself() -> None:
    assert p_value(1.0, np.zeros(99)) == pytest.approx(0.01)
    assert p_value(0.0, np.zeros(99)) == 1.0
