"""Jobs one after another in this process, or on a cluster through submitit.

On Slurm each stage (trainings, then evaluations) is one array. A task that is preempted or reaches its time limit is
put back into the queue, and goes on from the runner's last checkpoint or the last finished adapter. What is finished is
read from the jobs' folders alone, so the launching process may be killed as well: the same command sends what is left,
except jobs that still run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import CrosstaskError
from interp.files import atomic_file
from interp.tuning.matrix.jobs import Said, Work, is_finished, perform
from interp.tuning.matrix.options import Cluster, ClusterOptions
from interp.tuning.matrix.plan import Job

MakeWork = Callable[[], Work]
SENT = "sent.json"
"""Job key -> id of the cluster's job, in the matrix's folder."""


@dataclass(frozen=True)
class JobCall:
    """One job as a cluster runs it; sent again as it is when the cluster stops it.

    Attributes:
        root: folder of the matrix.
        job: the job.
        make_work: makes what is done with models, in the process that runs the job.
    """

    root: Path
    job: Job
    make_work: MakeWork

    def __call__(self) -> str:
        if not is_finished(self.root, self.job):
            perform(self.root, self.job, self.make_work(), say=print)
        return self.job.key

    def checkpoint(self) -> Any:
        """What submitit queues after a preemption or at the time limit: the rest of the same job."""
        return _submitit().helpers.DelayedSubmission(JobCall(self.root, self.job, self.make_work))


def run_here(root: Path, jobs: Sequence[Job], work: Work, *, say: Said | None = None) -> None:
    """Do what is left of jobs, one after another."""
    for job in jobs:
        if not is_finished(root, job):
            perform(root, job, work, say=say)


def run_on_cluster(
    root: Path,
    jobs: Sequence[Job],
    make_work: MakeWork,
    *,
    cluster: Cluster = "slurm",
    options: ClusterOptions | None = None,
    say: Said | None = None,
) -> None:
    """Send what is left of jobs to a cluster, a stage at a time, and wait.

    Args:
        root: folder of the matrix, which all nodes see.
        jobs: all jobs; a stage ends where jobs are needed that come before.
        make_work: makes what is done with models; sent along, so it must be importable where it runs.
        cluster: "slurm", or "local" for processes on this machine.
        options: what is asked for.
        say: is told how many jobs are sent, and which have failed.

    Raises:
        CrosstaskError: submitit is not there, or jobs have failed; what is finished is kept.
    """
    say = say or (lambda _: None)
    options = options or ClusterOptions()
    submitit = _submitit()
    logs = root / "logs"
    executor = submitit.AutoExecutor(folder=logs, cluster=cluster, slurm_max_num_timeout=options.requeues)
    executor.update_parameters(name="crosstask", **options.parameters(cluster))
    for stage in stages(jobs):
        left = [job for job in stage if not is_finished(root, job)]
        running = _still_running(submitit, root, left) if cluster == "slurm" else {}
        calls = [JobCall(root, job, make_work) for job in left if job.key not in running]
        say(f"{len(stage) - len(left)} of {len(stage)} jobs are done, {len(running)} run, {len(calls)} are sent.")
        wave = (options.at_once or 1) if cluster == "local" else len(calls)
        handles = dict(running)
        failed: dict[str, str] = {}
        for start in range(0, max(1, len(calls)), max(1, wave)):
            some = calls[start : start + wave]
            sent = {call.job.key: handle for call, handle in zip(some, _send(executor, some), strict=True)}
            handles |= sent
            _remember(root, {key: str(handle.job_id) for key, handle in sent.items()})
            waited = sent if cluster == "local" else handles
            failed |= {key: str(error).strip() for key, handle in waited.items() if (error := handle.exception())}
        if failed:
            key, error = next(iter(failed.items()))
            raise CrosstaskError(
                f"{len(failed)} of {len(handles)} jobs failed, the first {key!r}: {error.splitlines()[-1]}. Its log is "
                f"in {logs}; run the same command again to continue"
            )


def stages(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in groups that can run at the same time, each after all that it needs."""
    depth: dict[str, int] = {}
    for job in jobs:
        depth[job.key] = 1 + max((depth[key] for key in job.needs), default=-1)
    return [[job for job in jobs if depth[job.key] == level] for level in range(max(depth.values(), default=-1) + 1)]


def _send(executor: Any, calls: Sequence[JobCall]) -> list[Any]:
    """Submit calls as one array."""
    if not calls:
        return []
    with executor.batch():
        return [executor.submit(call) for call in calls]


def _still_running(submitit: Any, root: Path, jobs: Sequence[Job]) -> dict[str, Any]:
    """Jobs that an earlier launch sent and that are still waiting or running."""
    path = root / SENT
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    handles = {
        job.key: submitit.SlurmJob(folder=root / "logs", job_id=known[job.key]) for job in jobs if job.key in known
    }
    return {key: handle for key, handle in handles.items() if not handle.done()}


def _remember(root: Path, ids: dict[str, str]) -> None:
    path = root / SENT
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    with atomic_file(path) as draft:
        draft.write_text(json.dumps(known | ids, indent=1, sort_keys=True), encoding="utf-8")


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise CrosstaskError(
            "a cluster needs submitit, which is not installed: pip install 'crosstask[slurm]'"
        ) from error
    return submitit
