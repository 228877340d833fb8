"""Contexts of perception tasks end in the delimiter, whatever their setting and the model's way of asking."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.perception_vectors.contexts import context_items, interleaved, read_context, scored_items
from interp.perception_vectors.settings import SETTINGS, Setting, VectorSettings
from interp.tuning.conversation import chat_frame
from interp.tuning.encoding import encode
from interp.tuning.evaluation.reading import ItemReader
from tests.interp.test_chat import LLAVA_CHAT, QWEN_CHAT
from tests.tiny import tiny_llama, tiny_llava
from tests.tiny_families import VISION

SETTING = VectorSettings("tiny", ("counting", "visual_similarity"), contexts=4, shots=2, size=32, seed=7)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_llava()


@pytest.fixture(params=["qwen2_vl", "llava"])
def chatty(request: pytest.FixtureRequest) -> Model:
    found = VISION[request.param]()
    assert found.processor is not None
    found.processor.chat_template = {"qwen2_vl": QWEN_CHAT, "llava": LLAVA_CHAT}[request.param]
    return found


@pytest.mark.parametrize("task", SETTING.tasks)
@pytest.mark.parametrize("setting", SETTINGS)
def test_context_ends_in_the_colon_and_at_the_letter_in_what_all_replies_begin_with(
    model: Model, setting: Setting, task: str
) -> None:
    reader = ItemReader(model)
    items = context_items(replace(SETTING, shots=1), task)[0]
    plain = read_context(reader, setting, items, "delimiter")
    longer = read_context(reader, setting, items, "letter")
    assert model.tokenizer.decode([plain.ids[-1]]) == ":"
    assert longer.ids == (*plain.ids, *reader.replies[0][: reader.common])


def test_scored_reading_goes_on_from_the_context_that_its_vector_is_read_from(model: Model) -> None:
    reader = ItemReader(model)
    item = context_items(SETTING, "visual_similarity")[0][-1]
    (scored,) = reader.readings(item)
    assert scored.ids == read_context(reader, "item", [item], "letter").ids
    assert scored.ids[: -reader.common] == read_context(reader, "item", [item], "delimiter").ids


def test_one_open_item_is_what_training_encodes(model: Model) -> None:
    item = context_items(SETTING, "visual_similarity")[0][-1]
    ours, theirs = interleaved(model, [item]), encode(model, item.images, [(item.prompt, None)])
    assert ours.input_ids.tolist() == theirs.input_ids.tolist()
    assert ours.text == theirs.text


def test_examples_show_their_pictures_before_their_questions_with_answers(model: Model) -> None:
    items = context_items(SETTING, "visual_similarity")[0]
    text = interleaved(model, items).text
    parts = text.split("<|im_end|>")
    assert len(parts) == 3
    for part, item in zip(parts, items, strict=True):
        assert part.index("<image>") < part.index(item.question)
        assert part.rindex("<image>") < part.index(item.question)
    assert [part.endswith(f"Answer: {item.answer}") for part, item in zip(parts, items, strict=True)][:2] == [True] * 2


def test_both_is_the_examples_behind_an_instruction_without_pictures(model: Model) -> None:
    reader, items = ItemReader(model), context_items(SETTING, "counting")[0]
    examples = interleaved(model, items).text
    both = interleaved(model, items, instruction=items[-1].prompt).text
    assert both == f"{items[-1].prompt}\n{examples}"
    assert not read_context(reader, "instruction", items, "delimiter").pictures
    assert len(read_context(reader, "both", items, "delimiter").pictures) == 3


def test_chat_examples_are_what_the_chat_template_and_processor_write(chatty: Model) -> None:
    items = context_items(SETTING, "counting")[0]
    assert chatty.processor is not None
    messages = []
    for item in items:
        shown = [{"type": "image", "image": image.load()} for image in item.images]
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": item.prompt}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": item.answer}]})
    text = chatty.processor.apply_chat_template(messages, tokenize=False)
    text = text[: text.rindex(items[-1].answer)].rstrip(" ")
    images = [image.load() for item in items for image in item.images]
    expected = chatty.processor(text=[text], images=images, add_special_tokens=False)["input_ids"][0]
    found = interleaved(chatty, items)
    assert chat_frame(chatty, 1, 1) is not None
    assert found.input_ids.tolist() == list(expected)


def test_instruction_stands_in_the_first_turn_of_a_chat(chatty: Model) -> None:
    items = context_items(SETTING, "counting")[0]
    text = interleaved(chatty, items, instruction="Do this.").text
    first = chatty.family.image_frame[0] or chatty.family.image_placeholder
    assert text.count("Do this.\n") == 1
    assert text.index("Do this.\n") < text.index(first)


def test_contexts_share_no_item_and_end_in_balanced_keys() -> None:
    contexts = context_items(SETTING, "counting")
    names = [item.name for items in contexts for item in items]
    assert len(names) == len(set(names)) == 4 * 3
    assert sorted(items[-1].key for items in contexts) == [0, 1, 2, 3]
    assert all("/train/" in name for name in names)
    alone = context_items(SETTING, "counting", examples=False)
    assert [items[-1].name for items in alone] == [items[-1].name for items in contexts]


def test_scored_items_come_from_their_split() -> None:
    found = scored_items(SETTING, "counting", "selection")
    assert len(found) == SETTING.selection_items
    assert all("/selection/" in item.name for item in found)


def test_items_have_the_difficulty_of_their_task() -> None:
    easy = replace(SETTING, difficulties={"counting": 0.0})

    def options(settings: VectorSettings, task: str) -> list[tuple[str, ...]]:
        found = [item for items in context_items(settings, task) for item in items]
        return [item.options for item in (*found, *scored_items(settings, task, "test"))]

    assert options(easy, "counting") != options(SETTING, "counting")
    assert options(easy, "visual_similarity") == options(SETTING, "visual_similarity")
    assert easy.difficulty("counting/numerals") == 0.0


def test_models_without_pictures_and_prompts_that_are_too_long_are_refused(model: Model) -> None:
    items = context_items(SETTING, "counting")[0]
    with pytest.raises(CrosstaskError, match="takes no images, but 2 examples of 'counting'"):
        interleaved(tiny_llama(), items)
    with pytest.raises(CrosstaskError, match="takes at most 512: use fewer --shots"):
        interleaved(model, items * 5)
    with pytest.raises(CrosstaskError, match="where a prompt's pictures end"):
        interleaved(VISION["paligemma"](), items[:1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": ("counting",)}, "two or more"),
        ({"tasks": ("counting", "counting/yes_no")}, "named twice"),
        ({"settings": ("item",), "patched": ("both",)}, "patched both: expected one or more of item"),
        ({"contexts": 5}, "5 contexts: expected an even number"),
        ({"shots": 0}, "0 shots"),
        ({"selection_items": 0}, "0 selection items"),
    ],
)
def test_settings_that_make_no_study_are_refused(change: dict, said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        VectorSettings(**{"model": "tiny", "tasks": ("counting", "jigsaw")} | change)


def test_layers_whose_patch_reaches_no_answer_are_refused(model: Model) -> None:
    assert SETTING.resolve(model).layers == (0, 1, 2)
    at_letter = VectorSettings("tiny", SETTING.tasks, position="letter")
    assert at_letter.resolve(model).layers == (0, 1, 2, 3)
    with pytest.raises(CrosstaskError, match=r"layer 3 cannot be patched at the delimiter.*no later block"):
        VectorSettings("tiny", SETTING.tasks, layers=(3,)).resolve(model)
