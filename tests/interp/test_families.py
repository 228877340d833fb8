"""One battery over every family: prompts are the processor's own, padding and caches change nothing, patches do.

Models are tiny and random, but of the real configuration, processor and model classes; see :mod:`tests.tiny_families`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp.batches import Batch, collate
from interp.errors import CrosstaskError
from interp.hooks import Edit, capture, patch
from interp.models.base import Model, load_model
from interp.models.families.base import ImageInputs
from interp.patching import RowPatch, _prompt_runs, choose_engine, generate, sweep, sweep_logits
from interp.prefix import Manner
from interp.prompts import Example, Image, Prompt, Specification, Template, render
from interp.vectors import extract
from tests.tiny import LAYERS, WIDTH, picture
from tests.tiny_families import TEXT, VISION

NEW_TOKENS = 3
SHAPES = [(16, 16), (30, 9), (9, 22), (12, 10)]


@cache
def family(name: str) -> Model:
    return {**VISION, **TEXT}[name]()


def exact(model: Model) -> dict[str, float]:
    """What rounding allows: some norms take float32 whatever the model's dtype."""
    return {"rtol": 0.0, "atol": 1e-9 if model.dtype == torch.float64 else 1e-4}


@pytest.fixture(params=[*VISION, *TEXT])
def model(request: pytest.FixtureRequest) -> Model:
    return family(request.param)


@pytest.fixture(params=[*VISION])
def vlm(request: pytest.FixtureRequest) -> Model:
    return family(request.param)


def shown(seed: int) -> Image:
    """Pictures of unlike shapes."""
    return picture(seed, SHAPES[seed % len(SHAPES)])


@cache
def queries(model: Model) -> list[Prompt]:
    """Ragged: several images and colons in the text, one image, no image."""
    if not model.takes_images:
        spec = Specification((Example("ratio 3:1", "x: y"),))
        return [render(model, spec, "a longer query: 12:30"), render(model, Specification(), "q")]
    shots = Specification((Example(shown(0), "Paris"), Example(shown(1), "a: b")))
    asked = [render(model, shots, shown(2)), render(model, Specification(), shown(3))]
    return [*asked, render(model, Specification(), "some more text: 1:2")]


def vectors(model: Model, n: int, seed: int = 0) -> Tensor:
    """Far from any state, so that a patch that reaches nothing is seen."""
    return torch.randn(n, WIDTH, dtype=model.dtype, generator=torch.Generator().manual_seed(seed)) * 4


def separate(model: Model, prompt: Prompt, row: RowPatch, *, steps: int = 1) -> tuple[Tensor, list[int]]:
    """The reference: whole forwards of one row alone, no cache, the patch repeated; first logits, and tokens."""
    batch, tokens, first = collate(model, [prompt]), [], None
    edit = Edit(torch.tensor([0]), batch.positions, row.vector[None]) if row.vector is not None else None
    with patch(model.blocks, {row.layer: edit} if edit else {}, times=steps):
        for _ in range(steps):
            logits = model.forward(batch.inputs, use_cache=False).logits[0, -1]
            first = logits if first is None else first
            tokens.append(int(logits.argmax()))
            grow(model, batch, tokens[-1])
    assert first is not None
    return first, tokens


def grow(model: Model, batch: Batch, token: int) -> None:
    """One more token of the answer, written out for the whole sequence."""
    positions = batch.inputs["position_ids"][..., -1:] + 1
    written = {"input_ids": token, "attention_mask": 1, "token_type_ids": int(not model.family.causal_prefix)}
    for name, value in written.items():
        if name in batch.inputs:
            batch.inputs[name] = torch.cat([batch.inputs[name], torch.tensor([[value]])], dim=1)
    batch.inputs["position_ids"] = torch.cat([batch.inputs["position_ids"], positions], dim=-1)


def engines(model: Model, prompts: list[Prompt]) -> list[str]:
    longest = max(prompt.n_tokens for prompt in prompts) + NEW_TOKENS
    names = {"plain"}
    for name in ("packed", "copied"):
        try:
            names.add(choose_engine(model, name, longest))  # type: ignore[arg-type]
        except CrosstaskError:
            continue
    return sorted(names)


@cache
def rows_of(model: Model) -> list[list[RowPatch]]:
    vector = vectors(model, 1)[0]
    return [[*(RowPatch(layer, vector) for layer in range(LAYERS)), RowPatch(0, None)] for _ in queries(model)]


@cache
def references(model: Model) -> list[list[tuple[Tensor, list[int]]]]:
    prompts = queries(model)
    return [
        [separate(model, prompt, row, steps=NEW_TOKENS) for row in rows]
        for prompt, rows in zip(prompts, rows_of(model), strict=True)
    ]


def processed(model: Model, images: list[Image]) -> dict[str, Tensor]:
    """What the family's processor makes of the prompt of :func:`queries` with several images, by itself."""
    assert model.processor is not None
    before, after = model.family.image_frame
    image = before + model.processor.image_token + after
    text = f"Q:{image}\nA:Paris\n\nQ:{image}\nA:a: b\n\nQ:{image}\nA:"
    pictures = [image.load() for image in images]
    one_sample = ("gemma3", "idefics2", "idefics3", "llava_onevision")
    nested = [pictures] if model.family.name in one_sample else pictures
    return dict(model.processor(text=[text], images=nested, return_tensors="pt", add_special_tokens=False))


def tiles(pixels: Tensor) -> Tensor:
    """One row a tile, without the zeros that fill up a batch."""
    flat = pixels.flatten(0, 1).flatten(1) if pixels.ndim > 3 else pixels
    return flat[flat.ne(0).any(-1)]


def test_expanded_prompt_is_what_the_processor_makes_of_the_same_text_and_images(vlm: Model) -> None:
    prompt, bare = queries(vlm)[0], replace(vlm, bos_ids=())
    images = [s.content for s in prompt.segments if isinstance(s.content, Image)]
    assert len(images) == 3
    if vlm.family.name == "fuyu":  # its processor knows one image, at the beginning
        for span, image in zip([s for s in prompt.segments if s.content in images], images, strict=True):
            theirs = vlm.processor(text="", images=[image.load()], return_legacy_image_output=False)  # type: ignore[misc]
            assert list(prompt.input_ids[span.tokens]) == theirs["input_ids"][0].tolist()[:-2]  # BOS, and its turn
        return
    theirs = processed(vlm, images)
    ids = theirs["input_ids"][0].tolist()
    if vlm.family.bos_after_images:  # and a newline at the end, behind our delimiter
        assert list(prompt.input_ids) == ids[:-1]
        assert vlm.tokenizer.decode(ids[-1:]) == "\n"
        return
    assert list(prompt.input_ids[len(vlm.bos_ids or ()) :]) == ids
    batch = collate(
        bare, [render(bare, Specification((Example(images[0], "Paris"), Example(images[1], "a: b"))), images[2])]
    )
    for name in {"pixel_values", "pixel_attention_mask"} & {*batch.inputs}:
        ours = batch.inputs[name]
        assert torch.equal(tiles(ours), tiles(theirs[name].to(ours))), name
    inputs = {name: x.to(vlm.dtype) if x.is_floating_point() else x for name, x in theirs.items()}
    vlm.reset_state()
    torch.testing.assert_close(
        bare.forward(batch.inputs).logits[0, -1], vlm.module(**inputs).logits[0, -1], **exact(vlm)
    )
    vlm.reset_state()


def test_delimiters_and_images_are_found_in_the_expanded_sequence(vlm: Model) -> None:
    (colon,) = set(vlm.tokenizer(":", add_special_tokens=False).input_ids[-1:])
    wanted = vlm.module.config.image_token_id
    for prompt in queries(vlm):
        assert [prompt.input_ids[at] for at in prompt.delimiters] == [colon] * len(prompt.delimiters)
        assert prompt.delimiter == prompt.n_tokens - 1
        ends = [s.stop for s in prompt.segments]
        assert [s.start for s in prompt.segments] == [0, *ends[:-1]]
        assert ends[-1] == prompt.n_tokens
        inside = [s for s in prompt.segments if isinstance(s.content, Image)]
        assert len(inside) == len(prompt.images)
        held = [prompt.input_ids[s.tokens].count(wanted) for s in inside]
        assert all(held)
        assert sum(held) == prompt.input_ids.count(wanted)


def test_row_in_a_ragged_batch_of_images_equals_the_row_alone(model: Model) -> None:
    prompts = queries(model)
    assert len({prompt.n_tokens for prompt in prompts}) == len(prompts)
    together = extract(model, prompts)
    alone = torch.cat([extract(model, [prompt]) for prompt in prompts])
    torch.testing.assert_close(together, alone, **exact(model))
    assert together.std() > 1e-2


def test_identity_patch_changes_nothing_and_another_vector_changes_every_layer(model: Model) -> None:
    prompts = queries(model)
    states = torch.stack([extract(model, [prompt])[0] for prompt in prompts])
    same = [
        [*(RowPatch(layer, states[q, layer]) for layer in range(LAYERS)), RowPatch(0, None)]
        for q in range(len(prompts))
    ]
    for logits in sweep_logits(model, prompts, same, engine="plain", budget=1, allow_noop=True):
        torch.testing.assert_close(logits, logits[-1:].expand_as(logits), **exact(model))
    for query in references(model):
        *patched, bare = [logits for logits, _ in query]
        assert all((logits - bare).abs().max() > 1e-3 for logits in patched)


def test_sweep_equals_separate_forwards_at_every_layer_in_every_exact_engine(model: Model) -> None:
    prompts = queries(model)
    for engine in engines(model, prompts):
        found = sweep_logits(model, prompts, rows_of(model), engine=engine)  # type: ignore[arg-type]
        for logits, expected in zip(found, references(model), strict=True):
            torch.testing.assert_close(logits, torch.stack([first for first, _ in expected]), **exact(model))


def test_sweep_writes_what_repatching_with_the_cache_off_does(model: Model) -> None:
    prompts = queries(model)
    for engine in engines(model, prompts):
        found = sweep(model, prompts, rows_of(model), engine=engine, max_new_tokens=NEW_TOKENS, stop=None)  # type: ignore[arg-type]
        for answers, expected in zip(found, references(model), strict=True):
            for answer, (_, tokens) in zip(answers, expected, strict=True):
                assert list(answer.token_ids) == tokens[: len(answer.token_ids)]
                assert len(answer.token_ids) == NEW_TOKENS or answer.stopped


def test_generate_with_a_patch_equals_repatching_with_the_cache_off(model: Model) -> None:
    prompts = queries(model)
    given, layers = vectors(model, len(prompts), seed=1), [n % LAYERS for n in range(len(prompts))]
    answers = generate(model, prompts, vectors=list(given), layers=layers, max_new_tokens=NEW_TOKENS, stop=None)
    for prompt, vector, layer, answer in zip(prompts, given, layers, answers, strict=True):
        _, tokens = separate(model, prompt, RowPatch(layer, vector), steps=NEW_TOKENS)
        assert list(answer.token_ids) == tokens[: len(answer.token_ids)]


def alike(model: Model) -> list[Prompt]:
    """Ragged queries, some of them images, after two contexts in turns."""
    shots: list[str | Image] = ["one: 1", "two"]
    asked: list[str | Image] = ["q", "long: 12:30", "r", "s"]
    if model.takes_images:
        shots, asked = [shown(0), shown(1)], [*asked, shown(2), shown(3)]
    both = tuple(Example(shot, output) for shot, output in zip(shots, ("Paris", "a: b"), strict=True))
    contexts = [Specification(both), Specification(both[:1], "Do it:")]
    return [render(model, context, query) for query in asked for context in contexts]


@pytest.mark.parametrize("images", [False, True], ids=["text queries", "image queries too"])
def test_prompts_that_begin_alike_answer_as_alone(model: Model, images: bool) -> None:
    prompts = alike(model)
    prompts = prompts if images else prompts[:8]
    layers = [i % LAYERS for i in range(len(prompts))]
    given = vectors(model, len(prompts), seed=2)
    kinds, seen = set(), []
    for run, group in _prompt_runs(model, prompts, 10_000, NEW_TOKENS):
        kinds.add(type(run).__name__)
        logits = run.start([RowPatch(layers[i], given[i]) for i in group], Manner())
        expected = [separate(model, prompts[i], RowPatch(layers[i], given[i]))[0] for i in group]
        torch.testing.assert_close(logits, torch.stack(expected), **exact(model))
        seen += group
    assert sorted(seen) == list(range(len(prompts)))
    longest = max(prompt.n_tokens for prompt in prompts) + NEW_TOKENS
    shares = model.family.packs(model.module, longest) and (
        model.family.continues_with_images or not images or not model.takes_images
    )
    assert kinds == {"CopiedRows" if shares else "_PlainRows"}


def test_image_run_then_text_run_equals_the_text_run_alone(vlm: Model) -> None:
    with_images, *_, of_text = queries(vlm)
    alone = extract(vlm, [of_text]), generate(vlm, [of_text], max_new_tokens=NEW_TOKENS, stop=None)
    generate(vlm, [with_images], max_new_tokens=NEW_TOKENS, stop=None)
    if hasattr(vlm.module.base_model, "rope_deltas"):  # as someone else's run on the same module would leave it
        vlm.module.base_model.rope_deltas = torch.tensor([[-5]])
    torch.testing.assert_close(extract(vlm, [of_text]), alone[0], rtol=0, atol=0)
    assert generate(vlm, [of_text], max_new_tokens=NEW_TOKENS, stop=None) == alone[1]
    assert getattr(vlm.module.base_model, "rope_deltas", None) is None


@pytest.mark.parametrize("name", [*VISION])
def test_saved_model_is_loaded_with_its_processor_and_answers_the_same(name: str, tmp_path: Path) -> None:
    first = family(name)
    assert first.processor is not None
    first.module.save_pretrained(tmp_path)
    first.processor.save_pretrained(tmp_path)
    again = load_model(str(tmp_path), dtype="float64", device="cpu")
    assert type(again.family) is type(first.family)
    for old, new in zip(queries(first), queries(again), strict=True):
        assert old.input_ids == new.input_ids
        # Gemma's factor on embeddings is rounded in the dtype the module was made in, here float32 against float64.
        rounding = 1e-5 if "gemma" in name else 1e-9
        torch.testing.assert_close(extract(again, [new]), extract(first, [old]), rtol=0, atol=rounding)


def test_noncausal_prompts_are_run_plainly_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model = replace(family("paligemma"), name="said once")
    prompts = queries(model)
    assert choose_engine(model, "auto", 10) == choose_engine(model, "auto", 10) == "plain"
    sweep_logits(model, prompts, rows_of(model))
    assert [record.message for record in caplog.records if "no prefix is shared" in record.message] == [
        "the tokens of a prompt of model 'said once' see later ones, so no prefix is shared: every patch takes a whole "
        "forward pass"
    ]
    for engine in ("packed", "copied"):
        with pytest.raises(CrosstaskError, match="is not exact for model 'said once'; use one of: auto, plain"):
            sweep_logits(model, prompts, rows_of(model), engine=engine)  # type: ignore[arg-type]


def states_under(model: Model, prompt: Prompt, vector: Tensor | None) -> Tensor:
    """All states after the last block, with a patch at the delimiter in the first."""
    batch = collate(model, [prompt])
    edits = {} if vector is None else {0: Edit(torch.tensor([0]), batch.positions, vector[None])}
    with patch(model.blocks, edits), capture(model.blocks, torch.arange(prompt.n_tokens)[None], layers=[3]) as read:
        model.forward(batch.inputs, use_cache=False)
    return read.states[0, 0]


def test_causal_prefix_says_whether_a_patch_at_the_delimiter_reaches_earlier_tokens(model: Model) -> None:
    for prompt in queries(model):
        before = states_under(model, prompt, None)[:-1]
        after = states_under(model, prompt, vectors(model, 1)[0])[:-1]
        assert torch.equal(before, after) == model.family.causal_prefix


def test_vision_between_blocks_says_whether_a_block_reads_what_the_one_before_wrote(vlm: Model) -> None:
    prompt = queries(vlm)[0]
    wrote, read = [], []
    handles = [
        vlm.blocks[0].register_forward_hook(
            lambda _m, _i, out: wrote.append(out[0] if isinstance(out, tuple) else out)
        ),
        vlm.blocks[1].register_forward_pre_hook(lambda _m, args: read.append(args[0])),
    ]
    try:
        vlm.forward(collate(vlm, [prompt]).inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    changed = (wrote[0] != read[0]).any(-1)[0]
    pictured = torch.tensor(prompt.input_ids) == vlm.module.config.image_token_id
    assert torch.equal(changed, pictured if vlm.family.vision_between_blocks else torch.zeros_like(pictured))


def test_layers_of_several_kinds_are_told_and_packed_only_inside_the_window() -> None:
    model = family("gemma3")
    assert model.family.layer_kinds(model.module) == ("sliding_attention", "full_attention") * 2
    assert set(family("llava").family.layer_kinds(family("llava").module)) == {"full_attention"}
    assert choose_engine(model, "auto", 12) == "packed"
    assert choose_engine(model, "auto", 13) == "copied"
    short = [render(model, Specification(), text) for text in ("q", "r")]
    assert max(prompt.n_tokens for prompt in short) <= 12
    rows = rows_of(model)[:2]
    for prompt, row, logits in zip(short, rows, sweep_logits(model, short, rows, engine="packed"), strict=True):
        torch.testing.assert_close(logits, torch.stack([separate(model, prompt, r)[0] for r in row]), **exact(model))


def test_second_image_is_refused_where_a_prompt_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = family("llava")
    monkeypatch.setattr(type(model.family), "several_images", False)
    with pytest.raises(CrosstaskError, match="model 'llava' takes one image a prompt, but the query brings another"):
        render(model, Specification((Example(shown(0), "Paris"),)), shown(1))
    assert len(render(model, Specification(), shown(1)).images) == 1


def test_processor_that_does_not_write_the_image_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = family("idefics3")
    monkeypatch.setattr(type(model.family), "image", lambda *_: ImageInputs(text="a picture", features={}))
    with pytest.raises(CrosstaskError, match=r"writes a picture as 'a picture'\.\.\., without the token"):
        replace(model, name="other")


def test_word_right_behind_an_image_is_kept_apart_as_the_processor_does() -> None:
    model = family("idefics2")
    prompt = render(replace(model, bos_ids=()), Specification(), shown(0), template=Template.parse("{x}A:{y}\n"))
    assert model.processor is not None
    theirs = model.processor(text="<image>A:", images=[shown(0).load()], return_tensors="pt")
    assert list(prompt.input_ids) == theirs["input_ids"][0].tolist()


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_positions_of_images_have_three_axes_and_matter(name: str) -> None:
    model = family(name)
    prompt = queries(model)[0]
    positions = prompt.token_inputs["position_ids"]
    assert (positions[0] != positions[1]).any()
    assert len(set(positions[:, prompt.delimiter].tolist())) == 1
    assert prompt.position < prompt.n_tokens - 1  # an image takes fewer positions than tokens
    batch = collate(model, [prompt])
    flat = batch.inputs | {"position_ids": torch.arange(prompt.n_tokens)[None]}
    assert (model.forward(batch.inputs).logits - model.forward(flat).logits).abs().max() > 1e-3


def test_image_tokens_of_gemma_3_see_each_other_and_need_their_types() -> None:
    model = family("gemma3")
    batch = collate(model, [queries(model)[0]])
    plain = {name: value for name, value in batch.inputs.items() if name != "token_type_ids"}
    assert (model.forward(batch.inputs).logits - model.forward(plain).logits).abs().max() > 1e-3


@pytest.mark.parametrize("images", [0, 1, 2])
def test_beginning_of_paligemmas_prompt_stands_behind_its_last_image(images: int) -> None:
    model = family("paligemma")
    assert model.processor is not None
    shots, asked = [shown(n) for n in range(images)], "Q:x\nA:"
    spec = Specification(tuple(Example(shot, "a") for shot in shots[:-1]))
    prompt = render(model, spec, shots[-1] if shots else "x", template=Template.parse("{x}Q:x\nA:{y}\n"))
    bos = [segment for segment in prompt.segments if segment.role == "bos"]
    assert [prompt.input_ids[segment.tokens] for segment in bos] == [model.bos_ids]
    if not images:
        assert bos[0].start == 0
        return
    assert bos[0].start == [s for s in prompt.segments if isinstance(s.content, Image)][-1].stop
    if images == 1:  # a text without <image>, which the processor puts before it
        theirs = model.processor(text=asked, images=shots[0].load())["input_ids"][0]
        newline = model.tokenizer("\n", add_special_tokens=False).input_ids
        assert [*prompt.input_ids, *newline] == theirs


def test_onevision_cuts_a_picture_that_is_alone_and_leaves_several_whole() -> None:
    model = family("llava_onevision")
    assert model.processor is not None
    alone, pair = render(model, Specification(), shown(1)), render(model, with_shot(0), shown(1))
    for prompt, count in ((alone, 1), (pair, 2)):
        images = [s.content.load() for s in prompt.segments if isinstance(s.content, Image)]
        theirs = model.processor(text=[prompted(count)], images=[images], return_tensors="pt")
        assert list(prompt.input_ids[1:]) == theirs["input_ids"][0].tolist()
        ours = collate(model, [prompt]).inputs
        assert ours["batch_num_images"].tolist() == theirs["batch_num_images"].tolist() == [count]
        assert torch.equal(tiles(ours["pixel_values"]), tiles(theirs["pixel_values"].to(ours["pixel_values"])))
    assert alone.images[0]["pixel_values"].shape[1] > 1
    assert [image["pixel_values"].shape[1] for image in pair.images] == [1, 1]
    ragged = collate(model, [pair, alone, render(model, Specification(), "x"), pair]).inputs
    assert ragged["batch_num_images"].tolist() == [2, 1, 2]


def with_shot(seed: int) -> Specification:
    return Specification((Example(shown(seed), "a"),))


def prompted(images: int) -> str:
    return "Q:<image>\nA:a\n\n" * (images - 1) + "Q:<image>\nA:"


def test_missing_num2words_is_said_before_smolvlms_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.smolvlm import processing_smolvlm

    model = family("smolvlm")
    assert model.processor is not None
    model.module.config.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(CrosstaskError, match="could not be loaded: Package `num2words` is required to run SmolVLM"):
        load_model(str(tmp_path))
