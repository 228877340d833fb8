"""Ask whether states cluster by task or by modality: projections, silhouette, purity, cosines, linear probes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from experiments import common
from experiments.common import arg

MODULE = "experiments.task_clusters"


@dataclass(frozen=True)
class Arguments:
    """Ask whether states cluster by task or by modality, with numbers beside the picture.

    Contexts of every task, as text and as images, give two states at each layer: the context embedding (mean over the
    tokens of the demonstrations' inputs) and the task vector (at the delimiter after a dummy query). Per layer:
    silhouette and nearest-neighbour purity by task and by modality, cosines within and between, and linear probes that
    learn the task from one modality and are tested on each, with selectivity controls. States that show a common item
    are never compared. t-SNE, UMAP and PCA are drawn at a layer that other contexts chose.

    Example: python -m experiments.task_clusters --tasks country-capital country-currency food-color
    """

    model: str = "bundled"
    """The model: bundled (the VLM), bundled-llm, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the six")] = ()
    """Task names, or folders with items.csv and instruction.txt; at least two."""
    modalities: Annotated[tuple[str, ...], arg("{text,image} ...", "all that apply")] = ()
    """How contexts are given."""
    shots: int = 5
    """Demonstrations of a context."""
    blocks: int = 7
    """Most scored blocks of items a family; a block is `shots` + 1 items of the test split, shared with no other."""
    choice_blocks: int = 4
    """Most blocks of the selection split that choose the layer."""
    orders: int = 2
    """Contexts read from a block, each with another dummy query."""
    neighbours: int = 5
    """Nearest neighbours of the purity."""
    permutations: int = 99
    """Permuted labellings behind every baseline and p-value."""
    projections: Annotated[tuple[str, ...], tyro.conf.arg(metavar="{pca,tsne,umap} ...")] = ("pca", "tsne", "umap")
    """Projections drawn."""
    seed: int = 0
    """Seed of the blocks, permutations and projections."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    out: Annotated[Path | None, arg("FOLDER", "runs/task_clusters/<name>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Loads the model, does what is not yet done, and writes tables, figures and the report."""
    from rich.console import Console

    from figures import clusters as figures
    from interp.runs import Run
    from interp.tasks import load_task, task_names
    from probes.task_cluster_tables import NOTES, describe
    from probes.task_cluster_tables import tables as make_tables
    from probes.task_cluster_work import ClusterWork
    from probes.task_clusters import ClusterSettings, make_plan

    console = Console(soft_wrap=True)
    given = vars(arguments).copy()
    del given["out"]
    tasks = [load_task(name) for name in arguments.tasks or task_names()]
    settings = ClusterSettings(**given | {"tasks": tuple(task.name for task in tasks)})
    console.print(f"Loading {settings.model} ...")
    models = common.model_loader(settings.loading, main=settings.model)
    model = models(settings.model)
    settings = settings.resolve(model)
    plan = make_plan(settings, tasks, model)
    folder = arguments.out or common.run_folder(arguments, "task_clusters")
    fingerprints = {model.name: model.fingerprint}
    with (
        common.remarks_on(console),
        Run.open(folder, plan.config(), seeds=(settings.seed,), models=fingerprints) as run,
    ):
        work = ClusterWork(settings, plan, run, models)
        common.perform_units(run, work.units(), work.perform, console, reading=work.seconds)
        tables = make_tables(work)
        lead = describe(work, tables)
        report = common.write_results(
            run,
            title=f"Task or modality: what the states of {settings.model} cluster by",
            lead=lead,
            tables=tables,
            figures=figures.all_figures(tables, layer=work.layer),
            notes=NOTES,
        )
    for line in lead[-1:]:
        console.print(line, markup=False)
    print(report)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
