"""The cost experiment from its command line, on tiny random models; no measured number is compared with another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from experiments import common, cost
from interp.models.base import load_model
from interp.protocol.prompting_cost import Case, CostSettings, work_of
from interp.tasks import load_task
from tests.places import Place, killed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def run(argv: Sequence[object]) -> int:
    return common.run(cost.Arguments, cost.main, module=cost.MODULE, argv=list(map(str, argv)))


def arguments(place: Place, out: Path, *more: object) -> list[object]:
    given = ["--model", place.vlm, "--task", place.kinds, "--out", out, "--text", 0, 4, 12, "--image", 0, 1, 3]
    return [*given, "--queries", 1, 2, "--repeats", 2, "--threads", 1, "--no-memory", *more]


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    out = place.folder / "cost"
    assert run(arguments(place, out)) == 0
    return out


def test_every_case_has_its_row_and_none_is_done_twice(finished: Path) -> None:
    table = pd.read_csv(finished / "cost.csv")
    sizes = set(zip(table["modality"], table["examples"], strict=True))
    assert sizes == {("none", 0), ("text", 4), ("text", 12), ("image", 1), ("image", 3)}
    assert (table[table["method"] != "extract"].groupby(["modality", "examples", "method"]).size() == 2).all()
    assert not table.duplicated(["method", "modality", "examples", "queries"]).any()
    assert ((table["low"] <= table["seconds"]) & (table["seconds"] <= table["high"]) & (table["repeats"] == 2)).all()
    patch = table[table["method"] == "patch"]
    assert (patch["times_patch"] == 1).all()
    assert table["above_mb"].isna().all()


def test_patched_query_is_as_short_as_a_bare_one_and_a_prompt_grows(finished: Path) -> None:
    tokens = (
        pd.read_csv(finished / "cost.csv").query("queries == 1").set_index(["method", "modality", "examples"])["tokens"]
    )
    assert len(set(tokens["patch"])) == 1
    assert tokens["patch", "text", 12] == tokens["prompt", "none", 0]
    assert tokens["prompt", "none", 0] < tokens["prompt", "text", 4] < tokens["prompt", "text", 12]
    assert tokens["prompt", "image", 1] < tokens["prompt", "image", 3]


def test_patching_runs_fewer_tokens_than_prompting(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = load_model(str(place.vlm)), load_task(str(place.kinds))
    settings = CostSettings(
        model=str(place.vlm), task=str(place.kinds), query="image", text=(4,), image=(), queries=(2,), repeats=1,
        new_tokens=1, memory=False, threads=1, template="Q: {x}\nA: {y}\n\n",
    )  # fmt: skip
    counts = {}
    forward = type(model).forward
    for method in ("prompt", "patch"):
        work, seen = work_of(model, settings, task, Case(method, "text", 4), 2), []

        def counted(self, inputs, seen=seen, **options):  # type: ignore[no-untyped-def]
            seen.append(inputs["input_ids"].numel())
            return forward(self, inputs, **options)

        with monkeypatch.context() as patched:
            patched.setattr(type(model), "forward", counted)
            work()
        counts[method] = sum(seen)
    bare = work_of(model, settings, task, Case("prompt", "none", 0), 1).tokens  # type: ignore[attr-defined]
    assert counts["patch"] == 2 * bare < counts["prompt"]


def test_memory_is_measured_in_a_process_of_its_own(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "memory"
    assert run(arguments(place, out, "--text", 4, "--image", "--memory")) == 0
    table = pd.read_csv(out / "cost.csv")
    one = table[table["queries"] == 1]
    assert (one["above_mb"] >= 0).all()
    assert (one["total_mb"] > one["above_mb"]).all()
    assert table[table["queries"] == 2]["total_mb"].isna().all()
    assert {path.stem for path in (out / "figures").iterdir()} == {"seconds", "memory"}


def test_killed_run_keeps_what_it_measured(place: Place, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    killed(finished, out, 0.5)
    kept = (out / "journal.jsonl").read_bytes().rpartition(b"\n")[0]
    assert run(arguments(place, out)) == 0
    assert (out / "journal.jsonl").read_bytes().startswith(kept)
    again, first = (pd.read_csv(folder / "cost.csv") for folder in (out, finished))
    keys = ["method", "modality", "examples", "tokens", "queries", "repeats"]
    assert again[keys].equals(first[keys])
    assert again["seconds"].iloc[0] == first["seconds"].iloc[0]


def test_last_line_is_the_report(place: Place, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(place, finished)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(finished / "report.html")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--text", "--image"], "There is nothing to measure"),
        (["--text", -1], "--text -1 is too small"),
        (["--queries", 0], "--queries 0 is too small"),
        (["--queries", 9], "--queries is 9, and task 'kinds' has 4 test items"),
        (["--repeats", 0], "--repeats is 0"),
        (["--query", "sound"], "--query 'sound' is unknown"),
        (["--text", 200], "use fewer examples"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    assert run(arguments(place, tmp_path / "out", *more)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()


def test_model_without_images_is_asked_text_only(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = ["--model", place.llm, "--task", place.kinds, "--repeats", 1, "--queries", 1, "--no-memory"]
    assert run([*alone, "--text", 2, "--out", tmp_path / "text"]) == 0
    assert set(pd.read_csv(tmp_path / "text" / "cost.csv")["modality"]) == {"text"}
    assert run([*alone, "--image", 1, "--out", tmp_path / "image"]) == 2
    assert "takes no images" in capsys.readouterr().err
