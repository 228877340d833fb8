"""How long a study takes, foretold from a few steps and items of the real model.

    hours = sum over units left  steps * s_step(arm)  +  tasks * items * s_item(arm)

Each arm is trained for a few steps and evaluated on a few items; its mixtures, shares and seeds are taken to be alike.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from interp.covft.plan import Unit, evaluation_job, training_job
from interp.covft.units import finished
from interp.covft.work import StudyWork
from interp.tuning.evaluation.evaluate import evaluate
from interp.tuning.matrix.work import mixed_examples, scoring_options, target_items
from interp.tuning.run import finetune

STEPS, ITEMS = 3, 6


@dataclass(frozen=True)
class Cost:
    """Of an arm.

    Attributes:
        step: seconds of an optimiser step.
        item: seconds of an evaluated item.
        adapter_bytes: of its adapter on disk.
    """

    step: float
    item: float
    adapter_bytes: int


def kind_of(unit: Unit) -> str:
    """What decides a unit's cost: its strategy with its options and gradient surgery, or frozen."""
    return unit.cell.arm.name


def measure(work: StudyWork, units: Sequence[Unit]) -> dict[str, Cost]:
    """Time one unit of each kind."""
    first = {kind_of(unit): unit for unit in reversed(units)}
    return {kind: _measured(work, first[kind]) for kind in dict.fromkeys(map(kind_of, units))}


def estimate(root: Path, units: Sequence[Unit], costs: Mapping[str, Cost], *, keep: bool) -> pd.DataFrame:
    """A row for each arm: units, left, seconds and bytes of what is left.

    Args:
        root: folder of the study, of which finished units are read.
        units: those of the study.
        costs: of each kind of unit.
        keep: whether adapters are kept.
    """
    rows = []
    for unit in units:
        left = [step for step in unit.steps if step not in finished(root, unit)]
        cost, config = costs[kind_of(unit)], unit.config
        steps = round(config["training"]["steps"] * config["fraction"])
        trains = unit.trains and len(left) == len(unit.steps)
        seconds = trains * steps * cost.step + (len(left) - trains) * config["items"] * cost.item
        size = trains * keep * cost.adapter_bytes
        rows.append({"arm": unit.cell.arm.name, "units": 1, "left": bool(left), "seconds": seconds, "bytes": size})
    table = pd.DataFrame(rows, columns=["arm", "units", "left", "seconds", "bytes"])
    return table.groupby("arm", sort=False).sum().reset_index()


def _measured(work: StudyWork, unit: Unit) -> Cost:
    with tempfile.TemporaryDirectory() as place:
        adapter, step, size = None, 0.0, 0
        if unit.trains:
            job, moments = training_job(unit), list[float]()
            config = work.config(unit).changed(fraction=1.0, steps=STEPS)
            config = config.changed(examples=max(len(unit.cell.mixture), STEPS * config.batch))
            run = finetune(
                config,
                Path(place) / "run",
                model=work.model,
                examples=mixed_examples(job, config, work.model),
                tell=lambda *_: moments.append(time.perf_counter()),
            )
            adapter, step = run.adapter, (moments[-1] - moments[0]) / (len(moments) - 1)
            size = sum(path.stat().st_size for path in adapter.iterdir())
        job = evaluation_job(unit, unit.cell.mixture[0])
        items = target_items(replace(job, config={**job.config, "items": ITEMS}), work.model)
        begun = time.perf_counter()
        list(evaluate(work.model, items, {"arm": adapter}, scoring_options(job, work.models.how)))
        return Cost(step, (time.perf_counter() - begun) / len(items), size)
