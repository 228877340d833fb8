"""The analysis of measured transfer from its command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import analyse_transfer
from interp.transfer.analysis import Analysis, Settings
from tests.places import start
from tests.transfer_data import TASKS, accuracy_rows, factor_rows, matrix_folder, write_csv

COLUMNS = ["task"]
COLUMNS += ["transferability_positive", "transferability_negative", "malleability_positive", "malleability_negative"]
COLUMNS += ["transferability_positive_with_diagonal", "transferability_negative_with_diagonal"]
COLUMNS += ["malleability_positive_with_diagonal", "malleability_negative_with_diagonal", "persona"]
ALWAYS = ("pgf_mean.csv", "task_scores.csv", "cliques.json", "categories.csv", "graph.json", "nulls.csv", "edges.csv")


def run(argv: Sequence[object], *, draw: bool = False) -> int:
    """The exit code; figures take longer than everything else, and are drawn where they are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(analyse_transfer, "_figures", lambda _: {})
        return start(analyse_transfer, argv)


def arguments(path: Path, out: Path, *more: object) -> list[object]:
    return ["--pgf", path, "--out", out, "--permutations", 19, *more]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("analysis")


@pytest.fixture(scope="module")
def published(place: Path) -> Path:
    """A run over factors in the published form."""
    path = write_csv(place / "factors.csv", factor_rows())
    assert run(arguments(path, place / "published")) == 0
    return place / "published"


@pytest.fixture(scope="module")
def measured(place: Path) -> Path:
    """A run over a matrix folder with everything in it."""
    assert run(arguments(matrix_folder(place / "matrix"), place / "measured"), draw=True) == 0
    return place / "measured"


def test_everything_is_written_whole(published: Path, measured: Path) -> None:
    for folder in (published, measured):
        for name in (*ALWAYS, "report.html", "variance.csv", "score_nulls.csv"):
            assert (folder / name).stat().st_size > 0, name
    assert (measured / "figures" / "graph.pdf").stat().st_size > 0
    drawn = {path.stem for path in (measured / "figures").glob("*.png")}
    assert drawn == {
        "pgf", "accuracy", "scores", "categories", "graph", "nulls", "variance", "dose", "fractions", "measures"
    }  # fmt: skip


def test_mean_matrix_is_square_and_named_as_the_data(published: Path) -> None:
    table = pd.read_csv(published / "pgf_mean.csv", index_col=0)
    assert list(table.index) == list(table.columns)
    assert set(table.columns) == set(TASKS)
    rows = pd.DataFrame(factor_rows())
    means = rows.groupby(["ft_task", "task"])["perfection_gap_factor"].mean()
    for source in TASKS:
        for target in TASKS:
            assert table.loc[source, target] == pytest.approx(means[source, target])


def test_scores_have_exactly_the_documented_columns(published: Path) -> None:
    scores = pd.read_csv(published / "task_scores.csv")
    assert list(scores.columns) == COLUMNS
    assert set(scores["task"]) == set(TASKS)
    assert (scores[COLUMNS[1]] >= 0).all()
    assert (scores[COLUMNS[2]] <= 0).all()
    assert scores["persona"].notna().all()


def test_cliques_and_graph_are_named_and_sorted(place: Path) -> None:
    mean = {(s, t): 0.3 if {s, t} <= {"Jigsaw", "Counting", "my own task"} else -0.1 for s in TASKS for t in TASKS}
    rows = [row | {"perfection_gap_factor": mean[row["ft_task"], row["task"]]} for row in factor_rows()]
    out = place / "clique"
    assert run(arguments(write_csv(place / "clique.csv", rows), out)) == 0
    cliques = json.loads((out / "cliques.json").read_text())
    assert cliques["positive"] == [["CN", "JG", "my own task"]]
    assert cliques["negative"] == [["AS", "CN", "RD"], ["AS", "JG", "RD"], ["AS", "RD", "my own task"]]
    graph = json.loads((out / "graph.json").read_text())
    assert {node["id"] for node in graph["nodes"]} == set(TASKS)
    assert len(graph["edges"]) == 20
    assert graph["edges"][0]["weight"] == pytest.approx(0.3)
    assert set(graph["thresholds"]) == {"25", "50", "75", "100"}


def test_the_order_of_rows_changes_no_table(place: Path, published: Path) -> None:
    rows = factor_rows()
    path = write_csv(place / "shuffled.csv", [rows[i] for i in np.random.default_rng(0).permutation(len(rows))])
    assert run(arguments(path, place / "shuffled")) == 0
    for name in (*ALWAYS, "variance.csv", "null_values.csv", "measures.csv"):
        assert (place / "shuffled" / name).read_bytes() == (published / name).read_bytes(), name


def test_accuracies_and_the_factors_made_of_them_agree(place: Path) -> None:
    path = write_csv(place / "accuracies.csv", accuracy_rows())
    analysis = Analysis.read(path, Settings(permutations=9))
    measured = analysis.measured
    rows = [
        {"seed": seed, "ft_task": source, "task": target, "perfection_gap_factor": analysis.cells[s, i, j]}
        for s, seed in enumerate(measured.seeds)
        for i, source in enumerate(measured.sources)
        for j, target in enumerate(measured.targets)
    ]
    again = Analysis.read(write_csv(place / "factors_of_them.csv", rows), Settings(permutations=9))
    assert again.mu == pytest.approx(analysis.mu)
    base = measured.baseline[:, None]
    assert analysis.cells == pytest.approx((measured.accuracy - base) / (1 - base))


def test_controls_and_further_targets_are_in_the_edges_alone(measured: Path) -> None:
    edges = pd.read_csv(measured / "edges.csv")
    assert set(edges["family"]) == {"transfer", "itself", "control", "extra"}
    assert {"caption", "random_key"} <= set(edges["source"])
    assert "object_order" in set(edges["target"])
    assert len(pd.read_csv(measured / "pgf_mean.csv")) == 4
    assert set(pd.read_csv(measured / "task_scores.csv")["task"]) == {
        "relative_depth",
        "jigsaw",
        "counting",
        "art_style",
    }


def test_ceilings_change_the_factors(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(place / "ceilings.csv", accuracy_rows())
    best = Analysis.read(path, Settings(ceiling="best", permutations=9))
    assert np.nanmax(best.cells.mean(0), axis=0) == pytest.approx(np.ones(5))
    human = place / "human.csv"
    human.write_text("task,ceiling\n" + "\n".join(f"{task},0.9" for task in TASKS))
    stated = Analysis.read(path, Settings(ceiling=str(human), permutations=9))
    one = Analysis.read(path, Settings(permutations=9))
    base = one.measured.baseline[:, None]
    assert stated.cells == pytest.approx(one.cells * (1 - base) / (0.9 - base))
    human.write_text("task,ceiling\nJigsaw,0.9\n")
    assert run(arguments(path, place / "no", "--ceiling", human)) == 2
    assert "has no ceiling of Art_Style" in capsys.readouterr().err


def test_a_fraction_with_other_targets_is_not_compared(place: Path) -> None:
    rows = [row | {"fraction": 1} for row in factor_rows()]
    rows += [row | {"fraction": 0.5} for row in factor_rows((*TASKS, "further"))]
    rows += [row | {"fraction": 0.25} for row in factor_rows(seed=3)]
    out = place / "fractions"
    assert run(arguments(write_csv(place / "fractions.csv", rows), out)) == 0
    assert set(pd.read_csv(out / "fractions.csv")["fraction"]) == {0.25, 1.0}
    assert "measured at 50 % of the training: not compared" in (out / "report.html").read_text()


def test_an_undefined_target_is_said_and_left_out_of_the_nulls(place: Path) -> None:
    rows = accuracy_rows()
    base = {row["task"]: row["accuracy"] for row in rows if row["ft_task"] == "baseline"}
    worse = [
        row | {"accuracy": min(row["accuracy"], base[row["task"]])} if row["task"] == "Jigsaw" else row for row in rows
    ]
    out = place / "undefined"
    assert run(arguments(write_csv(place / "worse.csv", worse), out, "--ceiling", "best")) == 0
    assert pd.read_csv(out / "pgf_mean.csv")["Jigsaw"].isna().all()
    assert "undefined for the target Jigsaw" in (out / "report.html").read_text()
    assert len(pd.read_csv(out / "nulls.csv")) > 0


def test_running_again_works_and_another_input_is_told_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_csv(place / "again.csv", factor_rows(("a", "b", "c", "d"), runs=1)), place / "again"
    assert run(arguments(path, out)) == 0
    before = {name: (out / name).read_bytes() for name in ALWAYS}
    assert run(arguments(path, out)) == 0
    assert before == {name: (out / name).read_bytes() for name in ALWAYS}
    write_csv(path, factor_rows(("a", "b", "c", "d"), runs=1, seed=5))
    assert run(arguments(path, out)) == 2
    assert "input.again.csv was" in capsys.readouterr().err
    assert run(arguments(path, out, "--seed", 1)) == 2
    assert "settings.seed was 0 and is now 1" in capsys.readouterr().err
    assert before == {name: (out / name).read_bytes() for name in ALWAYS}


def test_two_tasks_and_one_run_are_analysed(place: Path) -> None:
    out = place / "two"
    assert run(arguments(write_csv(place / "two.csv", factor_rows(("a", "b"), runs=1)), out)) == 0
    assert len(pd.read_csv(out / "task_scores.csv")) == 2
    assert json.loads((out / "cliques.json").read_text()) == {"positive": [], "negative": []}
    assert pd.read_csv(out / "nulls.csv").empty


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("seed,ft_task,task,perfection_gap_factor\n1,a,a,0.5\n", "needs two or more"),
        ("seed,ft_task,task,perfection_gap_factor\n1,a,a,nan\n", "line 2"),
        ("seed;ft_task;task;perfection_gap_factor\n", "semicolons"),
        ("seed,ft_task,task,perfection_gap_factor\n1,a,a,50\n", "per cent"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert run(arguments(path, tmp_path / "out")) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--epsilon", -1], "expected 0 or more"),
        (["--permutations", 0], "expected 1 or more"),
        (["--top", 0], "expected 1 or more"),
        (["--shown", 0], "above 0 and at most 100"),
        (["--fraction", 0.5], "has no training fraction 0.5; it has 1"),
        (["--measure", "log_p"], "needs mean_log_p"),
        (["--form", "marks"], "is no matrix folder"),
        (["--dose", "published"], "no steps of my own task"),
        (["--ceiling", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--epsilon", 0.1], "needs accuracies"),
        (["--measure", "brier", "--ceiling", "best"], "has no ceiling to choose"),
    ],
)
def test_options_that_cannot_be_met_are_refused(
    place: Path, published: Path, more: list[object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(place / "factors.csv", place / "refused", *more)) == 2
    assert said in capsys.readouterr().err
    assert not (place / "refused").exists()
