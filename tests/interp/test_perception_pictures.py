"""Tasks whose options are pictures, and counting: truth, placement, content of the splits, what makes them fair."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from interp.tasks.perception.base import SPLITS, PerceptionTask, Request, generator, pool
from interp.tasks.perception.drawing.scenes import SHAPES, still_life, toned, tones
from interp.tasks.perception.drawing.shore import BREAKS, NOISES, Look, shore
from interp.tasks.perception.drawing.styles import STYLES, gradient, rendered
from interp.tasks.perception.procedural import art_style, counting, forensic_detection, jigsaw, visual_similarity
from interp.tasks.perception.procedural.visual_similarity import Scene

TASKS = [module.TASK for module in (visual_similarity, art_style, jigsaw, forensic_detection, counting)]
FORMS = [pytest.param(task, form, id=f"{task.name}-{form}") for task in TASKS for form in task.forms]


def request(form: str, key: int, *, split: str = "train", difficulty: float = 0.5, size: int = 48) -> Request:
    return Request(form, split, key, difficulty, size, "red", generator("test", form))


@pytest.mark.parametrize(("task", "form"), FORMS)
def test_oracle_finds_the_key_at_every_split_difficulty_and_shift(task: PerceptionTask, form: str) -> None:
    for split in SPLITS:
        for difficulty in (0.0, 0.5, 1.0):
            items = task.items(split, 10 if split == "train" else 4, form=form, difficulty=difficulty, size=32)
            for item in items:
                assert task.oracle(item) == item.key
                assert all(task.oracle(item.shifted(by)) == item.shifted(by).key for by in range(len(item.options)))


@pytest.mark.parametrize("task", [pytest.param(task, id=task.name) for task in TASKS[:4]])
def test_key_moves_the_candidates_and_changes_nothing_else(task: PerceptionTask) -> None:
    n = task.forms["pictures"]
    drafts = [task.draw(request("pictures", key)) for key in range(n)]
    given = len(drafts[0].images) - n
    shown = [[image.tobytes() for image in draft.images] for draft in drafts]
    for key in range(1, n):
        moved = shown[0][given:]
        assert shown[key] == shown[0][:given] + moved[-key:] + moved[:-key]
    assert len(set(shown[0])) == len(shown[0])


@pytest.mark.parametrize(("task", "form"), FORMS)
def test_questions_are_short_and_pictures_have_their_size(task: PerceptionTask, form: str) -> None:
    item = task.item("build", 3, form=form, size=64)
    assert len(item.question.split()) <= 15
    assert {image.pixels.size for image in item.images} == {(64, 64)}


@pytest.mark.parametrize("form", ["words", "yes_no"])
def test_count_of_every_answer_is_in_the_same_picture(form: str) -> None:
    drafts = [counting.TASK.draw(request(form, key)) for key in range(counting.TASK.forms[form])]
    assert len({draft.images[0].tobytes() for draft in drafts}) == 1
    truths = [draft.meta["truth"] for draft in drafts]
    assert all(truth["counts"] == truths[0]["counts"] for truth in truths)
    if form == "words":
        assert {truth["asked"] for truth in truths} == set(truths[0]["counts"])
        assert len({tuple(draft.options) for draft in drafts}) == 1
    else:
        assert truths[0]["asked"] == truths[1]["asked"]
        assert truths[1]["claimed"] in set(truths[1]["counts"].values()) - {truths[0]["claimed"]}


def test_as_many_shapes_are_drawn_as_are_counted() -> None:
    drawn: list[tuple] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting.Canvas, "polygon", lambda self, points, fill, **given: drawn.append(fill))
        for index in range(12):
            drawn.clear()
            counts = counting.TASK.item("test", index, difficulty=0).meta["truth"]["counts"]
            assert sorted(Counter(drawn).values()) == sorted(count for count in counts.values() if count)


def test_piece_continues_the_first_picture_and_the_wrong_one_does_not() -> None:
    for index in range(10):
        item = jigsaw.TASK.item("test", index, difficulty=0, size=128)
        first, *pieces = (np.asarray(image.pixels, float) for image in item.images)
        gaps = [
            np.abs(first[64:, 63] - piece[::2, 0]).mean() + np.abs(first[63, 64:] - piece[0, ::2]).mean()
            for piece in pieces
        ]
        assert int(np.argmin(gaps)) == item.key
        assert not first[64:, 64:].any()


def test_turned_piece_has_the_histogram_of_the_right_one() -> None:
    item = jigsaw.TASK.item("train", 1, difficulty=0, size=64)
    one, other = (np.asarray(image.pixels) for image in item.images[1:])
    assert np.array_equal(np.sort(one, axis=None), np.sort(other, axis=None))


def test_pictures_of_one_style_item_have_the_same_values() -> None:
    for difficulty in (0.0, 1.0):
        item = art_style.TASK.item("test", 2, difficulty=difficulty, size=48)
        values = [np.sort(np.asarray(image.pixels).reshape(-1, 3), axis=0) for image in item.images]
        assert all(np.array_equal(values[0], other) for other in values[1:])


def test_toned_pictures_keep_their_order_of_light_and_have_the_same_colours() -> None:
    rng = np.random.default_rng(0)
    colours = [(200, 30, 30), (20, 20, 90), (240, 240, 200)]
    ramp = tones(colours, 64)
    assert np.allclose(ramp[[0, -1]] * 255, [(20, 20, 90), (240, 240, 200)])
    one, other = (toned(picture, ramp) for picture in rng.uniform(size=(2, 8, 8, 3)))
    assert np.allclose(np.sort(one.reshape(64, 3), 0), np.sort(other.reshape(64, 3), 0))
    light = np.array([0.299, 0.587, 0.114])
    picture = np.random.default_rng(0).uniform(size=(2, 8, 8, 3))[0]
    order = np.argsort((picture @ light).ravel())
    assert (np.diff((one @ light).ravel()[order]) >= -1e-6).all()


@pytest.mark.parametrize("style", STYLES)
def test_style_leaves_its_trace_in_proportion_to_its_strength(style: str) -> None:
    colours = [(200, 60, 40), (40, 160, 80), (240, 210, 60), (40, 70, 190)]
    plain = still_life(np.random.default_rng(1), 64, ["star", "circle"], colours)
    moved = []
    for strength in (0.0, 0.3, 1.0):
        result = rendered(plain, style, angle=0.5, scale=0.1, strength=strength, rng=np.random.default_rng(2))
        assert result.shape == plain.shape
        assert np.isfinite(result).all()
        moved.append(float(np.abs(result - plain).mean()))
    assert moved[0] == 0 < moved[1] < moved[2]


def test_declared_distance_is_a_distance_and_the_angle_that_was_turned() -> None:
    one, two, three = (Scene.of(seed) for seed in range(3))
    assert one.distance(one) == pytest.approx(0, abs=1e-6)
    assert one.distance(two) == pytest.approx(two.distance(one))
    assert one.distance(three) <= one.distance(two) + two.distance(three)
    turned = one.towards(two, dict.fromkeys(one.vectors, 0.4))
    assert one.distance(turned) == pytest.approx(0.4)
    assert all(np.linalg.norm(vector) == pytest.approx(1) for vector in turned.vectors.values())


def test_distances_come_closer_as_similarity_gets_harder() -> None:
    ratios = []
    for difficulty in (0.0, 0.5, 1.0):
        items = visual_similarity.TASK.items("train", 10, difficulty=difficulty, size=32)
        pairs = [sorted(item.meta["truth"]["distances"]) for item in items]
        ratios.append(np.mean([far / near for near, far in pairs]))
    assert ratios[0] > 2 * ratios[1] > 4 * ratios[2] > 4


def test_pixels_do_not_tell_which_picture_is_near() -> None:
    nearer, gaps = [], []
    for item in visual_similarity.TASK.items("train", 60, difficulty=0, size=48):
        first, *others = (np.asarray(image.pixels, np.float32) for image in item.images)
        right, wrong = (visual_similarity.pixel_distances(first, others[i]) for i in (item.key, 1 - item.key))
        nearer.append(right < wrong)
        gaps.append(np.abs(right - wrong))
    assert (np.abs(np.mean(nearer, 0) - 0.5) < 0.2).all()
    assert (np.median(gaps, 0) < [0.02, 0.1]).all()


def test_edges_do_not_tell_two_styles_apart() -> None:
    found: dict[str, list[float]] = {}
    for split in SPLITS:
        for item in art_style.TASK.items(split, 24, difficulty=0, size=48):
            for style, image in zip(item.meta["truth"]["styles"], item.images, strict=True):
                found.setdefault(style, []).append(gradient(np.asarray(image.pixels, float).mean(-1)))
    assert set(found) == set(STYLES)
    assert np.std([np.mean(values) for values in found.values()]) < np.mean([np.std(v) for v in found.values()])


def test_grain_by_parts_has_as_many_edges_as_the_same_grain_all_over() -> None:
    colours = [(128, 128, 128)] * 9
    for noise, ways in ((noise, BREAKS[noise]) for noise in NOISES):
        for way in ways:
            look = Look(["circle"], colours, 0.0, 0.1, noise, dict.fromkeys(BREAKS, way), 1.0)
            energies = [
                np.mean(
                    [
                        gradient(np.asarray(shore(np.random.default_rng(i), 64, look, wrong), float)[..., 0])
                        for i in range(12)
                    ]
                )
                for wrong in (None, noise)
            ]
            assert energies[0] == pytest.approx(energies[1], rel=0.06)


@pytest.mark.parametrize("kind", BREAKS)
def test_every_way_to_break_a_picture_shows_and_leaves_its_brightness(kind: str) -> None:
    colours = [(60 + 20 * i, 250 - 25 * i, (90 * i) % 256) for i in range(9)]
    for way in BREAKS[kind]:
        ways = {name: options[0] for name, options in BREAKS.items()} | {kind: way}
        look = Look(["arrow", "drop", "house"], colours, 0.3, 0.05, kind if kind in NOISES else "grain", ways, 1.0)
        whole, broken = (np.asarray(shore(np.random.default_rng(4), 64, look, wrong), float) for wrong in (None, kind))
        assert np.abs(broken - whole).max() > 20
        assert abs(broken.mean() - whole.mean()) < 6


def test_splits_share_no_content() -> None:
    contents = {
        "counting shapes": list(SHAPES),
        "counting shades": counting.SHADES,
        "jigsaw shapes": list(SHAPES),
        "jigsaw palettes": jigsaw.PALETTES,
        "style shapes": list(SHAPES),
        "style palettes": art_style.PALETTES,
        "styles": list(STYLES),
        "similarity scenes": visual_similarity.SCENES,
        "similarity palettes": visual_similarity.PALETTES,
        "forensic shapes": list(SHAPES),
        "forensic palettes": forensic_detection.PALETTES,
        **{f"forensic {kind}": ways for kind, ways in BREAKS.items()},
    }
    for salt, things in contents.items():
        parts = [set(pool(things, split, salt=salt)) for split in SPLITS]
        assert sum(len(part) for part in parts) == len(set().union(*parts)) == len(things)


def test_styles_and_breaks_that_are_used_belong_to_the_split() -> None:
    for split in SPLITS:
        styles = {style for item in art_style.TASK.items(split, 12, size=32) for style in item.meta["truth"]["styles"]}
        assert styles <= set(pool(list(STYLES), split, salt="styles"))
        used = {
            broken
            for item in forensic_detection.TASK.items(split, 12, size=32)
            for broken in item.meta["truth"]["broken"]
            if broken is not None
        }
        mine = {f"{kind}: {way}" for kind, ways in BREAKS.items() for way in pool(ways, split, salt=f"forensic {kind}")}
        assert used <= mine


def test_tasks_ask_for_content_by_pools_of_those_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[tuple[str, str]] = set()
    choose = Request.choose

    def noted(self: Request, contents, *, salt: str):
        asked.add((self.split, salt))
        return choose(self, contents, salt=salt)

    monkeypatch.setattr(Request, "choose", noted)
    for task in TASKS:
        task.item("selection", 0, size=32)
    assert {split for split, _ in asked} == {"selection"}
    assert {"counting shapes", "jigsaw palettes", "style palettes", "similarity palettes", "forensic shapes"} <= {
        salt for _, salt in asked
    }


def test_same_random_numbers_give_the_same_drawing() -> None:
    for task in TASKS:
        form = task.form
        first, again = task.draw(request(form, 0)), task.draw(replace(request(form, 0)))
        assert [image.tobytes() for image in first.images] == [image.tobytes() for image in again.images]
