"""Runs the notebooks and writes them with what they printed and drew: `python -m probes.notebooks [SCRIPT ...]`.

A notebook is kept twice. The percent script is its source; the .ipynb beside it has the same cells and their outputs,
so that it can be looked at where nothing can be run, and so that the documentation shows it without a model. Nothing in
an output may depend on the machine but the last digits of numbers.
"""

import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CELL_SECONDS = 600
"""A cell that takes longer hangs."""
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm without ipywidgets
}


def scripts() -> list[Path]:
    """The sources, in the order in which they are to be read."""
    return sorted(path for path in HERE.glob("*.py") if not path.name.startswith("_"))


def execute(script: Path) -> nbformat.NotebookNode:
    """A script's notebook after it ran from top to bottom in a kernel of its own.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell raises.
    """
    notebook = jupytext.read(script)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        config=Config() if sys.platform == "win32" else Config(KernelManager={"transport": "ipc"}),
        resources={"metadata": {"path": str(ROOT)}},
    )
    client.execute(env=os.environ | QUIET | {"PYTHONPATH": path})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({})
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    """Runs those that are named, or all."""
    named = [Path(name).resolve() for name in sys.argv[1:]]
    for given, script in zip(sys.argv[1:], named, strict=True):
        if script.suffix != ".py" or not script.is_file():
            known = ", ".join(str(path.relative_to(ROOT)) for path in scripts())
            raise SystemExit(f"error: there is no notebook {given!r}; expected scripts such as {known}.")
    for script in named or scripts():
        start = time.perf_counter()
        notebook = execute(script)
        written = script.with_suffix(".ipynb")
        nbformat.write(notebook, written)
        print(f"{written.relative_to(ROOT)}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
