"""Updates of whole models: what is pooled, named, averaged over seeds, and refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from interp.errors import CrosstaskError
from interp.relation.matrices import read_matrices
from interp.updates import (
    Comparison,
    angle_table,
    ceiling_table,
    compare,
    long_table,
    norm_table,
    read_updates,
    similarity_table,
)
from interp.updates.comparison import Part
from interp.updates.folders import find_folders
from interp.updates.update import Name
from tests.interp.updates.made import SHAPES, dense, random_factors, write_adapter

TASKS = ("relative_depth", "counting", "jigsaw")


def flat(matrices: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    return np.concatenate([matrices[name].ravel() for name in names])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def matrices() -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """(task, seed) -> module -> dW, at ranks 2, 3 and 4."""
    return {
        (task, seed): dense(random_factors(10 * index + seed, rank=2 + index))
        for index, task in enumerate(TASKS)
        for seed in (0, 1)
    }


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("adapters")
    folders = [
        write_adapter(root / f"{task}-seed{seed}", random_factors(10 * index + seed, rank=2 + index))
        for index, task in enumerate(TASKS)
        for seed in (0, 1)
    ]
    return compare(read_updates(folders))


@pytest.fixture(scope="module")
def table(comparison: Comparison) -> pd.DataFrame:
    return similarity_table(comparison)


def value(table: pd.DataFrame, **where: object) -> float:
    found = table
    for name, wanted in where.items():
        found = found[found[name] == wanted]
    assert len(found) == 1
    return float(found["value"].iloc[0])


@pytest.mark.parametrize(
    ("part", "chosen"),
    [
        (Part(), list(SHAPES)),
        (Part(1), [name for name in SHAPES if "layers.1." in name]),
        (Part("all", "v_proj"), [name for name in SHAPES if "v_proj" in name]),
        (Part(2, "o_proj"), ["layers.2.self_attn.o_proj"]),
    ],
)
@pytest.mark.parametrize("centred", [False, True])
def test_a_pooled_cosine_is_that_of_the_updates_end_to_end(
    table: pd.DataFrame, matrices: dict, part: Part, chosen: list[str], centred: bool
) -> None:
    whole = {key: flat(found, chosen) for key, found in matrices.items()}
    if centred:  # without the mean over the tasks of its own seed
        means = [np.mean([whole[task, seed] for task in TASKS], axis=0) for seed in (0, 1)]
        whole = {(task, seed): found - means[seed] for (task, seed), found in whole.items()}
    expected = np.mean([cosine(whole["counting", a], whole["jigsaw", 1 - a]) for a in (0, 1)])
    where = {"layer": part.layer, "projection": part.projection, "centred": centred, "seeds": "different"}
    assert value(table, measure="cosine", source="jigsaw", target="counting", **where) == pytest.approx(expected)


def test_pairs_of_one_seed_are_kept_apart_from_pairs_of_two(table: pd.DataFrame, matrices: dict) -> None:
    whole = {key: flat(found, list(SHAPES)) for key, found in matrices.items()}
    expected = np.mean([cosine(whole["relative_depth", s], whole["counting", s]) for s in (0, 1)])
    found = value(
        table, measure="cosine", layer="all", projection="all", centred=False, seeds="same",
        source="relative_depth", target="counting",
    )  # fmt: skip
    assert found == pytest.approx(expected)
    assert set(table["pairs"]) == {2}


def test_energy_shares_have_a_direction_and_add_up_over_weights(table: pd.DataFrame, matrices: dict) -> None:
    def share(i: dict[str, np.ndarray], j: dict[str, np.ndarray]) -> float:
        inside = total = 0.0
        for name in SHAPES:
            basis = np.linalg.svd(j[name])[0][:, : np.linalg.matrix_rank(j[name])]
            inside += np.square(basis.T @ i[name]).sum()
            total += np.square(i[name]).sum()
        return inside / total

    one = {"measure": "energy_output", "layer": "all", "projection": "all", "centred": False, "seeds": "same"}
    for source, target in (("counting", "jigsaw"), ("jigsaw", "counting")):
        expected = np.mean([share(matrices[source, s], matrices[target, s]) for s in (0, 1)])
        assert value(table, **one, source=source, target=target) == pytest.approx(expected)


def test_the_published_choice_is_the_last_output_projection(table: pd.DataFrame) -> None:
    paper = table[table["measure"] == "paper"].drop(columns="measure").reset_index(drop=True)
    same = table[(table["measure"] == "cosine") & (table["layer"] == 2) & (table["projection"] == "o_proj")]
    pd.testing.assert_frame_equal(paper, same.drop(columns="measure").reset_index(drop=True))
    assert len(paper) == 3 * 2 * 2  # pairs, kinds of seeds, with and without the mean


def test_ceilings_are_two_seeds_of_a_task(comparison: Comparison, matrices: dict) -> None:
    ceilings = ceiling_table(comparison)
    whole = {key: flat(found, list(SHAPES)) for key, found in matrices.items()}
    for task in TASKS:
        found = value(ceilings, measure="cosine", layer="all", projection="all", task=task, centred=False, pairs=1)
        assert found == pytest.approx(cosine(whole[task, 0], whole[task, 1]))
    directed = ceilings[ceilings["measure"] == "energy_output"]
    assert set(directed["pairs"]) == {2}
    assert (directed["low"] <= directed["value"]).all()


def test_one_seed_has_no_ceiling_and_pairs_of_one_kind(tmp_path: Path) -> None:
    folders = [write_adapter(tmp_path / task, random_factors(i)) for i, task in enumerate(TASKS)]
    found = compare(read_updates(folders))
    assert ceiling_table(found).empty
    table = similarity_table(found)
    assert set(table["seeds"]) == {"same"}
    assert "update_cosine" in set(long_table(table)["measure"])


def test_long_table_has_square_matrices_by_layer(table: pd.DataFrame) -> None:
    long = long_table(table)
    assert list(long.columns) == ["measure", "layer", "source", "target", "value"]
    assert set(long["layer"]) == {"all", 0, 1, 2}
    expected = {"cosine", "paper", "overlap_output", "overlap_input", "energy_output", "energy_input"}
    expected |= {"overlap_output_above_chance", "overlap_input_above_chance"}  # ranks differ
    expected |= {f"{name}_centred" for name in ("cosine", "paper", "energy_output", "energy_input")}
    assert set(long["measure"]) == {f"update_{name}" for name in expected}
    for (measure, layer), matrix in long.groupby(["measure", "layer"]):
        assert len(matrix) == 6, (measure, layer)
        assert not matrix.duplicated(["source", "target"]).any()
        square = matrix.pivot_table("value", "source", "target")
        same = np.allclose(square.to_numpy(), square.to_numpy().T, equal_nan=True)
        assert same == (not measure.startswith("update_energy")), measure
    assert set(long.loc[long["measure"] == "update_paper", "layer"]) == {"all"}


def test_long_table_is_what_the_relation_reads(table: pd.DataFrame, tmp_path: Path) -> None:
    long = long_table(table)
    long.to_csv(tmp_path / "similarity_long.csv", index=False)
    matrices = {(m.measure, m.layer): m for m in read_matrices(tmp_path / "similarity_long.csv")}
    assert len(matrices) == long.groupby(["measure", "layer"]).ngroups
    assert {matrix.family for matrix in matrices.values()} == {"updates"}
    found = matrices["update_energy_output", "1"]
    i, j = found.tasks.index("jigsaw"), found.tasks.index("counting")
    where = (long["measure"] == "update_energy_output") & (long["layer"] == 1)
    row = long[where & (long["source"] == "jigsaw") & (long["target"] == "counting")]
    assert found.cells[i, j] == pytest.approx(row["value"].item())


def test_a_matrix_that_is_not_defined_for_every_pair_is_left_out(tmp_path: Path) -> None:
    part = {name: factors for name, factors in random_factors(2).items() if "layers.1." not in name}
    folders = [write_adapter(tmp_path / name, random_factors(i)) for i, name in enumerate(("a", "b"))]
    folders.append(write_adapter(tmp_path / "c", part))
    long = long_table(similarity_table(compare(read_updates(folders))))
    assert set(long.loc[long["measure"] == "update_cosine", "layer"]) == {"all", 0, 2}


def test_norms_and_ranks_are_those_of_the_matrices(comparison: Comparison, matrices: dict) -> None:
    norms = norm_table(comparison)
    whole = norms[(norms["layer"] == "all") & (norms["projection"] == "all")].set_index(["task", "seed"])
    for key, found in matrices.items():
        assert whole.loc[key, "norm"] == pytest.approx(np.linalg.norm(flat(found, list(SHAPES))))
        assert whole.loc[key, "rank"] == 2 + TASKS.index(key[0])
    mean = np.mean([flat(matrices[task, 1], list(SHAPES)) for task in TASKS], axis=0)
    expected = np.linalg.norm(flat(matrices["jigsaw", 1], list(SHAPES)) - mean)
    assert whole.loc[("jigsaw", 1), "norm_centred"] == pytest.approx(expected)
    one = norms[(norms["layer"] == 0) & (norms["projection"] == "q_proj")].set_index(["task", "seed"])
    energies = np.linalg.svd(matrices["jigsaw", 0]["layers.0.self_attn.q_proj"], compute_uv=False)[:4] ** 2
    shares = energies / energies.sum()
    assert one.loc[("jigsaw", 0), "effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_angles_of_tasks_are_means_over_pairs_of_seeds(comparison: Comparison) -> None:
    angles = angle_table(comparison)
    one = angles[(angles["layer"] == 0) & (angles["projection"] == "q_proj") & (angles["side"] == "output")]
    pair = one[(one["source"] == "relative_depth") & (one["target"] == "counting") & (one["seeds"] == "same")]
    assert list(pair["index"]) == [0, 1]  # of ranks 2 and 3
    assert set(one["pairs"]) == {1, 2}  # two seeds of a task are one pair
    place, names = next(iter(comparison.modules)), comparison.names
    members = [(i, j) for i, j, side in comparison.modules[place].angles if side == "output"]
    chosen = [(i, j) for i, j in members if {names[i].task, names[j].task} == {"relative_depth", "counting"}]
    chosen = [(i, j) for i, j in chosen if names[i].seed == names[j].seed]
    where = next(w for w in comparison.modules if w.name == "layers.0.self_attn.q_proj")
    expected = np.mean([comparison.modules[where].angles[i, j, "output"] for i, j in chosen], axis=0)
    assert list(pair["degrees"]) == pytest.approx(list(expected))
    assert (pair["chance"] > 0).all()


def test_a_task_with_more_seeds_has_no_more_weight_in_the_common_mean(tmp_path: Path) -> None:
    given = [("counting", 0), ("counting", 1), ("counting", 2), ("jigsaw", 0)]
    folders = [
        write_adapter(tmp_path / f"{task}-seed{seed}", random_factors(i)) for i, (task, seed) in enumerate(given)
    ]
    found = compare(read_updates(folders))
    whole = {
        Name(*name): np.concatenate([m.ravel() for m in dense(random_factors(i)).values()])
        for i, name in enumerate(given)
    }
    mean = (np.mean([whole[Name("counting", seed)] for seed in range(3)], axis=0) + whole[Name("jigsaw", 0)]) / 2
    norms = norm_table(found)
    norms = norms[(norms["layer"] == "all") & (norms["projection"] == "all")].set_index(["task", "seed"])
    for name, update in whole.items():
        assert norms.loc[(name.task, name.seed), "norm_centred"] == pytest.approx(np.linalg.norm(update - mean))


def test_where_a_seed_begins_does_not_set_updates_of_two_seeds_against_each_other(tmp_path: Path) -> None:
    """All tasks of a seed have nearly one A, as adapters have: what it makes common to a seed is taken off there."""
    starts = [random_factors(100 + seed) for seed in (0, 1)]
    folders = []
    for index, task in enumerate(TASKS):
        for seed, start in enumerate(starts):
            own = random_factors(10 * index + seed)
            factors = {name: (start[name][0] + b, start[name][1] + 0.1 * a) for name, (b, a) in own.items()}
            folders.append(write_adapter(tmp_path / f"{task}-seed{seed}", factors))
    found = compare(read_updates(folders))
    table = similarity_table(found)
    table = table[(table["layer"] == "all") & (table["projection"] == "all") & (table["measure"] == "cosine")]
    rows = table[table["centred"] & (table["seeds"] == "different")]
    assert rows["chance"].abs().max() < 1e-12
    assert rows["value"].abs().max() < 0.15  # -0.5 if what the seeds have in common were taken off both
    same = table[table["centred"] & (table["seeds"] == "same")]
    assert same["chance"].to_numpy() == pytest.approx(-1 / 2, abs=0.1)


def test_weights_that_one_adapter_lacks_count_as_zero(tmp_path: Path) -> None:
    fewer = {name: factors for name, factors in random_factors(1, rank=4).items() if "q_proj" in name}
    folders = [write_adapter(tmp_path / "a", random_factors(0)), write_adapter(tmp_path / "b", fewer)]
    table = similarity_table(compare(read_updates(folders)))
    one, other = dense(random_factors(0)), dense(fewer)
    inner = sum(np.vdot(one[name], other[name]) for name in other)
    norms = [np.sqrt(sum(np.square(m).sum() for m in found.values())) for found in (one, other)]
    where = {"layer": "all", "projection": "all", "centred": False}
    assert value(table, measure="cosine", **where) == pytest.approx(inner / norms[0] / norms[1])
    own = table[(table["measure"] == "cosine") & (table["projection"] == "v_proj")]
    assert set(own["centred"]) == {True}  # undefined as they are, so left out
    assert table[table["measure"] == "a_alone"].query("layer == 'all' and projection == 'all'").empty


def test_adapters_saved_under_other_wrappers_meet(tmp_path: Path) -> None:
    folders = [
        write_adapter(tmp_path / "a", random_factors(0)),
        write_adapter(tmp_path / "b", random_factors(0), prefix="base_model.model.language_model.model."),
    ]
    assert value(
        similarity_table(compare(read_updates(folders))), measure="cosine", layer="all", projection="all", centred=False
    ) == pytest.approx(1)


def test_an_untrained_adapter_is_refused_by_name(tmp_path: Path) -> None:
    zero = {name: (torch.zeros_like(b), a) for name, (b, a) in random_factors(0).items()}
    folders = [write_adapter(tmp_path / "trained", random_factors(1)), write_adapter(tmp_path / "fresh", zero)]
    with pytest.raises(CrosstaskError, match=r"'fresh \(seed 0\)'.*changes nothing.*never trained"):
        compare(read_updates(folders))


def test_updates_without_a_common_weight_are_refused(tmp_path: Path) -> None:
    other = random_factors(1, shapes={"blocks_of_something.0.q": (12, 12)})
    folders = [write_adapter(tmp_path / "a", random_factors(0)), write_adapter(tmp_path / "b", other)]
    with pytest.raises(CrosstaskError, match=r"changes no weight that another changes"):
        compare(read_updates(folders))


def test_shapes_of_another_model_are_refused_with_the_weight(tmp_path: Path) -> None:
    other = random_factors(1, shapes={name: (out, 16) for name, (out, _) in SHAPES.items()})
    folders = [write_adapter(tmp_path / "a", random_factors(0)), write_adapter(tmp_path / "b", other)]
    with pytest.raises(CrosstaskError, match=r"at 'layers\.0\.self_attn\.o_proj': updates of shapes"):
        compare(read_updates(folders))


def test_two_folders_of_one_name_are_both_named_and_can_be_given_names(tmp_path: Path) -> None:
    one = write_adapter(tmp_path / "x" / "counting", random_factors(0))
    two = write_adapter(tmp_path / "y" / "counting", random_factors(1))
    with pytest.raises(CrosstaskError, match=rf"{one} and {two} are both called 'counting \(seed 0\)'.*counting@1="):
        read_updates([one, two])
    found = read_updates([f"counting@0={one}", f"counting@7={two}"])
    assert [update.name for update in found] == [Name("counting", 0), Name("counting", 7)]
    with pytest.raises(CrosstaskError, match="1 updates were given"):
        read_updates([one])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Relative_Depth", Name("relative_depth")),
        ("RD-seed3", Name("relative_depth", 3)),
        ("RD/seed12/adapter", Name("relative_depth", 12)),
        ("my task/checkpoint-500", Name("my task")),
        ("qwen-lora_seed_2/final", Name("qwen-lora", 2)),
    ],
)
def test_folders_from_elsewhere_are_called_by_their_path(tmp_path: Path, path: str, name: Name) -> None:
    assert find_folders(write_adapter(tmp_path / path, random_factors(0)))[0].name == name


def test_the_runners_record_names_task_and_seed(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "run" / "adapter", random_factors(0))
    record = {"config": {"task": "RD/yes_no", "seed": 4}, "strategy": "lora", "fingerprint": "a" * 64, "model": "m"}
    (folder / "run.json").write_text(json.dumps(record))
    found = find_folders(tmp_path / "run")  # the run's folder stands for its adapter
    assert [one.name for one in found] == [Name("relative_depth", 4)]
    other = write_adapter(tmp_path / "other", random_factors(1))
    (other / "run.json").write_text(json.dumps(record | {"fingerprint": "b" * 64}))
    with pytest.raises(CrosstaskError, match=r"aaaaaaaaaaaa.*bbbbbbbbbbbb.*cannot be compared"):
        read_updates([f"a={folder}", f"b={other}"])


def test_a_folder_stands_for_all_adapters_below_it(tmp_path: Path) -> None:
    for index, name in enumerate(("counting/seed0", "counting/seed1", "jigsaw", "RD-seed2/run/adapter")):
        write_adapter(tmp_path / name, random_factors(index))
    (tmp_path / "notes").mkdir()
    found = read_updates([tmp_path])
    assert {update.name for update in found} == {
        Name("counting", 0), Name("counting", 1), Name("jigsaw", 0), Name("relative_depth", 2)
    }  # fmt: skip
    write_adapter(tmp_path / "more" / "jigsaw", random_factors(9))
    with pytest.raises(CrosstaskError, match="are both called 'jigsaw"):
        read_updates([tmp_path])


def test_another_base_model_by_name_alone_is_a_warning(tmp_path: Path) -> None:
    one = write_adapter(tmp_path / "a", random_factors(0), base_model_name_or_path="org/VLM-3B")
    same = write_adapter(tmp_path / "b", random_factors(1), base_model_name_or_path="/models/vlm-3b")
    read_updates([one, same])
    other = write_adapter(tmp_path / "c", random_factors(2), base_model_name_or_path="org/VLM-7B")
    with pytest.warns(UserWarning, match="'org/VLM-3B'.*'org/VLM-7B'"):
        read_updates([one, other])


def make_matrix(root: Path) -> Path:
    """The trainings of a matrix, two at two shares of their steps and one that is not finished."""
    for index, (task, seed) in enumerate((("relative_depth", 0), ("counting", 1))):
        job = root / "jobs" / "train" / task / f"seed{seed}"
        write_adapter(job / "run" / "adapter", random_factors(index))
        write_adapter(job / "run" / "snapshots" / "0.5", random_factors(index + 10))
        (job / "config.json").write_text(json.dumps({"source": task, "seed": seed, "fraction": 1.0}))
        payload = {"adapters": {"1": "adapter", "0.5": "snapshots/0.5"}, "steps": 4}
        (job / "journal.jsonl").write_text(json.dumps({"key": "trained", "payload": payload}) + "\n")
    unfinished = root / "jobs" / "train" / "jigsaw" / "seed0"
    unfinished.mkdir(parents=True)
    (unfinished / "journal.jsonl").write_text("")
    return root


def test_a_matrix_gives_its_finished_trainings_at_a_share(tmp_path: Path) -> None:
    root = make_matrix(tmp_path)
    found = read_updates([root])
    assert [update.name for update in found] == [Name("relative_depth", 0), Name("counting", 1)]
    half = read_updates([root], fraction=0.5)
    assert [update.folder.name for update in half] == ["0.5", "0.5"]
    with pytest.raises(CrosstaskError, match=r"no checkpoint at 0\.3"):
        read_updates([root], fraction=0.3)


def test_folders_without_an_update_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrosstaskError, match=r"empty' holds none of adapter_config\.json"):
        read_updates([tmp_path / "empty"], least=1)
    with pytest.raises(CrosstaskError, match=r"nowhere' is no folder"):
        read_updates([tmp_path / "nowhere"])
    write_adapter(tmp_path / "outer" / "deep" / "inner", random_factors(0))
    with pytest.raises(CrosstaskError, match=r"there is one in .*inner"):
        read_updates([f"counting={tmp_path / 'outer'}"], least=1)
    (tmp_path / "frozen").mkdir()
    (tmp_path / "frozen" / "run.json").write_text(json.dumps({"strategy": "freeze", "config": {"task": "RD"}}))
    with pytest.raises(CrosstaskError, match="strategy 'freeze', which changes nothing"):
        read_updates([tmp_path / "frozen"], least=1)
    (tmp_path / "none").mkdir()
    save_file({}, tmp_path / "none" / "delta.safetensors")
    with pytest.raises(CrosstaskError, match="nothing was trained"):
        read_updates([tmp_path / "none"], least=1)


def test_what_a_training_at_work_removes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(tmp_path / "counting", random_factors(0))
    checkpoint = tmp_path / "jigsaw" / "run" / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    scandir = os.scandir

    def late(path: str | Path = ".") -> Any:
        if Path(path) == checkpoint and checkpoint.exists():
            checkpoint.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", late)
    assert [one.name for one in find_folders(tmp_path)] == [Name("counting")]
    assert not checkpoint.exists()


def test_trainings_of_a_matrix_at_a_share_of_their_steps(tmp_path: Path) -> None:
    """Checkpoints of one training, or trainings of their own by share."""
    trainings = tmp_path / "jobs" / "train"

    def training(folder: Path, task: str, fraction: float, adapters: dict[str, str]) -> None:
        for name in adapters.values():
            write_adapter(folder / "run" / name, random_factors(0))
        (folder / "config.json").write_text(json.dumps({"source": task, "seed": 1, "fraction": fraction}))
        payload = {"key": "trained", "payload": {"adapters": adapters, "steps": 2}}
        (folder / "journal.jsonl").write_text(json.dumps(payload) + "\n")

    training(trainings / "counting" / "seed1", "counting", 1.0, {"0.5": "snapshots/0.5", "1": "adapter"})
    for fraction, share in ((0.5, "050"), (1.0, "100")):
        training(trainings / "jigsaw" / "seed1" / share, "jigsaw", fraction, {"1": "adapter"})
    found = {one.name: one.folder.relative_to(trainings).as_posix() for one in find_folders(tmp_path, fraction=0.5)}
    assert found == {
        Name("counting", 1): "counting/seed1/run/snapshots/0.5",
        Name("jigsaw", 1): "jigsaw/seed1/050/run/adapter",
    }
