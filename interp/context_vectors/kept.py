"""What a study of contextual vectors reads of items, a file for each task, and the items themselves.

A unit is `("read", <task or task/form>)`: all representations of its items (:mod:`interp.context_vectors.reading`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from interp.errors import CrosstaskError
from interp.files import sha256_of
from interp.runs import Run
from interp.tasks.perception.datasets import test_data
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.wording import Wording
from interp.tuning.matrix.plan import plain
from interp.tuning.run import RECORD

Unit: TypeAlias = tuple[Any, ...]


class Kept:
    """Tensors of units in `states/`, held to what the journal says.

    Attributes:
        run: the study's folder.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def write(self, unit: Unit, tensors: Mapping[str, Tensor], **payload: Any) -> None:
        """Keep the tensors of a unit and record it."""
        path = self.run.write_safetensors(_file(unit), tensors)
        self.run.record(unit, {"sha256": sha256_of(path), **payload})

    def read(self, unit: Unit) -> dict[str, Tensor]:
        """The tensors of a unit.

        Raises:
            CrosstaskError: it is not done, or its file is missing or was changed.
        """
        payload, path = self.payload(unit), self.run.folder / _file(unit)
        try:
            if sha256_of(path) == payload["sha256"]:
                return load_file(path)
        except (OSError, SafetensorError):
            pass
        raise CrosstaskError(f"{path} is missing or was changed; delete the folder {self.run.folder} and run again")

    def payload(self, unit: Unit) -> Any:
        """What was recorded of a unit.

        Raises:
            CrosstaskError: it is not done.
        """
        found = self.run.done(unit)
        if found is None:
            raise CrosstaskError(f"unit {' '.join(map(str, unit))} is not done; run the same command again to continue")
        return found


def asked_items(
    asked: str, *, n: int, split: str, difficulty: float, wording: Wording = "brief", size: int, seed: int
) -> list[PerceptionItem]:
    """Items of a split of "task" or "task/form", or of a file.

    Raises:
        CrosstaskError: there are none, or they are no multiple choice.
    """
    data = test_data(asked, n=n, split=split, difficulty=difficulty, wording=wording, size=size, seed=seed)
    items = [data[index] for index in range(len(data))]
    if open_ones := [item.name for item in items if not item.options]:
        raise CrosstaskError(f"item {open_ones[0]!r} of task {asked!r} has no options; expected choices")
    return items


def adapter_fingerprint(folder: Path) -> str:
    """sha256 of an adapter's weights.

    Raises:
        CrosstaskError: the folder holds none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CrosstaskError(f"folder {str(folder)!r} holds no weights of an adapter; expected *.safetensors")
    return " ".join(sha256_of(path) for path in files)


def check_seed(folder: Path, seed: int) -> None:
    """Hold items to others than an adapter was trained on: both are drawn by a seed.

    Raises:
        CrosstaskError: the adapter's record has the same one.
    """
    try:
        config = json.loads((folder / RECORD).read_text(encoding="utf-8"))["config"]
        drawn = config["seed"] if config.get("data_seed") is None else config["data_seed"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # of another tool, whose items are none of ours
    if drawn == seed:
        raise CrosstaskError(
            f"seed {seed} is the one that the examples of {str(folder)!r} were drawn with; expected another, so that "
            "vectors are of items that no training has seen"
        )


def results_folder(experiment: str, model: str, config: Mapping[str, Any]) -> Path:
    """runs/<experiment>/<model>-<what the settings hash to>; the same settings, the same folder."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:6]
    return Path("runs") / experiment / f"{'--'.join(Path(model).parts[-2:]).strip('/-')}-{digest}"


def _file(unit: Unit) -> str:
    return "states/" + "-".join(plain(str(part)) for part in unit) + ".safetensors"
