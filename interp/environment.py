"""On what a number was measured: versions, git commit and hardware, without naming the machine or its user."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("crosstask", "numpy", "pandas", "peft", "safetensors", "tokenizers", "torch", "torchvision", "transformers")


def describe_environment() -> dict[str, Any]:
    """Date, versions, git commit and hardware; no host name, user name or path is in it.

    Graphics cards and thread counts are those that PyTorch reports, if this process uses PyTorch at all.
    """
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    torch = sys.modules.get("torch")
    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if torch else []
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_name(),
            "cores": _usable_cores(),
            "threads": torch.get_num_threads() if torch else None,
            "gpus": cards,
        },
    }


def _commit() -> str | None:
    """Commit of the source this runs from, "-dirty" added if tracked files differ; None outside a git checkout."""
    source = Path(__file__).resolve().parent
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        tracked = ["git", "-C", str(source), "ls-files", "--error-unmatch", Path(__file__).name]
        subprocess.run(tracked, check=True, capture_output=True, timeout=10)  # an installed copy may lie in another's
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
