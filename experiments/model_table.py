"""Write docs/models.md: what works on which model family, from the registry and the test battery."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments import common
from experiments.common import arg

MODULE = "experiments.model_table"


@dataclass(frozen=True)
class Arguments:
    """Write docs/models.md: what works on which model family, from the registry and the test battery.

    The battery runs every family on a tiny random model, in about a minute on two cores.

    Example: python -m experiments.model_table --out docs/models.md
    """

    report: Annotated[Path | None, arg("FILE", "the battery is run now")] = None
    """JUnit report of an earlier run of the battery (pytest --junitxml FILE)."""
    out: Path = Path("docs/models.md")
    """Where the page is written."""


def main(arguments: Arguments) -> None:
    """Runs the battery unless its report is given, and writes the page."""
    from interp.files import atomic_file
    from interp.models.overview import page, read_battery

    if arguments.report is not None:
        points = read_battery(arguments.report)
    else:
        with tempfile.TemporaryDirectory() as folder:
            points = read_battery(_run_battery(Path(folder) / "battery.xml"))
    with atomic_file(arguments.out) as draft:
        draft.write_text(page(points), encoding="utf-8")
    print(arguments.out)


def _run_battery(report: Path) -> Path:
    """Tests may fail: the page says which."""
    from interp.models.overview import BATTERY

    command = [sys.executable, "-m", "pytest", "--quiet", f"--junitxml={report}", BATTERY]
    subprocess.run(command, check=False, stdout=sys.stderr)
    return report


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
