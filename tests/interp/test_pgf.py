"""Perfection Gap Factors, transferability, malleability, cliques and personas do what their definitions say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from interp.errors import CrosstaskError
from interp.transfer import pgf as factors
from interp.transfer.cliques import cliques, thresholds, transfer_graph
from interp.transfer.names import TASKS, abbreviation, find_task, identity, known_task, ordered
from interp.transfer.rebuild import wrong_items
from interp.transfer.scores import SCORES, categories, personas, score_arrays, task_scores


def random_matrix(seed: int, side: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.2, (side, side))


# Factors


def test_factor_is_the_filled_share_of_the_room() -> None:
    after, before = np.array([0.93, 0.5, 0.3]), np.array([0.9, 0.4, 0.4])
    assert factors.pgf(after, before) == pytest.approx([0.3, 1 / 6, -1 / 6])
    assert factors.pgf(after, before, ceiling=0.95) == pytest.approx([0.6, 10 / 55, -10 / 55])  # Table 1 of the paper
    assert factors.pgf(after, before, epsilon=0.1) == pytest.approx([0.03 / 0.2, 0.1 / 0.7, -0.1 / 0.7])


def test_factor_is_between_one_and_minus_the_odds_of_the_baseline() -> None:
    base = np.linspace(0.01, 0.99, 50)
    assert factors.pgf(np.ones(50), base) == pytest.approx(np.ones(50))
    assert factors.pgf(np.zeros(50), base) == pytest.approx(-base / (1 - base))


def test_factor_is_undefined_where_the_room_is_under_one_item() -> None:
    found = factors.pgf(np.full(3, 0.5), np.array([1.0, 0.99, 0.98]), n=np.array([100.0, 100.0, 50.0]))
    assert np.isnan(found).tolist() == [True, False, False]
    assert np.isnan(factors.pgf(np.array([0.5]), np.array([1.0]))).all()
    assert np.isnan(factors.pgf(np.array([0.9]), np.array([0.8]), ceiling=0.7)).all()  # better than the ceiling already


def test_best_bound_is_the_best_mean_or_the_baseline() -> None:
    accuracy = np.array([[[0.6, 0.2], [0.9, 0.3]], [[0.8, 0.2], [0.5, 0.3]]])
    assert factors.best_bound(accuracy, np.array([[0.5, 0.4], [0.5, 0.4]])) == pytest.approx([0.7, 0.4])


def test_chance_correction_changes_nothing_but_what_is_below_chance() -> None:
    after, before, chance = np.array([0.7, 0.4, 0.2]), np.array([0.6, 0.3, 0.3]), np.full(3, 0.25)
    corrected = factors.pgf(*(factors.chance_corrected(a, chance) for a in (after, before)))
    assert corrected[:2] == pytest.approx(factors.pgf(after, before)[:2])
    assert corrected[2] == pytest.approx((0 - 0.05 / 0.75) / (1 - 0.05 / 0.75))


def test_smooth_factors_are_one_for_certainty_and_zero_for_no_change() -> None:
    base = np.array([-1.2, -0.3])
    assert factors.smooth_log_p(np.zeros(2), base) == pytest.approx([1, 1])
    assert factors.smooth_log_p(base, base) == pytest.approx([0, 0])
    assert factors.smooth_brier(np.array([0.0, 0.5]), np.array([0.5, 0.25])) == pytest.approx([1, -1])
    assert np.isnan(factors.smooth_brier(np.array([0.1]), np.array([0.0]))).all()


def test_log_odds_treat_gains_and_losses_alike() -> None:
    n = np.array([100.0])
    up, down = (factors.log_odds_difference(np.array([a]), np.array([b]), n) for a, b in ((0.8, 0.5), (0.5, 0.8)))
    assert up == pytest.approx(-down)
    assert np.isfinite(factors.log_odds_difference(np.array([1.0]), np.array([0.0]), n)).all()


def test_paired_standard_error_counts_discordant_items() -> None:
    assert factors.paired_standard_error(np.array(9), np.array(7), np.array(40)) == pytest.approx(0.1)


@pytest.mark.parametrize("wrong", [{"epsilon": -0.1}, {"ceiling": 1.2}, {"ceiling": 0.0}, {"ceiling": math.nan}])
def test_impossible_ceilings_and_epsilons_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(CrosstaskError, match="expected"):
        factors.pgf(np.array([0.5]), np.array([0.4]), **wrong)


def test_wrong_items_of_the_baseline_are_found_from_factors() -> None:
    gains = np.array([3, -2, 7, 0, 5])
    assert wrong_items(gains / 41, 120) == 41
    assert math.isnan(wrong_items(gains / 41, 40))
    assert math.isnan(wrong_items(np.array([0.123456, 0.2718, -0.1]), 150))
    assert wrong_items(np.array([2, 4]) / 10, 120) == 5  # the smallest that fits
    assert wrong_items(np.array([1, -9]) / 10, 12) != 10  # only 2 of 12 were right, so 9 cannot be lost


# Scores


def test_scores_follow_the_definition() -> None:
    mu = np.array([[0.9, 0.2, -0.1], [0.4, 0.5, 0.0], [-0.3, -0.2, 0.7]])
    found = score_arrays(mu)
    breadth = lambda count: (1 - math.exp(-count / 3)) / count  # noqa: E731
    assert found["transferability_positive"] == pytest.approx([breadth(1) * 0.2, breadth(1) * 0.4, 0])
    assert found["transferability_negative"] == pytest.approx([breadth(1) * -0.1, 0, breadth(2) * -0.5])
    assert found["malleability_positive"] == pytest.approx([breadth(1) * 0.4, breadth(1) * 0.2, 0])
    assert found["malleability_negative"] == pytest.approx([breadth(1) * -0.3, breadth(1) * -0.2, breadth(1) * -0.1])
    whole = score_arrays(mu, with_diagonal=True)
    assert whole["transferability_positive"][0] == pytest.approx(breadth(2) * 1.1)


@pytest.mark.parametrize("seed", range(5))
def test_naming_tasks_in_another_order_permutes_every_result(seed: int) -> None:
    mu, names = random_matrix(seed), list("abcdefg")
    order = np.random.default_rng(seed).permutation(7)
    turned, renamed = mu[np.ix_(order, order)], [names[i] for i in order]
    for with_diagonal in (False, True):
        one, other = score_arrays(mu, with_diagonal=with_diagonal), score_arrays(turned, with_diagonal=with_diagonal)
        for score in SCORES:
            assert one[score][order] == pytest.approx(other[score])
    assert cliques(mu, names=names) == cliques(turned, names=renamed)
    assert thresholds(mu) == pytest.approx(thresholds(turned))
    graphs = [transfer_graph(m, names=n)["edges"] for m, n in ((mu, names), (turned, renamed))]
    assert graphs[0] == graphs[1]


def test_transposing_exchanges_transferability_and_malleability_and_the_sign_exchanges_positive_and_negative() -> None:
    mu = random_matrix(1)
    found, turned, negated = score_arrays(mu), score_arrays(mu.T), score_arrays(-mu)
    for sign in ("positive", "negative"):
        assert found[f"transferability_{sign}"] == pytest.approx(turned[f"malleability_{sign}"])
    assert found["transferability_positive"] == pytest.approx(-negated["transferability_negative"])


def test_undefined_cells_have_no_sign() -> None:
    mu = random_matrix(2)
    holes, zeros = mu.copy(), mu.copy()
    holes[:, 3], zeros[:, 3] = np.nan, 0
    for score, values in score_arrays(holes).items():
        assert values == pytest.approx(score_arrays(zeros)[score])


def test_personas_go_to_the_strongest_and_never_to_a_score_of_zero() -> None:
    mu = np.zeros((4, 4))
    mu[0, 1:], mu[2, 3] = 0.5, -0.4
    table = task_scores(mu, list("abcd"))
    assert table["persona"].tolist() == ["donor", "sponge", "pirate", "sieve"]
    assert personas(table, top=4)[3] == "sponge + sieve"
    with pytest.raises(CrosstaskError, match="top 0"):
        personas(table, top=0)


def test_categories_average_over_their_tasks_and_count_those_that_the_paper_names() -> None:
    names = [task.name for task in TASKS]
    table = task_scores(random_matrix(3, 13), names)
    found = categories(table, names).set_index(["axis", "category"])
    low = table[table["task"].isin(["relative_depth", "relative_reflectance", "visual_correspondence"])]
    assert found.loc[("level", "low"), "transferability_positive"] == pytest.approx(
        low["transferability_positive"].mean()
    )
    assert found.loc[("level", "low"), ["n", "n_published"]].tolist() == [3, 3]
    assert found.loc[("granularity", "image"), "n_published"] == 3
    assert found.loc[("all", "all"), "n"] == 13
    assert set(categories(task_scores(random_matrix(4, 3), list("xyz")), list("xyz"))["axis"]) == {"all"}


# Cliques and graph


@pytest.mark.parametrize("seed", range(8))
def test_cliques_are_the_maximal_sets_found_by_trying_all(seed: int) -> None:
    mu, names = random_matrix(seed), list("abcdefg")

    def agree(members: tuple[int, ...], sign: int) -> bool:
        return all(sign * mu[i, j] > 0 for i, j in itertools.permutations(members, 2))

    sets = [s for size in range(3, 8) for s in itertools.combinations(range(7), size)]
    for name, sign in (("positive", 1), ("negative", -1)):
        good = [set(s) for s in sets if agree(s, sign)]
        expected = sorted([names[i] for i in sorted(s)] for s in good if not any(s < other for other in good))
        assert cliques(mu, names=names)[name] == expected


def test_a_clique_needs_both_directions_and_no_zero() -> None:
    mu = np.full((3, 3), 0.1)
    assert cliques(mu, names=list("cab"))["positive"] == [["a", "b", "c"]]
    for wrong in (0.0, -0.1, np.nan):
        broken = mu.copy()
        broken[2, 0] = wrong
        assert cliques(broken, names=list("cab")) == {"positive": [], "negative": []}


def test_graph_shows_as_many_edges_as_asked_and_thresholds_follow_the_share() -> None:
    mu = random_matrix(5)
    graph = transfer_graph(mu, names=list("abcdefg"), shown=(25, 50, 100))
    weights = np.array([abs(edge["weight"]) for edge in graph["edges"]])
    assert len(weights) == 42
    assert list(weights) == sorted(weights, reverse=True)
    for share, least in graph["thresholds"].items():
        assert (weights >= least).sum() == pytest.approx(42 * float(share) / 100, abs=1)
    with pytest.raises(CrosstaskError, match="150 %"):
        thresholds(mu, (150,))


# Names


def test_every_spelling_finds_its_task() -> None:
    for task in TASKS:
        spellings = (task.name, task.abbreviation, task.blink, task.blink.replace("_", " "), task.blink.lower())
        assert {find_task(spelling) for spelling in spellings} == {task}
        assert abbreviation(task.blink) == task.abbreviation
    assert identity("Multi-View Reasoning") == "multi_view_reasoning"
    assert identity(" My own task ") == "My own task"
    assert find_task("My own task") is None


def test_a_slip_is_met_with_the_nearest_names() -> None:
    with pytest.raises(CrosstaskError, match="did you mean visual_similarity"):
        known_task("Visual_Similarty")
    with pytest.raises(CrosstaskError, match=r"relative_depth \(RD\)"):
        known_task("zebra")


def test_thirteen_tasks_have_the_counts_of_blink() -> None:
    assert len(TASKS) == 13
    assert sum(task.n for task in TASKS) == 1901 - 150  # IQ_Test is not used
    assert find_task("MR").key_counts[0] == 59
    assert ordered(["zebra", "FD", "Apple", "VS"]) == ["VS", "FD", "Apple", "zebra"]
