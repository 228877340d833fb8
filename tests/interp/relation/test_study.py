"""From matrices to tables and sentences; and the published matrices, which are skipped where the files are absent."""

from __future__ import annotations

import doctest
import os
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.errors import CrosstaskError
from interp.relation import study
from interp.relation.alignment import Transfer
from interp.relation.describe import FORMAT, OF_UPDATES, OTHERS, PREDICTION, STRUCTURE, VECTORS, answers
from interp.relation.permutation import qap
from interp.relation.robustness import jackknife_interval, leave_one_out, noise_ceiling, structure_test
from interp.relation.study import Relation, relate
from interp.relation.tables import MAXT_COLUMNS, MRQAP_COLUMNS, RELATION_COLUMNS
from interp.statistics import holm
from interp.transfer.variance import reliability, symmetric_ceiling

TASKS = ("visual_similarity", "art_style", "jigsaw", "relative_depth", "counting", "semantic_correspondence",
         "functional_correspondence")  # fmt: skip
FOLDER = Path(os.environ.get("CROSSTASK_PUBLISHED", Path(__file__).parents[4] / "shared" / "published"))
FILES = {size: FOLDER / f"pgf_qwen2.5vl_{size}.csv" for size in ("3b", "7b")}
published = pytest.mark.skipif(not all(map(Path.is_file, FILES.values())), reason="published matrices are absent")


def drawn(seed: int, *, symmetric: bool = False) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(len(TASKS), len(TASKS)))
    return values + values.T if symmetric else values


def long_table(values: dict[tuple[str, int], np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"measure": measure, "layer": layer, "source": s, "target": t, "value": cells[i, j]}
            for (measure, layer), cells in values.items()
            for i, s in enumerate(TASKS)
            for j, t in enumerate(TASKS)
        ]
    )


VECTOR = drawn(0, symmetric=True)
SIMILARITIES = long_table(
    {("vector_cosine", 0): drawn(1, symmetric=True), ("vector_cosine", 1): VECTOR}
    | {("lora_share", layer): drawn(2 + layer) for layer in range(3)}
)
RUNS = VECTOR + 3 * np.random.default_rng(8).normal(size=7) + 0.5 * np.random.default_rng(9).normal(size=(4, 7, 7))
TRANSFER = Transfer("seven", TASKS, RUNS)


@pytest.fixture(scope="module")
def found() -> Relation:
    other = Transfer("other", TASKS, np.random.default_rng(5).normal(size=(1, 7, 7)))
    return relate(SIMILARITIES, {"seven": TRANSFER, "other": other})


def row(found: Relation, model: str, measure: str, layer: str) -> pd.Series:
    table = found.tables["relation"]
    (mine,) = table.query("model == @model and measure == @measure and layer == @layer").to_dict("records")
    return pd.Series(mine)


def test_docstring_shows_what_comes_out() -> None:
    assert doctest.testmod(study).failed == 0


def test_tables_have_the_documented_columns(found: Relation) -> None:
    assert found.tables["relation"].columns.tolist() == RELATION_COLUMNS
    assert found.tables["maxt"].columns.tolist() == MAXT_COLUMNS
    assert found.tables["mrqap"].columns.tolist() == MRQAP_COLUMNS
    assert set(found.tables["relation"]["model"]) == {"seven", "other"}


def test_rows_of_the_relation_are_those_of_its_tests(found: Relation) -> None:
    mine, transfer = row(found, "seven", "vector_cosine", "1"), RUNS.mean(0)
    tested = qap(VECTOR[None], transfer)
    left = leave_one_out(VECTOR[None], transfer)
    assert mine["r"] == pytest.approx(tested.r[0])
    assert mine["p"] == pytest.approx(tested.p[0])
    assert (mine["leave_one_out_low"], mine["leave_one_out_high"]) == pytest.approx((left.min(), left.max()))
    assert (mine["low"], mine["high"]) == pytest.approx([bound[0] for bound in jackknife_interval(tested.r, left)])
    assert mine["ceiling"] == pytest.approx(np.sqrt(reliability(RUNS)[1]))
    assert mine["r_over_ceiling"] == pytest.approx(mine["r"] / mine["ceiling"])
    assert mine["symmetric"]
    assert mine["symmetric_ceiling"] == pytest.approx(symmetric_ceiling(transfer))
    assert mine["mantel_r"] == pytest.approx(mine["r"] / mine["symmetric_ceiling"])
    assert not row(found, "seven", "lora_share", "0")["symmetric"]
    assert np.isnan(row(found, "seven", "lora_share", "0")["mantel_r"])
    assert np.isnan(row(found, "other", "vector_cosine", "1")["ceiling"])  # one run
    assert mine["exact"]
    assert mine["permutations"] == 5039


def test_summaries_are_pooled_layers_and_one_a_measure(found: Relation) -> None:
    table = found.tables["relation"].query("model == 'seven' and family != 'covariate'")
    assert table[table["summary"]][["measure", "layer"]].to_numpy().tolist() == [
        ["vector_cosine", "pooled"],
        ["lora_share", "pooled"],
    ]
    whole = SIMILARITIES[SIMILARITIES["measure"] == "lora_share"].assign(
        layer=lambda t: t["layer"].replace({0: "all"}).astype(object)
    )
    table = relate(whole, TRANSFER).tables["relation"].query("family != 'covariate'")
    assert table[table["summary"]]["layer"].tolist() == ["all"]


def test_max_t_scopes_nest(found: Relation) -> None:
    table = found.tables["maxt"].query("model == 'seven'").set_index(["kind", "scope"])
    assert table.index.tolist() == [
        ("all", "all similarities"),
        ("family", "task vectors"),
        ("family", "updates"),
        ("measure", "vector_cosine"),
        ("measure", "lora_share"),
    ]
    assert table["matrices"].tolist() == [7, 3, 4, 3, 4]
    assert table.loc[("all", "all similarities"), "null"] >= table["null"].max()
    best = row(found, "seven", table["measure"].iloc[0], table["layer"].iloc[0])
    assert table["p"].iloc[0] == pytest.approx(best["p_maxt"])
    assert table.loc[("family", "task vectors"), "p"] == pytest.approx(best["p_family"])


def test_holm_is_over_models(found: Relation) -> None:
    both = [row(found, model, "vector_cosine", "1") for model in ("seven", "other")]
    assert [one["p_holm"] for one in both] == pytest.approx(holm([one["p"] for one in both]))
    alone = relate(SIMILARITIES, TRANSFER).tables["relation"]
    assert alone["p_holm"].tolist() == pytest.approx(alone["p"].tolist())


def test_leaving_a_task_out_is_the_relation_without_it(found: Relation) -> None:
    table = found.tables["leave_one_out"].query(
        "model == 'seven' and measure == 'vector_cosine' and layer == '1' and left_out == 'jigsaw'"
    )
    again = relate(SIMILARITIES, TRANSFER, without=["JG"])
    assert table["r"].item() == pytest.approx(row(again, "seven", "vector_cosine", "1")["r"])
    assert again.models[0].aligned.short == ("VS", "AS", "RD", "CN", "SC", "FC")


def test_published_tasks_are_adjusted_for_their_format_without_asking(found: Relation) -> None:
    names = [matrix.measure for matrix in found.models[0].covariates]
    assert names == ["format", "options", "images", "marks"]
    mrqap = found.tables["mrqap"].query("model == 'seven'")
    assert set(mrqap["regression"]) >= {"covariates alone", "vector_cosine, layer 1", "vector_cosine, layers pooled"}
    assert relate(SIMILARITIES, TRANSFER, covariates=()).tables["mrqap"].empty
    own = SIMILARITIES.replace({"jigsaw": "puzzle"})
    renamed = Transfer("seven", tuple("puzzle" if task == "jigsaw" else task for task in TASKS), RUNS)
    assert relate(own, renamed).models[0].covariates == ()


def test_a_similarity_may_be_for_one_model(tmp_path: Path) -> None:
    from dataclasses import replace

    from interp.relation.matrices import matrices_of

    mine = [replace(matrix, model="seven") for matrix in matrices_of(SIMILARITIES)]
    other = Transfer("other", TASKS, RUNS[:1])
    table = relate(mine, {"seven": TRANSFER, "other": other}).tables["relation"]
    assert set(table.query("family != 'covariate'")["model"]) == {"seven"}
    assert set(table.query("family == 'covariate'")["model"]) == {"seven", "other"}
    with pytest.raises(CrosstaskError, match="is for the model 'seven'; there are other"):
        relate(mine, other)


def test_what_has_no_pairs_to_tell_apart_is_left_out_and_said() -> None:
    flat = long_table({("flat", 0): np.ones((7, 7)), ("flat", 1): np.arange(7.0) + np.zeros((7, 1))})
    found = relate(pd.concat([SIMILARITIES, flat]), TRANSFER)
    assert "flat" not in set(found.tables["relation"]["measure"])
    assert "Left out, since row and column effects explain all of it: flat, layer 0; flat, layer 1" in found.remarks[0]
    with pytest.raises(CrosstaskError, match="varies beyond row and column effects"):
        relate(flat, TRANSFER)


def test_questions_are_answered_in_order(found: Relation) -> None:
    said = found.sentences
    assert list(said) == [STRUCTURE, VECTORS, OF_UPDATES, FORMAT, PREDICTION]
    assert said[VECTORS][0].startswith("seven: A relation is seen")
    assert said[OF_UPDATES][0].startswith("seven: No relation is seen")
    assert any("There is one run" in line for line in said[STRUCTURE])
    assert all(line.startswith(("seven: ", "other: ")) for lines in said.values() for line in lines)
    plain = relate({"other": pd.DataFrame(VECTOR, TASKS, TASKS)}, TRANSFER).sentences
    assert list(plain) == [STRUCTURE, VECTORS, OF_UPDATES, OTHERS, FORMAT, PREDICTION]
    assert plain[VECTORS] == ["No similarity of task vectors was given."]


def test_sentences_give_no_interval_that_there_is_none_of_and_no_share_above_the_ceiling(found: Relation) -> None:
    tables = {name: table.copy() for name, table in found.tables.items()}
    tables["relation"][["low", "high"]] = np.nan
    tables["relation"]["r_over_ceiling"] = -1.2
    said = " ".join(line for lines in answers(tables).values() for line in lines)
    assert "nan" not in said
    assert "(no interval)" in said
    assert "-1.2" not in said
    assert "more than the noise ceiling" in said


def test_format_alone_can_be_asked_about() -> None:
    found = relate([], TRANSFER)
    assert set(found.tables["relation"]["family"]) == {"covariate"}
    assert found.tables["maxt"].empty
    assert "No similarity was given to predict from." not in found.sentences[PREDICTION]  # covariates predict


def test_logme_is_a_baseline_and_in_no_combination() -> None:
    table = pd.concat([SIMILARITIES, long_table({("logme", 0): drawn(6)})])
    found = relate(table, TRANSFER, covariates=()).tables["prediction"].drop_duplicates("predictor")
    kinds = found.set_index("predictor")["kind"]
    assert kinds["logme"] == "baseline"
    assert kinds["vector_cosine"] == "similarity"
    assert not found.query("kind == 'combination'")["made_of"].str.contains("logme").any()
    assert "ridge: all similarities" in kinds.index


def test_structure_of_runs_is_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    main = 5 * rng.normal(size=9) + 3 * rng.normal(size=(9, 1))
    noise = rng.normal(size=(4, 9, 9))
    same = structure_test(main + rng.normal(size=(9, 9)) + 0.5 * noise, count=999)
    assert same.p == 0.001
    assert same.r > 0.5 > same.null
    p = [structure_test(main + rng.normal(size=(3, 9, 9)), count=99, seed=n).p for n in range(200)]
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.10
    assert np.isnan(structure_test(main[None], count=9).p)


def test_noise_ceiling_is_what_the_truth_correlates_with_the_mean_of_runs() -> None:
    rng = np.random.default_rng(0)
    found, reached = [], []
    for _ in range(60):
        truth = rng.normal(size=(12, 12))
        runs = truth + 1.5 * rng.normal(size=(4, 12, 12))
        found.append(noise_ceiling(runs))
        reached.append(qap(truth[None], runs.mean(0), count=1).r[0])
    assert np.mean(found) == pytest.approx(np.mean(reached), abs=0.02)


def test_jackknife_intervals_hold_the_truth() -> None:
    rng, side, rho = np.random.default_rng(0), 10, 0.4
    held = []
    for _ in range(200):
        s, noise = rng.normal(size=(2, side, side))
        y = rho * s + np.sqrt(1 - rho**2) * noise
        low, high = jackknife_interval(qap(s[None], y, count=1).r, leave_one_out(s[None], y))
        held.append(low[0] <= rho <= high[0])
    assert 0.90 <= np.mean(held) <= 0.99


def test_fewer_permutations_than_promised_are_refused() -> None:
    with pytest.raises(CrosstaskError, match="99 permutations were asked for; expected 9,999 or more"):
        relate(SIMILARITIES, TRANSFER, permutations=99)


def test_models_and_covariates_of_one_name_are_refused() -> None:
    with pytest.raises(CrosstaskError, match="Two transfer matrices are called 'seven'"):
        relate(SIMILARITIES, {"a": TRANSFER, "b": TRANSFER})
    with pytest.raises(CrosstaskError, match="'format' is given twice"):
        relate(SIMILARITIES, TRANSFER, covariates=["format", "format"])


@cache
def of_published() -> Relation:
    return relate([], FILES, covariates=("format",))


@published
@pytest.mark.parametrize(("size", "r", "p"), [("3b", 0.305, 0.0018), ("7b", 0.193, 0.036)])
def test_format_explains_the_published_matrices_as_noted(size: str, r: float, p: float) -> None:
    mine = row(of_published(), size, "format", "all")
    assert mine["r"] == pytest.approx(r, abs=0.001)
    assert mine["p"] == pytest.approx(p, rel=0.35)
    assert mine["p"] < 0.05
    assert mine["tasks"] == 13
    assert not mine["exact"]


@published
@pytest.mark.parametrize(
    ("size", "target", "additive", "reliable", "symmetric"),
    [("3b", 0.54, 0.60, 0.95, 0.74), ("7b", 0.27, 0.42, 0.97, 0.74)],
)
def test_published_variance_and_ceilings_are_those_noted(
    size: str, target: float, additive: float, reliable: float, symmetric: float
) -> None:
    share = of_published().tables["variance"].query("model == @size").set_index("part")["share"]
    assert share["target"] == pytest.approx(target, abs=0.006)
    assert share["additive"] == pytest.approx(additive, abs=0.006)
    assert share["reliability"] == pytest.approx(reliable, abs=0.006)
    assert share["symmetric_ceiling"] == pytest.approx(symmetric, abs=0.006)
    assert share["structure_p"] == 1e-4


@published
def test_what_pairs_add_agrees_between_published_models() -> None:
    """r = .36 between 3B and 7B with row and column effects removed (p = .0002), .20 without (n.s.)."""
    three, seven = (model.aligned.transfer for model in of_published().models)
    found = qap(three[None], seven)
    assert found.r[0] == pytest.approx(0.36, abs=0.006)
    assert found.p[0] < 0.002
    raw = qap(three[None], seven, centre=False)
    assert raw.r[0] == pytest.approx(0.20, abs=0.006)
    assert raw.p[0] > 0.05
