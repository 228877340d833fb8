"""The shortcut battery from the command line, on a few small items."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from experiments import shortcuts
from figures.shortcuts import heatmap
from interp.tasks.perception.registry import perception_tasks
from tests.places import killed, refuses, start

FIRST, SECOND = list(perception_tasks(core=True).values())[:2]


def arguments(out: Path, *more: object) -> list[object]:
    return ["--tasks", FIRST.abbreviation, SECOND.name, "--items", 16, "--size", 32, "--out", out, *more]


run = partial(start, shortcuts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shortcuts") / "run"
    assert run(arguments(out)) == 0
    return out


def test_every_form_has_every_shortcut_with_its_interval(finished: Path) -> None:
    table = pd.read_csv(finished / "shortcuts.csv")
    forms = {(task.abbreviation, form) for task in (FIRST, SECOND) for form in task.forms}
    assert set(zip(table["task"], table["form"], strict=True)) == forms
    assert table.groupby(["task", "form"])["shortcut"].apply(lambda names: "letter prior" in set(names)).all()
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    assert set(table["n"]) <= {16, 32}
    assert (table["leak"] == (table["accuracy"] > table["chance"] + 0.05 + 1e-9)).all()
    assert len(pd.read_csv(finished / "leaks.csv")) == table["leak"].sum()


@pytest.mark.usefixtures("undrawn")
def test_items_are_drawn_as_asked_and_repeated_ones_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[tuple]] = []

    def battery(train: Iterable, test: Iterable, *, again: Callable[[], Iterable]) -> pd.DataFrame:
        parts = (list(train), list(test), list(again()))
        seen.append([(item.images[0].load().size[0], item.name) for part in parts for item in part])
        row = {"shortcut": "text only", "accuracy": 0.5, "chance": 0.5, "n": 16, "low": 0.4, "high": 0.6}
        return pd.DataFrame([row])

    monkeypatch.setattr("interp.tasks.perception.shortcuts.battery", battery)
    assert run([*arguments(tmp_path / "run"), "--tasks", FIRST.name, "--form", FIRST.form, "--seed", 3]) == 0
    names = [f"{FIRST.name}/{FIRST.form}/{part}" for part in ("train/3", "test/3")]
    expected = [*(f"{names[0]}/{i}" for i in range(16)), *(f"{names[1]}/{i}" for i in range(32))]
    assert seen == [[(32, name) for name in expected]]


@pytest.mark.usefixtures("undrawn")
def test_table_is_printed_and_a_finished_run_is_not_repeated(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    before = (finished / "shortcuts.csv").read_bytes()
    assert run(arguments(finished)) == 0
    said = capsys.readouterr().out
    assert "Everything is done already" in said
    assert "95 % interval" in said
    assert "8x8 blur" in said
    assert Path(said.strip().splitlines()[-1]) == finished / "report.html"
    assert (finished / "shortcuts.csv").read_bytes() == before
    assert (finished / "figures" / "shortcuts.png").is_file()


@pytest.mark.usefixtures("undrawn")
def test_killed_run_continues_to_the_same_table(finished: Path, tmp_path: Path) -> None:
    killed(finished, tmp_path / "again", 0.6)
    assert run(arguments(tmp_path / "again")) == 0
    assert (tmp_path / "again" / "shortcuts.csv").read_bytes() == (finished / "shortcuts.csv").read_bytes()


def test_bad_options_are_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none"
    refuses(shortcuts, ["--tasks", "smell", "--out", out], "no perception task 'smell'", capsys, out)
    refuses(shortcuts, [*arguments(out), "--items", 4], "--items 4 are too few", capsys, out)
    refuses(shortcuts, [*arguments(out), "--difficulties", 1, 1], "different numbers", capsys, out)
    missing = next(form for form in ("marks", "pictures") if form not in FIRST.forms)
    refuses(shortcuts, ["--tasks", FIRST.name, "--form", missing, "--out", out], f"no form '{missing}'", capsys, out)


def test_heatmap_frames_leaks_alone_and_keeps_difficulties_apart() -> None:
    rows = [
        {"task": "RD", "form": "marks", "difficulty": d, "shortcut": s, "accuracy": a, "chance": 0.5, "leak": a > 0.55}
        for d in (0.0, 1.0)
        for s, a in (("text only", 0.5), ("8x8 blur", 0.5 + 0.2 * d))
    ]
    figure = heatmap(pd.DataFrame(rows))
    assert isinstance(figure, Figure)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["RD marks 0", "RD marks 1"]
    assert len(ax.patches) == 1
    assert [text.get_text() for text in ax.texts] == ["0", "0", "0", "20"]
