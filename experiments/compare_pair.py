"""Check whether one model's task vectors may be patched into another: weights, delimiter, cosines with baselines."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from experiments import common
from experiments.common import arg

MODULE = "experiments.compare_pair"


@dataclass(frozen=True)
class Arguments:
    """Check whether one model's task vectors may be patched into another.

    Compares width, depth (or a layer map), the tokenizers and their delimiter, the weights of each block, and the
    cosine of the two models' task vectors at each layer, raw and centred, beside that of different tasks and of random
    directions.

    Example: python -m experiments.compare_pair --source bundled-llm --target bundled
    """

    target: str = "bundled"
    """The model that vectors would be patched into: bundled, bundled-llm, a hub id, or a folder."""
    source: Annotated[str, arg("MODEL", "the target's known base LLM")] = ""
    """The model that they are read from."""
    layer_map: Annotated[tuple[int, ...], arg("INT ...", "none")] = ()
    """The source layer for each target layer, when the depths differ."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the six")] = ()
    """Task names, or folders with items.csv and instruction.txt; at least two."""
    source_modality: str = "text"
    """How the source is given the task: text, image or instruction."""
    target_modality: str = "text"
    """How the target is given the task."""
    shots: int = 5
    """Demonstrations of a context."""
    contexts: int = 10
    """Contexts averaged in a vector."""
    seed: int = 0
    """Seed of the contexts."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    out: Annotated[
        Path | None,
        arg("FOLDER", "runs/compare_pair/<source>--<target>"),
    ] = None
    """Folder of the run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Loads both models, compares them, and writes tables and a figure."""
    from rich.console import Console

    from figures import pairs as figures
    from interp.errors import CrosstaskError
    from interp.models.pairs import agreement, base_of, check_pair
    from interp.prompts import Template
    from interp.protocol.bank import slug
    from interp.protocol.pairs import PairSettings, cosine_table, layer_table, sentences, task_vectors
    from interp.runs import Run
    from interp.tasks import load_task, task_names

    console = Console(soft_wrap=True)
    given = vars(arguments).copy()
    out = given.pop("out")
    source = arguments.source or base_of(arguments.target)
    if source is None:
        raise CrosstaskError(f"no base LLM of {arguments.target!r} is known; name one with --source.")
    tasks = [load_task(name) for name in arguments.tasks or task_names()]
    settings = PairSettings(**given | {"source": source, "tasks": tuple(task.name for task in tasks)})
    console.print(f"Loading {settings.source} and {settings.target} ...")
    models = common.model_loader(settings.loading, main=settings.target)
    read, target = models(settings.source), models(settings.target)
    report = check_pair(read, target, template=Template.parse(settings.template), layer_map=settings.layer_map)
    folder = out or Path("runs") / "compare_pair" / f"{slug(settings.source)}--{slug(settings.target)}"
    fingerprints = {model.name: model.fingerprint for model in (read, target)}
    with Run.open(folder, settings.config(), seeds=(settings.seed,), models=fingerprints) as run:
        theirs = task_vectors(read, tasks, settings.source_modality, settings)[:, list(report.layer_map)]
        found = agreement(theirs, task_vectors(target, tasks, settings.target_modality, settings))
        layers = layer_table(report, found)
        run.write_csv("layers.csv", layers)
        run.write_csv("cosines.csv", cosine_table(settings.tasks, found))
        run.write_text("summary.md", "\n".join(f"- {line}" for line in sentences(report)) + "\n")
        figure = figures.agreement_by_layer(layers, source=settings.source, target=settings.target)
        picture, _ = run.write_figure("figures/agreement", figure)
    for line in sentences(report):
        console.print(line, markup=False)
    for kind in ("raw", "centred"):
        same, other = (layers[f"{kind}_{which}"] for which in ("matched", "mismatched"))
        console.print(
            f"Task vectors, {kind} cosine over layers: {same.min():.2f} to {same.max():.2f} for the same task, "
            f"{other.min():.2f} to {other.max():.2f} for different ones."
        )
    print(picture)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
