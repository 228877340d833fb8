"""Every position of a prompt is known by construction, in the expanded sequence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image as Pillow

from interp.batches import chunks, collate
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.prompts import Content, Example, Image, Prompt, Specification, Template, render
from tests.tiny import picture, tiny_llama, tiny_llava

IMAGE_TOKENS = 4
TEXTS = Specification((Example("France", "Paris"), Example("Japan", "Tokyo")))


def words(model: Model, prompt: Prompt, span: slice) -> str:
    return model.tokenizer.decode(list(prompt.input_ids[span]))


def check_tiling(prompt: Prompt) -> None:
    assert prompt.segments[0].start == 0
    assert prompt.segments[-1].stop == prompt.n_tokens
    for left, right in zip(prompt.segments, prompt.segments[1:], strict=False):
        assert left.stop == right.start


def test_segments_tile_the_prompt_and_decode_to_their_text(llava: Model) -> None:
    prompt = render(llava, Specification(TEXTS.examples, "The capital:"), "Italy")
    check_tiling(prompt)
    for segment in prompt.segments:
        assert words(llava, prompt, segment.tokens) == segment.content
    roles = [(s.role, s.example) for s in prompt.segments]
    assert roles[:3] == [("bos", None), ("instruction", None), ("frame", None)]
    assert roles[-3:] == [("frame", None), ("input", None), ("frame", None)]


def test_delimiters_are_the_colons_before_the_answers_whatever_the_data_hold(llava: Model) -> None:
    spec = Specification((Example("ratio 3:1", ": a: b"), Example("x ::", "12:30"), Example(picture(0), "x:")))
    prompt = render(llava, spec, "A: B:")
    assert len(prompt.delimiters) == 4
    for index, position in enumerate(prompt.delimiters):
        example = index if index < 3 else None
        question = [s for s in prompt.segments if s.role == "frame" and s.example == example][1]
        assert position == question.stop - 1
        assert words(llava, prompt, slice(position, position + 1)) == ":"
    assert prompt.delimiter == prompt.n_tokens - 1


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize("where", ["first", "last", "adjacent", "alone"])
def test_images_stand_where_they_were_put_and_ids_equal_the_processors(cls: bool, where: str) -> None:
    model = tiny_llava(cls=cls)
    pictures = [picture(seed, (9 + seed, 14)) for seed in range(3)]
    inputs: dict[str, list[Content]] = {
        "first": [pictures[0], "b", "c"],
        "last": ["a", "b", pictures[2]],
        "adjacent": pictures,  # with the template below nothing stands between two images
        "alone": [pictures[1]],
    }
    contents = inputs[where]
    template = Template("", ":", "", "") if where == "adjacent" else Template()
    examples = tuple(Example(content, "x") for content in contents[:-1])
    prompt = render(model, Specification(examples), contents[-1], template=template)
    check_tiling(prompt)
    spans = [s for s in prompt.segments if isinstance(s.content, Image)]
    image_id = model.module.config.image_token_id
    assert [s.content for s in spans] == [c for c in contents if isinstance(c, Image)]
    assert all(prompt.input_ids[s.tokens] == (image_id,) * IMAGE_TOKENS for s in spans)
    assert prompt.input_ids.count(image_id) == IMAGE_TOKENS * len(spans)

    assert model.processor is not None
    text = prompt.text.replace("<image>" * IMAGE_TOKENS, "<image>")
    images = [s.content.load() for s in spans if isinstance(s.content, Image)]
    whole = model.processor(text=[model.bos_text + text], images=images, return_tensors="pt")
    assert tuple(whole["input_ids"][0].tolist()) == prompt.input_ids
    batch = collate(model, [prompt])
    assert set(batch.inputs) - {"position_ids"} == set(whole)  # nothing of the processor's dict is lost
    torch.testing.assert_close(batch.inputs["pixel_values"], whole["pixel_values"].double())


def test_two_images_with_nothing_between_them_keep_their_own_spans(llava: Model) -> None:
    template = Template("", "\nA:", "", "")
    spec = Specification((Example(picture(0), "x"), Example(picture(1), "y")))
    touching = render(llava, spec, picture(2), template=template)
    assert [s.stop - s.start for s in touching.segments if isinstance(s.content, Image)] == [IMAGE_TOKENS] * 3


def test_delimiter_joined_by_the_tokenizer_is_refused_with_advice() -> None:
    model = tiny_llava(merge_colon=True)
    with pytest.raises(CrosstaskError) as error:
        render(model, TEXTS, "Italy")
    for part in ("':'", "example 0", "joins it", "Paris", "--template", "'Q: {x}"):
        assert part in str(error.value)
    spaced = render(model, TEXTS, "Italy", template=Template.parse("Q: {x}\\nA: {y}\\n\\n"))
    assert [words(model, spaced, slice(d, d + 1)) for d in spaced.delimiters] == [":"] * 3


def test_delimiter_split_by_the_tokenizer_is_refused(llava: Model) -> None:
    with pytest.raises(CrosstaskError, match=r"delimiter '→' of example 0 must be one token.*splits it"):
        render(llava, TEXTS, "Italy", template=Template.parse("{x}→{y}\n"))


def test_space_after_the_delimiter_belongs_to_the_answer(llava: Model) -> None:
    prompt = render(llava, TEXTS, "Italy", template=Template.parse("Q: {x}\nA: {y}\n\n"))
    assert prompt.text.endswith("Q: Italy\nA:")
    assert words(llava, prompt, prompt.spans("output", example=0)[0]) == " Paris"
    assert words(llava, prompt, prompt.spans("input")[0]) == " Italy"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Q:{x}\nA:", "must hold"),
        ("{y}:{x}", "must hold"),
        ("{x}{x}:{y}", "must hold"),
        ("{x} {y}", "no delimiter"),
        ("{x}\n{y}", "no delimiter"),
    ],
)
def test_template_without_place_or_delimiter_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(CrosstaskError, match=complaint):
        Template.parse(text)


def test_template_reads_what_it_writes() -> None:
    for text in ("Q:{x}\nA:{y}\n\n", "{x}->{y}\n", "Input: {x}\nOutput: {y}\n###\n"):
        assert Template.parse(text).text == text
    assert Template.parse("{x}->{y}\n").delimiter == "->"
    assert Template.parse(r"Q:{x}\nA:{y}\n\n") == Template()


def test_prompt_begins_with_the_document_start_once(llava: Model) -> None:
    prompt = render(llava, TEXTS, "Italy")
    assert llava.bos_text == "<|endoftext|>"
    assert prompt.input_ids[0] == 0
    assert prompt.input_ids[1:].count(0) == 0
    assert prompt.segments[0].role == "bos"


def test_tokenizer_that_adds_its_own_bos_is_left_to_it() -> None:
    model = tiny_llama(adds_bos=True)
    prompt = render(model, TEXTS, "Italy")
    assert prompt.input_ids == tuple(model.tokenizer(prompt.text).input_ids)
    assert prompt.input_ids.count(1) == 1


def test_instruction_alone_ends_in_the_delimiter(llava: Model) -> None:
    prompt = render(llava, Specification(instruction="The capital city of the country:"), None)
    assert words(llava, prompt, slice(prompt.delimiter, None)) == ":"
    assert prompt.text == "The capital city of the country:"
    with pytest.raises(CrosstaskError, match="must end in the template's delimiter ':'"):
        render(llava, Specification(instruction="The capital city"), None)
    with pytest.raises(CrosstaskError, match="needs a query"):
        render(llava, TEXTS, None)


@pytest.mark.parametrize("text", ["an <image> here", "a<|im_end|>b", "<|endoftext|>"])
def test_special_tokens_in_the_data_are_refused(llava: Model, text: str) -> None:
    example, instruction = Specification((Example("a", text),)), Specification(instruction=text)
    for spec, query in ((Specification(), text), (example, "b"), (instruction, "b")):
        with pytest.raises(CrosstaskError, match="which model 'tiny-llava' reads as"):
            render(llava, spec, query)


def test_special_token_spelt_across_two_pieces_is_refused(llava: Model) -> None:
    with pytest.raises(CrosstaskError, match="image placeholder"):
        render(llava, Specification(), "age>", template=Template("<im", "\nA:"))


def test_text_model_refuses_images_by_name(llama: Model) -> None:
    with pytest.raises(CrosstaskError, match="model 'tiny-llama' takes no images"):
        render(llama, Specification(), picture(0))
    assert not llama.takes_images


def test_empty_texts_and_overlong_prompts_are_refused(llava: Model) -> None:
    with pytest.raises(CrosstaskError, match="the input of the query is empty"):
        render(llava, Specification(), " ")
    with pytest.raises(CrosstaskError, match="the output of example 0 is empty"):
        render(llava, Specification((Example("a", ""),)), "b")
    with pytest.raises(CrosstaskError, match="takes at most 512"):
        render(llava, Specification((Example("a b " * 400, "c"),)), "b")


def test_image_equality_is_by_content_and_transparency_turns_white(tmp_path: Path) -> None:
    clear = Pillow.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.save(tmp_path / "a.png")
    clear.save(tmp_path / "b.png")
    first, second = Image(tmp_path / "a.png"), Image(tmp_path / "b.png")
    assert first == second
    assert len({first, second, picture(1), picture(1), picture(2)}) == 3
    assert first.load().getpixel((0, 0)) == (255, 255, 255)


def test_unreadable_image_is_named(tmp_path: Path, llava: Model) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    for name in ("broken.png", "missing.png"):
        with pytest.raises(CrosstaskError, match=name):
            render(llava, Specification(), Image(tmp_path / name))


def test_same_picture_is_preprocessed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny_llava(), []
    assert model.processor is not None
    images = model.processor.image_processor
    process = images.preprocess
    monkeypatch.setattr(images, "preprocess", lambda *given, **options: calls.append(1) or process(*given, **options))
    for _ in range(3):
        render(model, Specification((Example(picture(0), "x"),)), picture(1))
    assert len(calls) == 2


def test_chunks_stay_within_the_budget_and_lose_nothing(llava: Model) -> None:
    prompts = [render(llava, Specification(TEXTS.examples[: i % 3]), "Italy" * (1 + i)) for i in range(9)]
    groups = list(chunks(prompts, 100))
    assert sorted(i for group in groups for i in group) == list(range(9))
    assert all(len(g) * max(prompts[i].n_tokens for i in g) <= 100 or len(g) == 1 for g in groups)
    assert len(groups) < 9


def test_busy_chunk_is_not_filled_up_with_much_shorter_prompts() -> None:
    def groups(*lengths: int) -> list[list[int]]:
        return list(chunks([SimpleNamespace(n_tokens=n) for n in lengths], 4000))  # type: ignore[misc]

    assert groups(900, 350) == [[0], [1]]  # together they would be 1,800 tokens, of which 550 padding
    assert groups(900, 800, 750) == [[0, 1, 2]]
    assert groups(60, 5, 5) == [[0, 1, 2]]  # small ones are soonest done together
    assert groups(20, *[900] * 3, 10) == [[1, 2, 3], [0, 4]]
