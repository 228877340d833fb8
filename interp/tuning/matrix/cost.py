"""How long a matrix takes and how much disk, foretold from a few steps and items of the real model.

    hours = sum over trainings  steps * s_step  +  sum over evaluations  variants * tokens(target) * s_token

where s_step is the time of an optimiser step (a short training on each of a few sources, its first step left out),
tokens(target) is that of a few items scaled to all of them, and s_token the time of a token in their forward passes.
Drawing items and encoding their pictures is measured with them, once for each target.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from interp.tuning.evaluation.evaluate import prepare_items
from interp.tuning.matrix.jobs import finished_units, units
from interp.tuning.matrix.plan import Job
from interp.tuning.matrix.work import ModelWork, scoring_options, target_items, tune_config
from interp.tuning.pixels import pixel_limits
from interp.tuning.run import finetune

SOURCES, TARGETS = 3, 3
"""How many sources are trained on for a moment, and targets timed; the others are taken to be like their mean."""
STEPS, ITEMS = 3, 8
RECORD_BYTES = 450
"""Bytes of an item's record, about."""


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Attributes:
        step: seconds of an optimiser step.
        token: seconds of a token of an evaluation.
        item_tokens: target -> tokens that a variant runs for an item, option shifts included.
        item: seconds to draw or read an item and to encode its pictures, once for all variants.
        adapter_bytes: of a trained adapter on disk.
    """

    step: float
    token: float
    item_tokens: Mapping[str, float]
    item: float
    adapter_bytes: int


def measure(work: ModelWork, jobs: Sequence[Job]) -> Costs:
    """Train a few steps and evaluate a few items of the real model.

    Args:
        work: with the model.
        jobs: those of the matrix.
    """
    trainings, evaluations = _first_of_each(jobs, "train", "source"), _first_of_each(jobs, "evaluate", "target")
    steps, size = _time_training(work, trainings)
    tokens: dict[str, float] = {}
    seconds = total = preparing = 0.0
    for number, job in enumerate(evaluations):
        few = replace(job, config={**job.config, "items": ITEMS})
        options = scoring_options(job, work.how)
        with pixel_limits(work.model, options.min_pixels, options.max_pixels):
            start = time.perf_counter()
            items = target_items(few, work.model)
            ready = prepare_items(work.model, items, options)
            tokens[job.config["target"]] = ready.n_tokens / len(items)
            if number < TARGETS:
                ready.score()  # encodes the pictures
                first = time.perf_counter() - start
                start = time.perf_counter()
                ready.score()
                again = time.perf_counter() - start
                seconds, total = seconds + again, total + ready.n_tokens
                preparing += max(0.0, first - again) / len(items)
    timed = min(TARGETS, len(evaluations))
    return Costs(steps, seconds / total if total else 0.0, tokens, preparing / timed if timed else 0.0, size)


def _time_training(work: ModelWork, jobs: Sequence[Job]) -> tuple[float, int]:
    """Seconds of a step, and bytes of an adapter."""
    per_step, size = [], 0
    for job in jobs[:SOURCES]:
        config = tune_config(job, work.how)
        few = config.changed(
            steps=STEPS, epochs=None, schedule="none", fraction=1.0, snapshots=(), examples=min(config.n_examples, 32)
        )
        moments: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            run = finetune(
                few,
                Path(folder) / "run",
                model=work.model,
                tell=lambda *_: moments.append(time.perf_counter()),  # noqa: B023
            )
            size = sum(path.stat().st_size for path in run.adapter.iterdir())
        if len(moments) > 1:
            per_step.append((moments[-1] - moments[0]) / (len(moments) - 1))
    return (sum(per_step) / len(per_step) if per_step else 0.0), size


def estimate(root: Path, jobs: Sequence[Job], costs: Costs, how: ModelWork) -> pd.DataFrame:
    """A row for each job: kind, job, units (adapters evaluated), left, seconds and bytes of what is left.

    Args:
        root: folder of the matrix, of which finished jobs are read.
        jobs: those of the matrix.
        costs: what was measured.
        how: for the number of steps.
    """
    rows = []
    for job in jobs:
        wanted = units(job)
        left = len(set(wanted) - finished_units(root, job.key).keys())
        if job.kind == "train":
            config = tune_config(job, how.how)
            snapshots = 1 + len(config.snapshots)
            seconds = left * config.n_steps(config.n_examples) * costs.step
            size = left * snapshots * costs.adapter_bytes
        else:
            items = job.config["items"]
            seconds = left * items * costs.item_tokens[job.config["target"]] * costs.token
            seconds += bool(left) * items * costs.item
            size = left * items * RECORD_BYTES
        rows.append(
            {"kind": job.kind, "job": job.key, "units": len(wanted), "left": left, "seconds": seconds, "bytes": size}
        )
    return pd.DataFrame(rows, columns=["kind", "job", "units", "left", "seconds", "bytes"])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Jobs, units left, hours and megabytes by kind, and all together."""
    rows = [("all", table)] + [(str(kind), group) for kind, group in table.groupby("kind", sort=False)]
    return pd.DataFrame(
        {
            "what": name,
            "jobs": len(group),
            "done": int((group["left"] == 0).sum()),
            "units left": int(group["left"].sum()),
            "hours": round(group["seconds"].sum() / 3600, 3),
            "MB": round(group["bytes"].sum() / 1e6, 1),
        }
        for name, group in [*rows[1:], rows[0]]
    )


def _first_of_each(jobs: Sequence[Job], kind: str, name: str) -> list[Job]:
    found = {job.config[name]: job for job in reversed(jobs) if job.kind == kind}
    return list(found.values())[::-1]
