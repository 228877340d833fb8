"""Patch-transfer: what the vector of task i does to the answers of task j. Directional, and nothing is trained.

For each layer the state at the delimiter of every item of j is replaced by v_i. Beside it stand the controls

    own      v_j itself
    random   a random direction for each item, with the norm of v_j
    mean     the mean vector over tasks
    none     the items as they are

`change` is the accuracy minus that of `none`, with a paired percentile bootstrap interval over items; `log_p_change`
the same of log p(key), and `changed_rate` the share of items whose answer is another. Items are those of the test
split. The layer that figures and sentences show is chosen on the selection split: where others' vectors cost the most
log p(key) beyond what the own vector costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.perception_vectors.patches import Arm
from interp.perception_vectors.similarity import LONG_COLUMNS
from interp.statistics import bootstrap_means, percentiles
from interp.tuning.evaluation.records import Record
from interp.vectors import norm_matched_random

CONTROLS = ("random", "mean", "none")
TRANSFER_COLUMNS = (
    "setting", "layer", "source", "target", "accuracy", "change", "low", "high", "log_p_change", "log_p_low",
    "log_p_high", "changed_rate", "control", "items",
)  # fmt: skip
NO_LAYER = -1
"""Layer of the control that is not patched."""
OTHER, OWN = "other", "own"
"""Values of `control` for the vectors of tasks: of another task, and the target's own."""


def arms_for(
    vectors: Mapping[str, Float[Tensor, "L D"]], target: str, *, layers: Sequence[int], items: int, seed: int
) -> list[Arm]:
    """What is patched into the items of a target: nothing, and at each layer every task's vector and the controls.

    Args:
        vectors: task -> its vector at every layer.
        target: whose items they are.
        layers: that are patched.
        items: how many there are.
        seed: of the random directions.
    """
    mean = torch.stack(list(vectors.values())).mean(0)
    random = norm_matched_random(vectors[target].expand(items, -1, -1), seed)
    arms = [Arm("none", NO_LAYER, None)]
    for layer in layers:
        arms += [Arm(task, layer, vector[layer, None]) for task, vector in vectors.items()]
        arms += [Arm("random", layer, random[:, layer]), Arm("mean", layer, mean[layer, None])]
    return arms


def scored(arms: Sequence[Arm], answers: Sequence[Sequence[Record]]) -> list[dict[str, Any]]:
    """Answers as JSON values, an entry for each arm."""
    return [
        {
            "source": arm.source,
            "layer": arm.layer,
            "predictions": "".join(record.prediction for record in records),
            "correct": [int(record.correct) for record in records],
            "log_p": [record.log_p_key for record in records],
        }
        for arm, records in zip(arms, answers, strict=True)
    ]


def transfer_table(
    found: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], *, tasks: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """All cells.

    Args:
        found: (setting, target) -> what :func:`scored` made of its answers.
        tasks: names of the tasks that vectors are of.
        seed: of the resampling of items.

    Returns:
        Columns as in `TRANSFER_COLUMNS`.
    """
    rows = []
    for (setting, target), entries in found.items():
        bare = next(entry for entry in entries if entry["source"] == "none")
        correct = _differences(entries, bare, "correct")
        log_p = _differences(entries, bare, "log_p")
        bounds = [percentiles(bootstrap_means(values, seed=seed)) for values in (correct, log_p)]
        for number, entry in enumerate(entries):
            source, n = entry["source"], len(entry["correct"])
            changed = sum(a != b for a, b in zip(entry["predictions"], bare["predictions"], strict=True))
            kind = source if source in CONTROLS and source not in tasks else OWN if source == target else OTHER
            (low, high), (log_p_low, log_p_high) = ([side[number] for side in pair] for pair in bounds)
            rows.append(
                (
                    setting, entry["layer"], source, target, float(np.mean(entry["correct"])),
                    correct[:, number].mean(), low, high, log_p[:, number].mean(), log_p_low, log_p_high, changed / n,
                    kind, n,
                )
            )  # fmt: skip
    return pd.DataFrame(rows, columns=list(TRANSFER_COLUMNS))


def transfer_long(table: pd.DataFrame, *, main: str) -> pd.DataFrame:
    """Effects of other tasks' vectors as a long table that `experiments.relate` reads.

    `patch_transfer` is the change of log p(key), which is finer than that of the accuracy (`patch_transfer_accuracy`);
    `patch_transfer_unchanged` is the share of answers that stay as they are. Of settings besides the main one the
    setting's name follows.
    """
    shown = table[table["control"] == OTHER]
    measures = {
        "patch_transfer": shown["log_p_change"],
        "patch_transfer_accuracy": shown["change"],
        "patch_transfer_unchanged": 1 - shown["changed_rate"],
    }
    parts = []
    for name, values in measures.items():
        names = [name if setting == main else f"{name}_{setting}" for setting in shown["setting"]]
        parts.append(shown.assign(measure=names, value=values)[list(LONG_COLUMNS)])
    return pd.concat(parts, ignore_index=True)


def chosen_layer(selection: pd.DataFrame, setting: str) -> int:
    """The layer at which other tasks' vectors cost the most log p(key) beyond the own one, on the selection split."""
    shown = selection[selection["setting"] == setting]
    return int(specificity(shown).idxmax())


def specificity(table: pd.DataFrame, measure: str = "log_p_change") -> pd.Series:
    """By layer: mean over targets of the own vector's effect minus the mean effect of the others'."""
    own = table[table["control"] == OWN].groupby(["layer", "target"])[measure].mean()
    others = table[table["control"] == OTHER].groupby(["layer", "target"])[measure].mean()
    return (own - others).groupby("layer").mean()


def _differences(
    entries: Sequence[Mapping[str, Any]], bare: Mapping[str, Any], name: str
) -> Float[np.ndarray, "items arms"]:
    """Of every arm from the bare items, item by item."""
    values = np.array([entry[name] for entry in entries], dtype=float)
    return (values - np.asarray(bare[name], dtype=float)).T
