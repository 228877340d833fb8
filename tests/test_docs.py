"""The documentation keeps up with the code: a page and an example for every experiment, commands that are accepted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import tyro

from experiments import common
from experiments.__main__ import experiments

ROOT = Path(__file__).parents[1]
HEADINGS = ["Question", "Method", "Controls", "Command", "Figure", "How to read it"]
COMMAND = re.compile(r"python -m experiments\.(\w+)([^`\n]*)")
RESULT = re.compile(r"<!-- result -->\n(.*?)<!-- /result -->\n", re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\[\]]*\]\(([^)\s#]*)(#[^)\s]*)?\)")
WITHOUT_FIGURES = {"build_bundled_vlm", "build_perception_vlm", "model_table", "scaling"}
PAPER_TABLES, PAPER_FIGURES = 13, 15
"""Of the ICML version of Luo et al. (2025)."""


def documents() -> list[Path]:
    results = [path for depth in ("*", "*/*") for path in sorted(ROOT.glob(f"results/{depth}/README.md"))]
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *results]


def commands() -> Iterator[tuple[Path, str, str]]:
    """Document, experiment and options of every command that a document gives."""
    for path in documents():
        for name, options in COMMAND.findall(path.read_text(encoding="utf-8").replace("\\\n", " ")):
            yield path, name, options.partition("  #")[0]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def kept(name: str) -> Path | None:
    """Where the result of an experiment is in the repository: results/<name>, or results/<study>/<name>."""
    folders = [ROOT / "results" / name, *ROOT.glob(f"results/*/{name}")]
    return next((folder for folder in folders if any(path.is_file() for path in folder.rglob("*"))), None)


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
    assert len(list(commands())) > 60
    for path, name, options in commands():
        assert name in experiments(), f"{path.name} gives a command of {name}, which is no experiment"
        try:
            tyro.cli(import_module(f"experiments.{name}").Arguments, args=shlex.split(options))
        except SystemExit as stopped:
            if stopped.code:  # which --help is not
                pytest.fail(f"{path.name}: python -m experiments.{name}{options} is not accepted")


def test_make_targets_of_the_documentation_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in documents():
        for target in re.findall(r"(?:^|`)make (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert target in targets, f"{path.name} says make {target}, which the Makefile has not"


def test_every_experiment_makes_something_on_the_paper_page_or_goes_beyond_it() -> None:
    named = {name for name, _ in COMMAND.findall(page("docs/paper.md"))}
    assert named == set(experiments())


def test_paper_page_covers_every_table_and_figure_of_the_paper() -> None:
    """Each number is in a row, or in the sentence that says which could not be matched."""
    text = re.sub(r"v1 (Table|Figure)s? [\d, and]+", "", page("docs/paper.md"))
    for kind, count in (("Table", PAPER_TABLES), ("Figure", PAPER_FIGURES)):
        found: set[int] = set()
        for said in re.findall(rf"{kind}s? (\d+(?:(?:,| and|, and| to) \d+)*)", text):
            numbers = [int(number) for number in re.findall(r"\d+", said)]
            found |= set(numbers)
            for first, last in re.findall(r"(\d+) to (\d+)", said):
                found |= set(range(int(first), int(last) + 1))
        assert found == set(range(1, count + 1)), kind


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_resolve(path: Path) -> None:
    """Those in the block of a result are held to only where that result is kept."""
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    if path.parent.name == "experiments" and not kept(path.stem):
        text = RESULT.sub("", text)
    for target, anchor in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        place = (path.parent / target).resolve() if target else path
        assert place.exists(), f"{path.name} links to {target}, which does not exist"
        assert place.is_relative_to(ROOT)
        if anchor and place.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor[1:] in slugs, f"{path.name} links to {target}{anchor}, which is no heading there"


@pytest.mark.parametrize("name", experiments())
def test_page_shows_what_the_experiment_draws(name: str) -> None:
    """The figures of a page are among those of the kept result; without one they are the names that the code writes."""
    (block,) = RESULT.findall(page(f"docs/experiments/{name}.md")) or [""]
    shown = re.findall(rf"results/(?:\w+/)?{name}/figures/(\w+)\.png", block)
    if not shown:
        assert name in WITHOUT_FIGURES
        return
    if (folder := kept(name)) is not None:
        assert f"{folder.relative_to(ROOT).as_posix()}/figures" in block
        drawn = {path.stem for path in (folder / "figures").glob("*.png")}
        assert set(shown) <= drawn
        return
    source = page(f"experiments/{name}.py") + "".join(p.read_text(encoding="utf-8") for p in ROOT.glob("figures/*.py"))
    for figure in shown:
        stem = re.escape(figure.replace("_image", "").replace("_text", "").replace("_raw", "").replace("_centred", ""))
        assert re.search(rf"[\"/]{stem.removesuffix('_tasks')}", source), f"{name} draws no figure {figure}"


def test_rows_of_the_readme_are_those_of_the_kept_result() -> None:
    rows = re.findall(r"^\| (?:no context|majority|prompt|patch|control).*$", page("README.md"), re.MULTILINE)
    rows = [row for row in rows if len(row.split("|")) > 5]  # those of the table of speeds have fewer columns
    kept_rows = page("results/cross_modal_patch/summary.md").partition("Text queries")[0].splitlines()
    assert len(rows) >= 8
    assert set(rows) <= set(kept_rows)


def test_readme_begins_with_the_two_commands() -> None:
    title, demo, test = re.match(r"(.*)\n\n```\n(.*)\n(.*)\n```", page("README.md")).groups()
    assert title == "# crosstask"
    assert re.match(r"make demo +# .*: \d+ minutes", demo)
    assert re.match(r"make test +# .*: \d+ minutes", test)


def test_listing_prints_every_experiment() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "experiments"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name, line in experiments().items():
        assert f"python -m experiments.{name} " in said
        assert line in said


@pytest.mark.parametrize("name", ["jupytext", "nbclient", "ipykernel", "mkdocs", "material", "mkdocstrings"])
def test_what_documentation_and_notebooks_need_is_installed(name: str) -> None:
    """Tests of notebooks are skipped without these; the suite must not pass that way."""
    assert find_spec(name), "pip install -c constraints.txt -e '.[dev]'"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning is an error."""
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_site_has_a_page_for_everything(site: Path) -> None:
    expected = {f"experiments/{name}.html" for name in experiments()}
    expected |= {f"notebooks/{path.stem}.html" for path in ROOT.glob("probes/notebooks/[!_]*.py")}
    expected |= {"index.html", "paper.html", "reference/interp/patching.html", "results/cross_modal_patch/index.html"}
    assert expected <= {path.relative_to(site).as_posix() for path in site.rglob("*.html")}


def test_every_page_of_the_documentation_is_in_the_navigation(site: Path) -> None:
    navigation = (site / "index.html").read_text(encoding="utf-8")
    linked = set(re.findall(r"href=[\"']?\.?/?([\w./-]+\.html)", navigation))
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert pages - linked <= {"index.html"}


def test_site_loads_nothing_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for path in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe|source|video)[^>]*\ssrc=[\"']?(?:https?:)?//[^\s>]+"
            r"|<link(?![^>]*rel=[\"']?canonical)[^>]*href=[\"']?(?:https?:)?//[^>]+",
            path.read_text(encoding="utf-8"),
        )
        assert not loaded, f"{path.relative_to(site)} loads {loaded[0]}"
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_page_without_a_kept_result_says_how_to_make_it(site: Path) -> None:
    for name in experiments():
        text = (site / "experiments" / f"{name}.html").read_text(encoding="utf-8")
        missing = not kept(name) and name not in WITHOUT_FIGURES
        assert ("No reference result is kept yet" in text) == missing
        assert ("<img" in text.partition("How to read it</h2>")[0].rpartition("<h1")[2]) == (
            kept(name) is not None and name not in WITHOUT_FIGURES
        )
