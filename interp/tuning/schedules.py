"""How long the paper trains on each task (Sachdeva et al. 2025, Table A.2): examples, and steps or epochs of batch 16.

The dose differs by more than a hundredfold between tasks, which confounds it with the source of transfer; our own
studies give all sources the same dose, and the paper's is here for its replication.
"""

from __future__ import annotations

from dataclasses import dataclass

from interp.errors import CrosstaskError
from interp.tasks.perception.registry import perception_task


@dataclass(frozen=True)
class Schedule:
    """How many examples, and for how long; steps or epochs."""

    examples: int | None = None
    steps: int | None = None
    epochs: float | None = None


PAPER = {
    "VS": Schedule(15_914, steps=2500),
    "CN": Schedule(250_000, epochs=1),
    "RD": Schedule(210_000, epochs=1),
    "JG": Schedule(11_837, steps=920),
    "AS": Schedule(100_000, steps=1000),
    "FC": Schedule(100_000, steps=2000),
    "SC": Schedule(36_000, epochs=5),
    "SR": Schedule(7_000, epochs=5),
    "OL": Schedule(18_912, steps=1480),
    "VC": Schedule(6_000, epochs=10),
    "MR": Schedule(4_000, epochs=10),
    "RR": Schedule(14_000, epochs=10),
    "FD": Schedule(60_518, steps=100),
}
"""By abbreviation."""


def schedule_of(task: str) -> Schedule:
    """The paper's schedule of a task.

    Args:
        task: abbreviation, or name of a procedural task.

    Raises:
        CrosstaskError: it is not one of the paper's thirteen.
    """
    if task in PAPER:
        return PAPER[task]
    abbreviation = perception_task(task.partition("/")[0]).abbreviation
    if abbreviation not in PAPER:
        raise CrosstaskError(f"the paper has no schedule for task {task!r}; it has those of {', '.join(PAPER)}")
    return PAPER[abbreviation]
