"""Rankings of sources, and LogME, against brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from interp.errors import CrosstaskError
from interp.relation.logme import logme, logme_table
from interp.relation.prediction import (
    OTHER_RUNS,
    SIMILARITY,
    SOURCE_MEAN,
    TARGET_MEAN,
    Predictor,
    baselines,
    by_target,
    prediction_tables,
    ridge,
    source_means,
)
from interp.relation.ranking import ndcg, ranking_scores, regret, spearman

TRUTH = np.array([0.3, -0.1, 0.2, 0.5, 0.0])


def test_a_perfect_ranking_has_no_regret() -> None:
    assert ranking_scores(TRUTH, 10 * TRUTH - 3).tolist() == pytest.approx([1, 1, 0])
    assert spearman(TRUTH, -TRUTH) == pytest.approx(-1)
    assert regret(TRUTH, -TRUTH) == pytest.approx(0.5 - 0.2)


def test_ndcg_discounts_gains_by_place() -> None:
    scores = np.array([5.0, 4, 3, 2, 1])
    gains = TRUTH + 0.1
    weights = 1 / np.log2(np.arange(2, 7))
    assert ndcg(TRUTH, scores) == pytest.approx((gains @ weights) / (np.sort(gains)[::-1] @ weights))


@pytest.mark.parametrize(
    "scores", [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [2, 1, 1, 1, 0], [1, 1, 1, 1, 0], [3, 2, 1, 1, 1]]
)
def test_ties_count_as_the_mean_over_ways_to_break_them(scores: list[int]) -> None:
    given = np.array(scores, float)
    broken = [given + 0.01 * np.array(order) for order in permutations(range(5))]
    assert regret(TRUTH, given) == pytest.approx(np.mean([regret(TRUTH, one) for one in broken]))
    assert ndcg(TRUTH, given) == pytest.approx(np.mean([ndcg(TRUTH, one) for one in broken]))


def test_a_truth_without_differences_has_no_ranking() -> None:
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))
    assert np.isnan(ndcg(np.ones(4), np.arange(4.0)))
    assert spearman(np.arange(4.0), np.ones(4)) == 0


def test_source_means_do_not_see_the_target_nor_the_held_out_task() -> None:
    y = np.random.default_rng(0).normal(size=(7, 7))
    plain = source_means(y, held_out=2)
    changed = y.copy()
    changed[:, 2] += np.random.default_rng(1).normal(size=7)
    changed[2] = 99
    assert source_means(changed, held_out=2) == pytest.approx(plain)
    for i, j in ((0, 2), (3, 5)):
        kept = [t for t in range(7) if t not in (i, j, 2)]
        means = {t: np.mean([y[s, t] for s in range(7) if s not in (t, 2)]) for t in kept}
        assert plain[i, j] == pytest.approx(np.mean([y[i, t] - means[t] for t in kept]))


def test_a_ridge_does_not_see_the_task_that_it_predicts_for() -> None:
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(8, 8)) for name in "ab"}
    y = rng.normal(size=(8, 8))
    plain = ridge(features, y, name="x", with_source_mean=True).scores
    changed = y.copy()
    changed[:, 3], changed[3] = rng.normal(size=8), rng.normal(size=8)
    again = ridge(features, changed, name="x", with_source_mean=True).scores
    assert again[:, 3] == pytest.approx(plain[:, 3])
    assert again[:, 4] != pytest.approx(plain[:, 4])


def test_a_ridge_finds_what_combines_and_beats_each_part() -> None:
    rng = np.random.default_rng(0)
    a, b, noise = rng.normal(size=(3, 12, 12))
    y = a - b + 0.2 * noise + 5 * rng.normal(size=12)
    combined = by_target(y, ridge({"a": a, "b": b}, y, name="both").scores).mean(0)
    alone = by_target(y, a).mean(0)
    assert combined[0] > 0.9 > alone[0]
    assert combined[2] < alone[2]


def test_tables_hold_baselines_against_a_random_order_and_the_ceiling() -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(9, 9))
    runs = signal + 0.3 * rng.normal(size=(4, 9, 9))
    found, each = prediction_tables(
        [*baselines(runs.mean(0), None), Predictor("s", SIMILARITY, signal)], runs, tasks=list("abcdefghi")
    )
    rows = found.set_index(["predictor", "metric"])
    assert set(found["predictor"]) == {TARGET_MEAN, SOURCE_MEAN, "s", OTHER_RUNS}
    assert rows.loc[(TARGET_MEAN, "spearman"), "value"] == 0
    for metric in ("spearman", "ndcg", "regret"):
        row = rows.loc[("s", metric)]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["random"] == rows.loc[(TARGET_MEAN, metric), "value"]
        difference = row["value"] - rows.loc[(SOURCE_MEAN, metric), "value"]
        assert row["minus_source_mean"] == pytest.approx(difference)
        assert row["minus_low"] <= difference <= row["minus_high"]
    mine = each[each["predictor"] == "s"]
    assert rows.loc[("s", "spearman"), "value"] == pytest.approx(mine["spearman"].mean())
    target = np.delete(np.arange(9), 4)
    assert mine["spearman"].iloc[4] == pytest.approx(
        stats.spearmanr(signal[target, 4], runs.mean(0)[target, 4]).statistic
    )


def test_target_that_one_run_leaves_alone_is_out_of_the_ceiling_only() -> None:
    """In one of two runs no source changes task 0: halves have no ranking of it, the mean over runs has."""
    runs = np.random.default_rng(4).normal(size=(2, 6, 6))
    runs[1, :, 0] = 0.0
    table, each = prediction_tables(baselines(runs.mean(0), None), runs, tasks=list("abcdef"))
    counts = table.groupby("predictor")["targets"].first()
    assert counts.to_dict() == {TARGET_MEAN: 6, SOURCE_MEAN: 6, OTHER_RUNS: 5}
    ceiling = table[(table["predictor"] == OTHER_RUNS) & (table["metric"] == "spearman")].iloc[0]
    rest = each[(each["predictor"] == OTHER_RUNS) & (each["target"] != "a")]
    assert ceiling["value"] == pytest.approx(rest["spearman"].mean())
    source = each[(each["predictor"] == SOURCE_MEAN) & (each["target"] != "a")]["spearman"]
    assert ceiling["minus_source_mean"] == pytest.approx((rest["spearman"].to_numpy() - source.to_numpy()).mean())
    runs[1] = 0.0  # the other run knows nothing at all
    table, _ = prediction_tables(baselines(runs.mean(0), None), runs, tasks=list("abcdef"))
    assert OTHER_RUNS not in set(table["predictor"])


def test_one_run_has_no_ceiling() -> None:
    y = np.random.default_rng(0).normal(size=(6, 6))
    found, _ = prediction_tables(baselines(y, None), y[None], tasks=list("abcdef"))
    assert OTHER_RUNS not in set(found["predictor"])


def brute_force(features: np.ndarray, y: np.ndarray) -> float:
    """The largest log evidence an item, from the marginal likelihood's own formula: y ~ N(0, I / b + F F' / a)."""

    def negative(logs: np.ndarray) -> float:
        a, b = np.exp(np.clip(logs, -30, 30))
        cover = np.eye(len(y)) / b + features @ features.T / a
        return 0.5 * (len(y) * np.log(2 * np.pi) + np.linalg.slogdet(cover)[1] + y @ np.linalg.solve(cover, y)) / len(y)

    options = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000}
    starts = [(a, b) for a in (-3.0, 0.0, 4.0) for b in (0.0, 3.0)]
    return -min(minimize(negative, start, method="Nelder-Mead", options=options).fun for start in starts)


@pytest.mark.parametrize("width", [3, 60])
@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_logme_is_the_largest_evidence(width: int, signal: float) -> None:
    rng = np.random.default_rng(width)
    features = rng.normal(size=(40, width))
    y = signal * features @ rng.normal(size=width) + rng.normal(size=40)
    assert logme(features, y) == pytest.approx(brute_force(features, y), abs=1e-5)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_logme_of_features_that_explain_every_item_is_the_evidence_without_noise(scale: float) -> None:
    rng = np.random.default_rng(0)
    features = scale * rng.normal(size=(8, 60))
    y = features @ rng.normal(size=60) / scale
    kernel = features @ features.T
    spread = y @ np.linalg.solve(kernel, y) / 8  # the best prior's variance
    expected = -0.5 * (np.log(2 * np.pi * spread) + 1) - np.linalg.slogdet(kernel)[1] / 16
    assert logme(features, y) == pytest.approx(expected, abs=1e-6)


def test_logme_of_features_that_say_nothing_is_the_evidence_of_noise() -> None:
    y = np.random.default_rng(0).normal(size=8)
    expected = -0.5 * (np.log(2 * np.pi * (y @ y) / 8) + 1)
    assert logme(np.zeros((8, 3)), y) == pytest.approx(expected, abs=1e-6)


def test_logme_of_classes_is_the_mean_of_one_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    features[:, 0] += labels
    columns = [logme(features, (labels == c).astype(float)) for c in range(3)]
    assert logme(features, labels) == pytest.approx(np.mean(columns))
    assert logme(features, np.array(list("abc"))[labels]) == pytest.approx(np.mean(columns))
    assert logme(features, labels) > logme(rng.normal(size=(60, 5)), labels)


def test_logme_of_all_pairs_is_a_similarity() -> None:
    rng = np.random.default_rng(0)
    features = {(s, t): rng.normal(size=(20, 4)) for s in "ab" for t in "ab"}
    labels = {t: rng.integers(0, 2, 20) for t in "ab"}
    table = logme_table(features, labels)
    assert table.columns.tolist() == ["source", "target", "value", "measure", "layer"]
    assert table["value"].tolist() == [logme(features[s, t], labels[t]) for s in "ab" for t in "ab"]
    with pytest.raises(CrosstaskError, match="target 'b' and no labels"):
        logme_table(features, {"a": labels["a"]})


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (np.ones((3, 2)), np.array([0, 1]), r"got shapes \(3, 2\) and \(2,\)"),
        (np.array([[np.nan], [1.0]]), np.array([0, 1]), "NaN or infinite"),
        (np.ones((3, 2)), np.array([1, 1, 1]), "two classes or more"),
    ],
)
def test_logme_of_what_has_none_is_refused(features: np.ndarray, labels: np.ndarray, said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        logme(features, labels)
