"""Models and tasks on disk, for tests that start an experiment from its command line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments import common
from tests import tiny


def make_task(folder: Path, answers: Sequence[str], *, items: int = 12, images: bool = True) -> Path:
    """A task of 8 selection and 4 test items; the answers go round."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(items):
        rows.append({"input": f"thing {i}: x", "output": answers[i % len(answers)], "image": f"{i}.png"})
        rows[-1]["split"] = "selection" if i < 2 * items // 3 else "test"
        if images:
            tiny.picture(i).load().save(folder / f"{i}.png")
        else:
            del rows[-1]["image"]
    columns = ["input", "output", *(["image"] if images else []), "split"]
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "instruction.txt").write_text("The kind of the thing:")
    return folder


class Place:
    """Models and tasks on disk, and the command line over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vlm, self.llm = folder / "vlm", folder / "llm"
        llava, llama = tiny.tiny_llava(), tiny.tiny_llama()
        llava.module.save_pretrained(self.vlm)
        assert llava.processor is not None
        llava.processor.save_pretrained(self.vlm)
        llama.module.save_pretrained(self.llm)
        llama.tokenizer.save_pretrained(self.llm)
        self.kinds = make_task(folder / "kinds", ["cat", "dog", "ox"])
        self.colours = make_task(folder / "colours", ["red", "blue"])

    def arguments(self, out: Path, *more: object, full: bool = True) -> list[str]:
        """A run over everything, or (full=False) over nothing but text; later options win over earlier ones."""
        given = ["--model", self.vlm, "--tasks", self.kinds, self.colours, "--wrong-tasks", self.kinds, self.colours]
        given += ["--source-model", self.vlm, *([self.llm] if full else []), "--out", out, "--shots", 2]
        given += ["--contexts", 3, "--max-new-tokens", 4, "--dtype", "float64"]
        given += [] if full else ["--source", "text", "--query", "text"]
        return list(map(str, (*given, *more)))


def killed(finished: Path, out: Path, share: float) -> None:
    """A copy of a finished run's folder as if it had been killed when this share of its journal was written."""
    for name in ("config.json", "environment.json"):
        out.mkdir(exist_ok=True)
        (out / name).write_bytes((finished / name).read_bytes())
    journal = (finished / "journal.jsonl").read_bytes()
    (out / "journal.jsonl").write_bytes(journal[: int(share * len(journal))])  # in the middle of a line, most likely


def answers(out: Path) -> list[dict]:
    """The rows of a run's predictions."""
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def start(experiment: Any, argv: Sequence[object]) -> int:
    """Runs an experiment from its command line; its exit code."""
    return common.run(experiment.Arguments, experiment.main, module=experiment.MODULE, argv=list(map(str, argv)))


def start_undrawn(experiment: Any, figures: Any, argv: Sequence[object], *, draw: bool = False) -> int:
    """As `start`, without the experiment's figures unless they are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(figures, "all_figures", lambda *_, **__: {})
        return start(experiment, argv)


def refuses(experiment: Any, argv: Sequence[object], said: str, capsys: pytest.CaptureFixture[str], out: Path) -> None:
    """Bad input is one sentence that matches the pattern, exit code 2, and nothing is written."""
    assert start(experiment, argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(said, lines[0])
    assert not out.exists()  # so that the mended command finds no other run there
