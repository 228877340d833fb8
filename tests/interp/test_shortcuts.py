"""The shortcut battery: it finds what leaks, passes what does not, and passes every procedural task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image as Pillow

from interp.errors import CrosstaskError
from interp.images import Image
from interp.tasks.perception.base import Form, PerceptionTask, generator
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.registry import perception_tasks
from interp.tasks.perception.shortcuts import SHORTCUTS, battery, leaks

SIDE = 16
Draw = Callable[[np.random.Generator, int, PerceptionItem], dict]


def clean(rng: np.random.Generator, key: int) -> PerceptionItem:
    """Three pictures of noise, marks anywhere, words of no meaning: nothing depends on the key."""
    pictures = rng.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    words = rng.choice(["ox", "hen", "cow", "pig"], 2)
    marks = rng.uniform(0.1, 0.9, (2, 2)).tolist()
    images = tuple(map(as_image, pictures))
    return PerceptionItem("item", "leak", images, f"Which {words[0]}?", ("this", "that"), key, meta={"marks": marks})


def as_image(pixels: np.ndarray) -> Image:
    return Image(pixels=Pillow.fromarray(pixels.astype(np.uint8)))


def pixels(item: PerceptionItem) -> list[np.ndarray]:
    return [np.asarray(image.load()).astype(int) for image in item.images]


def words(rng: np.random.Generator, key: int, item: PerceptionItem) -> dict:
    """The right option is the longer sentence."""
    options = ["this", "that"]
    options[key] += " exactly"
    return {"options": tuple(options)}


def numbers(rng: np.random.Generator, key: int, item: PerceptionItem) -> dict:
    """The right option is the greater number."""
    low, high = np.sort(rng.choice(1000, 2, replace=False))
    return {"options": tuple(map(str, (low, high) if key else (high, low)))}


def place(rng: np.random.Generator, key: int, item: PerceptionItem) -> dict:
    """A faint light comes from the side of the right answer; the histogram is the same, and so are the edges."""
    first, *others = pixels(item)
    half = slice(None, SIDE // 2) if key else slice(SIDE // 2, None)
    first[:, half] = np.sort(first.reshape(-1, 3), axis=0)[-SIDE * SIDE // 2 :].reshape(SIDE, SIDE // 2, 3)
    return {"images": tuple(map(as_image, [first, *others]))}


def lower(rng: np.random.Generator, key: int, item: PerceptionItem) -> dict:
    """The right mark is the lower one."""
    marks = sorted(item.meta["marks"], key=lambda mark: mark[1])
    return {"meta": {"marks": marks if key else marks[::-1]}}


def tint(rng: np.random.Generator, key: int, item: PerceptionItem) -> dict:
    """The right picture has a little more red."""
    pictures = pixels(item)
    pictures[1 + key][..., 0] = np.minimum(pictures[1 + key][..., 0] + 40, 255)
    return {"images": tuple(map(as_image, pictures))}


def copy(rng: np.random.Generator, key: int, item: PerceptionItem) -> dict:
    """The right picture is nearly the first one, with its colours moved about a little."""
    pictures = pixels(item)
    pictures[1 + key] = np.clip(pictures[0] + rng.integers(-90, 91, pictures[0].shape), 0, 255)
    return {"images": tuple(map(as_image, pictures))}


def smooth(rng: np.random.Generator, key: int, item: PerceptionItem) -> dict:
    """The right picture has the same pixels as ever, but sorted, so that it has fewer edges."""
    pictures = pixels(item)
    pictures[1 + key] = np.sort(pictures[1 + key].reshape(-1, 3), axis=0).reshape(SIDE, SIDE, 3)
    return {"images": tuple(map(as_image, pictures))}


def only_last(rng: np.random.Generator, key: int, item: PerceptionItem) -> dict:
    """The last picture alone tells the answer by its brightness."""
    *others, last = pixels(item)
    return {"images": tuple(map(as_image, [*others, last // 2 + 60 * key]))}


def make(n: int, leak: Draw | None, *, seed: int, prior: float = 0.5) -> list[PerceptionItem]:
    rng = generator("leak", leak and leak.__name__, seed)
    made = []
    for index in range(n):
        key = index % 2 if prior == 0.5 else int(rng.random() < prior)
        item = clean(rng, key)
        given = leak(rng, key, item) if leak else {}
        made.append(PerceptionItem(**{**vars(item), "name": f"{seed}/{index}", **given}))
    return made


LEAKS = {
    "text only": [words, numbers],
    "8x8 blur": [place],
    "mark coordinates": [lower],
    "colour histogram": [tint],
    "pixel distance": [copy],
    "ink and edges": [smooth],
    "single image": [only_last],
}


@pytest.mark.parametrize(("shortcut", "leak"), [(name, leak) for name, some in LEAKS.items() for leak in some])
def test_a_leak_is_found_by_its_shortcut_and_not_by_shuffled_pictures(shortcut: str, leak: Draw) -> None:
    found = leaks(battery(make(120, leak, seed=0), make(120, leak, seed=1), again=lambda: make(200, leak, seed=2)))
    assert shortcut in found
    assert {"letter prior", "shuffled images"}.isdisjoint(found)


def test_keys_out_of_balance_are_a_leak() -> None:
    table = battery(make(100, None, seed=0, prior=0.8), make(100, None, seed=1, prior=0.8))
    assert "letter prior" in leaks(table)


def test_a_clean_task_passes_every_shortcut() -> None:
    table = battery(make(400, None, seed=0), make(400, None, seed=1), again=lambda: pytest.fail("nothing to confirm"))
    assert table["shortcut"].tolist() == list(SHORTCUTS)
    assert leaks(table) == []
    assert (table["n"] == 400).all()
    assert (table["chance"] == 0.5).all()
    assert ((table["low"] < table["accuracy"]) & (table["accuracy"] < table["high"])).all()


def test_what_beat_chance_by_luck_does_not_on_more_items() -> None:
    asked = partial(battery, make(40, None, seed=0), shortcuts=["ink and edges"])
    lucky = next(items for items in (make(40, None, seed=seed) for seed in range(10, 50)) if leaks(asked(items)))
    table = asked(lucky, again=lambda: make(400, None, seed=1))
    assert leaks(table) == []
    assert table["n"].tolist() == [440]


def test_test_items_choose_nothing() -> None:
    """Predictions for an item are the same whatever other test items there are."""
    asked = partial(battery, make(60, tint, seed=0), shortcuts=["text only", "8x8 blur", "colour histogram"])
    test = make(40, tint, seed=1)
    whole, *halves = (asked(part).set_index("shortcut")["accuracy"] for part in (test, test[:20], test[20:]))
    assert whole.to_numpy() == pytest.approx((sum(halves) / 2).to_numpy())


def test_what_does_not_apply_is_left_out() -> None:
    train, test = (
        [PerceptionItem(**{**vars(item), "images": item.images[:1], "meta": {}}) for item in make(40, None, seed=seed)]
        for seed in (0, 1)
    )
    names = battery(train, test)["shortcut"].tolist()
    assert {"mark coordinates", "pixel distance", "single image"}.isdisjoint(names)
    assert {"8x8 blur", "colour histogram", "ink and edges"} <= set(names)


def test_bad_input_is_said_in_a_sentence() -> None:
    items, others = make(20, None, seed=0), make(20, None, seed=1)
    with pytest.raises(CrosstaskError, match="no shortcut 'smell'"):
        battery(items, items, shortcuts=["smell"])
    with pytest.raises(CrosstaskError, match="got 3 and 20"):
        battery(items[:3], others)
    with pytest.raises(CrosstaskError, match="1 test items are training items too, such as '0/9'"):
        battery(items[:10], items[9:])
    caption = PerceptionItem("c", "caption", items[0].images, "Describe it.", (), 0, reply="A hen.")
    with pytest.raises(CrosstaskError, match="no options"):
        battery([caption] * 8, items)


FORMS = [
    (task, form)
    for task in perception_tasks().values()
    for form, n in task.forms.items()
    if n and task.name != "random_key"  # whose keys are random numbers, and which any shortcut may hit by chance
]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "form"), FORMS, ids=[f"{task.abbreviation}-{form}" for task, form in FORMS])
def test_no_shortcut_beats_chance_by_more_than_five_points(task: PerceptionTask, form: Form) -> None:
    draw = partial(task.item, form=form, size=48)
    table = battery(
        (draw("train", index) for index in range(400)),
        (draw("test", index) for index in range(400)),
        again=lambda: (draw("test", index) for index in range(400, 800)),
    )
    assert leaks(table) == [], f"\n{table}"
