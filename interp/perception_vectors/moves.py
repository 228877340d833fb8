"""How fine-tuning on task i moves the vector of task j.

With base vectors v, their mean over tasks m, and the vector v_j^i of task j under adapter i, from the same prompts,

    change        |v_j^i - v_j| / |v_j|
    cosine        between v_j^i - v_j and v_i - m: whether the change points the way in which task i differs from others
    towards       <v_j^i - v_j, v_i - v_j> / |v_i - v_j|^2: 0 where nothing moves, 1 where j has come to i's place along
                  the way there; not defined for j = i
    towards_tuned the same with v_i^i, where fine-tuning took task i itself: 1 for j = i

All but the first are about directions; `cosine` has 0 as its chance level. `reliability` is the cosine of the changes
of the vector's two halves, which share no item: where it is near 0, there is no change to speak of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.perception_vectors.similarity import LONG_COLUMNS

MOVES = ("change", "cosine", "towards", "towards_tuned")


def moves(
    base: Mapping[str, Float[np.ndarray, "K 2 L D"]],
    tuned: Mapping[tuple[str, int], Mapping[str, Float[np.ndarray, "K 2 L D"]]],
    tasks: Sequence[str],
) -> pd.DataFrame:
    """All moves.

    Args:
        base: setting -> halves of the K tasks' vectors before fine-tuning.
        tuned: (source task, seed) -> the same under its adapter.
        tasks: names of the K tasks; a source need not be among them, and is then compared by its changes alone.

    Returns:
        Rows of setting, layer, source, seed, target, change, cosine, towards, towards_tuned and reliability.
    """
    rows = []
    for (source, seed), found in tuned.items():
        at = list(tasks).index(source) if source in tasks else None
        for setting, after in found.items():
            before = np.asarray(base[setting], dtype=np.float64)
            step = np.asarray(after, dtype=np.float64) - before  # [K, 2, L, D]
            for layer in range(step.shape[2]):
                old, moved = before[:, :, layer].mean(1), step[:, :, layer].mean(1)
                for j, target in enumerate(tasks):
                    rows.append(
                        {"setting": setting, "layer": layer, "source": source, "seed": seed, "target": target}
                        | _moved(old, moved, at, j)
                        | {"reliability": _cosine(step[j, 0, layer], step[j, 1, layer])}
                    )
    columns = ["setting", "layer", "source", "seed", "target", *MOVES, "reliability"]
    return pd.DataFrame(rows, columns=columns)


def moves_long(table: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """Means over seeds, as a long table that `experiments.relate` reads: `vector_<move>_<setting>`."""
    parts = []
    for setting in settings:
        shown = table[(table["setting"] == setting) & (table["source"] != table["target"])]
        for measure in MOVES:
            mean = shown.groupby(["layer", "source", "target"], sort=False)[measure].mean().dropna().reset_index()
            mean = mean.rename(columns={measure: "value"}).assign(measure=f"vector_{measure}_{setting}")
            parts.append(mean[list(LONG_COLUMNS)])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(LONG_COLUMNS))


def _moved(old: Float[np.ndarray, "K D"], moved: Float[np.ndarray, "K D"], at: int | None, j: int) -> dict[str, float]:
    """The moves of target j; `at` is the place of the source."""
    own = {"change": float(np.linalg.norm(moved[j]) / np.linalg.norm(old[j]))}
    if at is None:
        return own | dict.fromkeys(MOVES[1:], np.nan)
    return own | {
        "cosine": _cosine(moved[j], old[at] - old.mean(0)),
        "towards": _share(moved[j], old[at] - old[j]),
        "towards_tuned": _share(moved[j], old[at] + moved[at] - old[j]),
    }


def _cosine(a: Float[np.ndarray, " D"], b: Float[np.ndarray, " D"]) -> float:
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > 0 else float("nan")


def _share(step: Float[np.ndarray, " D"], way: Float[np.ndarray, " D"]) -> float:
    """How much of a way a step goes along it."""
    return float(step @ way / (way @ way)) if way.any() else float("nan")
