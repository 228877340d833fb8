"""Items and the base of procedural tasks: prompts, keys, shifts, pools."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image as Pillow

from interp.errors import CrosstaskError
from interp.tasks.perception.base import SPLITS, Draft, PerceptionTask, Request, balanced_key, pool
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.registry import ORDER, perception_task, perception_tasks


class Greys(PerceptionTask):
    """Which of two greys is darker; the letters are drawn, or the options are words."""

    name, title, abbreviation, level, granularity = "greys", "Greys", "GR", "low", "image"
    forms: ClassVar = {"marks": 2, "words": 3}
    modules = frozenset({"illumination"})
    core = False

    def draw(self, request: Request) -> Draft:
        n = self.forms[request.form]
        dark, *light = request.rng.permutation(4)[:n] + np.array([0, *[4] * (n - 1)])
        greys = [int(value) * 10 for value in request.at_places([dark, *light])]
        pictures = [Pillow.new("L", (request.size, request.size), grey) for grey in greys]
        return Draft(pictures, "Which is darker?", [f"grey {grey}" for grey in greys], {"truth": greys})

    def oracle(self, item: PerceptionItem) -> int:
        truth = item.meta["truth"]
        return truth.index(min(truth))


def test_prompt_has_the_form_of_blink_and_the_answer_its_letter() -> None:
    item = Greys().item("train", 0, form="words")
    assert item.prompt.splitlines()[:3] == [
        "Which is darker?",
        "Select from the following choices.",
        f"(A) {item.options[0]}",
    ]
    assert item.prompt.startswith(item.stem)
    assert item.answer == f"({'ABC'[item.key]})"
    assert item.chance == pytest.approx(1 / 3)


def test_keys_are_exactly_balanced_in_every_run() -> None:
    keys = [balanced_key(i, 3, of=("task", "test", 0)) for i in range(300)]
    assert all(sorted(keys[i : i + 3]) == [0, 1, 2] for i in range(0, 300, 3))
    assert len(Counter(tuple(keys[i : i + 3]) for i in range(0, 300, 3))) == 6


def test_oracle_agrees_with_the_key_for_every_shift() -> None:
    task = Greys()
    for form, n in task.forms.items():
        for item in task.items("test", 12, form=form):
            assert task.oracle(item) == item.key
            if form == "words":
                assert {item.shifted(k).options[item.shifted(k).key] for k in range(n)} == {item.options[item.key]}
            assert sorted(item.shifted(k).key for k in range(n)) == list(range(n))
            assert item.shifted(n) is item


def test_marks_are_redrawn_and_texts_are_not() -> None:
    task = Greys()
    marked, worded = task.item("test", 3, form="marks"), task.item("test", 3, form="words")
    assert marked.shifted(1).images == marked.images[::-1]
    assert marked.shifted(1).options == marked.options
    assert worded.shifted(1).images == worded.images
    assert worded.shifted(1).options == (worded.options[-1], *worded.options[:-1])


def test_an_item_depends_on_nothing_but_its_arguments() -> None:
    task = Greys()
    first, again = task.item("train", 5, seed=1), task.items("train", 6, seed=1)[5]
    assert (first.images, first.key, first.options) == (again.images, again.key, again.options)
    names = {task.item(split, index, seed=seed).name for split in SPLITS for index in (0, 1) for seed in (0, 1)}
    assert len(names) == 16


def test_pools_are_disjoint_and_complete() -> None:
    contents = list(range(22))
    parts = [pool(contents, split, salt="shapes") for split in SPLITS]
    assert sorted(chain.from_iterable(parts)) == contents
    assert {len(part) for part in parts} <= {5, 6}
    assert parts != [pool(contents, split, salt="palettes") for split in SPLITS]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"form": "yes_no"}, "no form 'yes_no'; it has marks, words"),
        ({"difficulty": 1.5}, "1.5 is out of range"),
        ({"size": 8}, "8 pixels is too small"),
        ({"split": "dev"}, "no split 'dev'"),
        ({"index": -1}, "not -1"),
    ],
)
def test_values_out_of_range_are_refused(given: dict, said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        Greys().item(**{"split": "train", "index": 0} | given)


def test_items_with_impossible_keys_are_refused() -> None:
    with pytest.raises(CrosstaskError, match="has the key 2"):
        PerceptionItem("x", "greys", (), "?", ("a", "b"), 2)
    with pytest.raises(CrosstaskError, match="has 1 options"):
        PerceptionItem("x", "greys", (), "?", ("a",), 0)
    with pytest.raises(CrosstaskError, match="no options"):
        PerceptionItem("x", "caption", (), "?", (), 0, reply="A red square.").shifted(1)


def test_unknown_task_is_answered_with_the_nearest() -> None:
    for task in perception_tasks(core=None).values():
        assert perception_task(task.abbreviation) is task
        assert perception_task(task.name.replace("_", "-").title()) is task
    with pytest.raises(CrosstaskError, match="There is no perception task 'jigsew'"):
        perception_task("jigsew")
    assert [task.abbreviation for task in perception_tasks().values()] == [
        name for name in ORDER if name in {task.abbreviation for task in perception_tasks().values()}
    ]
