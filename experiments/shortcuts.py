"""Ask what answers a perception task without perceiving: text, letters, blur, marks, colours, edges, one picture."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from pandas import DataFrame

    from interp.runs import Run

MODULE = "experiments.shortcuts"


@dataclass(frozen=True)
class Arguments:
    """Score shortcuts on procedural perception tasks: classifiers that see the text, the marks or crude image features.

    Each shortcut learns from training items and is scored on test items, whose contents are others. A shortcut that
    beats chance by more than 5 points is scored on as many test items again, since luck does that once in 40 times on
    400 items; what still beats it is a leak of the task.

    Example: python -m experiments.shortcuts --tasks RD --form marks --size 160 --items 400
    """

    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the thirteen")] = ()
    """Procedural tasks by name or abbreviation, or "all" for extra targets as well."""
    form: Annotated[Literal["pictures", "marks", "words", "yes_no"] | None, arg("FORM", "all that a task has")] = None
    """How the tasks are asked."""
    difficulties: tuple[float, ...] = (0.5,)
    """From 0 (easiest) to 1 (hardest)."""
    size: int = 160
    """Side of the pictures in pixels."""
    items: int = 400
    """Training items and test items of a form."""
    marks: Literal["red", "neutral"] = "red"
    """How points and boxes are marked."""
    seed: int = 0
    """Seed of the items."""
    out: Annotated[Path | None, arg("FOLDER", "runs/shortcuts/<name>")] = None
    """Folder of the run. The same command continues a killed run."""


def main(arguments: Arguments) -> None:
    """Draws the items, scores the shortcuts, and writes table, figure and report."""
    from rich.console import Console

    from figures import shortcuts as figures
    from interp.errors import CrosstaskError
    from interp.runs import Run

    console = Console(soft_wrap=True)
    if arguments.items < 16:
        raise CrosstaskError(f"--items {arguments.items} are too few for a classifier; expected at least 16.")
    if not arguments.difficulties or len(set(arguments.difficulties)) < len(arguments.difficulties):
        raise CrosstaskError(f"--difficulties are different numbers from 0 to 1, not {arguments.difficulties}.")
    units = _units(arguments)
    config = {name: value for name, value in vars(arguments).items() if name != "out"} | {"units": units}
    with Run.open(_folder(arguments), config, seeds=(arguments.seed,)) as run:
        common.perform_units(run, units, lambda unit: _perform(run, arguments, unit), console)
        table = _table(run, units)
        found = table[table["leak"]]
        lead = [
            "What answers a perception task without perceiving what it asks for? Each shortcut is the better of a "
            f"logistic regression and a random forest on {arguments.items} training items, scored on "
            f"{arguments.items} test items of {arguments.size} pixels; the better one was chosen on training items.",
            _verdict(table, found),
        ]
        report = common.write_results(
            run,
            title="Shortcuts in perception tasks",
            lead=lead,
            tables={"shortcuts": table, "leaks": found},
            figures=figures.all_figures(table),
            notes={"shortcuts": "Accuracy with its Wilson interval; a leak beats chance by more than .05."},
        )
    _show(console, table)
    console.print(lead[-1], markup=False)
    print(report)


def _units(arguments: Arguments) -> list[tuple[str, str, float]]:
    """Task, form and difficulty of everything that is asked for."""
    from interp.errors import CrosstaskError
    from interp.tasks.perception.registry import perception_task, perception_tasks

    if arguments.tasks in ((), ("all",)):
        tasks = list(perception_tasks(core=None if arguments.tasks else True).values())
    else:
        tasks = list({task.name: task for task in map(perception_task, arguments.tasks)}.values())
    named = arguments.tasks not in ((), ("all",))
    units = []
    for task in tasks:
        # A caption has no options; tasks that were not named may lack the form.
        forms = [form for form, n in task.forms.items() if n and arguments.form in (None, form)]
        if not forms and named:
            raise CrosstaskError(f"{task.name} has no form {arguments.form!r}; it has {', '.join(task.forms)}.")
        units += [(task.name, str(form), difficulty) for form in forms for difficulty in arguments.difficulties]
    return units


def _perform(run: "Run", arguments: Arguments, unit: tuple[str, str, float]) -> None:
    """One task in one form at one difficulty."""
    from interp.tasks.perception.registry import perception_task
    from interp.tasks.perception.shortcuts import battery

    name, form, difficulty = unit
    options = {"form": form, "difficulty": difficulty, "size": arguments.size, "seed": arguments.seed}
    draw, n = partial(perception_task(name).item, **options, marks=arguments.marks), arguments.items
    found = battery(
        (draw("train", index) for index in range(n)),
        (draw("test", index) for index in range(n)),
        again=lambda: (draw("test", index) for index in range(n, 2 * n)),
    )
    run.record(unit, {"rows": found.to_dict("records")})


def _table(run: "Run", units: list[tuple[str, str, float]]) -> "DataFrame":
    import pandas as pd

    from interp.tasks.perception.registry import perception_task
    from interp.tasks.perception.shortcuts import leaks

    parts = []
    for name, form, difficulty in units:
        part = pd.DataFrame((run.done((name, form, difficulty)) or {})["rows"])
        part.insert(0, "task", perception_task(name).abbreviation)
        part.insert(1, "form", form)
        part.insert(2, "difficulty", difficulty)
        parts.append(part.assign(leak=part["shortcut"].isin(leaks(part))))
    return pd.concat(parts, ignore_index=True)


def _verdict(table: "DataFrame", found: "DataFrame") -> str:
    forms = len(table.drop_duplicates(["task", "form", "difficulty"]))
    if not len(found):
        return f"No shortcut beats chance by more than 5 points in {forms} forms of tasks."
    names = [f"{row.task} {row.form}: {row.shortcut} ({row.accuracy:.2f})" for row in found.itertuples()]
    return f"{len(found)} leaks in {forms} forms of tasks: {'; '.join(names)}."


def _show(console: object, table: "DataFrame") -> None:
    from rich.table import Table

    several = len(set(table["difficulty"])) > 1
    shown = Table("task", "shortcut", "accuracy (95 % interval)", "chance", "n", "")
    for row in table.itertuples():
        task = f"{row.task} {row.form}" + (f" {row.difficulty:g}" if several else "")
        accuracy = f"{row.accuracy:.3f} ({row.low:.2f} to {row.high:.2f})"
        shown.add_row(task, row.shortcut, accuracy, f"{row.chance:.2f}", str(row.n), "leak" if row.leak else "")
    console.print(shown)  # type: ignore[attr-defined]


def _folder(arguments: Arguments) -> Path:
    """The same command, the same folder."""
    if arguments.out is not None:
        return arguments.out
    plain = Arguments(tasks=arguments.tasks)
    differing = {name: value for name, value in vars(arguments).items() if value != getattr(plain, name)}
    digest = hashlib.sha256(repr(sorted(differing.items())).encode()).hexdigest()[:6]
    return Path("runs/shortcuts") / "-".join(
        ["-".join(arguments.tasks) or "thirteen", *([digest] if differing else [])]
    )


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
