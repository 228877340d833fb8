"""Speed of evaluating adapters: batches, shared pictures and one prefill against a loop over single items."""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    import pandas as pd

    from experiments.benchmark.evaluation import Workload
    from interp.runs import Run

MODULE = "experiments.bench_evaluation"
WANTED = 3.0
"""How many times faster than the loop ours should be."""


@dataclass(frozen=True)
class Arguments:
    """Time the evaluation of adapters on perception tasks, repeats interleaved.

    Peers: ours; loop, which does as BLINK's script and lmms-eval do (one item at a time, pictures encoded for every
    adapter and option shift, answers generated); and loop_letters, which scores letters as ours does, one forward pass
    at a time, and has to give the same numbers.

    Example: python -m experiments.bench_evaluation --tasks RD JG --items 6 --adapters 2
    """

    model: str = "bundled"
    """The model: bundled, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the 13")] = ()
    """Tasks by name or abbreviation."""
    items: int = 1
    """Items of each task."""
    adapters: int = 3
    """Adapters with random updates, beside the frozen model."""
    repeats: int = 2
    """Measurements of each peer."""
    size: Annotated[int | None, arg("PIXELS", "the tower's")] = None
    """Side of drawn pictures."""
    budget: Annotated[int | None, arg("TOKENS", "by the free memory")] = None
    """Most tokens of a forward pass of ours."""
    threads: Annotated[int | None, arg("N", "PyTorch's")] = None
    """Threads of PyTorch, the same for all."""
    out: Annotated[Path | None, arg("FOLDER", "runs/bench_evaluation/<model>")] = None
    """Folder of the run. The same command continues a killed run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    dtype: str = "float32"
    """float32, bfloat16, float16 or float64."""


def main(arguments: Arguments) -> None:
    """Measures what is not yet measured, and writes table and figure."""
    import torch
    from rich.console import Console
    from transformers.utils import logging as transformers_logging

    from figures import evaluation as figures
    from interp.models.base import load_model
    from interp.runs import Run

    console = Console(soft_wrap=True)
    transformers_logging.disable_progress_bar()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    config = {name: value for name, value in vars(arguments).items() if name != "out"}
    config["threads"] = torch.get_num_threads()
    name = "--".join(Path(arguments.model).parts[-2:]).strip("/-")
    folder = arguments.out or Path("runs") / "bench_evaluation" / name
    model = load_model(arguments.model, device=arguments.device, dtype=arguments.dtype)
    items = _items(arguments, model)
    with (
        Run.open(folder, config, models={model.name: model.fingerprint}) as run,
        tempfile.TemporaryDirectory() as place,
    ):
        from experiments.benchmark.evaluation import Workload, random_adapters

        folders = {"frozen": None, **random_adapters(model, Path(place), arguments.adapters)}
        work = Workload(model, tuple(items), folders, arguments.budget)
        checked = _check(run, work)
        _measure(run, work, arguments.repeats, console.print)
        table = _table(run, work, arguments.repeats, checked)
        run.write_csv("results.csv", table)
        run.write_figure("figures/speed", figures.speed(table, wanted=WANTED))
    print(common.markdown(table.round(4).astype(object).fillna("")))
    print(folder / "results.csv")


def _items(arguments: Arguments, model: object) -> list:
    """Test items of the tasks."""
    from interp.tasks.perception.registry import perception_task, perception_tasks
    from interp.tuning.dataset import picture_side

    tasks = arguments.tasks or tuple(perception_tasks(core=True))
    size = arguments.size or picture_side(model)  # type: ignore[arg-type]
    return [item for name in tasks for item in perception_task(name).items("test", arguments.items, size=size)]


def _check(run: "Run", work: "Workload") -> dict[str, float]:
    """Every peer once, which also warms up: are the numbers the same?"""
    from experiments.benchmark.evaluation import differences

    if (found := run.done("check")) is None:
        run.record("check", differences(work.ours(), work.loop_letters(), work.loop()))
        found = run.done("check")
    assert found is not None
    return found


def _measure(run: "Run", work: "Workload", repeats: int, say: object) -> None:
    """Seconds of every peer and repeat, peers taking turns."""
    import time

    from experiments.benchmark.evaluation import PEERS

    for repeat in range(repeats):
        for peer in PEERS:
            if run.done(("measure", repeat, peer)) is None:
                start = time.perf_counter()
                getattr(work, peer)()
                run.record(("measure", repeat, peer), {"seconds": time.perf_counter() - start})
                say(f"{peer}, repeat {repeat + 1}: {run.done(('measure', repeat, peer))['seconds']:.2f} s")  # type: ignore[index, operator]


def _table(run: "Run", work: "Workload", repeats: int, checked: dict[str, float]) -> "pd.DataFrame":
    """One row for each peer: seconds, times ours, and how its answers compare."""
    import pandas as pd

    from experiments.benchmark.evaluation import PEERS

    seconds = {peer: [run.done(("measure", n, peer))["seconds"] for n in range(repeats)] for peer in PEERS}  # type: ignore[index]
    rows = []
    for peer in PEERS:
        ratios = [one / ours for one, ours in zip(seconds[peer], seconds["ours"], strict=True)]
        rows.append(
            {
                "peer": peer,
                "answers": work.answers,
                "repeats": repeats,
                "seconds": statistics.median(seconds[peer]),
                "seconds_min": min(seconds[peer]),
                "seconds_max": max(seconds[peer]),
                "times_ours": statistics.median(ratios),
                "times_ours_min": min(ratios),
                "times_ours_max": max(ratios),
                "difference": checked["difference"] if peer == "loop_letters" else None,
                "same_predictions": checked["same predictions"] if peer == "loop_letters" else None,
                "generated_alike": checked["generated alike"] if peer == "loop" else None,
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
