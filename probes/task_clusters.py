"""The protocol behind `experiments.task_clusters`: do states cluster by task or by modality, layer by layer?

1. states      both states of every context (:mod:`interp.protocol.states`), kept in the run folder
2. choice      on the blocks of the selection split, the layer whose task vectors have the highest silhouette by task
               when each is compared with the other modality alone; single numbers and pictures are of this layer
3. clusters    on the blocks of the test split, per layer: silhouette, purity and cosines (:mod:`probes.clusters`)
4. probes      per layer: linear probes within and across modalities (:mod:`probes.linear`), with a permutation p-value
               at the chosen layer
5. projection  coordinates in the plane at the chosen layer (:mod:`probes.projection`), instructions among them
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.protocol.settings import known
from interp.protocol.states import KINDS, Kind, StateBank, StatePlan, States, StateSettings
from interp.runs import Run
from interp.tasks import Task
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
from probes.projection import METHODS, Method, check_count, project
from probes.similarity import cosine_matrix

NOTES = {
    "chosen_clusters": "Silhouette and nearest-neighbour purity at the chosen layer, each with a 95 % bootstrap "
    "interval over blocks of items, the mean and the 95th percentile over permuted labels (chance), and the share of "
    "permuted labellings that reach the value (p, uncorrected for the number of rows). Among: which states a state is "
    "compared with; those that show a common item are left out everywhere.",
    "chosen_probes": "Linear probes at the chosen layer, tested on items that they have not seen. Control: the same "
    "probe on labels permuted over contexts, tested on other orders of contexts that it has seen. Selectivity: "
    "accuracy minus control. p: share of permuted labellings, with probes trained anew, that are predicted as well. A "
    "probe within families tells only the tasks of one family apart.",
    "chosen_cosines": "Cosines at the chosen layer between states that show no common item; centred: after the mean "
    "over all contexts has been taken off. The interval is of the mean, over blocks; q05 to q95 are quantiles of the "
    "pairs.",
}
"""What the report says below the tables that it shows."""


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
        for name in ("neighbours", "permutations"):
            if getattr(self, name) < 1:
                raise CrosstaskError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("modalities", "projections"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise CrosstaskError(f"--{name} names a value twice: {' '.join(getattr(self, name))}.")

    def resolve(self, model: Model) -> ClusterSettings:
        """Fills in the modalities that the model takes."""
        return replace(self, modalities=self.modalities or (("text", "image") if model.takes_images else ("text",)))


@dataclass(frozen=True)
class View:
    """One question to the clusters: which label, and which pairs of states may be compared.

    Attributes:
        label: task or modality.
        among: the pairs, in words.
        rows: the states that take part.
        allowed: the pairs among these.
        strata: column of the index within which labels are permuted.
    """

    label: str
    among: str
    rows: Bool[np.ndarray, " N"]
    allowed: Bool[np.ndarray, "n n"]
    strata: str | None


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
            pairs = _equal(part["family"])
        found.append(View("task", among, rows, pairs, strata))
        if several:
            name = "other modality" if among == "all" else f"{among}, other modality"
            found.append(View("task", name, rows, pairs & ~_equal(part["modality"]), strata))
    if several:
        found.append(View("modality", "all", everyone, np.ones((len(index), len(index)), dtype=bool), "context"))
    return found


def _equal(values: pd.Series) -> Bool[np.ndarray, "n n"]:
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


class ClusterWork:
    """Performs the units of a run, and makes its tables from the journal."""

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

    def _states(self, split: Any) -> States:
        found = self.bank.states(self.settings.model, self.settings.modalities, split)
        found.index["context"] = found.index["block"] + ", " + found.index["task"]  # one type: all of it have one task
        return found

    # The layer

    @cached_property
    def choice(self) -> pd.DataFrame:
        """One row per layer: silhouette and purity by task of the task vectors on the selection split's blocks."""
        states = self._states("selection")
        view = _find(views(states.index), "task", self.across)
        allowed = view.allowed & ~_equal(states.index["block"])
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
            types = part["context"] if view.label == "task" else part["context"] + ", " + part["modality"]
            scores = cluster_scores(
                states[view.rows],
                part[view.label].to_numpy(),
                groups=part["block"].to_numpy(),
                types=types.to_numpy(),
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
                    types=part["context"].to_numpy(),
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

    # Tables

    def tables(self) -> dict[str, pd.DataFrame]:
        """choice, clusters, cosines, probes: one row per layer and question; projection: one per point; and the rows
        of the chosen layer as chosen_clusters, chosen_cosines and chosen_probes.
        """
        found = {name: self._table(name) for name in ("clusters", "cosines", "probes", "projection")}
        chosen = {
            f"chosen_{name}": found[name][found[name]["layer"] == self.layer].drop(columns="layer")
            for name in ("clusters", "cosines", "probes")
        }
        return {"choice": self.choice, **found, **chosen}

    def _table(self, name: str) -> pd.DataFrame:
        """One table from the journal; cosines are found in the units of the clusters."""
        unit = "clusters" if name == "cosines" else name
        rows = [row for key in self.units() if key.startswith(f"{unit} / ") for row in self._rows(key)]
        return pd.DataFrame([{k: v for k, v in row.items() if k != "table"} for row in rows if row["table"] == name])

    def _rows(self, key: str) -> Iterator[dict[str, Any]]:
        record = self.run.done(key)
        if record is None:
            raise LookupError(f"{key} is not in the journal")
        yield from record["rows"]

    def describe(self, tables: Mapping[str, pd.DataFrame]) -> list[str]:
        """What was run on how much, in a few sentences."""
        settings, blocks = self.settings, self.plan.blocks
        count, other = (len(next(iter(blocks[split].values()))) for split in ("test", "selection"))
        families = len(blocks["test"])
        return [
            f"Do the states of {settings.model} cluster by task or by modality? {len(settings.tasks)} tasks in "
            f"{families} families; contexts of {settings.shots} demonstrations as "
            f"{' and as '.join(settings.modalities)}; {count} blocks of items a family, each read in {settings.orders} "
            f"orders: {len(self.scored.index)} contexts. States that show a common item are never "
            "compared with each other, and no probe is tested on items that it has seen.",
            "A context embedding is the mean state over the tokens of the demonstrations' inputs; a task vector is the "
            "state at the delimiter after the dummy query.",
            f"Layer {self.layer} of {len(self.layers)} was chosen on {other} other blocks a family, by the silhouette "
            f"of task vectors ({'against the other modality' if self.across != 'all' else 'among all'}); "
            f"{self.verdict(tables['chosen_clusters'])}",
        ]

    def verdict(self, clusters: pd.DataFrame) -> str:
        """The numbers of the chosen layer in a sentence, without an opinion."""
        said = []
        for kind in KINDS:
            rows = clusters[clusters["kind"] == kind].set_index(["label", "among", "metric"])
            parts = []
            for label in dict.fromkeys(clusters["label"]):
                row = rows.loc[(label, "all", "silhouette")]
                interval = f"[{row['low']:.2f}, {row['high']:.2f}]"
                parts.append(f"{row['value']:.2f} {interval} by {label} (chance {row['chance']:.2f})")
            row = rows.loc[("task", self.across, "purity")]
            where = "the other modality" if self.across != "all" else "other items"
            parts.append(
                f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}] of the nearest contexts of {where} do the "
                f"same task (chance {row['chance']:.2f})"
            )
            said.append(f"{kind.replace('_', ' ')}s have silhouettes of " + ", ".join(parts))
        return "there " + "; ".join(said) + "."


def _find(found: Sequence[View], label: str, among: str) -> View:
    return next(view for view in found if (view.label, view.among) == (label, among))


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
