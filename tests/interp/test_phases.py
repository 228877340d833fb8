"""Curves, their controls, and the layer at which one phase gives way to the next."""

from __future__ import annotations

import numpy as np
import pytest

from interp.protocol.phases import CURVES, probabilities, shares, sides, switch_layer

RISING = np.array([0.0, 0.1, 0.2, 0.6, 0.7, 0.9])


def test_switch_of_curves_that_cross_once_is_where_the_second_is_first_above() -> None:
    assert switch_layer(1 - RISING, RISING) == 3
    assert switch_layer(1 - RISING[:3], RISING[:3]) == 3  # never above


def test_no_phase_ends_where_none_began() -> None:
    assert switch_layer(1 - RISING[3:], RISING[3:]) == 3  # above from the start
    nothing = np.array([2e-8, 1e-8, 0.0, 0.0, 0.01, 0.02])
    assert switch_layer(nothing, RISING) == 6
    assert switch_layer(np.array([0.0, 0.2, 0.0, 0.0, 0.01, 0.02]), RISING) == 2


def test_a_small_early_crossing_is_no_switch() -> None:
    before = np.array([0.50, 0.49, 0.9, 0.9, 0.1, 0.1])
    assert switch_layer(before, 1 - before) == 4


def test_the_input_ends_where_task_and_answer_together_overtake_it() -> None:
    said_by_both = np.array([[0.9, 0.1, 0.0], [0.4, 0.35, 0.25], [0.3, 0.3, 0.4], [0.3, 0.0, 0.7]])
    curves = np.concatenate([said_by_both, np.ones((4, 2))], axis=1)  # controls count for nothing
    assert switch_layer(*sides(curves, "input ends")) == 1
    assert switch_layer(*sides(curves, "answer over task")) == 2


def test_switches_of_many_curves_are_found_at_once() -> None:
    before = np.stack([1 - RISING, np.full(6, 0.6), np.full(6, 0.4)])
    assert switch_layer(before, 1 - before).tolist() == [3, 6, 6]


def test_shares_are_among_three_sets_and_controls_take_one_place_each() -> None:
    chances = np.array([[[0.2, 0.1, 0.1, 0.3, 0.4, 0.6]]])  # input, task, answer, other answer, two other tasks
    found = dict(zip(CURVES, shares(np.log(chances))[0, 0], strict=True))
    assert (found["input"], found["task"], found["answer"]) == pytest.approx((0.5, 0.25, 0.25))
    assert found["other_answer"] == pytest.approx(0.3 / 0.6)
    assert found["other_task"] == pytest.approx((0.4 / 0.7 + 0.6 / 0.9) / 2)
    absolute = dict(zip(CURVES, probabilities(np.log(chances))[0, 0], strict=True))
    assert absolute == pytest.approx({"input": 0.2, "task": 0.1, "answer": 0.1, "other_task": 0.5, "other_answer": 0.3})


def test_without_another_task_its_curve_is_missing_and_an_empty_set_has_no_share() -> None:
    logs = np.array([[[0.0, -np.inf, -1.0, -np.inf]]])
    found = dict(zip(CURVES, shares(logs)[0, 0], strict=True))
    assert np.isnan(found["other_task"])
    assert (found["task"], found["other_answer"]) == (0.0, 0.0)
    assert np.isnan(probabilities(logs)[0, 0, CURVES.index("other_task")])
