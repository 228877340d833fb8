"""Lists the experiments: `python -m experiments`."""

import ast
from pathlib import Path


def experiments() -> dict[str, str]:
    """Module name -> first line of its docstring, for every module with a command line. Nothing is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if not path.stem.startswith("_") and "__main__" in source:
            found[path.stem] = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
    return found


def main() -> None:
    listed = experiments()
    width = max(map(len, listed))
    for name, line in listed.items():
        print(f"python -m experiments.{name:<{width}}  {line}")
    print("\nEach answers --help with its options, their units and defaults.")


if __name__ == "__main__":
    main()
