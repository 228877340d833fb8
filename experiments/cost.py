"""Time and peak memory of prompting and of patching, against the number of text and image examples."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from experiments import common
from experiments.common import arg

MODULE = "experiments.cost"


@dataclass(frozen=True)
class Arguments:
    """Time and peak memory of prompting and of patching, against the number of examples.

    A prompt holds its examples whenever a query is asked; a patched query holds none, since its vector was read once.
    Reading the vector is measured too. Several queries can be asked at once, which share a prompt's examples. Memory
    is that of one query (GPU: PyTorch's allocator; CPU: the kernel's resident peak, of a process of its own).

    Without options: the bundled VLM, image queries, 0 to 30 text and 1 to 10 image examples, 5 repeats.

    Example: python -m experiments.cost --text 0 10 30 --image --repeats 3
    """

    model: str = "bundled"
    """The model: bundled (the VLM), bundled-llm, a hub id, or a folder."""
    task: str = "country-capital"
    """Whose items are the examples and the queries: a name, or a folder with items.csv and instruction.txt."""
    query: Annotated[str, arg("{image,text}", "image, or text without images")] = ""
    """Modality of the query."""
    text: tuple[int, ...] = (0, 5, 10, 20, 30)
    """Numbers of text examples; where the task has fewer selection items, they come again."""
    image: Annotated[tuple[int, ...] | None, arg("INT ...", "0 1 5 10, if it can")] = None
    """Numbers of image examples."""
    queries: tuple[int, ...] = (1, 8)
    """Numbers of queries asked at once."""
    repeats: int | None = None
    """Timed calls of each case: 5, with --full 20."""
    new_tokens: int = 1
    """Length of an answer, in tokens."""
    memory: bool = True
    """Whether memory is measured; on a CPU the model is then loaded once more."""
    threads: Annotated[int | None, arg("INT", "PyTorch's choice")] = None
    """Threads of the CPU."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    full: bool = False
    """20 repeats instead of 5. Says beforehand how long it will take."""
    out: Annotated[Path | None, arg("FOLDER", "runs/cost/<name>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Measures what is not yet measured, and writes the table, figures and the report."""
    import time

    import torch
    from rich.console import Console

    from figures import prompting_cost as figures
    from interp.protocol import prompting_cost as protocol
    from interp.protocol.prompting_memory import MemoryMeter
    from interp.runs import Run

    console = Console(soft_wrap=True)
    console.print(f"Loading {arguments.model} ...")
    threads = arguments.threads or torch.get_num_threads()
    torch.set_num_threads(max(1, threads))
    start = time.perf_counter()
    model = common.model_loader(arguments.loading, main=arguments.model)(arguments.model)
    loading = time.perf_counter() - start
    can = model.takes_images
    image = arguments.image
    if image is None:
        image = (0, 1, 5, 10) if can and model.family.several_images else ()
    repeats = arguments.repeats if arguments.repeats is not None else 20 if arguments.full else 5
    settings = protocol.CostSettings(
        model=arguments.model,
        task=arguments.task,
        query=arguments.query or ("image" if can else "text"),
        text=arguments.text,
        image=image,
        queries=arguments.queries,
        repeats=repeats,
        new_tokens=arguments.new_tokens,
        memory=arguments.memory,
        threads=threads,
        template=arguments.template,
        loading=arguments.loading,
    )
    task = protocol.check(settings, model)
    folder = arguments.out or common.run_folder(arguments, "cost")
    cases = settings.cases()
    lead = [
        f"Model {settings.model} on {model.device.type}, {threads} CPU threads; {settings.query} queries of "
        f"{task.name}; {len(cases)} cases, {settings.repeats} repeats of each, {settings.new_tokens} new tokens; "
        f"memory {'of one query' if settings.memory else 'not measured'}.",
    ]
    for line in lead:
        console.print(line, markup=False)
    with (
        common.remarks_on(console),
        Run.open(folder, settings.config(), models={model.name: model.fingerprint}) as run,
        MemoryMeter(settings, model, task) as meter,
    ):

        def perform(unit: protocol.Unit) -> None:
            if unit.kind == "memory":
                run.record(unit.key, meter.measure(unit.case))
            else:
                run.record(unit.key, protocol.seconds(model, settings, task, unit.case))

        def timing() -> Callable[[protocol.Unit], float]:
            return protocol.forecast(model, settings, task, loading=loading)

        common.perform_units(run, settings.units(), perform, console, timing=timing)
        table = protocol.cost_table(settings, run)
        drawn = {
            "seconds": (
                figures.seconds(table),
                "Seconds a query, medians of the repeats; bars from the fastest to the slowest.",
            )
        }
        if settings.memory:
            drawn["memory"] = (figures.memory(table), "Peak memory of one query above the loaded model.")
        path = common.write_results(
            run,
            title=f"Cost of prompting and patching with {settings.model}",
            lead=["What do examples cost in a prompt, and what behind a vector?", *lead],
            tables={"cost": table},
            figures=drawn,
            notes={
                "cost": "seconds: median a query; low, high: fastest and slowest repeat; tokens: of the first prompt, "
                "the answer not counted; above_mb: peak memory of one query above the loaded model, in MiB; "
                "times_patch: seconds over those of patching. extract: reading the vector, once for all queries. "
                "Making prompts and pictures ready is not timed."
            },
        )
    print(path)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
