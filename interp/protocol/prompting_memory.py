"""Peak memory of the cases of :mod:`interp.protocol.prompting_cost`: of one query, above what is held with the model.

On a GPU PyTorch's allocator counts it, in this process. Elsewhere the kernel counts what a whole process holds, so a
process of its own is started, with its own copy of the model; it gives freed memory back at once, and measures one case
for each line that it reads, in the order in which they come.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any, Self, TextIO

import torch

from interp.errors import CrosstaskError
from interp.memory import measuring_environment, peak_memory
from interp.models.base import Model, load_model
from interp.models.options import LoadOptions
from interp.protocol.prompting_cost import NOTHING, Case, CostSettings, work_of
from interp.tasks import Task, load_task

MODULE = "interp.protocol.prompting_memory"


class MemoryMeter:
    """Measures cases; use it as a context manager, which ends the process.

    Args:
        settings: how the model is loaded and asked.
        model, task: as loaded here.
    """

    def __init__(self, settings: CostSettings, model: Model, task: Task) -> None:
        self.settings, self.model, self.task = settings, model, task
        self._process: subprocess.Popen[str] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._log = self._open.enter_context(tempfile.TemporaryFile("w+"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._open.close()

    def measure(self, case: Case) -> dict[str, int]:
        """Bytes that one query of a case needs above what was held before it, and bytes held in all.

        Raises:
            CrosstaskError: the process that measures fails.
        """
        if self.model.device.type == "cuda":
            return _measured(self.model, self.settings, self.task, case)
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with suppress(OSError):
            self._process.stdin.write(json.dumps(asdict(case)) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            said = [text.strip() for text in self._log if text.strip()] or ["it said nothing"]
            raise CrosstaskError(f"the process that measures memory ended with code {code}: {said[-1]}")
        return json.loads(line)

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", MODULE, json.dumps(asdict(self.settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=measuring_environment(self.settings.threads),
        )


def _measured(model: Model, settings: CostSettings, task: Task, case: Case) -> dict[str, int]:
    above, total = peak_memory(model, work_of(model, settings, task, case, 1))
    return {"above": above, "total": total}


def serve(request: dict[str, Any], cases: TextIO, answers: TextIO) -> None:
    """Measure the case of each line, until there are no more."""
    settings = CostSettings(**request | {"loading": LoadOptions(**request["loading"])})
    torch.set_num_threads(settings.threads)
    model, task = load_model(settings.model, **asdict(settings.loading)), load_task(settings.task)
    work_of(model, settings, task, NOTHING, 1)()  # what libraries set up at first use
    for line in cases:
        found = _measured(model, settings, task, Case(**json.loads(line)))
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)  # whatever else prints, prints to the log
        serve(json.loads(sys.argv[1]), sys.stdin, replies)
