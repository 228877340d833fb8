"""Trainings by two processes on this machine."""

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
TAIL = """
(out / f"process{torch.distributed.get_rank()}of{torch.distributed.get_world_size()}").touch()
"""


def trained_by_two(code: str, folder: Path) -> TunedRun:
    """The run that two processes make of some code.

    Args:
        code: trains into `out / "run"`; `out` and torch are there.
        folder: empty; becomes `out`.
    """
    script = folder / "train.py"
    script.write_text(HEAD + code + TAIL)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(script), str(folder)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in folder.glob("process*")} == {"process0of2", "process1of2"}
    return TunedRun(folder / "run", json.loads((folder / "run" / "adapter" / "run.json").read_text()))
