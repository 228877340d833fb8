"""The main job on the bundled pair for real: started as a user starts it, killed, and started again."""

import shlex
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

OPTIONS = shlex.split(
    "--tasks country-capital --wrong-tasks country-currency --source text --source-model bundled-llm "
    "--layers 22 --contexts 2 --selection-items 2 --test-items 20"
)
ROOT = Path(__file__).parents[2]


def _start(out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "experiments.cross_modal_patch", *OPTIONS, "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _kill_when_units_are_done(out: Path, count: int) -> None:
    process, journal = _start(out), out / "journal.jsonl"
    try:
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= count):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_text_vector_of_the_base_model_does_its_task_on_images(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _kill_when_units_are_done(out, 3)
    assert not (out / "results.csv").exists()
    again = _start(out)
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert "Continuing: " in said
    assert said.rstrip().splitlines()[-1] == str(out / "report.html")

    results = pd.read_csv(out / "results.csv").query("layer_choice != 'task'")
    rate = results.set_index(["query", "method", "source"])["exact"].to_dict()
    assert rate["text", "prompt", "text"] >= 0.2  # five examples are enough for some capitals
    assert rate["text", "patch_mean", "text"] >= 0.1
    # The claim of the experiment, at the size of a test: a vector that the base LLM formed on text makes the VLM answer
    # pictures, where the same examples as a prompt do not, and neither a random vector nor another task's does.
    assert rate["image", "patch_mean", "text"] > rate["image", "prompt", "text"]
    for method in ("no_context", "control_random", "control_wrong_task"):
        assert set(results.loc[results["method"] == method, "exact"]) == {0.0}
