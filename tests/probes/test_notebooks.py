"""The notebooks: each script runs from top to bottom on the bundled pair, and the notebook beside it is in step.

They are run as they are, not in a shortened form; `pytest -m "not slow"` leaves that out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

from nbclient.exceptions import CellExecutionError  # noqa: E402

from probes.notebooks.__main__ import ROOT, execute, scripts  # noqa: E402

MEGABYTES = 2
NOTEBOOKS = 6


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def complaints(notebook: Any) -> list[str]:
    """What cells wrote to the standard error."""
    return [output.text for output in outputs(notebook) if output.get("name") == "stderr"]


def test_there_are_notebooks_and_each_is_listed_on_their_page() -> None:
    page = (ROOT / "docs" / "notebooks" / "index.md").read_text(encoding="utf-8")
    assert len(scripts()) == NOTEBOOKS
    for script in scripts():
        assert f"../../probes/notebooks/{script.stem}.ipynb" in page


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_notebook_is_in_step_with_its_script(script: Path) -> None:
    stored = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(stored)
    assert cells(stored) == cells(jupytext.read(script)), (
        f"make notebooks, or jupytext --update --to ipynb {script.name}"
    )


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_stored_notebook_shows_pictures_and_nothing_of_the_machine(script: Path) -> None:
    path = script.with_suffix(".ipynb")
    stored = nbformat.read(path, as_version=4)
    assert pictures(stored) >= 2
    assert not complaints(stored)
    assert [cell.execution_count for cell in stored.cells if cell.cell_type == "code"] == list(
        range(1, sum(cell.cell_type == "code" for cell in stored.cells) + 1)
    )
    text = path.read_text(encoding="utf-8")
    for private in (str(ROOT), str(Path.home()), "/tmp/", "Traceback"):
        assert private not in text, f"{path.name} holds {private!r}"
    assert not re.search(r" at 0x[0-9a-f]{6,}", text)
    assert path.stat().st_size < MEGABYTES * 2**20


def test_notebook_that_raises_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("# %%\nprint('before')\n\n# %%\nraise ValueError('in a cell')\n", encoding="utf-8")
    with pytest.raises(CellExecutionError, match="in a cell"):
        execute(script)


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_links_of_a_notebook_resolve(script: Path) -> None:
    text = re.sub(r"\n# ?", " ", script.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s#]+)", text):
        assert (script.parent / target).exists(), f"{script.name} links to {target}, which does not exist"


@pytest.mark.slow
@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_notebook_runs_on_the_bundled_pair(script: Path) -> None:
    done = execute(script)
    stored = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert cells(done) == cells(stored)
    assert pictures(done) == pictures(stored)
    assert not complaints(done)
