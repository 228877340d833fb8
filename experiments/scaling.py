"""Write docs/scaling.md: what a sweep costs on paper, checked against counts on a real model, and for larger ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import common

if TYPE_CHECKING:
    from pandas import DataFrame

    from interp.models.base import Model

MODULE = "experiments.scaling"
DOCUMENT = Path("docs/scaling.md")
ANSWER = 5
ENGINES = ("plain", "copied", "packed")
PEAK, SHARE = 312e12, 0.4  # bfloat16 operations a second of an A100, and the part of them that is assumed to be reached


@dataclass(frozen=True)
class Arguments:
    """Write what a sweep costs on paper into docs/scaling.md, beside counts of real sweeps.

    Sweeps a few queries of the model with each engine and counts the tokens that its blocks run and the pictures that
    enter its tower; then works out the same for larger models on paper.

    Example: python -m experiments.scaling
    """

    model: str = "bundled"
    """The model whose sweeps are counted; it takes images."""
    document: Path = DOCUMENT
    """The document whose tables are replaced."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Counts, computes, and replaces the tables between the document's markers."""
    from interp.errors import CrosstaskError

    if not arguments.document.is_file():
        raise CrosstaskError(f"{str(arguments.document)!r} is no file; --document names the text to write tables into.")
    model = common.model_loader(arguments.loading, main=arguments.model)(arguments.model)
    text = arguments.document.read_text(encoding="utf-8")
    for name, table in {"counts": count_table(model), "predictions": prediction_table()}.items():
        text = common.replace_table(text, name, common.markdown(table))
    arguments.document.write_text(text, encoding="utf-8")
    print(arguments.document)


def count_table(model: "Model") -> "DataFrame":
    """Counted against computed, for each engine and a few sweeps.

    Returns:
        One row per sweep and engine; each count as "counted = computed", or "counted, computed" where they differ.
    """
    import pandas as pd
    import torch

    from interp.cost import Sweep, token_forwards, vision_passes
    from interp.patching import RowPatch, sweep
    from interp.prompts import Example, Image, Specification, render
    from interp.protocol.contexts import content
    from interp.tasks import load_task

    items = load_task("country-capital").split("selection")
    pictures: list[Image] = [content(item, "image") for item in items[:8]]  # type: ignore[misc]
    vectors = torch.randn(2, model.width, generator=torch.Generator().manual_seed(0))
    endless = replace(model)
    endless.__dict__["stop_ids"] = frozenset()  # so that every answer has its full length
    rows = []
    for shots, n_vectors in ((0, 1), (4, 1), (4, 2)):
        shown = Specification(tuple(Example(picture, "Paris") for picture in pictures[:shots]))
        prompts = [render(endless, shown, picture) for picture in pictures[4:7]]
        patches = [RowPatch(layer, vector) for vector in vectors[:n_vectors] for layer in range(model.n_layers)]
        paper = Sweep(len(prompts), prompts[0].n_tokens, n_vectors, model.n_layers, ANSWER, images=shots + 1)
        for engine in ENGINES:
            with counted(endless) as counts:
                sweep(endless, prompts, [patches] * len(prompts), engine=engine, max_new_tokens=ANSWER, stop=None)  # type: ignore[arg-type]
            on_paper = token_forwards(engine, paper), vision_passes(engine, paper)  # type: ignore[arg-type]
            rows.append(
                {
                    "queries": paper.queries,
                    "tokens a query": paper.tokens,
                    "patches a query": paper.patches,
                    "engine": engine,
                    "token-forwards, counted": f"{counts['tokens']:,.0f}",
                    "on paper": f"{on_paper[0]:,.0f}",
                    "vision passes, counted": f"{counts['images']:,.0f}",
                    "on paper ": f"{on_paper[1]:,}",
                }
            )
    return pd.DataFrame(rows)


@contextmanager
def counted(model: "Model") -> Iterator[dict[str, float]]:
    """Tokens that pass through the blocks (half a token each for half of them), and pictures, in the context."""
    from torch import Tensor

    counts = {"tokens": 0.0, "images": 0.0}

    def norm(_module: object, inputs: tuple[Tensor, ...]) -> None:
        counts["tokens"] += inputs[0].shape[0] * inputs[0].shape[1] / model.n_layers

    def tower(_module: object, inputs: tuple[Tensor, ...]) -> None:
        counts["images"] += len(inputs[0])

    handles = [block.get_submodule("input_layernorm").register_forward_pre_hook(norm) for block in model.blocks]
    handles.append(model.module.get_submodule("model.vision_tower").register_forward_pre_hook(tower))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def prediction_table() -> "DataFrame":
    """Sweeps of larger models, on paper."""
    import pandas as pd

    from interp.cost import SHAPES, Sweep, cached_positions, operations, token_forwards, vision_passes

    rows = []
    for name, shape in SHAPES.items():
        bare = shape.image_tokens + 8
        for what, tokens, vectors, images in (
            ("bare image, 1 vector", bare, 1, 1),
            ("1,000 tokens, 1 vector", 1000, 1, 1),
            ("bare image, 20 vectors", bare, 20, 1),
        ):
            paper = Sweep(64, tokens, vectors, shape.layers, ANSWER, images)
            for engine in ("uncached", "plain", "packed"):
                seconds = operations(engine, paper, shape) / (PEAK * SHARE)  # type: ignore[arg-type]
                held = cached_positions(engine, paper) * shape.position_bytes(2)  # type: ignore[arg-type]
                rows.append(
                    {
                        "model": name,
                        "64 queries of": what,
                        "engine": engine,
                        "token-forwards": f"{token_forwards(engine, paper):,.0f}",  # type: ignore[arg-type]
                        "vision passes": f"{vision_passes(engine, paper):,}",  # type: ignore[arg-type]
                        "cache of a query": _bytes(held),
                        "one GPU": _seconds(seconds),
                        "eight GPUs": _seconds(seconds / 8),
                    }
                )
    return pd.DataFrame(rows)


def _bytes(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _seconds(number: float) -> str:
    unit, factor = ("h", 3600) if number >= 5400 else ("min", 60) if number >= 90 else ("s", 1)
    return f"{number / factor:.1f} {unit}"


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
