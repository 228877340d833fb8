"""Cross-decoding: is the task that one representation holds read by a probe that was trained on the other?

A probe (multinomial logistic regression) learns tasks from representation Y on one content split. A linear map X -> Y
(ridge) is fitted on pairs of another split, and the probe reads the mapped X of test items of a third. What a right
answer means depends on what the map could learn, so it is fitted in four ways:

    all        on pairs of all tasks. If X holds the task in any linear form, the best map sends it to Y's mean of that
               task, and the probe reads it there. So this says that X *knows* the task, no more than a probe on X
               itself would: that both share a code is not identifiable from it.
    held_out   on pairs of other tasks than those that are told apart. Nothing of the tested tasks was seen, so the map
               can only carry them if it is one map for all tasks: their places in X and in Y correspond. That is a
               shared code, up to a linear map.
    within     on deviations from the tasks' means. The map has seen how items of a task differ, and never how tasks do;
               that it carries tasks says that tasks differ in directions in which items do.
    shuffled   on pairs that are no pairs: the control, at chance.

Splits differ by content, so no picture returns. Chance is 1 / (tasks that are told apart).

X that hold the task by other ways stand beside it: the text embedding, which every context has a linear skip from, and
the mean features of the pictures. What the contextual vector has beyond the text is its difference to the text's row,
item by item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import CrosstaskError

MapKind: TypeAlias = Literal["all", "held_out", "within", "shuffled"]
MAPS: tuple[MapKind, ...] = get_args(MapKind)
SPLITS = ("train", "selection", "test")
"""Contents on which probes are trained, maps are fitted, and both are tested."""
STRENGTHS = tuple(10.0**power for power in range(-1, 6))
"""Of the ridge penalty, for features of variance 1; chosen by leave-one-out error on the pairs."""
HELD_OUT = 3
"""Tasks that are left out together, at least."""
REPEATS = 3
"""Ways to divide the tasks."""


@dataclass(frozen=True, eq=False)
class Split:
    """Pairs of one split: N items, each in every representation.

    Attributes:
        vectors: name -> `[N, D]`.
        tasks: code of each item's task.
    """

    vectors: Mapping[str, Float[np.ndarray, "N D"]]
    tasks: Int[np.ndarray, " N"]


@dataclass(frozen=True)
class Decoded:
    """Right answers on test items.

    Attributes:
        right: for each item, the share of the ways to divide the tasks in which it is right.
        chance: accuracy of a guess.
    """

    right: Float[np.ndarray, " N"]
    chance: float


def decode(train: Split, test: Split, name: str) -> Decoded:
    """A probe that is trained and tested on one representation: the ceiling of cross-decoding."""
    reader = Probe(train.vectors[name], train.tasks)
    right = reader.predict(test.vectors[name]) == test.tasks
    return Decoded(right.astype(float), 1 / len(np.unique(train.tasks)))


def cross_decode(
    splits: Mapping[str, Split],
    source: str,
    target: str,
    kind: MapKind,
    *,
    seed: int = 0,
    probes: Probes | None = None,
) -> Decoded:
    """Read tasks from `source` by a probe that was trained on `target`.

    Args:
        splits: "train", "selection" and "test".
        source: name of the representation that is mapped.
        target: that of the probe.
        kind: what the map is fitted on; see the module.
        seed: of shuffles and of how tasks are divided.
        probes: keeps probes of these splits from one call to the next.

    Raises:
        CrosstaskError: there are too few tasks to leave any out.
    """
    train, pairs, test = (splits[name] for name in SPLITS)
    kept = {} if probes is None else probes
    if kind == "held_out":
        return _held_out(train, pairs, test, source, target, seed, kept)
    carry = fit_map(pairs.vectors[source], pairs.vectors[target], pairs.tasks, kind, seed=seed)
    names = np.unique(train.tasks)
    predicted = _probe(train, target, names, kept).predict(carry(test.vectors[source]))
    return Decoded((predicted == test.tasks).astype(float), 1 / len(names))


def _held_out(train: Split, pairs: Split, test: Split, source: str, target: str, seed: int, probes: Probes) -> Decoded:
    """Groups of tasks are left out in turn, and told apart among themselves."""
    right, chance = np.zeros(len(test.tasks)), 0.0
    for repeat in range(REPEATS):
        for group in divided(np.unique(train.tasks), seed=[seed, repeat]):
            of_pairs, of_test = (np.isin(split.tasks, group) for split in (pairs, test))
            carry = fit_map(pairs.vectors[source][~of_pairs], pairs.vectors[target][~of_pairs], pairs.tasks[~of_pairs])
            predicted = _probe(train, target, group, probes).predict(carry(test.vectors[source][of_test]))
            right[of_test] += predicted == test.tasks[of_test]
            chance += of_test.sum() / len(group)
    return Decoded(right / REPEATS, chance / REPEATS / len(test.tasks))


def _probe(train: Split, name: str, group: Int[np.ndarray, " held"], probes: Probes) -> Probe:
    """The probe of a representation that tells the tasks of a group apart."""
    key = name, tuple(group.tolist())
    if key not in probes:
        own = np.isin(train.tasks, group)
        probes[key] = Probe(train.vectors[name][own], train.tasks[own])
    return probes[key]


def divided(tasks: Int[np.ndarray, " K"], *, seed: int | Sequence[int]) -> list[Int[np.ndarray, " held"]]:
    """Groups of at least three tasks (two, where there are fewer than six in all), each of which is left out once.

    Raises:
        CrosstaskError: there are fewer than four tasks.
    """
    if len(tasks) < 4:
        raise CrosstaskError(
            f"{len(tasks)} tasks: to leave two out and fit a map on the rest, expected four or more tasks"
        )
    size = HELD_OUT if len(tasks) >= 2 * HELD_OUT else 2
    order = np.random.default_rng(seed).permutation(tasks)
    return [np.sort(group) for group in np.array_split(order, len(tasks) // size)]


class Probe:
    """Multinomial logistic regression on standardised features, in the span of what it learns from."""

    def __init__(self, vectors: Float[np.ndarray, "N D"], tasks: Int[np.ndarray, " N"]) -> None:
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            self.model = make_pipeline(
                StandardScaler(), PCA(0.999, svd_solver="full"), LogisticRegression(max_iter=500)
            )
            self.model.fit(vectors, tasks)

    def predict(self, vectors: Float[np.ndarray, "N D"]) -> Int[np.ndarray, " N"]:
        """The most likely task of each."""
        return self.model.predict(vectors)


class LinearMap:
    """x -> y by ridge regression on standardised x."""

    def __init__(self, x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"]) -> None:
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            self.model = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS)).fit(x, y)

    def __call__(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N E"]:
        return self.model.predict(x)


def fit_map(
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, "N E"],
    tasks: Int[np.ndarray, " N"],
    kind: MapKind = "all",
    *,
    seed: int = 0,
) -> LinearMap:
    """A linear map from pairs.

    Args:
        x, y: N pairs.
        tasks: of each.
        kind: "all" takes pairs as they are (as does "held_out", of the pairs it is given); "within" takes both without
            their task's mean, put back at the mean of all; "shuffled" pairs every x with another item's y.
        seed: of the shuffle.
    """
    if kind == "within":
        x, y = (vectors - task_means(vectors, tasks) + vectors.mean(0) for vectors in (x, y))
    if kind == "shuffled":
        y = y[np.random.default_rng(seed).permutation(len(y))]
    return LinearMap(x, y)


def task_means(vectors: Float[np.ndarray, "N D"], tasks: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N D"]:
    """For each item the mean of its task."""
    found = np.empty_like(vectors)
    for task in np.unique(tasks):
        own: Bool[np.ndarray, " N"] = tasks == task
        found[own] = vectors[own].mean(0)
    return found


Probes: TypeAlias = dict[tuple[str, tuple[int, ...]], Probe]
"""By representation and the tasks that are told apart."""
