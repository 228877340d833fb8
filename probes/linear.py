"""Linear probes: can a linear classifier read the task from a state, and does what it learnt from text hold for images?

A multinomial logistic regression on standardised features (mean and scale of the training states alone) is trained on
the states of one modality and tested on those of each. Training and test states never show a common item: the groups
of items are dealt into folds, and a fold is predicted by the probe that was trained on the others.

    accuracy      right labels on items that the probe has not seen
    control       accuracy of the same probe on a control task, whose labels are permuted at random over types
                  (contexts), tested on other states of the types that it was trained on: how far a probe gets that
                  only tells contexts apart and learns each one's label by heart
    selectivity   accuracy - control (Hewitt & Liang 2019, "Designing and Interpreting Probes with Control Tasks",
                  section 2); conservative here, since the control alone is tested on types that it has seen
    p             share of permuted labellings, each with probes trained anew, that are predicted as well

Labels are permuted so that the contexts of one group of items keep different labels (:mod:`probes.shuffles`): else
the held-out label would be rarer among those learnt, a probe that knows nothing would fall below chance, and p be too
small.

Weights that the penalty keeps short lie in the span of the training states, so features are turned into that span
first: the probe is the same, and its size is that of the training set whatever the model's width.

With `strata` every stratum has a probe of its own, which tells only its own labels apart: of six tasks in three
families, who knows the family is right half of the time, and a probe within the family shows what more there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from interp.errors import CrosstaskError
from interp.statistics import Interval, bootstrap_mean, group_means
from probes.shuffles import Labels, check_lengths, codes, p_value, shuffled

FOLDS = 5
STRENGTH = 1.0
"""Inverse of the penalty's weight (scikit-learn's C), for features of variance 1. It is not tuned."""
CONTROL_DRAWS = 3


@dataclass(frozen=True)
class ProbeScore:
    """A probe trained on one set of states and tested on one.

    Attributes:
        n: states it was tested on.
        accuracy: with its bootstrap interval over groups.
        chance: accuracy of the most frequent label (of each stratum).
        control: accuracy on the control task, mean over draws. All rates are means over groups.
        selectivity: accuracy minus control, paired, with its bootstrap interval over groups.
        p_value: of the accuracy against permuted labels; None if none were asked for.
    """

    n: int
    accuracy: Interval
    chance: float
    control: float
    selectivity: Interval
    p_value: float | None


def probe(
    states: Float[np.ndarray, "N D"],
    labels: Labels,
    *,
    groups: Labels,
    types: Labels,
    instances: Labels,
    train: Bool[np.ndarray, " N"],
    tests: Mapping[str, Bool[np.ndarray, " N"]],
    strata: Labels | None = None,
    folds: int = FOLDS,
    permutations: int = 0,
    seed: int = 0,
) -> dict[str, ProbeScore]:
    """Train probes on some states, and test them on several sets of states with other items.

    Args:
        states: N states.
        labels: what is to be read from them.
        groups: which items each shows; a probe that predicts a state has seen none of its group.
        types: which context each is a state of; the control task draws a label for each type.
        instances: which of its type's instances (orders of its demonstrations) each is; the control task is tested on
            other instances than it was trained on, so there must be two.
        train: the states to learn from, of one modality for instance.
        tests: name -> the states to be tested on; they may overlap with `train`.
        strata: a probe for each stratum, by default one for all.
        folds: most parts that the groups are dealt into.
        permutations: labellings behind the p-value.
        seed: of the control tasks, the permutations and the bootstrap.

    Returns:
        Name of the test -> score.

    Raises:
        CrosstaskError: if a label is shown by fewer than two groups, there is only one label or one instance, or the
            lengths differ.
    """
    given = np.asarray(labels)
    check_lengths(len(states), labels=given, groups=groups, types=types, instances=instances, train=train)
    within = np.zeros(len(given), dtype=int) if strata is None else codes(strata)
    parts, turns = deal(groups, given, folds=folds), codes(instances)
    if turns.max() == 0:
        raise CrosstaskError("one instance of each type; the control task needs two, to learn from one and be tested")
    rng = np.random.default_rng(seed)

    def drawn() -> Shaped[np.ndarray, " N"]:
        return shuffled(given, types=types, groups=groups, strata=within, rng=rng)

    apart, again = (folds_of(states, found, train=train, strata=within) for found in (parts, turns))
    right = predict(apart, given) == given
    control = np.mean([predict(again, found) == found for found in (drawn() for _ in range(CONTROL_DRAWS))], axis=0)
    null = [predict(apart, found) == found for found in (drawn() for _ in range(permutations))]
    scores = {}
    for name, test in tests.items():
        shown = np.asarray(groups)[test].tolist()

        def rate(values: Shaped[np.ndarray, " N"], test: Any = test, shown: Any = shown) -> float:
            return float(group_means(values[test].astype(float), shown).mean())

        accuracy = bootstrap_mean(right[test].astype(float), groups=shown, seed=seed)
        scores[name] = ProbeScore(
            int(test.sum()),
            accuracy,
            chance_level(given[test], within[test]),
            rate(control),
            bootstrap_mean(right[test] - control[test], groups=shown, seed=seed),
            p_value(accuracy.value, np.array([rate(found) for found in null])) if null else None,
        )
    return scores


@dataclass(frozen=True)
class Fold:
    """States that a probe predicts, and those that it learns from.

    Attributes:
        learnt: which states it learns from.
        held_out: which states it predicts.
        learnt_features: standardised, in the span of the learnt states.
        held_out_features: the same of the states that are predicted, by the mean and scale of the learnt ones.
    """

    learnt: Int[np.ndarray, " n"]
    held_out: Int[np.ndarray, " m"]
    learnt_features: Float[np.ndarray, "n r"]
    held_out_features: Float[np.ndarray, "m r"]


def folds_of(
    states: Float[np.ndarray, "N D"],
    parts: Int[np.ndarray, " N"],
    *,
    train: Bool[np.ndarray, " N"],
    strata: Int[np.ndarray, " N"],
) -> list[Fold]:
    """One fold for each part of each stratum, learnt from the `train` states of the stratum's other parts.

    Raises:
        CrosstaskError: if a stratum has nothing to learn from outside a part.
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = []
    for stratum in np.unique(strata):
        for part in np.unique(parts[strata == stratum]):
            learnt = np.flatnonzero((strata == stratum) & (parts != part) & train)
            held_out = np.flatnonzero((strata == stratum) & (parts == part))
            if not len(learnt):
                raise CrosstaskError(f"all states of stratum {stratum} to learn from are of one part; expected two")
            span = make_pipeline(StandardScaler(), PCA(svd_solver="full"))
            found.append(Fold(learnt, held_out, span.fit_transform(states[learnt]), span.transform(states[held_out])))
    return found


def predict(folds: Sequence[Fold], labels: Shaped[np.ndarray, " N"]) -> Shaped[np.ndarray, " N"]:
    """Every state's label as predicted by the probe of its fold. Where only one label is to be learnt, it is that.

    One thread: a step of so small a problem is shorter than handing it to others.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    predicted = labels.copy()
    with threadpool_limits(1):
        for fold in folds:
            learnt = labels[fold.learnt]
            if len(np.unique(learnt)) < 2:
                predicted[fold.held_out] = learnt[0]
                continue
            model = LogisticRegression(C=STRENGTH, max_iter=2000).fit(fold.learnt_features, learnt)
            predicted[fold.held_out] = model.predict(fold.held_out_features)
    return predicted


def deal(groups: Labels, labels: Labels, *, folds: int = FOLDS) -> Int[np.ndarray, " N"]:
    """The fold of every state: groups stay whole, and those that show the same labels are dealt out evenly.

    Args:
        groups: of N states.
        labels: of the same states.
        folds: most folds; never more than the least number of groups that show a label.

    Raises:
        CrosstaskError: if there are fewer than two labels, or a label is shown by fewer than two groups.
    """
    shown: dict[int, set[int]] = {}
    for group, label in zip(codes(groups), codes(labels), strict=True):
        shown.setdefault(int(group), set()).add(int(label))
    names = np.unique(np.asarray(labels))
    counts = [sum(label in found for found in shown.values()) for label in range(len(names))]
    if len(names) < 2:
        raise CrosstaskError(f"a probe tells labels apart, but every state is labelled {str(names[0])!r}")
    if min(counts) < 2:
        few = str(names[int(np.argmin(counts))])
        raise CrosstaskError(
            f"{few!r} is shown by {min(counts)} group of items; a probe needs two, one to learn from and one to test"
        )
    dealt: dict[tuple[int, ...], int] = {}
    fold = {}
    for group in sorted(shown):
        like = tuple(sorted(shown[group]))
        fold[group] = dealt.setdefault(like, 0) % min(folds, *counts)
        dealt[like] += 1
    return np.array([fold[group] for group in codes(groups).tolist()])


def chance_level(labels: Shaped[np.ndarray, " n"], strata: Int[np.ndarray, " n"]) -> float:
    """Accuracy of each stratum's most frequent label."""
    most = [np.unique(labels[strata == stratum], return_counts=True)[1].max() for stratum in np.unique(strata)]
    return float(np.sum(most) / len(labels))
