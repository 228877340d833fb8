"""The units of the cluster experiment: states, then clusters and probes of every layer, then coordinates.

The questions are those of :mod:`probes.task_clusters`; each unit's rows are kept in the run's journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from interp.models.base import Model
from interp.protocol.states import KINDS, Kind, StateBank, StatePlan, States
from interp.runs import Run
from interp.tasks import Split
from probes.clusters import (
    QUANTILES,
    ClusterScore,
    cluster_scores,
    cosine_distances,
    cosine_distribution,
    purity,
    relations,
    silhouette,
)
from probes.linear import probe
from probes.projection import Method, project
from probes.similarity import cosine_matrix
from probes.task_clusters import TASK_TYPES, ClusterSettings, equal, find_view, instructed, type_codes, views


class ClusterWork:
    """Performs the units of a run, and gives the rows that the journal holds."""

    def __init__(self, settings: ClusterSettings, plan: StatePlan, run: Run, models: Callable[[str], Model]) -> None:
        self.settings, self.plan, self.run = settings, plan, run
        self.bank = StateBank(plan, run, models)
        self.layers = range(models(settings.model).n_layers)
        self.instructed = instructed(plan.tasks.values())
        read = (*settings.modalities, *(["instruction"] if self.instructed else []))
        self.extractions = {unit.key: unit for unit in self.bank.units({settings.model: read})}

    def units(self) -> list[str]:
        """The keys of all units in order: states, then clusters and probes of every layer, then the pictures."""
        keys = list(self.extractions)
        for what in ("clusters", "probes"):
            keys += [f"{what} / {kind} / {layer}" for kind in KINDS for layer in self.layers]
        return keys + [f"projection / {kind} / {method}" for kind in KINDS for method in self.settings.projections]

    def seconds(self) -> float:
        """How long reading the states that are not yet there should take."""
        return self.bank.seconds(self.extractions.values())

    def perform(self, key: str) -> None:
        """Do a unit unless the journal holds it."""
        if key in self.extractions:
            self.bank.perform(self.extractions[key])
        elif self.run.done(key) is None:
            what, kind, which = key.split(" / ")
            steps: dict[str, Callable[[], list[dict[str, Any]]]] = {
                "clusters": lambda: self._clusters(kind, int(which)),  # type: ignore[arg-type]
                "probes": lambda: self._probes(kind, int(which)),  # type: ignore[arg-type]
                "projection": lambda: self._projection(kind, which),  # type: ignore[arg-type]
            }
            self.run.record(key, {"rows": steps[what]()})

    @cached_property
    def scored(self) -> States:
        """The scored contexts."""
        return self._states("test")

    def _states(self, split: Split) -> States:
        return self.bank.states(self.settings.model, self.settings.modalities, split)

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """The rows of one table, clusters, cosines, probes or projection, in the order of the units."""
        unit = "clusters" if name == "cosines" else name  # which are found in the units of the clusters
        for key in self.units():
            record = self.run.done(key) if key.startswith(f"{unit} / ") else {"rows": []}
            if record is None:
                raise LookupError(f"{key} is not in the journal")
            for row in record["rows"]:
                if row["table"] == name:
                    yield {column: value for column, value in row.items() if column != "table"}

    # The layer

    @cached_property
    def choice(self) -> pd.DataFrame:
        """One row per layer: silhouette and purity by task of the task vectors on the selection split's blocks."""
        states = self._states("selection")
        view = find_view(views(states.index), "task", self.across)
        allowed = view.allowed & ~equal(states.index["block"])
        tasks = states.index["task"].to_numpy()
        k = self._neighbours(allowed, tasks)
        rows = []
        for layer in self.layers:
            distances = cosine_distances(states.of("task_vector", layer))
            rows.append(
                {
                    "layer": layer,
                    "silhouette": float(silhouette(distances, tasks, allowed=allowed).mean()),
                    "purity": float(purity(distances, tasks, k=k, allowed=allowed).mean()),
                }
            )
        table = pd.DataFrame(rows)
        table["chosen"] = table.index == table["silhouette"].idxmax()
        return table

    def _neighbours(self, allowed: Bool[np.ndarray, "N N"], labels: Any) -> int:
        return min(self.settings.neighbours, int((allowed & (labels[:, None] == labels)).sum(axis=1).min()))

    @property
    def layer(self) -> int:
        """The chosen layer; ties go to the lowest."""
        return int(self.choice.loc[self.choice["chosen"], "layer"].iloc[0])

    @property
    def across(self) -> str:
        """The pairs behind the choice: across modalities if there are two."""
        return "other modality" if len(self.settings.modalities) > 1 else "all"

    # Units

    def _clusters(self, kind: Kind, layer: int) -> list[dict[str, Any]]:
        index, states = self.scored.index, self.scored.of(kind, layer)
        rows = []
        for view in views(index):
            part = index[view.rows]
            scores = cluster_scores(
                states[view.rows],
                part[view.label].to_numpy(),
                groups=part["block"].to_numpy(),
                types=type_codes(part, view.types),
                strata=part[view.strata].to_numpy() if view.strata else None,
                allowed=view.allowed,
                k=self.settings.neighbours,
                permutations=self.settings.permutations,
                seed=self.settings.seed,
            )
            place = {"kind": kind, "layer": layer, "label": view.label, "among": view.among}
            rows += [place | {"table": "clusters", "metric": m} | _score(score) for m, score in scores.items()]
        return rows + self._cosines(kind, layer)

    def _cosines(self, kind: Kind, layer: int) -> list[dict[str, Any]]:
        index, rows = self.scored.index, []
        pairs = relations(*(index[column].to_numpy() for column in ("task", "family", "modality")))
        for centring in ("raw", "centred"):
            cosines = cosine_matrix(self.scored.of(kind, layer), centred=centring == "centred")
            for task, modality, which in pairs.values():
                found = cosine_distribution(cosines, which, groups=index["block"].to_numpy(), seed=self.settings.seed)
                rows.append(
                    {
                        "table": "cosines",
                        "kind": kind,
                        "layer": layer,
                        "centring": centring,
                        "tasks": task,
                        "modalities": modality,
                        "pairs": found.pairs,
                        "mean": found.mean.value,
                        "low": found.mean.low,
                        "high": found.mean.high,
                    }
                    | {f"q{round(100 * q):02d}": v for q, v in zip(QUANTILES, found.quantiles, strict=True)}
                )
        return rows

    def _probes(self, kind: Kind, layer: int) -> list[dict[str, Any]]:
        index, states = self.scored.index, self.scored.of(kind, layer)
        shared = index.groupby("family")["task"].transform("nunique").to_numpy() > 1
        rows = []
        for scope, kept in (("all tasks", np.ones(len(index), dtype=bool)), ("within families", shared)):
            if not kept.any():
                continue
            part = index[kept]
            masks = {name: (part["modality"] == name).to_numpy() for name in self.settings.modalities}
            for train, mask in masks.items():
                scores = probe(
                    states[kept],
                    part["task"].to_numpy(),
                    groups=part["block"].to_numpy(),
                    types=type_codes(part, TASK_TYPES),
                    instances=part["order"].to_numpy(),
                    train=mask,
                    tests=masks,
                    strata=part["family"].to_numpy() if scope == "within families" else None,
                    permutations=self.settings.permutations if layer == self.layer else 0,
                    seed=self.settings.seed,
                )
                rows += [
                    {
                        "table": "probes",
                        "kind": kind,
                        "layer": layer,
                        "scope": scope,
                        "train": train,
                        "test": test,
                        "n": score.n,
                        "accuracy": score.accuracy.value,
                        "low": score.accuracy.low,
                        "high": score.accuracy.high,
                        "chance": score.chance,
                        "control": score.control,
                        "selectivity": score.selectivity.value,
                        "selectivity_low": score.selectivity.low,
                        "selectivity_high": score.selectivity.high,
                        "p": score.p_value,
                    }
                    for test, score in scores.items()
                ]
        return rows

    def _projection(self, kind: Kind, method: Method) -> list[dict[str, Any]]:
        index, states = self.scored.index, self.scored.of(kind, self.layer)
        if self.instructed:
            asked = self.bank.states(self.settings.model, ["instruction"], "test")
            index = pd.concat([index, asked.index], ignore_index=True)
            states = np.concatenate([states, asked.of(kind, self.layer)])
        placed = project(states, method, seed=self.settings.seed)
        columns = index[["task", "modality", "block", "order"]].to_dict("records")
        return [
            {"table": "projection", "kind": kind, "layer": self.layer, "method": method} | row | {"x": x, "y": y}
            for row, (x, y) in zip(columns, placed.tolist(), strict=True)
        ]


def _score(score: ClusterScore) -> dict[str, Any]:
    return {
        "n": score.n,
        "value": score.value.value,
        "low": score.value.low,
        "high": score.value.high,
        "chance": score.chance,
        "chance_high": score.chance_high,
        "p": score.p_value,
    }
