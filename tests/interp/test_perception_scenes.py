"""Relative Depth, Relative Reflectance, Object Localization, Spatial Relation, Multi-view Reasoning."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from interp.tasks.perception.base import SPLITS, PerceptionTask, Request, generator
from interp.tasks.perception.drawing.canvas import Canvas
from interp.tasks.perception.drawing.orbit import Camera
from interp.tasks.perception.drawing.room import Post, Room, look
from interp.tasks.perception.drawing.things import ALL, OUTLINES
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.procedural import (
    multi_view_reasoning,
    object_localization,
    relative_depth,
    relative_reflectance,
    spatial_relation,
)
from interp.tasks.perception.procedural.object_localization import overlap

TASKS = [
    module.TASK
    for module in (
        relative_depth,
        relative_reflectance,
        object_localization,
        spatial_relation,
        multi_view_reasoning,
    )
]
FORMS = [pytest.param(task, form, id=f"{task.abbreviation}-{form}") for task in TASKS for form in task.forms]
DEPTH, LIGHT, BOXES, RELATION, VIEWS = TASKS


def drawn(task: PerceptionTask, form: str, key: int, *, index: int = 0, difficulty: float = 0.5):
    """The draft of an item with a key of the caller's choice."""
    rng = generator("a test", task.name, form, index)
    return task.draw(Request(form, "test", key, difficulty, 48, "red", rng))


@pytest.mark.parametrize(("task", "form"), FORMS)
def test_oracle_finds_the_key_from_the_truth_alone(task: PerceptionTask, form: str) -> None:
    for split in SPLITS:
        for difficulty in (0.0, 0.5, 1.0):
            for item in task.items(split, 40, form=form, difficulty=difficulty, size=32):
                assert task.oracle(item) == item.key, item.name


@pytest.mark.parametrize(("task", "form"), FORMS)
def test_oracle_follows_the_texts_and_the_pictures_follow_the_marks(task: PerceptionTask, form: str) -> None:
    for item in task.items("test", 6, form=form, size=48):
        for by in range(1, len(item.options)):
            moved = item.shifted(by)
            if form == "marks":
                assert moved.options == item.options
                assert all(a != b for a, b in zip(moved.images, item.images, strict=True))
            else:
                assert task.oracle(moved) == moved.key
                assert moved.images == item.images


@pytest.mark.parametrize(("task", "form"), FORMS)
def test_another_key_shows_the_same_contents(task: PerceptionTask, form: str) -> None:
    for index in range(4):
        drafts = [drawn(task, form, key, index=index) for key in range(task.forms[form])]
        assert all(draft.meta["contents"] == drafts[0].meta["contents"] for draft in drafts)
        assert all(draft.question == drafts[0].question for draft in drafts)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.abbreviation)
def test_contents_of_splits_are_disjoint(task: PerceptionTask) -> None:
    seen = {split: set[str]() for split in SPLITS}
    for split in SPLITS:
        for form in task.forms:
            for item in task.items(split, 15, form=form, size=32, difficulty=1.0):
                contents = item.meta["contents"]
                named = contents.items() if isinstance(contents, dict) else [("things", contents)]
                seen[split] |= {f"{kind} {content}" for kind, values in named for content in values}
    assert all(seen.values())
    assert all(seen[one].isdisjoint(seen[other]) for one, other in combinations(SPLITS, 2))


@pytest.mark.parametrize(("task", "form"), FORMS)
def test_questions_are_short_and_do_not_tell_the_answer(task: PerceptionTask, form: str) -> None:
    keys: dict[str, Counter[int]] = {}
    for item in task.items("test", 60, form=form, size=32):
        assert len(item.question.split()) <= 15
        keys.setdefault(item.question, Counter())[item.key] += 1
    if len(keys) <= 2:  # no names in it
        assert all(len(counts) == task.forms[form] for counts in keys.values())


@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_lower_larger_and_brighter_are_each_nearer_half_of_the_time(difficulty: float) -> None:
    rules = []
    for item in DEPTH.items("train", 300, difficulty=difficulty, size=32):
        (_, low), (_, other) = item.meta["marks"]
        radius, luminance = item.meta["cues"]["radius"], item.meta["cues"]["luminance"]
        first_nearer = item.key == 0
        rules.append(
            [
                (low > other) == first_nearer,
                (radius[0] > radius[1]) == first_nearer,
                (luminance[0] > luminance[1]) == first_nearer,
                (abs(low - 0.5) > abs(other - 0.5)) == first_nearer,
            ]
        )
    assert np.abs(np.mean(rules, axis=0) - 0.5).max() < 0.1  # 3.5 standard errors


def test_depth_ratio_shrinks_with_difficulty() -> None:
    def ratio(item: PerceptionItem) -> float:
        near, far = sorted(item.meta["truth"]["depths"])
        return far / near

    easy, hard = (
        [ratio(item) for item in DEPTH.items("train", 20, difficulty=difficulty, size=32)] for difficulty in (0, 1)
    )
    assert min(easy) > 2.5
    assert 1.1 < min(hard) < max(hard) < 1.2


def test_nearer_post_covers_the_farther_and_stands_lower_on_the_floor() -> None:
    room = Room(64, 3, horizon=0.5, floor=1.1, ceiling=1.1, back=12.0)
    posts = [Post(0.5, 0.45, 0.1, z, "floor", look(1)) for z in (3.0, 6.0)]
    for post in posts:  # the near one first: the buffer, not the order, decides
        room.add(post)
    assert room.depth_at(0.5, 0.45) == pytest.approx(3.0, rel=0.01)
    assert room.contact(3.0, "floor") > room.contact(6.0, "floor") > 0.5 > room.contact(6.0, "ceiling")
    assert room.depth_at(0.05, room.contact(4.0, "floor")) == pytest.approx(4.0, rel=0.05)


def test_luminance_says_nothing_about_reflectance() -> None:
    ratios: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for item in LIGHT.items("train", 300, size=48, difficulty=0.5):
        a, b = item.meta["cues"]["luminance"]
        ratios[item.key].append(np.log(a / b))
    assert max(abs(np.mean(values)) for values in ratios.values()) < 0.04  # the albedos' log ratio is 0.63
    assert np.ptp([np.std(values) for values in ratios.values()]) < 0.04


def test_picture_without_its_marks_is_the_same_whatever_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Canvas, "marks", lambda *_, **__: None)
    pictures = {drawn(LIGHT, "marks", key).images[0].tobytes() for key in range(3)}
    assert len(pictures) == 1


def test_albedo_ratio_shrinks_with_difficulty_and_never_to_the_same() -> None:
    for difficulty, least in ((0.0, 2.3), (1.0, 1.15)):
        for item in LIGHT.items("train", 30, size=32, difficulty=difficulty):
            low, high = sorted(item.meta["truth"]["albedos"])
            assert high / low < 1.05 if item.key == 2 else high / low > least


def test_wrong_boxes_are_larger_and_smaller_alike_and_overlap_more_when_hard() -> None:
    for difficulty, shared in ((0.0, 0.28), (1.0, 0.78)):
        larger = []
        for item in BOXES.items("train", 200, size=32, difficulty=difficulty):
            boxes = item.meta["truth"]["boxes"]
            assert overlap(*np.array(boxes)) == pytest.approx(shared, abs=0.05)
            areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
            larger.append(areas[item.key] > areas[1 - item.key])
        assert 0.38 < np.mean(larger) < 0.62


def test_things_fill_their_boxes_to_the_sides() -> None:
    assert len(ALL) == len({str(thing) for thing in ALL}) >= 12 * 8
    for thing in ALL[: len(OUTLINES)]:
        xs, ys = zip(*thing.outline((0.2, 0.3, 0.6, 0.9)), strict=True)
        assert (min(xs), min(ys), max(xs), max(ys)) == pytest.approx((0.2, 0.3, 0.6, 0.9))


def test_same_sentence_is_true_or_false_as_the_things_stand() -> None:
    true, false = (drawn(RELATION, "yes_no", key) for key in (0, 1))
    assert true.question == false.question
    for axis in (0, 1):
        gaps = [draft.meta["truth"]["first"][axis] - draft.meta["truth"]["second"][axis] for draft in (true, false)]
        assert gaps[0] == pytest.approx(-gaps[1]) or abs(gaps[0]) < 0.2
    assert {drawn(RELATION, "words", key).meta["truth"]["first"][0] for key in range(4)} != {0.5}


def test_relation_holds_by_a_wide_margin_when_easy() -> None:
    for difficulty, least in ((0.0, 0.35), (1.0, 0.15)):
        for item in RELATION.items("train", 40, form="words", size=32, difficulty=difficulty):
            truth = item.meta["truth"]
            dx, dy = (abs(truth["first"][axis] - truth["second"][axis]) for axis in (0, 1))
            assert max(dx, dy) >= least
            assert min(dx, dy) < 0.9 * max(dx, dy)


def test_near_points_go_right_and_far_ones_left_as_the_camera_goes_left() -> None:
    points = np.array([[0.0, -1.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 0.5]])
    before, after = (Camera(azimuth).see(points) for azimuth in (0.0, -0.3))
    assert before is not None
    assert after is not None
    moves = [b[0] - a[0] for a, b in zip(before, after, strict=True)]
    assert moves[0] > 0.05
    assert moves[1] < -0.03
    assert moves[2] == pytest.approx(0, abs=1e-9)


def test_same_two_views_in_the_other_order_show_the_other_motion() -> None:
    left, right = (drawn(VIEWS, "words", key) for key in (0, 1))
    assert [view.tobytes() for view in left.images] == [view.tobytes() for view in right.images[::-1]]
    azimuths = left.meta["truth"]["azimuths"]
    assert azimuths[1] < azimuths[0]
