"""Adapters of the tiny model, trained for a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp.models.base import load_model
from interp.tasks.perception.datasets import mixture
from interp.tuning.config import TuneConfig
from interp.tuning.run import finetune


def tune_tiny(folder: Path, vlm: Path, strategy: str, tasks: Sequence[str], **options: Any) -> Path:
    """A folder with an adapter of a strategy, after three steps on a mixture of tasks.

    Args:
        folder: of the run.
        vlm: folder of the tiny model.
        strategy: by name.
        tasks: mixed in equal shares.
        options: of the strategy.
    """
    model = load_model(str(vlm), device="cpu", dtype="float64")
    config = TuneConfig(
        task="mixture",
        model=str(vlm),
        strategy=strategy,
        options=options,
        size=32,
        steps=3,
        batch=2,
        rank=2,
        learning_rate=1e-2,
        features="off",
    )
    data = mixture([(task, 1.0) for task in tasks], n=6, size=32, difficulty=0.0)
    return finetune(config, folder, model=model, examples=[data[index] for index in range(6)]).adapter
