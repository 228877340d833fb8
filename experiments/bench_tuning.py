"""Training speed, side by side: our runner with and without kept features, and plain Trainer with peft."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from pandas import DataFrame

MODULE = "experiments.bench_tuning"


@dataclass(frozen=True)
class Arguments:
    """Measure training examples a second of our runner and of plain transformers Trainer with peft.

    All train the same LoRA on the same drawn items in the same order and micro-batches; repeats are interleaved, and
    the median is reported. The loss of the first step has to be the same for all. The first step of each training is
    not counted.

    Example: python -m experiments.bench_tuning --task VS --steps 5 --repeats 5
    """

    model: str = "bundled"
    """The model: bundled, a hub id whose models read plain prompts, or a folder."""
    task: str = "RD"
    """What is trained on."""
    steps: int = 3
    """Optimiser steps of a training, of which the first is not counted."""
    batch: int = 8
    """Examples a step."""
    micro_batch: int = 4
    """Examples that go through the model at once."""
    repeats: int = 3
    """Trainings of each way."""
    size: Annotated[int | None, arg("PIXELS", "the tower's")] = None
    """Side of the pictures."""
    threads: Annotated[int | None, arg("N", "PyTorch's")] = None
    """Threads of PyTorch, the same for all."""
    seed: int = 0
    """Seed of data and initialisation."""
    out: Annotated[Path | None, arg("FOLDER", "runs/bench_tuning/<model>-<what the options hash to>")] = None
    """Folder of the results."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Measures, and writes table and figure."""
    import tempfile

    import torch
    from rich.console import Console

    from experiments.benchmark import tuning
    from figures import tuning as figures
    from interp.errors import CrosstaskError
    from interp.runs import Run
    from interp.tuning.config import TuneConfig
    from interp.tuning.dataset import as_example, training_examples

    if arguments.steps < 2:
        raise CrosstaskError(f"the first step is not counted, so at least 2 are needed, and not {arguments.steps}")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    console = Console(soft_wrap=True)
    model = common.model_loader(arguments.loading, main=arguments.model)(arguments.model)
    folder = arguments.out or common.run_folder(arguments, "bench_tuning")
    with tempfile.TemporaryDirectory() as place:
        config = TuneConfig(
            task=arguments.task,
            model=arguments.model,
            examples=arguments.steps * arguments.batch,
            steps=arguments.steps,
            batch=arguments.batch,
            micro_batch=arguments.micro_batch,
            size=arguments.size,
            seed=arguments.seed,
            features_at=Path(place) / "features",
            loading=arguments.loading,
        )
        examples = [as_example(example) for example in training_examples(config, model)]
        with console.status("") as status:
            measured = tuning.measure(
                model,
                config,
                examples,
                Path(place),
                repeats=arguments.repeats,
                tell=lambda way, repeat: status.update(f"{way}, {repeat + 1} of {arguments.repeats}"),
            )
    table = tuning.summary(measured)
    settings = config.settings() | {"micro_batch": config.micro_batch, "repeats": arguments.repeats}
    with Run.open(folder, settings, seeds=(arguments.seed,), models={model.name: model.fingerprint}) as run:
        run.write_csv("measured.csv", measured)
        report = common.write_results(
            run,
            title=f"Training speed on {arguments.model}",
            lead=lines(table),
            tables={"throughput": table},
            figures={"throughput": (figures.throughput(table), "Training examples a second")},
            notes={"throughput": "low and high: the slowest and the fastest repeat"},
        )
    for line in lines(table):
        console.print(line, markup=False)
    print(report)


def lines(table: "DataFrame") -> list[str]:
    """One sentence a way."""
    said = []
    for row in table.to_dict("records"):
        text = f"{row['way']}: {row['examples_per_second']:.2f} examples a second"
        if "times_plain" in row:
            text += f", {row['times_plain']:.2f} times the plain way" + (
                "" if row["same_loss"] else ", WITH ANOTHER LOSS"
            )
        said.append(text + ".")
    return said


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
