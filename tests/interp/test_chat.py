"""A specification inside a model's own chat template, with every position still known."""

from __future__ import annotations

import pytest

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.patching import generate
from interp.prompts import Example, Image, Specification, Template, render
from tests.tiny import picture
from tests.tiny_families import VISION

QWEN_CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's, without videos and numbered pictures."""
LLAVA_CHAT = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""LLaVA-1.5's, for a user's turn."""


@pytest.fixture(params=["qwen2_vl", "llava"])
def chatty(request: pytest.FixtureRequest) -> Model:
    model = VISION[request.param]()
    assert model.processor is not None
    model.processor.chat_template = {"qwen2_vl": QWEN_CHAT, "llava": LLAVA_CHAT}[request.param]
    return model


def chat_of(model: Model, *content: str | Image) -> tuple[list[int], str]:
    """What the processor makes of one user message and the answer's beginning, with the number of images."""
    assert model.processor is not None
    parts = [
        {"type": "image", "image": part.load()} if isinstance(part, Image) else {"type": "text", "text": part}
        for part in content
    ]
    text = model.processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
    )
    answer = "A:" if text.endswith("\n") else " A:"
    images = [part.load() for part in content if isinstance(part, Image)]
    return model.processor(text=[text + answer], images=images or None, add_special_tokens=False)["input_ids"][0], text


def test_chat_is_what_the_models_chat_template_writes(chatty: Model) -> None:
    spec = Specification((Example("one: 1", "Paris"), Example("two", "b")), "Do it:")
    template = Template.parse("chat:Q:{x}\\nA:{y}\\n\\n")
    prompt = render(chatty, spec, "three", template=template)
    ids, text = chat_of(chatty, "Do it:\n\nQ:one: 1\nA:Paris\n\nQ:two\nA:b\n\nQ:three")
    assert list(prompt.input_ids) == ids
    assert prompt.text.startswith(text)
    before, after = (segment for segment in prompt.segments if segment.role == "turn")
    assert (before.start, before.content) == (0, chatty.chat_frame[0])
    assert after.stop == prompt.segments[-1].start
    assert chatty.tokenizer.decode(prompt.input_ids[prompt.spans("input")[0]]) == "three"
    assert [chatty.tokenizer.decode([prompt.input_ids[at]]) for at in prompt.delimiters] == [":"] * 3
    assert prompt.delimiter == prompt.n_tokens - 1
    assert chatty.tokenizer.decode(prompt.input_ids[: prompt.stem]).endswith("b\n\n")
    bare = render(chatty, Specification(), "three", template=template)
    assert bare.stem == before.stop > 0
    assert generate(chatty, [prompt, bare]) == [generate(chatty, [each])[0] for each in (prompt, bare)]


def test_image_in_a_chat_is_expanded_where_the_template_has_it() -> None:
    model = VISION["qwen2_vl"]()
    assert model.processor is not None
    model.processor.chat_template = QWEN_CHAT
    template = Template.parse("chat:Q:{x}\\nA:{y}\\n\\n")
    prompt = render(model, Specification((Example(picture(0), "a"),)), picture(1), template=template)
    ids, _ = chat_of(model, "Q:", picture(0), "\nA:a\n\nQ:", picture(1))
    assert list(prompt.input_ids) == ids
    assert len(prompt.images) == 2


def test_instruction_in_a_chat_ends_in_its_delimiter(chatty: Model) -> None:
    prompt = render(chatty, Specification(instruction="The capital:"), None, template=Template.parse("chat"))
    assert [segment.role for segment in prompt.segments] == ["turn", "instruction"]
    assert prompt.text == chatty.chat_frame[0] + "The capital:"


def test_chat_without_a_chat_template_is_refused(llama: Model) -> None:
    with pytest.raises(CrosstaskError, match="model 'tiny-llama' has no chat template; use a template without 'chat:'"):
        render(llama, Specification(), "q", template=Template.parse("chat"))


def test_chat_template_that_changes_the_message_is_refused() -> None:
    model = VISION["llava"]()
    assert model.processor is not None
    model.processor.chat_template = "{{ messages[0]['content'][0]['text'] | upper }}"
    with pytest.raises(CrosstaskError, match=r"chat template of model 'llava' changes the message: '\(MESSAGE\)'"):
        render(model, Specification(), "q", template=Template.parse("chat"))


def test_chat_template_is_kept_in_the_templates_text() -> None:
    assert Template.parse("chat") == Template.parse(r"chat:Q: {x}\nA: {y}\n\n")
    for text in ("chat:Q:{x}\nA:{y}\n\n", "Q:{x}\nA:{y}\n\n"):
        assert Template.parse(text).text == text
    assert Template.parse("Q:{x}\nA:{y}").turns == "plain"


def test_data_may_not_open_a_turn_of_the_chat(chatty: Model) -> None:
    with pytest.raises(CrosstaskError, match="reads as a special token"):
        render(chatty, Specification(), "x<|im_end|>", template=Template.parse("chat"))


SMOLLM_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A language model's, whose messages are texts and not lists of parts."""
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + SMOLLM_CHAT


def test_system_message_stands_where_the_chat_template_has_it(chatty: Model) -> None:
    assert chatty.processor is not None
    spec = Specification((Example("one", "Paris"),), "Do it:", system="Say the color:")
    prompt = render(chatty, spec, "two", template=Template.parse("chat:Q:{x}\\nA:{y}\\n\\n"))
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("system", "Say the color:"), ("user", "Do it:\n\nQ:one\nA:Paris\n\nQ:two"))
    ]
    text = chatty.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert prompt.text == text + ("A:" if text.endswith("\n") else " A:")
    system, instruction = (chatty.tokenizer.decode(prompt.input_ids[span]) for span in prompt.spans("instruction"))
    assert (system, instruction) == ("Say the color:", "Do it:")
    other = render(chatty, Specification((), "Do it:", system="Be brief"), "two", template=Template.parse("chat"))
    assert generate(chatty, [prompt, other]) == [generate(chatty, [each])[0] for each in (prompt, other)]


def test_chat_template_of_texts_serves_a_vlm_that_kept_it() -> None:
    model = VISION["qwen2_vl"]()
    assert model.processor is not None
    model.processor.chat_template = SMOLLM_CHAT
    assert model.chat_frame == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    assert model.system_frame == ("<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n", model.chat_frame[1])


def test_chat_template_without_a_system_role_is_refused_for_a_system_message() -> None:
    model = VISION["qwen2_vl"]()
    assert model.processor is not None
    model.processor.chat_template = NO_SYSTEM
    assert model.chat_frame[0] == "<|im_start|>user\n"
    with pytest.raises(
        CrosstaskError, match=r"chat template of model .* a system message and a user's: it says no sys"
    ):
        render(model, Specification(system="Say it"), "q", template=Template.parse("chat"))


def test_system_message_outside_a_chat_is_refused(llama: Model) -> None:
    with pytest.raises(CrosstaskError, match="a system message needs the model's chat template"):
        render(llama, Specification(system="Say it"), "q", template=Template())
