"""QAP and MRQAP against brute force, and their level and power in simulations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from interp.errors import CrosstaskError
from interp.relation import permutation
from interp.relation.permutation import centred_cells, node_orders, permuted, qap
from interp.relation.regression import covariate_terms, similarity_terms
from interp.transfer.variance import residual


def off(side: int) -> np.ndarray:
    return ~np.eye(side, dtype=bool)


def dummies(side: int) -> np.ndarray:
    """A column for the mean, and for every source and target but the first, over cells off the diagonal."""
    rows, columns = np.nonzero(off(side))
    return np.column_stack(
        [np.ones(len(rows)), *(rows == i for i in range(1, side)), *(columns == j for j in range(1, side))]
    ).astype(float)


def left_of(matrix: np.ndarray) -> np.ndarray:
    """What row and column effects leave, by ordinary least squares on dummies."""
    design, cells = dummies(len(matrix)), matrix[off(len(matrix))]
    return cells - design @ np.linalg.lstsq(design, cells, rcond=None)[0]


def every_order(side: int) -> list[tuple[int, ...]]:
    return list(permutations(range(side)))[1:]


def matrices(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, side, side))


def test_qap_equals_brute_force_over_all_permutations() -> None:
    side = 6
    s, y = matrices(2, side)
    y = y + 0.5 * s + 3 * matrices(1, side, seed=1)[0][:1]  # targets differ widely
    observed = np.corrcoef(left_of(s), left_of(y))[0, 1]
    drawn = [np.corrcoef(left_of(s), left_of(y[np.ix_(order, order)]))[0, 1] for order in every_order(side)]
    found = qap(s[None], y)
    assert found.exact
    assert found.permutations == 719
    assert found.r[0] == pytest.approx(observed)
    assert found.p[0] == pytest.approx((np.sum(np.abs(drawn) >= abs(observed) - 1e-12) + 1) / 720)
    assert found.null[0] == pytest.approx(np.quantile(np.abs(drawn), 0.95), abs=1e-6)


def test_row_and_column_effects_of_either_matrix_change_nothing() -> None:
    s, y = matrices(2, 7)
    plain = qap(s[None], y)
    rng = np.random.default_rng(1)
    effects = [10 * rng.normal(size=(7, 1)) + 100 * rng.normal(size=(1, 7)) + 5 for _ in range(2)]
    moved = qap((s + effects[0])[None], y + effects[1])
    assert moved.r == pytest.approx(plain.r)
    assert moved.p == pytest.approx(plain.p)


def test_diagonals_are_not_looked_at() -> None:
    s, y = matrices(2, 6)
    plain = qap(s[None], y)
    np.fill_diagonal(s, np.nan)
    np.fill_diagonal(y, 1e6)
    assert qap(s[None], y).p == pytest.approx(plain.p)
    assert qap(s[None], y).r == pytest.approx(plain.r)


def test_permuted_cells_are_those_of_the_permuted_matrix() -> None:
    m = matrices(3, 9)
    orders = node_orders(9, count=5, seed=3)
    found = permuted(m, orders)
    for b, order in enumerate(orders):
        for c in range(3):
            assert np.array_equal(found[b, c], m[c][np.ix_(order, order)][off(9)])


@pytest.mark.parametrize("side", [5, 8])
def test_all_permutations_are_done_below_nine_tasks(side: int) -> None:
    orders = node_orders(side, count=10)
    assert len({tuple(order) for order in orders.tolist()}) == len(orders) == {5: 119, 8: 40319}[side]
    assert tuple(range(side)) not in {tuple(order) for order in orders.tolist()}


def test_random_permutations_from_nine_tasks_on_are_those_of_the_seed() -> None:
    one, two, other = (node_orders(9, count=50, seed=seed) for seed in (0, 0, 1))
    assert one.shape == (50, 9)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert (np.sort(one, axis=1) == np.arange(9)).all()


def test_ties_of_a_matrix_with_few_values_count_whatever_the_rounding() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1])
    s = (groups[:, None] == groups).astype(float)
    y = 0.1 * s  # every permutation that keeps the two groups gives r = 1 as well
    assert qap(s[None], y).p[0] == pytest.approx(72 / 720)


def test_max_t_is_the_largest_over_matrices_within_the_same_permutation() -> None:
    side = 6
    s, y = matrices(4, side), matrices(1, side, seed=1)[0]
    groups = ["a", "a", "b", "b"]
    found = qap(s, y, groups=groups)
    cells = np.array([left_of(matrix) for matrix in s])
    drawn = []
    for order in every_order(side):
        turned = left_of(y[np.ix_(order, order)])
        drawn.append([abs(np.corrcoef(row, turned)[0, 1]) for row in cells])
    null = np.array(drawn)
    for n in range(4):
        reach = abs(found.r[n]) - 1e-12
        mine = null[:, [k for k in range(4) if groups[k] == groups[n]]]
        assert found.p[n] == pytest.approx((np.sum(null[:, n] >= reach) + 1) / 720)
        assert found.p_group[n] == pytest.approx((np.sum(mine.max(1) >= reach) + 1) / 720)
        assert found.p_largest[n] == pytest.approx((np.sum(null.max(1) >= reach) + 1) / 720)
        assert found.p[n] <= found.p_group[n] <= found.p_largest[n]


def test_copies_of_a_matrix_cost_nothing_in_max_t() -> None:
    s, y = matrices(2, 10)
    found = qap(np.repeat(s[None], 50, axis=0), y, count=199)
    assert found.p_largest == pytest.approx(found.p)


def test_mrqap_equals_brute_force_double_semi_partialling() -> None:
    """Dekker et al. 2007: the residual of x on everything else is permuted, and t of the whole regression compared."""
    side = 6
    x, z1, z2 = matrices(3, side)
    y = matrices(1, side, seed=1)[0] + 0.6 * x + 0.5 * z1
    x = x + 0.7 * z1

    def t_of(first: np.ndarray) -> float:
        design = np.column_stack([first, z1[off(side)], z2[off(side)], dummies(side)])
        cells = y[off(side)]
        coefficients = np.linalg.lstsq(design, cells, rcond=None)[0]
        errors = cells - design @ coefficients
        variance = errors @ errors / (len(cells) - design.shape[1])
        return coefficients[0] / np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])

    others = np.column_stack([z1[off(side)], z2[off(side)], dummies(side)])
    cells = x[off(side)]
    left = np.zeros((side, side))
    left[off(side)] = cells - others @ np.linalg.lstsq(others, cells, rcond=None)[0]
    observed = t_of(cells)
    drawn = [t_of(left[np.ix_(order, order)][off(side)]) for order in every_order(side)]
    table, tested = similarity_terms(x[None], y, np.stack([z1, z2]))
    row = table.iloc[0]
    assert row["t"] == pytest.approx(observed)
    assert row["degrees"] == 30 - 11 - 3
    assert row["p"] == tested.p[0] == pytest.approx((np.sum(np.abs(drawn) >= abs(observed) - 1e-9) + 1) / 720)
    scaled = [part / np.linalg.norm(part) for part in map(left_of, (x, z1, z2, y))]
    assert row["coefficient"] == pytest.approx(np.linalg.lstsq(np.array(scaled[:3]).T, scaled[3], rcond=None)[0][0])


def test_terms_of_covariates_are_those_of_one_regression() -> None:
    s, z1, z2, y = matrices(4, 7)
    alone = covariate_terms(np.stack([z1, z2]), y, names=["z1", "z2"])
    beside = covariate_terms(np.stack([z1, z2]), y, names=["z1", "z2"], beside=s)
    mine, _ = similarity_terms(s[None], y, np.stack([z1, z2]))
    parts = np.array([left_of(m) / np.linalg.norm(left_of(m)) for m in (z1, z2, s)])
    target = left_of(y) / np.linalg.norm(left_of(y))
    two, three = (np.linalg.lstsq(parts[:n].T, target, rcond=None)[0] for n in (2, 3))
    assert alone["coefficient"].tolist() == pytest.approx(two.tolist())
    assert [*beside["coefficient"], mine["coefficient"][0]] == pytest.approx(three.tolist())
    assert set(alone["share"].round(9)) == {round(float((parts[:2].T @ two) @ target), 9)}
    assert mine["added"][0] == pytest.approx(float((parts.T @ three) @ target) - alone["share"][0])


def test_a_similarity_that_is_its_covariates_has_no_term() -> None:
    z1, z2, y, s = matrices(4, 8)
    table, tested = similarity_terms(np.stack([z1 + 2 * z2, s]), y, np.stack([z1, z2]))
    assert np.isnan(tested.r[0])
    assert np.isnan(table["p"][0])
    assert np.isnan(table["t"][0])
    alone, _ = similarity_terms(s[None], y, np.stack([z1, z2]))
    assert table["p_maxt"][1] == pytest.approx(alone["p"][0])  # what is not there is no competition


def test_covariates_that_explain_each_other_count_once() -> None:
    z, y, s = matrices(3, 8)
    once, _ = similarity_terms(s[None], y, z[None])
    thrice, _ = similarity_terms(s[None], y, np.stack([z, -2 * z, z + 3]))
    assert thrice.iloc[0].to_dict() == pytest.approx(once.iloc[0].to_dict())


def test_a_relation_through_a_covariate_alone_is_gone_beside_it() -> None:
    z, noise, other = matrices(3, 13)
    s, y = z + 0.3 * noise, z + 0.3 * other
    assert qap(s[None], y, count=999).p[0] == 0.001
    assert qap(s[None], y, covariates=z[None], count=999).p[0] > 0.05


def test_nothing_is_said_of_what_has_row_and_column_effects_alone() -> None:
    y, s = matrices(2, 6)
    additive = np.arange(6)[:, None] + np.arange(6) ** 2.0
    found = qap(np.stack([additive, s]), y)
    assert np.isnan(found.r[0])
    assert np.isnan(found.p[0])
    assert found.p_largest[1] == pytest.approx(found.p[1])
    with pytest.raises(CrosstaskError, match="nothing left to explain"):
        qap(s[None], additive)
    with pytest.raises(CrosstaskError, match="covariates explain the whole"):
        qap(s[None], y, covariates=y[None])


def test_impossible_tests_are_refused() -> None:
    with pytest.raises(CrosstaskError, match="0 permutations were asked for"):
        qap(matrices(1, 9), matrices(1, 9)[0], count=0)
    holed = matrices(1, 6)[0]
    holed[0, 1] = np.nan
    with pytest.raises(CrosstaskError, match="undefined cells"):
        qap(matrices(1, 6), holed)


def test_chunks_of_permutations_give_what_all_at_once_do(monkeypatch: pytest.MonkeyPatch) -> None:
    s, z, y = matrices(5, 10), matrices(2, 10, 1), matrices(1, 10, 2)[0]
    whole = qap(s, y, covariates=z, count=300)
    monkeypatch.setattr(permutation, "_CHUNK", 10_000)
    parts = qap(s, y, covariates=z, count=300)
    for name in ("r", "p", "p_largest", "null"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))


SIMULATED = [
    (13, 0.50, 0.10, 0.0, 0.13, 0.03, 0.02),
    (13, 0.90, 0.02, 0.0, 0.22, 0.05, 0.03),
    (13, 0.90, 0.02, 0.3, 0.30, 0.11, 0.97),
    (13, 0.90, 0.02, 0.5, 0.37, 0.17, 1.00),
    (8, 0.90, 0.02, 0.0, 0.15, 0.07, 0.05),
    (8, 0.90, 0.02, 0.3, 0.14, 0.04, 0.62),
    (8, 0.90, 0.02, 0.5, 0.22, 0.17, 0.98),
]
"""Tasks, shares of targets and sources, correlation of what they leave; and how often cell-wise Pearson, QAP of raw and
QAP of double-centred matrices are significant: of 300 simulations with 299 permutations."""


@pytest.mark.parametrize(("side", "targets", "sources", "signal", "naive", "raw", "centred"), SIMULATED)
def test_level_and_power_are_those_of_the_published_simulation(
    side: int, targets: float, sources: float, signal: float, naive: float, raw: float, centred: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its similarities are symmetric, and a third of their variance is of tasks that are like all others."""
    monkeypatch.setattr(permutation, "EXACT_BELOW", 5)
    rng = np.random.default_rng(side + int(100 * targets) + int(10 * signal))
    repeats, mask = 300, off(side)
    significant = np.zeros(3)
    for repeat in range(repeats):
        hubs, drawn = rng.normal(size=side), rng.normal(size=(side, side))
        s = np.sqrt(0.35 / 2) * (hubs[:, None] + hubs) + np.sqrt(0.65 / 2) * (drawn + drawn.T)
        left = residual(s)
        left = signal * left / left[mask].std() + np.sqrt(1 - signal**2) * rng.normal(size=(side, side))
        main = np.sqrt(targets) * rng.normal(size=side) + np.sqrt(sources) * rng.normal(size=(side, 1))
        y = main + np.sqrt(1 - targets - sources) * left
        p = [stats.pearsonr(s[mask], y[mask]).pvalue]
        p += [qap(s[None], y, centre=centre, count=299, seed=repeat).p[0] for centre in (False, True)]
        significant += np.array(p) <= 0.05
    for found, expected in zip(significant / repeats, (naive, raw, centred), strict=True):
        error = np.sqrt(2 * max(expected * (1 - expected), 0.01) / repeats)  # both have 300 repeats
        assert abs(found - expected) <= 3 * error + 0.01


def test_cells_of_a_centred_matrix_are_unit_vectors_without_main_effects() -> None:
    cells = centred_cells(matrices(3, 7))
    assert np.linalg.norm(cells, axis=1) == pytest.approx(np.ones(3))
    assert cells @ dummies(7) == pytest.approx(np.zeros((3, 13)), abs=1e-12)
