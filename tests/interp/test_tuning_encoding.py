"""Conversations as tokens: answers alone in the loss, in the model's own chat template where it has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.batch import collate, keep_answers
from interp.tuning.encoding import IGNORED, Encoded, encode
from tests import tiny_families as tiny
from tests.tiny import picture, tiny_llama, tiny_llava

QUESTION = "Which point is closer?\nSelect from the following choices.\n(A) a\n(B) b"
FAMILIES = [
    tiny.llava,
    tiny.llava_next,
    tiny.llava_onevision,
    tiny.idefics2,
    tiny.idefics3,
    tiny.smolvlm,
    tiny.qwen2_vl,
    tiny.qwen2_5_vl,
    tiny.qwen3_vl,
    tiny.gemma3,
    tiny.internvl,
    tiny.fuyu,
    tiny.paligemma,
]
LLAVA_CHAT = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN_CHAT = (
    "<|im_start|>system\nBe brief.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatting(model: Model, template: str) -> Model:
    model.processor.chat_template = template  # type: ignore[union-attr]
    return model


def labelled(model: Model, encoded: Encoded) -> str:
    return model.tokenizer.decode(encoded.labels[encoded.labels != IGNORED])


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_only_the_answer_and_its_end_are_in_the_loss(make: Callable[[], Model]) -> None:
    model = make()
    images = [picture(1), picture(2, (20, 12))]
    encoded = encode(model, images, [(QUESTION, "(B)")])
    assert labelled(model, encoded).strip() == f"(B){model.tokenizer.eos_token}"
    assert encoded.template == "plain"
    assert encoded.first_answer == encoded.n_tokens - encoded.n_answer_tokens


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_row_of_a_batch_equals_the_row_alone(make: Callable[[], Model]) -> None:
    model = make()
    rows = [
        encode(model, [picture(1)], [(QUESTION, "(B)")]),
        encode(model, [picture(2, (20, 12)), picture(3)], [("What is it?", "(A)")]),
    ]
    together = model.module(**without_labels(collate(model, rows))).logits
    for index, row in enumerate(rows):
        alone = model.module(**without_labels(collate(model, [row]))).logits
        assert torch.allclose(together[index, -row.n_tokens :], alone[0], atol=1e-9)


def without_labels(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def test_answers_are_not_seen_by_the_prompt_where_a_prompt_sees_itself() -> None:
    model = tiny.paligemma()
    logits = []
    for answer in ("(A)", "(B)"):
        row = encode(model, [picture(1)], [(QUESTION, answer)])
        logits.append(model.module(**without_labels(collate(model, [row]))).logits[0, : row.first_answer])
    assert torch.equal(*logits)


def test_chat_of_llava_is_what_its_processor_writes() -> None:
    model = chatting(tiny.llava(), LLAVA_CHAT)
    images = [picture(1), picture(2)]
    encoded = encode(model, images, [(QUESTION, "(B)")])
    assert encoded.template == "chat"
    assert encoded.text.endswith(f"\n{QUESTION} ASSISTANT: (B){model.tokenizer.eos_token}")
    written = model.processor.apply_chat_template(chat(images, [(QUESTION, "(B)")]), tokenize=False)  # type: ignore[union-attr]
    theirs = model.processor(text=written.rstrip(), images=[i.load() for i in images], return_tensors="pt")  # type: ignore[misc]
    assert encoded.input_ids[:-1].tolist() == theirs["input_ids"][0].tolist()
    assert labelled(model, encoded).strip() == f"(B){model.tokenizer.eos_token}"


def chat(images: list, turns: list[tuple[str, str]]) -> list[dict]:
    messages = []
    for number, (question, answer) in enumerate(turns):
        shown = [{"type": "image"}] * len(images) if number == 0 else []
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def test_qwen_tokens_positions_and_logits_are_those_of_its_processor() -> None:
    model = chatting(tiny.qwen2_5_vl(), QWEN_CHAT)
    images = [picture(1, (16, 24)), picture(2, (24, 16))]
    turns = [(QUESTION, "(B)"), ("And now?", "(A)")]
    encoded = encode(model, images, turns)
    written = model.processor.apply_chat_template(chat(images, turns), tokenize=False)  # type: ignore[union-attr]
    theirs = model.processor(text=written, images=[i.load() for i in images], return_tensors="pt")  # type: ignore[misc]
    n = encoded.n_tokens
    assert encoded.input_ids.tolist() == theirs["input_ids"][0, :n].tolist()
    assert labelled(model, encoded) == "(B)<|im_end|>(A)<|im_end|>"
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in theirs.items()}
    ours = model.module(**without_labels(collate(model, [encoded]))).logits
    model.reset_state()
    assert torch.allclose(ours[0], model.module(**inputs).logits[0, :n], atol=1e-9)


def test_a_template_that_takes_no_pictures_is_not_used_for_pictures() -> None:
    model = chatting(tiny_llava(), TEXT_CHAT)
    assert encode(model, [picture(1)], [(QUESTION, "(A)")]).template == "plain"


def test_language_model_is_asked_in_its_chat_template() -> None:
    model = tiny_llama()
    model.tokenizer.chat_template = TEXT_CHAT
    encoded = encode(model, [], [("One?", "two"), ("Three?", "four")])
    assert encoded.template == "chat"
    assert labelled(model, encoded) == "two<|im_end|>four<|im_end|>"


@pytest.mark.parametrize("template", [None, LLAVA_CHAT])
@pytest.mark.parametrize("prefix", ["", "("])
def test_open_prompt_begins_what_training_shows(template: str | None, prefix: str) -> None:
    model = chatting(tiny_llava(), template) if template else tiny_llava()
    images = [picture(1), picture(2)]
    closed = encode(model, images, [(QUESTION, "(B)")])
    opened = encode(model, images, [(QUESTION, None)], answer_prefix=prefix)
    assert opened.n_answer_tokens == 0
    assert closed.input_ids[: opened.n_tokens].tolist() == opened.input_ids.tolist()
    rest = model.tokenizer.decode(closed.input_ids[opened.n_tokens :])
    assert rest.strip() == f"{'(B)'.removeprefix(prefix)}{model.tokenizer.eos_token}"


def test_several_turns_are_each_in_the_loss() -> None:
    model = tiny_llava()
    encoded = encode(model, [picture(1)], [("First?", "one"), ("Second?", "two")])
    end = model.tokenizer.eos_token
    assert labelled(model, encoded).replace(" ", "") == f"one{end}two{end}"
    assert encoded.text.endswith(f"\nFirst?\nAnswer: one{end}\nSecond?\nAnswer: two{end}")


def test_logits_of_answers_alone_are_those_of_the_whole() -> None:
    model = tiny_llava()
    rows = [encode(model, [picture(1)], [(QUESTION, "(B)")]), encode(model, [picture(2)], [("What?", "(A) or (B)")])]
    batch = collate(model, rows)
    whole = model.module(**without_labels(batch)).logits
    cut = keep_answers(model, batch)
    kept = model.module(**without_labels(cut)).logits
    assert cut["labels"].shape[1] == kept.shape[1] < whole.shape[1]
    assert (cut["labels"][:, 0] == IGNORED).all()
    assert (cut["labels"] != IGNORED).sum() == sum(row.n_answer_tokens for row in rows)
    assert torch.allclose(kept, whole[:, -kept.shape[1] :])


REFUSED = {
    "no turn": ([], [], "at least one turn"),
    "empty question": ([picture(1)], [("  ", "(A)")], "the question of turn 1 is empty"),
    "empty answer": ([picture(1)], [("What?", "")], "the answer of turn 1 is empty"),
    "open answer in the middle": ([picture(1)], [("What?", None), ("Why?", "so")], "the answer of turn 1 is empty"),
    "image tag": ([picture(1)], [("<image> What?", "(A)")], "holds '<image>'"),
    "end of turn in an answer": ([picture(1)], [("What?", "(A)<|im_end|>")], "holds '<|im_end|>'"),
    "too long": ([picture(1)], [("What? " * 300, "(A)")], "takes at most 512"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learnt_is_refused(case: str) -> None:
    images, turns, message = REFUSED[case]
    with pytest.raises(CrosstaskError) as refusal:
        encode(tiny_llava(), images, turns)
    assert message in str(refusal.value)


def test_answer_that_shares_a_token_with_the_prompt_is_refused() -> None:
    model = tiny_llava(merge_colon=True)
    colons = "{{ ':' + content['text'] if content['type'] == 'text' else '<image>' }}"
    each = "{% for message in messages %}{% for content in message['content'] %}"
    chatting(model, each + colons + "{% endfor %}{% endfor %}")
    with pytest.raises(CrosstaskError, match="joins them to their neighbours"):
        encode(model, [picture(1)], [("What is it", "Paris")])


def test_prefix_of_a_closed_answer_is_refused() -> None:
    with pytest.raises(CrosstaskError, match="is for an open answer"):
        encode(tiny_llava(), [], [("What?", "(A)")], answer_prefix="(")


def test_pictures_for_a_language_model_are_refused() -> None:
    with pytest.raises(CrosstaskError, match="takes no images"):
        encode(tiny_llama(), [picture(1)], [("What?", "(A)")])
