"""Every form of a measured matrix is read alike, and what is wrong with a file is said with its line."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.errors import CrosstaskError
from interp.transfer.edges import paired_tests
from interp.transfer.matrix_folder import plain_sources
from interp.transfer.tables import CELL_COLUMNS, ITEM_COLUMNS, Measured, read_transfer
from tests.transfer_data import TASKS, accuracy_rows, factor_rows, matrix_folder, write_csv


def read(path: Path, **options: Any) -> Measured:
    return list(read_transfer(path, **options).values())[-1]


def same(one: Measured, other: Measured) -> None:
    assert (one.seeds, one.sources, one.targets) == (other.seeds, other.sources, other.targets)
    for name in ("pgf", "accuracy", "baseline", "n"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a == pytest.approx(b)


# What is read


def test_cells_are_where_their_names_say(tmp_path: Path) -> None:
    rows = factor_rows()
    measured = read(write_csv(tmp_path / "f.csv", rows))
    assert measured.tasks == ("art_style", "relative_depth", "jigsaw", "counting", "my own task")
    assert [measured.label(task) for task in measured.tasks] == [
        "Art_Style", "Relative_Depth", "Jigsaw", "Counting", "my own task"
    ]  # fmt: skip
    for row in random.Random(0).sample(rows, 10):
        i, j = (TASKS.index(row[column]) for column in ("ft_task", "task"))
        names = ("relative_depth", "jigsaw", "counting", "art_style", "my own task")
        cell = measured.pgf[
            measured.seeds.index(row["seed"]), measured.sources.index(names[i]), measured.targets.index(names[j])
        ]
        assert cell == row["perfection_gap_factor"]


@pytest.mark.parametrize("change", ["shuffled", "bom", "crlf", "columns", "more", "blank", "quoted", "cased"])
def test_what_does_not_matter_does_not_matter(tmp_path: Path, change: str) -> None:
    rows = factor_rows()
    plain = read(write_csv(tmp_path / "plain.csv", rows))
    options: dict[str, Any] = {}
    if change == "shuffled":
        random.Random(1).shuffle(rows)
    elif change == "bom":
        options["encoding"] = "utf-8-sig"
    elif change == "crlf":
        options["lineterminator"] = "\r\n"
    elif change == "columns":
        rows = [dict(reversed(row.items())) for row in rows]
    elif change == "more":
        rows = [{"": n, **row, "note": "x"} for n, row in enumerate(rows)]
    elif change == "quoted":
        options["quoting"] = csv.QUOTE_ALL
    path = write_csv(tmp_path / "changed.csv", rows, **options)
    if change == "blank":
        path.write_text(path.read_text().replace("\n", "\n\n"))
    elif change == "cased":
        path.write_text(path.read_text().replace("seed,ft_task", " Seed , FT_task"))
    same(plain, read(path))


def test_a_task_may_be_spelt_in_several_ways(tmp_path: Path) -> None:
    rows = factor_rows()
    plain = read(write_csv(tmp_path / "plain.csv", rows))
    short = {"Relative_Depth": "RD", "Jigsaw": "jigsaw", "Art_Style": "Art Style"}
    mixed = read(
        write_csv(tmp_path / "m.csv", [row | {"ft_task": short.get(row["ft_task"], row["ft_task"])} for row in rows])
    )
    same(plain, mixed)
    assert mixed.label("relative_depth") == "Relative_Depth"  # as the targets spell it


def test_accuracies_have_one_baseline_or_one_for_every_run(tmp_path: Path) -> None:
    rows = accuracy_rows()
    one = read(write_csv(tmp_path / "one.csv", rows))
    assert one.baseline.shape == (2, 5)
    assert one.n.tolist() == [100] * 5
    base = [row for row in rows if row["ft_task"] == "baseline"]
    tuned = [row for row in rows if row["ft_task"] != "baseline"]
    every = [row | {"seed": run, "ft_task": ""} for run in (0, 1) for row in base]
    same(one, read(write_csv(tmp_path / "every.csv", every + tuned)))
    with pytest.raises(CrosstaskError, match=r"rows of the seeds 0, 7; expected one row, or one for each of 0, 1"):
        read(write_csv(tmp_path / "w.csv", [row | {"seed": 7} if row["seed"] == 1 else row for row in every] + tuned))


def test_controls_and_further_targets_stay_out_of_the_square(tmp_path: Path) -> None:
    rows = factor_rows([*TASKS, "caption", "order"])
    rows = [row for row in rows if row["ft_task"] != "order" and row["task"] != "caption"]
    measured = read(write_csv(tmp_path / "f.csv", rows))
    assert measured.controls == ("caption",)
    assert measured.extras == ("order",)
    assert measured.pgf.shape == (3, 6, 6)
    assert measured.square(measured.pgf).shape == (3, 5, 5)
    row = next(
        row for row in rows if row["seed"] == "seed_1" and row["ft_task"] == "Jigsaw" and row["task"] == "Counting"
    )
    place = (1, measured.tasks.index("jigsaw"), measured.tasks.index("counting"))
    assert measured.square(measured.pgf)[place] == row["perfection_gap_factor"]


def test_fractions_are_read_apart(tmp_path: Path) -> None:
    rows = [row | {"fraction": fraction} for fraction in (1, 0.25) for row in factor_rows(seed=int(4 * fraction))]
    found = read_transfer(write_csv(tmp_path / "f.csv", rows))
    assert list(found) == [0.25, 1.0]
    assert found[0.25].pgf != pytest.approx(found[1.0].pgf)


# Our own folder


@pytest.mark.parametrize("parquet", [False, True])
def test_matrix_folder_is_read_with_its_items(tmp_path: Path, parquet: bool) -> None:
    folder = matrix_folder(tmp_path / "m", parquet=parquet)
    found = read_transfer(folder)
    measured = found[1.0]
    assert (measured.model, measured.controls, measured.extras) == (
        "tiny",
        ("caption", "random_key"),
        ("object_order",),
    )
    assert measured.items is not None
    assert list(measured.items.columns) == list(ITEM_COLUMNS)
    right = measured.items.groupby(["source", "seed", "target"])["correct"].mean()
    for i, source in enumerate(measured.sources):
        for j, target in enumerate(measured.targets):
            assert measured.accuracy[1, i, j] == pytest.approx(right[source, "1", target])
    assert measured.baseline[0] == pytest.approx([right["baseline", "0", target] for target in measured.targets])
    assert measured.steps.tolist() == [100] * 6
    assert found[0.5].steps.tolist() == [50] * 6
    same(measured, read(folder / "cells.csv"))


def test_forms_are_pooled_by_their_items_or_chosen(tmp_path: Path) -> None:
    folder = matrix_folder(tmp_path / "m", forms=("marks", "words"))
    cells = pd.read_csv(folder / "cells.csv")
    cells.loc[cells["form"] == "marks", "n"] = 180  # three times as many as words
    cells.to_csv(folder / "cells.csv", index=False)
    for name in ("items.csv.gz",):
        (folder / name).unlink()
    pooled, marks, words = read(folder), read(folder, form="marks"), read(folder, form="words")
    assert pooled.accuracy == pytest.approx((3 * marks.accuracy + words.accuracy) / 4)
    assert pooled.n.tolist() == [240] * 5
    with pytest.raises(CrosstaskError, match="no form 'yes'; it has marks, words"):
        read(folder, form="yes")


def edit(folder: Path, change: Any, name: str = "cells.csv") -> None:
    table = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
    change(table).to_csv(folder / name, index=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="brier"), "no column brier"),
        (lambda t: t.assign(model=["a", *["b"] * (len(t) - 1)]), "holds the models a, b; expected one"),
        (lambda t: pd.concat([t, t.tail(1)]), "was in line"),
        (lambda t: t[t["source"] != "baseline"], "no baseline for"),
        (lambda t: t[(t["source"] != "jigsaw") | (t["form"] != "words")], "expected the same forms for every model"),
        (lambda t: t[(t["source"] != "jigsaw") | (t["seed"] != "1")], "cells are missing: seed '1', source 'jigsaw'"),
        (lambda t: t.assign(accuracy="61.2"), "line 2: accuracy is 61.2; expected at most 1.*per cent"),
        (lambda t: t.assign(fraction="100"), "fraction is 100; expected at most 1: looks like per cent"),
    ],
)
def test_damaged_cells_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    folder = matrix_folder(tmp_path / "m")
    edit(folder, change)
    with pytest.raises(CrosstaskError, match=said):
        read(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns=["key", "rule"]), "no column key, rule; expected"),
        (lambda t: pd.concat([t, t.tail(1)]), "is there twice"),
        (lambda t: t.assign(correct=["2", *t["correct"][1:]]), "row 1: correct is '2'; expected 1, 0 or a share"),
    ],
)
def test_damaged_items_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    folder = matrix_folder(tmp_path / "m", runs=1, fractions=(1.0,), n=10)
    edit(folder, change, "items.csv.gz")
    with pytest.raises(CrosstaskError, match=said):
        read(folder)


def test_sources_that_name_their_form_are_the_target_unless_there_are_two(tmp_path: Path) -> None:
    folder = matrix_folder(tmp_path / "m")
    plain = read(folder)
    for name in ("cells.csv", "items.csv.gz"):
        edit(folder, lambda t: t.assign(source=t["source"].replace({"jigsaw": "jigsaw/words"})), name)
    named = read(folder)
    same(plain, named)
    assert set(named.items["source"]) == set(plain.items["source"])
    assert plain_sources({"jigsaw/words", "jigsaw/pictures", "JG", "a/b"}, {"jigsaw", "a"}) == {"a/b": "a"}


def test_numbers_may_be_right_in_part_and_have_no_log_p(tmp_path: Path) -> None:
    folder = matrix_folder(tmp_path / "m", runs=1)

    def partly(table: pd.DataFrame) -> pd.DataFrame:
        rows = table["target"] == "object_order"
        for column in ("log_p_key", "mean_log_p"):
            if column in table:
                table.loc[rows, column] = ""
        if "correct" in table:
            table.loc[rows, "correct"] = table.loc[rows, "correct"].replace({"1": "0.7"})
        return table

    for name in ("cells.csv", "items.csv.gz"):
        edit(folder, partly, name)
    measured = read(folder)
    column = measured.targets.index("object_order")
    assert np.isnan(measured.mean_log_p[:, :, column]).all()
    assert np.isfinite(measured.square(measured.mean_log_p)).all()
    tests = paired_tests(measured)
    assert 0 < tests["jigsaw", "object_order"]["p"] <= 1


def test_broken_items_and_folders_without_cells_are_refused(tmp_path: Path) -> None:
    folder = matrix_folder(tmp_path / "m", runs=1, n=10)
    (folder / "items.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(CrosstaskError, match=r"items\.csv\.gz cannot be read"):
        read(folder)
    with pytest.raises(CrosstaskError, match=r"has no cells\.csv"):
        read(tmp_path)


def test_schema_is_that_of_the_files_made_here() -> None:
    assert CELL_COLUMNS[:6] == ("model", "source", "seed", "fraction", "target", "form")
    assert len(set(CELL_COLUMNS)) == 14
    assert len(set(ITEM_COLUMNS)) == 12


# What is wrong


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    return [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("seed,ft_task,task,perfection_gap_factor\n", "has a header and no rows"),
        ("a,b\n1,2\n", "line 1: there is no columns seed, ft_task, task, perfection_gap_factor among a, b"),
        ("seed;ft_task;task;perfection_gap_factor\n", "separated by semicolons; expected commas"),
        ("seed\tft_task\ttask\tperfection_gap_factor\n", "separated by tabs"),
        ("seed,ft_task,task,perfection_gap_factor,accuracy\n", "expected one of them"),
        ("seed,seed,ft_task,task,perfection_gap_factor\n1,1,a,a,0\n", "column seed stands there more than once"),
        ("seed,ft_task,task,perfection_gap_factor\n1,a,a,0.1\n", "1 task that is both"),
        ("seed,ft_task,task,perfection_gap_factor\n1,a,b,0.1\n", "no tasks that are both"),
        ("seed,ft_task,task,perfection_gap_factor\n1,a\n", "line 2: 2 values; expected 4"),
        ("seed,ft_task,task,perfection_gap_factor\n1,,a,0.1\n", "line 2: column ft_task is empty"),
        ("seed,ft_task,task,perfection_gap_factor\n,a,a,0.1\n", "line 2: column seed is empty"),
        ("seed,ft_task,task,perfection_gap_factor\n1,baseline,a,0\n", "the baseline alone"),
    ],
)
def test_files_that_are_no_matrix_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(CrosstaskError, match=said) as raised:
        read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("abc", "perfection_gap_factor is 'abc'; expected a number"),
        ("", "perfection_gap_factor is empty; expected a number"),
        ("nan", "is 'nan'; expected a finite number"),
        ("-inf", "is '-inf'; expected a finite number"),
        ('"0,5"', "is '0,5'; expected a number with a decimal point"),
        ("45.2", "is 45.2; expected at most 2.*looks like per cent"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path: Path, value: str, said: str) -> None:
    lines = lines_of(factor_rows())
    lines[8] = ",".join([*lines[8].split(",")[:3], value])
    path = tmp_path / "wrong.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(CrosstaskError, match=f"line 9: .*{said}"):
        read(path)


def test_missing_and_repeated_cells_are_named(tmp_path: Path) -> None:
    rows = factor_rows()
    with pytest.raises(
        CrosstaskError, match=r"1 of 75 cells are missing: seed 'seed_0', ft_task 'Relative_Depth', task"
    ):
        read(write_csv(tmp_path / "missing.csv", rows[:3] + rows[4:]))
    with pytest.raises(CrosstaskError, match=r"line 77: seed 'seed_0', .*'Jigsaw' was in line 3 already"):
        read(write_csv(tmp_path / "twice.csv", [*rows, rows[1]]))
    twice = [*rows, rows[1] | {"task": "JG"}]  # the same task in another spelling
    with pytest.raises(CrosstaskError, match="'JG' was in line 3 already"):
        read(write_csv(tmp_path / "alias.csv", twice))


def test_a_slip_in_a_name_is_suspected(tmp_path: Path) -> None:
    rows = factor_rows()
    slip = [row | {"ft_task": "Jigsav"} if row["ft_task"] == "Jigsaw" else row for row in rows]
    with pytest.raises(CrosstaskError, match="'Jigsav' is no task, but 'Jigsaw' is: name them alike"):
        read(write_csv(tmp_path / "all.csv", slip))
    rows[1] = rows[1] | {"task": "Jigsav"}
    with pytest.raises(CrosstaskError, match=r"are '(Jigsaw' and 'Jigsav|Jigsav' and 'Jigsaw)' one task"):
        read(write_csv(tmp_path / "once.csv", rows))


def test_other_encodings_are_named(tmp_path: Path) -> None:
    text = "\n".join(lines_of(factor_rows())).replace("Jigsaw", "Jigsäw")
    for encoding, said in (("latin-1", "line 3: byte 0xe4 is not UTF-8"), ("utf-16", "is UTF-16")):
        path = tmp_path / f"{encoding}.csv"
        path.write_bytes(text.encode(encoding))
        with pytest.raises(CrosstaskError, match=said):
            read(path)
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(CrosstaskError, match="spreadsheet"):
        read(tmp_path / "book.xlsx")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row | {"accuracy": 100 * row["accuracy"]}, "expected at most 1: accuracies are shares.*per cent"),
        (lambda row: row | {"accuracy": -0.1}, "expected at least 0"),
        (lambda row: row | {"n": 100 + (row["ft_task"] == "Jigsaw")}, "expected the same items for every model"),
        (lambda row: row | {"n": 0}, "n is 0; expected at least 1"),
        (
            lambda row: row | {"ft_task": row["ft_task"].replace("baseline", "before"), "seed": row["seed"] or 0},
            "has no baseline for|cells are missing",
        ),
    ],
)
def test_wrong_accuracies_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = write_csv(tmp_path / "a.csv", [change(row) for row in accuracy_rows()])
    with pytest.raises(CrosstaskError, match=said):
        read(path)


def test_two_tasks_are_a_matrix(tmp_path: Path) -> None:
    measured = read(write_csv(tmp_path / "two.csv", factor_rows(("a", "b"), runs=1)))
    assert measured.tasks == ("a", "b")
    assert np.isfinite(measured.pgf).all()
