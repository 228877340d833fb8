"""Measure transfer: fine-tune on every task, test on every task, as jobs that may be killed at any time."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import common
from experiments.common import arg
from interp.tuning.matrix.options import ClusterOptions

if TYPE_CHECKING:
    from rich.console import Console

    from interp.runs import Run
    from interp.tuning.matrix.plan import Job, MatrixSettings
    from interp.tuning.matrix.work import HowOptions

MODULE = "experiments.transfer_matrix"
CONTROLS = ("random_key", "caption")


@dataclass(frozen=True)
class Arguments:
    """Fine-tune the model on each source, evaluate all of them on each target, and write the matrix of accuracies.

    Every source has the same dose: examples, steps and learning rate. Every target has the same items under every
    source; the adapters of a seed are evaluated together, with shared pictures and features. Each job has a folder, and
    what is finished is never done again: the same command continues a killed run, and more sources, seeds or targets
    add to it. experiments.analyse_transfer reads the folder.

    Example: python -m experiments.transfer_matrix --sources RD JG --targets RD JG CN --steps 50 --items 100
    """

    model: str = "bundled"
    """The model: bundled, a hub id, or a folder."""
    sources: Annotated[tuple[str, ...], arg("TASK ...", "the 13, random_key and caption")] = ()
    """What to train on: tasks by name or abbreviation, task/form, or files of conversations or items."""
    targets: Annotated[tuple[str, ...], arg("TASK ...", "the 13")] = ()
    """What to test on: the same, blink:Relative_Depth, or vsi:FILE."""
    extra_targets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK ...")] = ()
    """Targets besides, such as second forms (RD/yes_no) and tasks over frames."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the trainings."""
    fractions: tuple[float, ...] = (1.0,)
    """Shares of the training that are evaluated, such as 0.25 0.5 0.75 1."""
    fractions_by: Literal["checkpoints", "runs"] = "checkpoints"
    """Fractions from checkpoints of one training, or each from a training with a whole schedule of its own."""

    strategy: str = "lora"
    """What of the model is trained: lora, full, bitfit, freeze."""
    schedule: Literal["equal", "paper"] = "equal"
    """The same dose for all sources, or the paper's Table A.2 (examples and steps differ by source)."""
    examples: int = 1000
    """Training examples of a source."""
    steps: int = 200
    """Optimiser steps of a training."""
    batch: int = 16
    """Examples of a step."""
    learning_rate: float = 1e-4
    """At its highest."""
    lr_scheduler: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """How the learning rate goes down."""
    rank: int = 8
    """LoRA: r."""
    alpha: float = 16
    """LoRA: the update is scaled by alpha / r."""

    min_pixels: Annotated[int | None, arg("PIXELS", "the processor's")] = None
    """Fewest pixels of a picture, in training and evaluation; for the Qwen-VL line."""
    max_pixels: Annotated[int | None, arg("PIXELS", "the processor's")] = None
    """Most pixels of a picture; the paper's repository has 50176, 224 x 224."""
    items: int = 200
    """Items of a target."""
    split: Literal["test", "selection"] = "test"
    """Whose items are tested on; selection for a matrix that experiments.select_data chooses data by."""
    data_seed: int = 0
    """Seed of the tested items."""
    size: Annotated[int | None, arg("PIXELS", "the tower's")] = None
    """Side of drawn pictures."""
    difficulty: float = 0.5
    """Of drawn tasks that --difficulties does not name: 0 (easiest) to 1."""
    difficulties: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Difficulty by task: a JSON object, or a CSV with columns task and difficulty, as --calibrate writes them."""
    wording: Literal["brief", "described"] = "brief"
    """How drawn tasks ask, in training and in evaluation: in brief, or with the pictures described first."""
    scoring: Literal["choice", "generation"] = "choice"
    """By the likelihood of the option letters, or by generated answers."""
    shifts: bool = True
    """Average choices over all cyclic shifts of the options."""

    calibrate: bool = False
    """Measure the frozen model over a grid of difficulties on selection items, write difficulties.json, and stop."""
    calibrate_direct: bool = False
    """With --calibrate: train on each task at each difficulty too, and choose the largest gain."""
    grid: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Difficulties that --calibrate tries."""
    dry_run: bool = False
    """Print the jobs, and hours and disk from a few steps of the real model, and stop."""

    launcher: Literal["here", "slurm", "local"] = "here"
    """Jobs one after another in this process, on Slurm, or in submitit's processes on this machine."""
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    micro_batch: int = 4
    """Training examples that go through the model at once."""
    budget: Annotated[int | None, arg("TOKENS", "by the free memory")] = None
    """Most tokens of a forward pass of the evaluation."""
    adapters: Literal["auto", "merge", "beside"] = "auto"
    """Add updates to the weights for the evaluation, or leave them beside; auto adds them in 32 bits."""
    compile: bool = False
    """Compile the decoder blocks."""
    threads: Annotated[int | None, arg("N", "PyTorch's")] = None
    """Threads of PyTorch on a CPU."""
    out: Annotated[Path | None, arg("FOLDER", "runs/transfer_matrix/<model>-<what the settings hash to>")] = None
    """Folder of the matrix."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Plans, does what is not yet done, and writes the tables."""
    from rich.console import Console
    from transformers.utils import logging as transformers_logging

    from interp.runs import Run
    from interp.tuning.matrix.plan import make_jobs

    console = Console(soft_wrap=True)
    transformers_logging.disable_progress_bar()
    settings, how = settings_of(arguments), how_options(arguments)
    folder = arguments.out or Path("runs") / "transfer_matrix" / folder_name(settings)
    if arguments.calibrate:
        _calibrate(arguments, settings, how, folder, console)
        return
    jobs = make_jobs(settings)
    if arguments.dry_run:
        _foretell(settings, jobs, how, folder, console)
        return
    with common.remarks_on(console), Run.open(folder, settings.config(), seeds=settings.seeds) as run:
        run.write_json("extent.json", settings.extent())
        perform(arguments, settings, jobs, how, run, console)
        _write(run, settings, jobs, console)


def settings_of(arguments: Arguments) -> "MatrixSettings":
    """What decides the numbers, names under one spelling.

    Raises:
        CrosstaskError: an unknown task, form or file, or values out of range.
    """
    from interp.files import sha256_of
    from interp.tasks.perception.registry import perception_tasks
    from interp.tuning.matrix.calibration import difficulties_of
    from interp.tuning.matrix.plan import PIXEL_LIMITS, MatrixSettings
    from interp.tuning.matrix.work import canonical, file_of

    core = tuple(perception_tasks(core=True))
    controls = tuple(name for name in CONTROLS if name in perception_tasks(core=None))
    sources = tuple(map(canonical, arguments.sources)) or (*core, *controls)
    targets = tuple(map(canonical, (*(arguments.targets or core), *arguments.extra_targets)))
    paths = {name: path for name in (*sources, *targets) if (path := file_of(name)) is not None}
    taken = ("strategy", "batch", "learning_rate", "lr_scheduler", "rank", "alpha")
    training: dict[str, Any] = {name: getattr(arguments, name) for name in taken}
    training |= {name: limit for name in PIXEL_LIMITS if (limit := getattr(arguments, name)) is not None}
    if arguments.schedule == "paper":
        training["schedule"] = "paper"
    else:
        training |= {"examples": arguments.examples, "steps": arguments.steps}
    same = ("model", "seeds", "fractions", "fractions_by", "items", "split", "data_seed", "size", "wording", "scoring",
            "shifts")  # fmt: skip
    return MatrixSettings(
        **{name: getattr(arguments, name) for name in same},
        sources=sources,
        targets=targets,
        training=training,
        difficulties=difficulties_of((*sources, *targets), arguments.difficulties, otherwise=arguments.difficulty),
        loading=arguments.loading.config(),
        files={name: sha256_of(path) for name, path in paths.items()},
    )


def how_options(arguments: Arguments) -> "HowOptions":
    """Where and how fast."""
    from interp.tuning.evaluation.evaluate import EvaluationOptions
    from interp.tuning.matrix.work import HowOptions

    return HowOptions(
        loading=arguments.loading,
        training={"micro_batch": arguments.micro_batch, "compile_blocks": arguments.compile},
        evaluation=EvaluationOptions(how=arguments.adapters, budget=arguments.budget, compile_blocks=arguments.compile),
        threads=arguments.threads,
    )


def folder_name(settings: "MatrixSettings") -> str:
    """The model, and what the settings hash to; what the matrix extends over is left out, so that it can grow."""
    digest = hashlib.sha256(json.dumps(settings.config(), sort_keys=True, default=str).encode()).hexdigest()[:6]
    return f"{'--'.join(Path(settings.model).parts[-2:]).strip('/-')}-{digest}"


def perform(
    arguments: Arguments,
    settings: "MatrixSettings",
    jobs: "Sequence[Job]",
    how: "HowOptions",
    run: "Run",
    console: "Console",
) -> None:
    """Does what is left of the jobs, here or on a cluster."""
    from functools import partial

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from interp.tuning.matrix.jobs import finished_units, units
    from interp.tuning.matrix.launch import run_here, run_on_cluster
    from interp.tuning.matrix.work import ModelWork

    done = sum(len(set(units(job)) & finished_units(run.folder, job.key).keys()) for job in jobs)
    total = sum(len(units(job)) for job in jobs)
    if done == total:
        console.print("Everything is done already; writing the tables again.")
        return
    console.print(f"{len(jobs)} jobs, {total} units of work" + (f", of which {done} are done." if done else "."))
    if arguments.launcher != "here":
        make_work = partial(ModelWork, settings.model, how)
        say = console.print
        run_on_cluster(
            run.folder.resolve(), jobs, make_work, cluster=arguments.launcher, options=arguments.cluster, say=say
        )
        return
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=console, transient=True) as bar:
        task = bar.add_task("", total=total, completed=done)

        def step(at: int, steps: int, loss: float) -> None:
            bar.update(task, description=f"training, step {at} of {steps}, loss {loss:.3f}")

        def say_finished(what: str) -> None:
            bar.update(task, advance=1, description=what)
            if not console.is_terminal:
                console.print(f"Done: {what}", markup=False)

        run_here(run.folder, jobs, ModelWork(settings.model, how, tell=step), say=say_finished)


def _write(run: "Run", settings: "MatrixSettings", jobs: "Sequence[Job]", console: "Console") -> None:
    """The tables, and what in them should make a reader careful."""
    from figures import evaluation as figures
    from interp.tuning.matrix.collect import collect

    cells, _ = collect(run, settings, jobs)
    run.write_figure("figures/accuracy", figures.accuracy_matrix(cells))
    constant = cells[cells["constant_letter"] != ""]
    counts = cells[cells["equals_key_count"] != ""]
    console.print(
        f"{len(cells)} cells; in {len(constant)} one letter is more than 90 % of the answers, and in {len(counts)} as "
        "many are right as some letter is the key."
    )
    console.print(f"To analyse it: python -m experiments.analyse_transfer --pgf {run.folder}", markup=False)
    print(run.folder / "cells.csv")


def _foretell(
    settings: "MatrixSettings", jobs: "Sequence[Job]", how: "HowOptions", folder: Path, console: "Console"
) -> None:
    """Jobs, hours and disk."""
    from interp.tuning.matrix.cost import estimate, measure, summary
    from interp.tuning.matrix.work import ModelWork

    work = ModelWork(settings.model, how)
    console.print("Timing a few steps and items of the model ...")
    costs = measure(work, jobs)
    table = estimate(folder, jobs, costs, work)
    for row in table.to_dict("records"):
        left = "done" if not row["left"] else f"about {common.duration(row['seconds'])}"
        console.print(f"{row['job']}: {row['units']} units, {left}", markup=False)
    console.print(f"A training step takes {costs.step:.2f} s, an evaluated token {1e6 * costs.token:.1f} µs.")
    print(common.markdown(summary(table)))


def _calibrate(
    arguments: Arguments, settings: "MatrixSettings", how: "HowOptions", folder: Path, console: "Console"
) -> None:
    """The grid of difficulties, and what it chooses."""
    from figures import evaluation as figures
    from interp.runs import Run
    from interp.tuning.matrix import calibration

    points = list(calibration.grid(settings, difficulties=arguments.grid, direct=arguments.calibrate_direct))
    jobs = [job for point in points for job in point.jobs]
    config = {**settings.config(), "split": "selection"}
    with common.remarks_on(console), Run.open(folder / "calibration", config, seeds=settings.seeds[:1]) as run:
        perform(arguments, settings, jobs, how, run, console)
        table = calibration.table(run.folder, points)
        run.write_csv("difficulties.csv", table)
        run.write_figure("figures/difficulty", figures.difficulty(table))
        path = run.write_json("difficulties.json", calibration.chosen(table))
        print(common.markdown(table.round(3).dropna(axis=1, how="all")))
    console.print(f"Use them with --difficulties {path}", markup=False)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
