"""Times the layer sweep: one query patched at every block, by each engine, against one plain forward pass.

    packed     prefill once, then all rows as packed tokens of one sequence
    copied     prefill once, then the cache copied to one batch row per block
    plain      a separate forward pass per block

Each cell is the median of several repetitions. The last column is the largest difference between the engines' logits.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.common import run as run_program

if TYPE_CHECKING:
    from interp.models.base import Model
    from interp.prompts import Prompt

PLAIN_LIMIT = 300  # tokens; beyond it a forward pass per block takes minutes on two cores


@dataclass(frozen=True)
class Arguments:
    """Time the layer sweep of one query by each engine, against one plain forward pass."""

    model: str = "bundled-llm"
    """Model: "bundled", "bundled-llm", a hub id or a local folder."""
    shots: tuple[int, ...] = (0, 5, 40, 160)
    """Text examples before the query: the prompt's length."""
    repetitions: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 3
    """Repetitions of each measurement."""
    dtype: str = "float32"
    """Data type of the weights."""
    device: str = "auto"
    """Device: "auto", "cpu", "cuda", ..."""


def main(arguments: Arguments) -> None:
    """Loads the model, and prints one table row per prompt length as it is measured."""
    import torch
    from rich.console import Console

    from interp.models.base import load_model

    console = Console(soft_wrap=True)
    model = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    console.print(f"{model.name}: {model.n_layers} blocks, {model.device}, {torch.get_num_threads()} threads; seconds")
    console.print(f"{'tokens':>7}{'forward':>10}{'packed':>10}{'copied':>10}{'plain':>10}{'difference':>12}")
    for shots in arguments.shots:
        prompt = _prompt(model, shots)
        cells, difference = _measure(model, prompt, arguments.repetitions)
        shown = "".join(f"{'-':>10}" if cell is None else f"{cell:>10.3f}" for cell in cells)
        console.print(f"{prompt.n_tokens:>7}{shown}{difference:>12.1e}")


def _prompt(model: "Model", shots: int) -> "Prompt":
    """A country-capital query after `shots` text examples, which repeat when they run out."""
    from interp.prompts import Example, Specification, render
    from interp.tasks import load_task

    query, *others = load_task("country-capital").items
    examples = [others[place % len(others)] for place in range(shots)]
    specification = Specification(tuple(Example(item.input, item.outputs[0]) for item in examples))
    return render(model, specification, query.input)


def _measure(model: "Model", prompt: "Prompt", repetitions: int) -> tuple[list[float | None], float]:
    """Seconds of a plain forward pass and of each engine, and the largest difference of the engines' logits."""
    import torch

    from interp.patching import RowPatch, sweep_logits

    directions = torch.randn(model.n_layers, model.width, generator=torch.Generator().manual_seed(0))
    rows = [RowPatch(layer, direction) for layer, direction in enumerate(directions)]

    def plain_forward() -> Any:
        return sweep_logits(model, [prompt], [[RowPatch(0, None)]], engine="plain")

    seconds: list[float | None] = [_timed(plain_forward, repetitions)[0]]
    logits = []
    for engine in ("packed", "copied", "plain"):
        if engine == "plain" and prompt.n_tokens > PLAIN_LIMIT:
            seconds.append(None)
            continue
        elapsed, found = _timed(partial(sweep_logits, model, [prompt], [rows], engine=engine), repetitions)
        seconds.append(elapsed)
        logits.append(found[0])
    return seconds, max(float((found - logits[0]).abs().max()) for found in logits)


def _timed(work: Callable[[], Any], repetitions: int) -> tuple[float, Any]:
    """Median seconds of some work, and its result. Results come to the CPU, so the device has finished."""
    elapsed = []
    for _ in range(repetitions):
        start = time.perf_counter()
        result = work()
        elapsed.append(time.perf_counter() - start)
    return statistics.median(elapsed), result


if __name__ == "__main__":
    sys.exit(run_program(Arguments, main, module="experiments.bench_sweep"))
