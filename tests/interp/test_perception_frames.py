"""Tasks over frames, and the two control sources."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from interp.errors import CrosstaskError
from interp.tasks.perception.base import SPLITS, Form, PerceptionTask, Split
from interp.tasks.perception.drawing.frames import Placed, Strip
from interp.tasks.perception.drawing.things import Thing
from interp.tasks.perception.procedural import (
    appearance_order,
    caption,
    object_count,
    random_key,
    relative_direction,
    relative_distance,
)
from interp.tasks.perception.registry import perception_tasks
from tests.interp.test_perception_base import Greys

OC, DI, AO, DS = object_count.TASK, relative_direction.TASK, appearance_order.TASK, relative_distance.TASK
RK, CP = random_key.TASK, caption.TASK
TASKS: list[PerceptionTask] = [OC, DI, AO, DS]
CASES = [(task, form) for task in TASKS for form in task.forms]
each_case = pytest.mark.parametrize(("task", "form"), CASES, ids=[f"{t.abbreviation}-{f}" for t, f in CASES])
each_task = pytest.mark.parametrize("task", TASKS, ids=[task.abbreviation for task in TASKS])


@each_case
@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_oracle_finds_every_key_without_seeing_it(task: PerceptionTask, form: Form, difficulty: float) -> None:
    for split in SPLITS:
        for item in task.items(split, 10, form=form, difficulty=difficulty, size=32):
            assert [task.oracle(item.shifted(k)) for k in range(len(item.options))] == [
                item.shifted(k).key for k in range(len(item.options))
            ]


@each_case
def test_frames_are_the_same_whatever_the_key(
    task: PerceptionTask, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that frames alone say nothing; the prompts differ."""
    drawn = []
    for key in range(task.forms[form]):
        monkeypatch.setattr("interp.tasks.perception.base.balanced_key", lambda *_, _key=key, **__: _key)
        drawn.append(task.item("test", 1, form=form, size=32))
    assert all(item.images == drawn[0].images for item in drawn)
    assert len({item.prompt for item in drawn}) == len(drawn)


@each_task
def test_there_are_three_frames_or_in_the_harder_half_four(task: PerceptionTask) -> None:
    assert {len(task.item("train", 0, difficulty=d, size=32).images) for d in (0.0, 0.4)} == {3}
    assert {len(task.item("train", 0, difficulty=d, size=32).images) for d in (0.5, 1.0)} == {4}
    assert not task.core


@pytest.mark.parametrize("task", [*TASKS, CP], ids=lambda task: task.abbreviation)
def test_what_is_drawn_in_training_is_never_drawn_in_a_test(task: PerceptionTask) -> None:
    seen: dict[tuple[str, Split], set[object]] = {}
    for split, form in product(SPLITS, task.forms):
        for item in task.items(split, 30, form=form, size=32):
            for kind, values in item.meta["contents"].items():
                seen.setdefault((kind, split), set()).update(values)
    for kind in {kind for kind, _ in seen}:
        assert all(not seen[kind, a] & seen[kind, b] for a, b in combinations(SPLITS, 2))
        assert all(len(seen[kind, split]) > 10 for split in SPLITS)


def test_neighbouring_frames_agree_where_they_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = Strip.__init__

    def noted(self: Strip, *given: object, **more: object) -> None:
        real(self, *given, **more)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Strip, "__init__", noted)
    DI.item("train", 0, size=80)
    strip = made[0]
    strip.things = [Placed(Thing("red", "star"), (0.75, 0.5), 0.2)]
    left, right = (np.asarray(strip.frame(start), float) for start in (0.0, 0.5))
    assert np.abs(left[:, 42:78] - right[:, 2:38]).mean() < 4  # but for the smoothing at the border
    assert np.abs(left[:, 42:78] - right[:, 42:78]).mean() > 8


# Object count


def test_the_number_of_an_item_is_the_right_option() -> None:
    for item in OC.items("test", 16, size=32):
        assert item.number == float(item.options[item.key])
        assert item.options == tuple(sorted(item.options, key=int))


def test_things_in_two_frames_are_counted_once() -> None:
    """The four kinds have four consecutive numbers, and frames together show more than their sum."""
    for item in OC.items("train", 8, size=32):
        counts = sorted(item.meta["truth"]["counts"].values())
        assert np.diff(counts).tolist() == [1, 1, 1]


def test_the_plural_of_fish_is_fish() -> None:
    questions = " ".join(item.question for split in SPLITS for item in OC.items(split, 60, size=32))
    assert "fish are" in questions
    assert "fishs" not in questions


# Relative direction, appearance order, relative distance


def test_half_of_the_cameras_go_to_the_left() -> None:
    """Else the order of the frames in which two things are seen would be their order in space."""
    first_and_last = []
    for item in DI.items("train", 60, difficulty=1.0, size=32):
        first_and_last.append(item.meta["truth"]["starts"])
    rightward = [starts[0] < starts[-1] for starts in first_and_last]
    assert 0.3 < np.mean(rightward) < 0.7


def test_both_things_are_within_half_a_turn() -> None:
    for item in DI.items("test", 40, difficulty=1.0, size=32):
        here, there = item.meta["truth"]["at"].values()
        assert 0.4 <= abs(here - there) < 3  # a frame is 60 degrees wide


def test_the_four_orders_differ_and_are_of_the_same_things() -> None:
    for item in AO.items("train", 20, size=32):
        orders = [tuple(option.split(", ")) for option in item.options]
        assert len(set(orders)) == 4
        assert len({frozenset(order) for order in orders}) == 1


def test_a_right_order_is_no_likelier_to_share_its_first_thing_with_others() -> None:
    """The option that agrees most with the rest is the right one a quarter of the time."""
    hits = []
    for item in AO.items("test", 240, size=32):
        orders = [option.split(", ") for option in item.options]
        shared = [sum(a == b for other in orders for a, b in zip(order, other, strict=True)) for order in orders]
        hits.append(shared.index(max(shared)) == item.key)
    assert abs(np.mean(hits) - 0.25) < 0.08


@pytest.mark.parametrize(("difficulty", "ratio"), [(0.0, 1.7), (1.0, 1.15)])
def test_the_nearest_thing_is_nearer_by_the_ratio_of_the_difficulty(difficulty: float, ratio: float) -> None:
    for item in DS.items("train", 20, difficulty=difficulty, size=32):
        nearest, next_one, *_ = sorted(item.meta["truth"]["distances"].values())
        assert ratio < next_one / nearest < 1.4 * ratio


# Controls


def test_random_keys_are_balanced_and_independent_of_the_true_ones() -> None:
    tasks = list(perception_tasks(core=True).values())
    items = RK.items("train", 24 * len(tasks), size=32, difficulty=0.0)
    assert [item.meta["drawn_by"] for item in items[: len(tasks)]] == [task.name for task in tasks]
    agreement = np.mean([item.key == item.meta["true_key"] for item in items])
    assert abs(agreement - np.mean([item.chance for item in items])) < 0.09
    for task in tasks:
        mine = [item for item in items if item.meta["drawn_by"] == task.name]
        options = len(mine[0].options)
        counts = Counter(item.key for item in mine[: 24 // options * options])
        assert len(counts) == options
        assert len(set(counts.values())) == 1


def test_random_key_shifts_like_the_item_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.tasks.perception.registry.perception_tasks", lambda **_: {"greys": Greys()})
    taken = RK.items("test", 8, size=32)
    assert {item.task for item in taken} == {"random_key"}
    assert {item.key == item.meta["true_key"] for item in taken} == {True, False}
    for item in taken:
        own = Greys().item("test", int(item.name.rsplit("/", 1)[1]), size=32)
        assert item.images == own.images
        assert item.shifted(1).images == own.shifted(1).images
        assert item.shifted(1).key == (item.key + 1) % 2


def test_random_key_has_no_oracle_and_refuses_other_forms() -> None:
    with pytest.raises(CrosstaskError, match="keys of random_key are random"):
        RK.oracle(CP.item("train", 0, size=32))
    with pytest.raises(CrosstaskError, match="no form 'words'"):
        RK.item("train", 0, form="words")
    with pytest.raises(CrosstaskError, match="not -1"):
        RK.item("train", -1)


def test_a_caption_is_true_of_its_picture() -> None:
    for item in CP.items("test", 30, size=32):
        assert (item.prompt, item.options, item.answer) == ("Describe the image.", (), item.reply)
        assert item.reply is not None
        found = re.match(r"An? (.+) is (to the left of|to the right of|above|below) an? ([a-z]+ [a-z]+)", item.reply)
        assert found is not None
        places = item.meta["truth"]["places"]
        (x0, y0), (x1, y1) = places[found[1]], places[found[3]]
        says = {"to the left of": x0 < x1, "to the right of": x0 > x1, "above": y0 < y1, "below": y0 > y1}
        assert says[found[2]]
        assert all(name in item.reply for name in places)


def test_captions_check_their_arguments() -> None:
    with pytest.raises(CrosstaskError, match="no form 'marks'"):
        CP.item("train", 0, form="marks")
    with pytest.raises(CrosstaskError, match="asks no question"):
        CP.oracle(CP.item("train", 0, size=32))
