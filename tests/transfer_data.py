"""Measured transfer matrices made on the spot, in every form that users bring them in."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.transfer.tables import CELL_COLUMNS, ITEM_COLUMNS

TASKS = ("Relative_Depth", "Jigsaw", "Counting", "Art_Style", "my own task")


def factor_rows(
    tasks: Sequence[str] = TASKS, *, runs: int = 3, seed: int = 0, spread: float = 0.02
) -> list[dict[str, Any]]:
    """Rows of the published long form: factors that do not come from whole items."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 0.2, (len(tasks), len(tasks)))
    return [
        {"seed": f"seed_{run}", "ft_task": source, "task": target}
        | {"perfection_gap_factor": float(min(1.0, mean[i, j] + rng.normal(0, spread)))}
        for run in range(runs)
        for i, source in enumerate(tasks)
        for j, target in enumerate(tasks)
    ]


def accuracy_rows(tasks: Sequence[str] = TASKS, *, runs: int = 2, n: int = 100, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of accuracies, whole items of n, with one baseline for all runs."""
    rng = np.random.default_rng(seed)
    base = {task: int(rng.integers(n // 3, 2 * n // 3)) for task in tasks}
    rows: list[dict[str, Any]] = [
        {"seed": "", "ft_task": "baseline", "task": task, "accuracy": right / n, "n": n} for task, right in base.items()
    ]
    return rows + [
        {"seed": run, "ft_task": source, "task": target}
        | {"accuracy": float(np.clip(base[target] + rng.integers(-20, 21), 0, n)) / n, "n": n}
        for run in range(runs)
        for source in tasks
        for target in tasks
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], **options: Any) -> Path:
    """A CSV file of rows."""
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def matrix_folder(
    folder: Path,
    *,
    tasks: Sequence[str] = ("relative_depth", "jigsaw", "counting", "art_style"),
    controls: Sequence[str] = ("random_key", "caption"),
    extras: Sequence[str] = ("object_order",),
    runs: int = 2,
    fractions: Sequence[float] = (0.5, 1.0),
    n: int = 60,
    forms: Sequence[str] = ("marks", "words"),
    parquet: bool = False,
    seed: int = 0,
) -> Path:
    """A matrix folder as `experiments.transfer_matrix` writes it.

    Every source lifts itself from 50 to 80 %, the first source lifts the second task to 70 %, and training on the last
    task makes the model answer (A) to the first.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    targets = [*tasks, *extras]
    items, cells = [], []
    plan = [("baseline", "0", 0.0)]
    plan += [(source, str(run), f) for f in fractions for source in (*tasks, *controls) for run in range(runs)]
    ease = {(target, form): rng.random(n) for target in targets for form in forms}
    keys = {(target, form): rng.permutation(np.arange(n) % 2) for target in targets for form in forms}
    for source, run, fraction in plan:
        for target in targets:
            for form in forms:
                gain = 0.3 * fraction if source == target else 0.2 * fraction * ((source, target) == tuple(tasks[:2]))
                key = keys[target, form]
                right = (ease[target, form] + 0.03 * rng.normal(size=n)) < 0.5 + gain
                constant = source == tasks[-1] and target == tasks[0] and fraction == 1.0
                predicted = np.zeros(n, int) if constant else np.where(right, key, 1 - key)
                right = predicted == key
                p = np.where(right, 0.8, 0.3)
                log_p, brier = np.log(p), 2 * (1 - p) ** 2
                cells.append(
                    {
                        "model": "tiny", "source": source, "seed": run, "fraction": fraction, "target": target,
                        "form": form, "n": n, "accuracy": right.mean(), "mean_log_p": log_p.mean(),
                        "brier": brier.mean(), "constant_letter": "A" if constant else "",
                        "equals_key_count": "A+B" if right.sum() == n // 2 else "",
                        "dose_steps": "" if source == "baseline" else 100 * fraction, "update_norm": "",
                    }
                )  # fmt: skip
                items += [
                    {
                        "source": source, "seed": run, "fraction": fraction, "target": target, "form": form,
                        "item": f"{target}/{index}", "key": "AB"[key[index]], "prediction": "AB"[predicted[index]],
                        "correct": int(right[index]), "log_p_key": log_p[index], "brier": brier[index], "rule": "",
                    }
                    for index in range(n)
                ]  # fmt: skip
    pd.DataFrame(cells)[list(CELL_COLUMNS)].to_csv(folder / "cells.csv", index=False)
    table = pd.DataFrame(items)[list(ITEM_COLUMNS)]
    if parquet:
        table.to_parquet(folder / "items.parquet")
    else:
        table.to_csv(folder / "items.csv.gz", index=False)
    return folder
