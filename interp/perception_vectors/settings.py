"""What a study of perception tasks' vectors is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tasks.perception.wording import Wording
from interp.tuning.dataset import picture_side
from interp.tuning.matrix.plan import DIFFICULTY, task_of

Setting: TypeAlias = Literal["item", "examples", "instruction", "both"]
"""How a task is specified; see :mod:`interp.perception_vectors.contexts`."""
Position: TypeAlias = Literal["delimiter", "letter"]
"""Where it is read and patched: the end delimiter, or the last token before the answer's letter."""
SETTINGS: tuple[Setting, ...] = get_args(Setting)
SPLITS = ("selection", "test")
MOST_LAYERS = 6
"""So many layers are patched where none are named."""


@dataclass(frozen=True)
class VectorSettings:
    """Everything that decides the numbers.

    Attributes:
        model: name of the model.
        tasks: "task" or "task/form" of procedural tasks, or files of items; two or more.
        settings: how tasks are specified.
        patched: the settings whose vectors are patched, and followed through fine-tuning; the first is the main one.
        contexts: prompts that a vector is the mean of; even, since reliability is that of two halves.
        shots: answered items of a context with examples.
        position: where vectors are read and patched.
        layers: blocks that are patched; resolved by :meth:`resolve`.
        items: of the test split that each task's answers are scored on; 0 for no patching.
        selection_items: of the selection split, on which the layer is chosen.
        shifts: whether a forced choice is averaged over all shifts of the options.
        difficulties: task -> difficulty of its drawn items, 0 to 1; of the others `DIFFICULTY`.
        wording: how they ask.
        size: side of their pictures in pixels; resolved to what the model's tower takes.
        seed: of the items and of the random vectors. Trainings draw with small seeds.
        limits: fewest and most pixels of a picture, as the adapters were trained with.
        files: sha256 of the tasks that are files.
    """

    model: str
    tasks: tuple[str, ...]
    settings: tuple[Setting, ...] = SETTINGS
    patched: tuple[Setting, ...] = ("item",)
    contexts: int = 48
    shots: int = 3
    position: Position = "delimiter"
    layers: tuple[int, ...] = ()
    items: int = 60
    selection_items: int = 24
    shifts: bool = True
    difficulties: Mapping[str, float] = field(default_factory=dict)
    wording: Wording = "brief"
    size: int = 0
    seed: int = 1000
    limits: Mapping[str, int | None] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.names
        if len(names) < 2:
            raise CrosstaskError(f"tasks {', '.join(self.tasks) or '(none)'}: expected two or more to compare")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise CrosstaskError(f"task {twice!r} is named twice; a task has one vector, so name one form of it")
        for name, known in (("settings", SETTINGS), ("patched", self.settings)):
            given = getattr(self, name)
            wrong = [setting for setting in given if setting not in known]
            if wrong or not given or len(set(given)) < len(given):
                raise CrosstaskError(
                    f"{name} {', '.join(given) or '(none)'}: expected one or more of {', '.join(known)}, each once"
                )
        if self.contexts < 2 or self.contexts % 2:
            raise CrosstaskError(f"{self.contexts} contexts: expected an even number, for two halves")
        if self.position not in get_args(Position):
            raise CrosstaskError(f"position {self.position!r}: expected {' or '.join(get_args(Position))}")
        if self.shots < 1:
            raise CrosstaskError(f"{self.shots} shots: expected 1 or more examples before the last item")
        if self.items < 0 or (self.items and self.selection_items < 1):
            raise CrosstaskError(
                f"{self.items} items and {self.selection_items} selection items: expected at least 1 of each, or 0 "
                "items for no patching"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks as tables call them, in order."""
        return tuple(task_of(name) for name in self.tasks)

    @property
    def main(self) -> Setting:
        """The setting that figures and sentences are about."""
        return self.patched[0]

    def difficulty(self, task: str) -> float:
        """Of a task's drawn items, as given or as tables call it."""
        return self.difficulties.get(task_of(task), DIFFICULTY)

    def n_items(self, split: str) -> int:
        """Items of a split that answers are scored on."""
        return self.items if split == "test" else self.selection_items

    def resolve(self, model: Model) -> VectorSettings:
        """With the layers and the size of pictures that the model decides.

        Raises:
            CrosstaskError: a layer is out of range, or a patch there could change no answer.
        """
        last = last_patchable(model, self.position) + 1
        if last < 1:
            raise CrosstaskError(f"model {model.name!r} has one block, so a patch at the delimiter reaches no answer")
        if wrong := [layer for layer in self.layers if not 0 <= layer < last]:
            reason = (
                "; what the last block writes at the delimiter is read by no later block, so it reaches no letter"
                if wrong[0] == model.n_layers - 1
                else ""
            )
            raise CrosstaskError(
                f"layer {wrong[0]} cannot be patched at the {self.position} in model {model.name!r}: expected 0 to "
                f"{last - 1}{reason}"
            )
        return replace(
            self,
            layers=tuple(sorted(set(self.layers))) or evenly(last, MOST_LAYERS),
            size=self.size or picture_side(model),
        )

    def config(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def evenly(n: int, most: int) -> tuple[int, ...]:
    """Indices below n, at most so many, evenly spaced and with both ends."""
    if n <= most:
        return tuple(range(n))
    return tuple(round(place * (n - 1) / (most - 1)) for place in range(most))


def last_patchable(model: Model, position: Position) -> int:
    """The last block at which a patch can change the answer; -1 if there is none.

    What the last block writes at the delimiter is read by no later block; before the letter it is what is decoded.
    """
    return model.n_layers - (2 if position == "delimiter" else 1)
