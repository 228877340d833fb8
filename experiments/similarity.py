"""Compare task vectors of an LLM and its VLM, by text, image and instruction: cosine matrices, baselines, CKA."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from experiments import common
from experiments.common import arg

MODULE = "experiments.similarity"


@dataclass(frozen=True)
class Arguments:
    """Compare task vectors across models and ways to specify a task, layer by layer.

    The base LLM reads each task from text examples and from an instruction, the VLM from text examples, image examples
    and an instruction. For every pair of these: cosines of the tasks' mean vectors, raw and centred, matched beside
    wrong tasks and random directions, with intervals over contexts; and the centred kernel alignment (CKA) of single
    contexts, debiased, beside permuted contexts. experiments.compare_pair compares weights and tokenizers.

    Example: python -m experiments.similarity --tasks country-capital country-currency food-color
    """

    model: str = "bundled"
    """The model: bundled (the VLM), bundled-llm, a hub id, or a folder."""
    llm: Annotated[str, arg("MODEL", "the base LLM of bundled, otherwise none")] = ""
    """The language model that it was fine-tuned from."""
    layer_map: Annotated[tuple[int, ...], arg("INT ...", "none")] = ()
    """The LLM's layer for each layer of the model, when the depths differ."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the six")] = ()
    """Task names, or folders with items.csv and instruction.txt; at least two."""
    shots: int = 5
    """Demonstrations of a context."""
    blocks: int = 7
    """Most scored blocks of items a family; a block is `shots` + 1 items of the test split, shared with no other."""
    choice_blocks: int = 4
    """Most blocks of the selection split that choose the layer."""
    orders: int = 2
    """Contexts read from a block, each with another dummy query."""
    permutations: int = 199
    """Permutations behind every null of CKA."""
    resamples: int = 500
    """Resamples of the bootstrap over blocks."""
    seed: int = 0
    """Seed of the blocks, resamples, permutations and random directions."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    out: Annotated[Path | None, arg("FOLDER", "runs/similarity/<name>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Loads the models, does what is not yet done, and writes tables, figures and the report."""
    from rich.console import Console

    from figures import similarity as figures
    from interp.models.loading import BUNDLED
    from interp.models.pairs import base_of
    from interp.runs import Run
    from interp.tasks import load_task, task_names
    from probes.similarities import SimilarityPlan, SimilaritySettings
    from probes.similarity_tables import NOTES, describe
    from probes.similarity_tables import tables as make_tables
    from probes.similarity_work import SimilarityWork

    console = Console(soft_wrap=True)
    given = vars(arguments).copy()
    del given["out"]
    tasks = [load_task(name) for name in arguments.tasks or task_names()]
    # Two large models are held at once only when both are asked for.
    llm = arguments.llm or (base_of(arguments.model) if arguments.model in BUNDLED else None) or ""
    settings = SimilaritySettings(**given | {"llm": llm, "tasks": tuple(task.name for task in tasks)})
    names = [settings.model, *filter(None, [settings.llm])]
    console.print(f"Loading {' and '.join(names)} ...")
    models = common.model_loader(settings.loading, main=settings.model)
    plan = SimilarityPlan(settings, tasks, models)
    folder = arguments.out or common.run_folder(arguments, "similarity")
    fingerprints = {name: models(name).fingerprint for name in names}
    with (
        common.remarks_on(console),
        Run.open(folder, plan.config(), seeds=(settings.seed,), models=fingerprints) as run,
    ):
        work = SimilarityWork(plan, run, models)
        common.perform_units(run, work.units(), work.perform, console, reading=work.seconds)
        tables = make_tables(work)
        lead = describe(work, tables)
        report = common.write_results(
            run,
            title=f"How alike task vectors of {settings.model} are",
            lead=lead,
            tables=tables,
            figures=figures.all_figures(tables, layer=work.layer),
            notes=NOTES,
        )
    for line in lead[1:]:
        console.print(line, markup=False)
    print(report)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
