"""Run folders: what is recorded survives a kill, and nothing is half-written."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from safetensors import safe_open

from interp.environment import describe_environment
from interp.errors import CrosstaskError
from interp.runs import Run, hold_to_config, read_journal

CONFIG = {"model": "bundled", "shots": 5, "tasks": ("country-capital", "food-color"), "template": {"separator": "\n\n"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "trial"


def journal(folder: Path) -> Path:
    return folder / "journal.jsonl"


def test_finished_units_are_there_when_the_run_is_continued(folder):
    payload = {"text": "Paris\u2028é", "score": 0.1 + 0.2, "layers": np.arange(3), "vector": torch.ones(2)}
    with Run.open(folder, CONFIG) as run:
        run.record(("country-capital", 3, "image"), payload)
        run.record("plain", {"n": 1})
    with Run.open(folder, CONFIG) as again:
        assert again.done(["country-capital", 3, "image"]) == {
            "text": "Paris\u2028é",
            "score": 0.1 + 0.2,
            "layers": [0, 1, 2],
            "vector": [1.0, 1.0],
        }
        assert again.done("plain") == {"n": 1}
        assert again.done("never") is None
        assert len(again) == 2


def test_payload_reads_the_same_before_and_after_a_restart(folder):
    with Run.open(folder, CONFIG) as run:
        run.record("unit", {"pair": (1, 2), "path": Path("a/b")})
        before = run.done("unit")
    with Run.open(folder, CONFIG) as run:
        assert run.done("unit") == before == {"pair": [1, 2], "path": "a/b"}


def test_later_change_of_a_payload_does_not_reach_what_was_recorded(folder):
    rows = [1]
    with Run.open(folder, CONFIG) as run:
        run.record("unit", {"rows": rows})
        rows.append(2)
        assert run.done("unit") == {"rows": [1]}


def test_unit_is_recorded_once(folder):
    with Run.open(folder, CONFIG) as run:
        run.record("unit", {})
        with pytest.raises(ValueError, match="already recorded"):
            run.record("unit", {})


@pytest.mark.parametrize("torn", [b'{"key": "c', b'{"key": "c", "payload": {}}', b"\0\0\0\0", b"\0\0\n\0\0"])
def test_torn_last_line_is_cut_off_and_its_unit_done_again(folder, torn):
    with Run.open(folder, CONFIG) as run:
        run.record("a", {"n": 1})
        run.record("b", {"n": 2})
    whole = journal(folder).read_bytes()
    journal(folder).write_bytes(whole + torn)
    with Run.open(folder, CONFIG) as run:
        assert run.done("b") == {"n": 2}
        assert run.done("c") is None
        assert journal(folder).read_bytes() == whole
        run.record("c", {"n": 3})
    with Run.open(folder, CONFIG) as run:
        assert [run.done(key) for key in "abc"] == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_damage_in_the_middle_of_the_journal_is_an_error(folder):
    with Run.open(folder, CONFIG) as run:
        run.record("a", {})
    journal(folder).write_bytes(b"garbage\n" + journal(folder).read_bytes())
    with pytest.raises(CrosstaskError, match=r"journal.jsonl, line 1 cannot be read"):
        Run.open(folder, CONFIG)


KILLED = """
import os, sys
from interp.runs import Run
run = Run.open(sys.argv[1], {"n": 1})
for unit in range(1000):
    if run.done(f"unit {unit}") is None:
        run.record(f"unit {unit}", {"value": unit})
    print(unit, flush=True)
"""


def test_killed_run_continues_where_it_stopped(folder):
    command = [sys.executable, "-c", KILLED, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Run.open(folder, {"n": 1}) as run:
        assert len(run) >= len(seen) == 5
        assert all(run.done(f"unit {unit}") == {"value": unit} for unit in range(len(run)))


def test_other_configuration_is_an_error_that_shows_the_difference(folder):
    Run.open(folder, CONFIG).close()
    other = {**CONFIG, "shots": 3, "template": {"separator": "\n"}, "seeds": [0]}
    with pytest.raises(CrosstaskError) as caught:
        Run.open(folder, other)
    assert "seeds was absent and is now [0]" in str(caught.value)
    assert "shots was 5 and is now 3" in str(caught.value)
    assert r'template.separator was "\n\n" and is now "\n"' in str(caught.value)
    assert "model" not in str(caught.value)
    assert json.loads((folder / "config.json").read_text())["shots"] == 5


def test_refused_run_can_be_opened_again(folder):
    Run.open(folder, CONFIG).close()
    with pytest.raises(CrosstaskError):
        Run.open(folder, {})
    Run.open(folder, CONFIG).close()


def test_damaged_config_names_the_file(folder):
    Run.open(folder, CONFIG).close()
    (folder / "config.json").write_text("{")
    with pytest.raises(CrosstaskError, match=r"config.json cannot be read"):
        Run.open(folder, CONFIG)


def test_run_in_use_by_another_process_is_an_error(folder):
    command = [sys.executable, "-c", "import sys; from interp.runs import Run; Run.open(sys.argv[1], {})", str(folder)]
    with Run.open(folder, {}):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Another process is writing to" in done.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_run_left_open_by_an_error_can_be_continued_by_the_same_process(folder):
    left_open = Run.open(folder, CONFIG)
    left_open.record("a", {})
    with Run.open(folder, CONFIG) as run:
        run.record("b", {})
        with pytest.raises(CrosstaskError, match="changed by something else"):
            left_open.record("c", {})
    assert len(journal(folder).read_text().splitlines()) == 2


def test_full_disk_leaves_the_journal_as_it_was(folder, monkeypatch):
    with Run.open(folder, CONFIG) as run:
        run.record("a", {})
        before = journal(folder).read_bytes()

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(CrosstaskError, match="No space is left on the disk"):
                run.record("b", {"long": "x" * 100})
        assert journal(folder).read_bytes() == before
        assert run.done("b") is None
        run.record("b", {})
    with Run.open(folder, CONFIG) as run:
        assert run.done("b") == {}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_failed_write_keeps_the_old_file_and_leaves_no_other(folder, monkeypatch, code):
    with Run.open(folder, CONFIG) as run:
        run.write_text("table.txt", "old")
        before = sorted(folder.iterdir())

        def broken(_: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(CrosstaskError, match="run the same command again"):
            run.write_text("table.txt", "new")
        assert (folder / "table.txt").read_text() == "old"
        assert sorted(folder.iterdir()) == before


def test_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CrosstaskError, match=r"file is a file, and a folder is expected"):
        Run.open(tmp_path / "file", CONFIG)
    with pytest.raises(CrosstaskError, match="cannot be written"):
        Run.open(tmp_path / "file" / "below", CONFIG)


def test_folder_that_cannot_be_made_is_an_error(folder, monkeypatch):
    def mkdir(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")  # as below /proc

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(CrosstaskError, match=r"The folder .*trial cannot be made"):
        Run.open(folder, CONFIG)


def test_run_that_ends_before_anything_is_done_leaves_the_folder_to_other_settings(folder):
    with pytest.raises(ValueError, match="an option"), Run.open(folder, CONFIG):
        raise ValueError("an option")

    def fail_later() -> None:
        with Run.open(folder, {**CONFIG, "shots": 9}) as run:
            run.record("unit", {"rate": 1.0})
            raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        fail_later()
    with pytest.raises(CrosstaskError, match="another configuration"):
        Run.open(folder, CONFIG)
    with Run.open(folder, {**CONFIG, "shots": 9}) as run:
        assert run.done("unit") == {"rate": 1.0}


def test_killed_run_of_which_nothing_is_done_keeps_its_folder(folder):
    Run.open(folder, CONFIG).close()  # a killed process does not come to the end of its block
    with pytest.raises(CrosstaskError, match="another configuration"):
        Run.open(folder, {**CONFIG, "shots": 9})


def test_damaged_line_of_a_folder_that_is_not_held_is_an_error(folder):
    with Run.open(folder, CONFIG) as run:
        run.record("one", {})
        run.record("two", {})
    path = folder / "journal.jsonl"
    path.write_bytes(b"{" + path.read_bytes())
    with pytest.raises(CrosstaskError, match=r"journal.jsonl, line 1 cannot be read"):
        read_journal(folder)


def test_results_come_back_as_written(folder):
    table = pd.DataFrame({"task": ["country-capital"], "rate": [1 / 3], "answer": ['say "a,\nb"']})
    with Run.open(folder, CONFIG) as run:
        assert pd.read_csv(run.write_csv("tables/results.csv", table)).equals(table)
        path = run.write_safetensors("vectors/a.safetensors", {"states": torch.eye(3).T[1:]}, {"task": "capital"})
        with safe_open(path, "pt") as file:
            assert torch.equal(file.get_tensor("states"), torch.eye(3)[1:])
            assert file.metadata() == {"task": "capital"}
        lines = run.write_jsonl("predictions.jsonl", [{"text": "á"}, {"text": "b"}]).read_text(encoding="utf-8")
        assert lines == '{"text": "á"}\n{"text": "b"}\n'
        assert [path.name for path in folder.rglob(".*")] == [".lock"]


def test_same_figure_gives_the_same_bytes(folder):
    def draw(name: str) -> list[bytes]:
        figure = Figure()
        figure.subplots().plot([1, 2, 3])
        return [path.read_bytes() for path in run.write_figure(name, figure)]

    with Run.open(folder, CONFIG) as run:
        assert draw("figures/a") == draw("figures/b")
        assert {path.name for path in (folder / "figures").iterdir()} == {"a.png", "a.pdf", "b.png", "b.pdf"}


def test_environment_says_on_what_it_ran_and_names_no_machine(folder):
    with Run.open(folder, CONFIG, seeds=[0, 1], models={"bundled": "ab12"}) as run:
        run.record_models({"other": "cd34"})
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seeds"] == [0, 1]
    assert environment["models"] == {"bundled": "ab12", "other": "cd34"}
    assert environment["started"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    text = (folder / "environment.json").read_text()
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text


def test_continuing_on_the_same_machine_adds_nothing_to_the_environment(folder, monkeypatch):
    Run.open(folder, CONFIG).close()
    before = (folder / "environment.json").read_bytes()
    Run.open(folder, CONFIG).close()
    assert (folder / "environment.json").read_bytes() == before
    monkeypatch.setattr("interp.runs.describe_environment", lambda: {**describe_environment(), "python": "9.9"})
    Run.open(folder, CONFIG).close()
    environment = json.loads((folder / "environment.json").read_text())
    assert [entry["python"] for entry in environment["continued"]] == ["9.9"]


def test_run_is_not_continued_with_other_weights(folder):
    Run.open(folder, CONFIG, models={"bundled": "a" * 64}).close()
    with Run.open(folder, CONFIG) as run, pytest.raises(CrosstaskError, match="weights aaaaaaaaaaaa of 'bundled'"):
        run.record_models({"bundled": "b" * 64})


def test_error_of_the_block_is_told_though_the_folder_is_gone(folder):
    with pytest.raises(ValueError, match="the real one"), Run.open(folder, CONFIG):
        fail_without(folder)
    with Run.open(folder, CONFIG) as run:  # and its lock is free
        assert len(run) == 0


def fail_without(folder: Path) -> None:
    shutil.rmtree(folder)
    raise ValueError("the real one")


def test_run_lets_go_of_its_folder_though_one_below_it_did_so_before(folder):
    def fail(below: Path) -> None:
        with Run.open(below, {"training": 1}):
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"), Run.open(folder, CONFIG):
        fail(folder / "run")
    Run.open(folder, {**CONFIG, "shots": 9}).close()


def test_folder_without_a_configuration_may_be_of_any(folder):
    hold_to_config(folder, CONFIG)
    Run.open(folder, CONFIG).close()
    hold_to_config(folder, CONFIG)
    with pytest.raises(CrosstaskError, match="another configuration"):
        hold_to_config(folder, {**CONFIG, "shots": 9})


def test_folder_below_one_that_may_not_be_looked_into_is_an_error(folder, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("mkdir", "exists", "is_dir"):
        monkeypatch.setattr(Path, name, refused)
    with pytest.raises(CrosstaskError, match="cannot be written"):
        Run.open(folder, CONFIG)
