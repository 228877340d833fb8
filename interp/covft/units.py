"""Units of a study, done once each, by any number of processes on the same folder.

A unit's folder is held by one process at a time (:class:`interp.runs.Run`). A process that finds a unit held takes the
next one, and comes back until all are done; a killed process lets go of its unit, and what it had finished of it (the
runner's last checkpoint, evaluated tasks) is not done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import filelock

from interp.covft.plan import TRAINED, UNITS, Unit
from interp.errors import CrosstaskError
from interp.files import sha256_of
from interp.runs import Run, hold_to_config, read_journal
from interp.tuning.evaluation.records import Record
from interp.tuning.matrix.plan import plain

WAIT = 5.0
"""Seconds before a unit that another process holds is tried again."""
PATIENCE = 120.0
"""Seconds after which a study's own folder, which is held for a moment only, is given up."""


def opened(folder: Path, config: Mapping[str, Any]) -> Run:
    """A study's own folder, after waiting for a process that writes its tables at the moment.

    Raises:
        CrosstaskError: it was made with another configuration, or is held for more than `PATIENCE` seconds.
    """
    for _ in range(int(PATIENCE)):
        try:
            return Run.open(folder, config)
        except CrosstaskError as error:
            if not isinstance(error.__cause__, filelock.Timeout):
                raise
        time.sleep(1)
    return Run.open(folder, config)


class Work(Protocol):
    """What units do with models."""

    def train(self, unit: Unit, folder: Path) -> Mapping[str, Any]:
        """Fine-tune into a folder, going on from what an earlier try left there.

        Returns:
            JSON values: "adapter" (its folder, relative to the given one), "steps", "examples", "data" (a hash),
            "trained_parameters", "update_norm", "seconds".
        """

    def evaluate(self, unit: Unit, task: str, adapter: Path | None) -> list[Record]:
        """Evaluate an adapter (None: the frozen model) on a task."""

    def discard(self, adapter: Path) -> None:
        """Throw an adapter away, unless it is to be kept; called when a unit is finished."""


def folder_of(root: Path, unit: Unit) -> Path:
    """Where a unit is done."""
    return root / UNITS / unit.key


def finished(root: Path, unit: Unit) -> dict[str, Any]:
    """What is finished of a unit: name of the step -> what was recorded."""
    return read_journal(folder_of(root, unit))


def is_finished(root: Path, unit: Unit) -> bool:
    """Whether all of a unit is done.

    Raises:
        CrosstaskError: its folder was made with another configuration.
    """
    hold_to_config(folder_of(root, unit), unit.config)
    return set(unit.steps) <= finished(root, unit).keys()


def perform(root: Path, unit: Unit, work: Work) -> None:
    """Do what is left of a unit.

    Raises:
        CrosstaskError: its folder was made with another configuration, or another process is at it.
    """
    folder = folder_of(root, unit)
    with Run.open(folder, unit.config, seeds=[unit.seed]) as run:
        if unit.trains and run.done(TRAINED) is None:
            run.record(TRAINED, work.train(unit, folder / "run"))
        adapter = folder / "run" / run.done(TRAINED)["adapter"] if unit.trains else None  # type: ignore[index]
        for task in unit.cell.mixture:
            if run.done(task) is None:
                begun = time.perf_counter()
                records = work.evaluate(unit, task, adapter)
                path = run.write_jsonl(record_file(task), (record.row() for record in records))
                seconds = time.perf_counter() - begun
                run.record(task, {"n": len(records), "sha256": sha256_of(path), "seconds": seconds})
        if adapter is not None:
            work.discard(adapter)


def perform_all(
    root: Path, units: Sequence[Unit], work: Work, *, say: Callable[[Unit], object] = lambda _: None
) -> dict[str, str]:
    """Do what is left of units, beside other processes that may be at the same.

    A unit that fails, as one whose loss is no longer a number, does not keep the others from being done.

    Args:
        root: the study's folder.
        units: in the order in which they are tried.
        work: what is done with models.
        say: is told of each unit that is finished, here or elsewhere.

    Returns:
        Key of each unit that failed -> what was said.

    Raises:
        CrosstaskError: a unit's folder was made with another configuration.
    """
    for unit in units:
        is_finished(root, unit)
    left, failed = list(units), dict[str, str]()
    while left:
        held = []
        for unit in left:
            try:
                if not is_finished(root, unit):
                    perform(root, unit, work)
            except CrosstaskError as error:
                if isinstance(error.__cause__, filelock.Timeout):
                    held.append(unit)
                else:
                    failed[unit.key] = str(error)
            else:
                say(unit)
        if len(held) == len(left):
            time.sleep(WAIT)
        left = held
    return failed


def record_file(task: str) -> str:
    """Name of a task's records within the folder of a unit."""
    return f"records/{plain(task)}.jsonl"


def read_records(root: Path, unit: Unit, task: str) -> list[Record]:
    """The records of a finished evaluation.

    Raises:
        CrosstaskError: it is not finished, or its file is not the one that was written.
    """
    payload = finished(root, unit).get(task)
    path = folder_of(root, unit) / record_file(task)
    if payload is None:
        raise CrosstaskError(f"{path} is not finished; run the same command again to continue")
    if not path.exists() or sha256_of(path) != payload["sha256"]:
        raise CrosstaskError(f"{path} is missing or was changed; delete the folder {path.parents[1]} and run again")
    return [Record.from_row(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
