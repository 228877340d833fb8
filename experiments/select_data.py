"""Does transfer choose training data? A target's best sources against random mixtures and its own data."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from interp.tuning.selection.plan import Matrix, SelectionSettings

MODULE = "experiments.select_data"


@dataclass(frozen=True)
class Arguments:
    """Mix the sources that a measured matrix rates highest for a target, and fine-tune on the mixture.

    The matrix must have been measured on selection items (experiments.transfer_matrix --split selection). Compared at
    the same number of examples and steps: the guided mixture, several mixtures of randomly drawn sources, and the
    target's own data, all tested on test items. The control sources are never mixed.

    Example: python -m experiments.select_data --target JG OL --matrix runs/transfer_matrix/selection
    """

    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK ...")]
    """Targets, each of them one of the matrix."""
    matrix: Path = Path("runs/transfer_matrix/selection")
    """Folder of experiments.transfer_matrix, measured on the selection split."""
    sources: int = 3
    """How many sources are mixed."""
    weights: Literal["equal", "pgf"] = "equal"
    """Shares of the guided mixture: equal, or in proportion to the factors."""
    draws: int = 3
    """Random mixtures."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the trainings."""
    items: int = 200
    """Test items of a target."""
    examples: Annotated[int | None, arg("N", "the matrix's")] = None
    """Training examples of every mixture."""
    steps: Annotated[int | None, arg("N", "the matrix's")] = None
    """Optimiser steps of every training."""
    seed: int = 0
    """Seed of the random mixtures."""
    micro_batch: int = 4
    """Training examples that go through the model at once."""
    budget: Annotated[int | None, arg("TOKENS", "by the free memory")] = None
    """Most tokens of a forward pass of the evaluation."""
    compile: bool = False
    """Compile the decoder blocks."""
    threads: Annotated[int | None, arg("N", "PyTorch's")] = None
    """Threads of PyTorch on a CPU."""
    out: Annotated[Path | None, arg("FOLDER", "runs/select_data/<what the settings hash to>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Chooses mixtures, trains on them, evaluates them, and writes table and figure."""
    from rich.console import Console
    from rich.progress import Progress

    from figures import evaluation as figures
    from interp.errors import CrosstaskError
    from interp.runs import Run
    from interp.tuning.evaluation.evaluate import EvaluationOptions
    from interp.tuning.matrix.launch import run_here
    from interp.tuning.matrix.work import HowOptions, ModelWork
    from interp.tuning.selection.plan import make_jobs, read_matrix
    from interp.tuning.selection.table import selection_table

    console = Console(soft_wrap=True)
    matrix = read_matrix(arguments.matrix)
    if dict(matrix.settings.loading) != arguments.loading.config():
        raise CrosstaskError(
            f"the matrix was measured with {dict(matrix.settings.loading)}, and this is {arguments.loading.config()}"
        )
    settings = settings_of(arguments, matrix)
    digest = hashlib.sha256(json.dumps(settings.config(), sort_keys=True, default=str).encode()).hexdigest()[:6]
    folder = (
        arguments.out or Path("runs") / "select_data" / f"{'-'.join(settings.arms)[:60].replace('/', '-')}-{digest}"
    )
    how = HowOptions(
        loading=arguments.loading,
        training={"micro_batch": arguments.micro_batch, "compile_blocks": arguments.compile},
        evaluation=EvaluationOptions(budget=arguments.budget, compile_blocks=arguments.compile),
        threads=arguments.threads,
    )
    jobs = make_jobs(settings)
    for target, arms in settings.arms.items():
        for arm in arms:
            console.print(f"{target}, {arm.name}: {', '.join(f'{s} {100 * w:.0f} %' for s, w in arm.shares.items())}")
    with common.remarks_on(console), Run.open(folder, settings.config(), seeds=settings.seeds) as run:
        work = ModelWork(matrix.settings.model, how)
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("", total=len(jobs))
            for job in jobs:
                progress.update(bar, description=job.key)
                run_here(run.folder, [job], work)
                progress.advance(bar)
        table = selection_table(run.folder, settings, jobs)
        budget = settings.matrix.training
        report = common.write_results(
            run,
            title=f"Data chosen by transfer for {', '.join(settings.arms)}",
            lead=[
                f"Every mixture has {budget['examples']} examples and {budget['steps']} steps. Sources were chosen on "
                f"selection items, and everything is tested on {settings.items} test items a target.",
            ],
            tables={"selection": table},
            figures={"selection": (figures.selection(table), "Accuracy on test items with 95 % intervals.")},
            notes={"selection": "Intervals resample items and seeds; p-values flip the signs of items."},
        )
    shown = ["target", "arm", "sources", "n", "accuracy", "low", "high", "over_random", "over_random_low"]
    shown += ["over_random_high", "over_random_p", "over_direct"]
    print(common.markdown(table[shown].round(3).astype(object).fillna("")))
    print(report)


def settings_of(arguments: Arguments, matrix: "Matrix") -> "SelectionSettings":
    """Mixtures of every target.

    Raises:
        CrosstaskError: a target that the matrix does not have, too few sources, or no budget.
    """
    from interp.errors import CrosstaskError
    from interp.tuning.matrix.work import canonical
    from interp.tuning.selection.plan import SelectionSettings, arms, factors

    training = {name: value for name, value in matrix.settings.training.items() if name != "schedule"}
    training |= {name: value for name in ("examples", "steps") if (value := getattr(arguments, name)) is not None}
    missing = [name for name in ("examples", "steps") if name not in training]
    if missing:
        raise CrosstaskError(f"the matrix has no one dose for all sources; give --{missing[0]}")
    targets = tuple(dict.fromkeys(map(canonical, arguments.target)))
    rated = {target: factors(matrix, target) for target in targets}
    chosen = {
        target: arms(
            rated[target],
            target,
            sources=arguments.sources,
            draws=arguments.draws,
            weights=arguments.weights,
            seed=arguments.seed,
        )
        for target in targets
    }
    same_budget = replace(matrix.settings, training=training)
    return SelectionSettings(same_budget, chosen, rated, arguments.seeds, arguments.items)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
