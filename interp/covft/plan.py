"""The settings of a study and its units: one training with its evaluation on every task of its mixture.

    units/<arm>/<mixture>[-<share>]/seed<k>/     a run folder (:mod:`interp.runs`); its configuration is all that counts
    requests/<table>-<hash>.json                 what a command asked for: cells and seeds

A unit is named and configured by what decides it and not by the table, so that tables share units, and a command may
add tables, tasks or seeds to a folder. All arms of a seed see the same examples in the same order with the same number
of steps, and all arms are tested on the same items.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from interp.covft.arms import FROZEN, Arm, Cell, Plan
from interp.errors import CrosstaskError
from interp.tasks.perception.wording import Wording
from interp.tuning.matrix.plan import DIFFICULTY, Job, form_of, percent, plain, task_of

UNITS, REQUESTS = "units", "requests"


@dataclass(frozen=True)
class StudySettings:
    """What is the same for all units of a study.

    Attributes:
        model: name of the model.
        training: the runner's settings that all arms have (examples, steps, batch, learning rate, LoRA's rank, ...).
        items: tested items of each task.
        split: whose items are tested on: "test", or "selection" to choose a learning rate by.
        data_seed: of the tested items.
        size: side of a drawn picture in pixels; by default the one that the model's tower takes.
        wording: how tasks ask, in training and in evaluation (:mod:`interp.tasks.perception.wording`).
        shifts: whether a choice is averaged over all shifts of the options.
        loading: what of loading the model decides the numbers.
        difficulties: task -> difficulty, 0 to 1; a folder may grow by tasks, so it is held to by each unit.
    """

    model: str
    training: Mapping[str, Any]
    items: int = 200
    split: Literal["test", "selection"] = "test"
    data_seed: int = 0
    size: int | None = None
    wording: Wording = "brief"
    shifts: bool = True
    loading: Mapping[str, Any] = field(default_factory=dict)
    difficulties: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.items < 1:
            raise CrosstaskError(f"a task needs at least one test item, not {self.items}")
        if {"examples", "steps"} - self.training.keys():
            raise CrosstaskError("a study needs the number of examples and of steps, the same for all arms")

    def config(self) -> dict[str, Any]:
        """What a study's folder is held to, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "difficulties"}

    def difficulty(self, task: str) -> float:
        """Of a task, which may be named with its form."""
        return self.difficulties.get(task_of(task), DIFFICULTY)


@dataclass(frozen=True)
class Unit:
    """One training with its evaluation, or the frozen model on one task.

    Attributes:
        key: path of its folder below `units`.
        cell: what is trained.
        seed: of the training.
        config: everything that decides its result, as JSON values.
    """

    key: str
    cell: Cell
    seed: int
    config: Mapping[str, Any]

    @property
    def trains(self) -> bool:
        return self.cell.arm.name != FROZEN

    @property
    def steps(self) -> list[str]:
        """What the journal of a finished unit holds."""
        return [*([TRAINED] if self.trains else []), *self.cell.mixture]


TRAINED = "trained"
"""In a unit's journal: the training is done."""


def make_unit(settings: StudySettings, cell: Cell, seed: int) -> Unit:
    """The unit of a cell and a seed."""
    config = {
        **settings.config(),
        "arm": cell.arm.name,
        "own": dict(cell.arm.training),
        "tasks": list(cell.mixture),
        "fraction": cell.fraction,
        "difficulties": {task: settings.difficulty(task) for task in cell.mixture},
        "seed": seed,
    }
    if cell.arm.name == FROZEN:
        return Unit(f"{FROZEN}/{plain(cell.mixture[0])}", cell, seed, config)
    return Unit(f"{plain(cell.arm.name)}/{mixture_label(cell.mixture, cell.fraction)}/seed{seed}", cell, seed, config)


def mixture_label(mixture: Sequence[str], fraction: float = 1.0) -> str:
    """A mixture as part of a path and in tables: abbreviations of its tasks, and the share if it is not all."""
    from interp.tasks.perception.registry import perception_tasks

    known = perception_tasks(core=None)
    parts = []
    for name in mixture:
        task = known.get(task_of(name))
        form = form_of(name)
        parts.append((task.abbreviation if task is not None else plain(name)) + (f".{form}" if form else ""))
    return "-".join(parts) + ("" if fraction == 1 else f"-{percent(fraction)}")


def make_units(settings: StudySettings, plans: Sequence[Plan], seeds: Sequence[int]) -> list[Unit]:
    """All units of some tables, each once: the frozen model, then seed by seed, arms of a mixture side by side."""
    cells = [cell for plan in plans for cell in plan.cells]
    tasks = dict.fromkeys(task for cell in cells for task in cell.mixture)
    found = {unit.key: unit for unit in frozen_units(settings, tasks)}
    for seed in seeds:
        for cell in sorted(cells, key=lambda cell: (-cell.fraction, len(cell.mixture))):
            unit = make_unit(settings, cell, seed)
            if found.setdefault(unit.key, unit).config != unit.config:
                raise CrosstaskError(f"two arms are both called {cell.arm.name!r}")
    return list(found.values())


def frozen_units(settings: StudySettings, tasks: Sequence[str] | Mapping[str, None]) -> Iterator[Unit]:
    """The frozen model on each task."""
    for task in tasks:
        yield make_unit(settings, Cell(Arm(FROZEN), (task,)), 0)


def training_job(unit: Unit) -> Job:
    """A unit's training as the matrix's machinery takes it; a share of the data is a share of the steps as well."""
    config, fraction = unit.config, unit.config["fraction"]
    training = {**config["training"], **config["own"]}
    training["examples"] = max(len(config["tasks"]), round(fraction * config["training"]["examples"]))
    return Job(
        "train",
        unit.key,
        {
            "model": config["model"],
            "loading": config["loading"],
            "size": config["size"],
            "wording": config["wording"],
            "source": mixture_label(config["tasks"]),
            "shares": {task: 1 / len(config["tasks"]) for task in config["tasks"]},
            "difficulties": config["difficulties"],
            "difficulty": DIFFICULTY,
            "seed": unit.seed,
            "training": training,
            "fraction": fraction,
            "checkpoints": [1.0],
        },
    )


def evaluation_job(unit: Unit, task: str) -> Job:
    """A unit's evaluation on a task."""
    config = unit.config
    tested = {
        "model": config["model"],
        "target": task,
        "items": config["items"],
        "split": config["split"],
        "data_seed": config["data_seed"],
        "size": config["size"],
        "wording": config["wording"],
        "difficulty": config["difficulties"][task],
        "scoring": "choice",
        "shifts": config["shifts"],
        "min_pixels": config["training"].get("min_pixels"),
        "max_pixels": config["training"].get("max_pixels"),
        "loading": config["loading"],
    }
    return Job("evaluate", f"{unit.key}/{plain(task)}", tested)


@dataclass(frozen=True)
class Request:
    """What a command asked for.

    Attributes:
        plan: of one table.
        seeds: of the trainings.
        counts: arm -> trained parameters, where the table is about them.
    """

    plan: Plan
    seeds: tuple[int, ...]
    counts: Mapping[str, int] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def name(self) -> str:
        """Of its file."""
        digest = hashlib.sha256(json.dumps(self.row(), sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.plan.table}-{digest}"

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Request:
        """From JSON values."""
        cells = tuple(
            Cell(Arm(**cell["arm"]), tuple(cell["mixture"]), cell["fraction"]) for cell in row["plan"]["cells"]
        )
        return cls(
            Plan(row["plan"]["table"], row["plan"]["reference"], cells), tuple(row["seeds"]), dict(row["counts"])
        )


def read_requests(root: Path) -> list[Request]:
    """All that was asked of a folder, by table and then as it was asked.

    Raises:
        CrosstaskError: a file is damaged.
    """
    paths = sorted((root / REQUESTS).glob("*.json"), key=lambda path: (path.name[0], path.stat().st_mtime_ns))
    return [_read_request(path) for path in paths]


def _read_request(path: Path) -> Request:
    try:
        return Request.from_row(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CrosstaskError(f"{path} cannot be read ({error}): delete it, and run its command again") from error
