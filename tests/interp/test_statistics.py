"""Intervals and paired comparisons, against closed formulas and enumeration."""

import itertools
import math

import numpy as np
import pytest

from interp.errors import CrosstaskError
from interp.statistics import (
    bootstrap_crossed,
    bootstrap_mean,
    bootstrap_means,
    bootstrap_two_way,
    compare_crossed,
    compare_paired,
    group_means,
    holm,
    percentiles,
    wilson,
)


def enumerated_sign_flip(differences):
    """Two-sided p-value over all signs, as SciPy defines it: twice the smaller tail, at most 1."""
    observed = np.mean(differences)
    means = [np.mean(np.multiply(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))]
    tails = np.mean(np.array(means) >= observed - 1e-12), np.mean(np.array(means) <= observed + 1e-12)
    return min(1.0, 2 * min(tails))


@pytest.mark.parametrize(("k", "n"), [(0, 20), (7, 20), (20, 20), (1, 1)])
def test_wilson_is_the_closed_formula(k, n):
    z = 1.959963984540054
    rate, centre = k / n, (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * rate * (1 - rate) + z * z / 4)
    assert wilson(k, n) == pytest.approx((rate, max(0, centre - half), min(1, centre + half)), abs=1e-9)


def test_wilson_widens_with_confidence():
    assert wilson(5, 10, confidence=0.99).low < wilson(5, 10).low


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(CrosstaskError, match=f"{k} right answers out of {n}"):
        wilson(k, n)


def test_mcnemar_counts_only_what_the_methods_disagree_on():
    a = [True] * 8 + [False] * 1 + [True] * 50
    b = [False] * 8 + [True] * 1 + [True] * 50
    found = compare_paired(a, b)
    assert (found.n, found.only_a, found.only_b) == (59, 8, 1)
    assert found.difference.value == pytest.approx(7 / 59)
    assert found.difference.low < 7 / 59 < found.difference.high
    assert found.p_value == pytest.approx(2 * (1 + 9) / 2**9)
    assert compare_paired(b, a).p_value == found.p_value


def test_equal_methods_are_not_told_apart():
    same = [True, False, True]
    for groups in (None, ["x", "x", "y"]):
        found = compare_paired(same, same, groups=groups)
        assert (found.p_value, found.difference) == (1.0, (0.0, 0.0, 0.0))


def test_repeated_answers_to_a_query_do_not_count_as_more_evidence():
    a, b = [True, True, True, False, True, True], [False, False, True, False, False, False]
    once = compare_paired(a, b, groups=range(6))
    repeated = compare_paired(a * 3, b * 3, groups=list(range(6)) * 3)
    assert repeated.n == once.n == 6
    assert repeated.p_value == once.p_value == pytest.approx(enumerated_sign_flip([1, 1, 0, 0, 1, 1]))
    assert compare_paired(a * 3, b * 3).p_value < 0.01 < once.p_value  # what ignoring the repetition would claim


def test_sign_flip_uses_each_querys_mean_difference():
    a, b = [True, True, False, True, True, True], [False, True, True, False, False, False]
    found = compare_paired(a, b, groups=["x", "x", "y", "y", "z", "z"])
    assert found.p_value == pytest.approx(enumerated_sign_flip([0.5, 0.0, 1.0]))


def test_group_means_weigh_each_group_once():
    assert group_means(np.array([1.0, 0.0, 0.0, 1.0]), ["b", "b", "b", "a"]).tolist() == [pytest.approx(1 / 3), 1.0]


def test_bootstrap_interval_is_the_known_one_for_a_large_sample():
    values = np.arange(400) % 2
    found = bootstrap_mean(values)
    assert found.value == 0.5
    assert (found.low, found.high) == (
        pytest.approx(0.5 - 1.96 * 0.025, abs=0.01),
        pytest.approx(0.5 + 1.96 * 0.025, abs=0.01),
    )


def test_bootstrap_resamples_whole_queries():
    values = [0.0, 1.0] * 10
    alone = bootstrap_mean(np.repeat(values, 20))
    grouped = bootstrap_mean(np.repeat(values, 20), groups=np.repeat(np.arange(20), 20).tolist())
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)
    assert grouped == bootstrap_mean(values)


def test_resampled_curves_have_the_interval_of_each_of_their_points():
    rng = np.random.default_rng(0)
    curves, queries = rng.random((60, 4, 2)), [number // 3 for number in range(60)]
    resampled = bootstrap_means(curves, groups=queries, resamples=4000, seed=1)
    assert resampled.shape == (4000, 4, 2)
    low, high = percentiles(resampled)
    for layer, curve in itertools.product(range(4), range(2)):
        alone = bootstrap_mean(curves[:, layer, curve], groups=queries)
        assert (low[layer, curve], high[layer, curve]) == pytest.approx((alone.low, alone.high), abs=0.01)


def test_one_resample_serves_the_whole_curve():
    values = np.random.default_rng(0).random(30)
    resampled = bootstrap_means(np.stack([values, 1 - values], axis=1))
    assert np.ptp(resampled[:, 0]) > 0.1
    assert resampled.sum(axis=1) == pytest.approx(1.0)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(CrosstaskError, match="same queries on both sides; got 1 and 2"):
        compare_paired([True], [True, False])
    with pytest.raises(CrosstaskError, match="no answers to take a mean of"):
        compare_paired([], [])
    with pytest.raises(CrosstaskError, match="got 2 answers and 1 groups"):
        bootstrap_mean([0.0, 1.0], groups=["x"])


def crossed(cells):
    """Task -> [items, seeds], as the flat arguments; items are called alike in every task."""
    return {
        "values": [v for cell in cells.values() for row in cell for v in row],
        "tasks": [task for task, cell in cells.items() for row in cell for _ in row],
        "items": [i for cell in cells.values() for i, row in enumerate(cell) for _ in row],
        "seeds": [s for cell in cells.values() for row in cell for s in range(len(row))],
    }


def test_crossed_bootstrap_weighs_tasks_alike_and_equals_enumeration():
    cells = {"a": np.array([[1, 0], [1, 1], [0, 0]]), "b": np.array([[1.0, 1.0]])}
    found = bootstrap_crossed(**crossed(cells))
    assert found.value == pytest.approx((3 / 6 + 1) / 2)
    resamples = [
        (cells["a"][np.ix_(rows, columns)].mean() + 1) / 2
        for rows in itertools.product(range(3), repeat=3)
        for columns in itertools.product(range(2), repeat=2)
    ]
    assert found[1:] == pytest.approx(np.quantile(resamples, [0.025, 0.975]), abs=1e-9)


def test_tasks_that_share_their_items_are_resampled_together():
    rng = np.random.default_rng(0)
    cell = rng.random((12, 1)) < 0.5
    together, opposite = (bootstrap_crossed(**crossed({"a": cell, "b": other})) for other in (cell, ~cell))
    alone = bootstrap_crossed(**crossed({"a": cell}))
    assert together[1:] == pytest.approx(alone[1:])  # the second task says nothing new
    assert opposite.low == opposite.high == 0.5


def test_seeds_that_disagree_widen_the_interval():
    items = np.random.default_rng(0).random(20) < 0.5
    agree = np.stack([items] * 3, axis=1)
    disagree = np.stack([np.ones(20), items, np.zeros(20)], axis=1)
    narrow, wide = (bootstrap_crossed(**crossed({"a": cell})) for cell in (agree, disagree))
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
    assert narrow[1:] == pytest.approx(bootstrap_crossed(**crossed({"a": agree[:, :1]}))[1:], abs=0.03)


def table(values):
    """Cells that are no NaN, as the flat arguments."""
    cells = [(r, c) for r, row in enumerate(values) for c, value in enumerate(row) if not np.isnan(value)]
    return {
        "values": [values[r, c] for r, c in cells],
        "rows": [r for r, _ in cells],
        "columns": [c for _, c in cells],
    }


def test_two_way_bootstrap_of_a_table_without_its_diagonal_equals_enumeration():
    values = np.random.default_rng(0).random((4, 4))
    np.fill_diagonal(values, np.nan)
    found = bootstrap_two_way(**table(values))
    assert found.value == pytest.approx(np.nanmean(values))
    drawn = itertools.product(itertools.product(range(4), repeat=4), repeat=2)
    resamples = [values[np.ix_(rows, columns)] for rows, columns in drawn]
    means = [one[~np.isnan(one)].mean() for one in resamples if not np.isnan(one).all()]
    assert found[1:] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


@pytest.mark.parametrize("turn", [False, True])
def test_two_way_bootstrap_is_as_wide_as_its_fewest_independent_parts_ask(turn):
    rng = np.random.default_rng(0)
    effects = rng.normal(size=6)
    values = np.repeat(effects[:, None], 40, axis=1) + 1e-3 * rng.normal(size=(6, 40))
    found = bootstrap_two_way(**table(values.T if turn else values))
    assert found[1:] == pytest.approx(bootstrap_mean(effects)[1:], abs=0.05)
    cells_alone = bootstrap_mean(values.ravel())
    assert found.high - found.low > 3 * (cells_alone.high - cells_alone.low)


def test_two_way_bootstrap_averages_a_cell_first_and_refuses_what_has_no_cell():
    twice = {"values": [0.0, 1.0, 1.0], "rows": ["a", "a", "b"], "columns": ["x", "x", "y"]}
    assert bootstrap_two_way(**twice).value == pytest.approx(0.75)
    with pytest.raises(CrosstaskError, match="got 2 rows, 3 columns"):
        bootstrap_two_way(**twice | {"rows": ["a", "a"]})
    with pytest.raises(CrosstaskError, match="3 answers and 2 groups"):
        bootstrap_two_way(**twice | {"rows": ["a", "a"], "columns": ["x", "x"]})
    with pytest.raises(CrosstaskError, match="no answers"):
        bootstrap_two_way([], rows=[], columns=[])


@pytest.mark.parametrize(("drop", "said"), [(True, "needs an answer under every seed"), (False, "has two answers")])
def test_crossed_bootstrap_refuses_what_is_not_crossed(drop, said):
    given = crossed({"a": np.ones((2, 2))})
    given = {name: value[:-1] if drop else [*value, value[-1]] for name, value in given.items()}
    with pytest.raises(CrosstaskError, match=said):
        bootstrap_crossed(**given)


def test_crossed_comparison_flips_whole_items():
    a, b = np.array([[1, 1], [1, 0], [1, 1], [0, 0]]), np.array([[0, 0], [0, 0], [0, 1], [0, 0]])
    given = crossed({"x": a, "y": a})
    left, right = given.pop("values"), crossed({"x": b, "y": b})["values"]
    found = compare_crossed(left, right, **given)
    assert (found.n, found.only_a, found.only_b) == (4, 8, 0)
    assert found.difference.value == pytest.approx(0.5)
    assert found.p_value == pytest.approx(enumerated_sign_flip((a - b).mean(1)))


def test_holm_is_the_step_down_rule():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_bounds_that_rounding_left_are_zero_and_small_values_stay():
    noisy = [0.1, 0.2, -0.3] * 2  # whose mean comes out as 9e-18
    found = bootstrap_crossed(noisy, tasks=["t"] * 6, items=list("aabbcc"), seeds=[0, 1] * 3)
    assert found.value == 0.0
    small = bootstrap_mean([1e-13, 3e-13, 2e-13])
    assert small.value == pytest.approx(2e-13)
    assert small.low > 0
