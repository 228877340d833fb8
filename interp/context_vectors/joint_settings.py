"""What a study of contextual vectors beside task vectors is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from interp.context_vectors.reading import NEUTRAL
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.perception_vectors.settings import evenly
from interp.tasks.perception.wording import Wording
from interp.tuning.dataset import picture_side
from interp.tuning.matrix.plan import DIFFICULTY, task_of

MOST_LAYERS = 12
"""So many decoder layers are compared where none are named."""


@dataclass(frozen=True)
class JointSettings:
    """Everything that decides the numbers.

    Attributes:
        model: name of the model.
        adapter: sha256 of the CoVFT adapter's weights.
        tasks: "task" or "task/form"; four or more.
        items: of each task in each split.
        layers: decoder blocks; resolved by :meth:`resolve`.
        neutral: the sentence that stands for every question where the picture alone should decide.
        permutations: of tasks.
        difficulties: task -> difficulty of its drawn items, 0 to 1; of the others 0.5.
        wording: how tasks ask.
        size: side of their pictures in pixels; resolved to what the model's tower takes.
        seed: of the items and of resampling.
    """

    model: str
    adapter: str
    tasks: tuple[str, ...]
    items: int = 40
    layers: tuple[int, ...] = ()
    neutral: str = NEUTRAL
    permutations: int = 999
    difficulties: Mapping[str, float] = field(default_factory=dict)
    wording: Wording = "brief"
    size: int = 0
    seed: int = 1000

    def __post_init__(self) -> None:
        names = self.names
        if len(names) < 4 or len(set(names)) < len(names):
            raise CrosstaskError(
                f"tasks {', '.join(self.tasks) or '(none)'}: expected four or more, each once, to leave some out"
            )
        if self.items < 4 or self.permutations < 1:
            raise CrosstaskError(f"{self.items} items and {self.permutations} permutations: expected at least 4 and 1")

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks as tables call them, in order."""
        return tuple(task_of(name) for name in self.tasks)

    def difficulty(self, asked: str) -> float:
        """Of the items of "task" or "task/form"."""
        return self.difficulties.get(task_of(asked), DIFFICULTY)

    def resolve(self, model: Model) -> JointSettings:
        """With what the model decides.

        Raises:
            CrosstaskError: a layer is out of range.
        """
        if wrong := [layer for layer in self.layers if not 0 <= layer < model.n_layers]:
            raise CrosstaskError(
                f"layer {wrong[0]} of the decoder of {model.name!r}: expected 0 to {model.n_layers - 1}"
            )
        layers = tuple(sorted(set(self.layers))) or evenly(model.n_layers, MOST_LAYERS)
        return replace(self, layers=layers, size=self.size or picture_side(model))

    def config(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
