"""The paper's own models as named settings (Sachdeva et al. 2025, appendix A.5).

Published: the models, batch 16 on 8 cards, DeepSpeed ZeRO-2 (3B and 7B) and ZeRO-3 (32B), mixed precision, and the
schedule of each task (Table A.2). Not published: the pixel limits, for which those of Qwen's own fine-tuning script
stand here (28 x 28 to 224 x 224 pixels), and the ZeRO stage of LLaVA-1.5, for which that of the 7B model does.
"""

from __future__ import annotations

import difflib
from typing import Any

from interp.errors import CrosstaskError
from interp.models.options import LoadOptions
from interp.tuning.config import TuneConfig
from interp.tuning.schedules import PAPER

_COMMON: dict[str, Any] = {
    "strategy": "lora",
    "schedule": "paper",
    "batch": 16,
    "micro_batch": 2,
    "gradient_checkpointing": True,
    "loading": LoadOptions(dtype="bfloat16"),
}
_QWEN = _COMMON | {"min_pixels": 784, "max_pixels": 50_176}

PRESETS: dict[str, dict[str, Any]] = {
    "sachdeva-qwen2.5-vl-3b": _QWEN | {"model": "Qwen/Qwen2.5-VL-3B-Instruct", "deepspeed": "zero2"},
    "sachdeva-qwen2.5-vl-7b": _QWEN | {"model": "Qwen/Qwen2.5-VL-7B-Instruct", "deepspeed": "zero2"},
    "sachdeva-qwen2.5-vl-32b": _QWEN | {"model": "Qwen/Qwen2.5-VL-32B-Instruct", "deepspeed": "zero3"},
    "sachdeva-llava-1.5-13b": _COMMON | {"model": "llava-hf/llava-1.5-13b-hf", "deepspeed": "zero2"},
}
"""Name -> fields of :class:`~interp.tuning.config.TuneConfig`, all but the task."""


def preset(name: str) -> dict[str, Any]:
    """The settings of a name.

    Raises:
        CrosstaskError: there is none of that name.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(PRESETS)}"
        raise CrosstaskError(f"there is no preset {name!r}: {hint}")
    return dict(PRESETS[name])


def jobs(name: str, **changes: Any) -> list[TuneConfig]:
    """One configuration for each of the paper's thirteen tasks.

    Args:
        name: of a preset.
        **changes: other values of the configuration's fields.
    """
    return [TuneConfig(task=task, **preset(name) | changes) for task in PAPER]
