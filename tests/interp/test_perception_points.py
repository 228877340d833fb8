"""Visual, semantic and functional correspondence: a point of one picture, and its like in another."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest

from interp.tasks.perception.base import SPLITS, Form, PerceptionTask, Split
from interp.tasks.perception.drawing.animals import TWINS, Stance, animal, between, coat, species
from interp.tasks.perception.drawing.planes import homography, plane, project
from interp.tasks.perception.drawing.tools import DOUBLE, SINGLE
from interp.tasks.perception.procedural import (
    functional_correspondence,
    semantic_correspondence,
    visual_correspondence,
)

VC, SC, FC = visual_correspondence.TASK, semantic_correspondence.TASK, functional_correspondence.TASK
TASKS: list[PerceptionTask] = [VC, SC, FC]
CASES = [(task, form) for task in TASKS for form in task.forms]
each_case = pytest.mark.parametrize(("task", "form"), CASES, ids=[f"{t.abbreviation}-{f}" for t, f in CASES])
each_task = pytest.mark.parametrize("task", TASKS, ids=[task.abbreviation for task in TASKS])


@each_case
@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_oracle_finds_every_key_without_seeing_it(task: PerceptionTask, form: Form, difficulty: float) -> None:
    for split in SPLITS:
        for item in task.items(split, 10, form=form, difficulty=difficulty, size=32):
            assert task.oracle(item) == item.key
            if form == "yes_no":
                assert task.oracle(item.shifted(1)) == item.shifted(1).key


@each_task
def test_the_key_moves_the_letters_and_nothing_else(task: PerceptionTask) -> None:
    for item in task.items("train", 4, size=48):
        moved = item.shifted(1)
        assert moved.images[0] == item.images[0]
        assert moved.images[1] != item.images[1]
        assert moved.options == item.options
        assert item.redraw is not None
        assert item.redraw(item.key) == item.images


@each_task
def test_the_four_points_are_the_same_whatever_the_key(task: PerceptionTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only their letters differ."""
    seen = []
    for key in range(4):
        monkeypatch.setattr("interp.tasks.perception.base.balanced_key", lambda *_, _key=key, **__: _key)
        meta = task.item("test", 3, size=48).meta
        shift = meta["marks"][key:] + meta["marks"][:key]
        seen.append((shift, meta["reference"], meta["contents"]))
    assert all(other == seen[0] for other in seen)


@each_task
def test_marks_stand_in_the_picture_and_apart(task: PerceptionTask) -> None:
    for item in task.items("test", 30, difficulty=1.0, size=32):
        marks = item.meta["marks"]
        assert len(marks) == 4
        assert all(0.02 < value < 0.98 for value in np.ravel([*marks, item.meta["reference"]]))
        assert all(math.dist(a, b) > 0.05 for a, b in combinations(marks, 2))


@each_task
def test_what_is_drawn_in_training_is_never_drawn_in_a_test(task: PerceptionTask) -> None:
    seen: dict[tuple[str, Split], set[object]] = {}
    for split, form in product(SPLITS, task.forms):
        for item in task.items(split, 20, form=form, size=32):
            for kind, values in item.meta["contents"].items():
                seen.setdefault((kind, split), set()).update(values)
    for kind in {kind for kind, _ in seen}:
        assert all(not seen[kind, a] & seen[kind, b] for a, b in combinations(SPLITS, 2))
        assert all(len(seen[kind, split]) > 10 for split in SPLITS)


@each_task
def test_the_right_point_is_as_often_near_the_place_of_the_marked_one_as_far_from_it(task: PerceptionTask) -> None:
    ranks = []
    for item in task.items("train", 240, size=32):
        apart = [math.dist(mark, item.meta["reference"]) for mark in item.meta["marks"]]
        ranks.append(sum(distance < apart[item.key] for distance in apart))
    assert np.abs(np.bincount(ranks, minlength=4) / 240 - 0.25).max() < 0.08


# Visual correspondence


def test_a_homography_shows_its_point_at_its_place_and_keeps_lines_straight() -> None:
    view = homography((0.3, -0.2), (0.7, 0.4), turn=0.8, scale=1.2, tilt=0.3, towards=1.0)
    assert project(view, [(0.3, -0.2)])[0] == pytest.approx((0.7, 0.4))
    (x0, y0), (x1, y1), (x2, y2) = project(view, [(0, 0), (0.1, 0.2), (0.3, 0.6)])
    assert (x1 - x0) * (y2 - y0) == pytest.approx((x2 - x0) * (y1 - y0))


def test_a_figure_is_seen_where_its_centre_is_projected_to() -> None:
    """Two views of a plane agree at projected points."""
    wall = plane(np.random.default_rng(0), looks=3, ground=4, kinds=6, spacing=0.3, reach=1.8)
    middle = min(wall.figures, key=lambda figure: math.hypot(*figure.centre))
    for to, turn in (((0.3, 0.6), 0.0), ((0.7, 0.2), 1.0)):
        view = homography(middle.centre, to, turn=turn, scale=1.0, tilt=0.1, towards=0.5)
        pixels = np.asarray(wall.seen(100, view).finish())
        assert tuple(pixels[round(to[1] * 100), round(to[0] * 100)]) == middle.fill


def test_easy_shots_have_no_two_points_on_figures_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    real = VC._others

    def noted(*given: object) -> object:
        found = real(*given)
        chosen.append([given[2], *found])
        return found

    monkeypatch.setattr(VC, "_others", noted)
    for difficulty, repeats in ((0.0, False), (1.0, True)):
        chosen.clear()
        VC.items("train", 20, difficulty=difficulty, size=32)
        complete = [[figure.kind for figure in figures] for figures in chosen if len(figures) == 4]
        assert any(len(set(kinds)) < 4 for kinds in complete) == repeats


# Semantic correspondence


def test_a_mirrored_animal_is_its_mirror_image() -> None:
    one = animal(species(1), coat(2), "side", np.random.default_rng(3), limber=1.0)
    plain, flipped = (
        Stance((0.5, 0.5), 0.0, 0.7, mirrored)(list(one.keypoints.values())) for mirrored in (False, True)
    )
    assert [(1 - x, y) for x, y in plain] == [pytest.approx(point) for point in flipped]


def test_left_is_left_of_an_animal_that_looks_away() -> None:
    """From above, with the head at the top of the picture, its left paws are at the left."""
    one = animal(species(1), coat(2), "top", np.random.default_rng(3), limber=0.0)
    points = dict(zip(one.keypoints, Stance((0, 0), -math.pi / 2, 1.0)(list(one.keypoints.values())), strict=True))
    assert points["nose"][1] < points["tail"][1]
    assert all(points[a][0] < points[b][0] for a, b in TWINS["top"])


def test_a_species_halfway_has_the_mean_proportions() -> None:
    first, second = species(1), species(2)
    assert between(first, second, 0.5).leg == pytest.approx((first.leg + second.leg) / 2)
    assert (between(first, second, 0), between(first, second, 1)) == (first, second)


def test_twins_are_among_the_points_of_hard_items_only() -> None:
    pairs = [set(pair) for twins in TWINS.values() for pair in twins]
    for difficulty, share in ((0.0, 0.0), (1.0, 1.0)):
        items = SC.items("test", 30, difficulty=difficulty, size=32)
        found = [any(pair <= set(item.meta["truth"]["points"]) for pair in pairs) for item in items]
        assert np.mean(found) == share


# Functional correspondence


def test_the_same_pictures_with_the_other_action_have_another_key() -> None:
    for item in FC.items("test", 40, size=32):
        truth = item.meta["truth"]
        pair = next(
            pair for pair in DOUBLE if truth["reference"] in pair and all(action in truth["points"] for action in pair)
        )
        (other,) = set(pair) - {truth["reference"]}
        assert f"Action: {truth['reference']}." in item.question
        keys = {action: truth["points"].index(action) for action in pair}
        assert keys[truth["reference"]] == item.key
        assert keys[other] != item.key


def test_no_wrong_part_serves_the_action() -> None:
    assert {action for pair in DOUBLE for action in pair} <= set(SINGLE)
    for item in FC.items("train", 40, size=32):
        assert len(set(item.meta["truth"]["points"])) == 4


def test_statements_about_either_action_of_a_part_are_as_often_true() -> None:
    items = FC.items("test", 160, form="yes_no", size=32)
    for action in {item.meta["truth"]["reference"] for item in items}:
        true = [item.key == 0 for item in items if item.meta["truth"]["reference"] == action]
        assert abs(np.mean(true) - 0.5) < 3 * 0.5 / len(true) ** 0.5
