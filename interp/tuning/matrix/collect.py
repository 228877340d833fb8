"""The tables of a matrix, from the records of its jobs; the schema is that of :mod:`interp.transfer.tables`."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.files import atomic_file
from interp.tasks.perception.registry import perception_tasks
from interp.transfer.tables import CELL_COLUMNS, CELLS_FILE, ITEM_COLUMNS, ITEMS_FILES
from interp.tuning.evaluation.flags import summarise
from interp.tuning.evaluation.records import Record
from interp.tuning.matrix.jobs import TRAINED, finished_units, is_finished, read_records, share
from interp.tuning.matrix.plan import Job, MatrixSettings, Variant, form_of, task_of

if TYPE_CHECKING:
    from interp.runs import Run

MORE_CELL_COLUMNS = ("plain_accuracy", "exact_accuracy", "entropy", "mass", "recall_sd", "difficulty", "split")
"""What our own cells hold besides: accuracy without shifts, by BLINK's scorer, entropy, probability of the letters
among all tokens, standard deviation of the letters' recalls, and what the items were."""
MORE_ITEM_COLUMNS = ("plain_prediction", "plain_correct", "entropy", "mass")


def collect(run: Run, settings: MatrixSettings, jobs: Sequence[Job]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write cells.csv and items.csv.gz of what is finished.

    Args:
        run: the matrix's folder.
        settings: of the matrix.
        jobs: all its jobs.

    Returns:
        Both tables. A cell is there once its evaluation is finished.

    Raises:
        CrosstaskError: a record file is not the one that was written.
    """
    cells, items = [], []
    for job in jobs:
        if job.kind != "evaluate":
            continue
        finished = finished_units(run.folder, job.key)
        for variant, training in zip(job.variants, job.trainings, strict=True):
            if variant.name not in finished:
                continue
            records = read_records(run.folder, job, variant)
            where = _where(job, variant, settings)
            dose = _dose(run.folder, training, variant)
            shown = {"difficulty": job.config["difficulty"], "split": job.config["split"]}
            cells.append({"model": settings.model, **where, **asdict(summarise(records)), **dose, **shown})
            items += [where | _item(record) for record in records]
    cell_table = pd.DataFrame(cells, columns=[*CELL_COLUMNS, *MORE_CELL_COLUMNS])
    item_table = pd.DataFrame(items, columns=[*ITEM_COLUMNS, *MORE_ITEM_COLUMNS])
    run.write_csv(CELLS_FILE, cell_table)
    write_gzip(run.folder / ITEMS_FILES[1], item_table)
    return cell_table, item_table


def complete(root: Path, jobs: Sequence[Job]) -> bool:
    """Whether every job is finished."""
    return all(is_finished(root, job) for job in jobs)


def write_gzip(path: Path, table: pd.DataFrame) -> None:
    """A table as gzipped CSV, whole or not at all; the same table gives the same bytes."""
    with (
        atomic_file(path) as draft,
        draft.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file,
    ):
        file.write(table.to_csv(index=False, lineterminator="\n").encode())


def _where(job: Job, variant: Variant, settings: MatrixSettings) -> dict[str, Any]:
    target = job.config["target"]
    return {
        "source": variant.source,
        "seed": variant.seed,
        "fraction": variant.fraction,
        "target": task_of(target),
        "form": form_of(target) or own_form(target),
    }


def own_form(name: str) -> str:
    """The form in which a procedural task is asked if none is named."""
    task = perception_tasks(core=None).get(task_of(name))
    return task.form if task is not None else ""


def _item(record: Record) -> dict[str, Any]:
    shown = ("item", "key", "prediction", "log_p_key", "brier", "rule", *MORE_ITEM_COLUMNS)
    return {name: getattr(record, name) for name in shown} | {"correct": record.correct}


def _dose(root: Path, training: str | None, variant: Variant) -> dict[str, Any]:
    if training is None:
        return {"dose_steps": 0, "update_norm": 0.0}
    payload = finished_units(root, training)[TRAINED]
    key = share(variant.fraction, payload["adapters"])
    whole = len(payload["adapters"]) == 1
    steps = payload["steps"] if whole else round(payload["steps"] * float(key))
    return {"dose_steps": steps, "update_norm": payload.get("update_norm", {}).get(key)}
