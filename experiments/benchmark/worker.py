"""A peer in a Python environment of its own: a process that is told what to do line by line.

The process is started once and keeps its model, so that its measurements can be interleaved with the others'. A request
is a line of JSON that names a file with the call (:mod:`experiments.benchmark.call_file`) and one for the rows to keep;
the answer is a line with the seconds, taken in the worker, or with the error.

The environment is a virtual environment that sees the packages of the one that runs the benchmark (through a ``.pth``
file) and adds the peer's own, so PyTorch and transformers are the same and nothing large is installed twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import load_file, save_file

from experiments.benchmark.call_file import read_call, write_call
from experiments.benchmark.peers import make_peer
from experiments.benchmark.peers.base import Outcome, Peer
from experiments.benchmark.workloads import Call
from interp.errors import CrosstaskError
from interp.models.base import Model, load_model

ROOT = Path(__file__).parents[2]


class WorkerPeer(Peer):
    """The same peer in another process."""

    def __init__(self, python: Path, name: str, *, threads: int, dtype: str, device: str, log: Path) -> None:
        self.name, self.options = name, {"threads": threads, "dtype": dtype, "device": device}
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [str(python), "-m", "experiments.benchmark.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)},
            )
        self._version = self._ask({"do": "begin", "peer": name, "threads": threads})["version"]

    @property
    def version(self) -> str:
        return self._version

    def run(self, model: Model, call: Call) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="crosstask-bench-") as folder:
            inputs, outputs = Path(folder) / "call.safetensors", Path(folder) / "rows.safetensors"
            write_call(inputs, call)
            files = {"inputs": str(inputs), "outputs": str(outputs)}
            answer = self._ask({"do": "call", "model": model.name, **self.options, **files})
            return Outcome(answer["seconds"], load_file(outputs).get("kept"))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise CrosstaskError(f"the worker of peer {self.name!r} ended with code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise CrosstaskError(f"peer {self.name!r}: {answer['error']}")
        return answer


def environment(folder: Path, requirement: str) -> Path:
    """The Python of a virtual environment that adds a package to what is installed here; made when it is missing.

    Raises:
        CrosstaskError: if the environment cannot be made or the package cannot be installed in it.
    """
    python, done = folder / "bin" / "python", folder / f".{requirement}"
    if done.exists():
        return python
    try:
        venv.create(folder, with_pip=True, clear=True)
        inside = sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)})
        ours = dict.fromkeys(sysconfig.get_paths()[kind] for kind in ("purelib", "platlib"))
        (Path(inside) / "shared.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
        command: Sequence[str] = ["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
        subprocess.run([str(python), "-m", "pip", *command, requirement], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = [line for line in (getattr(error, "stderr", "") or str(error)).splitlines() if line.strip()]
        raise CrosstaskError(f"no environment for {requirement} could be made in {folder}: {said[-1]}") from error
    done.touch()
    return python


def serve(requests: TextIO, answers: TextIO) -> None:
    """Do what each line asks, until there are no more."""
    load = cache(load_model)
    peer: Peer | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if request["do"] == "begin":
                torch.set_num_threads(request["threads"])
                peer = make_peer(request["peer"])
                answer: dict[str, Any] = {"version": peer.version}
            else:
                assert peer is not None
                model = load(request["model"], dtype=request["dtype"], device=request["device"])
                outcome = peer.run(model, read_call(Path(request["inputs"])))
                save_file({} if outcome.kept is None else {"kept": outcome.kept}, request["outputs"])
                answer = {"seconds": outcome.seconds}
        except Exception as error:  # the benchmark decides what becomes of it
            answer = {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)  # whatever else prints, prints to the log
        serve(sys.stdin, replies)
