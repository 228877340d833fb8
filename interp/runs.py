"""Run folders: what was asked, on what it ran, what is finished, and its results.

    config.json        the settings that decide the numbers; opening the folder with other settings is an error
    environment.json   versions, git commit, hardware, seeds and model file hashes, for the start and each continuation
    journal.jsonl      one line per finished unit of work: {"key": ..., "payload": ...}
    everything else    tables, tensors and figures, each written under a temporary name and renamed

A unit of work is recorded when it is done, and the line is on the disk before `record` returns. A process killed in the
middle of a line leaves a torn last line: it is cut off at the next start, and its unit is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import filelock

from interp.environment import describe_environment
from interp.errors import CrosstaskError
from interp.files import atomic_file, disk_errors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

CONFIG, ENVIRONMENT, JOURNAL, LOCK = "config.json", "environment.json", "journal.jsonl", ".lock"
_REMEDY = "make room or permission there and run the same command again, which continues where this run stopped"


class Run:
    """One run folder, held by one process at a time. Use it as a context manager, or call `close`.

    Attributes:
        folder: The run folder.
        config: The settings as they stand in config.json.
    """

    def __init__(self, folder: Path, config: dict[str, Any], lock: filelock.BaseFileLock) -> None:
        self.folder, self.config = folder, config
        self._lock = lock
        self._done: dict[str, Any] = {}
        self._end = 0  # bytes of the journal that are whole lines
        self._new = False  # whether this process began the run

    @classmethod
    def open(
        cls,
        folder: Path | str,
        config: Mapping[str, Any],
        *,
        seeds: Sequence[int] = (),
        models: Mapping[str, str] | None = None,
    ) -> Self:
        """Create a run folder, or continue the run in it.

        Args:
            folder: Where; created if it is missing.
            config: The settings that decide the numbers, as JSON values (paths and tuples are converted). Leave out
                what does not change a result, such as a batch size.
            seeds: Random seeds of the run, for environment.json.
            models: Model name -> sha256 of its weights, as `record_models`.

        Raises:
            CrosstaskError: The folder holds another configuration, other models, a damaged file, something that is
                not a run, is in use by another process, or cannot be written.
        """
        folder = Path(folder)
        with disk_errors(folder, remedy=_REMEDY):
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder, json.loads(_json(config)), _locked(folder))
        try:
            run._settle_config()
            run._read_journal()
            run._note_environment(seeds)
            run.record_models(models or {})
        except BaseException:
            run.close()
            raise
        return run

    def close(self) -> None:
        """Let other processes open the folder."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; a run that an error ended before anything was done leaves the folder to other settings."""
        try:
            if kind is not None and self._new and _is_empty(self.folder):
                for name in (CONFIG, ENVIRONMENT):
                    (self.folder / name).unlink(missing_ok=True)
        except OSError:
            pass  # the block's own error says more
        finally:
            self.close()

    # Finished units of work

    def done(self, key: str | Sequence[Any]) -> Any | None:
        """What was recorded for a unit of work, or None if it is still to do."""
        return self._done.get(_key(key))

    def record(self, key: str | Sequence[Any], payload: Mapping[str, Any]) -> None:
        """Note a unit of work as finished; it is on the disk when this returns.

        Args:
            key: Names the unit: a string, or a sequence of JSON values.
            payload: Its results as JSON values. Floats come back exactly.

        Raises:
            CrosstaskError: The disk is full; the journal is as it was before.
            ValueError: The key was recorded before.
        """
        name = _key(key)
        if name in self._done:
            raise ValueError(f"unit {name} is already recorded in {self.folder / JOURNAL}")
        line = json.dumps({"key": name, "payload": payload}, default=_plain) + "\n"
        encoded = line.encode()
        path = self.folder / JOURNAL
        if (path.stat().st_size if path.exists() else 0) != self._end:
            raise CrosstaskError(f"{path} was changed by something else while this run was writing it.")
        with disk_errors(self.folder, remedy=_REMEDY):
            _append(path, self._end, encoded)
        self._end += len(encoded)
        self._done[name] = json.loads(line)["payload"]

    def __len__(self) -> int:
        """Number of finished units."""
        return len(self._done)

    # Results. Names are relative to the run folder; missing folders are created.

    def write_text(self, name: str | Path, text: str) -> Path:
        """Write a text file, whole or not at all, and return its path."""
        with self._atomic(name) as draft:
            draft.write_text(text, encoding="utf-8")
        return self.folder / name

    def write_json(self, name: str | Path, value: Any) -> Path:
        """Write JSON with sorted keys."""
        return self.write_text(name, _json(value))

    def write_jsonl(self, name: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write one JSON object a line."""
        with self._atomic(name) as draft, draft.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, default=_plain, ensure_ascii=False) + "\n" for row in rows)
        return self.folder / name

    def write_csv(self, name: str | Path, table: pd.DataFrame) -> Path:
        """Write a table without its index; floats in full precision."""
        with self._atomic(name) as draft:
            table.to_csv(draft, index=False, lineterminator="\n")
        return self.folder / name

    def write_safetensors(
        self, name: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None
    ) -> Path:
        """Write tensors, with strings in the file's header."""
        from safetensors.torch import save_file

        with self._atomic(name) as draft:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, draft, metadata=dict(header or {}))
            draft.chmod(0o644)  # safetensors writes 0600
        return self.folder / name

    def write_figure(self, name: str | Path, figure: Figure, *, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
        """Write a figure in each format, the suffix added to `name`; the same figure gives the same bytes."""
        paths = [self.folder / f"{name}.{suffix}" for suffix in formats]
        for path in paths:
            undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(path.suffix[1:], {})
            with self._atomic(path.relative_to(self.folder)) as draft:
                figure.savefig(draft, dpi=200, metadata=undated)
            figure.set_layout_engine("none")  # as it was laid out for the first format
        return paths

    def record_models(self, models: Mapping[str, str]) -> None:
        """Note the weights of models in environment.json.

        Args:
            models: Model name -> sha256 of its weights.

        Raises:
            CrosstaskError: The run was begun with other weights under the same name.
        """
        environment = _read_json(self.folder / ENVIRONMENT)
        known = environment["models"]
        for name, fingerprint in models.items():
            if known.get(name, fingerprint) != fingerprint:
                raise CrosstaskError(
                    f"The run in {self.folder} was begun with weights {known[name][:12]} of {name!r}, and these "
                    f"are {fingerprint[:12]}: choose another output folder."
                )
        if not models.items() <= known.items():
            self.write_json(ENVIRONMENT, {**environment, "models": {**known, **models}})

    def _atomic(self, name: str | Path) -> AbstractContextManager[Path]:
        return atomic_file(self.folder / name, remedy=_REMEDY)

    def _settle_config(self) -> None:
        """Write the configuration of a new run; hold a continued one to its own."""
        path = self.folder / CONFIG
        if path.exists():
            differences = _differences(_read_json(path), self.config)
            if differences:
                raise CrosstaskError(
                    f"{self.folder} holds a run with another configuration ({'; '.join(differences)}): choose another "
                    "output folder, or delete this one."
                )
        elif (self.folder / JOURNAL).exists():
            raise CrosstaskError(f"{self.folder} has a {JOURNAL} but no {CONFIG}: choose another output folder.")
        else:
            self._new = True
            self.write_json(CONFIG, self.config)

    def _read_journal(self) -> None:
        """Read the finished units, and cut off a torn last line."""
        path = self.folder / JOURNAL
        content = path.read_bytes() if path.exists() else b""
        lines = content.splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            unit = _unit(line)
            if unit is None:
                if any(_unit(later) for later in lines[number:]):
                    raise CrosstaskError(f"{path}, line {number} cannot be read: choose another output folder.")
                break
            self._done[unit["key"]] = unit["payload"]
            self._end += len(line)
        if self._end < len(content):
            with disk_errors(self.folder, remedy=_REMEDY):
                _append(path, self._end, b"")

    def _note_environment(self, seeds: Sequence[int]) -> None:
        """Describe this machine, unless the last entry already does."""
        path = self.folder / ENVIRONMENT
        found = describe_environment()
        if not path.exists():
            self.write_json(path.name, {"seeds": list(seeds), "models": {}, "started": found, "continued": []})
            return
        known = _read_json(path)
        last = known["continued"][-1] if known["continued"] else known["started"]
        if {**last, "date": None} != {**json.loads(_json(found)), "date": None}:
            self.write_json(path.name, {**known, "continued": [*known["continued"], found]})


def read_journal(folder: Path) -> dict[str, Any]:
    """The finished units of a folder with what was recorded of them, read without holding the folder.

    Raises:
        CrosstaskError: a line is damaged.
    """
    path = folder / JOURNAL
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else (), start=1):
        if not line.endswith(b"\n"):
            break  # torn by a kill; the next to open the folder cuts it off
        unit = _unit(line)
        if unit is None:
            raise CrosstaskError(f"{path}, line {number} cannot be read: delete the folder, or name another.")
        found[unit["key"]] = unit["payload"]
    return found


def hold_to_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder of another configuration, without holding it; one that has none yet may be any.

    Raises:
        CrosstaskError: with what differs.
    """
    try:
        found = _read_json(folder / CONFIG)
    except CrosstaskError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return  # none yet, or a run that ended before anything was done has just taken it away
        raise
    if found != json.loads(json.dumps(config)):
        Run.open(folder, config).close()  # says what differs


def _is_empty(folder: Path) -> bool:
    """Whether nothing is done of a run, nor of runs below it that have let go of their folders."""
    found = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
    return all(path.name == LOCK or path in (Path(CONFIG), Path(ENVIRONMENT)) for path in found)


def _locked(folder: Path) -> filelock.BaseFileLock:
    # One lock a process: a run that an error left open must not keep the same process from continuing it.
    lock = filelock.FileLock(folder.resolve() / LOCK, blocking=False, is_singleton=True)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise CrosstaskError(
            f"Another process is writing to {folder}: wait for it, or choose another output folder."
        ) from error
    return lock


def _append(path: Path, end: int, line: bytes) -> None:
    """Make `line` follow the first `end` bytes of a file, and nothing follow it; undone if the disk is full."""
    with path.open("r+b" if path.exists() else "xb") as file:
        try:
            file.seek(end)
            file.write(line)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)
            raise


def _unit(line: bytes) -> dict[str, Any] | None:
    """A journal line's unit, or None if the line is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        unit = json.loads(line)
        return unit if isinstance(unit, dict) and {"key", "payload"} <= unit.keys() else None
    except ValueError:
        return None


def _key(key: str | Sequence[Any]) -> str:
    return key if isinstance(key, str) else json.dumps(list(key), default=_plain)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, default=_plain, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """JSON value of what json does not know: paths, sets, and the scalars and arrays of NumPy and PyTorch."""
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value: {value!r}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrosstaskError(f"{path} cannot be read ({error}): choose another output folder.") from error


def _differences(was: Any, now: Any, name: str = "") -> list[str]:
    """Each setting that differs, as "name was x and is now y"."""
    if isinstance(was, dict) and isinstance(now, dict):
        prefix = f"{name}." if name else ""
        pairs = [(key, was.get(key, _ABSENT), now.get(key, _ABSENT)) for key in sorted(was.keys() | now.keys())]
        return [text for key, old, new in pairs for text in _differences(old, new, f"{prefix}{key}")]
    if was == now:
        return []
    shown = ["absent" if value is _ABSENT else json.dumps(value, ensure_ascii=False) for value in (was, now)]
    return [f"{name or 'the whole'} was {shown[0]} and is now {shown[1]}"]


_ABSENT = object()
