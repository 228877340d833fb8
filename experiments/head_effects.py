"""Find the attention heads that carry a task, and add their sum to bare queries (Todd et al. 2024)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from experiments import common
from experiments.common import arg

MODULE = "experiments.head_effects"


@dataclass(frozen=True)
class Arguments:
    """Find the attention heads that carry a task, and add their sum to bare queries.

    A head's causal indirect effect is the gain in log-probability of the right answer, on a prompt whose labels are
    shuffled, when the head's output at the delimiter is replaced by its mean over prompts with right labels. The sum of
    the strongest heads is then added to the residual stream of bare test queries at every layer, beside a sum of as
    many random heads. All heads of a prompt are measured from one prefill.

    Example: python -m experiments.head_effects --tasks country-capital --trials 12
    """

    model: str = "bundled"
    """The model: bundled (the VLM), bundled-llm, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the six")] = ()
    """Task names, or folders with items.csv and instruction.txt."""
    modality: str = "text"
    """How the demonstrations are given: text or image."""
    query: str = "text"
    """How the bare test queries are given: text or image."""
    shots: int = 5
    """Demonstrations of a prompt."""
    contexts: int = 12
    """Prompts with right labels that a head's mean is over."""
    trials: int = 8
    """Prompts with shuffled labels a task."""
    top: int = 10
    """Heads in the sum."""
    test_items: int = 16
    """Most test items a task."""
    seed: int = 0
    """Seed of the contexts and of the random heads."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    out: Annotated[Path | None, arg("FOLDER", "runs/head_effects/<model>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Loads the model, does what is not yet done, and writes tables, vectors and figures."""
    from rich.console import Console
    from rich.progress import track

    from figures import heads as figures
    from interp.protocol.heads import HeadSettings, HeadWork
    from interp.runs import Run
    from interp.tasks import load_task, task_names

    console = Console(soft_wrap=True)
    given = vars(arguments).copy()
    out = given.pop("out")
    tasks = [load_task(name) for name in arguments.tasks or task_names()]
    settings = HeadSettings(**given | {"tasks": tuple(task.name for task in tasks)})
    console.print(f"Loading {settings.model} ...")
    model = common.model_loader(settings.loading, main=settings.model)(settings.model)
    folder = out or Path("runs") / "head_effects" / "--".join(Path(settings.model).parts[-2:]).strip("/-")
    models = {model.name: model.fingerprint}
    with (
        common.remarks_on(console),
        Run.open(folder, settings.config(), seeds=(settings.seed,), models=models) as run,
    ):
        work = HeadWork(settings, tasks, model, run)
        for key in track(work.units(), description="heads", console=console, transient=True):
            work.perform(key)
        effects, curve, ranking = work.effect_table(), work.curve_table(), work.ranking_table()
        for name, table in (("effects", effects), ("ranking", ranking), ("curve", curve)):
            run.write_csv(f"{name}.csv", table)
        picture, _ = run.write_figure("figures/effects", figures.effect_maps(effects))
        run.write_figure("figures/curve", figures.sum_curves(curve))
    best = ", ".join(f"{r.layer}.{r.head} ({r.average_log_gain:+.2f})" for r in ranking.head(5).itertuples())
    console.print(f"Strongest heads (layer.head, mean gain in nats over {len(tasks)} tasks): {best}")
    print(picture)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
