"""Every setting of a fine-tuning run, with the defaults of Sachdeva et al. (2025, appendix A.5).

LoRA with r = 8 and alpha = 16 on the attention projections (q, k, v, o) of the language model alone; batch 16 by
accumulation; AdamW with learning rate 1e-4 and weight decay 0; warm-up over 3 % of the steps, then a cosine to zero.
What a number depends on is in the run's configuration; what only decides where and how fast it is computed is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from interp.errors import CrosstaskError
from interp.models.options import LoadOptions
from interp.tasks.perception.wording import WORDINGS, Wording
from interp.tuning.schedules import Schedule, schedule_of

Surgery: TypeAlias = Literal["none", "pcgrad", "cagrad"]
EXAMPLES = 1000
"""Training examples where neither the user nor a schedule says."""

_SPEED = ("micro_batch", "compile_blocks", "gradient_checkpointing", "features", "features_at")
HOW = frozenset({*_SPEED, "save_every", "keep_checkpoints", "report_to"})
"""Fields that decide where and how fast something is computed, and not what."""


@dataclass(frozen=True)
class TuneConfig:
    """What is trained, on what, and how.

    Raises:
        CrosstaskError: on construction, for a value that is out of range, or two that contradict each other.
    """

    task: str
    """What is learnt: a perception task (relative_depth, RD, RD/yes_no, random_key, caption), or a JSON(L) file of
    training conversations or of your own items."""
    model: str = "bundled"
    """What is trained: bundled, a hub id, or a local folder."""
    strategy: str = "lora"
    """What of the model is trained, by the name of a strategy: freeze (nothing), lora, full, bitfit, covft, ..."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The strategy's own settings by name; values may be words, such as "8"."""

    form: str | None = None
    """How a procedural task is asked (pictures, marks, words, yes_no); BLINK's own way by default."""
    difficulty: float = 0.5
    """Of a procedural task: 0 (easiest) to 1."""
    wording: Wording = "brief"
    """How a procedural task asks: in brief, or with the pictures described first."""
    size: int | None = None
    """Side of a procedural task's pictures in pixels; by default the tower's own, or 224 where it takes any."""
    min_pixels: int | None = None
    """Fewest pixels to which the processor of a Qwen-VL model scales a picture."""
    max_pixels: int | None = None
    """Most pixels to which the processor of a Qwen-VL model scales a picture."""

    image_folder: Path | None = None
    """What image names in a file are relative to; its own folder by default."""
    examples: int | None = None
    """Training examples: those that the schedule says, else 1000; of a file, all."""
    steps: int | None = None
    """Optimiser steps; or give epochs."""
    epochs: float | None = None
    """Passes over the examples; one by default."""
    schedule: Literal["none", "paper"] = "none"
    """`paper`: examples and length of the task as in the paper's Table A.2, where they are not given."""
    fraction: float = 1.0
    """Part of the steps that is trained; warm-up and cosine are those of the shortened run."""
    batch: int = 16
    """Examples a step, over all processes and accumulated micro-batches."""
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: float = 0.03
    """Part of the steps over which the learning rate rises."""
    lr_scheduler: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""

    rank: int = 8
    """LoRA: r."""
    alpha: float = 16
    """LoRA: the update is scaled by alpha / r."""
    dropout: float = 0.0
    """LoRA: dropout at the adapters' input. There is no other: the model's own is off."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """LoRA: which linear layers of the language model's blocks."""
    train_projector: bool = False
    """Full: train the projector between tower and language model as well."""
    train_tower: bool = False
    """Full: train the vision tower as well."""

    seed: int = 0
    """Seed of the data, its order, the initialisation and the dropout."""
    data_seed: int | None = None
    """Seed of which examples there are and of their order, where it is not `seed`."""
    init_seed: int | None = None
    """Seed of initialisation and dropout, where it is not `seed`."""

    surgery: Surgery = "none"
    """What is done where the gradients of a mixture's tasks conflict; each example then needs its task's name."""

    snapshots: tuple[float, ...] = ()
    """Parts of the run after which the adapter is kept as well, e.g. 0.25 0.5."""
    deepspeed: str | None = None
    """zero2, zero3 or a DeepSpeed configuration file; with `accelerate launch`."""

    micro_batch: int = 4
    """Examples that go through the model at once, in each process."""
    compile_blocks: bool = False
    """Compile the decoder blocks: faster, and in bfloat16 on a CPU the way to keep LoRA's small updates."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    features: Literal["auto", "off"] = "auto"
    """`auto` computes vision features once and keeps them on disk, where tower and projector are frozen. Where they are
    not, and the model is one of our own, what its frozen stem makes of each picture is held in memory (on a CPU)."""
    features_at: Path | None = None
    """Folder of kept vision features; by default in the user's cache."""
    save_every: int = 0
    """Steps between checkpoints; 0 takes a tenth of the run."""
    keep_checkpoints: int = 1
    """How many checkpoints are kept (save_total_limit)."""
    report_to: tuple[str, ...] = ()
    """Trackers as transformers knows them: tensorboard, wandb, trackio, mlflow, ..."""
    loading: LoadOptions = field(default_factory=LoadOptions)
    """How the model is loaded; `quantize="4bit"` makes it QLoRA."""

    def __post_init__(self) -> None:
        from interp.tuning.strategies import strategy
        from interp.tuning.strategies.options import read_options

        chosen = strategy(self.strategy)
        read: Any = read_options(chosen.Options, self.options, strategy=self.strategy)
        object.__setattr__(self, "options", {name: getattr(read, name) for name in sorted(self.options)})
        if self.schedule == "paper":
            _ = self.planned
        for name in ("examples", "steps", "size", "min_pixels", "max_pixels"):
            _at_least(name, getattr(self, name), 1)
        for name in ("batch", "micro_batch", "rank", "keep_checkpoints"):
            _at_least(name, getattr(self, name), 1)
        _at_least("save_every", self.save_every, 0)
        for name in ("learning_rate", "alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise CrosstaskError(f"the {_said(name)} is a number above 0, not {getattr(self, name)}")
        for name in ("weight_decay", "max_grad_norm"):
            if not getattr(self, name) >= 0:
                raise CrosstaskError(f"the {_said(name)} is 0 or more, not {getattr(self, name)}")
        for name in ("dropout", "warmup", "difficulty"):
            if not 0 <= getattr(self, name) <= 1:
                raise CrosstaskError(f"the {_said(name)} lies between 0 and 1, and was given as {getattr(self, name)}")
        if self.steps is not None and self.epochs is not None:
            raise CrosstaskError(f"steps ({self.steps}) and epochs ({self.epochs}) both say how long; give one")
        if self.epochs is not None and not self.epochs > 0:
            raise CrosstaskError(f"epochs are above 0, not {self.epochs}")
        for part in (self.fraction, *self.snapshots):
            if not 0 < part <= 1:
                raise CrosstaskError(f"a part of the run lies above 0 and at most at 1, and was given as {part}")
        if self.batch % self.micro_batch and self.micro_batch < self.batch:
            raise CrosstaskError(f"a batch of {self.batch} cannot be made of micro-batches of {self.micro_batch}")
        if self.wording not in WORDINGS:
            raise CrosstaskError(f"there is no wording {self.wording!r}; expected {' or '.join(WORDINGS)}")
        if self.loading.device == "remote":
            raise CrosstaskError("a model that is held elsewhere cannot be trained here; leave out --device remote")
        if not self.targets:
            raise CrosstaskError("LoRA needs at least one target, such as q_proj")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise CrosstaskError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        if self.strategy != "full" and (self.train_projector or self.train_tower):
            raise CrosstaskError(
                f"train_projector and train_tower are of strategy full, and were given with {self.strategy!r}; the "
                "strategies of the vision tower have options of their own"
            )
        if self.surgery not in get_args(Surgery):
            raise CrosstaskError(f"there is no surgery {self.surgery!r}; expected {', '.join(get_args(Surgery))}")

    @property
    def planned(self) -> Schedule:
        """The schedule of the task: the paper's, or an empty one.

        Raises:
            CrosstaskError: the paper has none for this task.
        """
        return schedule_of(self.task) if self.schedule == "paper" else Schedule()

    @property
    def n_examples(self) -> int:
        """How many examples are asked for."""
        return self.examples or self.planned.examples or EXAMPLES

    @property
    def order_seed(self) -> int:
        """Seed of the examples and their order."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def start_seed(self) -> int:
        """Seed of initialisation and dropout."""
        return self.seed if self.init_seed is None else self.init_seed

    def n_steps(self, n_examples: int) -> int:
        """Optimiser steps on so many examples, at least one."""
        steps, epochs = self.steps, self.epochs
        if steps is None and epochs is None:
            steps, epochs = self.planned.steps, self.planned.epochs
        if steps is None:
            steps = math.ceil((epochs or 1) * n_examples / self.batch)
        return max(1, round(steps * self.fraction))

    def warmup_steps(self, steps: int) -> int:
        """Steps over which the learning rate rises, of so many."""
        return math.ceil(self.warmup * steps)

    def accumulation(self, processes: int) -> tuple[int, int]:
        """Examples of a micro-batch, and how many are accumulated in each process.

        Raises:
            CrosstaskError: the batch cannot be shared equally.
        """
        if self.batch % processes:
            raise CrosstaskError(f"a batch of {self.batch} cannot be shared by {processes} processes")
        share = self.batch // processes
        micro = min(self.micro_batch, share)
        if share % micro:
            raise CrosstaskError(
                f"a batch of {self.batch} in {processes} processes is {share} examples each, which micro-batches of "
                f"{micro} do not make up; set micro_batch to a divisor of {share}"
            )
        return micro, share // micro

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, for config.json; options, surgery and wording where they were asked for."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in HOW}
        if not given["options"]:
            del given["options"]
        for name, usual in (("surgery", "none"), ("wording", "brief")):
            if given[name] == usual:
                del given[name]
        return {**given, "loading": self.loading.config()}

    def changed(self, **changes: Any) -> TuneConfig:
        """The same configuration with other values."""
        return replace(self, **changes)


def _said(name: str) -> str:
    return name.replace("_", " ")


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise CrosstaskError(f"{name} is at least {least}, and was given as {value}")
