"""Does a vision tower that reads the question learn a mixture of tasks better? CoVFT and its ablations in miniature."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import common
from experiments.common import arg
from interp.covft.options import StudyOptions

if TYPE_CHECKING:
    from rich.console import Console

    from interp.covft.plan import Request, StudySettings, Unit
    from interp.covft.work import StudyWork

MODULE = "experiments.covft_study"
Table = Literal["A", "B", "C", "D", "E", "F", "G", "H", "I"]


@dataclass(frozen=True)
class Arguments:
    """Fine-tune one model on a mixture of tasks, in several ways, and test each on every task of the mixture.

    Tables: A strategies, B what the router reads, C routing, D layers, E costs, F number of experts, G shares of the
    data, H experts against types of task, I as many parameters. All arms of a table have the same examples, steps and
    test items; what is finished is never done again, tables share what they have in common, and the same command in
    several terminals divides the work. The paper's orderings were written down beforehand, and each is answered.

    Example: python -m experiments.covft_study --table A --model perception --tasks VS RD RR --steps 40 --items 60
    """

    table: Annotated[tuple[Table, ...], tyro.conf.arg(metavar="TABLE ...")] = ("A",)
    """Which tables, A to I."""
    model: str = "perception"
    """The model: perception, bundled, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK ...")] = ("VS", "RD", "RR", "SC", "FC")
    """The mixture, by name or abbreviation; table H adds the other of the 13 behind them, in the paper's order."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the trainings."""

    examples: int = 1280
    """Training examples of a mixture."""
    steps: int = 160
    """Optimiser steps of a training."""
    batch: int = 16
    """Examples of a step."""
    learning_rate: float = 1e-3
    """At its highest; one for all parts, and for all arms that --rates does not name."""
    rates: Annotated[Path | None, arg("FILE", "none")] = None
    """Learning rate by strategy: a JSON object, as --choose-rates writes it."""
    choose_rates: Annotated[tuple[float, ...], arg("RATE ...", "none")] = ()
    """Train every arm of the tables that --rates does not name at each of these rates, under the first seed; test on
    selection items; write rates/rates.json, with earlier choices and what --rates says, and stop."""
    rank: int = 8
    """LoRA on the language model: r."""
    alpha: float = 16
    """LoRA on the language model: the update is scaled by alpha / r."""
    items: int = 120
    """Test items of a task."""
    split: Literal["test", "selection"] = "test"
    """Whose items are tested on; selection to choose something else than a learning rate by, in a folder of its own."""
    data_seed: int = 0
    """Seed of the test items."""
    size: Annotated[int | None, arg("PIXELS", "the tower's")] = None
    """Side of drawn pictures."""
    wording: Literal["brief", "described"] = "brief"
    """How tasks ask, in training and in evaluation; see interp/tasks/perception/wording.py."""
    difficulty: float = 0.5
    """Of tasks that --difficulties does not name: 0 (easiest) to 1."""
    difficulties: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Difficulty by task: a JSON object, or a CSV with columns task and difficulty."""
    shifts: bool = True
    """Average choices over all cyclic shifts of the options."""
    arms: Annotated[StudyOptions, tyro.conf.arg(name="")] = field(default_factory=StudyOptions)

    repeats: int = 5
    """E: how often costs are measured."""
    timed_steps: int = 4
    """E: steps of a timed training, of which the first is not counted."""
    keep: Literal["all", "none"] = "all"
    """Which adapters are kept when their evaluation is finished."""
    dry_run: bool = False
    """Print what would be done, and hours and disk from a few steps of the real model, and stop."""
    micro_batch: int = 16
    """Training examples that go through the model at once."""
    budget: Annotated[int | None, arg("TOKENS", "by the free memory")] = None
    """Most tokens of a forward pass of the evaluation."""
    threads: Annotated[int | None, arg("N", "PyTorch's")] = None
    """Threads of PyTorch on a CPU."""
    out: Annotated[Path | None, arg("FOLDER", "runs/covft_study/<model>-<what the settings hash to>")] = None
    """Folder of the study."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Plans, does what is not yet done, and writes tables, figures and answers."""
    from rich.console import Console
    from transformers.utils import logging as transformers_logging

    from interp.covft import plan
    from interp.errors import CrosstaskError

    transformers_logging.disable_progress_bar()
    console = Console(soft_wrap=True)
    settings = settings_of(arguments)
    folder = arguments.out or Path("runs") / "covft_study" / folder_name(settings)
    work = study_work(arguments)
    if arguments.choose_rates:
        _choose_rates(arguments, settings, work, folder, console)
        return
    requests = requests_of(arguments, settings, work)
    units = plan.make_units(settings, [r.plan for r in requests if r.plan.table != "E"], arguments.seeds)
    if arguments.dry_run:
        _foretell(arguments, units, work, folder, console)
        return
    with common.remarks_on(console):
        _note(folder, settings, requests)
        for request in requests:
            if request.plan.table == "E":
                _measure(arguments, settings, request, work, folder, console)
        failed = _perform(folder, units, work, console)
        _write(folder, settings, console)
    if failed:
        key, said = next(iter(failed.items()))
        raise CrosstaskError(f"{len(failed)} of {len(units)} units failed, the first {key!r}: {said}")


def settings_of(arguments: Arguments) -> "StudySettings":
    """What decides the numbers, besides arms, mixtures and seeds.

    Raises:
        CrosstaskError: an unknown task, or values out of range.
    """
    from interp.covft.plan import StudySettings
    from interp.tuning.matrix.calibration import difficulties_of

    taken = ("examples", "steps", "batch", "learning_rate", "rank", "alpha")
    return StudySettings(
        model=arguments.model,
        training={name: getattr(arguments, name) for name in taken},
        items=arguments.items,
        split=arguments.split,
        data_seed=arguments.data_seed,
        size=arguments.size,
        wording=arguments.wording,
        shifts=arguments.shifts,
        loading=arguments.loading.config(),
        difficulties=difficulties_of(tasks_of(arguments), arguments.difficulties, otherwise=arguments.difficulty),
    )


def tasks_of(arguments: Arguments) -> tuple[str, ...]:
    """The tasks under one spelling; for table H the others of the thirteen behind them.

    Raises:
        CrosstaskError: there is no such task, it is given twice, or there is none.
    """
    from interp.errors import CrosstaskError
    from interp.tasks.perception.registry import perception_tasks
    from interp.tuning.matrix.work import canonical

    given = tuple(map(canonical, arguments.tasks))
    if not given or len(set(given)) < len(given):
        raise CrosstaskError(
            f"a mixture has at least one task, and each once, not {' '.join(arguments.tasks) or 'none'}"
        )
    return tuple(dict.fromkeys((*given, *perception_tasks(core=True)))) if "H" in arguments.table else given


def study_work(arguments: Arguments) -> "StudyWork":
    """What is done with the model; it is loaded when it is first needed."""
    from interp.covft.work import StudyWork
    from interp.tuning.evaluation.evaluate import EvaluationOptions
    from interp.tuning.matrix.work import HowOptions, ModelWork

    how = HowOptions(
        loading=arguments.loading,
        training={"micro_batch": arguments.micro_batch},
        evaluation=EvaluationOptions(budget=arguments.budget),
        threads=arguments.threads,
    )
    return StudyWork(ModelWork(arguments.model, how), keep=arguments.keep == "all")


def requests_of(arguments: Arguments, settings: "StudySettings", work: "StudyWork") -> "list[Request]":
    """What each table compares; for table I parameters are counted, which loads the model.

    Raises:
        CrosstaskError: unknown strategies or options of them, or a table that lacks tasks.
    """
    from interp.covft.arms import make_plan
    from interp.covft.counts import Counter, matched_arms
    from interp.covft.plan import Request, make_unit
    from interp.covft.rates import read_rates
    from interp.errors import CrosstaskError

    if not arguments.table or not arguments.seeds or min(arguments.seeds) < 0:
        raise CrosstaskError(
            f"tables {' '.join(arguments.table) or 'none'} with seeds {' '.join(map(str, arguments.seeds)) or 'none'}: "
            "expected one or more of each, and seeds of 0 or more"
        )
    rates = read_rates(arguments.rates) if arguments.rates is not None else {}
    every, found = tasks_of(arguments), []
    tasks = every[: len(arguments.tasks)]
    for table in dict.fromkeys(arguments.table):
        matched, counts = (
            matched_arms(Counter(settings, work, tasks, arguments.arms.text)) if table == "I" else ((), {})
        )
        plan = make_plan(table, every if table == "H" else tasks, arguments.arms, matched=matched, rates=rates)
        for cell in plan.cells:
            if round(cell.fraction * arguments.steps) < 2:
                raise CrosstaskError(
                    f"a share of {cell.fraction:g} of {arguments.steps} steps is the first step alone, whose learning "
                    "rate is 0; expected two steps or more"
                )
            work.config(make_unit(settings, cell, 0))  # says what is wrong before anything is trained
        found.append(Request(plan, arguments.seeds, counts))
    return found


def folder_name(settings: "StudySettings") -> str:
    """The model, and what the settings hash to."""
    digest = hashlib.sha256(json.dumps(settings.config(), sort_keys=True, default=str).encode()).hexdigest()[:6]
    return f"{'--'.join(Path(settings.model).parts[-2:]).strip('/-')}-{digest}"


def _note(folder: Path, settings: "StudySettings", requests: "Sequence[Request]") -> None:
    """Holds the folder to its settings, and notes what is asked for."""
    from interp.covft.plan import REQUESTS
    from interp.covft.units import opened

    with opened(folder, settings.config()) as run:
        for request in requests:
            run.write_json(f"{REQUESTS}/{request.name}.json", request.row())


def _choose_rates(
    arguments: Arguments, settings: "StudySettings", work: "StudyWork", folder: Path, console: "Console"
) -> None:
    """Every arm without a rate at every rate on selection items, and the rates that this chooses."""
    from figures import covft_study as figures
    from interp.covft import rates
    from interp.covft.units import opened
    from interp.errors import CrosstaskError

    named = rates.read_rates(arguments.rates) if arguments.rates is not None else {}
    rates.check_earlier(folder / rates.RATES / "rates.csv")
    plans = [request.plan for request in requests_of(arguments, settings, work)]
    arms = [arm for plan in plans for arm in plan.arms if arm.name not in named]
    if not arms:
        raise CrosstaskError(f"{arguments.rates} names every arm of table {' '.join(arguments.table)} already")
    tasks = tasks_of(arguments)[: len(arguments.tasks)]
    made = rates.trials(folder, settings, arms, tasks, arguments.choose_rates, seed=arguments.seeds[0])
    for trial in made:
        work.config(trial.unit)  # says what is wrong before anything is trained
    with common.remarks_on(console):
        for root in dict.fromkeys(trial.root for trial in made):
            for key, said in _perform(
                root, [trial.unit for trial in made if trial.root == root], work, console
            ).items():
                console.print(f"{key} at {root.name}: {said}", markup=False)
        found = rates.table(made)
        with opened(folder / rates.RATES, {**settings.config(), "split": "selection"}) as run:
            every = rates.beside_earlier(found, run.folder / "rates.csv")
            run.write_csv("rates.csv", every)
            run.write_figure("figures/rates", figures.rates(every))
            path = run.write_json("rates.json", rates.chosen(every) | named)
    shown = found.round(3).astype(object).where(found.notna(), "")
    print(common.markdown(shown.assign(learning_rate=found["learning_rate"].map("{:g}".format))))
    console.print(f"Use them with --rates {path}", markup=False)


def _perform(folder: Path, units: "Sequence[Unit]", work: "StudyWork", console: "Console") -> "dict[str, str]":
    """Does what is left of the units, with a bar; those that failed, with what was said."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from interp.covft.units import is_finished, perform_all

    left = [unit for unit in units if not is_finished(folder, unit)]
    if not left:
        console.print("Everything is done already; writing the tables and figures again.")
        return {}
    console.print(f"{len(units)} units" + (f", of which {len(units) - len(left)} are done." if left != units else "."))
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=console, transient=True) as bar:
        task = bar.add_task("", total=len(units), completed=len(units) - len(left))

        def step(at: int, steps: int, loss: float) -> None:
            bar.update(task, description=f"training, step {at} of {steps}, loss {loss:.3f}")

        def say(unit: "Unit") -> None:
            bar.update(task, advance=1, description=unit.key)
            if not console.is_terminal:
                console.print(f"Done: {unit.key}", markup=False)

        work.models.tell = step
        return perform_all(folder, left, work, say=say)


def _measure(
    arguments: Arguments,
    settings: "StudySettings",
    request: "Request",
    work: "StudyWork",
    folder: Path,
    console: "Console",
) -> None:
    """Table E."""
    from interp.covft.overhead import measure

    def say(what: str) -> None:
        console.print(f"Measured: {what}", markup=False)

    measure(folder, settings, request.plan, work, repeats=arguments.repeats, steps=arguments.timed_steps, say=say)


def _foretell(
    arguments: Arguments, units: "Sequence[Unit]", work: "StudyWork", folder: Path, console: "Console"
) -> None:
    """Units, hours and disk."""
    from interp.covft.cost import estimate, measure

    console.print("Timing a few steps and items of each arm ...")
    costs = measure(work, units)
    for kind, cost in costs.items():
        console.print(f"{kind}: {cost.step:.2f} s a step, {cost.item:.3f} s an item", markup=False)
    table = estimate(folder, units, costs, keep=arguments.keep == "all")
    total = {"arm": "all", **{name: table[name].sum() for name in ("units", "left", "seconds", "bytes")}}
    shown = [{**row, "hours": f"{row['seconds'] / 3600:.2f}", "MB": f"{row['bytes'] / 1e6:.0f}"}
             for row in (*table.to_dict("records"), total)]  # fmt: skip
    from pandas import DataFrame

    print(common.markdown(DataFrame(shown)[["arm", "units", "left", "hours", "MB"]]))


def _write(folder: Path, settings: "StudySettings", console: "Console") -> None:
    """Tables, figures, answers and report of all that the folder was asked for."""
    from figures import covft_study as figures
    from interp.covft import overhead
    from interp.covft.expectations import answered
    from interp.covft.plan import read_requests
    from interp.covft.tables import Results, make_tables, parameter_table
    from interp.covft.units import opened

    results, requests = Results(folder, settings), read_requests(folder)
    tables = make_tables(results, requests)
    timed = [request.plan for request in requests if request.plan.table == "E"]
    costs = overhead.read_all(folder, timed) if timed else None
    if costs is not None:
        tables |= {"overhead": costs, "costs": overhead.summary(costs)}
    if any(request.counts for request in requests):
        tables["parameters"] = parameter_table(requests)
    tables["expectations"] = answered(results, requests)
    notes = {
        "expectations": "Stated before measuring (interp/covft/expectations.py). Held: the whole interval of the "
        "contrast is above zero; not held: below zero; not decidable: it holds zero, or there is one seed alone.",
        "arms": "Mean over tasks; intervals resample items and seeds.",
        "comparisons": "Differences and intervals resample items and seeds, and decide. p_value flips signs of items "
        "with seeds averaged: of these trainings, not of new ones, so it may be small where the interval holds zero. "
        "p_holm is corrected over the arms of a table against one reference.",
        **({"costs": "Medians over repeats; FLOPs of the tower's forward pass for one picture."} if timed else {}),
        **({"parameters": "Numbers that the optimiser was given."} if "parameters" in tables else {}),
    }
    lead = [
        f"One model is fine-tuned on a mixture of tasks ({settings.training['examples']} examples, "
        f"{settings.training['steps']} steps for all arms) and tested on {settings.items} new items of each of them.",
        "Differences are paired by item and seed. A small model on drawn tasks need not speak for a large one.",
    ]
    with opened(folder, settings.config()) as run:
        report = common.write_results(
            run,
            title=f"CoVFT in miniature on {settings.model}",
            lead=lead,
            tables=tables,
            figures=figures.all_figures(tables),
            notes=notes,
        )
    shown: list[str] = ["key", "claim", "paper", "contrast", "low", "high", "answer"]
    said: Any = tables["expectations"][shown].round(3).astype(object)
    print(common.markdown(said.where(said.notna(), "")))
    print(report)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
