"""Make the perception model from registry packages: items drawn, trained on answers and truths, model card."""

from dataclasses import asdict, dataclass
from pathlib import Path

from experiments import common

MODULE = "experiments.build_perception_vlm"


@dataclass(frozen=True)
class Arguments:
    """Make a small VLM that can see what the perception tasks ask about; a killed run goes on.

    Stages: items of the build split are drawn and pass through the frozen ImageNet stem once; tower and projector learn
    what their truth says (marks, parts, distances, styles), then the decoder learns to answer with it; every task, form
    and difficulty is measured on selection items for the card.

    Example: python -m experiments.build_perception_vlm --out runs/build_perception_vlm
    """

    out: Path = Path("runs/build_perception_vlm")
    """Folder of drawn items, checkpoint, log, finished weights and model card."""
    seed: int = 0
    """Fixes initial weights and order."""
    items: int = 5000
    """Items of each task in its own form."""
    other_items: int = 1500
    """Items of each task in its other form."""
    tower_items: int = 1500
    """How many of them, the first, the tower learns from; the decoder then also meets pictures that it has not."""
    easiest: float = 0.0
    """Lowest difficulty of an item."""
    hardest: float = 0.4
    """Highest difficulty of an item."""
    tower_steps: int = 2000
    """Optimiser steps of the tower and the projector."""
    decoder_steps: int = 2000
    """Optimiser steps of the decoder's course."""
    decoder_stop: int = 1800
    """The step at which it is cut, before everything is learned, so that fine-tuning has something left to teach."""
    batch: int = 64
    """Items of a step."""
    parts: int = 4
    """Parts of like length that a step of the decoder is cut into."""
    tower_peak: float = 1e-3
    """Peak learning rate of the tower."""
    decoder_peak: float = 1e-3
    """Peak learning rate of the decoder."""
    fact_weight: float = 0.5
    """Weight of what the decoder should look at, know and choose."""
    processes: int = 2
    """How many processes draw."""
    card_items: int = 100
    """Selection items of each task, form and difficulty for the card."""


def main(arguments: Arguments) -> None:
    """Runs the stages that are not yet done."""
    from interp.models.perception import build

    left_out = ("out", "processes", "card_items")
    recipe = {name: value for name, value in asdict(arguments).items() if name not in left_out}
    log = common.step_logger(arguments.out / "log.jsonl")
    weights = build.build(arguments.out, recipe=recipe, processes=arguments.processes, log=log)
    table = build.measure(weights, items=arguments.card_items, log=log)
    build.write_card(weights, table, recipe=recipe)
    print(f"Weights and model card, and a model for every other experiment (--model {weights}): {weights}")


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
