"""Updates of whole weights: a checkpoint against its base, and the differences that our runner writes.

A checkpoint is a folder with model.safetensors, or with its shards and model.safetensors.index.json; a base is the
same. Both are read row by row, so that no model is ever in memory. Weights that were kept in 16 bits before and after
have a difference that is rounded to their grid: in bfloat16 an update below 0.4 % of a weight is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.tuning.strategies.base import DELTA
from interp.updates.deltas import Delta, Dense, vector
from interp.updates.lora import read_json
from interp.updates.places import Place, places
from interp.updates.update import Name, TensorFile, Update

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TIED = ("lm_head", "embed_out")
"""Heads that one checkpoint may keep and another leave to its embeddings."""


class Weights:
    """The tensors of a checkpoint's folder, by place, whatever shards they are in.

    Attributes:
        folder: the folder.
        names: place -> name.
    """

    def __init__(self, folder: Path, *, of: str) -> None:
        self.folder, self.of = folder, of
        if (folder / INDEX).is_file():
            where = read_json(folder / INDEX, of).get("weight_map", {})
            missing = sorted({shard for shard in where.values() if not (folder / shard).is_file()})
            if missing:
                raise CrosstaskError(f"{folder} of {of!r} has no {missing[0]}, which its index names")
        elif (folder / SINGLE).is_file():
            where = dict.fromkeys(TensorFile(folder / SINGLE, of=of).keys, SINGLE)
        else:
            raise CrosstaskError(f"{folder} of {of!r} holds neither {SINGLE} nor {INDEX}")
        self._shards: Mapping[str, str] = where
        self._files: dict[str, TensorFile] = {}
        self.names = places(where, of=f"{of!r}")

    def file(self, where: Place) -> TensorFile:
        """The shard that a weight is in; it stays open, since reading its header takes longer than reading a row."""
        shard = self._shards[self.names[where]]
        if shard not in self._files:
            self._files[shard] = TensorFile(self.folder / shard, of=self.of)
        return self._files[shard]

    def is_trainable(self, where: Place) -> bool:
        """Whether a tensor is a weight, and no count or table of positions."""
        return not self.file(where).dtype(self.names[where]).startswith(("I64", "I32", "BOOL"))

    def shape(self, where: Place) -> tuple[int, ...]:
        """Shape of a weight."""
        return self.file(where).shape(self.names[where])

    def rows(self, where: Place, start: int, stop: int) -> Float[np.ndarray, "rows ..."]:
        """Rows of a weight in float64."""
        return self.file(where).rows(self.names[where], start, stop)


@dataclass(eq=False)
class CheckpointUpdate(Update):
    """A fine-tuned or merged checkpoint minus its base."""

    after: Weights = field(kw_only=True)
    before: Weights = field(kw_only=True)

    def _read(self, where: Place) -> Delta:
        shape = self.after.shape(where)
        if len(shape) <= 1:
            return vector(self._rows(where, 0, shape[0] if shape else 1).reshape(-1))
        matrix = (shape[0], int(np.prod(shape[1:])))
        return Dense(matrix, lambda start, stop: self._rows(where, start, stop).reshape(stop - start, -1))

    def _rows(self, where: Place, start: int, stop: int) -> Float[np.ndarray, "rows ..."]:
        return self.after.rows(where, start, stop) - self.before.rows(where, start, stop)


@dataclass(eq=False)
class DeltaUpdate(Update):
    """Differences of whole parameters, as strategies `full` and `bitfit` write them."""

    file: TensorFile = field(kw_only=True)

    def _read(self, where: Place) -> Delta:
        key = self.sources[where]
        shape = self.file.shape(key)
        if len(shape) <= 1:
            return vector(self.file.tensor(key).reshape(-1))
        matrix = (shape[0], int(np.prod(shape[1:])))
        return Dense(matrix, lambda start, stop: self.file.rows(key, start, stop).reshape(stop - start, -1))


def read_checkpoint(folder: Path, name: Name, *, base: Weights | None) -> CheckpointUpdate:
    """The update of a checkpoint.

    Args:
        folder: of the fine-tuned model.
        name: task and seed.
        base: the model that it was made from.

    Raises:
        CrosstaskError: there is no base, it has other weights or other shapes, or a file is missing or damaged.
    """
    if base is None:
        raise CrosstaskError(
            f"{folder} holds a whole model, and its update is the difference to its base: give the base's folder "
            "with --base"
        )
    after = Weights(folder, of=str(name))
    for one, other in ((after, base), (base, after)):
        lacking = [where for where in one.names if where not in other.names and where.name not in TIED]
        if lacking:
            raise CrosstaskError(f"{one.folder} has {one.names[lacking[0]]!r}, and {other.folder} has no such weight")
    sources = {where: key for where, key in after.names.items() if where in base.names and after.is_trainable(where)}
    for where, key in sources.items():
        if after.shape(where) != base.shape(where):
            raise CrosstaskError(
                f"{key!r} has shape {after.shape(where)} in {folder} and {base.shape(where)} in {base.folder}"
            )
    return CheckpointUpdate(name, folder, sources, after=after, before=base)


def read_delta(folder: Path, name: Name, *, record: Mapping[str, Any] | None = None) -> DeltaUpdate:
    """The update that a run of strategy `full` or `bitfit` wrote.

    Raises:
        CrosstaskError: the file is damaged or empty.
    """
    file = TensorFile(folder / DELTA, of=str(name))
    if not file.keys:
        raise CrosstaskError(f"update {str(name)!r} in {folder} holds no weights: nothing was trained")
    found = record or {}
    sources = places(file.keys, of=f"update {str(name)!r}")
    return DeltaUpdate(name, folder, sources, str(found.get("model", "")), found, file=file)
