"""Patched generation, and the sweep that shares a query's prefix, are exact."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from interp import patching
from interp.batches import collate
from interp.decoding import Answers, Generation
from interp.errors import CrosstaskError
from interp.hooks import Edit, HookError, patch
from interp.models.base import Model
from interp.patching import RowPatch, _prompt_runs, choose_engine, generate, sweep, sweep_logits
from interp.prefix import Manner
from interp.prompts import Example, Image, Prompt, Specification, render
from interp.vectors import extract
from tests.tiny import LAYERS, WIDTH, picture, tiny_llama, tiny_llava

EXACT = {"rtol": 0.0, "atol": 1e-9}
NEW_TOKENS = 6


def queries(model: Model) -> list[Prompt]:
    """Ragged queries: no image, one, and several; text with colons."""
    if not model.takes_images:
        spec = Specification((Example("ratio 3:1", "x: y"),))
        return [render(model, Specification(), "q"), render(model, spec, "a longer query: 12:30")]
    shots = (Example(picture(0), "Paris"), Example(picture(1), "a: b"))
    return [
        render(model, Specification(), picture(2)),
        render(model, Specification(shots), picture(3)),
        render(model, Specification(), "a text query: 1:2"),
    ]


def vectors(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 4


def every_layer(prompts: list[Prompt]) -> list[list[RowPatch]]:
    """All layers x two vectors and the bare query; the last query has fewer rows."""
    rows = [RowPatch(layer, vector) for vector in vectors(2) for layer in range(LAYERS)]
    return [[*rows, RowPatch(0, None)] for _ in prompts[:-1]] + [rows[:3]]


def separate_logits(model: Model, prompt: Prompt, row: RowPatch) -> Tensor:
    """The reference: one full forward without a cache, for one row alone."""
    batch = collate(model, [prompt])
    if row.vector is None:
        return model.forward(batch.inputs, use_cache=False).logits[0, -1]
    edit = Edit(torch.tensor([0]), batch.positions, row.vector[None])
    with patch(model.blocks, {row.layer: edit}):
        return model.forward(batch.inputs, use_cache=False).logits[0, -1]


def separate_tokens(model: Model, prompt: Prompt, row: RowPatch, n: int) -> tuple[int, ...]:
    """The reference for generation: the cache off, the whole sequence again at each step, the patch repeated."""
    batch, tokens = collate(model, [prompt]), []
    edit = Edit(torch.tensor([0]), batch.positions, row.vector[None]) if row.vector is not None else None
    with patch(model.blocks, {row.layer: edit} if edit else {}, times=n):
        for _ in range(n):
            logits = model.forward(batch.inputs, use_cache=False).logits[0, -1]
            tokens.append(int(logits.argmax()))
            for name, value in (("input_ids", tokens[-1]), ("attention_mask", 1), ("position_ids", None)):
                old = batch.inputs[name]
                new = old[:, -1:] + 1 if value is None else torch.tensor([[value]])
                batch.inputs[name] = torch.cat([old, new], dim=1)
    return tuple(tokens)


@cache
def all_separate_logits(model: Model) -> list[Tensor]:
    prompts = queries(model)
    rows = zip(prompts, every_layer(prompts), strict=True)
    return [torch.stack([separate_logits(model, prompt, row) for row in patches]) for prompt, patches in rows]


@cache
def all_separate_tokens(model: Model) -> list[list[tuple[int, ...]]]:
    prompts = queries(model)
    rows = zip(prompts, every_layer(prompts), strict=True)
    return [[separate_tokens(model, prompt, row, NEW_TOKENS) for row in patches] for prompt, patches in rows]


@pytest.fixture(scope="module")
def no_cls() -> Model:
    return tiny_llava(cls=False)


@pytest.fixture(params=["llava", "no_cls", "llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Model:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("engine", ["packed", "copied", "plain"])
@pytest.mark.parametrize("limits", [{}, {"max_rows": 3}, {"budget": 1}], ids=["together", "few rows", "one query"])
def test_sweep_equals_separate_forwards_at_every_layer(model: Model, engine: str, limits: dict) -> None:
    prompts = queries(model)
    rows = every_layer(prompts)
    found = sweep_logits(model, prompts, rows, engine=engine, **limits)  # type: ignore[arg-type]
    for logits, expected in zip(found, all_separate_logits(model), strict=True):
        assert len({tuple(row.tolist()) for row in expected}) == len(logits)  # each patch does something of its own
        torch.testing.assert_close(logits, expected, **EXACT)


def test_packs_of_unlike_numbers_of_rows_cut_into_parts_equal_the_plain_sweep(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patching, "SHARED_ROWS", 2)
    prompts = [*queries(model), *queries(model)[:1]]
    rows = [[*patches, *patches[::-1]][: 7 - 2 * n] for n, patches in enumerate(every_layer(prompts))]
    assert len({len(patches) for patches in rows}) > 1
    expected = sweep(model, prompts, rows, engine="plain", max_new_tokens=3, stop=None)
    found = sweep(model, prompts, rows, engine="packed", max_new_tokens=3, stop=None, max_rows=2 * len(prompts))
    assert found == expected
    logits = sweep_logits(model, prompts, rows, engine="packed", max_rows=2 * len(prompts))
    for some, others in zip(logits, sweep_logits(model, prompts, rows, engine="plain"), strict=True):
        torch.testing.assert_close(some, others, **EXACT)


@pytest.mark.parametrize("engine", ["packed", "copied", "plain"])
def test_sweep_generates_what_repatching_every_step_without_a_cache_does(model: Model, engine: str) -> None:
    prompts = queries(model)
    rows = every_layer(prompts)
    found = sweep(model, prompts, rows, engine=engine, max_new_tokens=NEW_TOKENS, stop=None)  # type: ignore[arg-type]
    assert [len(answers) for answers in found] == [len(patches) for patches in rows]
    for answers, tokens in zip(found, all_separate_tokens(model), strict=True):
        for answer, expected in zip(answers, tokens, strict=True):
            assert answer.token_ids == expected[: len(answer.token_ids)]
            assert len(answer.token_ids) == NEW_TOKENS or answer.stopped


def test_generate_patches_at_prefill_only_and_equals_repatching(model: Model) -> None:
    prompts = queries(model)
    given = [*vectors(len(prompts) - 1), None]
    answers = generate(model, prompts, vectors=given, layers=[1, 2, 0][: len(prompts)], max_new_tokens=5, stop=None)
    for prompt, vector, layer, answer in zip(prompts, given, [1, 2, 0], answers, strict=False):
        expected = separate_tokens(model, prompt, RowPatch(layer, vector), 5)
        assert answer.token_ids == expected[: len(answer.token_ids)]
    assert any(len(answer.token_ids) == 5 for answer in answers)


def test_generated_row_in_padded_batch_equals_row_alone(model: Model) -> None:
    prompts = queries(model) * 2
    given, layers = list(vectors(len(prompts))), [n % LAYERS for n in range(len(prompts))]
    together = generate(model, prompts, vectors=given, layers=layers)
    for budget in (1, 40):
        assert generate(model, prompts, vectors=given, layers=layers, budget=budget) == together


def alike(model: Model) -> list[Prompt]:
    """Ragged queries after two contexts of different lengths, in turns, and one after a context of its own."""
    shots = [Example("one: 1", "a: b"), Example("two", "c"), Example("three words here", "d")]
    asked: list[str | Image] = ["q", "long: 12:30", "third", "r", "s", "t"]
    if model.takes_images:
        shots[:2] = [Example(picture(0), "Paris"), Example(picture(1), "a: b")]
        asked += [picture(2), picture(0)]
    contexts = [Specification(tuple(shots)), Specification(tuple(shots[:2]), "Do it:")]
    prompts = [render(model, spec, query) for query in asked for spec in contexts]
    return [*prompts, render(model, Specification((shots[1],)), "q")]


@pytest.mark.parametrize("budget", [10_000, 150], ids=["together", "in parts"])
@pytest.mark.parametrize("patched", [False, True])
def test_prompts_that_begin_alike_share_it_and_answer_as_alone(
    model: Model, patched: bool, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, seen = alike(model), []
    layers = [i % LAYERS for i in range(len(prompts))]
    given = list(vectors(len(prompts), seed=5)) if patched else [None] * len(prompts)
    expected = [
        separate_logits(model, prompt, RowPatch(layer, vector))
        for prompt, layer, vector in zip(prompts, layers, given, strict=True)
    ]
    for run, group in _prompt_runs(model, prompts, budget, 4):
        assert type(run).__name__ == "CopiedRows"
        logits = run.start([RowPatch(layers[i], given[i]) for i in group], Manner())
        torch.testing.assert_close(logits, torch.stack([expected[i] for i in group]), **EXACT)
        seen += group
    assert sorted(seen) == list(range(len(prompts)))

    forward, tokens = Model.forward, []

    def watched(self: Model, inputs: dict[str, Tensor], **options: object) -> object:
        tokens.append(inputs["input_ids"].numel())
        return forward(self, inputs, **options)

    alone = [
        generate(model, [p], vectors=[v], layers=[layer], max_new_tokens=4, stop=None)[0]
        for p, layer, v in zip(prompts, layers, given, strict=True)
    ]
    monkeypatch.setattr(Model, "forward", watched)
    found = generate(model, prompts, vectors=given, layers=layers, max_new_tokens=4, stop=None, budget=budget)
    assert [g.token_ids for g in found] == [g.token_ids for g in alone]
    if budget == 10_000:
        assert tokens[0] == 3 * max(p.stem for p in prompts)  # each context once


def test_same_text_around_other_pictures_is_not_shared(llava: Model) -> None:
    """The placeholders are alike; what they stand for is not."""
    contexts = [Specification((Example(picture(i), "Paris"), Example(picture(i + 1), "b"))) for i in (0, 3)]
    prompts = [render(llava, spec, query) for spec in contexts for query in ("q", "r", "s", "t")]
    assert prompts[0].input_ids == prompts[4].input_ids
    for run, group in _prompt_runs(llava, prompts, 10_000, 4):
        logits = run.start([RowPatch(0, None)] * len(group), Manner())
        for row, i in zip(logits, group, strict=True):
            torch.testing.assert_close(row, separate_logits(llava, prompts[i], RowPatch(0, None)), **EXACT)


def test_generate_agrees_with_transformers(llava: Model) -> None:
    prompts = queries(llava)
    batch = collate(llava, prompts)
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
    theirs = llava.module.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=2)
    ours = generate(llava, prompts, max_new_tokens=NEW_TOKENS, stop=None)
    for row, answer in zip(theirs[:, inputs["input_ids"].shape[1] :].tolist(), ours, strict=True):
        assert answer.token_ids == tuple(row[: len(answer.token_ids)])


@pytest.mark.parametrize("engine", ["packed", "copied", "plain"])
def test_identity_patch_is_a_no_op_and_raises_unless_allowed(model: Model, engine: str) -> None:
    prompts = queries(model)
    states = extract(model, prompts)
    rows = [[*map(RowPatch, range(LAYERS), states[q]), RowPatch(0, None)] for q in range(len(prompts))]
    identity = sweep_logits(model, prompts, rows, engine=engine, allow_noop=True)  # type: ignore[arg-type]
    for logits in identity:
        torch.testing.assert_close(logits, logits[-1:].expand_as(logits), **EXACT)
    exact = extract(model, prompts[:1])[0]
    with pytest.raises(HookError, match="changes nothing"):
        generate(model, prompts[:1], vectors=[exact[1]], layers=[1])
    same = generate(model, prompts[:1], vectors=[exact[1]], layers=[1], allow_noop=True)
    assert same == generate(model, prompts[:1])


def test_patching_the_last_block_sets_the_logits(llava: Model) -> None:
    prompts, last = queries(llava), LAYERS - 1
    vector = vectors(1)[0]
    for logits in sweep_logits(llava, prompts, [[RowPatch(last, vector)]] * len(prompts), engine="packed"):
        torch.testing.assert_close(logits[0], llava.head(llava.final_norm(vector)), **EXACT)


def test_add_with_a_scale_differs_from_replace_and_equals_its_sum(llava: Model) -> None:
    prompts, vector = queries(llava), vectors(1)[0]
    states = extract(llava, prompts)
    added = sweep_logits(llava, prompts, [[RowPatch(1, vector)]] * len(prompts), mode="add", scale=0.5)
    summed = sweep_logits(llava, prompts, [[RowPatch(1, states[q, 1] + vector / 2)] for q in range(len(prompts))])
    for left, right in zip(added, summed, strict=True):
        torch.testing.assert_close(left, right, **EXACT)


@pytest.mark.parametrize("engine", ["packed", "copied"])
def test_vision_tower_runs_once_however_many_rows(llava: Model, engine: str) -> None:
    images: list[int] = []
    handle = llava.module.model.vision_tower.register_forward_hook(
        lambda _module, _inputs, output: images.append(len(output.last_hidden_state))
    )
    try:
        prompts = queries(llava)
        sweep(llava, prompts, every_layer(prompts), engine=engine, max_rows=4)  # type: ignore[arg-type]
    finally:
        handle.remove()
    assert sum(images) == sum(len(prompt.images) for prompt in prompts)


@pytest.mark.parametrize("engine", ["packed", "copied", "plain"])
def test_pruned_rows_end_early_and_leave_the_others_as_they_are(model: Model, engine: str) -> None:
    prompts = queries(model)
    rows = every_layer(prompts)
    whole = sweep(model, prompts, rows, engine=engine, max_new_tokens=8, stop=None)  # type: ignore[arg-type]
    seen: set[tuple[int, int]] = set()

    def keep(query: int, row: int, text: str) -> bool:
        assert "\ufffd" not in text[-1:]
        seen.add((query, row))
        return (query + row) % 4 == 0

    pruned = sweep(model, prompts, rows, engine=engine, max_new_tokens=8, stop=None, keep=keep)  # type: ignore[arg-type]
    assert len(seen) > len(prompts)
    for query, (full, short) in enumerate(zip(whole, pruned, strict=True)):
        for row, (one, other) in enumerate(zip(full, short, strict=True)):
            if (query + row) % 4 == 0:
                assert other == one
            else:
                assert other.token_ids == one.token_ids[:1]


@pytest.mark.parametrize("n_vectors", [1, 3])
def test_block_runs_a_row_only_once_its_patch_can_show(llava: Model, n_vectors: int) -> None:
    seen: dict[int, list[int]] = {}

    def watch(layer: int) -> Callable[[object, tuple[Tensor, ...], Tensor], None]:
        return lambda _module, _inputs, output: seen.setdefault(layer, []).append(output.shape[1])

    handles = [attention_norm(block).register_forward_hook(watch(n)) for n, block in enumerate(llava.blocks)]
    prompts = queries(llava)[:2]
    rows = [[RowPatch(layer, vector) for layer in range(LAYERS) for vector in vectors(n_vectors)]] * 2
    try:
        logits = sweep_logits(llava, prompts, rows, engine="packed")
    finally:
        for handle in handles:
            handle.remove()
    assert {layer: widths[1] for layer, widths in seen.items()} == {n: 1 + n * n_vectors for n in range(LAYERS)}
    for prompt, found, mine in zip(prompts, logits, rows, strict=True):
        expected = torch.stack([separate_logits(llava, prompt, row) for row in mine])
        torch.testing.assert_close(found, expected, **EXACT)


def attention_norm(block: torch.nn.Module) -> torch.nn.Module:
    return block.get_submodule("input_layernorm")


def test_rows_that_begin_late_write_the_same_answers(llava: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ragged queries, bare rows, two modes, heads, several rows a layer, in no order."""
    prompts, vector = queries(llava), vectors(3)
    head = torch.ones(llava.head_width, dtype=torch.float64)
    mixed = [RowPatch(3, vector[0]), RowPatch(0, None), RowPatch(1, vector[1], mode="add"), RowPatch(2, head, head=1)]
    rows = [[*mixed, RowPatch(3, vector[2])], mixed[2:], [mixed[0], *mixed[:3]]]
    options = {"engine": "packed", "max_new_tokens": 5, "stop": None}
    narrow_answers = sweep(llava, prompts, rows, **options)  # type: ignore[arg-type]
    narrow_logits = sweep_logits(llava, prompts, rows, engine="packed")
    monkeypatch.setattr(type(llava.family), "narrows", lambda *_: False)
    assert narrow_answers == sweep(llava, prompts, rows, **options)  # type: ignore[arg-type]
    for found, expected in zip(narrow_logits, sweep_logits(llava, prompts, rows, engine="packed"), strict=True):
        torch.testing.assert_close(found, expected, **EXACT)
    assert [[a.token_ids for a in row] for row in narrow_answers[:1]] != [[narrow_answers[0][1].token_ids] * 5]


def test_packed_pruning_shrinks_the_pack(llava: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = queries(llava)[:2]
    widths, lengths, forward = [], [], Model.forward

    def watched(self: Model, inputs: dict[str, Tensor], **options: object) -> object:
        widths.append(inputs["input_ids"].shape[1])
        lengths.append(inputs["attention_mask"].shape[-1])
        return forward(self, inputs, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "forward", watched)
    rows = [[RowPatch(layer, vector) for vector in vectors(4) for layer in range(LAYERS)]] * 2
    sweep(llava, prompts, rows, engine="packed", max_new_tokens=5, stop=None, keep=lambda q, r, _: r == 3)
    assert widths[1] == 17  # one bare row goes before
    assert widths[2:] == [1] * (len(widths) - 2)
    assert lengths[2:] == [widths[0] + 1 + n for n in range(1, len(lengths) - 1)]  # the dead rows' tokens are gone


def test_answers_end_at_the_stop_string_or_the_end_of_sequence(llama: Model) -> None:
    encode = llama.tokenizer.encode
    (newline,) = encode("\n")
    (a,) = encode("a")
    answers = Answers(llama, 5, max_new_tokens=3, stop="\n", keep=lambda row, text: row != 3)
    assert answers.push(range(5), [a, newline, 2, a, a]) == [0, 4]
    assert answers.push([0, 1, 4], [newline, a, a]) == [2]  # row 1 is finished, whatever else its batch writes
    assert answers.push([4], [a]) == []
    assert answers.results() == [
        Generation("a", (a, newline), "a", True),
        Generation("", (newline,), "\n", True),
        Generation("", (2,), "", True),
        Generation("a", (a,), "a", False),
        Generation("aaa", (a, a, a), "a", False),
    ]


def test_half_a_character_is_not_shown_to_the_pruner(llama: Model) -> None:
    shown: list[str] = []
    pieces = llama.tokenizer.encode("é")
    assert len(pieces) == 2
    answers = Answers(llama, 1, max_new_tokens=9, stop=None, keep=lambda _, text: shown.append(text) or True)  # type: ignore[func-returns-value]
    for piece in pieces:
        answers.push([0], [piece])
    assert shown == ["", "é"]


def test_auto_takes_the_fastest_exact_engine(llava: Model, gpt2: Model) -> None:
    assert choose_engine(llava, "auto", 100) == choose_engine(gpt2, "auto", 100) == "packed"
    assert choose_engine(tiny_llava(attn_implementation="eager", dtype=torch.float32), "auto", 100) == "packed"
    sliding = tiny_llama(layer_types=["full_attention", "sliding_attention"] * 2, sliding_window=64)
    assert choose_engine(sliding, "auto", 64) == "packed"
    assert choose_engine(sliding, "auto", 65) == "copied"
    recurrent = tiny_llama(layer_types=["full_attention", "linear_attention"] * 2)
    assert choose_engine(recurrent, "auto", 64) == "plain"
    with pytest.raises(CrosstaskError, match=r"engine 'copied' is not exact for model 'tiny-llama'; use .* plain"):
        choose_engine(recurrent, "copied", 64)


def test_eager_attention_packs_too() -> None:
    model = tiny_llava(attn_implementation="eager", dtype=torch.float32)
    prompts = queries(model)
    rows = every_layer(prompts)
    packed = sweep_logits(model, prompts, rows, engine="packed")
    for left, right in zip(packed, sweep_logits(model, prompts, rows, engine="plain"), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda m, p: generate(m, p, vectors=[vectors(1)[0]], layers=[LAYERS]), "layer 4 is out of range"),
        (lambda m, p: generate(m, p, vectors=[vectors(1)[0]], layers=[-1]), "layer -1 is out of range"),
        (lambda m, p: generate(m, p, vectors=[vectors(1)[0][:7]], layers=[0]), "width 32"),
        (lambda m, p: generate(m, p, vectors=[vectors(1)[0] / 0], layers=[0]), "not finite"),
        (lambda m, p: generate(m, p, vectors=[vectors(1)[0]]), "no layers"),
        (lambda m, p: generate(m, p, vectors=[]), "1 prompts, but 0 vectors"),
        (lambda m, p: sweep(m, p, []), "1 queries, but patches for 0"),
    ],
)
def test_patches_that_do_not_fit_the_model_are_refused(
    llama: Model, call: Callable[[Model, list[Prompt]], object], complaint: str
) -> None:
    with pytest.raises(CrosstaskError, match=complaint):
        call(llama, [render(llama, Specification(), "q")])


def test_query_without_rows_gets_an_empty_list(llava: Model) -> None:
    prompts = queries(llava)
    rows: list[list[RowPatch]] = [[], [RowPatch(1, vectors(1)[0])], []]
    assert [len(answers) for answers in sweep(llava, prompts, rows)] == [0, 1, 0]
    assert sweep(llava, [], []) == []
    assert generate(llava, []) == []
