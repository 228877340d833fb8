"""What a transfer matrix measures, and the jobs that measure it.

Every source is given the same dose (examples, steps, learning rate), and every target the same items under every
source. The jobs are

    train/<source>/seed<k>[/<fraction>]     fine-tunes the model on a source
    evaluate/<target>/baseline              the frozen model on a target
    evaluate/<target>/seed<k>               every source and fraction of a seed on a target, together: the same batches
                                            and vision features, one adapter after another

An evaluation is a unit for each model, so that a matrix can grow: with more sources, seeds or targets in the same
folder only what is new is done.

Fractions of training come from checkpoints of one training (`fractions_by` "checkpoints"), whose learning rate has then
not come down yet, or from trainings of their own with a whole schedule each ("runs"), as in the paper's A.16 to A.18.
With a constant learning rate both are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from interp.errors import CrosstaskError
from interp.tasks.perception.wording import Wording
from interp.transfer.names import BASELINE, identity

Kind = Literal["train", "evaluate"]
PUBLISHED = ("blink", "vsi")
"""Data sets that are named as in :mod:`interp.tasks.perception.datasets`."""
FILES = (".json", ".jsonl", ".parquet")
"""A name with such a suffix is a file of the user's."""
FractionsBy = Literal["checkpoints", "runs"]
Scoring = Literal["choice", "generation"]
PIXEL_LIMITS = ("min_pixels", "max_pixels")
DIFFICULTY = 0.5
"""Of tasks for which none is given."""
EXTENT = ("sources", "targets", "seeds", "fractions", "files", "difficulties")
"""Settings that do not change a job, only which jobs there are; files and difficulties are held to by each job."""


@dataclass(frozen=True)
class MatrixSettings:
    """Everything that decides the numbers of a matrix.

    Attributes:
        model: name of the model.
        sources: what to train on: "task" or "task/form" of a procedural task, or a file of conversations or items.
        targets: what to test on: the same, or blink:... or vsi:... (:mod:`interp.tasks.perception.datasets`).
        seeds: of the trainings.
        fractions: shares of the training that are evaluated, up to 1.
        fractions_by: checkpoints of one training, or a training for each fraction.
        training: the runner's settings that are the same for all sources (strategy, steps, examples, ...).
        items: of each target.
        split: whose items are tested on: "test", or "selection" for a matrix that chooses data.
        data_seed: of the drawn items.
        size: side of a drawn picture in pixels; by default the one that the model's tower takes.
        difficulties: task -> difficulty, 0 to 1; of the others `DIFFICULTY`.
        wording: how drawn tasks ask, in training and in evaluation.
        scoring: how answers are found.
        shifts: whether a forced choice is averaged over all shifts of the options.
        loading: what of loading the model decides the numbers.
        files: sha256 of the files among the targets and sources.
    """

    model: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    fractions: tuple[float, ...] = (1.0,)
    fractions_by: FractionsBy = "checkpoints"
    training: Mapping[str, Any] = field(default_factory=dict)
    items: int = 200
    split: str = "test"
    data_seed: int = 0
    size: int | None = None
    difficulties: Mapping[str, float] = field(default_factory=dict)
    wording: Wording = "brief"
    scoring: Scoring = "choice"
    shifts: bool = True
    loading: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("sources", "targets", "seeds", "fractions"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                twice = next(value for value in given if given.count(value) > 1)
                raise CrosstaskError(f"{name} has {twice!r} twice; each is measured once")
        folders = [plain(name) for name in self.targets]
        if len(set(folders)) < len(folders):
            same = [name for name in self.targets if folders.count(plain(name)) > 1]
            raise CrosstaskError(f"the targets {same[0]!r} and {same[1]!r} cannot be told apart by their names")
        if not self.targets:
            raise CrosstaskError("a matrix needs at least one target")
        if not self.seeds:
            raise CrosstaskError("a matrix needs at least one seed")
        if not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions):
            raise CrosstaskError(f"fractions are above 0 and at most 1, not {', '.join(map(str, self.fractions))}")
        if BASELINE in self.sources:
            raise CrosstaskError(f"{BASELINE!r} is the frozen model, which every matrix measures; it is no source")
        if self.items < 1:
            raise CrosstaskError(f"a target needs at least one item, not {self.items}")

    def config(self) -> dict[str, Any]:
        """What a folder is held to, as JSON values; what the matrix extends over may grow, and is left out."""
        return {name: value for name, value in asdict(self).items() if name not in EXTENT}

    def extent(self) -> dict[str, Any]:
        """What the matrix extends over, as JSON values."""
        return {name: asdict(self)[name] for name in EXTENT}


@dataclass(frozen=True)
class Variant:
    """A model that is evaluated: the frozen one, or a source at a seed and a share of its training.

    Attributes:
        source: the task, or "baseline".
        seed: of its training.
        fraction: share of the training.
    """

    source: str = BASELINE
    seed: int = 0
    fraction: float = 1.0

    @property
    def name(self) -> str:
        """As part of a file name."""
        return BASELINE if self.source == BASELINE else f"{plain(self.source)}-seed{self.seed}-{percent(self.fraction)}"


@dataclass(frozen=True)
class Job:
    """A unit of work with a folder of its own.

    Attributes:
        kind: train or evaluate.
        key: path of its folder below the matrix's `jobs` folder.
        config: what decides its result, as JSON values; for an evaluation the same whatever the variants.
        variants: what an evaluation evaluates, in order.
        trainings: for each variant the training job that makes it; none for the frozen model.
    """

    kind: Kind
    key: str
    config: Mapping[str, Any]
    variants: tuple[Variant, ...] = ()
    trainings: tuple[str | None, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the jobs that must be done before."""
        return tuple(dict.fromkeys(key for key in self.trainings if key is not None))


def make_jobs(settings: MatrixSettings) -> list[Job]:
    """All jobs of a matrix; each comes after those that it needs."""
    return [*_trainings(settings), *_evaluations(settings)]


def training_key(settings: MatrixSettings, variant: Variant) -> str:
    """The training job that makes a variant."""
    key = f"train/{plain(variant.source)}/seed{variant.seed}"
    return key if settings.fractions_by == "checkpoints" else f"{key}/{percent(variant.fraction)}"


def _trainings(settings: MatrixSettings) -> Iterator[Job]:
    whole = settings.fractions_by == "checkpoints"
    for seed in settings.seeds:
        for source in settings.sources:
            for fraction in (max(settings.fractions),) if whole else settings.fractions:
                config = {
                    "model": settings.model,
                    "loading": dict(settings.loading),
                    "size": settings.size,
                    "source": source,
                    "seed": seed,
                    "difficulty": settings.difficulties.get(task_of(source), DIFFICULTY),
                    "wording": settings.wording,
                    "sha256": settings.files.get(source),
                    "training": dict(settings.training),
                    "fraction": 1.0 if whole else fraction,
                    "checkpoints": sorted(settings.fractions) if whole else [1.0],
                }
                yield Job("train", training_key(settings, Variant(source, seed, fraction)), config)


def _evaluations(settings: MatrixSettings) -> Iterator[Job]:
    for target in settings.targets:
        config = {
            "model": settings.model,
            "target": target,
            "items": settings.items,
            "split": settings.split,
            "data_seed": settings.data_seed,
            "size": settings.size,
            "difficulty": settings.difficulties.get(task_of(target), DIFFICULTY),
            "wording": settings.wording,
            "sha256": settings.files.get(target),
            **scored(settings),
            "loading": dict(settings.loading),
        }
        yield Job("evaluate", f"evaluate/{plain(target)}/{BASELINE}", config, (Variant(),), (None,))
        for seed in settings.seeds:
            variants = tuple(
                Variant(source, seed, fraction) for source in settings.sources for fraction in settings.fractions
            )
            if variants:
                trainings = tuple(training_key(settings, variant) for variant in variants)
                yield Job("evaluate", f"evaluate/{plain(target)}/seed{seed}", config, variants, trainings)


def scored(settings: MatrixSettings) -> dict[str, Any]:
    """How items are scored, as part of an evaluation job; pictures have the limits that they had in training."""
    limits = {name: settings.training.get(name) for name in PIXEL_LIMITS}
    return {"scoring": settings.scoring, "shifts": settings.shifts, **limits}


def task_of(name: str) -> str:
    """The task of a source or target as tables call it.

    "task/form" is the task; blink:... is BLINK's task under our name; vsi:FILE#type is the type; a file is its stem.
    """
    kind, _, rest = name.partition(":")
    if kind in PUBLISHED and rest:
        return identity(rest.rpartition("#")[2] if "#" in rest or kind == "blink" else kind)
    return Path(name).stem if Path(name).suffix in FILES else name.partition("/")[0]


def form_of(name: str) -> str | None:
    """The form of "task/form", blink, vsi or own for other data; None where a task's own form is meant."""
    kind, _, rest = name.partition(":")
    if kind in PUBLISHED and rest:
        return kind
    return "own" if Path(name).suffix in FILES else name.partition("/")[2] or None


def plain(name: str) -> str:
    """A name as part of a path."""
    stem = name.removesuffix(Path(name).suffix) if Path(name).suffix in FILES else name
    return re.sub(r"[^A-Za-z0-9._]+", "-", stem).strip("-.")


def percent(fraction: float) -> str:
    """A share as part of a path, such as 025 or 100."""
    return f"{100 * fraction:g}".zfill(3)
