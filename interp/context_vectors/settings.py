"""What a study of contextual vectors is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from interp.context_vectors.clusters import TENTHS
from interp.context_vectors.reading import NEUTRAL
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.tasks.perception.registry import perception_task
from interp.tasks.perception.wording import WORDINGS, Wording
from interp.tuning.dataset import picture_side
from interp.tuning.matrix.plan import DIFFICULTY, task_of


@dataclass(frozen=True)
class ClusterSettings:
    """Everything that decides the numbers of the clusters.

    Attributes:
        model: name of the model.
        adapter: sha256 of the adapter's weights.
        tasks: "task" or "task/form" of procedural tasks, or files of items.
        forms: "own" asks each task in the form that is named, "all" in every form that it has.
        wordings: how tasks ask; with two, every item is asked in both.
        items: of each task and form, from the test split.
        clusters: k of k-means.
        layer: CoVFT layer; -1 for the last.
        nearest: samples that are shown of each cluster.
        neutral: the sentence that stands for every question where the picture alone should decide.
        shuffles: of labels, permutations of items.
        difficulties: task -> difficulty of its drawn items, 0 to 1; of the others 0.5.
        size: side of their pictures in pixels; resolved to what the model's tower takes.
        seed: of the items, k-means and resampling.
    """

    model: str
    adapter: str
    tasks: tuple[str, ...]
    forms: Literal["own", "all"] = "own"
    wordings: tuple[Wording, ...] = ("brief",)
    items: int = 40
    clusters: int = 10
    layer: int = -1
    nearest: int = 4
    neutral: str = NEUTRAL
    shuffles: int = 199
    difficulties: Mapping[str, float] = field(default_factory=dict)
    size: int = 0
    seed: int = 1000

    def __post_init__(self) -> None:
        if len(set(self.tasks)) < max(2, len(self.tasks)):
            raise CrosstaskError(f"tasks {', '.join(self.tasks) or '(none)'}: expected two or more, each once")
        if self.items < 2 or self.nearest < 1 or self.shuffles < 1:
            raise CrosstaskError(
                f"{self.items} items, {self.nearest} nearest samples and {self.shuffles} shuffles: expected at least "
                "2, 1 and 1"
            )
        if not self.wordings or set(self.wordings) - set(WORDINGS) or len(set(self.wordings)) < len(self.wordings):
            raise CrosstaskError(
                f"wordings {', '.join(self.wordings) or '(none)'}: expected {' or '.join(WORDINGS)}, or both"
            )
        count = self.items * len(self.asked) * len(self.wordings)
        items = self.items * len(self.asked)
        left = count - len(self.wordings) * -(-items // min(TENTHS, items))
        if not 2 <= self.clusters < left:
            raise CrosstaskError(
                f"{self.clusters} clusters of {count} items, of which the jackknife leaves {left}; expected 2 or more, "
                "and fewer than those"
            )

    @property
    def asked(self) -> tuple[str, ...]:
        """Tasks with their forms, as they are asked."""
        if self.forms == "own":
            return self.tasks
        found = [
            f"{task}/{form}" for task in dict.fromkeys(map(task_of, self.tasks)) for form in perception_task(task).forms
        ]
        return tuple(found)

    def difficulty(self, asked: str) -> float:
        """Of the items of "task" or "task/form"."""
        return self.difficulties.get(task_of(asked), DIFFICULTY)

    def labels_of(self, asked: str) -> tuple[str, str]:
        """Task and form of what is asked."""
        task, _, form = asked.partition("/")
        if not form and task_of(asked) == asked:
            form = perception_task(task).form
        return task_of(asked), form or "own"

    def resolve(self, model: Model) -> ClusterSettings:
        """With the size of pictures that the model decides."""
        return replace(self, size=self.size or picture_side(model))

    def config(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
