"""Transferability and malleability of tasks, personas, and trends over categories (Sachdeva et al. 2025, section 3).

    transferability+(i) = [(1 - exp(-p / N)) / p] * sum over targets j of mu(i -> j) where it is positive
    malleability+(j)    = the same over sources i, down the column

with p the number of positive cells and N the number of tasks; the negative versions likewise (values of 0 or less), and
0 where no cell has the sign. So a score is the mean of the cells of one sign times a breadth factor between 0 and
1 - 1/e. Published summaries do not say whether a task's effect on itself counts: both are given, and the one without
it is the main one. Scores are those of the matrix of means over seeds.

Personas: donor (high positive transferability), pirate (strong negative transferability), sponge (high positive
malleability), sieve (strong negative malleability). The paper shows no rule; ours names the `top` tasks by each score,
a quarter of the tasks unless told otherwise. A score of 0 makes no persona.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.errors import CrosstaskError
from interp.transfer.names import GRANULARITIES, LEVELS, find_task

SCORES = ("transferability_positive", "transferability_negative", "malleability_positive", "malleability_negative")
WITH_DIAGONAL = "_with_diagonal"
SCORE_COLUMNS = ("task", *SCORES, *(f"{score}{WITH_DIAGONAL}" for score in SCORES), "persona")
PERSONAS = dict(zip(("donor", "pirate", "sponge", "sieve"), SCORES, strict=True))
_NO_PERSONA = "none"


def breadth_weighted(values: Float[np.ndarray, "... N"], chosen: Bool[np.ndarray, "... N"], n_tasks: int) -> np.ndarray:
    """[(1 - exp(-count / N)) / count] * sum of the chosen values, over the last axis; 0 where none is chosen."""
    count = chosen.sum(-1)
    total = np.where(chosen, values, 0.0).sum(-1)
    return np.where(count > 0, -np.expm1(-count / n_tasks) / np.maximum(count, 1) * total, 0.0)


def score_arrays(
    mu: Float[np.ndarray, "... K K"], *, with_diagonal: bool = False, n_tasks: int | None = None
) -> dict[str, Float[np.ndarray, "... K"]]:
    """The four scores of every task.

    Args:
        mu: factors, rows sources and columns targets, perhaps a stack of matrices; NaN has no sign.
        with_diagonal: whether a task's effect on itself counts.
        n_tasks: N; by default the side of the matrix.

    Raises:
        CrosstaskError: the matrix is not square.
    """
    if mu.ndim < 2 or mu.shape[-1] != mu.shape[-2]:
        raise CrosstaskError(f"Scores need a square matrix of tasks; got the shape {mu.shape}.")
    n = n_tasks or mu.shape[-1]
    counted = ~np.isnan(mu) & (with_diagonal | ~np.eye(mu.shape[-1], dtype=bool))
    signs = ((mu > 0) & counted, (mu < 0) & counted)
    rows = [breadth_weighted(mu, chosen, n) for chosen in signs]
    turned = np.swapaxes(mu, -1, -2)
    columns = [breadth_weighted(turned, np.swapaxes(chosen, -1, -2), n) for chosen in signs]
    return dict(zip(SCORES, (*rows, *columns), strict=True))


def task_scores(mu: Float[np.ndarray, "K K"], names: Sequence[str], *, top: int | None = None) -> pd.DataFrame:
    """The table of scores: SCORE_COLUMNS, a row for each task.

    Args:
        mu: mean factors over seeds.
        names: of the tasks.
        top: tasks that each persona is given to; by default a quarter of them.
    """
    table = pd.DataFrame({"task": list(names)} | score_arrays(mu))
    for score, values in score_arrays(mu, with_diagonal=True).items():
        table[f"{score}{WITH_DIAGONAL}"] = values
    table["persona"] = personas(table, top=top)
    return table[list(SCORE_COLUMNS)]


def personas(table: pd.DataFrame, *, top: int | None = None) -> list[str]:
    """Each task's personas, joined by " + ", or "none".

    Args:
        table: with the columns of SCORES.
        top: tasks that each persona is given to; by default a quarter of them, and at least one.

    Raises:
        CrosstaskError: top is not positive.
    """
    if top is not None and top < 1:
        raise CrosstaskError(f"Personas are given to the top {top} tasks; expected 1 or more.")
    most = top or default_top(len(table))
    found: list[list[str]] = [[] for _ in range(len(table))]
    for persona, score in PERSONAS.items():
        strength = table[score].abs().to_numpy()
        for index in np.argsort(-strength, kind="stable")[:most]:
            if strength[index] > 0:
                found[index].append(persona)
    return [" + ".join(names) or _NO_PERSONA for names in found]


def default_top(tasks: int) -> int:
    """A quarter of the tasks, and at least one: 3 of 13."""
    return max(1, tasks // 4)


def categories(table: pd.DataFrame, identities: Sequence[str]) -> pd.DataFrame:
    """Means of the scores over the tasks of each perceptual level and each granularity, and over all.

    Args:
        table: of `task_scores`.
        identities: of its tasks, in its order; those that are none of the thirteen are in no category.

    Returns:
        A table with columns axis (level, granularity, all), category, tasks (their names, joined by " "), n,
        n_published (of how many of them the category is the paper's), and the scores.
    """
    known = [find_task(name) for name in identities]
    rows = []
    for axis, values in (("level", LEVELS), ("granularity", GRANULARITIES)):
        for value in values:
            members = [task is not None and getattr(task, axis) == value for task in known]
            published = sum(
                bool(task and getattr(task, f"{axis}_published"))
                for task, member in zip(known, members, strict=True)
                if member
            )
            if any(members):
                rows.append(_category(table[members], axis, value, published))
    rows.append(_category(table, "all", "all", len(table)))
    return pd.DataFrame(rows)


def _category(table: pd.DataFrame, axis: str, value: str, published: int) -> dict[str, object]:
    head = {
        "axis": axis,
        "category": value,
        "tasks": " ".join(table["task"]),
        "n": len(table),
        "n_published": published,
    }
    return head | {column: float(table[column].mean()) for column in SCORE_COLUMNS[1:-1]}
