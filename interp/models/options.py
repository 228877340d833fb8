"""How a model is loaded: the options of :func:`~interp.models.base.load_model` and of every command line, in one place.

Nothing heavy is imported here, so that ``--help`` stays fast and bad values are refused before anything is loaded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from interp.errors import CrosstaskError

DTYPES = ("float32", "bfloat16", "float16", "float64")
QUANTIZED = ("4bit", "8bit")
PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class LoadOptions:
    """Where the weights come from, in which form they are held, and on which devices.

    Raises:
        CrosstaskError: on construction, for a value that is not known, or two that contradict each other.
    """

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps, or remote (NDIF, with backend nnsight)."""
    device_map: str | None = None
    """Instead of device, several, by accelerate: auto, balanced, balanced_low_0, sequential, or module: device as JSON,
    such as {"": "cuda:0", "lm_head": "cpu"}."""
    dtype: str = "float32"
    """float32, bfloat16, float16 or float64; of quantised weights, what they are computed in."""
    quantize: Literal["4bit", "8bit"] | None = None
    """Hold the weights of linear layers in 4bit (NF4) or 8bit (LLM.int8), through bitsandbytes."""
    attention: str | None = None
    """Attention implementation, e.g. sdpa or eager; transformers' own choice by default."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    trust_remote_code: bool = False
    """Run model code that comes with the weights."""

    def __post_init__(self) -> None:
        _known("dtype", self.dtype, DTYPES)
        if self.quantize is not None:
            _known("quantisation", self.quantize, QUANTIZED)
            if self.dtype == "float64":
                raise CrosstaskError(f"{self.quantize} weights are not computed in float64; use --dtype bfloat16")
            if self.device == "remote":
                raise CrosstaskError(f"weights that are held elsewhere cannot be quantised to {self.quantize} here")
        if self.device_map is not None and self.device != "auto":
            raise CrosstaskError(
                f"device {self.device!r} and device map {self.device_map!r} both say where the model goes; give one"
            )

        self.places()

    def places(self) -> str | dict[str, int | str] | None:
        """The device map as accelerate takes it."""
        if self.device_map is None or self.device_map in PLACEMENTS:
            return self.device_map
        try:
            found = json.loads(self.device_map)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise CrosstaskError(
                f"unknown device map {self.device_map!r}; expected one of {', '.join(PLACEMENTS)}, or module: device "
                'as JSON, such as {"": "cuda:0", "lm_head": "cpu"}'
            )
        return found

    def config(self) -> dict[str, Any]:
        """What decides the numbers, for a run's config.json.

        The device is left out, since a run may go on elsewhere; so is what has its default value, dtype aside.
        """
        given = asdict(self)
        return {
            f.name: given[f.name]
            for f in fields(self)
            if f.name == "dtype" or (f.name != "device" and given[f.name] != f.default)
        }


def _known(what: str, given: str, accepted: tuple[str, ...]) -> None:
    if given not in accepted:
        raise CrosstaskError(f"unknown {what} {given!r}; expected one of {', '.join(accepted)}")
