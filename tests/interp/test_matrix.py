"""Jobs of a transfer matrix with work that can be killed at any point: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from interp.errors import CrosstaskError
from interp.runs import Run
from interp.transfer.tables import CELL_COLUMNS, ITEM_COLUMNS
from interp.tuning.evaluation.records import Record
from interp.tuning.matrix.collect import collect
from interp.tuning.matrix.jobs import finished_units, is_finished, perform
from interp.tuning.matrix.launch import JobCall, run_here, run_on_cluster, stages
from interp.tuning.matrix.options import ClusterOptions
from interp.tuning.matrix.plan import Job, MatrixSettings, Variant, form_of, make_jobs, plain, task_of

SETTINGS = MatrixSettings(
    model="m",
    sources=("jigsaw", "counting"),
    targets=("jigsaw", "relative_depth/words"),
    seeds=(0, 1),
    fractions=(0.5, 1.0),
    training={"steps": 10},
    items=3,
)


class FakeWork:
    """Writes down what it does, and can be killed in front of its n-th deed."""

    def __init__(self, log: Path, *, kill_at: int | None = None) -> None:
        self.log, self.kill_at = log, kill_at

    def _deed(self, what: str) -> None:
        deeds = self.log.read_text().splitlines() if self.log.exists() else []
        if self.kill_at is not None and len(deeds) >= self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.log.write_text("".join(f"{deed}\n" for deed in [*deeds, what]))

    def train(self, job: Job, folder: Path) -> dict[str, Any]:
        self._deed(f"begin {job.key}")
        for share in job.config["checkpoints"]:
            place = folder / f"{share:g}"
            place.mkdir(parents=True, exist_ok=True)
            (place / "adapter").write_text(f"{job.key} {share:g}")
        self._deed(f"end {job.key}")
        shares = [f"{share:g}" for share in job.config["checkpoints"]]
        return {"adapters": {s: s for s in shares}, "steps": 10, "update_norm": {s: float(s) for s in shares}}

    def evaluate(
        self, job: Job, adapters: Sequence[tuple[Variant, Path | None]]
    ) -> Iterator[tuple[Variant, list[Record]]]:
        for variant, folder in adapters:
            self._deed(f"{job.key} {variant.name}")
            said = (folder / "adapter").read_text() if folder is not None else "frozen"
            yield (
                variant,
                [
                    Record(
                        f"{job.key.split('/')[1]}/{i}", "AB"[i % 2], "A", float(i % 2 == 0), -0.5, 0.25, 0.6, reply=said
                    )
                    for i in range(job.config["items"])
                ],
            )


def tables(root: Path, work: FakeWork, settings: MatrixSettings = SETTINGS) -> tuple[pd.DataFrame, pd.DataFrame]:
    jobs = make_jobs(settings)
    with Run.open(root, settings.config()) as run:
        run_here(root, jobs, work)
        return collect(run, settings, jobs)


class Whole(NamedTuple):
    """A matrix that was never killed."""

    tables: tuple[pd.DataFrame, pd.DataFrame]
    deeds: int


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    place = tmp_path_factory.mktemp("whole")
    found = tables(place / "matrix", FakeWork(place / "log"))
    return Whole(found, len((place / "log").read_text().splitlines()))


def killed_child(root: Path, work: FakeWork) -> None:
    """Run in a child that kills itself with signal 9."""
    child = os.fork()
    if child == 0:
        try:
            tables(root, work)
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def test_every_source_seed_and_fraction_meets_every_target_once(tmp_path: Path) -> None:
    cells, items = tables(tmp_path / "matrix", FakeWork(tmp_path / "log"))
    assert set(CELL_COLUMNS) <= set(cells.columns)
    assert set(ITEM_COLUMNS) <= set(items.columns)
    trained = cells[cells["source"] != "baseline"]
    assert len(trained) == 2 * 2 * 2 * 2  # sources, seeds, fractions, targets
    assert not cells.duplicated(["source", "seed", "fraction", "target", "form"]).any()
    assert len(cells) == len(trained) + 2
    assert len(items) == 3 * len(cells)
    assert dict(zip(trained["fraction"], trained["dose_steps"], strict=True)) == {0.5: 5, 1.0: 10}
    assert (trained["update_norm"] == trained["fraction"]).all()
    assert set(zip(cells["target"], cells["form"], strict=True)) == {
        ("jigsaw", "pictures"),
        ("relative_depth", "words"),
    }
    assert set(cells["constant_letter"]) == {"A"}
    assert set(cells["equals_key_count"]) == {"A"}


@pytest.mark.parametrize("kill_at", [0, 1, 6, 9, 13, 25])
def test_killed_at_any_point_it_continues_to_the_same_tables(tmp_path: Path, whole: Whole, kill_at: int) -> None:
    root, log = tmp_path / "matrix", tmp_path / "log"
    killed_child(root, FakeWork(log, kill_at=kill_at))
    found = tables(root, FakeWork(log))
    for one, other in zip(found, whole.tables, strict=True):
        pd.testing.assert_frame_equal(one, other)
    deeds = log.read_text().splitlines()
    again = {deed for deed in deeds if deeds.count(deed) > 1}
    assert len(again) <= 1  # what was at work when it was killed
    assert len(deeds) - len(again) == whole.deeds


def test_torn_line_of_a_journal_is_a_unit_to_do_again(tmp_path: Path, whole: Whole) -> None:
    root, log = tmp_path / "matrix", tmp_path / "log"
    tables(root, FakeWork(log))
    journal = root / "jobs" / "evaluate" / "jigsaw" / "seed0" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-10])
    job = next(job for job in make_jobs(SETTINGS) if job.key == "evaluate/jigsaw/seed0")
    assert not is_finished(root, job)
    for one, other in zip(tables(root, FakeWork(log)), whole.tables, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_finished_matrix_does_nothing_again(tmp_path: Path) -> None:
    tables(tmp_path / "matrix", FakeWork(tmp_path / "log"))
    before = (tmp_path / "log").read_text()
    tables(tmp_path / "matrix", FakeWork(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == before


def test_matrix_grows_by_a_source_and_a_seed(tmp_path: Path, whole: Whole) -> None:
    root, log = tmp_path / "matrix", tmp_path / "log"
    small = replace(SETTINGS, sources=("jigsaw",), seeds=(0,))
    tables(root, FakeWork(log), small)
    before = len(log.read_text().splitlines())
    for one, other in zip(tables(root, FakeWork(log)), whole.tables, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert before < len(log.read_text().splitlines()) == whole.deeds


def test_changed_settings_are_refused_with_their_difference(tmp_path: Path) -> None:
    tables(tmp_path / "matrix", FakeWork(tmp_path / "log"))
    with pytest.raises(CrosstaskError, match=r"training.steps was 10 and is now 20"):
        tables(tmp_path / "matrix", FakeWork(tmp_path / "log"), replace(SETTINGS, training={"steps": 20}))
    harder = replace(SETTINGS, difficulties={"jigsaw": 0.9}, seeds=(0, 1, 2))
    with pytest.raises(CrosstaskError, match=r"difficulty was 0.5 and is now 0.9"):
        tables(tmp_path / "matrix", FakeWork(tmp_path / "log"), harder)


def test_records_that_were_changed_are_refused(tmp_path: Path) -> None:
    tables(tmp_path / "matrix", FakeWork(tmp_path / "log"))
    path = next((tmp_path / "matrix").glob("jobs/evaluate/jigsaw/seed0/records/*.jsonl"))
    path.write_text(path.read_text().replace('"A"', '"B"'))
    with pytest.raises(CrosstaskError, match="was changed"):
        tables(tmp_path / "matrix", FakeWork(tmp_path / "log"))


def test_evaluation_before_its_training_is_refused(tmp_path: Path) -> None:
    job = next(job for job in make_jobs(SETTINGS) if job.needs)
    with pytest.raises(CrosstaskError, match="needs 'train/jigsaw/seed0', which is not done"):
        perform(tmp_path, job, FakeWork(tmp_path / "log"))


def test_two_processes_do_not_do_one_job(tmp_path: Path) -> None:
    job = make_jobs(SETTINGS)[0]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with Run.open(tmp_path / "jobs" / job.key, job.config):
            os.write(writer, b"held")
            signal.pause()
    assert os.read(reader, 4) == b"held"
    try:
        with pytest.raises(CrosstaskError, match="Another process is writing"):
            perform(tmp_path, job, FakeWork(tmp_path / "log"))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    perform(tmp_path, job, FakeWork(tmp_path / "log"))
    assert is_finished(tmp_path, job)


def test_fractions_by_runs_train_each_by_itself(tmp_path: Path) -> None:
    apart = replace(SETTINGS, fractions_by="runs")
    trainings = [job for job in make_jobs(apart) if job.kind == "train"]
    assert len(trainings) == 2 * 2 * 2
    assert {job.config["fraction"] for job in trainings} == {0.5, 1.0}
    cells, _ = tables(tmp_path / "matrix", FakeWork(tmp_path / "log"), apart)
    assert len(cells) == 2 * 2 * 2 * 2 + 2


def test_stages_put_every_job_behind_what_it_needs() -> None:
    trainings, evaluations = stages([job for job in make_jobs(SETTINGS) if job.trainings != (None,)])
    assert {job.kind for job in trainings} == {"train"}
    assert {job.kind for job in evaluations} == {"evaluate"}


@pytest.mark.parametrize(
    ("name", "task", "form", "path"),
    [
        ("relative_depth/words", "relative_depth", "words", "relative_depth-words"),
        ("blink:Relative_Depth", "relative_depth", "blink", "blink-Relative_Depth"),
        ("blink:data/blink#Jigsaw", "jigsaw", "blink", "blink-data-blink-Jigsaw"),
        ("vsi:v.jsonl#object_counting", "object_counting", "vsi", "vsi-v.jsonl-object_counting"),
        ("sets/mine.jsonl", "mine", "own", "sets-mine"),
    ],
)
def test_names_become_tasks_forms_and_folders(name: str, task: str, form: str, path: str) -> None:
    assert (task_of(name), form_of(name), plain(name)) == (task, form, path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": ("jigsaw", "jigsaw")}, "sources has 'jigsaw' twice"),
        ({"fractions": (0.0,)}, "above 0 and at most 1"),
        ({"sources": ("baseline",)}, "is the frozen model"),
        ({"targets": ()}, "at least one target"),
        ({"targets": ("a/b", "a-b")}, "cannot be told apart"),
        ({"items": 0}, "at least one item"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CrosstaskError, match=said):
        replace(SETTINGS, **changes)


class Sendable:
    """Makes the work in another process."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self) -> FakeWork:
        return FakeWork(self.log)


def test_jobs_in_processes_of_submitit_give_the_same_tables(tmp_path: Path) -> None:
    settings = replace(SETTINGS, sources=("jigsaw",), targets=("jigsaw",), seeds=(0,))
    here = tables(tmp_path / "whole", FakeWork(tmp_path / "whole.log"), settings)
    root, jobs = tmp_path / "matrix", make_jobs(settings)
    with Run.open(root, settings.config()) as run:
        run_on_cluster(root, jobs, Sendable(tmp_path / "log"), cluster="local", options=ClusterOptions(at_once=2))
        found = collect(run, settings, jobs)
    for one, other in zip(found, here, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_preempted_job_is_sent_again_as_it_was(tmp_path: Path) -> None:
    call = JobCall(tmp_path, make_jobs(SETTINGS)[0], Sendable(tmp_path / "log"))
    again = call.checkpoint()
    assert again.function == call
    assert again.function() == call.job.key
    assert is_finished(tmp_path, call.job)


def test_cluster_options_are_those_of_slurm() -> None:
    options = ClusterOptions(partition="gpu", gpus=2, minutes=30, at_once=4, slurm={"constraint": "a100"})
    given = options.parameters("slurm")
    assert given["slurm_partition"] == "gpu"
    assert given["gpus_per_node"] == 2
    assert given["slurm_array_parallelism"] == 4
    assert given["slurm_additional_parameters"] == {"requeue": True, "constraint": "a100"}


def test_finished_units_are_read_while_another_holds_the_folder(tmp_path: Path) -> None:
    job = make_jobs(SETTINGS)[0]
    perform(tmp_path, job, FakeWork(tmp_path / "log"))
    with Run.open(tmp_path / "jobs" / job.key, job.config):
        found = finished_units(tmp_path, job.key)
    assert json.dumps(found["trained"]["adapters"]) == '{"0.5": "0.5", "1": "1"}'
