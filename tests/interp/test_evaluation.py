"""Forced choice on tiny random models: every shortcut equals the plain loop."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.encoding import encode
from interp.tuning.evaluation.forced_choice import Choices, choose, prepare
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.vision import KeptVision, PixelVision
from tests import tiny, tiny_families


def items(n: int = 5) -> list[PerceptionItem]:
    """One to three pictures, two to four options; the last redraws its letters."""
    made = []
    for i in range(n):
        pictures = tuple(tiny.picture(10 * i + j) for j in range(1 + i % 3))
        options = ("the ratio", "a kitten of the animal", "Paris", "Tokyo")[: 2 + i % 3]
        question = "Which is the capital" + " city" * i + "?"
        made.append(PerceptionItem(f"task/{i}", "task", pictures, question, options, i % len(options)))
    shown = tiny.picture(500)

    def redraw(key: int) -> tuple:
        return (shown, tiny.picture(501 + key))

    made.append(PerceptionItem("task/marks", "task", redraw(1), "Which?", ("A", "B", "C"), 1, redraw=redraw))
    return made


def ready(model: Model, given: list[PerceptionItem], **options: object) -> Choices:
    reader = ItemReader(model)
    return prepare(model, given, reader=reader, **options)


def plain_p(model: Model, item: PerceptionItem) -> np.ndarray:
    """Letter probabilities of each shift, one full forward at a time on the tokens of training."""
    rows = []
    for shift in range(len(item.options)):
        moved = item.shifted(shift)
        scores = []
        for letter in "ABCD"[: len(item.options)]:
            encoded = encode(model, moved.images, [(moved.prompt, f"({letter})")])
            place = next(
                i for i in range(encoded.first_answer, encoded.n_tokens) if _is(model, encoded.input_ids[i], letter)
            )
            inputs = {"input_ids": encoded.input_ids[None, :place]}
            inputs |= {name: tensor[..., None, :place] for name, tensor in encoded.token_inputs.items()}
            inputs |= model.family.collate(
                [model.image_inputs(i, among=len(moved.images)).features for i in moved.images]
            )
            inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
            scores.append(model.forward(inputs).logits[0, -1, encoded.input_ids[place]].item())
        exp = np.exp(np.array(scores) - max(scores))
        rows.append(exp / exp.sum())
    return np.stack(rows)


def _is(model: Model, token: torch.Tensor, letter: str) -> bool:
    return model.tokenizer.decode([int(token)]).strip(" ()") == letter


@cache
def llava() -> Model:
    return tiny.tiny_llava()


@pytest.mark.parametrize("name", sorted(tiny_families.VISION))
def test_packed_shifts_equal_the_plain_loop(name: str) -> None:
    model = tiny_families.VISION[name]()
    given = items() if model.family.several_images else [items()[0], items()[3]]
    found = choose(ready(model, given))
    for item, record in zip(given, found, strict=True):
        shifts = plain_p(model, item)
        options = np.mean([np.roll(row, -k) for k, row in enumerate(shifts)], axis=0)
        assert record.log_p_key == pytest.approx(np.log(options[item.key]), abs=1e-5)
        assert record.prediction == "ABCD"[int(options.argmax())]
        assert record.plain_prediction == "ABCD"[int(shifts[0].argmax())]
        assert record.letters == pytest.approx(tuple(shifts.mean(0)), abs=1e-5)


def test_shifts_of_option_texts_share_their_beginning_and_redrawn_letters_do_not() -> None:
    choices = ready(llava(), items())
    together = {choices.items[sites[0][0]].name: len(sites) for sites in choices.sites}
    assert together == {"task/0": 2, "task/1": 3, "task/2": 4, "task/3": 2, "task/4": 3, "task/marks": 1}
    apart = ready(llava(), items(), share=False)
    assert choices.n_tokens < 0.7 * apart.n_tokens
    for one, other in zip(choose(choices), choose(apart), strict=True):
        assert one.letters == pytest.approx(other.letters, abs=1e-9)


def test_row_in_padded_batch_equals_row_alone() -> None:
    alone, batched = ready(llava(), items(), budget=1), ready(llava(), items(), budget=10**6)
    assert len(alone.groups) == len(alone.packs)
    assert len(batched.groups) < len(alone.groups)
    for one, other in zip(choose(alone), choose(batched), strict=True):
        assert one.letters == pytest.approx(other.letters, abs=1e-9)
        assert one.mass == pytest.approx(other.mass, abs=1e-9)


def test_whole_replies_give_what_letters_give_where_letters_are_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to what follows the letter, which a random model does not take to be certain."""
    model, item = llava(), items()[:1]
    monkeypatch.setattr(ItemReader, "single", False)
    (record,) = choose(ready(model, item, shifts=False))
    scores = []
    for letter in "AB":
        encoded = encode(model, item[0].images, [(item[0].prompt, f"({letter})")])
        inputs = {"input_ids": encoded.input_ids[None]} | {k: v[None] for k, v in encoded.token_inputs.items()}
        pixels = model.family.collate([model.image_inputs(image).features for image in item[0].images])
        logs = (
            model.forward(inputs | {k: v.to(model.dtype) for k, v in pixels.items()}, logits=None)
            .logits[0]
            .log_softmax(-1)
        )
        first = encoded.first_answer
        reply = encoded.input_ids[first:]
        scores.append(logs[range(first - 1, encoded.n_tokens - 1), reply].sum().item())
    assert record.log_p_key == pytest.approx(scores[0] - np.logaddexp(*scores), abs=1e-9)


def test_item_without_options_is_refused_by_forced_choice() -> None:
    number = PerceptionItem("count/0", "count", (tiny.picture(0),), "How many?", (), 0, number=3.0)
    with pytest.raises(CrosstaskError, match="'count/0' has no options"):
        ready(llava(), [number])


def test_each_picture_goes_through_the_tower_once_whatever_is_asked_of_it() -> None:
    choices = ready(llava(), items())
    assert isinstance(choices.vision, KeptVision)
    first = choose(choices)
    shown = {image.key for item in choices.items for k in range(len(item.options)) for image in item.shifted(k).images}
    assert choices.vision.encoded == len(shown)
    assert choose(choices) == first
    assert choices.vision.encoded == len(shown)


def test_kept_features_equal_pixels_in_every_pass() -> None:
    model, reader = llava(), ItemReader(llava())
    pixels = prepare(model, items(), reader=reader, vision=PixelVision(model, reader.pictures))
    for one, other in zip(choose(ready(model, items())), choose(pixels), strict=True):
        assert one.letters == pytest.approx(other.letters, abs=1e-9)


def test_pictures_beyond_the_room_are_encoded_again_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = choose(ready(llava(), items()))
    monkeypatch.setattr("interp.tuning.evaluation.vision.KEPT_SHARE", 0.0)
    choices = ready(llava(), items())
    assert choose(choices) == expected
    before = choices.vision.encoded
    assert choose(choices) == expected
    assert choices.vision.encoded > before


def test_passes_are_halved_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.tuning.evaluation import evaluate as engine

    model, given = llava(), items()
    prepared = engine.prepare_items(model, given, engine.EvaluationOptions(budget=4096))
    expected, widest = prepared.score(), []

    def short_of_memory(choices: Choices, progress: object = None) -> list:
        widest.append(choices.budget)
        if choices.budget > 2000:
            raise torch.OutOfMemoryError("no")
        return choose(choices)

    monkeypatch.setattr(engine, "choose", short_of_memory)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    for one, other in zip(prepared.score(), expected, strict=True):
        assert one.letters == pytest.approx(other.letters, abs=1e-9)
    assert widest == [4096, 2048, 1024]
    monkeypatch.setattr(engine, "choose", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(CrosstaskError, match="ran out of memory"):
        prepared.score()
