"""First-order gains against finite differences of the loss, and changes of states against states."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tuning.dataset import Example
from interp.tuning.encoding import encode
from interp.updates import read_updates
from interp.updates.comparison import Part, compare, norms_of
from interp.updates.gains import answer_losses, gains, measured_gains
from interp.updates.places import place
from interp.updates.states import end_states, measured_changes, state_changes
from interp.updates.update import Update
from tests.interp.updates.made import write_adapter
from tests.tiny import picture, tiny_gpt2, tiny_llama, tiny_llava

TARGETS = ("relative_depth", "counting")
EXAMPLES = {
    task: [Example(f"{task}{i}", (), ((f"Which {task} is {i}?", "(A)" if i % 2 else "(B) it"),)) for i in range(3)]
    for task in TARGETS
}


def adapters(model: Model, root: Path, *, names: tuple[str, ...], config: dict | None = None) -> list[Path]:
    """An adapter for each target, of different ranks, on the layers of these names in the decoder's blocks."""
    blocks = next(name for name, part in model.module.named_modules() if part is model.blocks)
    folders = []
    for index, task in enumerate(TARGETS):
        generator = torch.Generator().manual_seed(index)
        factors = {}
        for name, layer in model.module.named_modules():
            if not name.startswith(blocks) or name.rpartition(".")[2] not in names:
                continue
            weight = layer.weight
            out, width = weight.T.shape if type(layer).__name__ == "Conv1D" else weight.shape
            factors[name] = (
                torch.randn(out, 2 + index, generator=generator, dtype=torch.float64),
                torch.randn(2 + index, width, generator=generator, dtype=torch.float64),
            )
        folder = write_adapter(root / task, factors, prefix="base_model.model.", **(config or {}))
        (folder / "adapter_config.json").write_text(
            json.dumps(json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": ""})
        )
        folders.append(folder)
    return folders


def slope(model: Model, update: Update, where: object, target: str, *, step: float) -> float:
    """-d/dt of a target's loss along the update of one weight, by central differences."""
    parameter = next(p for name, p in model.module.named_parameters() if place(name) == where)
    delta = update.delta(where)  # type: ignore[arg-type]
    assert delta is not None
    moved = torch.from_numpy(delta.rows(0, delta.shape[0]))
    moved = (moved if delta.as_stored else moved.T).reshape(parameter.shape)
    losses = []
    before = parameter.data
    for sign in (1, -1):
        parameter.data = before + sign * step * moved
        losses.append(sum(float(part.detach()) for part in answer_losses(model, EXAMPLES[target])()))
    parameter.data = before
    return -(losses[0] - losses[1]) / (2 * step)


def check(model: Model, updates: list[Update], *, step: float = 1e-4, error: float = 1e-2) -> None:
    """Llama's norms are computed in float32 whatever the model's type, so that smaller steps drown in rounding."""
    found = gains(model, updates, {target: answer_losses(model, EXAMPLES[target], batch=2) for target in TARGETS})
    wheres = sorted(found[TARGETS[0]])
    for where in (wheres[0], wheres[len(wheres) // 2], wheres[-1]):
        for k, update in enumerate(updates):
            for target in TARGETS:
                if update.delta(where) is not None:
                    expected = slope(model, update, where, target, step=step)
                    assert found[target][where][k] == pytest.approx(expected, rel=error, abs=error / 10), (
                        where,
                        target,
                    )
    assert sum(found[TARGETS[0]].values()) != pytest.approx(sum(found[TARGETS[1]].values()), rel=0.01)
    for parameter in model.module.parameters():  # as before
        assert parameter.grad is None
        assert not parameter.requires_grad
    assert not any(part._forward_hooks for part in model.module.modules())


def test_gain_of_an_adapter_is_the_slope_of_the_loss(tmp_path: Path) -> None:
    model = tiny_llama()
    check(model, read_updates(adapters(model, tmp_path, names=("q_proj", "o_proj", "down_proj"))))


def test_gain_of_layers_that_are_stored_transposed_is_the_slope_of_the_loss(tmp_path: Path) -> None:
    model = tiny_gpt2()
    updates = read_updates(adapters(model, tmp_path, names=("c_attn", "c_proj"), config={"fan_in_fan_out": True}))
    check(model, updates, step=1e-6, error=1e-5)


def test_gain_of_whole_weights_and_vectors_is_the_slope_of_the_loss(tmp_path: Path) -> None:
    model = tiny_llama()
    for index, task in enumerate(TARGETS):
        generator = torch.Generator().manual_seed(index)
        chosen = {
            name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
            for name, p in model.module.named_parameters()
            if any(part in name for part in ("embed_tokens", "v_proj", "norm"))
        }
        (tmp_path / task).mkdir()
        save_file(chosen, tmp_path / task / "delta.safetensors")
    check(model, read_updates([tmp_path / task for task in TARGETS]))


def test_gain_of_an_adapter_beside_whole_weights_is_the_slope_of_the_loss(tmp_path: Path) -> None:
    model = tiny_llama()
    folder = adapters(model, tmp_path, names=("v_proj",))[0]
    whole = {n: torch.ones_like(p) for n, p in model.module.named_parameters() if "v_proj" in n or "up_proj" in n}
    (tmp_path / "whole").mkdir()
    save_file(whole, tmp_path / "whole" / "delta.safetensors")
    check(model, read_updates([folder, f"counting={tmp_path / 'whole'}"]))


def test_gains_add_up_over_weights_and_have_a_direction(tmp_path: Path) -> None:
    model = tiny_llama()
    updates = read_updates(adapters(model, tmp_path, names=("q_proj", "v_proj")))
    found = gains(model, updates, {target: answer_losses(model, EXAMPLES[target]) for target in TARGETS})
    comparison = compare(updates)
    norms = {where: norms_of([one]) for where, one in comparison.modules.items()}
    measured = {(one.measure, one.part): one for one in measured_gains(found, updates, norms)}
    whole = measured["gain", Part()].value
    assert [update.name.task for update in updates] == list(TARGETS)
    for i, j in ((0, 1), (1, 0)):
        assert whole[i, j] == pytest.approx(sum(values[i] for values in found[TARGETS[j]].values()))
        assert whole[i, j] == pytest.approx(sum(measured["gain", Part(layer)].value[i, j] for layer in range(4)))
        size = norms_of(list(comparison.modules.values()))[i]
        assert measured["gain_unit", Part()].value[i, j] == pytest.approx(whole[i, j] / size)
    assert whole[0, 1] != pytest.approx(whole[1, 0])


def test_a_weight_that_the_model_lacks_is_named(tmp_path: Path) -> None:
    model = tiny_llama()
    factors = {"layers.9.self_attn.q_proj": (torch.ones(32, 1), torch.ones(1, 32))}
    one = write_adapter(tmp_path / "a", factors)
    two = write_adapter(tmp_path / "b", factors)
    with pytest.raises(CrosstaskError, match=r"'a \(seed 0\)' has a weight at 'layers\.9\.self_attn\.q_proj'"):
        gains(model, read_updates([one, two]), {})
    narrow = {"layers.0.self_attn.q_proj": (torch.ones(32, 1), torch.ones(1, 30))}
    three, four = write_adapter(tmp_path / "c", narrow), write_adapter(tmp_path / "d", narrow)
    with pytest.raises(CrosstaskError, match=r"has shape \(32, 30\), and the layer .* has \(32, 32\)"):
        gains(model, read_updates([three, four]), {})
    assert not any(part._forward_hooks for part in model.module.modules())


def test_losses_are_the_mean_over_answer_tokens_however_they_are_batched() -> None:
    model = tiny_llava()
    shown = [Example(f"e{i}", (picture(i),), ((f"Which is {i}?", "(A)" + " b" * i),)) for i in range(3)]
    one = sum(float(part.detach()) for part in answer_losses(model, shown, batch=3)())
    other = sum(float(part.detach()) for part in answer_losses(model, shown, batch=1)())
    assert one == pytest.approx(other)
    assert one > 0


# States


def test_changes_are_means_over_prompts_and_compared_layer_by_layer() -> None:
    rng = np.random.default_rng(0)
    states = {name: rng.standard_normal((5, 3, 7)) for name in (None, "a", "b", "c")}
    changes = state_changes(["a", "b", "c"], lambda name: states[name])
    assert changes[1] == pytest.approx((states["b"] - states[None]).mean(axis=0))
    measured = {(one.measure, one.part, one.centred): one.value for one in measured_changes(changes)}
    a, b = changes[0, 2], changes[1, 2]
    assert measured["state_cosine", Part(2), False][0, 1] == pytest.approx(
        a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    )
    assert measured["state_projection", Part(2), False][0, 1] == pytest.approx(a @ b / (b @ b))
    assert measured["state_projection", Part(2), False][1, 0] == pytest.approx(a @ b / (a @ a))
    mean = changes[:, 2].mean(axis=0)
    a, b = a - mean, b - mean
    assert measured["state_cosine", Part(2), True][0, 1] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert ("state_cosine", Part(), False) in measured


def test_all_layers_together_count_each_layer_alike() -> None:
    rng = np.random.default_rng(0)
    changes = rng.standard_normal((3, 4, 6))
    grown = changes * np.array([1.0, 10.0, 100.0, 1000.0])[:, None]

    def whole(of: np.ndarray) -> np.ndarray:
        return next(one.value for one in measured_changes(of) if one.part == Part() and one.measure == "state_cosine")

    assert whole(grown) == pytest.approx(whole(changes))


def test_states_that_do_not_belong_together_or_do_not_move_are_refused() -> None:
    with pytest.raises(CrosstaskError, match=r"'a' gives states of shape \(2, 3, 4\), the base model \(3, 3, 4\)"):
        state_changes(["a"], lambda name: np.zeros((3 if name is None else 2, 3, 4)))
    with pytest.raises(CrosstaskError, match="'a' moves no state"):
        state_changes(["a"], lambda name: np.ones((3, 3, 4)))


@pytest.fixture
def llama() -> Model:
    return tiny_llama(dtype=torch.float32)


def test_states_under_adapters_are_those_of_the_model_with_their_weights_added(llama: Model, tmp_path: Path) -> None:
    folders = adapters(llama, tmp_path, names=("v_proj",))
    updates = read_updates(folders)
    for folder in folders:
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings |= {"target_modules": ["v_proj"], "r": settings["r"]}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    shown = [example for found in EXAMPLES.values() for example in found]
    states, leave = end_states(llama, dict(zip(TARGETS, folders, strict=True)), shown, batch=4)
    base, adapted = states(None), states(TARGETS[1])
    leave()
    assert base.shape == (6, 4, 32)
    for name, parameter in llama.module.named_parameters():
        delta = updates[1].delta(place(name))
        if delta is not None and name.endswith("weight"):
            parameter.data += torch.from_numpy(delta.rows(0, delta.shape[0])).float()
    plain, leave = end_states(llama, {}, shown, batch=4)
    merged = plain(None)
    leave()
    assert adapted == pytest.approx(merged, rel=1e-3, abs=1e-3)
    assert np.abs(adapted - base).max() > 0.1


def test_states_are_those_of_the_last_token_before_the_answer_however_prompts_are_batched(llama: Model) -> None:
    shown = [Example(f"e{i}", (), (("Which is it" + " or that" * i + "?", "(A)"),)) for i in range(3)]
    states, leave = end_states(llama, {}, shown, batch=3)
    found = states(None)
    leave()
    for row, example in zip(found, shown, strict=True):
        prompt = encode(llama, (), [(example.turns[0][0], None)])
        with torch.no_grad():
            output = llama.module(input_ids=prompt.input_ids[None], output_hidden_states=True)
        assert row[0] == pytest.approx(output.hidden_states[1][0, -1].numpy(), rel=1e-3, abs=1e-3)
        assert row[2] == pytest.approx(output.hidden_states[3][0, -1].numpy(), rel=1e-3, abs=1e-3)
