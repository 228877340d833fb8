"""Adapters and checkpoints on disk, and their updates as plain matrices to hold everything against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

PREFIX = "base_model.model.model.language_model."
SHAPES = {
    f"layers.{layer}.self_attn.{name}": shape
    for layer in range(3)
    for name, shape in {"q_proj": (12, 12), "v_proj": (6, 12), "o_proj": (12, 12)}.items()
}


def random_factors(
    seed: int, *, rank: int = 3, shapes: Mapping[str, tuple[int, int]] = SHAPES
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module -> (B, A) in float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return {name: (draw(out, rank), draw(rank, width)) for name, (out, width) in shapes.items()}


def write_adapter(
    folder: Path,
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    *,
    prefix: str = PREFIX,
    **config: object,
) -> Path:
    """A folder as peft writes it; alpha is 6 unless it is given."""
    folder.mkdir(parents=True)
    tensors = {}
    for name, (b, a) in factors.items():
        tensors[f"{prefix}{name}.lora_A.weight"] = a.contiguous()
        tensors[f"{prefix}{name}.lora_B.weight"] = b.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    rank = next(iter(factors.values()))[1].shape[0] if factors else 3
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "bias": "none", "base_model_name_or_path": "some/vlm"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    return folder


def dense(factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]], *, alpha: float = 6) -> dict[str, np.ndarray]:
    """Module -> (alpha / r) B A."""
    return {name: (alpha / a.shape[0] * b @ a).numpy() for name, (b, a) in factors.items()}


def write_checkpoint(folder: Path, weights: Mapping[str, torch.Tensor], *, shards: int = 1) -> Path:
    """A folder with a model's weights, in one file or in several with an index."""
    folder.mkdir(parents=True)
    if shards == 1:
        save_file(dict(weights), folder / "model.safetensors")
        return folder
    names = list(weights)
    where = {}
    for number in range(shards):
        shard = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[number::shards]}
        save_file(part, folder / shard)
        where |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder
