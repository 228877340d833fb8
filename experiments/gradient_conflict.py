"""Do tasks pull the vision tower in different directions, and less so under CoVFT?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from experiments import common
from experiments.common import arg

MODULE = "experiments.gradient_conflict"


@dataclass(frozen=True)
class Arguments:
    """Compare the gradients of single tasks in the vision tower over a mixed training, between ways to train it.

    Micro-batches of single tasks, all of one size, give gradients on the parameters that all arms have: the
    feed-forward networks and norms of the blocks that CoVFT changes, its experts' gradients summed (and, in rows of
    their own, side by side). Two readings of the paper's "dominant direction": cos(g_i, sum of the other g_j), and
    cos(g_i, v) with v the first principal direction of all g, its sign that of their sum; and the mean of the other
    tasks. Besides: cosines of all pairs of tasks, and how many conflict (cosine < 0). With --pair, how far apart
    trainings on two tasks end, against two seeds of one task.

    Example: python -m experiments.gradient_conflict --model perception --pair object_localization counting
    """

    model: str = "perception"
    """The model: perception, bundled, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], arg("TASK[/FORM] ...", "the thirteen")] = ()
    """Perception tasks by name or abbreviation, in a form of theirs or their own."""
    arms: Annotated[tuple[str, ...], arg("[NAME=]STRATEGY[:OPTION=VALUE,...] ...", "vision_full, covft, uniform")] = (
        "vision_full", "covft", "uniform=covft:routing=uniform",
    )  # fmt: skip
    """Ways to train; others are compared with the first. Uniform routing is the control: experts without a router."""
    layers: Annotated[tuple[int, ...], arg("LAYER ...", "the late half of those that are used")] = ()
    """Blocks of the tower, from 0."""
    parts: tuple[Literal["ffn", "norms"], ...] = ("ffn", "norms")
    """What of them."""
    micro_batch: int = 8
    """Conversations of a micro-batch; cosines rise with it."""
    micro_batches: int = 8
    """Micro-batches of each task."""
    weight: Literal["raw", "unit"] = "raw"
    """Gradients as they are, or all at length 1."""
    points: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0)
    """Parts of the training after which gradients are taken; 0 is its start."""
    steps: int = 200
    """Optimiser steps of each training."""
    batch: int = 16
    """Examples of a step."""
    learning_rate: float = 1e-4
    """At its highest."""
    examples: int = 3200
    """Examples of each training."""
    pair: Annotated[tuple[str, ...], arg("TASK TASK", "none")] = ()
    """Two tasks whose trainings' distance is measured for each arm; both are trained with every one of --pair-seeds."""
    pair_seeds: tuple[int, ...] = (0, 1)
    """Seeds of those trainings; two or more, for the control."""
    difficulty: float = 0.5
    """Of the items of tasks that --difficulties does not name: 0 (easiest) to 1."""
    difficulties: Annotated[Path | None, arg("FILE", "none")] = None
    """Difficulty by task: a JSON object, or a CSV with columns task and difficulty, as transfer_matrix --calibrate
    writes them."""
    wording: Literal["brief", "described"] = "brief"
    """How tasks ask; see interp/tasks/perception/wording.py."""
    size: Annotated[int | None, arg("PIXELS", "what the model's tower takes")] = None
    """Side of drawn pictures."""
    seed: int = 1000
    """Seed of the micro-batches; training draws with small seeds."""
    train_seed: int = 0
    """Seed of the mixed training."""
    draws: int = 500
    """Draws of signs behind the chance level."""
    out: Annotated[Path | None, arg("FOLDER", "runs/gradient_conflict/<name>")] = None
    """Folder of the results. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Trains what is left to train, takes gradients, and writes tables, figures and the report."""
    from rich.console import Console

    from figures import conflict as figures
    from interp.conflict import Arm, ConflictSettings, ConflictWork
    from interp.conflict.tables import NOTES, collect
    from interp.models.bundled.stem_memory import ROOMY_BYTES, StemMemory, remembered
    from interp.runs import Run
    from interp.tasks.perception.registry import perception_tasks, task_name
    from interp.transfer.names import abbreviation
    from interp.tuning.matrix.calibration import difficulties_of

    console = Console(soft_wrap=True)
    given = {name: value for name, value in vars(arguments).items() if name in ConflictSettings.__dataclass_fields__}
    tasks = tuple(task_name(name) for name in arguments.tasks) or tuple(perception_tasks())
    settings = ConflictSettings(
        **given
        | {
            "tasks": tasks,
            "difficulties": difficulties_of(tasks, arguments.difficulties, otherwise=arguments.difficulty),
            "arms": tuple(Arm.parse(text) for text in arguments.arms),
            "layers": arguments.layers or "late",
            "pair": tuple(task_name(name) for name in arguments.pair),
            "size": arguments.size or 0,
        }
    )
    console.print(f"Loading {settings.model} ...")
    model = common.model_loader(arguments.loading, main=settings.model)(settings.model)
    settings = settings.resolve(model)
    with (
        common.remarks_on(console),
        remembered(model.module, StemMemory(ROOMY_BYTES)),
        Run.open(
            arguments.out or common.run_folder(arguments, "gradient_conflict"),
            settings.config(),
            seeds=(settings.seed, settings.train_seed, *settings.pair_seeds),
            models={model.name: model.fingerprint},
        ) as run,
    ):
        work = ConflictWork(settings, run, model)
        common.perform_units(run, work.units(), work.perform, console)
        found = collect(work)
        report = common.write_results(
            run,
            title=f"Gradient conflict in the vision tower of {settings.model}",
            lead=found.sentences,
            tables=found.tables,
            figures=figures.all_figures(found.tables, short={name: abbreviation(name) for name in settings.names}),
            notes={name: note for name, note in NOTES.items() if name in found.tables},
        )
    for line in found.sentences:
        console.print(line, markup=False, highlight=False)
    print(report)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
