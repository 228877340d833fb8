"""Reliability, similarity, moves and patch-transfer tables say what was put in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from interp.errors import CrosstaskError
from interp.perception_vectors import moves, moves_long, reliability, similarity, transfer_long, transfer_table
from interp.perception_vectors.similarity import measured
from interp.perception_vectors.states import halves, most_reliable_layer
from interp.perception_vectors.transfer import NO_LAYER, arms_for, chosen_layer, scored
from interp.relation.matrices import matrices_of
from interp.tuning.evaluation.records import Record

TASKS = ("counting", "jigsaw", "relative_depth")


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_halves_are_means_over_each_half_and_refuse_what_is_no_number() -> None:
    states = torch.from_numpy(drawn(0, 6, 2, 5))
    found = halves(states)
    assert torch.allclose(found[0], states[:3].mean(0))
    assert torch.allclose(found[1], states[3:].mean(0))
    with pytest.raises(CrosstaskError, match="diverged"):
        halves(states * float("nan"))


def test_reliability_is_high_where_halves_agree_beyond_what_all_tasks_share() -> None:
    common, own = 10 * drawn(1, 1, 1, 1, 64), drawn(2, 3, 1, 1, 64)
    noise = drawn(3, 3, 2, 2, 64)
    states = np.concatenate([common + own + 0.1 * noise[:, :, :1], common + 5 * noise[:, :, 1:]], axis=2)
    table = reliability({"item": states}, TASKS)
    means = table.groupby("layer")[["raw", "centred", "identified"]].mean()
    assert means.loc[0, "centred"] > 0.97
    assert means.loc[0, "identified"] == 1
    assert means.loc[1, "raw"] > 0.6  # from what all have in common alone
    assert abs(means.loc[1, "centred"]) < 0.4
    assert most_reliable_layer(table, "item") == 0
    assert table["raw_full"].to_numpy() == pytest.approx(2 * table["raw"] / (1 + table["raw"]))


def test_measures_of_similarity_are_their_formulas() -> None:
    vectors = drawn(4, 3, 7)
    cosine, centred, euclidean = measured(vectors)
    a, b = vectors[0], vectors[1]
    assert cosine[0, 1] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert euclidean[0, 1] == pytest.approx(-np.linalg.norm(a - b))
    shifted = measured(vectors + 100)[1]
    assert shifted == pytest.approx(centred)  # what all have in common is gone


def test_similarity_is_long_both_ways_and_relate_reads_it() -> None:
    table = similarity({"item": drawn(5, 3, 2, 7), "both": drawn(6, 3, 2, 7)}, TASKS)
    assert len(table) == 3 * 2 * 2 * 6
    cells = table.set_index(["measure", "layer", "source", "target"])["value"]
    assert (
        cells["task_vector_cosine_both", 1, "counting", "jigsaw"]
        == cells["task_vector_cosine_both", 1, "jigsaw", "counting"]
    )
    matrices = matrices_of(table)
    assert {matrix.family for matrix in matrices} == {"task vectors"}
    assert all(np.isfinite(matrix.of(TASKS)[0, 1]) for matrix in matrices)


def test_a_vector_that_comes_to_the_sources_place_has_moved_all_the_way() -> None:
    base = np.repeat(drawn(7, 3, 1, 2, 16), 2, axis=1)
    after = base.copy()
    after[1] = base[0]  # jigsaw has come to where counting is
    after[2] += 0.25 * (base[0] - base[2])
    table = moves({"item": base}, {("counting", 0): {"item": after}}, TASKS)
    at = table[table["layer"] == 1].set_index("target")
    assert at.loc["jigsaw", "towards"] == pytest.approx(1)
    assert at.loc["relative_depth", "towards"] == pytest.approx(0.25)
    assert at.loc["counting", "change"] == 0
    assert np.isnan(at.loc["counting", "towards"])
    distance = np.linalg.norm(base[0, 0, 1] - base[1, 0, 1])
    assert at.loc["jigsaw", "change"] == pytest.approx(distance / np.linalg.norm(base[1, 0, 1]))
    assert at.loc["jigsaw", "reliability"] == pytest.approx(1)


def test_move_along_what_sets_the_source_apart_has_cosine_one_and_unknown_sources_have_changes_alone() -> None:
    base = np.repeat(drawn(8, 3, 1, 1, 16), 2, axis=1)
    step = base[0] - base.mean(0)
    table = moves({"item": base}, {("counting", 1): {"item": base + 0.1 * step}}, TASKS)
    assert table["cosine"].to_numpy() == pytest.approx(1)
    other = moves({"item": base}, {("random_key", 0): {"item": base + 1}}, TASKS)
    assert other["cosine"].isna().all()
    assert (other["change"] > 0).all()


def test_long_moves_are_means_over_seeds() -> None:
    base = np.repeat(drawn(9, 3, 1, 1, 16), 2, axis=1)
    tuned = {("counting", seed): {"item": base + (seed + 1) * drawn(10, 1, 1, 1, 16)} for seed in (0, 1)}
    table = moves({"item": base}, tuned, TASKS)
    long = moves_long(table, ["item"]).set_index(["measure", "source", "target"])["value"]
    both = table[table["target"] == "jigsaw"]["change"]
    assert long["vector_change_item", "counting", "jigsaw"] == pytest.approx(both.mean())
    assert both.iloc[1] == pytest.approx(2 * both.iloc[0])


def test_arms_are_every_task_and_control_at_every_layer() -> None:
    vectors = {task: torch.from_numpy(drawn(n, 4, 8)) for n, task in enumerate(TASKS)}
    found = arms_for(vectors, "jigsaw", layers=(0, 2), items=5, seed=0)
    assert [(arm.source, arm.layer) for arm in found] == [
        ("none", NO_LAYER),
        *((source, layer) for layer in (0, 2) for source in (*TASKS, "random", "mean")),
    ]
    by_name = {(arm.source, arm.layer): arm.vectors for arm in found}
    random, mean, own = by_name["random", 2], by_name["mean", 2], by_name["jigsaw", 2]
    assert random is not None
    assert mean is not None
    assert own is not None
    assert torch.equal(own[0], vectors["jigsaw"][2])
    assert torch.allclose(random.norm(dim=1), vectors["jigsaw"][2].norm().expand(5))
    assert torch.linalg.matrix_rank(random) == 5  # another direction for each item
    assert torch.allclose(mean[0], torch.stack([v[2] for v in vectors.values()]).mean(0))


def answered(found: list[tuple[str, int, list[str], float]]) -> list[dict]:
    """Entries of arms (source, layer, letters, log p of all items); A is right."""
    arms = arms_for({task: torch.zeros(1, 1) for task in TASKS}, TASKS[0], layers=(), items=1, seed=0)[:0]
    answers = []
    for source, layer, letters, log_p in found:
        arms.append(type("Arm", (), {"source": source, "layer": layer})())  # type: ignore[arg-type]
        answers.append([Record(str(n), "A", p, float(p == "A"), log_p_key=log_p) for n, p in enumerate(letters)])
    return scored(arms, answers)


@pytest.fixture
def transfer() -> pd.DataFrame:
    found = {}
    for target in TASKS:
        others = [
            (task, layer, list("AAAA" if task == target else "AABB"), -0.2 if task == target else -0.5 - layer)
            for layer in (0, 1)
            for task in TASKS
        ]
        controls = [("random", layer, list("BBBB"), -3.0) for layer in (0, 1)]
        controls += [("mean", layer, list("AAAB"), -0.3) for layer in (0, 1)]
        found["item", target] = answered([("none", NO_LAYER, list("AAAB"), -0.25), *others, *controls])
    return transfer_table(found, tasks=TASKS)


def test_transfer_is_the_paired_change_from_no_patch(transfer: pd.DataFrame) -> None:
    at = transfer[(transfer["target"] == "jigsaw") & (transfer["layer"] == 1)].set_index("source")
    assert at.loc["counting", "accuracy"] == 0.5
    assert at.loc["counting", "change"] == pytest.approx(-0.25)
    assert at.loc["counting", "low"] <= -0.25 <= at.loc["counting", "high"]
    assert at.loc["counting", "log_p_change"] == pytest.approx(-1.25)
    assert at.loc["counting", "changed_rate"] == 0.25
    assert at.loc["jigsaw", "change"] == pytest.approx(0.25)
    kinds = ("counting", "jigsaw", "random", "mean")
    assert [at.loc[kind, "control"] for kind in kinds] == ["other", "own", "random", "mean"]
    bare = transfer[transfer["control"] == "none"]
    assert (bare["change"] == 0).all()
    assert len(bare) == 3


def test_layer_is_chosen_where_other_vectors_cost_most_beyond_the_own(transfer: pd.DataFrame) -> None:
    assert chosen_layer(transfer, "item") == 1


def test_long_transfer_has_other_tasks_alone_and_relate_reads_it(transfer: pd.DataFrame) -> None:
    long = transfer_long(transfer, main="item")
    assert set(long["measure"]) == {"patch_transfer", "patch_transfer_accuracy", "patch_transfer_unchanged"}
    assert len(long) == 3 * 2 * 6
    cells = long.set_index(["measure", "layer", "source", "target"])["value"]
    assert cells["patch_transfer", 0, "counting", "jigsaw"] == pytest.approx(-0.25)
    assert cells["patch_transfer_unchanged", 0, "counting", "jigsaw"] == 0.75
    assert {matrix.family for matrix in matrices_of(long)} == {"task vectors"}
    assert set(transfer_long(transfer, main="both")["measure"]) == {
        "patch_transfer_item",
        "patch_transfer_accuracy_item",
        "patch_transfer_unchanged_item",
    }
