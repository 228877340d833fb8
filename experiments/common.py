"""What every experiment's command line has in common: parsing, quiet libraries, and how it ends.

Exit codes: 0 done; 2 bad input, said in one sentence on stderr; 130 interrupted.
"""

import hashlib
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import tyro

from interp.errors import CrosstaskError
from interp.models.options import LoadOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.console import Console

    from interp.models.base import Model
    from interp.protocol.settings import Settings
    from interp.runs import Run

Loading: TypeAlias = Annotated[LoadOptions, tyro.conf.arg(name="")]
"""The type of a command line's field for how models are loaded: --device, --dtype, --quantize and so on."""

Arguments = TypeVar("Arguments")


ONE_OF_EACH_FAMILY = ("country-capital", "animal-young", "food-color")


def arg(metavar: str, default: str) -> Any:
    """An option whose default depends on others: help shows in words what it is."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def run(
    arguments: type[Arguments],
    main: Callable[[Arguments], None],
    *,
    module: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Parses the command line, runs the experiment and returns the exit code.

    Args:
        arguments: a dataclass whose docstring describes the experiment and whose fields are the options.
        main: the experiment; it imports heavy libraries itself, so that --help stays fast.
        module: as it is run, e.g. "experiments.cross_modal_patch".
        argv: arguments without the program's name; None reads the process's own.
    """
    try:
        parsed = tyro.cli(arguments, args=argv, prog=f"python -m {module}")
    except SystemExit as stop:  # --help is 0, an unparsable command line is 2
        return int(stop.code or 0)
    except CrosstaskError as error:  # options that contradict each other
        return _refused(error)
    quieten()
    try:
        main(parsed)
    except CrosstaskError as error:
        return _refused(error)
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept: run the same command again to continue.", file=sys.stderr)
        return 130
    return 0


def _refused(error: CrosstaskError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def model_loader(options: LoadOptions, *, main: str) -> "Callable[[str], Model]":
    """A function that loads each model once, when it is first asked for, without the libraries' progress bars.

    All are loaded with the same options, but the revision is that of the main model.
    """
    from transformers.utils import logging as transformers_logging

    from interp.models.base import load_model

    transformers_logging.disable_progress_bar()
    given = vars(options)
    return cache(lambda name: load_model(name, **given if name == main else given | {"revision": None}))


@contextmanager
def remarks_on(console: "Console") -> Iterator[None]:
    """Shows on the terminal what the instrument logs meanwhile: the memory plan of each model, and warnings."""
    handler = logging.Handler()
    handler.emit = lambda record: console.print(record.getMessage(), markup=False, highlight=False)  # type: ignore[method-assign]
    logger = logging.getLogger("interp")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def protocol_settings(
    arguments: Any, preset: Mapping[str, Any], *, second_half: bool = False, **given: Any
) -> "Settings":
    """The protocol's settings from a command line, with the defaults of a quick or a full run filled in.

    Args:
        arguments: a dataclass with fields model, shots, on_error, loading, layers, full, and those of the preset; what
            it has of template, max_new_tokens and backend is taken as well.
        preset: the values of options that were not given.
        second_half: whether a quick run tries every other layer of the second half alone when none were given, instead
            of every other layer; a full one tries all.
        given: everything else.
    """
    from interp.protocol.settings import Settings

    taken = ("model", "shots", "on_error", "loading", "template", "max_new_tokens", "backend")
    chosen = {name: getattr(arguments, name) for name in taken if hasattr(arguments, name)}
    chosen |= {name: preset[name] if getattr(arguments, name) is None else getattr(arguments, name) for name in preset}
    layers = arguments.layers
    quick = layers is None and not arguments.full
    return Settings(
        **chosen | given,
        layers=layers if isinstance(layers, tuple) else (),
        layer_step=2 if quick else 1,
        second_half=second_half and quick,
    )


def chosen_tasks(arguments: Any) -> dict[str, tuple[str, ...]]:
    """Settings `tasks` and `wrong_tasks`: what was given, or one task of each family, or with --full all (empty).

    Args:
        arguments: a dataclass with fields tasks, full and perhaps wrong_tasks.
    """
    tasks = arguments.tasks or (() if arguments.full else ONE_OF_EACH_FAMILY)
    wrong = getattr(arguments, "wrong_tasks", ()) or (tasks if len(tasks) > 1 else ())
    return {"tasks": tasks, "wrong_tasks": wrong}


def run_folder(arguments: Any, experiment: str) -> Path:
    """runs/<experiment>/<model>[-full][-<what the other options hash to>]; the same command, the same folder.

    Args:
        arguments: a dataclass with fields model, loading and perhaps full, all others with defaults.
        experiment: name of the experiment.
    """
    full = {"full": True} if getattr(arguments, "full", False) else {}
    given, plain = (
        {**vars(chosen), **vars(chosen.loading), "loading": None}
        for chosen in (arguments, type(arguments)(model=arguments.model, **full))
    )
    options = {name: str(value) for name, value in given.items() if value != plain[name]}
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:6]
    name = "--".join(Path(arguments.model).parts[-2:]).strip("/-")
    return Path("runs") / experiment / "-".join((name, *full, *([digest] if options else [])))


def perform_units(
    run: "Run",
    units: "Sequence[Any]",
    perform: Callable[[Any], object],
    console: "Console",
    *,
    timing: "Callable[[], Callable[[Any], float]] | None" = None,
    reading: Callable[[], float] | None = None,
    alike: int = 0,
) -> None:
    """Does the units that the run's journal does not hold yet, and says beforehand how long they will take.

    Args:
        run: whose journal it is.
        units: in their order, each with its `key`, or the keys themselves.
        perform: does a unit and records it.
        console: where the progress is shown.
        timing: times the models a little and returns the seconds that a unit should take; called only if any is left.
        reading: where units cannot be timed: the seconds that reading the prompts that are left should take.
        alike: how many more runs of the same size come after this one.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    keys = {id(unit): getattr(unit, "key", unit) for unit in units}
    left = [unit for unit in units if run.done(keys[id(unit)]) is None]
    if not left:
        console.print("Everything is done already; writing the tables and figures again.")
        return
    if len(left) < len(units):
        console.print(f"Continuing: {len(units) - len(left)} of {len(units)} units are done.")
    seconds = timing() if timing else lambda unit: 1.0
    costs = [seconds(unit) for unit in left]
    if timing:
        more = f", and the {alike} after it about {duration(alike * sum(map(seconds, units)))} more" if alike else ""
        console.print(f"This should take about {duration(sum(costs))}{more}.")
    elif reading is not None and (expected := reading()):
        console.print(f"Reading the prompts should take about {duration(expected)}.")
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=sum(costs))
        for unit, cost in zip(left, costs, strict=True):
            key = keys[id(unit)]
            progress.update(bar, description=key if isinstance(key, str) else " ".join(map(str, key)))
            perform(unit)
            progress.advance(bar, cost)


def step_logger(path: Path) -> Callable[[dict[str, Any]], None]:
    """Appends what a long training says to a file, one JSON object a line, and prints it."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def log(record: dict[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print("  ".join(f"{name} {value}" for name, value in record.items()), flush=True)

    return log


def print_skipped(console: "Console", skipped: Sequence[str], *, most: int = 5) -> None:
    """Says what was left out, a line each for the first few."""
    for line in skipped[:most]:
        console.print(f"Skipped: {line}", markup=False)
    if len(skipped) > most:
        console.print(f"Skipped: {len(skipped) - most} more.")


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, rounded to what a forecast is good for."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plain_rows(answers: "DataFrame") -> list[dict[str, Any]]:
    """A table of answers as rows for JSON, with None where a value is missing."""
    loose = answers.astype(object)
    return loose.where(loose.notna(), None).to_dict("records")


def write_results(
    run: "Run",
    *,
    title: str,
    lead: Sequence[str],
    tables: Mapping[str, "DataFrame"],
    figures: Mapping[str, tuple["Figure", str]],
    notes: Mapping[str, str] | None = None,
    html: Mapping[str, str] | None = None,
) -> Path:
    """An experiment's results: tables as CSV, figures as PNG and PDF, and report.html with all of them.

    Args:
        run: its folder.
        title: heading of the report.
        lead: its first paragraphs: the question, and what was run on how much.
        tables: name -> table, written to <name>.csv.
        figures: name -> figure and caption, written to figures/<name>.png and .pdf.
        notes: tables that the report shows, with what is said below each; none by default.
        html: heading -> finished HTML of further sections.

    Returns:
        The report's path.
    """
    from figures.page import Section, page

    drawn = []
    for name, table in tables.items():
        run.write_csv(f"{name}.csv", table)
    for name, (figure, caption) in figures.items():
        png, _ = run.write_figure(f"figures/{name}", figure)
        drawn.append((png.read_bytes(), caption))
    shown = [(tables[name], note) for name, note in (notes or {}).items()]
    sections = [Section("Figures", figures=drawn), Section("Tables", tables=shown)]
    sections += [Section(heading, html=[body]) for heading, body in (html or {}).items()]
    details = {"Configuration": "config.json", "Environment": "environment.json"}
    folded = {heading: (run.folder / name).read_text() for heading, name in details.items()}
    return run.write_text(
        "report.html", page(title, lead, [section for section in sections if section.has_content], folded)
    )


def markdown(table: "DataFrame") -> str:
    """A table in Markdown, cells as they are."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def replace_table(text: str, name: str, table: str) -> str:
    """A document with what stands between `<!-- name -->` and `<!-- end -->` replaced by a table.

    Raises:
        CrosstaskError: if the document has no such place.
    """
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(\n?<!-- end -->)"
    if not re.search(pattern, text, re.DOTALL):
        raise CrosstaskError(f"the document has no place for the table {name!r}: <!-- {name} --> and <!-- end -->")
    return re.sub(pattern, lambda found: f"{found[1]}{table}\n<!-- end -->", text, count=1, flags=re.DOTALL)


def quieten() -> None:
    """Keeps the libraries' own progress bars and advice off the terminal; set before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # PEFT asks for it
