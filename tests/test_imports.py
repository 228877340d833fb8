"""Folders import in one direction: experiments -> {interp, probes, figures}, probes -> interp, figures -> nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"interp", "probes", "experiments", "figures", "tests"}
NOTEBOOKS = "probes/notebooks"
MAY_IMPORT = {
    "interp": set(),
    "probes": {"interp"},
    NOTEBOOKS: {"interp", "probes", "figures"},
    "figures": set(),
    "experiments": {"interp", "probes", "figures"},
}


def imports_of(source: str) -> set[str]:
    """Top-level names that a module imports, anywhere in it, absolute or through `importlib`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            names |= {a.value.partition(".")[0] for a in node.args if isinstance(a, ast.Constant)}
    return names


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folder_imports_only_what_lies_below_it(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        if folder == "probes" and ROOT / NOTEBOOKS in path.parents:
            continue
        upward = imports_of(path.read_text(encoding="utf-8")) & (FOLDERS - MAY_IMPORT[folder] - {folder})
        assert not upward, f"{path.relative_to(ROOT)} imports {', '.join(sorted(upward))}"


def test_imports_are_seen_wherever_they_stand() -> None:
    source = "def f():\n    from probes.a import b\n    import figures.report as r\n    import_module('tests.tiny')\n"
    assert imports_of(source) == {"probes", "figures", "tests"}
