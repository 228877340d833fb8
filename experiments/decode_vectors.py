"""Read task vectors, and differences of them, as words: top tokens at every layer (Luo et al. 2025)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from experiments import common
from experiments.common import arg

MODULE = "experiments.decode_vectors"


@dataclass(frozen=True)
class Arguments:
    """Read task vectors, and differences of them, as words: top tokens at every layer.

    The mean vector of every task, from text examples, image examples and the instruction, goes through the final norm
    and the unembedding at every layer; so do the VLM's vector minus the base LLM's, image minus text, and each task's
    minus the mean over tasks. Beside the words stand the ranks of the task's words and of the answers' first tokens,
    and the same in other tasks' vectors and in random ones.

    Example: python -m experiments.decode_vectors --tasks country-capital animal-young --source text instruction
    """

    model: str = "bundled"
    """The model: bundled (the VLM), bundled-llm, a hub id, or a folder."""
    base: Annotated[str, arg("MODEL", "for bundled its base LLM, else none")] = ""
    """A language model whose text vectors are taken off the model's own, both of the same shape."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the six")] = ()
    """Task names, or folders with items.csv, instruction.txt and words.txt (words that name the task, one a line)."""
    source: Annotated[
        tuple[str, ...],
        arg("{text,image,instruction} ...", "all that apply"),
    ] = ()
    """How the task is specified."""
    shots: int = 5
    """Demonstrations of a context."""
    contexts: int = 20
    """Contexts averaged in a vector."""
    top: int = 10
    """Tokens listed of each vector."""
    draws: int = 20
    """Random vectors of a task, for the control."""
    seed: int = 0
    """Seed of the contexts and of the random vectors."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    out: Annotated[Path | None, arg("FOLDER", "runs/decode_vectors/<name>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Loads the models, does what is not yet done, and writes tables, figures and the report."""
    from rich.console import Console

    from figures import lens as figures
    from interp.models.loading import BUNDLED
    from interp.models.pairs import base_of
    from interp.protocol.vocabulary import SOURCES, DecodeSettings, DecodeWork
    from interp.protocol.words import report_layers
    from interp.protocol.words import tables as make_tables
    from interp.runs import Run
    from interp.tasks import load_task, task_names

    console = Console(soft_wrap=True)
    tasks = [load_task(name) for name in arguments.tasks or task_names()]
    console.print(f"Loading {arguments.model} ...")
    models = common.model_loader(arguments.loading, main=arguments.model)
    model = models(arguments.model)
    given = vars(arguments).copy()
    source = given.pop("source")
    del given["out"]
    sources = source or tuple(name for name in SOURCES if model.takes_images or name != "image")
    # Two large models are held at once only when the second is asked for.
    usual = base_of(model.name) if model.name in BUNDLED and "text" in sources else None
    settings = DecodeSettings(
        **given
        | {"tasks": tuple(task.name for task in tasks), "sources": sources, "base": arguments.base or usual or ""}
    )
    base = models(settings.base) if settings.base else None
    work = DecodeWork(settings, tasks, model, base)
    folder = arguments.out or common.run_folder(arguments, "decode_vectors")
    fingerprints = {entry.name: entry.fingerprint for entry in (model, base) if entry is not None}
    with (
        common.remarks_on(console),
        Run.open(folder, settings.config(), seeds=(settings.seed,), models=fingerprints) as run,
    ):
        work.run = run
        common.perform_units(run, work.units(), work.perform, console, reading=work.seconds)
        tables = make_tables(work)
        layers = report_layers(model.n_layers)
        report = common.write_results(
            run,
            title=f"Task vectors as words: {settings.model}",
            lead=[
                "Which words does a task vector say when it is read as if it were the last layer's state, and do they "
                "name the task? Ranks are among the whole vocabulary, 1 is the most probable token.",
                f"Vectors are means over {settings.contexts} contexts of {settings.shots} demonstrations from the "
                f"selection split (one prompt for an instruction), seed {settings.seed}; {model.n_layers} blocks. "
                + (f"The base LLM is {settings.base}." if settings.base else "No base LLM was compared."),
            ],
            tables=tables,
            figures={
                name: (figures.ranks_over_layers(tables["ranks"], tokens=tokens), caption)
                for name, tokens, caption in (
                    ("ranks_words", "task words", "Rank of the most probable task word. Bands: 95 % over contexts."),
                    ("ranks_answers", "answers", "Rank of the answers' first tokens. Bands: 95 % over items."),
                )
            },
            notes={
                "summary": "Geometric means over tasks at layers that the number of blocks fixes, beside the same "
                "tokens' ranks in the other tasks' vectors and in random ones. A task whose difference is nothing but "
                "rounding at a layer has no rank there, and is not counted.",
                "words": "Tokens that count as task words; one that is not a whole word begins one of several tokens.",
            },
            html={"Top tokens": figures.token_table(tables["tokens"], layers=layers)},
        )
    console.print(tables["summary"].round(1).to_string(index=False))
    print(report)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
