"""Analyse a measured transfer matrix: PGF, scores, cliques and graph, beside what chance and target effects give."""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from interp.transfer.analysis import Analysis, Settings

MODULE = "experiments.analyse_transfer"


@dataclass(frozen=True)
class Arguments:
    """Analyse a matrix of what fine-tuning on each task does to the accuracy on every task.

    Perfection Gap Factors, transferability and malleability, personas, category trends, cliques and the task-transfer
    graph as published, and what they should be held against: shares of the variance, cliques of random matrices, paired
    tests of every cell with false-discovery control, constant answers, reliability over runs, and training dose.

    The input is a folder of experiments.transfer_matrix, or a CSV with columns seed, ft_task, task and either
    perfection_gap_factor or accuracy (rows whose ft_task is "baseline" or empty are the frozen model; a column n gives
    the number of items). Any number of tasks from two on; sources that are no target are controls.

    Example: python -m experiments.analyse_transfer --pgf pgf_qwen2.5vl_7b.csv --dose published --out runs/qwen-7b
    """

    pgf: Annotated[Path, tyro.conf.arg(metavar="FILE|FOLDER")]
    """The measured matrix."""
    out: Annotated[Path | None, arg("FOLDER", "runs/analyse_transfer/<name>")] = None
    """Folder of the results."""
    measure: Literal["pgf", "chance", "log_p", "brier", "log_odds"] = "pgf"
    """What stands in the cells: pgf; chance (accuracies below chance count as chance); the smooth factors on the key's
    log p or on the Brier score; the log-odds difference."""
    ceiling: Annotated[str, tyro.conf.arg(metavar="one|best|FILE")] = "one"
    """The accuracy at which a factor is 1: one; best (the best seen on the target); or a CSV with columns task,
    ceiling, such as human accuracies."""
    epsilon: float = 0.0
    """Added to the room between baseline and ceiling."""
    zero: Annotated[float | None, arg("SIZE", "0 for factors as read, 1e-9 for those computed here")] = None
    """Mean factors of a smaller size have no sign."""
    form: Annotated[str | None, arg("FORM", "all, weighted by their items")] = None
    """Only targets asked in this form; of a matrix folder."""
    fraction: Annotated[float | None, arg("SHARE", "the largest")] = None
    """Training fraction whose matrix is analysed."""
    dose: Annotated[str | None, arg("published|FILE", "those of a matrix folder")] = None
    """Training steps of the sources: those of the paper's Table A.2, or a CSV with columns task, steps."""
    permutations: int = 1999
    """Random matrices behind each null."""
    top: Annotated[int | None, arg("COUNT", "a quarter of the tasks")] = None
    """Tasks that each persona is given to."""
    shown: Annotated[tuple[float, ...], tyro.conf.arg(metavar="PERCENT ...")] = (25, 50, 75, 100)
    """Per cent of the edges in each panel of the graph, the strongest first."""
    seed: int = 0
    """Seed of the random matrices."""


def main(arguments: Arguments) -> None:
    """Reads and analyses the matrix, then writes tables, figures and the report; nothing is written of a bad input."""
    from rich.console import Console

    from interp.runs import Run
    from interp.transfer.analysis import Analysis, Settings
    from interp.transfer.describe import NOTES, clique_names, describe

    settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    analysis = Analysis.read(arguments.pgf, settings)
    tables, lead = analysis.tables, describe(analysis)
    drawn = _figures(analysis)
    listed = "".join(f"<p>{sign}: {clique_names(found)}</p>" for sign, found in analysis.cliques.items())
    config = {"settings": vars(settings), "input": _fingerprints(arguments)}
    folder = arguments.out or _folder(arguments, settings)
    with Run.open(folder, config, seeds=(settings.seed,)) as run:
        run.write_json("cliques.json", analysis.cliques)
        run.write_json("graph.json", analysis.graph)
        report = common.write_results(
            run,
            title=f"Measured transfer: {arguments.pgf.resolve().name}",
            lead=lead,
            tables=tables,
            figures=drawn,
            notes={name: note for name, note in NOTES.items() if len(tables[name])},
            html={"Cliques": listed},
        )
    console = Console(soft_wrap=True)
    for line in lead:
        console.print(line, markup=False, highlight=False)
    print(report)


def _figures(analysis: "Analysis") -> dict[str, tuple["Figure", str]]:
    """Name -> figure and caption, in the order of the report."""
    from figures import pgf_report

    measured = analysis.measured
    known = {measured.label(task): steps for task, steps in analysis.steps.items()}
    return pgf_report.all_figures(
        analysis.tables, analysis.graph, short=analysis.short, steps=known, measure=analysis.settings.measure
    )


def _fingerprints(arguments: Arguments) -> dict[str, Any]:
    """sha256 of every file that the numbers come from, by name."""
    from interp.files import sha256_of
    from interp.transfer.tables import CELLS_FILE, ITEMS_FILES

    found = [arguments.pgf]
    if arguments.pgf.is_dir() or arguments.pgf.name == CELLS_FILE:
        parent = arguments.pgf if arguments.pgf.is_dir() else arguments.pgf.parent
        found = [parent / name for name in (CELLS_FILE, *ITEMS_FILES)]
    found += [Path(name) for name in (arguments.ceiling, arguments.dose or "") if Path(name).is_file()]
    return {path.name: sha256_of(path) for path in found if path.is_file()}


def _folder(arguments: Arguments, settings: "Settings") -> Path:
    """runs/analyse_transfer/<input>[-<what the options hash to>]; the same command, the same folder."""
    plain = type(settings)()
    options = {key: str(value) for key, value in vars(settings).items() if value != vars(plain)[key]}
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:6]
    path = arguments.pgf.resolve()
    name = path.name if path.is_dir() else path.stem
    return Path("runs") / "analyse_transfer" / "-".join((name, *([digest] if options else [])))


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
