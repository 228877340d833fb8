"""What the jobs of a matrix do with models: fine-tune with the runner, evaluate adapters together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.errors import CrosstaskError
from interp.files import sha256_of
from interp.models.base import Model, load_model
from interp.models.options import LoadOptions
from interp.tasks.perception.datasets import test_data, training_data
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.registry import perception_task
from interp.tuning.config import HOW, TuneConfig
from interp.tuning.dataset import Example, as_example, picture_side
from interp.tuning.evaluation.evaluate import EvaluationOptions, Progress, evaluate
from interp.tuning.evaluation.records import Record
from interp.tuning.matrix.plan import FILES, PIXEL_LIMITS, PUBLISHED, Job, Variant
from interp.tuning.run import RECORD, Tell, finetune


@dataclass(frozen=True)
class HowOptions:
    """Where and how fast a matrix is computed; nothing here changes a number beyond rounding.

    Attributes:
        loading: how the model is loaded.
        training: fields of the runner's configuration that are in `interp.tuning.config.HOW`.
        evaluation: most tokens of a forward pass, compilation and how adapters are applied.
        threads: of PyTorch; its own choice by default.
    """

    loading: LoadOptions = field(default_factory=LoadOptions)
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise CrosstaskError(f"threads are at least 1, and were given as {self.threads}")


@dataclass
class ModelWork:
    """The work of a matrix's jobs in this process; the model is loaded when it is first needed.

    Attributes:
        name: of the model.
        how: where and how fast.
        tell: is told of each training step.
        progress: is told the tokens of each evaluated batch.
    """

    name: str
    how: HowOptions = field(default_factory=HowOptions)
    tell: Tell | None = None
    progress: Progress | None = None

    @cached_property
    def model(self) -> Model:
        """The model, loaded once."""
        if self.how.threads is not None:
            import torch

            torch.set_num_threads(self.how.threads)
        return load_model(self.name, **vars(self.how.loading))

    def train(self, job: Job, folder: Path) -> dict[str, Any]:
        """Fine-tune on a source; see :class:`interp.tuning.matrix.jobs.Work`."""
        hold_to_file(job)
        config = tune_config(job, self.how)
        examples = mixed_examples(job, config, self.model) if "shares" in job.config else None
        run = finetune(config, folder, model=self.model, examples=examples, tell=self.tell)
        adapters = {1.0: run.adapter, **{share: path for share, path in run.snapshots.items() if share < 1}}
        records = {share: json.loads((path / RECORD).read_text(encoding="utf-8")) for share, path in adapters.items()}
        return {
            "adapters": {f"{share:g}": path.relative_to(folder).as_posix() for share, path in adapters.items()},
            "steps": run.record["steps"],
            "update_norm": {f"{share:g}": record["update_norm"] for share, record in records.items()},
            "seconds": run.record["seconds"],
            "tokens": run.record["tokens"],
        }

    def evaluate(
        self, job: Job, adapters: Sequence[tuple[Variant, Path | None]]
    ) -> Iterator[tuple[Variant, list[Record]]]:
        """Evaluate adapters on a target; see :class:`interp.tuning.matrix.jobs.Work`."""
        items = target_items(job, self.model)
        options = scoring_options(job, self.how)
        named = {variant.name: variant for variant, _ in adapters}
        folders = {variant.name: folder for variant, folder in adapters}
        for name, records in evaluate(self.model, items, folders, options, progress=self.progress):
            yield named[name], records


def canonical(name: str) -> str:
    """A source or target under one spelling: "RD" is "relative_depth", "RD/words" is "relative_depth/words".

    Raises:
        CrosstaskError: there is no such task or form.
    """
    if _is_data(name):
        return name
    task_name, _, form = name.partition("/")
    task = perception_task(task_name)
    if form and form not in task.forms:
        raise CrosstaskError(f"{task.name} has no form {form!r}; it has {', '.join(task.forms)}")
    return task.name if form in ("", task.form) else f"{task.name}/{form}"


def file_of(name: str) -> Path | None:
    """The file that a source or target is read from, if it is one."""
    kind, _, rest = name.partition(":")
    path = Path(rest.partition("#")[0] if kind in PUBLISHED and rest else name.partition("%")[0]).expanduser()
    return path if path.suffix in FILES and path.is_file() else None


def hold_to_file(job: Job) -> None:
    """Refuse a file that is not the one of the plan."""
    name = job.config["source" if job.kind == "train" else "target"]
    path, wanted = file_of(name), job.config.get("sha256")
    if wanted is not None and (path is None or sha256_of(path) != wanted):
        raise CrosstaskError(f"{name} is missing or has changed since job {job.key!r} was planned")


def tune_config(job: Job, how: HowOptions) -> TuneConfig:
    """The runner's configuration of a training job."""
    task, form = _task_and_form(job.config["source"])
    checkpoints = tuple(share for share in job.config["checkpoints"] if share < 1)
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in job.config["training"].items()}
    wrong = how.training.keys() - HOW
    if wrong:
        raise CrosstaskError(f"{', '.join(sorted(wrong))} changes what is trained; it belongs to the matrix's settings")
    return TuneConfig(
        **{
            "task": task,
            "form": form,
            "model": job.config["model"],
            "difficulty": job.config["difficulty"],
            "wording": job.config["wording"],
            "size": job.config["size"],
            "seed": job.config["seed"],
            "fraction": job.config["fraction"],
            "snapshots": checkpoints,
            "loading": how.loading,
            **given,
            **how.training,
        }
    )


def scoring_options(job: Job, how: HowOptions) -> EvaluationOptions:
    """How an evaluation job scores, and how that is computed."""
    return replace(how.evaluation, **{name: job.config[name] for name in ("scoring", "shifts", *PIXEL_LIMITS)})


def mixed_examples(job: Job, config: TuneConfig, model: Model) -> list[Example]:
    """The examples of a mixture: the given shares of each source, each at its own difficulty, evenly interleaved."""
    from interp.tuning.selection.plan import counts

    size = config.size or picture_side(model)
    found = []
    for name, n in counts(job.config["shares"], config.n_examples).items():
        task, form = _task_and_form(name)
        options = {
            "form": form,
            "difficulty": job.config["difficulties"][name],
            "wording": job.config["wording"],
            "size": size,
            "seed": config.order_seed,
        }
        data = training_data(task, n=n, **options)
        found += [((index + 0.5) / n, as_example(data[index])) for index in range(n)]
    return [example for _, example in sorted(found, key=lambda placed: placed[0])]


def target_items(job: Job, model: Model | None = None) -> list[PerceptionItem]:
    """The items of an evaluation job, drawn or read.

    Args:
        job: the job.
        model: gives the size of drawn pictures where the job does not.
    """
    config = job.config
    hold_to_file(job)
    if _is_data(config["target"]):
        split = config["split"] if Path(config["target"]).suffix in FILES else None
        return list(test_data(config["target"], n=config["items"], split=split, seed=config["data_seed"]))
    task, form = _task_and_form(config["target"])
    size = config["size"] or (picture_side(model) if model is not None else 224)
    drawn = {name: config[name] for name in ("difficulty", "wording")} | {"form": form, "seed": config["data_seed"]}
    drawn["size"] = size
    return list(test_data(task, n=config["items"], split=config["split"], **drawn))


def _is_data(name: str) -> bool:
    """Whether a name stands for a file or a published set, and not for a procedural task."""
    kind, _, rest = name.partition(":")
    return (kind in PUBLISHED and bool(rest)) or Path(name.partition("%")[0]).suffix in FILES


def _task_and_form(name: str) -> tuple[str, str | None]:
    if _is_data(name):
        return name, None
    task, _, form = name.partition("/")
    return task, form or None
