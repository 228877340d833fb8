"""Trainings by two processes on this machine, through `accelerate launch`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from interp.tuning.run import TunedRun

HEAD = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
out = Path(sys.argv[1])
"""


def trained_by_two(code: str, folder: Path) -> TunedRun:
    """The run that two processes make of some code.

    Args:
        code: trains into `out / "run"`; `out` and torch are there.
        folder: empty; becomes `out`.
    """
    script = folder / "train.py"
    script.write_text(HEAD + code)
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    options = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, *launch, *options, str(script), str(folder)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return TunedRun(folder / "run", json.loads((folder / "run" / "adapter" / "run.json").read_text()))
