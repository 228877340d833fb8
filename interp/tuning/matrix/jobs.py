"""One job in its folder: what is finished is recorded, and never done again or counted twice.

    jobs/<key>/config.json, environment.json, journal.jsonl     a run folder (see :mod:`interp.runs`)
    jobs/train/.../run/                                         the runner's own folder, with its checkpoints
    jobs/evaluate/.../records/<variant>.jsonl                   one line for each item, written whole or not at all

The units of an evaluation are its variants, and a training is one unit. A record file counts only when its unit is in
the journal, with its number of lines and its hash, so a process may be killed at any point.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from interp.errors import CrosstaskError
from interp.files import sha256_of
from interp.runs import Run, hold_to_config, read_journal
from interp.tuning.evaluation.records import Record
from interp.tuning.matrix.plan import Job, Variant

TRAINED = "trained"
"""The unit of a training job."""
Said = Callable[[str], object]


class Work(Protocol):
    """What jobs do with models."""

    def train(self, job: Job, folder: Path) -> Mapping[str, Any]:
        """Fine-tune into a folder, going on from what an earlier try left there.

        Returns:
            JSON values: "adapters" (share of the training, as text -> folder relative to the given one), "steps", and
            "update_norm" for each share.
        """

    def evaluate(
        self, job: Job, adapters: Sequence[tuple[Variant, Path | None]]
    ) -> Iterable[tuple[Variant, list[Record]]]:
        """Evaluate adapters (None: the frozen model) on the job's target, together."""


def folder_of(root: Path, key: str) -> Path:
    """Where a job is done."""
    return root / "jobs" / key


def units(job: Job) -> list[str]:
    """What the journal of a finished job holds."""
    return [TRAINED] if job.kind == "train" else [variant.name for variant in job.variants]


def finished_units(root: Path, key: str) -> dict[str, Any]:
    """The finished units of a job with what was recorded of them, read without holding the folder."""
    return read_journal(folder_of(root, key))


def is_finished(root: Path, job: Job) -> bool:
    """Whether all of a job is done.

    Raises:
        CrosstaskError: its folder was made with another configuration.
    """
    hold_to_config(folder_of(root, job.key), job.config)
    return set(units(job)) <= finished_units(root, job.key).keys()


def perform(root: Path, job: Job, work: Work, *, say: Said | None = None) -> None:
    """Do what is left of a job.

    Args:
        root: folder of the matrix.
        job: the job.
        work: what is done with models.
        say: is told what is finished.

    Raises:
        CrosstaskError: a job that it needs is not done, its folder was made with another configuration, or another
            process is at it.
    """
    say = say or (lambda _: None)
    folder = folder_of(root, job.key)
    with Run.open(folder, job.config, seeds=sorted({variant.seed for variant in job.variants})) as run:
        left = [unit for unit in units(job) if run.done(unit) is None]
        if not left:
            return
        if job.kind == "train":
            run.record(TRAINED, work.train(job, folder / "run"))
            say(job.key)
            return
        todo = [variant for variant in job.variants if variant.name in left]
        adapters = [(variant, adapter_of(root, job, variant)) for variant in todo]
        for variant, records in work.evaluate(job, adapters):
            path = run.write_jsonl(record_file(variant), (record.row() for record in records))
            run.record(variant.name, {"n": len(records), "sha256": sha256_of(path)})
            say(f"{job.key}: {variant.name}")
    missing = set(units(job)) - finished_units(root, job.key).keys()
    if missing:
        raise CrosstaskError(f"job {job.key!r} ended without {', '.join(sorted(missing))}")


def record_file(variant: Variant) -> str:
    """Name of a variant's records within the folder of a job."""
    return f"records/{variant.name}.jsonl"


def adapter_of(root: Path, job: Job, variant: Variant) -> Path | None:
    """The folder of a variant's adapter; None for the frozen model.

    Raises:
        CrosstaskError: it has not been trained.
    """
    key = job.trainings[job.variants.index(variant)]
    if key is None:
        return None
    payload = finished_units(root, key).get(TRAINED)
    if payload is None:
        raise CrosstaskError(f"job {job.key!r} needs {key!r}, which is not done")
    return folder_of(root, key) / "run" / payload["adapters"][share(variant.fraction, payload["adapters"])]


def share(fraction: float, known: Iterable[str]) -> str:
    """The key under which a training recorded a share of its steps; a training of its own has one key."""
    names = list(known)
    if len(names) == 1:
        return names[0]
    for name in names:
        if abs(float(name) - fraction) < 1e-9:
            return name
    raise CrosstaskError(f"there is no checkpoint at {fraction:g} of the training; there are {', '.join(names)}")


def read_records(root: Path, job: Job, variant: Variant) -> list[Record]:
    """The records of a finished unit.

    Raises:
        CrosstaskError: it is not finished, or its file is not the one that was written.
    """
    payload = finished_units(root, job.key).get(variant.name)
    path = folder_of(root, job.key) / record_file(variant)
    if payload is None:
        raise CrosstaskError(f"{path} is not finished; run the same command again to continue")
    if not path.exists() or sha256_of(path) != payload["sha256"]:
        raise CrosstaskError(f"{path} is missing or was changed; delete the folder {path.parents[1]} and run again")
    return [Record.from_row(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
