"""Comparisons as tables of tasks: seeds are averaged over, and pairs of one seed kept apart from pairs of two.

With one seed all adapters begin with the same A, so two tasks of one seed share something that two seeds of a task do
not. What a pair of tasks has across seeds is what compares with the ceiling, two seeds of one task; where there is one
seed only, there is no ceiling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.updates.comparison import DIRECTED, GAUGE, PAPER, Comparison, Measured, norms_of
from interp.updates.update import Name

COLUMNS = ["measure", "layer", "projection", "source", "target", "value", "chance", "centred", "seeds", "pairs"]
CEILING_COLUMNS = ["measure", "layer", "projection", "task", "value", "low", "high", "chance", "centred", "pairs"]
NORM_COLUMNS = ["layer", "projection", "task", "seed", "norm", "norm_centred", "rank", "effective_rank"]
ANGLE_COLUMNS = ["layer", "projection", "side", "source", "target", "index", "degrees", "chance", "seeds", "pairs"]
DRAWS = 20
"""Random subspaces behind the chance level of an angle."""


def similarity_table(comparison: Comparison, *, more: Iterable[Measured] = ()) -> pd.DataFrame:
    """Every measure of every part for every pair of tasks, one row each.

    Args:
        comparison: of the updates.
        more: further measures of the same updates, such as gains.

    Returns:
        Columns measure, layer (a number or "all"), projection, source, target, value, chance, centred, seeds ("same"
        or "different") and pairs (of updates that were averaged). An undirected pair is there once, a directed one
        in both directions. What is not defined is left out.
    """
    tasks = np.array(_tasks(comparison.names), dtype=object)
    kinds = [
        kind for kind in ("same", "different") if (~_self(comparison.names) & _pairs(comparison.names, kind)).any()
    ]
    heads, counts, columns = [], [], list[tuple[np.ndarray, ...]]()
    for one in (*comparison.measured(), *more):
        for seeds in kinds:
            chosen = _pairs(comparison.names, seeds)
            value, count = _averaged(one.value, comparison.names, chosen)
            chance, _ = _averaged(one.chance, comparison.names, chosen)
            shown = ~np.eye(len(tasks), dtype=bool) & (count > 0)
            i, j = np.nonzero(shown if one.measure in DIRECTED else np.triu(shown))
            heads.append((one.measure, one.part.layer, one.part.projection, one.centred, seeds))
            counts.append(len(i))
            columns.append((tasks[i], tasks[j], value[i, j], chance[i, j], count[i, j]))
    # One frame at the end: thousands of small ones take longer than everything that is in them.
    head = pd.DataFrame(heads, columns=["measure", "layer", "projection", "centred", "seeds"])
    table = head.loc[np.repeat(np.arange(len(heads)), counts)].reset_index(drop=True)
    for name, parts in zip(("source", "target", "value", "chance", "pairs"), zip(*columns, strict=True), strict=True):
        table[name] = np.concatenate(parts)
    return table[COLUMNS]


def long_table(similarity: pd.DataFrame) -> pd.DataFrame:
    """Square matrices of the whole model and of each layer, as experiments.relate reads them.

    Measures are called `update_` and as in the similarity table (gains keep their name), with `_centred` where the
    common mean was taken off, and `_above_chance` for overlaps less their chance level where ranks differ. They are of
    pairs with different seeds if there are any. `update_paper` has layer "all". Each further matrix costs power where
    the best of them is tested, so what a split of BA or a size decides (`a_alone`, `b_alone`, `inner_product`) is left
    out, and so are matrices that are not defined for every pair.

    Args:
        similarity: table of :func:`similarity_table`.

    Returns:
        Columns measure, layer, source, target, value; both directions of every pair.
    """
    whole = similarity[(similarity["projection"] == "all") | (similarity["measure"] == PAPER)].copy()
    whole = whole[~whole["measure"].isin({*GAUGE, "inner_product"})]
    if (whole["seeds"] == "different").any():
        whole = whole[whole["seeds"] == "different"]
    whole.loc[whole["measure"] == PAPER, "layer"] = "all"
    overlap = whole[whole["measure"].str.startswith("overlap_")]
    varies = overlap.groupby(["measure", "layer"])["chance"].transform(lambda chance: np.ptp(chance) > 1e-12)
    less = overlap[varies.astype(bool)]
    less = less.assign(measure=less["measure"] + "_above_chance", value=less["value"] - less["chance"])
    whole = pd.concat([whole, less], ignore_index=True)
    back = whole[~whole["measure"].isin(DIRECTED)].rename(columns={"source": "target", "target": "source"})
    whole = pd.concat([whole, back], ignore_index=True)
    name = whole["measure"].where(whole["measure"].str.startswith("gain"), "update_" + whole["measure"])
    whole["measure"] = name + np.where(whole["centred"], "_centred", "")
    n = len(set(whole["source"]) | set(whole["target"]))
    complete = whole.groupby(["measure", "layer"])["value"].transform("size") == n * (n - 1)
    return whole.loc[complete, ["measure", "layer", "source", "target", "value"]].reset_index(drop=True)


def ceiling_table(comparison: Comparison, *, more: Iterable[Measured] = ()) -> pd.DataFrame:
    """How alike two seeds of one task are: the most that two tasks can be expected to be.

    Returns:
        Columns measure, layer, projection, task, value, low and high (over pairs of seeds), chance, centred, pairs;
        gains are those of a task's updates on the task itself. No other rows where every task has one seed.
    """
    tasks, rows = _tasks(comparison.names), []
    within = {task: [i for i, name in enumerate(comparison.names) if name.task == task] for task in tasks}
    for one in (*comparison.measured(), *more):
        for task, members in within.items():
            # An update has a gain on its own task too; with itself it has every other measure trivially.
            own = one.measure.startswith("gain")
            pairs = [(i, j) for i, j in product(members, repeat=2) if i != j or own]
            values = np.array([one.value[pair] for pair in pairs])
            values = values[~np.isnan(values)]
            if len(values):
                chance = float(np.nanmean([one.chance[pair] for pair in pairs]))
                count = len(values) if one.measure in DIRECTED else len(values) // 2
                spread = (values.mean(), values.min(), values.max(), chance, one.centred, count)
                rows.append((one.measure, one.part.layer, one.part.projection, task, *spread))
    return pd.DataFrame(rows, columns=CEILING_COLUMNS)


def norm_table(comparison: Comparison) -> pd.DataFrame:
    """Size and spread of every update in every part.

    Returns:
        Columns layer, projection, task, seed, norm and norm_centred (Frobenius), rank and effective_rank (means over
        the weights of the part that the update changed).
    """
    rows = []
    for part, wheres in comparison.parts.items():
        found = [comparison.modules[where] for where in wheres]
        norms, centred = norms_of(found), norms_of(found, centred=True)
        ranks = np.stack([g.rank for g in found])
        spread = np.stack([g.effective_rank for g in found])
        for k, name in enumerate(comparison.names):
            changed = ranks[:, k] > 0
            rank = ranks[changed, k].mean() if changed.any() else 0.0
            known = spread[~np.isnan(spread[:, k]), k]
            effective = known.mean() if len(known) else np.nan
            rows.append((part.layer, part.projection, name.task, name.seed, norms[k], centred[k], rank, effective))
    return pd.DataFrame(rows, columns=NORM_COLUMNS)


def angle_table(comparison: Comparison) -> pd.DataFrame:
    """Principal angles of every pair of tasks in every weight, averaged over pairs of seeds.

    Returns:
        Columns layer, projection, side, source, target, index (0 is the smallest angle), degrees, chance (the mean of
        random subspaces of the same ranks and width), seeds ("same" or "different") and pairs. Pairs of one task are
        two of its seeds.
    """
    rows = []
    for where, found in comparison.modules.items():
        if where.layer < 0:
            continue
        grouped: dict[tuple[str, str, str, str], list[tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]]] = {}
        for (i, j, side), angles in found.angles.items():
            one, other = comparison.names[i], comparison.names[j]
            width = found.shape[0] if side == "output" else found.shape[1]
            random = random_angles(width, int(found.rank[i]), int(found.rank[j]))
            key = side, one.task, other.task, "same" if one.seed == other.seed else "different"
            grouped.setdefault(key, []).append((angles, random))
        for (side, source, target, seeds), pairs in grouped.items():
            least = min(len(angles) for angles, _ in pairs)
            mean, chance = (np.mean([pair[kind][:least] for pair in pairs], axis=0) for kind in (0, 1))
            head = where.layer, where.projection, side, source, target
            rows += [(*head, index, mean[index], chance[index], seeds, len(pairs)) for index in range(least)]
    return pd.DataFrame(rows, columns=ANGLE_COLUMNS)


@cache
def random_angles(width: int, first: int, second: int, *, seed: int = 0) -> Float[np.ndarray, " r"]:
    """Mean principal angles in degrees, rising, of two random subspaces of these ranks.

    One of the two may be held: only how they lie to each other matters. So it is the span of the first axes.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        basis = np.linalg.qr(rng.standard_normal((width, min(first, second))))[0]
        cosines = np.linalg.svd(basis[: max(first, second)], compute_uv=False)
        found.append(np.degrees(np.arccos(np.clip(cosines, 0, 1))))
    return np.mean(found, axis=0)


def _tasks(names: Sequence[Name]) -> list[str]:
    return list(dict.fromkeys(name.task for name in names))


def _self(names: Sequence[Name]) -> np.ndarray:
    """Which pairs of updates are of one task."""
    tasks = np.array([name.task for name in names], dtype=object)
    return tasks[:, None] == tasks[None, :]


def _pairs(names: Sequence[Name], seeds: str) -> np.ndarray:
    """Which pairs of updates have one seed, or two."""
    given = np.array([name.seed for name in names])
    same = given[:, None] == given[None, :]
    return same if seeds == "same" else ~same


def _averaged(
    values: Float[np.ndarray, "K K"], names: Sequence[Name], chosen: np.ndarray
) -> tuple[Float[np.ndarray, "T T"], np.ndarray]:
    """Means over the chosen pairs of updates of each pair of tasks, and how many there are."""
    tasks = _tasks(names)
    member = np.array([[name.task == task for task in tasks] for name in names], dtype=float)
    defined = chosen & ~np.isnan(values)
    count = member.T @ defined @ member
    total = member.T @ np.where(defined, values, 0.0) @ member
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0), count.astype(int)
