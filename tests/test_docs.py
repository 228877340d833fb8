"""The documentation keeps up with the code: a page and an example for every experiment, commands that are accepted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import tyro

from experiments import common
from experiments.__main__ import experiments

ROOT = Path(__file__).parents[1]
HEADINGS = ["Question", "Method", "Controls", "Command", "Figure", "How to read it"]
COMMAND = re.compile(r"python -m experiments\.(\w+)([^`\n]*)")
PLANNED = {
    "cost",
    "decode_vectors",
    "ensemble_curve",
    "override",
    "robustness",
    "similarity",
    "task_clusters",
    "token_evolution",
    "transfer_table",
    "vqa",
}
"""Experiments that docs/paper.md names and that are not there yet; an experiment that is there is taken off."""


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("results/*/README.md"))]


def commands() -> Iterator[tuple[Path, str, str]]:
    """Document, experiment and options of every command that a document gives."""
    for path in documents():
        for name, options in COMMAND.findall(path.read_text(encoding="utf-8")):
            yield path, name, options.partition("  #")[0]


@pytest.mark.parametrize("name", experiments())
def test_experiment_says_in_one_line_what_it_does(name: str) -> None:
    line = experiments()[name]
    assert line.endswith((".", "?"))
    assert len(line) <= 120


@pytest.mark.parametrize("name", experiments())
def test_help_has_an_example_that_is_accepted(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    module = import_module(f"experiments.{name}")
    assert common.run(module.Arguments, module.main, module=module.MODULE, argv=["--help"]) == 0
    shown = re.search(rf"Example: python -m experiments\.{name}\b([^│\n]*)", capsys.readouterr().out)
    assert shown, f"the help of {name} has no line 'Example: python -m experiments.{name} ...'"
    tyro.cli(module.Arguments, args=shlex.split(shown[1]))


@pytest.mark.parametrize("name", experiments())
def test_experiment_has_a_page_with_every_heading(name: str) -> None:
    page = ROOT / "docs" / "experiments" / f"{name}.md"
    assert page.is_file(), f"write docs/experiments/{name}.md with the headings {', '.join(HEADINGS)}"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    of_command = text.split("## Command")[1].split("## Figure")[0]
    assert re.search(rf"python -m experiments\.{name}\b|make {name}\b", of_command)


def test_every_page_is_of_an_experiment() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "experiments").glob("*.md")} - {"index"}
    assert pages <= set(experiments())


def test_commands_of_the_documentation_are_accepted() -> None:
    for path, name, options in commands():
        if name in PLANNED:
            assert path.name == "paper.md", f"{path.name} gives a command of {name}, which is not there"
            continue
        assert name in experiments(), f"{path.name} gives a command of {name}, which is no experiment"
        try:
            tyro.cli(import_module(f"experiments.{name}").Arguments, args=shlex.split(options))
        except SystemExit:
            pytest.fail(f"{path.name}: python -m experiments.{name}{options} is not accepted")


def test_planned_experiments_are_not_there_yet() -> None:
    assert not PLANNED & set(experiments()), "take them off PLANNED"


def test_paper_page_names_every_experiment_but_none_twice_in_the_first_table() -> None:
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    named = {name for name, _ in COMMAND.findall(text)}
    assert named == set(experiments()) | PLANNED


def test_listing_prints_every_experiment() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "experiments"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name, line in experiments().items():
        assert f"python -m experiments.{name} " in said
        assert line in said


def test_site_builds_without_a_warning_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path for path in tmp_path.rglob("*.html")}
    expected = {f"experiments/{name}.html" for name in experiments()}
    expected |= {f"notebooks/{path.stem}.html" for path in ROOT.glob("probes/notebooks/[!_]*.py")}
    assert expected | {"index.html", "reference/interp/patching.html", "results/head_effects/README.html"} <= set(pages)
    for name, path in pages.items():
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?(?:https?:)?//[^\s>]+|<link[^>]*stylesheet[^>]*href=[\"']?https?:[^>]+",
            path.read_text(encoding="utf-8"),
        )
        assert not loaded, f"{name} loads {loaded[0]}"
