"""Make the bundled vision-language model from registry packages: tower, alignment, update, model card."""

from dataclasses import asdict, dataclass
from pathlib import Path

from experiments import common

MODULE = "experiments.build_bundled_vlm"


@dataclass(frozen=True)
class Arguments:
    """Make the bundled VLM's weights: about 75 minutes on two cores with AMX, hours without it; a killed run goes on.

    Stages: drawings are rendered from icon packages; the tower learns to classify them and to find shapes, colours and
    marked points in procedural scenes; the projector and the tower's transformer learn to be read by the frozen
    language model; then a LoRA on the language model learns with them, held to the base model on text alone. One
    drawing style of each family is never trained on, and the answers of the six tasks are never asked.

    Needs: pip install 'crosstask[build]' and npm (the icon packages are on the npm registry).

    Example: python -m experiments.build_bundled_vlm --out runs/build_bundled_vlm
    """

    out: Path = Path("runs/build_bundled_vlm")
    """Folder of checkpoints, log, finished weights and model card."""
    seed: int = 0
    """Fixes initial weights, order, augmentation and scenes."""
    tower_steps: int = 800
    """Optimiser steps of the tower as a classifier (40 drawings and 10 scenes each)."""
    anchor_steps: int = 400
    """Optimiser steps of the warm start in the space of input embeddings (64 drawings each)."""
    align_steps: int = 450
    """Optimiser steps with the language model frozen."""
    tune_steps: int = 240
    """Optimiser steps with a LoRA on the language model."""
    rank: int = 8
    """Rank of the LoRA."""
    retention: float = 2.0
    """Weight of KL(base || tuned) on text alone."""
    photos: Path | None = None
    """Folder of the unpacked Debian package tuxpaint-stamps-default, to report recognition of photographs."""
    install: bool = False
    """Replace the weights in the package by the new ones when done."""


def main(arguments: Arguments) -> None:
    """Runs the stages that are not yet done."""
    from interp.models.bundled import build
    from interp.models.bundled.load import weights_folder

    recipe = {k: v for k, v in asdict(arguments).items() if k not in ("out", "photos", "install")}
    log = common.step_logger(arguments.out / "log.jsonl")
    weights = build.build(arguments.out, recipe=recipe, log=log)
    build.write_card(weights, recipe=recipe, photos=arguments.photos, log=log)
    if arguments.install:
        build.install(weights, weights_folder())
        print(f"Installed in {weights_folder()}")
    print(f"Weights and model card: {weights}")


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
