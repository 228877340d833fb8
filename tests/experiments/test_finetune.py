"""The command line of fine-tuning on a tiny model: settings, presets, what it writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import tyro
from PIL import Image as Pillow

from experiments import common
from experiments.finetune import MODULE, Arguments, main, run_folder, tune_config
from interp.errors import CrosstaskError
from tests.tiny import tiny_llava

SMALL = ["--steps", "2", "--batch", "4", "--examples", "4", "--size", "32", "--learning-rate", "1e-2"]


def parsed(*argv: str) -> Arguments:
    return tyro.cli(Arguments, args=list(argv))


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command on a tiny model in a temporary folder."""
    monkeypatch.setattr("interp.models.base.load_model", lambda name, **options: tiny_llava(dtype=torch.float32))
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> int:
        options = [*SMALL, "--features-at", str(tmp_path / "features"), "--device", "cpu", *argv]
        return common.run(Arguments, main, module=MODULE, argv=options)

    return call


def test_command_writes_adapter_curve_and_figure(
    tuned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuned("--out", "run") == 0
    folder = tmp_path / "run"
    assert {"README.md", "run.json", "adapter_model.safetensors"} <= {p.name for p in (folder / "adapter").iterdir()}
    assert pd.read_csv(folder / "curve.csv")["step"].tolist() == [1, 2]
    assert (folder / "figures" / "loss.png").is_file()
    assert json.loads((folder / "environment.json").read_text())["seeds"] == [0]
    said = capsys.readouterr().out
    assert "2 steps on 8 examples" in said
    assert said.splitlines()[-1] == "run/adapter"
    assert tuned("--out", "run") == 0  # finished: it is read


def test_same_settings_have_the_same_folder(tuned: Any, tmp_path: Path) -> None:
    assert tuned("--task", "RD") == 0
    assert tuned("--task", "RD", "--micro-batch", "2") == 0
    (first,) = (tmp_path / "runs" / "finetune").iterdir()
    assert first.name.startswith("bundled-RD-lora-")
    assert tuned("--task", "RD", "--seed", "1") == 0
    assert len(list((tmp_path / "runs" / "finetune").iterdir())) == 2


def test_frozen_baseline_has_no_curve(tuned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuned("--strategy", "freeze", "--out", "run") == 0
    assert "Nothing was trained" in capsys.readouterr().out
    assert not (tmp_path / "run" / "figures").exists()


def test_own_conversations_are_learnt(tuned: Any, tmp_path: Path) -> None:
    Pillow.new("RGB", (12, 10), "red").save(tmp_path / "a.png")
    row = {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhich?"}]}
    row["conversations"].append({"from": "gpt", "value": "(A)"})  # type: ignore[attr-defined]
    (tmp_path / "mine.jsonl").write_text("\n".join([json.dumps(row)] * 4))
    assert tuned("--task", "mine.jsonl", "--out", "run") == 0
    assert json.loads((tmp_path / "run" / "adapter" / "run.json").read_text())["data"]["examples"] == 4
    (tmp_path / "mine.jsonl").write_text("\n".join([json.dumps(row)] * 5))
    assert tuned("--task", "mine.jsonl", "--out", "run") == 2  # other data under the same settings


def test_wrong_data_ends_the_command_before_it_trains(
    tuned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"from": "human", "value": "<image>Which?"}, {"from": "gpt", "value": "(A)"}]
    (tmp_path / "mine.jsonl").write_text(json.dumps({"image": "missing.png", "conversations": turns}))
    assert tuned("--task", "mine.jsonl", "--examples", "1", "--out", "run") == 2
    said = capsys.readouterr().err
    assert "missing.png" in said
    assert "mine.jsonl" in said
    assert not (tmp_path / "run" / "adapter").exists()


REFUSED = {
    "task": (["--task", "relative_dept"], "did you mean relative_depth"),
    "form": (["--task", "RD", "--form", "rhymes"], "rhymes"),
    "preset": (["--preset", "sachdeva"], "there is no preset 'sachdeva'"),
    "deepspeed": (["--deepspeed", "zero2"], "needs the package deepspeed"),
    "pixels": (["--max-pixels", "1000"], "without pixel limits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_sentence(
    case: str, tuned: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, message = REFUSED[case]
    assert tuned(*argv, "--out", "run") == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert len(said.strip().splitlines()) == 1


def test_preset_holds_until_an_option_is_given() -> None:
    plain = tune_config(parsed("--task", "JG", "--preset", "sachdeva-qwen2.5-vl-7b"))
    assert plain.model == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert (plain.deepspeed, plain.loading.dtype, plain.max_pixels) == ("zero2", "bfloat16", 50_176)
    assert plain.n_steps(plain.n_examples) == 920
    other = tune_config(
        parsed(
            "--task",
            "JG",
            "--preset",
            "sachdeva-qwen2.5-vl-7b",
            "--deepspeed",
            "none",
            "--steps",
            "5",
            "--device",
            "cpu",
        )
    )
    assert other.deepspeed is None
    assert (other.n_steps(100), other.loading.dtype, other.loading.device) == (5, "bfloat16", "cpu")


def test_defaults_of_the_command_are_those_of_the_settings() -> None:
    from interp.tuning.config import TuneConfig

    assert tune_config(parsed()) == TuneConfig("relative_depth")


def test_folder_is_named_for_model_task_and_strategy() -> None:
    config = tune_config(parsed("--model", "llava-hf/llava-1.5-7b-hf", "--task", "RD/yes_no"))
    assert run_folder(config).name.startswith("llava-hf--llava-1.5-7b-hf-RD-yes_no-lora-")


def test_remote_model_is_refused() -> None:
    with pytest.raises(CrosstaskError, match="held elsewhere"):
        tune_config(parsed("--device", "remote"))
