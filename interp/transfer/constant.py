"""Cells whose model may always give the same letter, which makes a factor say nothing about the task.

Two signs: one letter is more than 90 % of the predictions, where predictions are known; and the number of right
answers is the number of items with some letter as their key. The second alone may be chance: of n items a count hits
one of k values about k/n of the time or somewhat more, so that one cell means little and a column full of them much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interp.transfer.names import find_task
from interp.transfer.tables import Measured

_LETTERS = "ABCDEFGH"


def key_letters(right: int, key_counts: Sequence[int]) -> str:
    """Letters that are the key of exactly so many items, joined by +; empty if none is."""
    return "+".join(letter for letter, count in zip(_LETTERS, key_counts, strict=False) if count == right)


def key_count_matches(measured: Measured) -> np.ndarray | None:
    """The letters of every cell [S, I, J], from the data or from known key counts; None where neither is known.

    The counts are those of the items, or of BLINK's validation split for a published task with as many items.
    """
    if measured.equals_key_count is not None:
        return measured.equals_key_count
    if measured.accuracy is None or measured.n is None:
        return None
    tasks = [find_task(target) for target in measured.targets]
    counts = [task.key_counts if task and task.n == n else () for task, n in zip(tasks, measured.n, strict=True)]
    right = measured.accuracy * measured.n
    whole = np.abs(right - np.rint(right)) < 1e-6
    letters = [
        key_letters(round(right[s, i, j]), counts[j]) if whole[s, i, j] else "" for s, i, j in np.ndindex(right.shape)
    ]
    return np.array(letters, dtype=object).reshape(right.shape) if any(counts) else None


def constant_cells(measured: Measured) -> pd.DataFrame:
    """Cells with either sign.

    Returns:
        A table with columns source, target, runs, constant_runs (one letter above 90 %; NaN where predictions are
        unknown), constant_letters, key_count_runs (as many right answers as a letter has keys), key_count_letters.
    """
    matches, constant = key_count_matches(measured), measured.constant_letter
    runs = len(measured.seeds)
    rows = []
    for i, source in enumerate(measured.sources):
        for j, target in enumerate(measured.targets):
            letters, keys = (
                [] if found is None else [str(letter) for letter in found[:, i, j] if letter]
                for found in (constant, matches)
            )
            if letters or keys:
                rows.append(
                    {
                        "source": source, "target": target, "runs": runs,
                        "constant_runs": np.nan if constant is None else len(letters),
                        "constant_letters": " ".join(sorted(set(letters))),
                        "key_count_runs": len(keys), "key_count_letters": " ".join(sorted(set(keys))),
                    }
                )  # fmt: skip
    columns = ["source", "target", "runs", "constant_runs", "constant_letters", "key_count_runs", "key_count_letters"]
    return pd.DataFrame(rows, columns=columns)


def constant_targets(cells: pd.DataFrame, measured: Measured) -> pd.DataFrame:
    """Per target: how many of its cells (source and run) have each sign; most first."""
    total = len(measured.sources) * len(measured.seeds)
    table = (
        cells.groupby("target", sort=False)[["constant_runs", "key_count_runs"]].sum(min_count=1).reset_index()
        if len(cells)
        else pd.DataFrame(columns=["target", "constant_runs", "key_count_runs"])
    )
    table["cells"] = total
    return table.sort_values(["key_count_runs", "target"], ascending=[False, True], kind="stable").reset_index(
        drop=True
    )
