"""The relation of similarities and transfer from its command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import relate
from figures import relation_report
from interp.relation.tables import MAXT_COLUMNS, MRQAP_COLUMNS, RELATION_COLUMNS
from tests.places import start
from tests.transfer_data import factor_rows, matrix_folder, write_csv

TASKS = ("Relative_Depth", "Jigsaw", "Counting", "Art_Style", "Spatial_Relation", "Multi-view_Reasoning")
TABLES = ("relation", "mrqap", "maxt", "leave_one_out", "prediction", "prediction_targets", "variance", "pairs")


SAVED = ("vectors_scatter", "prediction_heatmaps")


def run(argv: Sequence[object], *, draw: bool = False) -> int:
    """The exit code; saving figures takes longer than everything else, and two of them are saved if any."""
    every = relation_report.all_figures
    with pytest.MonkeyPatch.context() as patch:
        kept = (lambda tables: {name: every(tables)[name] for name in SAVED}) if draw else (lambda _: {})
        patch.setattr(relation_report, "all_figures", kept)
        return start(relate, argv)


def long_rows(names: Sequence[str] = TASKS, *, measure: str = "task_vector_cosine", layers: int = 2) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {"measure": measure, "layer": layer, "source": s, "target": t, "value": float(rng.normal())}
        for layer in range(layers)
        for s in names
        for t in names
        if s != t
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relation")
    write_csv(folder / "factors.csv", factor_rows(TASKS, runs=2))
    write_csv(folder / "cosine.csv", long_rows(["RD", "JG", "CN", "AS", "SR", "MR", "OL"]))
    values = np.random.default_rng(3).normal(size=(6, 6))
    pd.DataFrame(values, TASKS, TASKS).to_csv(folder / "overlap.csv")
    return folder


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    """A run with everything in it."""
    given = ["--transfer", place / "factors.csv", "--similarity", place / "cosine.csv", "--updates"]
    assert run([*given, place / "overlap.csv", "--out", place / "done"], draw=True) == 0
    return place / "done"


def test_everything_is_written_whole(done: Path) -> None:
    for name in (*(f"{table}.csv" for table in TABLES), "report.html", "answers.json", "config.json"):
        assert (done / name).stat().st_size > 0, name
    drawn = {path.name for path in (done / "figures").iterdir()}
    assert drawn == {f"{name}.{suffix}" for name in SAVED for suffix in ("png", "pdf")}
    assert (done / "report.html").read_text().count("data:image/png") == 2


def test_tables_have_the_documented_columns(done: Path) -> None:
    assert pd.read_csv(done / "relation.csv").columns.tolist() == RELATION_COLUMNS
    assert pd.read_csv(done / "mrqap.csv").columns.tolist() == MRQAP_COLUMNS
    assert pd.read_csv(done / "maxt.csv").columns.tolist() == MAXT_COLUMNS


def test_families_are_told_by_option_and_by_name(done: Path) -> None:
    table = pd.read_csv(done / "relation.csv").drop_duplicates("measure").set_index("measure")["family"]
    assert table["overlap"] == "updates"
    assert table["task_vector_cosine"] == "task vectors"
    assert table["format"] == "covariate"


def test_page_says_what_was_read_and_left_out(done: Path) -> None:
    html = (done / "report.html").read_text()
    assert "6 tasks (AS RD SR JG CN MR), 2 runs (PGF); 4 similarities of 2 measures" in html
    assert "Left out, since the transfer matrix does not have them: OL." in html
    assert "All permutations of the 6 tasks are done." in html
    answers = json.loads((done / "answers.json").read_text())
    assert len(answers) == 5


def test_no_path_of_this_machine_is_written(done: Path, place: Path) -> None:
    for path in done.glob("*.json"):
        if path.name != "environment.json":
            assert str(place) not in path.read_text(), path.name
    assert str(place) not in (done / "relation.csv").read_text()


def test_running_again_gives_the_same_and_another_input_is_told_apart(
    done: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (done / f"{name}.csv").read_bytes() for name in TABLES}
    given = ["--transfer", place / "factors.csv", "--similarity", place / "cosine.csv", "--out", done]
    assert run([*given, "--updates", place / "overlap.csv"]) == 0
    assert {name: (done / f"{name}.csv").read_bytes() for name in TABLES} == before
    assert run(given) == 2
    assert "updates" in capsys.readouterr().err


def test_models_are_named_and_similarities_go_to_theirs(place: Path) -> None:
    out = place / "two"
    write_csv(place / "other.csv", factor_rows(TASKS, runs=1, seed=7))
    given = ["--transfer", f"small={place / 'factors.csv'}", f"large={place / 'other.csv'}", "--out", out]
    given += ["--similarity", f"large={place / 'cosine.csv'}", place / "overlap.csv", "--covariate", "images"]
    assert run(given) == 0
    table = pd.read_csv(out / "relation.csv")
    found = {model: set(rows["measure"]) for model, rows in table.groupby("model")}
    assert found == {"small": {"overlap", "images"}, "large": {"task_vector_cosine", "overlap", "images"}}
    both = table.query("measure == 'overlap'")
    assert (both["p_holm"] >= both["p"]).all()


def test_a_matrix_folder_with_its_dose_is_related(place: Path) -> None:
    tasks = ("relative_depth", "jigsaw", "counting", "art_style", "spatial_relation", "multi-view_reasoning")
    folder = matrix_folder(place / "matrix", tasks=tasks)
    cells = pd.read_csv(folder / "cells.csv")
    steps = {task: 100 * (n + 1) for n, task in enumerate(tasks)}
    cells["dose_steps"] = cells["source"].map(steps)
    cells.to_csv(folder / "cells.csv", index=False)
    out = place / "of_folder"
    given = ["--transfer", folder, "--task-vectors", place / "overlap.csv", "--measure", "log_p", "--out", out]
    assert run([*given, "--covariate", "format", "dose"]) == 0
    table = pd.read_csv(out / "relation.csv")
    assert set(table["model"]) == {"tiny"}
    assert set(table["family"]) == {"task vectors", "covariate"}


def test_covariates_may_be_none(place: Path) -> None:
    out = place / "bare"
    given = ["--transfer", place / "factors.csv", "--similarity", place / "overlap.csv", "--covariate", "none"]
    assert run([*given, "--without", "JG", "--out", out]) == 0
    assert pd.read_csv(out / "mrqap.csv").empty
    assert set(pd.read_csv(out / "relation.csv")["tasks"]) == {5}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--similarity", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--similarity", "{place}/factors.csv"], "factors.csv is neither long nor square"),
        (["--similarity", "{place}/few.csv"], "expected 5 or more"),
        (["--similarity", "{place}/holes.csv"], "has no value for Counting -> Jigsaw"),
        (["--similarity", "x={place}/cosine.csv"], "is for the model 'x'; there are factors"),
        (["--covariate", "colour"], "no covariate and no file 'colour'"),
        (["--without", "lion"], "'lion' is to be left out"),
        (["--permutations", "99"], "expected 9,999 or more"),
        (["--form", "marks"], "is no matrix folder"),
        (["--transfer", "{place}/factors.csv", "{place}/factors.csv"], "Two transfer matrices are called 'factors'"),
        (["--transfer", "{place}/nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    place: Path, tmp_path: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(place / "few.csv", long_rows(TASKS[:4]))
    rows = [row for row in long_rows() if (row["source"], row["target"]) != ("Counting", "Jigsaw")]
    write_csv(place / "holes.csv", rows)
    given = [] if "--transfer" in more else ["--transfer", place / "factors.csv"]
    given += [text.format(place=place) for text in more]
    assert run([*given, "--out", tmp_path / "out"]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()
