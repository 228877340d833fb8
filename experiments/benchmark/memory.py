"""Peak memory of one capture, or of the bare forward passes of the same prompts, in a process of its own.

``python -m experiments.benchmark.memory '{...}'`` prints a line of JSON: bytes above what was held before, and in all.
Allocations are given back to the system as soon as they are freed (two variables of malloc), so that what is held
follows what is used.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from experiments.benchmark.workloads import WORKLOADS, Materials
from interp.errors import CrosstaskError
from interp.memory import measuring_environment


def measured(
    peer: str, workload: str, materials: Materials, *, queries: int, threads: int, model: str, dtype: str, device: str
) -> dict[str, int]:
    """Start the process and read its answer.

    Raises:
        CrosstaskError: if it fails.
    """
    request = {
        "lengths": materials.lengths,
        "vectors": materials.vectors,
        "seed": materials.seed,
        "tasks": [[task.name, str(task.source)] for task in materials.tasks],
        "template": materials.template.text,
        "peer": peer,
        "workload": workload,
        "queries": queries,
        "threads": threads,
        "model": model,
        "dtype": dtype,
        "device": device,
    }
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark.memory", json.dumps(request)],
        capture_output=True,
        text=True,
        env=measuring_environment(threads),
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise CrosstaskError(f"the process that measures memory ended with code {done.returncode}: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(request: dict[str, Any]) -> dict[str, int]:
    """Measure in this process."""
    import torch

    from experiments.benchmark.peers import make_peer
    from interp.memory import peak_memory
    from interp.models.base import load_model
    from interp.prompts import Template
    from interp.tasks import load_task, task_names

    torch.set_num_threads(request["threads"])
    known = task_names()
    materials = Materials(
        tasks=tuple(load_task(name if name in known else source) for name, source in request["tasks"]),
        template=Template.parse(request["template"]),
        lengths=tuple(request["lengths"]),
        vectors=request["vectors"],
        seed=request["seed"],
    )
    model = load_model(request["model"], dtype=request["dtype"], device=request["device"])
    call = materials.call(WORKLOADS[request["workload"]], model, request["queries"])
    peer = make_peer(request["peer"])
    peer.perform(model, call.begun(1))  # what libraries set up at first use is neither's
    above, total = peak_memory(model, lambda: peer.perform(model, call))
    return {"above": above, "total": total}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
