"""Linear probes on made-up states whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from interp.errors import CrosstaskError
from probes.linear import deal, folds_of, predict, probe
from probes.shuffles import shuffled

FAMILIES, TASKS, BLOCKS, ORDERS, WIDTH = 2, 2, 6, 2, 40
MODALITIES = ("text", "image")


class Contexts:
    """States of every family, task, block, modality and order: noise, to which a test adds what it is about."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        grid = np.array(list(np.ndindex(FAMILIES, TASKS, BLOCKS, len(MODALITIES), ORDERS)))
        self.family, task, block, self.modality, self.order = grid.T
        self.task = self.family * TASKS + task
        self.group = self.family * BLOCKS + block
        self.type = self.group * TASKS + task
        self.states = rng.normal(size=(len(grid), WIDTH))
        self.directions = rng.normal(size=(50, WIDTH))

    def add(self, codes: np.ndarray, strength: float = 3.0, first: int = 0) -> Contexts:
        self.states += strength * self.directions[first + codes]
        return self

    def masks(self) -> dict[str, np.ndarray]:
        return {name: self.modality == at for at, name in enumerate(MODALITIES)}

    def probe(self, train: str = "text", **options):  # type: ignore[no-untyped-def]
        return probe(
            self.states, self.task, groups=self.group, types=self.type, instances=self.order,
            train=self.masks()[train], tests=self.masks(), **options,
        )  # fmt: skip


def test_task_direction_shared_by_modalities_is_read_across_them_and_is_selective() -> None:
    contexts = Contexts()
    scores = contexts.add(contexts.task).add(contexts.modality, 1.0, first=10).probe(permutations=19)
    for score in scores.values():
        assert score.accuracy.value == 1.0
        assert score.chance == 0.25
        assert score.control < 0.6
        assert score.selectivity.value == pytest.approx(1 - score.control)
        assert score.p_value == pytest.approx(1 / 20)


def test_task_direction_of_one_modality_alone_does_not_carry_over() -> None:
    contexts = Contexts()
    contexts.add(contexts.task + 4 * contexts.modality)  # another direction for each modality
    scores = contexts.probe()
    assert scores["text"].accuracy.value == 1.0
    assert scores["image"].accuracy.value < 0.6


def test_noise_is_read_at_chance_with_a_large_p() -> None:
    scores = Contexts().probe(permutations=19)
    for score in scores.values():
        assert score.accuracy.value < 0.5
        assert score.p_value is not None
        assert score.p_value > 0.05


def test_states_that_give_away_their_items_alone_are_not_selective_and_not_read_on_other_items() -> None:
    """The trap that the groups are for: a probe that knows items would be right if test items were trained on."""
    contexts = Contexts()
    contexts.add(contexts.type)
    scores = contexts.probe()
    assert scores["text"].accuracy.value < 0.6
    assert scores["text"].control > 0.9
    assert scores["text"].selectivity.high < 0
    alone = np.zeros_like(contexts.task)
    leaked = predict(
        folds_of(contexts.states, contexts.order, train=contexts.modality == 0, strata=alone), contexts.task
    )
    assert (leaked == contexts.task)[contexts.modality == 0].mean() > 0.9


def test_probe_within_families_is_not_fooled_by_the_family() -> None:
    over_all, within = [], []
    for seed in range(6):
        contexts = Contexts(seed)
        contexts.add(contexts.family)
        over_all.append(contexts.probe()["image"])
        within.append(contexts.probe(strata=contexts.family)["image"])
    assert np.mean([score.accuracy.value for score in over_all]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([score.accuracy.value for score in within]) == pytest.approx(0.5, abs=0.06)
    assert (over_all[0].chance, within[0].chance) == (0.25, 0.5)


def test_scaling_is_learnt_from_training_states_alone() -> None:
    """A far outlier among the states that are tested would squeeze the others if it were scaled with."""
    contexts = Contexts()
    contexts.add(contexts.task)
    train, strata = contexts.modality == 0, np.zeros_like(contexts.task)
    parts = deal(contexts.group, contexts.task)
    before = predict(folds_of(contexts.states, parts, train=train, strata=strata), contexts.task)
    contexts.states[contexts.modality == 1] *= 1e6
    after = predict(folds_of(contexts.states, parts, train=train, strata=strata), contexts.task)
    assert (before == after)[train].all()


def test_probe_in_the_span_of_its_training_states_is_scikit_learns_in_full_width() -> None:
    contexts = Contexts()
    contexts.add(contexts.task, strength=0.5)
    states = np.concatenate([contexts.states, np.random.default_rng(1).normal(size=(len(contexts.task), 300))], axis=1)
    train, parts = contexts.modality == 0, deal(contexts.group, contexts.task)
    (fold, *_) = folds = folds_of(states, parts, train=train, strata=contexts.family)
    assert fold.learnt_features.shape[1] == len(fold.learnt) < states.shape[1]
    assert set(contexts.group[fold.learnt]).isdisjoint(contexts.group[fold.held_out])
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, tol=1e-9))
    plain.fit(states[fold.learnt], contexts.task[fold.learnt])
    turned = LogisticRegression(max_iter=5000, tol=1e-9).fit(fold.learnt_features, contexts.task[fold.learnt])
    expected = plain.predict_proba(states[fold.held_out])
    assert turned.predict_proba(fold.held_out_features) == pytest.approx(expected, abs=1e-5)
    assert (predict(folds, contexts.task)[fold.held_out] == plain.predict(states[fold.held_out])).all()


def test_permuted_labels_are_read_at_chance_because_a_block_keeps_all_its_labels() -> None:
    """Permuted freely, the label that is held out is the rarer one among those learnt, and the null lies too low."""
    contexts = Contexts()
    rng, train = np.random.default_rng(0), np.ones(len(contexts.task), dtype=bool)
    folds = folds_of(contexts.states, deal(contexts.group, contexts.task), train=train, strata=contexts.family)
    rates = {}
    for name, groups in (("kept", contexts.group), ("free", None)):
        drawn = [
            shuffled(contexts.task, types=contexts.type, groups=groups, strata=contexts.family, rng=rng)
            for _ in range(30)
        ]
        rates[name] = np.mean([(predict(folds, labels) == labels).mean() for labels in drawn])
    assert rates["kept"] == pytest.approx(0.5, abs=0.03)
    assert rates["free"] < rates["kept"] - 0.03


def test_folds_keep_groups_whole_and_spread_every_label() -> None:
    contexts = Contexts()
    fold = deal(contexts.group, contexts.task, folds=3)
    assert set(fold) == {0, 1, 2}
    for group in set(contexts.group):
        assert len(set(fold[contexts.group == group])) == 1
    for task in set(contexts.task):
        assert set(fold[contexts.task == task]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("labels", "groups", "said"),
    [
        ([0, 0, 0, 0], [0, 1, 2, 3], "every state is labelled"),
        ([0, 0, 1, 1], [0, 1, 2, 2], "'1' is shown by 1 group of items"),
    ],
)
def test_too_little_to_learn_from_is_refused(labels: list[int], groups: list[int], said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        deal(groups, labels)


def test_control_task_needs_two_instances() -> None:
    contexts = Contexts()
    contexts.order[:] = 0
    with pytest.raises(CrosstaskError, match="one instance of each type"):
        contexts.probe()


def test_stratum_of_one_part_has_nothing_to_learn_from() -> None:
    contexts = Contexts()
    train = np.ones(len(contexts.task), dtype=bool)
    with pytest.raises(CrosstaskError, match="all states of stratum 0 to learn from are of one part"):
        folds_of(contexts.states, contexts.family, train=train, strata=contexts.family)
