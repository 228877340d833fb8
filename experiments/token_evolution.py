"""Follow input, task and answer through the layers at the delimiter, by the logit lens (Luo et al. 2025)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from pandas import DataFrame

MODULE = "experiments.token_evolution"
QUICK, FULL = 30, 100
"""Example sets of a task; Luo et al. take 100."""


@dataclass(frozen=True)
class Arguments:
    """Follow input, task and answer through the layers at the delimiter, by the logit lens.

    The state at the delimiter of a query after examples is read through the final norm and the unembedding after every
    block. Shown is how the probability is shared among input tokens (what a bare delimiter says early), task tokens
    (words such as capital) and answer tokens, and at which layers one overtakes the other, with intervals. Examples
    with shuffled labels, other tasks' words and other items' answers are the controls.

    Without options: the bundled VLM, six tasks, text and image queries, 30 example sets; --full takes 100.

    Example: python -m experiments.token_evolution --tasks country-capital food-color --query text
    """

    model: str = "bundled"
    """The model: bundled (the VLM), bundled-llm, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the six")] = ()
    """Task names, or folders with items.csv and words.txt (words that name the task, one a line)."""
    query: Annotated[tuple[str, ...], arg("{text,image} ...", "all that apply")] = ()
    """Modality of the query."""
    source: str = "same"
    """Modality of the examples: text, image, or the same as the query's."""
    input: str = "delimiter"
    """The input token: what the bare delimiter says early, or the first tokens of the query's own name (name)."""
    shots: int = 5
    """Demonstrations of an example set."""
    sets: Annotated[int | None, arg("INT", f"{QUICK}; with --full {FULL}")] = None
    """Example sets of a task."""
    full: bool = False
    """As many example sets as the paper. Says beforehand how long it will take."""
    seed: int = 0
    """Seed of the example sets."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    out: Annotated[Path | None, arg("FOLDER", "runs/token_evolution/<name>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Loads the model, does what is not yet done, and writes tables, figures and the report."""
    from rich.console import Console

    from figures import lens as figures
    from interp.protocol.evolution import EvolutionSettings, EvolutionWork
    from interp.protocol.phases import tables as make_tables
    from interp.runs import Run
    from interp.tasks import load_task, task_names

    console = Console(soft_wrap=True)
    tasks = [load_task(name) for name in arguments.tasks or task_names()]
    console.print(f"Loading {arguments.model} ...")
    model = common.model_loader(arguments.loading, main=arguments.model)(arguments.model)
    given = vars(arguments).copy()
    query, sets = given.pop("query"), given.pop("sets")
    del given["out"], given["full"]
    settings = EvolutionSettings(
        **given
        | {"tasks": tuple(task.name for task in tasks)}
        | {"queries": query or (("text", "image") if model.takes_images else ("text",))}
        | {"sets": sets if sets is not None else FULL if arguments.full else QUICK}
    )
    work = EvolutionWork(settings, tasks, model)
    folder = arguments.out or common.run_folder(arguments, "token_evolution")
    with (
        common.remarks_on(console),
        Run.open(folder, settings.config(), seeds=(settings.seed,), models={model.name: model.fingerprint}) as run,
    ):
        work.run = run
        common.perform_units(run, work.units(), work.perform, console, reading=work.seconds)
        tables = make_tables(work)
        evolution, switches = tables["evolution"], tables["switches"]
        report = common.write_results(
            run,
            title=f"What the delimiter says, layer by layer: {settings.model}",
            lead=[
                "At which layers does the delimiter of a query turn from its input to the task, and from the task to "
                "the answer? The state there is read through the final norm and the unembedding after every block, and "
                "the probability of three sets of tokens is compared.",
                f"{settings.sets} example sets a task, {settings.shots} demonstrations each, seed {settings.seed}; "
                f"{model.n_layers} blocks. {_token_sentence(tables['tokens'], settings.input)}",
            ],
            tables=tables,
            figures={
                "evolution": (
                    figures.token_evolution(evolution, switches),
                    "Relative probability of input, task and answer tokens at the delimiter. A share is among the "
                    "three sets only; evolution.csv has the probability among the whole vocabulary beside it.",
                ),
                "controls": (
                    figures.evolution_controls(evolution),
                    "The task and the answer curve, and what another task's words and another item's answers would get "
                    "in their place.",
                ),
            },
            notes={
                "switches": "The layer that tells the two curves apart best; empty where there is no such layer, with "
                "the share of resamples without one under never. Layers count blocks from 0.",
                "tokens": "Tokens of the input set and of the task words; one that is not a whole word begins one of "
                "several tokens, and other words too.",
            },
        )
    console.print(switches[switches["labels"] == "right"].drop(columns=["model", "labels"]).to_string(index=False))
    print(report)


def _token_sentence(tokens: "DataFrame", given: str) -> str:
    """Which tokens stand for the input."""
    if given == "name":
        return "Input tokens are the first tokens of the query's own name."
    found = tokens[tokens["set"] == "input"]
    named = "; ".join(f"{row.token!r} for {row.of}" for row in found.itertuples())
    return f"The input token, what a bare delimiter says in the first quarter of the blocks: {named}."


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
