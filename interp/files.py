"""Writing files so that a reader finds a whole file or none, and a full disk says so in one sentence.

A file is written under a temporary name beside its own, flushed to the disk, and renamed: on one file system a rename
is atomic. The temporary name keeps the suffix, which matplotlib and others read the format from.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from interp.errors import CrosstaskError


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


REMEDY = "make room or permission there, or name another folder"


@contextlib.contextmanager
def atomic_file(path: Path, *, remedy: str = REMEDY) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` if the block ends without an error.

    Raises:
        CrosstaskError: The disk is full, or the folder cannot be written.
    """
    draft = path.with_name(f".{os.getpid()}-{path.name}")
    with disk_errors(path.parent, remedy=remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            sync(draft)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(folder: Path, *, remedy: str = REMEDY) -> Iterator[None]:
    """Turn what an operating system says about a full or read-only disk into one sentence.

    Raises:
        CrosstaskError: In place of the error of the block, if it was one of the disk's.
    """
    try:
        yield
    except CrosstaskError:
        raise
    except Exception as error:
        # safetensors and tokenizers write from Rust and pass the system's words on in exceptions of their own.
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            raise CrosstaskError(f"No space is left on the disk of {folder}: {remedy}.") from error
        if os.path.exists(folder) and not os.path.isdir(folder):  # Path's would raise where it may not look
            raise CrosstaskError(f"{folder} is a file, and a folder is expected: name another.") from error
        if code == errno.ENOENT and not os.path.isdir(folder):
            raise CrosstaskError(f"The folder {folder} cannot be made ({error}): {remedy}.") from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise CrosstaskError(f"The folder {folder} cannot be written ({error}): {remedy}.") from error
        raise


def sync(path: Path) -> None:
    """Flush a file to the disk, so that a rename never overtakes its contents."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
