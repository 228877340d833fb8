"""The protocol behind `experiments.task_clusters`: do states cluster by task or by modality, layer by layer?

1. states      both states of every context (:mod:`interp.protocol.states`), kept in the run folder
2. choice      on the blocks of the selection split, the layer whose task vectors have the highest silhouette by task
               when each is compared with the other modality alone; single numbers and pictures are of this layer
3. clusters    on the blocks of the test split, per layer: silhouette, purity and cosines (:mod:`probes.clusters`)
4. probes      per layer: linear probes within and across modalities (:mod:`probes.linear`), with a permutation p-value
               at the chosen layer
5. projection  coordinates in the plane at the chosen layer (:mod:`probes.projection`), instructions among them

Here is what is asked; :mod:`probes.task_cluster_work` does it, and :mod:`probes.task_cluster_tables` says what came
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from interp.models.base import Model
from interp.protocol.settings import at_least, known, once
from interp.protocol.states import StatePlan, StateSettings
from interp.tasks import Task
from probes.projection import METHODS, Method, check_count


@dataclass(frozen=True)
class ClusterSettings(StateSettings):
    """One run. Attributes as in :class:`interp.protocol.states.StateSettings`, and:

    Attributes:
        modalities: how contexts are given: text, image or both; empty for all that the model takes.
        neighbours: k of the purity.
        permutations: labellings behind every baseline and p-value.
        projections: pca, tsne, umap.
    """

    modalities: tuple[str, ...]
    neighbours: int
    permutations: int
    projections: tuple[Method, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        known("--modalities", self.modalities, ("text", "image"))
        known("--projections", self.projections, METHODS)
        at_least(self, 1, "neighbours", "permutations")
        once("--modalities", self.modalities)
        once("--projections", self.projections)

    def resolve(self, model: Model) -> ClusterSettings:
        """Fills in the modalities that the model takes."""
        return replace(self, modalities=self.modalities or (("text", "image") if model.takes_images else ("text",)))


TASK_TYPES = ("block", "task")
"""A context: its orders and modalities have one task."""


@dataclass(frozen=True)
class View:
    """One question to the clusters: which label, and which pairs of states may be compared.

    Attributes:
        label: task or modality.
        among: the pairs, in words.
        rows: the states that take part.
        allowed: the pairs among these.
        types: columns of the index that say which states have one label, before and after a permutation.
        strata: column of the index within which labels are permuted.
    """

    label: str
    among: str
    rows: Bool[np.ndarray, " N"]
    allowed: Bool[np.ndarray, "n n"]
    types: tuple[str, ...]
    strata: str | None = None


def views(index: pd.DataFrame) -> list[View]:
    """The questions that the contexts of an index can answer."""
    everyone, several = np.ones(len(index), dtype=bool), len(set(index["modality"])) > 1
    shared = index.groupby("family")["task"].transform("nunique").to_numpy() > 1
    found = []
    for among, rows, strata in (("all", everyone, None), ("same family", shared, "family")):
        if not rows.any():
            continue
        part = index[rows]
        pairs = np.ones((len(part), len(part)), dtype=bool)
        if strata:
            pairs = equal(part["family"])
        found.append(View("task", among, rows, pairs, TASK_TYPES, strata))
        if several:
            name = "other modality" if among == "all" else f"{among}, other modality"
            found.append(View("task", name, rows, pairs & ~equal(part["modality"]), TASK_TYPES, strata))
    if several:
        pairs = np.ones((len(index), len(index)), dtype=bool)
        found.append(View("modality", "all", everyone, pairs, ("block", "modality")))
    return found


def find_view(found: Sequence[View], label: str, among: str) -> View:
    """The view of a label among some pairs."""
    return next(view for view in found if (view.label, view.among) == (label, among))


def type_codes(index: pd.DataFrame, columns: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Which type each state is of, where a type is a combination of values of some columns."""
    return index.groupby(list(columns), sort=False).ngroup().to_numpy()


def equal(values: pd.Series) -> Bool[np.ndarray, "n n"]:
    """Which pairs have the same value."""
    given = values.to_numpy()
    return given[:, None] == given


def make_plan(settings: ClusterSettings, tasks: Sequence[Task], model: Model) -> StatePlan:
    """The contexts of a run, checked against the model.

    Raises:
        CrosstaskError: as :meth:`interp.protocol.states.StatePlan.check`, or too few contexts for a projection.
    """
    plan = StatePlan(settings, tasks)
    plan.check(model, (*settings.modalities, *(["instruction"] if instructed(tasks) else [])))
    points = len(settings.modalities) * sum(len(plan.contexts(task, "test")) for task in tasks)
    for method in settings.projections:
        check_count(points, method)
    return plan


def instructed(tasks: Iterable[Task]) -> bool:
    """Whether all tasks have an instruction, so that instructions can be drawn beside the contexts."""
    return all(task.instruction_text is not None for task in tasks)
