"""Whole weights: checkpoints against their base, and what our runner writes, equal the matrices that they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interp.errors import CrosstaskError
from interp.updates import compare, place, read_updates
from interp.updates.checkpoint import Weights, read_checkpoint, read_delta
from interp.updates.comparison import Part
from interp.updates.update import Name
from tests.interp.updates.made import dense, random_factors, write_adapter, write_checkpoint

NAME = Name("jigsaw")
MODEL = "model.language_model."


def base_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    weights = {f"{MODEL}{name}.weight": draw(*m.shape) for name, m in dense(random_factors(0)).items()}
    weights[f"{MODEL}layers.0.input_layernorm.weight"] = draw(12)
    weights["model.vision_tower.patch.weight"] = draw(4, 3, 2, 2)
    weights["model.vision_tower.positions"] = torch.arange(4)
    return weights


def merged(weights: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """The weights with an adapter added."""
    found = dict(weights)
    for name, matrix in dense(random_factors(seed)).items():
        found[f"{MODEL}{name}.weight"] = weights[f"{MODEL}{name}.weight"] + torch.from_numpy(matrix)
    return found


@pytest.mark.parametrize("shards", [1, 3])
def test_merged_checkpoints_compare_as_their_adapters_do(tmp_path: Path, shards: int) -> None:
    weights = base_weights()
    base = write_checkpoint(tmp_path / "base", weights, shards=2)
    folders = [write_checkpoint(tmp_path / f"m{seed}", merged(weights, seed), shards=shards) for seed in (1, 2)]
    adapters = [write_adapter(tmp_path / f"a{seed}", random_factors(seed)) for seed in (1, 2)]
    one, other = compare(read_updates(folders, base=base)), compare(read_updates(adapters))
    assert set(one.modules) == set(other.modules)  # what is zero everywhere is left out
    for where, expected in other.modules.items():
        found = one.modules[where]
        assert found.gram == pytest.approx(expected.gram, rel=1e-9)
        assert found.overlap["input"] == pytest.approx(expected.overlap["input"], rel=1e-6)
        assert found.energy_centred["output"] == pytest.approx(expected.energy_centred["output"], rel=1e-6)


def test_an_adapter_and_the_same_adapter_merged_have_cosine_one(tmp_path: Path) -> None:
    weights = base_weights()
    base = write_checkpoint(tmp_path / "base", weights)
    whole = write_checkpoint(tmp_path / "whole", merged(weights, 1))
    adapter = write_adapter(tmp_path / "adapter", random_factors(1))
    comparison = compare(read_updates([f"a={adapter}", f"b={whole}"], base=base))
    cosine = next(one for one in comparison.measured() if one.measure == "cosine" and one.part == Part())
    assert cosine.value[0, 1] == pytest.approx(1)


def test_no_weight_is_ever_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.updates.deltas.CHUNK", 24)
    monkeypatch.setattr("interp.updates.deltas.SMALL", 0)
    monkeypatch.setattr("interp.updates.deltas.OVERSAMPLING", 1)
    weights = {name: tensor for name, tensor in base_weights().items() if "vision" not in name}
    base = write_checkpoint(tmp_path / "base", weights)
    folders = [write_checkpoint(tmp_path / f"m{seed}", merged(weights, seed)) for seed in (1, 2)]
    asked = []
    rows = Weights.rows

    def watched(self: Weights, where: object, start: int, stop: int) -> np.ndarray:
        found = rows(self, where, start, stop)  # type: ignore[arg-type]
        asked.append(found.size)
        return found

    monkeypatch.setattr(Weights, "rows", watched)
    compare(read_updates(folders, base=base), rank=3)
    assert max(asked) <= 24


def test_vectors_and_kernels_have_deltas(tmp_path: Path) -> None:
    weights = base_weights()
    after = {name: t + 1 if t.is_floating_point() else t for name, t in weights.items()}
    update = read_checkpoint(
        write_checkpoint(tmp_path / "after", after),
        NAME,
        base=Weights(write_checkpoint(tmp_path / "base", weights), of="base"),
    )
    norm = update.delta(place(f"{MODEL}layers.0.input_layernorm.weight"))
    kernel = update.delta(place("model.vision_tower.patch.weight"))
    assert norm is not None
    assert norm.shape == (12, 1)
    assert norm.is_vector
    assert kernel is not None
    assert kernel.shape == (4, 12)
    assert kernel.rows(1, 3) == pytest.approx(np.ones((2, 12)))
    assert place("model.vision_tower.positions") not in update.sources  # positions are no weights


def test_what_the_runner_writes_is_read(tmp_path: Path) -> None:
    matrices = dense(random_factors(1))
    tensors = {f"{MODEL}{name}.weight": torch.from_numpy(m) for name, m in matrices.items()}
    tensors[f"{MODEL}layers.2.self_attn.q_proj.bias"] = torch.arange(4.0)
    (tmp_path / "a").mkdir()
    save_file(tensors, tmp_path / "a" / "delta.safetensors")
    update = read_delta(tmp_path / "a", NAME)
    for name, matrix in matrices.items():
        delta = update.delta(place(MODEL + name))
        assert delta is not None
        assert delta.rows(0, len(matrix)) == pytest.approx(matrix)
    bias = update.delta(place(f"{MODEL}layers.2.self_attn.q_proj.bias"))
    assert bias is not None
    assert bias.rows(0, 4).ravel() == pytest.approx(np.arange(4))


def test_a_checkpoint_needs_a_base_that_has_its_weights(tmp_path: Path) -> None:
    weights = base_weights()
    folder = write_checkpoint(tmp_path / "after", merged(weights, 1))
    with pytest.raises(CrosstaskError, match="give the base's folder with --base"):
        read_checkpoint(folder, NAME, base=None)
    name = f"{MODEL}layers.0.input_layernorm.weight"
    fewer = write_checkpoint(tmp_path / "fewer", {key: t for key, t in weights.items() if key != name})
    with pytest.raises(CrosstaskError, match=r"input_layernorm\.weight.*no such weight"):
        read_checkpoint(folder, NAME, base=Weights(fewer, of="base"))
    narrower = write_checkpoint(tmp_path / "narrower", weights | {name: torch.ones(5)})
    with pytest.raises(CrosstaskError, match=r"shape \(12,\) in .* and \(5,\)"):
        read_checkpoint(folder, NAME, base=Weights(narrower, of="base"))
    with pytest.raises(CrosstaskError, match=r"neither model\.safetensors nor"):
        Weights(tmp_path, of="base")


def test_a_head_that_one_keeps_with_its_embeddings_is_no_difference(tmp_path: Path) -> None:
    weights = base_weights()
    folder = write_checkpoint(tmp_path / "after", merged(weights, 1) | {"lm_head.weight": torch.ones(5, 12)})
    update = read_checkpoint(folder, NAME, base=Weights(write_checkpoint(tmp_path / "base", weights), of="base"))
    assert place("lm_head.weight") not in update.sources


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "base", base_weights(), shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CrosstaskError, match="has no model-00002-of-00003"):
        Weights(folder, of="base")


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    weights = base_weights()
    packed = {name: torch.ones(t.shape, dtype=torch.uint8) if "q_proj" in name else t for name, t in weights.items()}
    base = write_checkpoint(tmp_path / "base", weights)
    folders = [write_checkpoint(tmp_path / f"m{seed}", packed) for seed in (1, 2)]
    with pytest.raises(CrosstaskError, match="quantised weights have no difference"):
        compare(read_updates(folders, base=base))
