"""Training throughput: our runner with kept vision features and with pixels, and plain transformers Trainer with peft.

All ways train the same LoRA on the same examples in the same order, in micro-batches of the same size. The plain way is
what a user writes by hand: the processor in the collator, pixels through the tower at every step, and the loss of the
model's own forward. A measurement is one short training; its first step, which warms up, is not counted.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from interp.models.base import Model
    from interp.tuning.config import TuneConfig
    from interp.tuning.dataset import Example

WAYS = ("ours, kept features", "ours, pixels", "plain Trainer + peft")
PLAIN = WAYS[2]


def measure(
    model: "Model",
    config: "TuneConfig",
    examples: "Sequence[Example]",
    folder: Path,
    *,
    repeats: int,
    ways: Sequence[str] = WAYS,
    tell: Callable[[str, int], object] = lambda way, repeat: None,
) -> pd.DataFrame:
    """Every way, repeats interleaved.

    Args:
        model: as before afterwards.
        config: what is trained; at least two steps.
        examples: on what.
        folder: for the runs, which are of no further use.
        repeats: measurements of each way.
        ways: which.
        tell: called before each measurement.

    Returns:
        One row a measurement: way, repeat, examples_per_second, first_loss.
    """
    rows = []
    for repeat in range(repeats):
        for way in ways:
            tell(way, repeat)
            place = folder / f"{WAYS.index(way)}-{repeat}"
            if way == PLAIN:
                stamps, losses = plain(model, config, examples, place)
            else:
                kept = config.changed(features="auto" if way == WAYS[0] else "off")
                stamps, losses = ours(model, kept, examples, place)
            seconds = stamps[-1] - stamps[0]
            speed = config.batch * (len(stamps) - 1) / seconds
            rows.append({"way": way, "repeat": repeat, "examples_per_second": speed, "first_loss": losses[0]})
    return pd.DataFrame(rows)


def summary(measured: pd.DataFrame) -> pd.DataFrame:
    """The median of each way, its slowest and fastest repeat, and how many times as fast as the plain way it is.

    Args:
        measured: from :func:`measure`.

    Returns:
        One row a way: way, examples_per_second, low, high, times_plain, same_loss (as the plain way's first step).
    """
    rows = []
    base = measured[measured["way"] == PLAIN]
    for way in dict.fromkeys(measured["way"]):
        own = measured[measured["way"] == way]
        speeds = own["examples_per_second"].tolist()
        row = {"way": way, "examples_per_second": statistics.median(speeds), "low": min(speeds), "high": max(speeds)}
        if len(base):
            row["times_plain"] = row["examples_per_second"] / statistics.median(base["examples_per_second"])
            loss, theirs = own["first_loss"].iloc[0], base["first_loss"].iloc[0]
            row["same_loss"] = abs(loss - theirs) <= 1e-3 * abs(theirs)
        rows.append(row)
    return pd.DataFrame(rows)


def ours(
    model: "Model", config: "TuneConfig", examples: "Sequence[Example]", folder: Path
) -> tuple[list[float], list[float]]:
    """Times at the end of each step, and losses, of our runner."""
    from interp.tuning.run import finetune

    stamps: list[float] = []
    losses: list[float] = []

    def tell(step: int, steps: int, loss: float) -> None:
        stamps.append(time.perf_counter())
        losses.append(loss)

    finetune(config.changed(save_every=10**6), folder, model=model, examples=examples, tell=tell)
    return stamps, losses


def plain(
    model: "Model", config: "TuneConfig", examples: "Sequence[Example]", folder: Path
) -> tuple[list[float], list[float]]:
    """The same of transformers' Trainer and peft as their documentation has them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from interp.tuning.dataset import encode_all, training_order
    from interp.tuning.strategies.lora import target_pattern

    lengths = [encoded.n_tokens for encoded in encode_all(model, examples)]
    steps = config.n_steps(len(examples))
    order = training_order(lengths, steps=steps, batch=config.batch, seed=config.order_seed)
    micro, accumulation = config.accumulation(1)
    stamps: list[float] = []
    losses: list[float] = []

    class Stamp(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            if logs and "loss" in logs:
                stamps.append(time.perf_counter())
                losses.append(logs["loss"])

    torch.manual_seed(config.start_seed)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=target_pattern(model, config.targets),
        task_type="CAUSAL_LM",
    )
    adapted: Any = get_peft_model(model.module, lora)
    try:
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup_steps(steps),
            lr_scheduler_type=config.lr_scheduler,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            dataloader_pin_memory=False,
            use_cpu=model.device.type == "cpu",
        )
        trainer = Trainer(
            model=adapted,
            args=arguments,
            train_dataset=[examples[index] for index in order],  # type: ignore[arg-type]
            data_collator=PlainCollator(model),
            callbacks=[Stamp()],
        )
        from transformers.trainer_callback import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        trainer.train()
    finally:
        adapted.unload()
        model.module.requires_grad_(False).eval()
    return stamps, losses


class PlainCollator:
    """Text and pictures through the processor, labels on the answer, as a user writes it."""

    def __init__(self, model: "Model") -> None:
        self.model = model

    def __call__(self, examples: "list[Example]") -> dict[str, Any]:
        import torch

        processor: Any = self.model.processor
        marker, end = self.model.family.image_placeholder, self.model.tokenizer.eos_token
        before, after = self.model.family.image_frame
        texts, answers = [], []
        for example in examples:
            ((question, answer),) = example.turns
            shown = (before + marker + after) * len(example.images)
            texts.append(f"{self.model.bos_text}{shown}\n{question}\nAnswer: {answer}{end}")
            answers.append(len(self.model.tokenizer(f" {answer}{end}", add_special_tokens=False).input_ids))
        images = [[image.load() for image in example.images] for example in examples]
        batch = dict(
            processor(
                text=texts,
                images=images,
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
            )
        )
        labels = torch.full_like(batch["input_ids"], -100)
        for row, length in enumerate(answers):
            labels[row, -length:] = batch["input_ids"][row, -length:]
        return {**batch, "labels": labels}
