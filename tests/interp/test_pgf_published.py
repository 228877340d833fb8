"""The published matrices give the published cliques, scores and statistics; skipped where the files are absent."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from interp.transfer.analysis import Analysis, Settings
from interp.transfer.scores import SCORES, WITH_DIAGONAL

FOLDER = Path(os.environ.get("CROSSTASK_PUBLISHED", Path(__file__).parents[3] / "shared" / "published"))
FILES = {size: FOLDER / f"pgf_qwen2.5vl_{size}.csv" for size in ("3b", "7b")}
pytestmark = pytest.mark.skipif(not all(map(Path.is_file, FILES.values())), reason="published matrices are absent")

CLIQUES = {
    "3b": {
        "positive": "AS-RR-VS MR-RR-VS RD-RR-VC FC-RD-RR MR-RD-RR RD-SC-VC FC-JG-OL",
        "negative": "AS-CN-OL-SR CN-FD-OL-SR CN-FD-JG-SR OL-SR-VS AS-FC-SR AS-OL-SC AS-OL-VC FD-OL-VC",
    },
    "7b": {
        "positive": "MR-RD-RR-VS MR-RR-SR AS-MR-RR AS-MR-OL CN-MR-OL",
        "negative": "CN-FC-JG FD-JG-SC FD-SC-VS CN-SC-VS CN-JG-SC",
    },
}
"""Table A.1 of Sachdeva et al. (2025)."""
GOLDEN = {
    "3b": {
        "VS": (0.0540, -0.0177, 0.0815, -0.0459, 0.0919, -0.0177, 0.1185, -0.0459),
        "AS": (0.0473, -0.0244, 0.0160, -0.0629, 0.0654, -0.0244, 0.0368, -0.0629),
        "VC": (0.0332, -0.0465, 0.0431, -0.0162, 0.0643, -0.0465, 0.0728, -0.0162),
        "RD": (0.0237, -0.0356, 0.1320, 0.0000, 0.0739, -0.0356, 0.1680, 0.0000),
        "RR": (0.0429, -0.0297, 0.0826, 0.0000, 0.0526, -0.0297, 0.0891, 0.0000),
        "SR": (0.0346, -0.0384, 0.0000, -0.0868, 0.0456, -0.0384, 0.0147, -0.0868),
        "JG": (0.0595, -0.0091, 0.0220, -0.0170, 0.0789, -0.0091, 0.0450, -0.0170),
        "CN": (0.0566, -0.0235, 0.0037, -0.0437, 0.0566, -0.0284, 0.0037, -0.0472),
        "FC": (0.0305, -0.0357, 0.0218, -0.0090, 0.0305, -0.0362, 0.0218, -0.0106),
        "SC": (0.0559, -0.0379, 0.0160, -0.0139, 0.0592, -0.0379, 0.0210, -0.0139),
        "MR": (0.0181, -0.0369, 0.0408, 0.0000, 0.0286, -0.0369, 0.0480, 0.0000),
        "OL": (0.0272, -0.0419, 0.0083, -0.0271, 0.0288, -0.0419, 0.0107, -0.0271),
        "FD": (0.0448, -0.0323, 0.0054, -0.0475, 0.0732, -0.0323, 0.0410, -0.0475),
    },
    "7b": {
        "VS": (0.0582, -0.0519, 0.0599, -0.2595, 0.0854, -0.0519, 0.0901, -0.2595),
        "AS": (0.0628, -0.0462, 0.0663, -0.0059, 0.0757, -0.0462, 0.0782, -0.0059),
        "VC": (0.0752, -0.0151, 0.0356, -0.2789, 0.1063, -0.0151, 0.0790, -0.2789),
        "RD": (0.0125, -0.0549, 0.0981, -0.0646, 0.0545, -0.0549, 0.1281, -0.0646),
        "RR": (0.0391, -0.0380, 0.0457, -0.0064, 0.0500, -0.0380, 0.0546, -0.0064),
        "SR": (0.0384, -0.0466, 0.0601, -0.0414, 0.0483, -0.0466, 0.0685, -0.0414),
        "JG": (0.0265, -0.0560, 0.0608, -0.1174, 0.0682, -0.0560, 0.1060, -0.1174),
        "CN": (0.0320, -0.1151, 0.0092, -0.0135, 0.0320, -0.1156, 0.0092, -0.0172),
        "FC": (0.0221, -0.1657, 0.0173, -0.0113, 0.0291, -0.1657, 0.0238, -0.0113),
        "SC": (0.0760, -0.0366, 0.0000, -0.0908, 0.0834, -0.0366, 0.0129, -0.0908),
        "MR": (0.0585, -0.0475, 0.0381, 0.0000, 0.0889, -0.0475, 0.0653, 0.0000),
        "OL": (0.0204, -0.2484, 0.0378, -0.0083, 0.0372, -0.2484, 0.0508, -0.0083),
        "FD": (0.0315, -0.1162, 0.0083, -0.0761, 0.0757, -0.1162, 0.0622, -0.0761),
    },
}
"""SCORES without and then with the diagonal, by Definitions 1 and 2 from the published files."""

PERSONAS = {
    "3b": {"donor": "JG CN SC", "pirate": "VC OL SR", "sponge": "RD RR VS", "sieve": "SR AS FD"},
    "7b": {"donor": "SC VC AS", "pirate": "OL FC FD", "sponge": "RD AS JG", "sieve": "VC VS JG"},
}


@cache
def analysis(size: str, **settings: object) -> Analysis:
    return Analysis.read(FILES[size], Settings(**{"permutations": 499, "dose": "published"} | settings))  # type: ignore[arg-type]


both = pytest.mark.parametrize("size", ["3b", "7b"])


@both
def test_cliques_are_those_of_table_a1(size: str) -> None:
    found = analysis(size).cliques
    for sign, listed in CLIQUES[size].items():
        assert found[sign] == sorted(clique.split("-") for clique in listed.split())


@both
def test_scores_are_the_published_ones_without_and_with_the_diagonal(size: str) -> None:
    scores = analysis(size).scores.assign(short=analysis(size).abbreviations).set_index("short")
    assert list(scores.index) == list(GOLDEN[size])
    columns = [*SCORES, *(f"{score}{WITH_DIAGONAL}" for score in SCORES)]
    for task, values in GOLDEN[size].items():
        assert scores.loc[task, columns].to_numpy(float) == pytest.approx(values, abs=5.01e-5)


@both
def test_personas_are_the_three_strongest_by_each_score(size: str) -> None:
    scores = analysis(size).scores.assign(short=analysis(size).abbreviations)
    for persona, expected in PERSONAS[size].items():
        named = {row["short"] for row in scores.to_dict("records") if persona in row["persona"].split(" + ")}
        assert named == set(expected.split())


@both
def test_factors_give_the_accuracies_away(size: str) -> None:
    measured = analysis(size).measured
    assert measured.rebuilt
    base = dict(zip(analysis(size).abbreviations, 100 * measured.baseline.mean(0), strict=True))
    expected = {"3b": {"VS": 58.5, "SR": 83.2, "FC": 22.3}, "7b": {"VS": 85.2, "FC": 25.6, "SC": 42.3, "FD": 46.2}}
    for task, value in expected[size].items():
        assert base[task] == pytest.approx(value, abs=0.06)
    right = measured.accuracy * measured.n
    assert right == pytest.approx(np.rint(right), abs=1e-9)
    diagonal = np.diagonal(measured.accuracy.mean(0)).mean()
    assert 100 * diagonal == pytest.approx({"3b": 62.5, "7b": 73.4}[size], abs=0.06)


@pytest.mark.parametrize(("size", "cells"), [("3b", 36), ("7b", 14)])
def test_multi_view_cells_have_as_many_right_answers_as_keys_a(size: str, cells: int) -> None:
    """59 of 133, the number of items whose key is A: the model may always have said (A)."""
    tables = analysis(size).tables
    row = tables["constant_targets"].set_index("target").loc["Multi-view_Reasoning"]
    assert (row["key_count_runs"], row["cells"]) == (cells, 52)
    flagged = tables["constant_cells"].query("target == 'Multi-view_Reasoning'")
    assert set(flagged["key_count_letters"]) == {"A"}
    measured = analysis(size).measured
    column = measured.targets.index("multi_view_reasoning")
    assert int((np.rint(measured.accuracy[:, :, column] * 133) == 59).sum()) == cells


@pytest.mark.parametrize(("size", "target", "source", "both"), [("3b", 0.54, 0.06, 0.60), ("7b", 0.27, 0.16, 0.42)])
def test_shares_of_variance(size: str, target: float, source: float, both: float) -> None:
    share = analysis(size).tables["variance"].set_index("part")["share"]
    assert share[["target", "source", "additive"]].to_numpy() == pytest.approx([target, source, both], abs=0.005)
    assert share["residual_reciprocity"] == pytest.approx(0.09, abs=0.005)
    assert share["reliability"] == pytest.approx({"3b": 0.95, "7b": 0.98}[size], abs=0.01)
    assert 0.71 <= share["symmetric_ceiling"] <= 0.74


@both
def test_sizes_of_cliques_are_those_of_shuffled_columns(size: str) -> None:
    nulls = analysis(size).tables["nulls"].query("null == 'shuffle' and statistic == 'largest'").set_index("sign")
    mean, p = {"3b": ((3.7, 3.7), (1.0, 0.66)), "7b": ((3.8, 3.5), (0.75, 1.0))}[size]
    assert nulls.loc[["positive", "negative"], "null_mean"].to_numpy() == pytest.approx(mean, abs=0.1)
    assert nulls.loc[["positive", "negative"], "p"].to_numpy() == pytest.approx(p, abs=0.07)


@both
def test_spread_signs_and_moved_items(size: str) -> None:
    cells = analysis(size).tables["edges"].query("family == 'transfer'")
    expected = {"3b": (0.012, 0.49, 0.74, 0.034, 0.56), "7b": (-0.051, 0.52, 0.68, 0.051, 0.53)}[size]
    mean, positive, same, spread, few = expected
    assert cells["mean"].mean() == pytest.approx(mean, abs=5e-4)
    assert (cells["mean"] > 0).mean() == pytest.approx(positive, abs=0.005)
    assert (cells["same_sign"] == 1).mean() == pytest.approx(same, abs=0.005)
    every = analysis(size).tables["edges"]
    assert every["sd"].mean() == pytest.approx(spread, abs=0.002)
    assert (cells["items_moved"].abs() < 6 - 1e-9).mean() == pytest.approx(few, abs=0.005)


@both
def test_dose_goes_with_transfer_as_published_schedules_say(size: str) -> None:
    dose = analysis(size).tables["dose"].set_index("score")
    assert dose.loc["transferability_positive", "spearman"] == pytest.approx({"3b": -0.05, "7b": 0.21}[size], abs=0.005)


@both
def test_best_cell_of_a_target_is_one_against_the_best_bound(size: str) -> None:
    found = analysis(size, ceiling="best")
    assert np.nanmax(found.mu, axis=0) == pytest.approx(np.ones(13), abs=0.005)  # a baseline varies by an item
    off = {found.abbreviations[j] for j in range(13) if found.mu[:, j].argmax() != j}
    assert off == set({"3b": "RR CN FC SC OL", "7b": "SR CN FC"}[size].split())


@both
def test_a_mean_that_is_zero_but_for_rounding_counts_unless_told_otherwise(size: str) -> None:
    """The published scores follow the sign of a rounding error in one cell of each matrix."""
    strict, lenient = analysis(size), analysis(size, zero=1e-9)
    changed = [
        task
        for task, (_, a), (_, b) in zip(
            strict.abbreviations, strict.scores.iterrows(), lenient.scores.iterrows(), strict=True
        )
        if not np.allclose(a[list(SCORES)].astype(float), b[list(SCORES)].astype(float))
    ]
    assert set(changed) == ({"MR", "JG"} if size == "3b" else {"FC", "SR"})
    assert strict.cliques == lenient.cliques
