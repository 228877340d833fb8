"""What each arm costs (table E): time of a step, peak memory, time of an evaluated item, FLOPs of the tower.

FLOPs are those of the tower's forward pass for one picture, counted by torch's FlopCounterMode while the arm trains, so
that what it adds to the tower is in them; they do not depend on the machine. Times and memory do: they are measured in
turns, repeat by repeat, on the same examples, and the first step of a training is not counted. Features of pictures are
never kept, and memory is that above the loaded model.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from interp.covft.arms import Plan
from interp.covft.plan import StudySettings, Unit, evaluation_job, make_unit, mixture_label
from interp.covft.work import StudyWork
from interp.errors import CrosstaskError
from interp.memory import peak_memory
from interp.runs import Run, read_journal
from interp.tuning.dataset import as_example
from interp.tuning.evaluation.evaluate import evaluate
from interp.tuning.matrix.work import scoring_options, target_items
from interp.tuning.run import TunedRun, finetune
from interp.tuning.strategies.towers import vision_tower

FOLDER = "overhead"
ITEMS = 8
"""Items of the timed evaluation."""
COLUMNS = ("arm", "repeat", "step_seconds", "item_seconds", "peak_bytes", "tower_flops", "trained_parameters", "steps")


@dataclass
class FlopMeter:
    """Counts the FLOPs of a module's forward passes.

    Attributes:
        flops: for each pass.
    """

    flops: list[int] = field(default_factory=list)

    def each(self, pictures: int) -> float:
        """FLOPs of a picture, of so many that went through; a tower may be given tiles of them, or patches.

        Raises:
            CrosstaskError: the module did not run, or there was no picture.
        """
        if not self.flops or not pictures:
            raise CrosstaskError("the vision tower did not run while its operations were counted")
        return sum(self.flops) / pictures


@contextmanager
def counted(module: nn.Module) -> Iterator[FlopMeter]:
    """Count the FLOPs of a module's forward passes in the block."""
    meter, modes = FlopMeter(), []

    def begin(*_: Any) -> None:
        modes.append(FlopCounterMode(display=False))
        modes[-1].__enter__()

    def end(*_: Any) -> None:
        mode = modes.pop()
        mode.__exit__(None, None, None)
        meter.flops.append(mode.get_total_flops())

    handles = [
        module.register_forward_pre_hook(begin),
        module.register_forward_hook(end, always_call=True),
    ]
    try:
        yield meter
    finally:
        for handle in handles:
            handle.remove()


def measure(
    root: Path,
    settings: StudySettings,
    plan: Plan,
    work: StudyWork,
    *,
    repeats: int,
    steps: int,
    say: Callable[[str], object] = lambda _: None,
) -> pd.DataFrame:
    """Measure each arm of a plan, in turns; what is measured is recorded, and not measured again.

    Args:
        root: the study's folder.
        settings: of the study.
        plan: whose arms are measured.
        work: holds the model.
        repeats: of the whole round.
        steps: of a training, of which the first is not counted.
        say: is told what is measured.

    Returns:
        The table with `COLUMNS`, times in seconds and memory in bytes.

    Raises:
        CrosstaskError: fewer than two steps, or fewer than one repeat.
    """
    if steps < 2 or repeats < 1:
        raise CrosstaskError(
            f"costs need at least 2 steps, of which the first is not counted, and 1 repeat, not {steps} and {repeats}"
        )
    config = {**settings.config(), "steps": steps, "tasks": list(plan.cells[0].mixture)}
    with Run.open(folder_of(root, plan), config) as run:
        for repeat in range(repeats):
            for cell in plan.cells:
                key = (cell.arm.name, repeat)
                if run.done(key) is None:
                    run.record(key, _measured(work, make_unit(settings, cell, 0), steps))
                    say(f"{cell.arm.name}, repeat {repeat + 1} of {repeats}")
    return read(root, plan)


def folder_of(root: Path, plan: Plan) -> Path:
    """Where the costs of arms on a mixture are recorded."""
    return root / FOLDER / mixture_label(plan.cells[0].mixture)


def read(root: Path, plan: Plan) -> pd.DataFrame:
    """What was measured of a plan's arms."""
    names = {cell.arm.name for cell in plan.cells}
    rows = []
    for key, payload in read_journal(folder_of(root, plan)).items():
        name, repeat = json.loads(key)
        if name in names:
            rows.append({"arm": name, "repeat": repeat, **payload})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def read_all(root: Path, plans: Sequence[Plan]) -> pd.DataFrame:
    """What was measured of all plans that mix the tasks of the last one; an arm is there once."""
    mixture = plans[-1].cells[0].mixture
    found = pd.concat([read(root, plan) for plan in plans if plan.cells[0].mixture == mixture], ignore_index=True)
    return found.drop_duplicates(["arm", "repeat"], ignore_index=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm: medians over repeats."""
    numbers = [name for name in COLUMNS if name not in ("arm", "repeat")]
    found = table.groupby("arm", sort=False)[numbers].median().reset_index()
    found.insert(1, "repeats", table.groupby("arm", sort=False).size().to_numpy())
    return found


def _measured(work: StudyWork, unit: Unit, steps: int) -> dict[str, Any]:
    """One arm, once."""
    config = work.config(unit).changed(features="off", steps=steps, fraction=1.0)
    config = config.changed(examples=min(config.n_examples, steps * config.batch))
    examples = work.examples(unit)[: config.n_examples]
    _, tower = vision_tower(work.model)
    moments: list[float] = []
    runs: list[TunedRun] = []
    with tempfile.TemporaryDirectory() as place:
        few = config.changed(steps=1, batch=1, micro_batch=1)
        with counted(tower) as meter:
            finetune(few, Path(place) / "counted", model=work.model, examples=examples[:1])

        def train() -> None:
            folder = Path(place) / "timed"
            tell = lambda *_: moments.append(time.perf_counter())  # noqa: E731
            runs.append(finetune(config, folder, model=work.model, examples=examples, tell=tell))

        peak, _ = peak_memory(work.model, train)
        seconds = _evaluated(work, unit, runs[0].adapter)
    return {
        "step_seconds": statistics.median(b - a for a, b in itertools.pairwise(moments)),
        "item_seconds": seconds,
        "peak_bytes": peak,
        "tower_flops": meter.each(len(as_example(examples[0]).images)),
        "trained_parameters": runs[0].record["trained_parameters"],
        "steps": steps,
    }


def _evaluated(work: StudyWork, unit: Unit, adapter: Path) -> float:
    """Seconds of an item of the mixture's first task, read and scored."""
    job = evaluation_job(unit, unit.cell.mixture[0])
    items = target_items(replace(job, config={**job.config, "items": ITEMS}), work.model)
    options = scoring_options(job, work.models.how)
    begun = time.perf_counter()
    list(evaluate(work.model, items, {"arm": adapter}, options))
    return (time.perf_counter() - begun) / len(items)
