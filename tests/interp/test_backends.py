"""Two independent tools read and patch what our hooks do, on ragged left-padded batches with several images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp.backends import Backend, backend_for, backend_names, nnsight_edit, transformer_lens_hook
from interp.batches import collate
from interp.errors import CrosstaskError
from interp.hooks import HookError
from interp.models.base import Model, load_model
from interp.patching import RowPatch
from interp.prompts import Example, Prompt, Specification, render
from interp.vectors import Provenance, TaskVectors
from tests import tiny
from tests.tiny_families import qwen2_5_vl

ROOT = Path(__file__).parents[2]
OTHERS = ("nnsight", "transformer_lens")
TOLERANCE = 1e-4  # of the scale of what is compared, in float32


@pytest.fixture(scope="module")
def backends() -> dict[str, Backend]:
    """Each made once: importing the tools takes seconds."""
    return {name: backend_for(name) for name in backend_names()}


def single(model: Model) -> Model:
    model.module.float()
    return model


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {
        "llava": tiny.tiny_llava(dtype=torch.float32),
        "qwen2.5-vl": single(qwen2_5_vl()),
        "siglip-llava": tiny.tiny_llava(dtype=torch.float32, cls=False),
        "llama": tiny.tiny_llama(dtype=torch.float32),
        "gpt2": tiny.tiny_gpt2(dtype=torch.float32),
    }


@pytest.fixture(params=["llava", "qwen2.5-vl", "siglip-llava", "llama", "gpt2"])
def model(request: pytest.FixtureRequest, models: dict[str, Model]) -> Model:
    return models[request.param]


def ragged(model: Model) -> list[Prompt]:
    """Prompts of different lengths; for a VLM with no, one and three images."""
    if not model.takes_images:
        shots = (Example("ratio 3:1", "x: y"),)
        return [render(model, Specification(), "q"), render(model, Specification(shots), "a longer query: 12:30")]
    shots = (Example(tiny.picture(0), "Paris"), Example(tiny.picture(1), "a: b"))
    return [
        render(model, Specification(), tiny.picture(2)),
        render(model, Specification(shots), tiny.picture(3)),
        render(model, Specification(), "a text query: 1:2"),
    ]


def vectors(n: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * 4


def patches(model: Model, prompts: list[Prompt]) -> list[RowPatch]:
    """Each prompt at a layer of its own."""
    given = vectors(len(prompts), model.width)
    return [RowPatch(n % model.n_layers, vector) for n, vector in enumerate(given)]


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal to a share of the largest value; of states [P, L, D] in every layer, since late layers are far larger."""
    assert found.shape == expected.shape
    if expected.ndim == 3:
        found, expected = found.transpose(0, 1).flatten(1), expected.transpose(0, 1).flatten(1)
    scale = expected.abs().amax(-1)
    assert (scale > 0).all()
    assert ((found - expected).abs().amax(-1) <= TOLERANCE * scale).all()


@pytest.mark.parametrize("name", OTHERS)
def test_other_backend_reads_the_same_vectors(name: str, model: Model, backends: dict[str, Backend]) -> None:
    prompts = ragged(model)
    expected = backends["hooks"].extract(model, prompts)
    assert_close(backends[name].extract(model, prompts), expected)
    assert_close(backends[name].extract(model, prompts, budget=1), expected)  # alone, so without padding


@pytest.mark.parametrize("mode", ["replace", "add"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_backend_predicts_the_same_patched_logits(
    name: str, mode: str, model: Model, backends: dict[str, Backend]
) -> None:
    prompts = ragged(model)
    rows = patches(model, prompts)
    bare = [RowPatch(0, None)] * len(prompts)
    expected = backends["hooks"].logits(model, prompts, rows, mode=mode, scale=0.5)  # type: ignore[arg-type]
    unpatched = backends["hooks"].logits(model, prompts, bare)
    assert ((expected - unpatched).abs().amax(-1) > 100 * TOLERANCE * expected.abs().max()).all()
    found = backends[name].logits(model, prompts, rows, mode=mode, scale=0.5)  # type: ignore[arg-type]
    assert_close(found, expected)
    assert_close(backends[name].logits(model, prompts, bare), unpatched)


@pytest.mark.parametrize("name", OTHERS)
def test_other_backend_answers_the_same_with_a_patch_at_prefill_only(
    name: str, model: Model, backends: dict[str, Backend]
) -> None:
    prompts = ragged(model)
    given = [*vectors(len(prompts) - 1, model.width), None]
    options = {"vectors": given, "layers": [1, 2, 0][: len(prompts)], "max_new_tokens": 5}
    for stop in (None, "a"):
        found = backends[name].generate(model, prompts, stop=stop, **options)
        assert found == backends["hooks"].generate(model, prompts, stop=stop, **options)
    bare = backends["hooks"].generate(model, prompts, max_new_tokens=5)
    assert backends[name].generate(model, prompts, max_new_tokens=5) == bare


@pytest.mark.parametrize("name", OTHERS)
def test_plain_sweep_answers_as_the_sweep_with_prefix_reuse(
    name: str, models: dict[str, Model], backends: dict[str, Backend]
) -> None:
    model = models["llava"]
    prompts = ragged(model)
    rows = [[RowPatch(layer, vector) for vector in vectors(2, model.width) for layer in range(4)] for _ in prompts]
    rows[1] = [RowPatch(0, None), *rows[1][:3]]
    rows[2] = []
    options = {"max_new_tokens": 4, "keep": lambda query, row, text: len(text) < 3 + row}
    found = backends[name].sweep(model, prompts, rows, **options)  # type: ignore[arg-type]
    assert found == backends["hooks"].sweep(model, prompts, rows, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", backend_names())
def test_patch_that_changes_nothing_raises_in_every_backend(
    name: str, models: dict[str, Model], backends: dict[str, Backend]
) -> None:
    model = models["llama"]
    prompt, backend = ragged(model)[:1], backends[name]
    own = backend.extract(model, prompt)[0, 1]
    # The sweep sees the state at the end of a cached prefix, where the last digit may differ; a zero added never does.
    for patch, mode in ((RowPatch(1, own * 0), "add"), *([(RowPatch(1, own), "replace")] if name != "hooks" else [])):
        with pytest.raises(HookError, match="layer 1: the patch changes nothing"):
            backend.logits(model, prompt, [patch], mode=mode)  # type: ignore[arg-type]
        with pytest.raises(HookError, match="layer 1: the patch changes nothing"):
            backend.generate(model, prompt, vectors=[patch.vector], layers=[1], mode=mode)  # type: ignore[arg-type]
    same = backend.logits(model, prompt, [RowPatch(1, own)], allow_noop=True)
    assert_close(same, backend.logits(model, prompt, [RowPatch(1, None)]))


@pytest.mark.parametrize("name", OTHERS)
def test_other_backend_leaves_the_loaded_model_alone_and_shares_its_weights(
    name: str, models: dict[str, Model], backends: dict[str, Backend]
) -> None:
    model = models["llava"]
    prompts = ragged(model)
    modules = [(path, type(module), set(vars(module))) for path, module in model.module.named_modules()]
    before = backends["hooks"].extract(model, prompts)
    backends[name].extract(model, prompts)
    assert [(path, type(module), set(vars(module))) for path, module in model.module.named_modules()] == modules
    assert model.module.config._attn_implementation == "sdpa"
    assert torch.equal(backends["hooks"].extract(model, prompts), before)
    backend = backends[name]
    wrapped = backend.bridge(model).original_model if name == "transformer_lens" else backend.wrapped(model)._module  # type: ignore[attr-defined]
    held = {parameter.data_ptr() for parameter in model.module.parameters()}
    assert {parameter.data_ptr() for parameter in wrapped.parameters()} <= held


@pytest.mark.parametrize("name", OTHERS)
def test_other_backend_refuses_what_cannot_be_patched(
    name: str, models: dict[str, Model], backends: dict[str, Backend]
) -> None:
    model = models["llama"]
    prompts = ragged(model)[:1]
    for patch, message in (
        (RowPatch(4, torch.ones(model.width)), "layer 4 is out of range"),
        (RowPatch(0, torch.ones(3)), r"a vector of shape \(3,\)"),
        (RowPatch(0, torch.full((model.width,), torch.nan)), "not finite"),
    ):
        with pytest.raises(CrosstaskError, match=message):
            backends[name].logits(model, prompts, [patch])
    with pytest.raises(CrosstaskError, match="1 queries, but patches for 0"):
        backends[name].logits(model, prompts, [])


@pytest.fixture
def task_vectors(models: dict[str, Model], backends: dict[str, Backend]) -> TaskVectors:
    """Read through nnsight from a text prompt of the tiny VLM."""
    model = models["llava"]
    states = backends["nnsight"].extract(model, [render(model, Specification(), "some: text")])[0]
    provenance = Provenance.of(
        model, task="t", kind="examples", modality="text", template="", delimiter=":", demonstrations=0, contexts=1
    )
    return TaskVectors(states, provenance)


def test_vector_of_one_backend_loads_in_another(
    task_vectors: TaskVectors, models: dict[str, Model], backends: dict[str, Backend], tmp_path: Path
) -> None:
    model = models["llava"]
    task_vectors.save(tmp_path / "v.safetensors")
    loaded = TaskVectors.load(tmp_path / "v.safetensors")
    assert loaded.compatible_with(model) == []
    prompts = ragged(model)
    rows = [RowPatch(2, loaded.layer(2))] * len(prompts)
    expected = backends["hooks"].logits(model, prompts, rows)
    assert_close(backends["transformer_lens"].logits(model, prompts, rows), expected)


@pytest.mark.parametrize("mode", ["replace", "add"])
def test_conversions_give_the_logits_of_our_own_patch(
    mode: str, task_vectors: TaskVectors, models: dict[str, Model], backends: dict[str, Backend]
) -> None:
    model, prompts, options = models["llava"], ragged(models["llava"]), {"mode": mode, "scale": 2.0}
    rows = [RowPatch(1, task_vectors.layer(1))] * len(prompts)
    expected = backends["hooks"].logits(model, prompts, rows, **options)  # type: ignore[arg-type]

    inputs = collate(model, prompts).inputs
    lens = backends["nnsight"].wrapped(model)  # type: ignore[attr-defined]
    edit = nnsight_edit(task_vectors, 1, **options)  # type: ignore[arg-type]
    with torch.no_grad(), lens.trace(**inputs) as tracer:
        edit(lens)
        logits = tracer.result.logits[:, -1].save()
    assert_close(logits, expected)

    bridge = backends["transformer_lens"].bridge(model)  # type: ignore[attr-defined]
    hook = transformer_lens_hook(task_vectors, 1, **options)  # type: ignore[arg-type]
    tokens = inputs.pop("input_ids")
    with torch.no_grad():
        assert_close(bridge.run_with_hooks(tokens, fwd_hooks=[hook], **inputs)[:, -1], expected)


def test_converted_hook_says_what_does_not_fit(task_vectors: TaskVectors) -> None:
    name, hook = transformer_lens_hook(task_vectors, 3)
    assert name == "blocks.3.hook_out"
    hidden = torch.ones(2, 5, tiny.WIDTH)
    decoding_step = hidden[:, :1]
    assert hook(decoding_step) is decoding_step
    assert torch.equal(hook(hidden)[:, :-1], hidden[:, :-1])
    with pytest.raises(HookError, match="the patch changes nothing in rows \\[0, 1\\]"):
        hook(hook(hidden))
    with pytest.raises(HookError, match="width 32 does not fit an output of width 3"):
        hook(torch.ones(2, 5, 3))
    with pytest.raises(HookError, match="column 5 is out of range in a sequence of 5"):
        transformer_lens_hook(task_vectors, 3, column=5)[1](hidden)
    with pytest.raises(CrosstaskError, match="layer 4 is out of range"):
        nnsight_edit(task_vectors, 4)


def test_unknown_backend_is_answered_with_the_nearest() -> None:
    assert backend_names() == ("hooks", "nnsight", "transformer_lens")
    with pytest.raises(CrosstaskError, match=r"unknown backend 'nsight'.*did you mean 'nnsight'"):
        backend_for("nsight")


@pytest.mark.parametrize("name", OTHERS)
def test_missing_package_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # what Python does with a package that cannot be imported
    with pytest.raises(CrosstaskError, match=f"backend '{name}' needs the package .*`pip install") as caught:
        backend_for(name)
    assert "\n" not in str(caught.value)


def test_tools_are_imported_only_when_a_backend_is_made() -> None:
    code = (
        "import sys, interp.backends.conversions, interp.backends.with_nnsight, interp.backends.with_transformer_lens\n"
        "from interp.backends import backend_for; backend_for('hooks'); import interp.protocol.work\n"
        "sys.exit(' '.join({'nnsight', 'transformer_lens'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_backend_names_need_no_torch() -> None:
    code = "import sys; from interp.protocol.settings import Settings; Settings(); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_transformer_lens_refuses_what_it_cannot_compute(llama: Model, backends: dict[str, Backend]) -> None:
    with pytest.raises(CrosstaskError, match="softmax is in float32"):
        backends["transformer_lens"].extract(llama, ragged(llama))  # a float64 model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bundled", "bundled-llm"])
def test_bundled_pair_is_read_and_patched_alike_by_every_backend(name: str, backends: dict[str, Backend]) -> None:
    model = load_model(name, device="cpu")
    prompts = ragged(model)
    expected = backends["hooks"].extract(model, prompts)
    source = backends["hooks"].extract(model, prompts[::-1])
    rows = [RowPatch(12 + n, states[12 + n]) for n, states in enumerate(source)]
    if len(rows) % 2:
        rows[len(rows) // 2] = RowPatch(5, -expected[0, 5])  # the middle one would be patched with itself
    logits = backends["hooks"].logits(model, prompts, rows)
    answers = backends["hooks"].generate(model, prompts, max_new_tokens=4, stop=None)
    for other in OTHERS:
        assert_close(backends[other].extract(model, prompts), expected)
        assert_close(backends[other].logits(model, prompts, rows), logits)
        assert backends[other].generate(model, prompts, max_new_tokens=4, stop=None) == answers
