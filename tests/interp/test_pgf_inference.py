"""Variance shares, nulls, paired tests, constant answers and dose, on matrices whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from interp.errors import CrosstaskError
from interp.statistics import compare_paired
from interp.transfer.analysis import Analysis, Settings
from interp.transfer.cliques import off_diagonal
from interp.transfer.constant import key_letters
from interp.transfer.edges import best_case_p, discoveries, sign_flip_p
from interp.transfer.nulls import null_matrices, null_tests, score_tests, shuffled_columns
from interp.transfer.variance import (
    additive,
    reciprocity,
    reliability,
    residual,
    split,
    symmetric_ceiling,
    variance_shares,
)
from tests.transfer_data import matrix_folder

RNG = np.random.default_rng
OFF = off_diagonal(8)


def noisy(mu: np.ndarray, spread: float = 0.02, runs: int = 4, seed: int = 0) -> np.ndarray:
    return mu + RNG(seed).normal(0, spread, (runs, *mu.shape))


def sums(seed: int = 0, side: int = 8) -> np.ndarray:
    """Sources and targets alone."""
    rng = RNG(seed)
    return 0.1 + rng.normal(0, 0.1, (side, 1)) + rng.normal(0, 0.2, (1, side))


def share(runs: np.ndarray) -> dict[str, float]:
    return variance_shares(runs).set_index("part")["share"].to_dict()


# Variance


def test_sources_and_targets_leave_nothing_of_their_sum() -> None:
    mu = sums()
    assert residual(mu) == pytest.approx(np.zeros((8, 8)), abs=1e-12)
    assert additive(mu) == pytest.approx(mu)
    found = share(np.stack([mu, mu]))
    assert found["additive"] == pytest.approx(1)
    assert found["symmetric"] == pytest.approx(0, abs=1e-12)
    assert found["antisymmetric"] == pytest.approx(0, abs=1e-12)
    assert np.isnan(symmetric_ceiling(mu))


def test_the_diagonal_has_no_say() -> None:
    mu = RNG(1).normal(size=(8, 8))
    other = mu + 100 * np.eye(8)
    assert share(mu[None]) == pytest.approx(share(other[None]), nan_ok=True)
    assert residual(mu) == pytest.approx(residual(other))


def test_parts_add_up_and_share_one_has_the_part_that_was_put_in() -> None:
    for seed, sign in ((2, 1), (3, -1)):
        pairs = RNG(seed).normal(size=(8, 8))
        mu = sums() + residual(pairs + sign * pairs.T)
        found = share(mu[None])
        total = found["target"] + found["source_after_target"] + found["symmetric"] + found["antisymmetric"]
        assert total == pytest.approx(1)
        gone, kept = ("antisymmetric", "symmetric") if sign == 1 else ("symmetric", "antisymmetric")
        assert found[gone] == pytest.approx(0, abs=1e-12)
        assert found[kept] > 0.1
        assert reciprocity(residual(mu)) == pytest.approx(sign)
        assert symmetric_ceiling(mu) == pytest.approx(max(sign, 0), abs=1e-6)


def test_unstructured_noise_has_the_shares_of_its_degrees_of_freedom() -> None:
    tables = [variance_shares(RNG(seed).normal(size=(1, 8, 8))).set_index("part") for seed in range(100)]
    for part in ("target", "source", "additive", "symmetric", "antisymmetric"):
        assert np.mean([t.loc[part, "share"] for t in tables]) == pytest.approx(
            tables[0].loc[part, "chance"], abs=0.015
        )


def test_residual_splits_into_both_parts_and_turning_the_matrix_keeps_one_and_flips_the_other() -> None:
    left = residual(RNG(4).normal(size=(8, 8)))
    same, turned = split(left)
    assert same + turned == pytest.approx(left)
    assert split(left.T)[0] == pytest.approx(same)
    assert split(left.T)[1] == pytest.approx(-turned)


def test_reliability_is_high_for_stable_pairs_and_low_for_noise() -> None:
    pairs = RNG(5).normal(0, 0.3, (8, 8))
    assert reliability(noisy(pairs, 0.03))[1] > 0.97
    assert abs(np.mean([reliability(noisy(sums(), 0.1, seed=s))[0] for s in range(60)])) < 0.1
    assert np.isnan(reliability(pairs[None])[1])
    odd = noisy(pairs, 0.03, runs=3)
    assert reliability(odd[[2, 0, 1]]) == pytest.approx(reliability(odd))


def test_a_decomposition_needs_four_tasks_and_every_cell() -> None:
    with pytest.raises(CrosstaskError, match="3 tasks"):
        residual(np.zeros((3, 3)))
    with pytest.raises(CrosstaskError, match="undefined"):
        residual(np.where(np.eye(8)[::-1] > 0, np.nan, 1.0))


# Nulls


def test_shuffling_keeps_the_values_of_every_target_and_the_diagonal() -> None:
    mu = RNG(6).normal(size=(8, 8))
    drawn = shuffled_columns(mu, count=20, rng=RNG(0))
    for matrix in drawn:
        assert np.diagonal(matrix) == pytest.approx(np.diagonal(mu))
        for j in range(8):
            assert sorted(matrix[OFF[:, j], j]) == pytest.approx(sorted(mu[OFF[:, j], j]))
    assert len(np.unique(drawn[:, 0, 1])) > 5


def test_additive_nulls_keep_sources_and_targets_on_average() -> None:
    runs = noisy(sums() + 0.3 * RNG(7).normal(size=(8, 8)))
    for null in ("additive", "additive_noise"):
        mean = null_matrices(runs, null, count=4000, rng=RNG(0)).mean(0)
        assert mean[OFF] == pytest.approx(additive(runs.mean(0))[OFF], abs=0.03)


def test_planted_clique_is_found_and_cliques_of_target_effects_alone_are_not() -> None:
    planted = np.full((8, 8), -0.2)
    planted[:5, :5] = 0.2
    tests = null_tests(noisy(planted), permutations=199)[0].set_index(["null", "sign", "statistic"])
    assert tests.loc[("shuffle", "positive", "largest"), "observed"] == 5
    assert tests.loc[("shuffle", "positive", "largest"), "p"] < 0.02
    helped = np.tile(np.where(np.arange(8) < 5, 0.2, -0.2), (8, 1))  # five targets that everything helps
    tests = null_tests(noisy(helped), permutations=199)[0].set_index(["null", "sign", "statistic"])
    assert tests.loc[("shuffle", "positive", "largest"), "observed"] == 5
    assert tests.loc[("shuffle", "positive", "largest"), "p"] > 0.5


def test_the_same_seed_gives_the_same_nulls_and_p_is_never_zero() -> None:
    runs = noisy(RNG(8).normal(size=(8, 8)))
    one, other, third = (null_tests(runs, permutations=49, seed=s)[0] for s in (1, 1, 2))
    assert one.equals(other)
    assert not one.equals(third)
    assert one["p"].dropna().between(1 / 50, 1).all()
    assert set(one["null"]) == {"shuffle", "additive", "additive_noise"}
    assert set(null_tests(runs[:1], permutations=9)[0]["null"]) == {"shuffle", "additive"}  # one run has no spread


def test_a_donor_stands_out_against_shuffled_targets() -> None:
    mu = RNG(9).normal(0, 0.1, (8, 8))
    mu[3] = 0.5
    found = score_tests(mu, list("abcdefgh"), permutations=199).set_index(["statistic", "task"])
    best = found.loc[("transferability_positive", "d")]
    assert (best["p"], best["p_family"]) == (0.005, 0.005)
    assert found.loc[("transferability_positive", "a"), "p_family"] > 0.5
    assert (found["p_family"] >= found["p"]).all()  # the largest of all tasks is at least as large as any
    with pytest.raises(CrosstaskError, match="0 permutations"):
        score_tests(mu, list("abcdefgh"), permutations=0)


# Edges


@pytest.mark.parametrize("seed", range(6))
def test_with_one_run_the_sign_flip_is_mcnemar(seed: int) -> None:
    rng = RNG(seed)
    before, after = rng.random(60) < 0.5, rng.random(60) < 0.65
    found = sign_flip_p(after.astype(int) - before)
    assert found == pytest.approx(compare_paired(after, before).p_value)


def test_with_several_runs_the_sign_flip_equals_trying_every_sign() -> None:
    sums = np.array([3, -1, 2, 0, 4, 1, -2, 3])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    totals = np.abs(sums @ signs)
    assert sign_flip_p(sums) == pytest.approx((totals >= abs(sums.sum())).mean())
    assert sign_flip_p(np.zeros(5, int)) == 1


def test_repeating_a_run_is_no_further_evidence() -> None:
    sums = RNG(1).integers(-1, 2, 50)
    assert sign_flip_p(4 * sums) == pytest.approx(sign_flip_p(sums))


def test_fewer_than_six_items_cannot_be_significant() -> None:
    assert best_case_p(np.array([0, 5, 6, -6])).tolist() == [1, 0.0625, 0.03125, 0.03125]


def test_discoveries_are_benjamini_and_hochbergs_with_holes() -> None:
    p = np.array([0.01, np.nan, 0.02, 0.9])
    assert discoveries(p)[[0, 2, 3]] == pytest.approx(stats.false_discovery_control(p[[0, 2, 3]]))
    assert np.isnan(discoveries(p)[1])
    assert np.isnan(discoveries(np.full(3, np.nan))).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return matrix_folder(tmp_path_factory.mktemp("matrix") / "m")


def test_edges_find_the_planted_transfer_and_nothing_else(folder: Path) -> None:
    analysis = Analysis.read(folder, Settings(permutations=9))
    edges = analysis.tables["edges"].set_index(["source", "target"])
    assert edges.loc[("relative_depth", "jigsaw"), "q"] < 0.001
    assert (edges[edges["family"] == "itself"]["q"] < 0.001).all()
    assert (edges[edges["family"] == "control"]["q"] > 0.05).all()
    other = edges[(edges["family"] == "transfer")].drop(("relative_depth", "jigsaw"))
    assert (other["q"] > 0.05).all()
    assert edges.loc[("caption", "object_order"), "family"] == "control"
    assert edges.loc[("jigsaw", "object_order"), "family"] == "extra"


def test_edges_count_discordant_items_of_all_forms_and_runs(folder: Path) -> None:
    analysis = Analysis.read(folder, Settings(permutations=9))
    row = analysis.tables["edges"].set_index(["source", "target"]).loc[("relative_depth", "jigsaw")]
    items = analysis.measured.items
    assert items is not None
    wide = items[items["target"] == "jigsaw"].assign(name=lambda t: t["form"] + t["item"])
    before = wide[wide["source"] == "baseline"].set_index("name")["correct"]
    after = wide[wide["source"] == "relative_depth"].pivot_table(index="name", columns="seed", values="correct")
    gains = after.sub(before, axis=0)
    assert row["only_tuned"] == (gains == 1).sum().sum()
    assert row["only_baseline"] == (gains == -1).sum().sum()
    assert row["items"] == len(before) == 120
    assert row["items_moved"] == pytest.approx(gains.sum().mean())
    expected = np.sqrt((gains.mean(axis=1) ** 2).sum()) / (1 - before).sum()
    assert row["standard_error"] == pytest.approx(expected)


def test_constant_answers_are_reported_where_they_are(folder: Path) -> None:
    analysis = Analysis.read(folder, Settings(permutations=9))
    cells = analysis.tables["constant_cells"]
    row = cells[cells["constant_runs"] > 0]
    assert row[["source", "target", "constant_runs", "constant_letters"]].values.tolist() == [
        ["art_style", "relative_depth", 2, "A"]
    ]
    assert key_letters(59, (59, 74)) == "A"
    assert key_letters(31, (31, 28, 31, 30)) == "A+C"
    assert key_letters(60, (59, 74)) == ""


# Measures, fractions, dose


def test_smooth_measures_rank_the_planted_transfer_first(folder: Path) -> None:
    for measure in ("log_p", "brier", "log_odds", "pgf"):
        analysis = Analysis.read(folder, Settings(measure=measure, permutations=9))  # type: ignore[arg-type]
        mu = np.where(off_diagonal(4), analysis.mu, -np.inf)
        source, target = np.unravel_index(mu.argmax(), mu.shape)
        assert (analysis.tasks[source], analysis.tasks[target]) == ("relative_depth", "jigsaw")


def test_scores_rise_over_training_fractions(folder: Path) -> None:
    fractions = Analysis.read(folder, Settings(permutations=9)).tables["fractions"]
    assert sorted(set(fractions["fraction"])) == [0.5, 1.0]
    wide = fractions.pivot_table(index="task", columns="fraction", values="transferability_positive_with_diagonal")
    assert (wide[1.0] > wide[0.5]).all()


def test_equal_doses_have_no_rank(folder: Path) -> None:
    dose = Analysis.read(folder, Settings(permutations=9)).tables["dose"]
    assert dose["spearman"].isna().all()
    assert set(dose["most_steps"]) == {100}


def test_dose_from_a_file_correlates_with_scores(folder: Path, tmp_path: Path) -> None:
    scores = Analysis.read(folder, Settings(permutations=9)).scores
    order = scores["transferability_positive"].rank().astype(int)
    lines = [f"{task},{10 * rank}" for task, rank in zip(scores["task"], order, strict=True)]
    path = tmp_path / "steps.csv"
    path.write_text("\n".join(["task,steps", *lines]))
    dose = Analysis.read(folder, Settings(permutations=9, dose=str(path))).tables["dose"].set_index("score")
    assert dose.loc["transferability_positive", "spearman"] == pytest.approx(1)
    path.write_text("\n".join(["task,steps", *lines[1:]]))
    with pytest.raises(CrosstaskError, match="no steps of art_style"):
        _ = Analysis.read(folder, Settings(permutations=9, dose=str(path))).tables
