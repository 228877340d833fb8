"""The cost experiment from its command line, on tiny random models; no measured number is compared with another."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from experiments import cost
from interp.errors import CrosstaskError
from interp.models.base import load_model
from interp.protocol.prompting_cost import Case, CostSettings, Unit, forecast, work_of
from interp.protocol.prompting_memory import MemoryMeter
from interp.tasks import load_task
from tests.places import Place, killed, refuses, start


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


run = partial(start, cost)


def arguments(place: Place, out: Path, *more: object) -> list[object]:
    given = ["--model", place.vlm, "--task", place.kinds, "--out", out, "--text", 0, 4, 12, "--image", 0, 1, 3]
    return [*given, "--queries", 1, 2, "--repeats", 2, "--threads", 1, "--no-memory", *more]


def settings_of(place: Place) -> CostSettings:
    return CostSettings(
        model=str(place.vlm), task=str(place.kinds), query="image", text=(4,), image=(), queries=(2,), repeats=1,
        new_tokens=1, memory=False, threads=1, template="Q: {x}\nA: {y}\n\n",
    )  # fmt: skip


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
    settings = settings_of(place)
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
    bare = work_of(model, settings, task, Case("prompt", "none", 0), 1).tokens
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


def test_one_process_measures_every_case(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = MemoryMeter._start

    def counted(self: MemoryMeter):  # type: ignore[no-untyped-def]
        started.append(self)
        return start(self)

    monkeypatch.setattr(MemoryMeter, "_start", counted)
    model, task = load_model(str(place.vlm)), load_task(str(place.kinds))
    with MemoryMeter(settings_of(place), model, task) as meter:
        few, many = (meter.measure(Case("prompt", "text", n)) for n in (1, 12))
    assert len(started) == 1
    assert few["total"] > 0
    assert many["total"] > 0


def test_process_that_fails_is_one_sentence(place: Place) -> None:
    model, task = load_model(str(place.vlm)), load_task(str(place.kinds))
    settings = replace(settings_of(place), task="gone")
    with MemoryMeter(settings, model, task) as meter, pytest.raises(CrosstaskError) as error:
        meter.measure(Case("prompt", "none", 0))
    assert "ended with code 1" in str(error.value)
    assert "There is no task 'gone'" in str(error.value)


def test_examples_come_again_where_items_are_few(place: Place) -> None:
    model, task = load_model(str(place.vlm)), load_task(str(place.kinds))
    few = replace(task, items=tuple(item for item in task.items if item.split == "test") + task.items[:1])
    assert work_of(model, settings_of(place), few, Case("prompt", "text", 3), 1).tokens > 0


def test_forecast_grows_with_what_is_asked(place: Place) -> None:
    model, task = load_model(str(place.vlm)), load_task(str(place.kinds))
    of = forecast(model, replace(settings_of(place), text=(0, 4)), task, loading=1000.0)
    bare, long = (Unit("seconds", Case("prompt", kind, n)) for kind, n in (("none", 0), ("text", 4)))
    assert 0 < of(bare) < of(long)


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
    out = tmp_path / "out"
    refuses(cost, arguments(place, out, *more), said, capsys, out)


def test_model_without_images_is_asked_text_only(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = ["--model", place.llm, "--task", place.kinds, "--repeats", 1, "--queries", 1, "--no-memory"]
    assert run([*alone, "--text", 2, "--out", tmp_path / "text"]) == 0
    assert set(pd.read_csv(tmp_path / "text" / "cost.csv")["modality"]) == {"text"}
    assert run([*alone, "--image", 1, "--out", tmp_path / "image"]) == 2
    assert "takes no images" in capsys.readouterr().err
