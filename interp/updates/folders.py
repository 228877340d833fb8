"""Updates from folders: adapters and checkpoints anywhere, or all of a transfer matrix, each with a task and a seed.

A folder may be given as itself or as NAME=FOLDER, NAME@SEED=FOLDER. One that holds no update stands for all that are
below it. Without a name, the task and the seed are what the runner's record says (run.json, or the job of a matrix); of
a folder from elsewhere, its name, without what only says that it is an adapter, and `-seed3` at its end is the seed.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import CrosstaskError
from interp.transfer.names import identity, ordered
from interp.tuning.matrix.jobs import TRAINED, finished_units, share
from interp.tuning.matrix.plan import task_of
from interp.tuning.strategies.base import DELTA
from interp.updates.checkpoint import INDEX, SINGLE, Weights, read_checkpoint, read_delta
from interp.updates.lora import CONFIG, read_json, read_lora
from interp.updates.update import Name, Update

ADAPTER, RECORD = "adapter", "run.json"
"""As the runner writes them; importing it would take longer than comparing."""

_GIVEN = re.compile(r"^([^/=@]+)(?:@(\d+))?=(.+)$")
_SEED = re.compile(r"^(.*?)[-_.]?seed[-_]?(\d+)$", re.IGNORECASE)
_GENERIC = re.compile(r"^(?:adapter|run|final|last|best|model|checkpoint-?\d*|snapshots|[\d.]+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A folder with an update.

    Attributes:
        name: task and seed.
        folder: the folder.
        record: the runner's record, or nothing.
    """

    name: Name
    folder: Path
    record: Mapping[str, Any]


def read_updates(
    given: Sequence[Path | str], *, base: Path | None = None, fraction: float = 1.0, least: int = 2
) -> list[Update]:
    """The updates of folders.

    Args:
        given: folders, NAME=FOLDER, or folders of transfer matrices.
        base: folder of the base model, for whole checkpoints.
        fraction: share of the training whose adapters a matrix gives.
        least: fewest updates that the question needs.

    Returns:
        Updates by task, in the order of the paper, then by seed.

    Raises:
        CrosstaskError: a folder holds no update, one that cannot be compared, or none of the base model of the others;
            two have one task and seed; or there are too few.
    """
    found = [one for text in given for one in find_folders(text, fraction=fraction)]
    _refuse_clashes(found)
    if len(found) < least:
        raise CrosstaskError(f"{len(found)} updates were given, and at least {least} are needed to compare")
    weights = Weights(base, of="base") if base is not None else None
    updates = [_read(one, weights) for one in found]
    _check_bases(updates)
    order = {task: place for place, task in enumerate(ordered({update.name.task for update in updates}))}
    return sorted(updates, key=lambda update: (order[update.name.task], update.name.seed))


def find_folders(given: Path | str, *, fraction: float = 1.0) -> list[Found]:
    """The folders with updates that one argument stands for, in the order of their names.

    Raises:
        CrosstaskError: there are none.
    """
    named = None if Path(given).exists() else _GIVEN.match(str(given))
    folder = Path(named[3] if named else given)
    if not folder.is_dir():
        raise CrosstaskError(f"{str(folder)!r} is no folder; expected one with an adapter, a checkpoint or a matrix")
    if (folder / "jobs" / "train").is_dir():
        return _of_matrix(folder, fraction)
    if not _holds_update(folder) and (folder / ADAPTER).is_dir():
        folder = folder / ADAPTER  # a run of the runner
    if not named and not _holds_update(folder):
        below = [one for inner in _inner(folder) for one in find_folders(inner, fraction=fraction)]
        if below:
            return below
    record = read_json(folder / RECORD, str(folder)) if (folder / RECORD).is_file() else {}
    if named:
        return [Found(Name(named[1], int(named[2] or 0)), folder, record)]
    return [Found(_name_of(folder, record), folder, record)]


def _inner(folder: Path) -> list[Path]:
    """Folders in a folder in which, or below which, there is an update."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in inner if next(_below(path, CONFIG, DELTA, SINGLE, INDEX), None)]


def _below(folder: Path, *files: str) -> Iterator[Path]:
    """Folders that hold one of some files: a folder and all below it, though a training at work may remove some."""
    return (Path(path) for path, _, inside in os.walk(folder) if not set(files).isdisjoint(inside))


def _of_matrix(root: Path, fraction: float) -> list[Found]:
    """Every finished training of a matrix, at a share of its steps."""
    found = []
    trainings = root / "jobs" / "train"
    journals = (path for depth in ("*/*", "*/*/*") for path in trainings.glob(f"{depth}/journal.jsonl"))
    for path in sorted(journals):  # not below, where a training at work makes and removes checkpoints
        key = path.parent.relative_to(root / "jobs").as_posix()
        payload = finished_units(root, key).get(TRAINED)
        if payload is None:
            continue
        job = read_json(path.parent / "config.json", key)
        if len(payload["adapters"]) == 1 and abs(job.get("fraction", 1.0) - fraction) > 1e-9:
            continue  # a training of its own for another share
        folder = path.parent / "run" / payload["adapters"][share(fraction, payload["adapters"])]
        record = read_json(folder / RECORD, key) if (folder / RECORD).is_file() else {}
        found.append(Found(Name(task_of(job["source"]), int(job["seed"])), folder, record))
    if not found:
        raise CrosstaskError(f"no training of the matrix in {root} is finished at {fraction:g} of its steps")
    return found


def _name_of(folder: Path, record: Mapping[str, Any]) -> Name:
    """Task and seed of a folder that was given without a name."""
    config = record.get("config", {})
    if "task" in config:
        return Name(identity(task_of(str(config["task"]))), int(config.get("seed") or 0))
    seed = None
    for part in (folder.resolve(), *folder.resolve().parents):
        match = _SEED.match(part.name)
        if match and seed is None:
            seed = int(match[2])
        name = match[1] if match else part.name
        if name and not _GENERIC.match(name):
            return Name(identity(name), seed or 0)
    return Name(folder.resolve().name, seed or 0)


def _holds_update(folder: Path) -> bool:
    return any((folder / file).is_file() for file in (CONFIG, DELTA, SINGLE, INDEX))


def _read(found: Found, base: Weights | None) -> Update:
    name, folder = found.name, found.folder
    if (folder / CONFIG).is_file():
        return read_lora(folder, name, record=found.record)
    if (folder / DELTA).is_file():
        return read_delta(folder, name, record=found.record)
    if found.record.get("strategy") == "freeze":
        raise CrosstaskError(f"update {str(name)!r} in {folder} is of strategy 'freeze', which changes nothing")
    if (folder / SINGLE).is_file() or (folder / INDEX).is_file():
        return read_checkpoint(folder, name, base=base)
    inside = sorted(_below(folder, CONFIG))[:1]
    hint = f"; there is one in {inside[0]}" if inside else ""
    raise CrosstaskError(f"folder {str(folder)!r} holds none of {CONFIG}, {DELTA}, {SINGLE} and {INDEX}{hint}")


def _refuse_clashes(found: Sequence[Found]) -> None:
    by_name: dict[Name, Found] = {}
    for one in found:
        other = by_name.setdefault(one.name, one)
        if other is not one:
            raise CrosstaskError(
                f"{other.folder} and {one.folder} are both called {str(one.name)!r}: name them, as "
                f"{one.name.task}@0={other.folder} and {one.name.task}@1={one.folder} for two seeds of a task"
            )


def _check_bases(updates: Sequence[Update]) -> None:
    """Updates of different models have nothing in common; what is known of their weights decides, and names warn."""
    prints = {str(update.record["fingerprint"]): update for update in updates if "fingerprint" in update.record}
    quantised = any((update.record.get("config", {}).get("loading") or {}).get("quantize") for update in updates)
    if len(prints) > 1 and not quantised:
        (first, one), (second, other) = list(prints.items())[:2]
        raise CrosstaskError(
            f"update {str(one.name)!r} was trained on weights {first[:12]} and {str(other.name)!r} on {second[:12]}: "
            "updates of different models cannot be compared"
        )
    bases = {Path(update.base).name.lower(): update for update in updates if update.base}
    if len(bases) > 1 and len(prints) != 1:
        one, other = list(bases.values())[:2]
        warnings.warn(
            f"update {str(one.name)!r} names base model {one.base!r} and {str(other.name)!r} names {other.base!r}; "
            "updates of different models cannot be compared, so make sure that these are one",
            stacklevel=3,
        )
