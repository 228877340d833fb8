"""What do the contextual vectors of a CoVFT tower cluster by, beyond the wording of the question?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    import numpy as np

    from interp.context_vectors import ClusterWork

MODULE = "experiments.context_clusters"


@dataclass(frozen=True)
class Arguments:
    """Cluster the contextual vectors of a trained CoVFT adapter, with numbers beside the picture.

    Items of all tasks (test split) go through the tower, each with its own question. k-means of the last CoVFT layer's
    vectors is held against task and form by adjusted mutual information, which corrects for chance; the same is done
    for the text embedding alone, the context of the picture alone (one question for all) and of the question alone
    (grey pictures), and the tower's mean feature before and after training. Besides: principal components, the items
    nearest to each centre with their pictures, and whether items with like contexts are routed alike, against random
    routers.

    Example: python -m experiments.context_clusters --adapter runs/finetune/perception-mixture-covft/adapter
    """

    adapter: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder with a CoVFT adapter, as experiments.finetune --strategy covft writes it."""
    model: str = "perception"
    """The model that it was trained on: perception, bundled, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], arg("TASK[/FORM] ...", "the thirteen")] = ()
    """Perception tasks by name or abbreviation, in a form of theirs or their own; or files of items."""
    forms: Literal["own", "all"] = "own"
    """Ask each task in the form that is named (by default its own), or in every form that it has."""
    wordings: tuple[Literal["brief", "described"], ...] = ("brief",)
    """How tasks ask: with two, every item is asked in both, and wording is one more label to cluster by."""
    items: int = 40
    """Test items of each task and form."""
    clusters: int = 10
    """k of k-means; the paper has 10."""
    layer: Annotated[int, arg("LAYER", "the last CoVFT layer")] = -1
    """Block of the tower whose vectors are clustered."""
    nearest: int = 4
    """Items that are shown of each cluster."""
    neutral: str = "What is in the picture?"
    """The question that is asked of every item where the picture alone should decide."""
    shuffles: int = 199
    """Shuffled labels, and permuted items, behind the chance levels."""
    difficulty: float = 0.5
    """Of the items of tasks that --difficulties does not name: 0 (easiest) to 1."""
    difficulties: Annotated[Path | None, arg("FILE", "none")] = None
    """Difficulty by task: a JSON object, or a CSV with columns task and difficulty, as transfer_matrix --calibrate
    writes them."""
    size: Annotated[int | None, arg("PIXELS", "what the model's tower takes")] = None
    """Side of drawn pictures."""
    seed: int = 1000
    """Seed of the items, of k-means and of resampling; training draws with small seeds."""
    out: Annotated[Path | None, arg("FOLDER", "runs/context_clusters/<name>")] = None
    """Folder of the results. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Reads the items that are left to read, and writes tables, figures and the report."""
    from rich.console import Console

    from figures import context_clusters as figures
    from interp.context_vectors import ClusterSettings, ClusterWork
    from interp.context_vectors.cluster_work import NOTES, collect
    from interp.context_vectors.kept import adapter_fingerprint, results_folder
    from interp.models.bundled.stem_memory import ROOMY_BYTES, StemMemory, remembered
    from interp.runs import Run
    from interp.tasks.perception.registry import perception_tasks, task_name
    from interp.transfer.names import abbreviation
    from interp.tuning.adapters import check_base, trained_limits
    from interp.tuning.matrix.calibration import difficulties_of
    from interp.tuning.pixels import pixel_limits

    console = Console(soft_wrap=True)
    given = {name: value for name, value in vars(arguments).items() if name in ClusterSettings.__dataclass_fields__}
    tasks = tuple(task_name(name) for name in arguments.tasks) or tuple(perception_tasks())
    settings = ClusterSettings(
        **given
        | {
            "adapter": adapter_fingerprint(arguments.adapter),
            "tasks": tasks,
            "difficulties": difficulties_of(tasks, arguments.difficulties, otherwise=arguments.difficulty),
            "size": arguments.size or 0,
        }
    )
    limits = trained_limits({"covft": arguments.adapter})
    console.print(f"Loading {settings.model} ...")
    model = common.model_loader(arguments.loading, main=settings.model)(settings.model)
    check_base(model, arguments.adapter, "covft")
    settings = settings.resolve(model)
    with (
        common.remarks_on(console),
        remembered(model.module, StemMemory(ROOMY_BYTES)),
        pixel_limits(model, limits["min_pixels"], limits["max_pixels"]),
        Run.open(
            arguments.out or results_folder("context_clusters", settings.model, settings.config()),
            settings.config(),
            seeds=(settings.seed,),
            models={model.name: model.fingerprint},
        ) as run,
    ):
        work = ClusterWork(settings, run, model, arguments.adapter)
        common.perform_units(run, work.units(), work.perform, console)
        found = collect(work)
        short = {settings.labels_of(name)[0]: abbreviation(settings.labels_of(name)[0]) for name in settings.asked}
        drawn = figures.all_figures(
            found.tables, _pictures(work, found.tables["nearest"]), layer=found.layer, short=short
        )
        report = common.write_results(
            run,
            title=f"What contextual vectors of {settings.model} cluster by",
            lead=found.sentences,
            tables=found.tables,
            figures=drawn,
            notes=NOTES,
        )
    for line in found.sentences:
        console.print(line, markup=False, highlight=False)
    print(report)


def _pictures(work: "ClusterWork", nearest: "object") -> "dict[str, list[np.ndarray]]":
    """The pictures of the items that are shown."""
    import numpy as np
    import pandas as pd

    assert isinstance(nearest, pd.DataFrame)
    wanted = set(nearest["item"])
    return {
        item.name: [np.asarray(image.load()) for image in item.images]
        for asked in dict.fromkeys(nearest["asked"])
        for item in work.items(asked)
        if item.name in wanted
    }


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
