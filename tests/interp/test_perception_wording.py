"""A described wording changes the words of an item and nothing else."""

import re

import numpy as np
import pytest

from interp.errors import CrosstaskError
from interp.tasks.perception.datasets import test_data as data_for_tests
from interp.tasks.perception.datasets import training_data
from interp.tasks.perception.registry import perception_task, perception_tasks
from interp.tasks.perception.wording import DESCRIBED, worded
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import training_examples
from interp.tuning.matrix.plan import MatrixSettings, make_jobs
from interp.tuning.matrix.work import HowOptions, target_items, tune_config

CORE = sorted(perception_tasks(core=True))


@pytest.mark.parametrize("name", CORE)
def test_a_described_item_differs_in_its_words_alone(name):
    brief = perception_task(name).item("train", 3, size=64)
    found = worded(brief, "described")
    assert found.question != brief.question
    assert "{" not in found.prompt
    assert (found.key, found.name, len(found.options)) == (brief.key, brief.name, len(brief.options))
    assert len(set(found.options)) == len(found.options)
    assert found.meta["wording"] == "described"
    for a, b in zip(found.images, brief.images, strict=True):
        assert np.array_equal(np.asarray(a.load()), np.asarray(b.load()))


@pytest.mark.parametrize("name", ["counting", "spatial_relation", "object_localization", "functional_correspondence"])
def test_what_a_question_asks_about_is_in_both_wordings(name):
    items = [perception_task(name).item("train", index, size=64) for index in range(6)]
    described = [worded(item, "described").question for item in items]
    assert len(set(described)) == len({item.question for item in items}) > 1


def test_the_two_things_of_a_spatial_question_keep_their_roles():
    brief = perception_task("spatial_relation").item("train", 0, size=64)
    first, way, second = re.fullmatch(r"Is the (\w+ \w+) (.+) the (\w+ \w+)\?", brief.question).groups()
    described = worded(brief, "described").question
    assert f"one is the {first} and the other is the {second}." in described
    assert f"the former {way} the latter" in described


def test_options_move_past_the_letters_of_a_described_item():
    item = worded(perception_task("multi_view_reasoning").item("train", 0, size=64), "described")
    moved = item.shifted(1)
    assert moved.options == (*item.options[-1:], *item.options[:-1])
    assert moved.options[moved.key] == item.options[item.key]
    assert moved.question == item.question


def test_controls_have_the_wordings_of_the_tasks_they_are_made_of():
    questions = [item.question for item in training_data("random_key", n=13, size=64, wording="described")]
    assert not any(re.fullmatch(one.brief, question) for one in DESCRIBED.values() for question in questions)
    brief = training_data("caption", n=1, size=64)[0]
    assert training_data("caption", n=1, size=64, wording="described")[0].prompt == brief.prompt


def test_training_and_test_items_take_the_wording():
    for draw in (training_data, data_for_tests):
        questions = [item.question for item in draw("RD", n=2, size=64, wording="described")]
        assert questions == [DESCRIBED["relative_depth"].question] * 2


def test_a_matrix_trains_and_tests_in_its_wording():
    settings = MatrixSettings(
        "perception", ("relative_depth",), ("relative_depth",), items=1, size=64, wording="described",
        training={"examples": 2, "steps": 1},
    )  # fmt: skip
    asked = [DESCRIBED["relative_depth"].question]
    for job in make_jobs(settings):
        if job.kind == "evaluate":
            assert [item.question for item in target_items(job)] == asked
        else:
            config = tune_config(job, HowOptions())
            assert [item.question for item in training_examples(config)] == 2 * asked


def test_a_brief_wording_leaves_no_trace_in_a_configuration():
    assert "wording" not in TuneConfig("RD").settings()
    assert TuneConfig("RD", wording="described").settings()["wording"] == "described"
    with pytest.raises(CrosstaskError, match="there is no wording 'long'; expected brief or described"):
        TuneConfig("RD", wording="long")


def test_other_forms_and_unknown_wordings_are_refused():
    item = perception_task("relative_depth").item("train", 0, form="yes_no", size=64)
    with pytest.raises(CrosstaskError, match=r"asks 'Is point .*has no described wording"):
        worded(item, "described")
    with pytest.raises(CrosstaskError, match="there is no wording 'long'; expected brief or described"):
        worded(item, "long")
