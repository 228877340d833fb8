"""What Slurm is asked for; nothing heavy is imported, so that a command line's help is fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Cluster = Literal["slurm", "local"]


@dataclass(frozen=True)
class ClusterOptions:
    """What Slurm is asked for, for each job."""

    partition: str | None = None
    """Partition; the cluster's default if it is not given."""
    account: str | None = None
    """Account to charge."""
    gpus: int = 1
    """GPUs of a job; 0 for none."""
    cpus: int = 8
    """CPU cores of a job."""
    memory: int = 32
    """Memory of a job in GB."""
    minutes: int = 240
    """Time limit of a job; one that reaches it is queued again and continues."""
    at_once: int | None = None
    """Jobs that run at the same time: of an array 32, of processes on this machine 1."""
    requeues: int = 20
    """How often a job that reached its limit is queued again; preemptions do not count."""
    slurm: Mapping[str, str] = field(default_factory=dict)
    """More options of sbatch, as name: value, such as constraint: a100."""

    def parameters(self, cluster: Cluster) -> dict[str, Any]:
        """As submitit's executor takes them."""
        common = {"timeout_min": self.minutes, "cpus_per_task": self.cpus, "mem_gb": self.memory}
        if cluster == "local":
            return {"timeout_min": self.minutes}
        common |= {"gpus_per_node": self.gpus} if self.gpus else {}
        chosen = {"partition": self.partition, "account": self.account}
        given = {f"slurm_{name}": value for name, value in chosen.items() if value is not None}
        return common | given | {
            "slurm_array_parallelism": self.at_once or 32,
            "slurm_additional_parameters": {"requeue": True, **self.slurm},
        }  # fmt: skip
