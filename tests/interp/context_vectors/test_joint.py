"""Cross-decoding and representational similarity, on representations whose relation is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from interp.context_vectors import cross, joint_work
from interp.context_vectors.cross import Split, cross_decode, decode, divided
from interp.context_vectors.joint_work import cross_table
from interp.context_vectors.rsa import alike, task_distances
from interp.errors import CrosstaskError

TASKS = 8
ITEMS = 15


def made(*, shared: bool, seed: int = 0) -> dict[str, Split]:
    """X and Y of two splits and a test split: both hold the task; `shared`: by one linear map for all tasks."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(TASKS, 6)) * 2
    others = centres if shared else rng.normal(size=(TASKS, 6)) * 2
    turn = rng.normal(size=(6, 9))
    found = {}
    for split in ("train", "selection", "test"):
        tasks = np.repeat(np.arange(TASKS), ITEMS)
        item = rng.normal(size=(len(tasks), 6)) * 0.5
        x = centres[tasks] + item
        y = (others[tasks] + (item if shared else rng.normal(size=item.shape) * 0.5)) @ turn
        found[split] = Split({"x": x, "y": y + 0.05 * rng.normal(size=y.shape)}, tasks)
    return found


def accuracy(splits: dict[str, Split], kind: str) -> tuple[float, float]:
    found = cross_decode(splits, "x", "y", kind)  # type: ignore[arg-type]
    return float(found.right.mean()), found.chance


def test_a_map_of_all_tasks_cannot_tell_a_shared_code_from_two_codes() -> None:
    """Why it is said that it only shows what both know."""
    for shared in (True, False):
        value, chance = accuracy(made(shared=shared), "all")
        assert chance == 1 / TASKS
        assert value > 0.6


def test_a_map_of_other_tasks_can() -> None:
    shared, chance = accuracy(made(shared=True), "held_out")
    apart, _ = accuracy(made(shared=False), "held_out")
    assert chance == pytest.approx(0.25)  # eight tasks in two groups of four
    assert shared > 0.85
    assert apart < 0.55


def test_a_map_of_items_carries_tasks_where_both_differ_in_the_same_directions() -> None:
    assert accuracy(made(shared=True), "within")[0] > 0.7
    assert accuracy(made(shared=False), "within")[0] < 0.35


def test_pairs_that_are_no_pairs_are_at_chance() -> None:
    value, chance = accuracy(made(shared=True), "shuffled")
    assert value < chance + 0.12


def test_probe_on_its_own_representation_is_the_ceiling() -> None:
    splits = made(shared=True)
    assert decode(splits["train"], splits["test"], "x").right.mean() > 0.9


def test_every_task_is_left_out_once_in_groups_of_three_or_more() -> None:
    for count in (6, 8, 13):
        groups = divided(np.arange(count), seed=0)
        assert sorted(np.concatenate(groups)) == list(range(count))
        assert min(map(len, groups)) >= 3
    assert [len(group) for group in divided(np.arange(4), seed=0)] == [2, 2]
    with pytest.raises(CrosstaskError, match="3 tasks"):
        divided(np.arange(3), seed=0)


def test_representations_that_differ_by_a_rotation_find_the_same_tasks_alike() -> None:
    splits = made(shared=True)
    x, tasks = splits["test"].vectors["x"], splits["test"].tasks
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    found = alike(x, x @ rotation, tasks, permutations=99, resamples=50)
    assert found.rho.value > 0.9
    assert found.p <= 0.05
    assert found.rho.low < found.rho.value + 1e-9


def test_unrelated_representations_do_not() -> None:
    found = alike(
        made(shared=True)["test"].vectors["x"],
        made(shared=True, seed=9)["test"].vectors["x"],
        np.repeat(np.arange(TASKS), ITEMS),
        permutations=199,
        resamples=20,
    )
    assert found.p > 0.05


def test_what_a_third_representation_explains_is_taken_out() -> None:
    """Two noisy copies of the wording agree, and no longer when the wording is known."""
    rng = np.random.default_rng(2)
    tasks = np.repeat(np.arange(TASKS), ITEMS)
    wording = rng.normal(size=(TASKS, 20))
    one, other = (wording + 0.8 * rng.normal(size=wording.shape) for _ in range(2))
    noisy = [vectors[tasks] + 0.01 * rng.normal(size=(len(tasks), 20)) for vectors in (one, other, wording)]
    found = alike(noisy[0], noisy[1], tasks, given=noisy[2], permutations=199, resamples=20)
    assert found.rho.value > 0.3
    assert abs(found.partial) < found.rho.value - 0.15
    assert found.partial_p > 0.05


@pytest.mark.parametrize("kind", ["all", "held_out", "within", "shuffled"])
def test_probes_see_train_alone_and_maps_selection_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = made(shared=True)
    learnt: dict[str, list[np.ndarray]] = {"probe": [], "map": []}

    class SeenProbe(cross.Probe):
        def __init__(self, vectors: np.ndarray, tasks: np.ndarray) -> None:
            learnt["probe"].append(vectors)
            super().__init__(vectors, tasks)

    class SeenMap(cross.LinearMap):
        def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
            learnt["map"].append(x)
            super().__init__(x, y)

    monkeypatch.setattr(cross, "Probe", SeenProbe)
    monkeypatch.setattr(cross, "LinearMap", SeenMap)
    accuracy(splits, kind)
    train, selection = splits["train"].vectors["y"], splits["selection"].vectors["x"]
    if kind == "within":
        selection = selection - cross.task_means(selection, splits["selection"].tasks) + selection.mean(0)
    for seen, whole in ((learnt["probe"], train), (learnt["map"], selection)):
        assert seen
        known = {row.tobytes() for row in whole}
        assert all(row.tobytes() in known for part in seen for row in part)


def test_alike_is_spearmans_correlation_with_the_share_of_permuted_tasks_beyond_it() -> None:
    rng = np.random.default_rng(13)
    one, other = rng.normal(size=(2, 6, 3))
    given = (np.repeat(means, 4, axis=0) for means in (one, other))
    found = alike(*given, np.repeat(np.arange(6), 4), permutations=99, resamples=5, seed=4)
    upper = np.triu_indices(6, 1)
    a, b = task_distances(one), task_distances(other)
    expected = stats.spearmanr(a[upper].round(12), b[upper].round(12)).statistic
    assert found.rho.value == pytest.approx(expected)
    assert expected < -0.4  # two-sided
    drawn, beyond = np.random.default_rng(4), 1
    for _ in range(99):
        order = drawn.permutation(6)
        beyond += (
            abs(stats.spearmanr(a[upper].round(12), b[np.ix_(order, order)][upper].round(12)).statistic)
            >= abs(expected) - 1e-9
        )
    assert found.p == beyond / 100


def test_halves_of_a_tasks_items_are_apart() -> None:
    noise = np.random.default_rng(0).normal(size=(80, 5))  # no task differs; both have the noise of every item
    found = alike(noise, noise, np.repeat(np.arange(8), 10), permutations=1, resamples=1)
    assert abs(found.rho.value) < 0.5


def test_what_is_beyond_the_text_is_beyond_the_text_in_the_same_place() -> None:
    right = {
        ("text", "delimiter/1"): [1, 0, 0, 0],
        ("context/1", "delimiter/1"): [1, 1, 1, 0],
        ("delimiter/1", "text"): [1, 1, 0, 0],
        ("delimiter/1", "context/1"): [1, 1, 1, 1],
    }
    entries = [
        {"source": source, "target": target, "map": "all", "right": found, "chance": 0.25}
        for (source, target), found in right.items()
    ]
    table = cross_table(entries, seed=0).set_index(["source", "target"])["beyond_text"]
    assert table.loc[("context/1", "delimiter/1")] == pytest.approx(0.5)
    assert table.loc[("delimiter/1", "context/1")] == pytest.approx(0.5)
    assert np.isnan(table.loc[("text", "delimiter/1")])


def test_block_is_chosen_on_the_selection_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_work, "_sentences", lambda *_: [])
    payload = {
        "direct": {
            "delimiter/0": {"selection": [1, 1, 0, 0], "test": [1, 1, 1, 1]},
            "delimiter/1": {"selection": [1, 1, 1, 0], "test": [0, 0, 0, 1]},
        },
        "cross": [{"source": "text", "target": "delimiter/0", "map": "all", "right": [1, 0], "chance": 0.5}],
        "rows": [],
    }
    settings = SimpleNamespace(names=("a", "b"), seed=0, layers=(0, 1))
    work = SimpleNamespace(payload=lambda _: payload, settings=settings, tower_layers=[2])
    assert joint_work.collect(work).layer == 1  # type: ignore[arg-type]
