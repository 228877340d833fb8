"""Help is fast and shows an example: nothing heavy is imported before the command line is parsed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import importlib, sys
from experiments import common
module = importlib.import_module("experiments.{name}")
status = common.run(module.Arguments, module.main, module=module.MODULE, argv=["--help"])
heavy = {{"torch", "transformers", "pandas", "matplotlib", "numpy", "sklearn", "scipy"}} & set(sys.modules)
sys.exit(status or " ".join(heavy) or None)
"""


@pytest.mark.parametrize("name", ["transfer_table", "ensemble_curve", "robustness", "cost", "vqa", "override"])
def test_help_imports_nothing_heavy_and_shows_an_example(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(name=name)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"Example: python -m experiments.{name} " in done.stdout
    assert "--full" in done.stdout
    assert "--device" in done.stdout
