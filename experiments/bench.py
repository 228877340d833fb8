"""Speed, measured side by side: ours, nnsight, TransformerBridge, pyvene, and plain forward passes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from experiments.benchmark.tables import BenchmarkTables
    from interp.runs import Run

MODULE = "experiments.bench"


@dataclass(frozen=True)
class Arguments:
    """Measure the same work through this package and through other tools, repeats interleaved.

    Workloads: capture_text, capture_images, sweep_bare, sweep_long, generate, sweep_vectors. Peers: ours, ours_copied
    (our engine for models without a 4-D mask), bare (forward passes with nothing read or patched), plain and
    plain_cached (forward hooks, a whole forward pass for every patch), nnsight, transformer_lens, pyvene (in an
    environment of its own, which is made at its first use). What each does is said at the top of its file in
    experiments/benchmark/peers. Every row is compared with plain full forwards, and marked wrong where it differs.

    Example: python -m experiments.bench --workloads sweep_bare sweep_long --peers ours bare plain nnsight
    """

    workloads: Annotated[tuple[str, ...], arg("NAME ...", "all")] = ()
    """Which work."""
    peers: Annotated[tuple[str, ...], arg("NAME ...", "all")] = ()
    """Who does it."""
    repeats: int = 5
    """Measurements of each peer, interleaved."""
    seconds: float = 50.0
    """Most seconds of a peer on a workload, all repeats together; the number of queries is cut to that for all (and
    where the least number takes longer, a slow peer is repeated less often)."""
    queries: int = 512
    """Most queries of a workload."""
    vectors: int = 20
    """Vectors of the sweep over many vectors."""
    lengths: tuple[int, int] = (300, 1200)
    """Shortest and longest of the long contexts, in tokens."""
    model: str = "bundled"
    """The vision-language model, which does everything but capture_text."""
    text_model: str = "bundled-llm"
    """The language model."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the six")] = ()
    """Task names, or folders with items.csv and instruction.txt."""
    threads: Annotated[int | None, arg("N", "one a core")] = None
    """Threads of PyTorch, the same for all."""
    memory: bool = True
    """Measure the peak memory of a capture, in processes of its own."""
    smoke: bool = False
    """Two queries, one repeat, short contexts and two vectors: does everything run?"""
    profile: Annotated[str | None, tyro.conf.arg(metavar="WORKLOAD")] = None
    """Measure nothing; run ours on this workload under PyTorch's profiler and Python's, and write where time goes."""
    seed: int = 0
    """Seed of the draws."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    out: Annotated[Path | None, arg("FOLDER", "runs/bench/<model>, or .../smoke")] = None
    """Folder of the run. The same command continues a killed run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    dtype: str = "float32"
    """float32 or float64 (which TransformerLens does not take)."""


def main(arguments: Arguments) -> None:
    """Measures what is not yet measured, and writes tables and figures."""
    import os
    from functools import cache

    import torch
    from rich.console import Console
    from transformers.utils import logging

    from experiments.benchmark.peers import PEERS
    from experiments.benchmark.settings import Settings
    from experiments.benchmark.tables import BenchmarkTables
    from experiments.benchmark.work import BenchmarkWork
    from experiments.benchmark.workloads import WORKLOADS
    from interp.models.base import load_model
    from interp.runs import Run
    from interp.tasks import load_task, task_names

    console, smoke = Console(soft_wrap=True), arguments.smoke
    threads = arguments.threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])
    tasks = [load_task(name) for name in arguments.tasks or task_names()]
    settings = Settings(
        models={"vlm": arguments.model, "llm": arguments.text_model},
        tasks=tuple(task.name for task in tasks),
        peers=tuple(dict.fromkeys(arguments.peers or PEERS)),
        repeats=1 if smoke else arguments.repeats,
        seconds=arguments.seconds,
        queries=2 if smoke else arguments.queries,
        lengths=(60, 120) if smoke else arguments.lengths,
        vectors=2 if smoke else arguments.vectors,
        threads=threads,
        seed=arguments.seed,
        template=arguments.template,
        dtype=arguments.dtype,
        device=arguments.device,
    )
    torch.set_num_threads(threads)
    logging.disable_progress_bar()

    @cache
    def load(name: str, dtype: str) -> "Model":  # noqa: F821
        return load_model(name, dtype=dtype, device=settings.device)

    name = "smoke" if smoke else "--".join(Path(settings.models["vlm"]).parts[-2:]).strip("/-")
    folder = arguments.out or Path("runs") / "bench" / name
    with Run.open(folder, settings.config(), seeds=(settings.seed,)) as run:
        work = BenchmarkWork(
            settings,
            arguments.workloads or tuple(WORKLOADS),
            settings.materials(tasks),
            load,
            run,
            environments=Path("runs") / "bench",
            memory=arguments.memory,
        )
        try:
            if arguments.profile is not None:
                console.print(f"Written: {work.profile(arguments.profile)}")
                return
            for key in work.units():
                new = run.done(key) is None
                work.perform(key)
                if new:
                    console.print(f"[dim]{' '.join(map(str, key))}[/] {_said(run.done(key))}")
            run.record_models({name: load(name, settings.dtype).fingerprint for name in settings.models.values()})
        finally:
            work.close()
        tables = BenchmarkTables(settings, work.workloads, run)
        console.print(f"Written: {', '.join(map(str, _write(tables, run)))}")
        print(tables.summary())


def _said(unit: dict) -> str:
    """A unit's result in a few words."""
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in unit.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value not in (None, ""))


def _write(tables: "BenchmarkTables", run: "Run") -> list[Path]:
    """Tables, summary and figures."""
    from figures import bench as figures

    written = [run.write_csv("results.csv", tables.results), run.write_csv("targets.csv", tables.targets)]
    if not tables.memory_table.empty:
        written.append(run.write_csv("memory.csv", tables.memory_table))
    written.append(run.write_text("summary.md", tables.summary()))
    written += run.write_figure("figures/seconds", figures.seconds(tables.results))
    return written + run.write_figure("figures/targets", figures.targets(tables.targets))


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
