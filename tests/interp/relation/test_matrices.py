"""Task matrices in every form that users bring them in, brought to common tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.errors import CrosstaskError
from interp.relation.alignment import align, read_transfer_matrix
from interp.relation.covariates import covariate
from interp.relation.matrices import TaskMatrix, family_of, matrices_of, pooled, read_matrices
from interp.relation.study import gather
from interp.tasks.perception.wording import WORDINGS
from interp.transfer.names import TASKS, identity
from tests.transfer_data import accuracy_rows, factor_rows, matrix_folder, write_csv

NAMES = ("Relative_Depth", "JG", "counting", "Art Style", "my own task", "Zebra")


def long_rows(names: tuple[str, ...] = NAMES, *, layers: int = 1, measure: str = "cosine") -> list[dict]:
    values = np.random.default_rng(0).normal(size=(layers, len(names), len(names)))
    return [
        {"measure": measure, "layer": layer, "source": a, "target": b, "value": values[layer, i, j]}
        for layer in range(layers)
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]


def square(path: Path, names: tuple[str, ...] = NAMES) -> Path:
    values = np.random.default_rng(0).normal(size=(len(names), len(names)))
    pd.DataFrame(values, names, names).to_csv(path)
    return path


def test_long_and_square_files_and_tables_give_the_same_matrix(tmp_path: Path) -> None:
    rows = long_rows()
    table = pd.DataFrame(rows)
    wide = table.pivot_table(index="source", columns="target", values="value")
    files = [write_csv(tmp_path / "long.csv", rows), square(tmp_path / "square.csv")]
    found = [read_matrices(path)[0] for path in files] + [matrices_of(table)[0], matrices_of(wide)[0]]
    for matrix in found:
        assert matrix.tasks == ("art_style", "relative_depth", "jigsaw", "counting", "my own task", "Zebra")
        assert matrix.of(matrix.tasks) == pytest.approx(found[0].of(found[0].tasks))
    assert [matrix.measure for matrix in found] == ["cosine", "square", "cosine", "similarity"]
    assert found[0].cells[0, 1] == pytest.approx(
        table.query("source == 'Art Style' & target == 'Relative_Depth'")["value"].item()
    )


def test_rows_may_come_in_any_order(tmp_path: Path) -> None:
    rows = long_rows(layers=2)
    mixed = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    one, two = (
        {m.layer: m.cells for m in read_matrices(write_csv(tmp_path / f"{n}.csv", r))}
        for n, r in (("a", rows), ("b", mixed))
    )
    assert one.keys() == two.keys() == {"0", "1"}
    for layer, cells in one.items():
        assert np.array_equal(cells, two[layer])


def test_a_folder_gives_all_its_files(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", long_rows(layers=3))
    square(tmp_path / "b.csv")
    found = read_matrices(tmp_path)
    assert [(m.measure, m.layer) for m in found] == [("cosine", "0"), ("cosine", "1"), ("cosine", "2"), ("b", "all")]


def test_one_direction_of_each_pair_stands_for_both(tmp_path: Path) -> None:
    rows = [row for row in long_rows() if NAMES.index(row["source"]) < NAMES.index(row["target"])]
    (found,) = read_matrices(write_csv(tmp_path / "half.csv", rows))
    assert found.mirrored
    assert np.isfinite(found.of(found.tasks)[~np.eye(6, dtype=bool)]).all()
    assert np.array_equal(found.cells, found.cells.T, equal_nan=True)
    (some,) = read_matrices(write_csv(tmp_path / "some.csv", rows[1:]))
    assert not some.mirrored
    with pytest.raises(CrosstaskError, match="no value for"):
        some.of(some.tasks)


def test_missing_and_nan_cells_are_named(tmp_path: Path) -> None:
    rows = long_rows()
    rows[1]["value"], rows[8]["value"] = "nan", ""
    (found,) = read_matrices(write_csv(tmp_path / "holes.csv", rows))
    with pytest.raises(CrosstaskError, match=r"holes\.csv has no value for .*Relative_Depth -> JG") as error:
        found.of(found.tasks)
    assert "JG -> counting" in str(error.value)
    assert np.isfinite(found.of([t for t in found.tasks if t != "jigsaw"])[0, 1])  # the holes are of other tasks


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("source,target,value\n", "no rows"),
        ("source,target,value\na,b,x\n", "line 2: value is 'x'"),
        ("source,target,value\na,b,1\na,b,2\n", "line 3: source 'a', target 'b' was there already"),
        ("source,target,value\na,b,inf\n", "finite number"),
        ("source,target\na,b\n", "no column value"),
        ("source;target;value\na;b;1\n", "separated by semicolons; expected commas"),
        (",a,b\na,1,2\nb,1\n", "line 3: 1 values after 'b'; expected 2"),
        (",a,b\nc,1,2\nd,1,2\n", "no name of the first column"),
        (",a,a\na,1,2\n", "'a' is in the first row twice"),
        (",JG,b\njigsaw,1,2\nJigsaw,1,2\n", "'Jigsaw' is in the first column twice"),
        (",a,b\na,1,two\nb,3,4\n", "line 2: 'two' is no number"),
        ("x\n1\n", "no columns source, target, value among x"),
    ],
)
def test_files_that_are_no_matrix_say_why_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(CrosstaskError) as error:
        read_matrices(path)
    assert said in str(error.value)
    assert "bad.csv" in str(error.value)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CrosstaskError, match=r"nowhere\.csv does not exist"):
        read_matrices(tmp_path / "nowhere.csv")
    with pytest.raises(CrosstaskError, match="has no CSV file"):
        read_matrices(tmp_path)


def test_pooling_is_the_mean_of_layers_of_one_spread() -> None:
    rows = pd.DataFrame(long_rows(layers=2))
    rows.loc[rows["layer"] == 1, "value"] *= 1000
    layers = matrices_of(rows)
    (found,) = pooled(layers)
    mask = ~np.eye(6, dtype=bool)
    scaled = [(m.cells - m.cells[mask].mean()) / m.cells[mask].std() for m in layers]
    assert found.layer == "pooled"
    assert found.cells[mask] == pytest.approx(np.mean(scaled, axis=0)[mask])
    assert pooled(layers[:1]) == []
    whole = matrices_of(pd.DataFrame(long_rows()).drop(columns="layer"))
    assert pooled([*layers, *whole]) == []  # the measure has its summary already


def test_a_layer_without_spread_does_not_spoil_the_pooled_one() -> None:
    rows = pd.DataFrame(long_rows(layers=3))
    plain = pooled(matrices_of(rows[rows["layer"] > 0]))[0]
    rows.loc[rows["layer"] == 0, "value"] = 1.0
    assert pooled(matrices_of(rows))[0].cells == pytest.approx(plain.cells, nan_ok=True)


def test_families_follow_from_the_name_or_from_what_is_said() -> None:
    names = ("task_vector_cosine", "patch_transfer", "lora_cosine", "Gradient gain", "logme")
    assert [family_of(name) for name in names] == ["task vectors", "task vectors", "updates", "updates", "other"]
    table = pd.DataFrame(long_rows())
    found = gather({"updates": table, "task vectors": table, "other": table.assign(measure="depth")})
    assert [(m.measure, m.family) for m in found] == [
        ("updates: cosine", "updates"),
        ("task vectors: cosine", "task vectors"),
        ("depth", "other"),
    ]


def test_measures_of_one_name_in_two_files_are_told_apart(tmp_path: Path) -> None:
    one, two = (write_csv(tmp_path / f"{name}.csv", long_rows()) for name in ("base", "tuned"))
    assert [m.measure for m in gather([one, two])] == ["base: cosine", "tuned: cosine"]
    with pytest.raises(CrosstaskError, match="is there twice"):
        gather([one, one])


def named(names: tuple[str, ...]) -> TaskMatrix:
    return matrices_of(pd.DataFrame(long_rows(names)))[0]


def test_tasks_are_aligned_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    transfer = read_transfer_matrix(square(tmp_path / "t.csv", (*NAMES, "Spatial_Relation")))
    found = align(transfer, [named((*NAMES, "zebras", "FD"))])
    assert found.short == ("AS", "RD", "JG", "CN", "my own task", "Zebra")
    assert found.similarities.shape == (1, 6, 6)
    assert found.transfer == pytest.approx(transfer.of(found.tasks)[0])
    said = " ".join(found.remarks)
    assert "Spatial_Relation" in said
    assert "Left out, since the transfer matrix does not have them: FD, zebras" in said
    assert "is 'zebras' 'Zebra'?" in said
    assert align(transfer, [named(NAMES)], without=["jigsaw"]).short == ("AS", "RD", "CN", "my own task", "Zebra")


def test_too_few_common_tasks_are_refused(tmp_path: Path) -> None:
    transfer = read_transfer_matrix(square(tmp_path / "t.csv"))
    with pytest.raises(
        CrosstaskError, match=r"4 tasks of .* are in every matrix; expected 5 or more\. Left out"
    ) as error:
        align(transfer, [named(("JG", "CN", "AS", "Zebra", "lion"))])
    assert "my own task" in str(error.value)
    with pytest.raises(CrosstaskError, match=r"^no tasks"):
        align(transfer, [named(("a", "b", "c"))])
    with pytest.raises(CrosstaskError, match="'lion' is to be left out, but"):
        align(transfer, [named(NAMES)], without=["lion"])


def test_transfer_is_read_in_every_form(tmp_path: Path) -> None:
    factors = write_csv(tmp_path / "factors.csv", factor_rows(runs=3))
    read = read_transfer_matrix(factors)
    assert read.runs.shape == (3, 5, 5)
    frame = read_transfer_matrix(pd.read_csv(factors), name="mine")
    assert frame.name == "mine"
    assert frame.tasks == read.tasks
    assert frame.runs == pytest.approx(read.runs)
    renamed = pd.read_csv(factors).rename(
        columns={"ft_task": "source", "task": "target", "perfection_gap_factor": "value"}
    )
    renamed.to_csv(tmp_path / "long.csv", index=False)
    assert read_transfer_matrix(tmp_path / "long.csv").runs == pytest.approx(read.runs)
    mean = pd.DataFrame(read.runs.mean(0), read.tasks, read.tasks)
    mean.to_csv(tmp_path / "mean.csv")
    assert read_transfer_matrix(tmp_path / "mean.csv").runs == pytest.approx(read.runs.mean(0)[None])
    accuracies = write_csv(tmp_path / "accuracies.csv", accuracy_rows())
    assert read_transfer_matrix(accuracies, measure="log_odds").what == "log_odds"


def test_a_matrix_folder_brings_its_model_steps_and_norms(tmp_path: Path) -> None:
    folder = matrix_folder(tmp_path / "matrix", tasks=("relative_depth", "jigsaw", "counting", "art_style", "x"))
    table = pd.read_csv(folder / "cells.csv")
    table["update_norm"] = np.where(table["source"] == "baseline", np.nan, 1.0 + table["source"].str.len())
    table.to_csv(folder / "cells.csv", index=False)
    read = read_transfer_matrix(folder)
    assert read.name == "tiny"
    assert set(read.steps.values()) == {100.0}
    assert read.norms["jigsaw"] == 7.0
    assert "random_key" not in read.tasks
    norms = covariate("norms", tasks=read.tasks, norms=read.norms)
    at = [read.tasks.index(task) for task in ("jigsaw", "counting")]
    assert norms.cells[at[0], at[1]] == pytest.approx(-abs(np.log(7 / 9)))


def test_what_a_transfer_matrix_cannot_be_is_refused(tmp_path: Path) -> None:
    path = square(tmp_path / "t.csv")
    with pytest.raises(CrosstaskError, match="is taken as it is"):
        read_transfer_matrix(path, measure="log_odds")
    two = write_csv(tmp_path / "two.csv", long_rows(layers=2))
    with pytest.raises(CrosstaskError, match="holds 2 matrices"):
        read_transfer_matrix(two)
    uneven = pd.DataFrame(factor_rows()).query("not (seed == 'seed_1' and (ft_task == 'Jigsaw' or task == 'Jigsaw'))")
    with pytest.raises(CrosstaskError, match="different tasks"):
        read_transfer_matrix(uneven)


def groups(name: str) -> set[frozenset[str]]:
    """Groups of two tasks or more that share a built-in covariate."""
    tasks = [task.name for task in TASKS]
    cells = covariate(name, tasks=tasks).of(tasks)
    found = {frozenset(TASKS[j].abbreviation for j in np.flatnonzero(row)) for row in cells}
    return {group for group in found if len(group) > 1}


def test_built_in_covariates_are_the_published_facts() -> None:
    assert groups("format") == {frozenset({"VS", "AS", "JG"}), frozenset({"VC", "SC", "FC"})}
    assert groups("images") == {
        frozenset({"VS", "AS", "JG"}),
        frozenset({"VC", "SC", "FC", "MR"}),
        frozenset({"RD", "RR", "SR", "CN", "OL"}),
    }
    assert groups("options") == {
        frozenset({"VS", "AS", "JG", "RD", "SR", "MR", "OL"}),
        frozenset({"VC", "SC", "FC", "CN", "FD"}),
    }
    assert groups("marks") == {frozenset({"RD", "RR", "VC", "SC", "FC"})}
    names = ["semantic_correspondence", "functional_correspondence", "counting"]
    brief, described = (covariate("words", tasks=names, wording=wording).cells for wording in WORDINGS)
    for cells in (brief, described):
        assert np.diag(cells) == pytest.approx(1)
        assert cells[0, 1] > cells[0, 2]
    assert described[0, 1] > brief[0, 1]  # both begin with what the two pictures show
    dose = covariate("dose", tasks=["relative_depth", "forensic_detection"])
    assert dose.cells[0, 1] == pytest.approx(-np.log(131.25))


def test_covariates_are_read_from_columns_matrices_and_tables(tmp_path: Path) -> None:
    tasks = [identity(name) for name in NAMES]
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("task,level\n" + "".join(f"{name},{i * i}\n" for i, name in enumerate(NAMES)))
    found = covariate(numbers, tasks=tasks)
    assert found.measure == "level"
    assert found.cells[1, 3] == -8
    words = tmp_path / "words.csv"
    words.write_text("task,kind\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(NAMES)))
    assert covariate(f"parity={words}", tasks=tasks).measure == "parity"
    assert covariate(words, tasks=tasks).cells[0].tolist() == [1, 0, 1, 0, 1, 0]
    assert covariate(pd.read_csv(words), tasks=tasks).cells[0].tolist() == [1, 0, 1, 0, 1, 0]
    assert covariate(square(tmp_path / "depth.csv"), tasks=tasks).measure == "depth"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("colour", "no covariate and no file 'colour'; expected one of format, options"),
        ("format", "not of my own task, Zebra; give a CSV"),
        ("norms", "needs the norms of weight changes of relative_depth"),
        ("dose", "needs the training steps of my own task"),
        ("short.csv", "has no level of jigsaw"),
        ("two.csv", "holds 2 matrices"),
    ],
)
def test_covariates_that_cannot_be_had_are_refused(tmp_path: Path, given: str, said: str) -> None:
    (tmp_path / "short.csv").write_text("task,level\nRelative_Depth,1\n")
    write_csv(tmp_path / "two.csv", long_rows(layers=2))
    path = tmp_path / given if given.endswith(".csv") else given
    with pytest.raises(CrosstaskError) as error:
        covariate(path, tasks=[identity(name) for name in NAMES])
    assert said in str(error.value)
