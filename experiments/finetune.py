"""Fine-tune a model on a perception task: an adapter with its record, its card and its loss curve."""

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from interp.tuning.config import TuneConfig

MODULE = "experiments.finetune"

Given = Annotated[int | None, arg("N", "the preset's, or none")]


@dataclass(frozen=True)
class Arguments:
    """Fine-tune a model on a perception task or on your own conversations, as Sachdeva et al. (2025) do.

    LoRA with r 8 and alpha 16 on the attention projections of the language model alone, batch 16, AdamW with learning
    rate 1e-4, warm-up and cosine. Vision features are computed once and kept on disk. All data is checked before the
    first step. The same command continues a killed run to the same result. On several processes: accelerate launch -m
    experiments.finetune; see docs/tuning.md for DeepSpeed, Slurm, QLoRA and own data.

    Example: python -m experiments.finetune --task relative_depth --examples 256 --difficulty 0.2
    """

    task: str = "relative_depth"
    """relative_depth, RD, RD/yes_no, random_key, caption, or a JSON(L) file of conversations or items; file%50 takes
    half of it."""
    preset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The paper's setting for one of its models: sachdeva-qwen2.5-vl-3b, -7b, -32b, sachdeva-llava-1.5-13b. Options
    that are given go before it."""
    model: Annotated[str | None, arg("NAME", "bundled")] = None
    """bundled, a hub id, or a folder."""
    strategy: Annotated[str | None, arg("NAME", "lora")] = None
    """What of the model is trained: freeze (nothing), lora, full (all weights of the language model), bitfit (its
    biases), or one that trains the vision tower too, such as covft or vision_lora; a wrong name lists them all."""
    options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """The strategy's own settings, such as num_experts=8 routing=uniform of covft."""

    form: Annotated[str | None, arg("FORM", "BLINK's own")] = None
    """How a drawn task is asked: pictures, marks, words or yes_no."""
    difficulty: float = 0.5
    """Of a drawn task: 0 (easiest) to 1."""
    wording: Literal["brief", "described"] = "brief"
    """How a drawn task asks: in brief, or with the pictures described first."""
    size: Annotated[int | None, arg("PIXELS", "the tower's")] = None
    """Side of drawn pictures."""
    min_pixels: Given = None
    """Fewest pixels to which a Qwen-VL processor scales a picture."""
    max_pixels: Given = None
    """Most pixels."""
    image_folder: Annotated[Path | None, arg("FOLDER", "the file's")] = None
    """What image names in a file are relative to."""

    examples: Annotated[int | None, arg("N", "the schedule's, or 1000; of a file all")] = None
    """Training examples."""
    steps: Annotated[int | None, arg("N", "by the epochs")] = None
    """Optimiser steps."""
    epochs: Annotated[float | None, arg("N", "the schedule's, or 1")] = None
    """Passes over the examples."""
    schedule: Annotated[Literal["none", "paper"] | None, arg("{none,paper}", "none")] = None
    """paper: examples and length of the task as in Table A.2, where they are not given."""
    fraction: float = 1.0
    """Part of the steps that is trained; warm-up and cosine are those of the shortened run."""
    snapshots: Annotated[tuple[float, ...], tyro.conf.arg(metavar="PART ...")] = ()
    """Parts of the run after which the adapter is kept as well, such as 0.25 0.5 0.75."""
    batch: Annotated[int | None, arg("N", "16")] = None
    """Examples of a step, over all processes and accumulated micro-batches."""
    learning_rate: float = 1e-4
    """At its highest."""
    weight_decay: float = 0.0
    """Of AdamW."""
    warmup: float = 0.03
    """Part of the steps over which the learning rate rises."""
    lr_scheduler: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """How the learning rate goes down."""

    rank: int = 8
    """LoRA: r."""
    alpha: float = 16
    """LoRA: the update is scaled by alpha / r."""
    dropout: float = 0.0
    """LoRA: dropout at the adapters' input; there is no other."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """LoRA: linear layers of the language model's blocks."""
    train_projector: bool = False
    """Strategy full: train the projector between tower and language model as well."""
    train_tower: bool = False
    """Strategy full: train the vision tower as well."""
    surgery: Literal["none", "pcgrad", "cagrad"] = "none"
    """What is done where the gradients of a mixture's tasks conflict."""

    seed: int = 0
    """Seed of the data, its order, the initialisation and the dropout."""
    data_seed: Annotated[int | None, arg("N", "the seed")] = None
    """Seed of the data and its order."""
    init_seed: Annotated[int | None, arg("N", "the seed")] = None
    """Seed of initialisation and dropout."""

    micro_batch: Annotated[int | None, arg("N", "4")] = None
    """Examples that go through the model at once, in each process."""
    compile: bool = False
    """Compile the decoder blocks; with --dtype bfloat16 on a CPU, the way to keep LoRA's small updates."""
    gradient_checkpointing: Annotated[bool | None, arg("{True,False}", "the preset's, or False")] = None
    """Compute activations again in the backward pass: less memory, more time."""
    features: Literal["auto", "off"] = "auto"
    """Keep vision features on disk where tower and projector are frozen, or not."""
    features_at: Annotated[Path | None, arg("FOLDER", "in the user's cache")] = None
    """Where kept vision features are."""
    deepspeed: Annotated[str | None, arg("{none,zero2,zero3,FILE}", "the preset's, or none")] = None
    """DeepSpeed's configuration, with accelerate launch."""
    save_every: Annotated[int, arg("STEPS", "a tenth of the run")] = 0
    """Steps between checkpoints."""
    keep_checkpoints: int = 1
    """How many checkpoints are kept."""
    report_to: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Trackers as transformers knows them: tensorboard, wandb, trackio, mlflow, ..."""
    out: Annotated[
        Path | None, arg("FOLDER", "runs/finetune/<model>-<task>-<strategy>-<what the settings hash to>")
    ] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def tune_config(arguments: Arguments) -> "TuneConfig":
    """The run's settings: what was given, else the preset's, else the defaults.

    Raises:
        CrosstaskError: there is no such preset, or the settings contradict each other.
    """
    from interp.tuning.config import TuneConfig
    from interp.tuning.presets import preset
    from interp.tuning.strategies.options import given_options

    given = {name: value for name, value in vars(arguments).items() if value is not None}
    for name in ("preset", "out"):
        given.pop(name, None)
    given["options"] = given_options(arguments.options)
    given["compile_blocks"] = given.pop("compile")
    chosen: dict[str, Any] = preset(arguments.preset) if arguments.preset else {}
    if chosen and arguments.loading.dtype == common.LoadOptions().dtype:
        given["loading"] = replace(arguments.loading, dtype=chosen["loading"].dtype)
    settings = chosen | given
    if settings.get("deepspeed") == "none":
        settings["deepspeed"] = None
    return TuneConfig(**settings)


def run_folder(config: "TuneConfig") -> Path:
    """runs/finetune/<model>-<task>-<strategy>-<hash>; the same settings, the same folder."""
    digest = hashlib.sha256(json.dumps(config.settings(), sort_keys=True, default=str).encode()).hexdigest()[:6]
    task = Path(config.task).stem if Path(config.task).suffix else config.task
    parts = ("--".join(Path(config.model).parts[-2:]), task, config.strategy, digest)
    return Path("runs") / "finetune" / "-".join(part.strip("/-").replace("/", "-") for part in parts)


def main(arguments: Arguments) -> None:
    """Trains what is left to train, and draws the loss curve."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    config = tune_config(arguments)
    folder = arguments.out or run_folder(config)
    first = int(os.environ.get("RANK", 0)) == 0
    console = Console(soft_wrap=True, quiet=not first)
    console.print(f"Loading {config.model} and checking the data ...")

    from interp.tuning.run import finetune

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    with common.remarks_on(console), Progress(*columns, console=console, transient=True, disable=not first) as progress:
        bar = progress.add_task("", total=None)

        def tell(step: int, steps: int, loss: float) -> None:
            progress.update(bar, completed=step, total=steps, description=f"step {step} of {steps}, loss {loss:.3f}")

        run = finetune(config, folder, tell=tell)
    if first:
        report(run, console)
        print(run.adapter)


def report(run: Any, console: Any) -> None:
    """Draws the loss curve and says what was done."""
    from figures import tuning
    from interp.runs import Run

    record = run.record
    if not record["curve"]:
        console.print("Nothing was trained: the frozen model is the baseline.")
        return
    with Run.open(run.folder, json.loads((run.folder / "config.json").read_text())) as opened:
        opened.write_csv("curve.csv", run.to_frame())
        opened.write_figure("figures/loss", tuning.loss(run.to_frame()))
    console.print(
        f"{record['steps']} steps on {record['examples_seen']} examples in {common.duration(record['seconds'])}; "
        f"{record['trained_parameters']:,} parameters trained, the weights changed by {record['update_norm']:.3g}."
    )


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
