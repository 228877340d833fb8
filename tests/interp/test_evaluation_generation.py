"""Generated answers of tiny models, and the rows and flags of both ways of scoring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.encoding import encode
from interp.tuning.evaluation.evaluate import EvaluationOptions, evaluate
from interp.tuning.evaluation.flags import constant_letter, equals_key_count, summarise
from interp.tuning.evaluation.generation import prepare_questions, replies, reply_record
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.records import Record, choice_record, option_probabilities
from tests import tiny, tiny_families


def items(n: int = 4) -> list[PerceptionItem]:
    return [
        PerceptionItem(
            f"task/{i}", "task", tuple(tiny.picture(10 * i + j) for j in range(1 + i % 2)), "Which city?" * (i + 1),
            ("Paris", "Tokyo", "the capital")[: 2 + i % 2], i % 2,
        )
        for i in range(n)
    ]  # fmt: skip


@torch.no_grad()
def alone(model: Model, item: PerceptionItem, tokens: int) -> str:
    """Greedy tokens of one full forward pass each."""
    encoded = encode(model, item.images, [(item.prompt, None)])
    ids, given = encoded.input_ids.tolist(), []
    pixels = model.family.collate([model.image_inputs(image).features for image in item.images])
    pixels = {name: value.to(model.dtype) for name, value in pixels.items()}
    for _ in range(tokens):
        token = int(model.forward({"input_ids": torch.tensor([ids]), **pixels}).logits[0, -1].argmax())
        given.append(token)
        ids.append(token)
        if token in model.stop_ids:
            break
    return model.tokenizer.decode(given, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_batched_replies_equal_greedy_full_forwards() -> None:
    model, given = tiny.tiny_llava(), items()
    questions = prepare_questions(model, given, reader=ItemReader(model), max_new_tokens=6)
    assert len(questions.groups) < len(given)
    assert replies(questions) == [alone(model, item, 6) for item in given]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "paligemma", "smolvlm"])
def test_row_in_padded_batch_replies_as_alone(name: str) -> None:
    model, given = tiny_families.VISION[name](), items()
    if not model.family.several_images:
        given = given[::2]
    batched, single = (prepare_questions(model, given, reader=ItemReader(model), budget=b) for b in (10**6, 1))
    assert replies(batched) == replies(single)


def test_replies_are_scored_by_rules_and_by_blinks_own_scorer() -> None:
    item = items()[1]
    assert reply_record(item, "(B)") == Record("task/1", "B", "B", 1.0, rule="letter", reply="(B)", exact=1.0)
    drifted = reply_record(item, "I think it is Tokyo.")
    assert (drifted.prediction, drifted.correct, drifted.exact, drifted.rule) == ("B", 1.0, 0.0, "option text")
    nothing = reply_record(item, "hm")
    assert (nothing.prediction, nothing.correct, nothing.rule) == ("Z", 0.0, "none")


def test_numbers_are_scored_by_mean_relative_accuracy() -> None:
    item = PerceptionItem("n/0", "n", (tiny.picture(0),), "How many?", (), 0, number=4.0)
    assert reply_record(item, "4").correct == 1.0
    assert reply_record(item, "5").correct == pytest.approx(0.6)  # an error of .25 passes .50 to .75
    assert reply_record(item, "many").correct == 0.0
    with pytest.raises(CrosstaskError, match="neither options nor a number"):
        reply_record(replace(item, number=None, reply="a cat"), "a dog")


def test_numbers_are_generated_where_letters_are_chosen() -> None:
    model = tiny.tiny_llava()
    number = PerceptionItem("n/0", "n", (tiny.picture(0),), "How many?", (), 0, number=4.0)
    given = [items()[0], number, items()[1]]
    ((name, records),) = evaluate(model, given, {"frozen": None}, EvaluationOptions(max_new_tokens=2))
    assert name == "frozen"
    assert [record.item for record in records] == ["task/0", "n/0", "task/1"]
    assert [record.log_p_key is None for record in records] == [False, True, False]


def test_items_of_one_name_are_refused() -> None:
    with pytest.raises(CrosstaskError, match="two items are called 'task/0'"):
        next(evaluate(tiny.tiny_llava(), [items()[0], items()[0]], {"frozen": None}))


def test_preference_for_a_letter_is_averaged_away() -> None:
    prior = np.array([0.7, 0.2, 0.1])
    assert option_probabilities(np.stack([prior] * 3)) == pytest.approx([1 / 3] * 3)
    knows = np.stack([np.roll([0.2, 0.7, 0.1], k) for k in range(3)])  # always the same option
    record = choice_record("i", 1, knows)
    assert (record.prediction, record.plain_prediction) == ("B", "B")
    assert record.log_p_key == pytest.approx(np.log(0.7))
    assert record.brier == pytest.approx(0.2**2 + 0.3**2 + 0.1**2)
    assert record.letters == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_probabilities_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(CrosstaskError, match="has diverged"):
        choice_record("i", 0, np.array([[np.nan, 0.5], [0.5, 0.5]]))


def record(i: int, key: str, plain: str) -> Record:
    return Record(f"i/{i}", key, key, 1.0, -0.1, 0.1, 0.5, plain_prediction=plain, plain_correct=float(plain == key))


def test_constant_answers_are_flagged_though_shifts_remove_them() -> None:
    cell = summarise([record(i, "AB"[i % 2], "A") for i in range(20)])
    assert cell.accuracy == 1.0
    assert cell.plain_accuracy == 0.5
    assert cell.constant_letter == "A"
    assert cell.equals_key_count == "A+B"
    assert cell.recall_sd == 0.5


def test_flags_have_sharp_edges() -> None:
    assert constant_letter(["A"] * 9 + ["B"]) == ""  # 90 % is not more than 90 %
    assert constant_letter(["A"] * 19 + ["B"]) == "A"
    assert equals_key_count(["A", "A", "B"], 2) == "A"
    assert equals_key_count(["A", "A", "B"], 3) == ""


def test_cell_with_an_item_twice_is_refused() -> None:
    with pytest.raises(CrosstaskError, match="'i/0' was answered 2 times"):
        summarise([record(0, "A", "A")] * 2)


def test_record_comes_back_from_its_row(tmp_path: Path) -> None:
    made = choice_record("i", 1, np.array([[0.25, 0.75], [0.5, 0.5]]), mass=[0.5, 0.7])
    assert Record.from_row(made.row()) == made
