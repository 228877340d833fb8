"""What a study of gradient conflict is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from interp.conflict.places import PARTS, Part, chosen_layers, common_places
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.tasks.perception.wording import Wording
from interp.tuning.config import TuneConfig
from interp.tuning.dataset import picture_side
from interp.tuning.matrix.plan import DIFFICULTY, task_of
from interp.tuning.strategies import strategy
from interp.tuning.strategies.options import read_options


@dataclass(frozen=True)
class Arm:
    """One way to train the tower.

    Attributes:
        name: in tables.
        strategy: of the runner.
        options: the strategy's own settings.
    """

    name: str
    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Arm:
        """An arm from `[NAME=]STRATEGY[:OPTION=VALUE[,OPTION=VALUE ...]]`, such as `uniform=covft:routing=uniform`.

        Raises:
            CrosstaskError: there is no such strategy or option.
        """
        head, _, rest = text.partition(":")
        name, equals, known = head.partition("=")
        options = dict(pair.partition("=")[::2] for pair in rest.split(",") if pair)
        kind = strategy(known if equals else name)
        read_options(kind.Options, options, strategy=kind.name)
        return cls(name if equals else text, kind.name, options)


@dataclass(frozen=True)
class ConflictSettings:
    """Everything that decides the numbers.

    Attributes:
        model: name of the model.
        tasks: "task" or "task/form"; two or more, of which micro-batches are drawn and the mixture is made.
        arms: ways to train; the first is the one that others are compared with.
        layers: blocks of the tower whose gradients are compared: "late", "all" or numbers; resolved to numbers.
        parts: what of them: FFNs, norms.
        micro_batch: conversations of a micro-batch.
        micro_batches: of each task; two or more, since a task is compared with itself as well.
        weight: "raw" gradients, of which long ones decide the direction, or all at length 1 ("unit").
        points: parts of the mixed training after which gradients are taken; 0 is its start, 1 its end.
        steps, batch, learning_rate: of each training.
        examples: of each training.
        pair: two tasks whose trainings' distance is measured; or none.
        pair_seeds: seeds of those trainings; two or more, for the control.
        difficulties: task -> difficulty of its drawn items, 0 to 1; of the others 0.5.
        wording: how tasks ask.
        size: side of their pictures in pixels; resolved to what the model's tower takes.
        seed: of the micro-batches and of resampling. Trainings draw with small seeds.
        train_seed: of the mixed training.
        draws: of signs, for the chance level.
        loading: how the model is loaded.
    """

    model: str
    tasks: tuple[str, ...]
    arms: tuple[Arm, ...]
    layers: Literal["late", "all"] | tuple[int, ...] = "late"
    parts: tuple[Part, ...] = PARTS
    micro_batch: int = 8
    micro_batches: int = 8
    weight: Literal["raw", "unit"] = "raw"
    points: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0)
    steps: int = 200
    batch: int = 16
    learning_rate: float = 1e-4
    examples: int = 3200
    pair: tuple[str, ...] = ()
    pair_seeds: tuple[int, ...] = (0, 1)
    difficulties: Mapping[str, float] = field(default_factory=dict)
    wording: Wording = "brief"
    size: int = 0
    seed: int = 1000
    train_seed: int = 0
    draws: int = 500
    loading: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        names = self.names
        if len(names) < 2 or len(set(names)) < len(names):
            raise CrosstaskError(f"tasks {', '.join(self.tasks) or '(none)'}: expected two or more, each once")
        arms = [arm.name for arm in self.arms]
        if not arms or len(set(arms)) < len(arms):
            raise CrosstaskError(f"arms {', '.join(arms) or '(none)'}: expected one or more, of different names")
        if self.micro_batches < 2 or self.micro_batch < 1:
            raise CrosstaskError(
                f"{self.micro_batches} micro-batches of {self.micro_batch} conversations: expected at least 2 of 1"
            )
        if len(set(self.points)) < len(self.points) or len(set(self.pair_seeds)) < len(self.pair_seeds):
            raise CrosstaskError(
                f"points {' '.join(f'{point:g}' for point in self.points)} and pair seeds "
                f"{' '.join(map(str, self.pair_seeds))}: expected each once"
            )
        if min((self.seed, self.train_seed, *self.pair_seeds)) < 0:
            raise CrosstaskError(f"seeds are 0 or more, not {min((self.seed, self.train_seed, *self.pair_seeds))}")
        trained = {self.train_seed, *(self.pair_seeds if self.pair else ())}
        if self.seed in trained:
            raise CrosstaskError(
                f"seed {self.seed} draws the micro-batches and is one that trainings draw with; expected another than "
                f"{', '.join(map(str, sorted(trained)))}, so that micro-batches are of items that no training has seen"
            )
        if min(self.steps, self.draws) < 1:
            raise CrosstaskError(f"{self.steps} steps and {self.draws} draws: expected at least 1 of each")
        if wrong := [point for point in self.points if not 0 <= point <= 1]:
            raise CrosstaskError(f"point {wrong[0]:g} of the training: expected 0 (its start) to 1 (its end)")
        if early := [point for point in self.points if point > 0 and round(point * self.steps) < 2]:
            raise CrosstaskError(
                f"point {early[0]:g} of {self.steps} steps is the first, whose learning rate is 0; expected 0 or a "
                "later one"
            )
        if not self.points:
            raise CrosstaskError("no points of the training are given; expected one or more from 0 to 1")
        if not self.parts or set(self.parts) - set(PARTS):
            raise CrosstaskError(f"parts {', '.join(self.parts) or '(none)'}: expected {' and '.join(PARTS)}")
        if self.pair and (len(self.pair) != 2 or self.pair[0] == self.pair[1] or len(set(self.pair_seeds)) < 2):
            raise CrosstaskError(
                f"tasks {', '.join(self.pair)} with seeds {', '.join(map(str, self.pair_seeds))}: a distance is that "
                "of two tasks, and its control needs two seeds"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks as tables call them, in order."""
        return tuple(task_of(name) for name in self.tasks)

    @property
    def labels(self) -> list[str]:
        """The task of each micro-batch, in order."""
        return [name for name in self.names for _ in range(self.micro_batches)]

    def difficulty(self, asked: str) -> float:
        """Of the items of "task" or "task/form"."""
        return self.difficulties.get(task_of(asked), DIFFICULTY)

    def arm(self, name: str) -> Arm:
        """An arm by its name."""
        return next(arm for arm in self.arms if arm.name == name)

    def resolve(self, model: Model) -> ConflictSettings:
        """With the layers and the size of pictures that the model decides.

        Raises:
            CrosstaskError: the model has no tower that could be compared, or a layer is out of range.
        """
        layers = chosen_layers(model, self.layers)
        common_places(model, layers, self.parts)
        return replace(self, layers=layers, size=self.size or picture_side(model))

    def training(self, arm: Arm, what: str, seed: int) -> TuneConfig:
        """The configuration of a training: `what` is the mixture or one task."""
        whole = {"train_tower": True, "train_projector": True} if arm.strategy == "full" else {}
        return TuneConfig(
            task=what,
            model=self.model,
            strategy=arm.strategy,
            options=dict(arm.options),
            difficulty=self.difficulty(what),
            wording=self.wording,
            size=self.size or None,
            examples=self.examples,
            steps=self.steps,
            batch=self.batch,
            micro_batch=min(self.batch, 4) if self.batch % 4 == 0 else self.batch,
            learning_rate=self.learning_rate,
            seed=seed,
            snapshots=tuple(sorted(point for point in self.points if 0 < point < 1)),
            loading=self.loading,
            **whole,  # type: ignore[arg-type]
        )

    def config(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"loading": self.loading.config()}
