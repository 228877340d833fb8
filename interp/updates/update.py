"""What an update is, whatever it is kept in: a delta for each weight that fine-tuning changed.

Three kinds, one interface: factors of a LoRA adapter (:mod:`interp.updates.lora`), differences that the runner's
strategies `full` and `bitfit` write, and whole checkpoints against their base (:mod:`interp.updates.checkpoint`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from interp.errors import CrosstaskError
from interp.updates.deltas import Delta
from interp.updates.places import Place


@dataclass(frozen=True)
class Name:
    """What an update is called.

    Attributes:
        task: what the model was fine-tuned on.
        seed: of the training; runs of one task tell how alike two trainings of the same thing are.
    """

    task: str
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.task} (seed {self.seed})"


@dataclass(eq=False)
class Update(ABC):
    """An update, read from its folder weight by weight.

    Attributes:
        name: task and seed.
        folder: where it is.
        sources: place of each changed weight -> its name in the file.
        base: name of the base model, as the folder says; empty if it does not.
        record: the runner's record (run.json), or nothing.
    """

    name: Name
    folder: Path
    sources: Mapping[Place, str]
    base: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> Sequence[Place]:
        """The weights that it changes."""
        return sorted(self.sources)

    def delta(self, where: Place) -> Delta | None:
        """What was added to a weight; None if it was left as it was.

        Raises:
            CrosstaskError: it cannot be read, or holds numbers that are not finite.
        """
        return self._read(where) if where in self.sources else None

    @abstractmethod
    def _read(self, where: Place) -> Delta: ...


class TensorFile:
    """A safetensors file whose tensors are read one by one, or by rows, in float64; never as a whole."""

    def __init__(self, path: Path, *, of: str) -> None:
        self.path, self.of = path, of
        try:
            self._file: Any = safe_open(path, framework="pt").__enter__()
            self.keys: list[str] = list(self._file.keys())
        except (OSError, SafetensorError) as error:
            raise CrosstaskError(f"{path.name} of update {of!r} in {path.parent} cannot be read ({error})") from error

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._file.get_slice(key).get_shape())

    def dtype(self, key: str) -> str:
        """Type of a tensor, as safetensors calls it."""
        return str(self._file.get_slice(key).get_dtype())

    def tensor(self, key: str) -> Float[np.ndarray, " *shape"]:
        """A tensor."""
        return self._checked(self._file.get_tensor(key), key)

    def rows(self, key: str, start: int, stop: int) -> Float[np.ndarray, "rows ..."]:
        """Rows `start` to `stop` of a tensor."""
        return self._checked(self._file.get_slice(key)[start:stop], key)

    def _checked(self, tensor: torch.Tensor, key: str) -> Float[np.ndarray, " *shape"]:
        if not tensor.is_floating_point():
            raise CrosstaskError(
                f"{key!r} of update {self.of!r} holds {str(tensor.dtype).removeprefix('torch.')}: quantised weights "
                "have no difference to a base; give the adapter, or the weights before they were quantised"
            )
        values = tensor.double().numpy()
        if not np.isfinite(values).all():
            raise CrosstaskError(f"{key!r} of update {self.of!r} holds numbers that are not finite")
        return values
