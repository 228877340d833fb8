"""Patches of many vectors behind one prefix equal whole prompts, reach the letters, and are what the hooks write."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from interp.errors import CrosstaskError
from interp.hooks import HookError
from interp.models.base import Model
from interp.perception_vectors.patches import Arm, patch_answers
from interp.perception_vectors.settings import Position
from interp.perception_vectors.states import read_states
from interp.perception_vectors.tables import _patching
from interp.tasks.perception.registry import perception_task
from interp.tuning.evaluation.forced_choice import Choices, choose, prepare
from interp.tuning.evaluation.packing import Reading
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.records import Record
from tests.tiny import LAYERS, WIDTH, tiny_llava
from tests.tiny_families import VISION

POSITIONS: tuple[Position, ...] = ("delimiter", "letter")


@pytest.fixture(scope="module")
def model() -> Model:
    found = tiny_llava()
    with torch.no_grad():  # or the letters are nearly even whatever the state
        found.module.get_output_embeddings().weight.mul_(4)
    return found


def ready(model: Model, task: str, n: int = 3, **options: bool) -> Choices:
    return prepare(model, perception_task(task).items("test", n, size=32), reader=ItemReader(model), **options)


def vector(seed: int, n: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, WIDTH, generator=generator, dtype=torch.float64)


def arms(model: Model, n: int) -> list[Arm]:
    one = [Arm("task", layer, vector(layer)) for layer in range(LAYERS - 1)]
    return [Arm("none", -1, None), *one, Arm("random", 1, vector(9, n))]


def log_p(answers: list[list[Record]]) -> np.ndarray:
    return np.array([[record.log_p_key for record in records] for records in answers])


def letters(answers: list[list[Record]]) -> np.ndarray:
    """Of each arm and item the mean probability of each letter, in which shifts of the options do not cancel."""
    return np.array([[record.letters for record in records] for records in answers])


@pytest.mark.parametrize("task", ["spatial_relation", "visual_correspondence", "forensic_detection"])
@pytest.mark.parametrize("position", POSITIONS)
def test_arms_behind_one_prefix_equal_whole_prompts(model: Model, task: str, position: Position) -> None:
    choices = ready(model, task, 2)
    given = arms(model, 2)
    fast, slow = (patch_answers(choices, given, position=position, shared=way) for way in (True, False))
    assert log_p(fast) == pytest.approx(log_p(slow), abs=1e-9)
    assert letters(fast) == pytest.approx(letters(slow), abs=1e-9)
    assert np.abs(np.diff(letters(slow), axis=0)).max((1, 2)).min() > 1e-5  # and arms differ


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma3"])
def test_families_with_several_position_axes_or_without_packing_answer_alike(name: str) -> None:
    model = VISION[name]()
    choices = ready(model, "counting", 2)
    given = [Arm("none", -1, None), Arm("task", 0, vector(1)), Arm("random", 1, vector(2, 2))]
    fast, slow = (patch_answers(choices, given, position="delimiter", shared=way) for way in (None, False))
    assert letters(fast) == pytest.approx(letters(slow), abs=1e-12)
    bare = np.array([record.letters for record in choose(choices)])
    assert letters(fast)[0] == pytest.approx(bare, abs=1e-12)


def test_few_arms_at_a_time_give_the_same(model: Model) -> None:
    choices = ready(model, "spatial_relation")
    given = arms(model, 3)
    whole, cut = (log_p(patch_answers(choices, given, position="letter", budget=b)) for b in (None, 12))
    assert cut == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("shifts", [True, False])
def test_arm_without_a_vector_is_the_forced_choice(model: Model, shifts: bool) -> None:
    choices = ready(model, "forensic_detection", shifts=shifts)
    (found,) = patch_answers(choices, [Arm("none", -1, None)], position="delimiter")
    for record, known in zip(found, choose(choices), strict=True):
        assert record.log_p_key == pytest.approx(known.log_p_key)
        assert record.prediction == known.prediction


@pytest.mark.parametrize("position", POSITIONS)
def test_own_state_put_back_changes_nothing_and_raises_unless_allowed(model: Model, position: Position) -> None:
    choices = ready(model, "relative_depth", 2, shifts=False)
    tail = 1 if position == "letter" else choices.reader.common + 1
    readings = [cut(pack.readings[0], tail - 1) for pack in choices.packs]
    states = read_states(model, readings, choices.vision)
    given = [Arm("none", -1, None), *(Arm("own", layer, states[:, layer]) for layer in range(LAYERS - 1))]
    found = log_p(patch_answers(choices, given, position=position, shared=False, allow_noop=True))
    assert found == pytest.approx(np.tile(found[0], (len(given), 1)), abs=1e-9)
    plain = [Arm("own", 0, states[:, 0])]
    with pytest.raises(HookError, match="changes nothing"):
        patch_answers(choices, plain, position=position, shared=False)


def cut(reading: Reading, last: int) -> Reading:
    stop = len(reading) - last
    tokens = {name: tensor[..., :stop] for name, tensor in reading.token_inputs.items()}
    return Reading(reading.ids[:stop], tokens, reading.pictures)


def test_vector_of_an_item_is_written_into_that_item(model: Model) -> None:
    choices = ready(model, "visual_correspondence", 3)
    own = vector(5, 3)
    (each,) = patch_answers(choices, [Arm("random", 1, own)], position="letter")
    for item, record in enumerate(each):
        (alone,) = patch_answers(choices, [Arm("x", 1, own[item, None])], position="letter")
        assert alone[item].log_p_key == pytest.approx(record.log_p_key)


def test_patch_of_the_last_state_before_the_letter_decides_the_answer(model: Model) -> None:
    choices = ready(model, "spatial_relation", 4, shifts=False)
    (found,) = patch_answers(choices, [Arm("x", LAYERS - 1, vector(3))], position="letter")
    shares = letters([found])[0]
    assert shares == pytest.approx(np.tile(shares[0], (4, 1)))  # nothing of the item is left


def test_letters_of_several_tokens_are_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = ready(model, "spatial_relation", 1)
    monkeypatch.setitem(choices.reader.__dict__, "single", False)
    with pytest.raises(CrosstaskError, match="writes option letters with several tokens"):
        patch_answers(choices, [Arm("none", -1, None)], position="letter")


def test_states_in_a_padded_batch_equal_those_alone(model: Model) -> None:
    reader = ItemReader(model)
    readings = [reader.open(perception_task(task).item("train", 0, size=32)) for task in ("counting", "jigsaw")]
    choices = ready(model, "counting", 1)
    choices.reader.pictures.update(reader.pictures)
    together = read_states(model, readings, choices.vision, budget=10_000)
    for place, reading in enumerate(readings):
        assert torch.allclose(together[place], read_states(model, [reading], choices.vision)[0], atol=1e-9)
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(together[0], 2))


@pytest.mark.parametrize("reaches", [False, True])
def test_patches_that_reach_no_answer_are_said_to_tell_nothing_of_tasks(reaches: bool) -> None:
    rows = [
        {"setting": "item", "layer": layer, "control": control, "source": source, "target": target, "accuracy": 0.75}
        | {"change": 0.0, "low": 0.0, "high": 0.0, "changed_rate": 0.0}
        | {"log_p_change": -0.5 if reaches and control == "random" else 1e-6}
        for target, source in (("counting", "jigsaw"), ("jigsaw", "counting"))
        for control, layers in (
            ("none", [-1]),
            ("other", [0, 2]),
            ("own", [0, 2]),
            ("mean", [0, 2]),
            ("random", [0, 2]),
        )
        for layer in layers
    ]
    said = " ".join(_patching(pd.DataFrame(rows), "item", 2))
    assert ("No patch changes an answer" in said) is not reaches
    assert ("try --position letter" in said) is not reaches
