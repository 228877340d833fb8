"""A study of contextual vectors beside task vectors: its units, its tables and what they say in sentences.

    read <split> <task>       both vectors, and the controls, of a task's items
    decoded                   cross-decoding of every source and decoder layer
    alike                     representational similarity of every tower and decoder layer

Probes learn on the content of training (with other seeds than trainings draw with), maps are fitted on that of
selection, and everything that is said is of the test split. The decoder layer that sentences are about is the one whose
states a probe reads best on the selection split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.context_vectors.cross import MAPS, SPLITS, Probes, Split, cross_decode, decode
from interp.context_vectors.joint_settings import JointSettings
from interp.context_vectors.kept import Kept, Unit, asked_items
from interp.context_vectors.pairing import read_pairs
from interp.context_vectors.reading import layers_of
from interp.context_vectors.rsa import alike
from interp.models.base import Model
from interp.runs import Run
from interp.statistics import bootstrap_mean

CONTROLS = ("text", "features", "frozen")
"""Representations without a layer of their own that could know the task as well."""
TEXT = "text"
NOTES = {
    "direct": "Probes on one representation, trained on one content and tested on another: the ceiling.",
    "cross": "A probe on the target reads the source through a linear map. all: map of all tasks, which says that the "
    "source knows the task; held_out: map of other tasks, a shared code; within: map of items of a task; shuffled: "
    "control. beyond_text: the same items' difference to the text embedding as the source.",
    "rsa": "Spearman's correlation of which tasks are alike, over pairs of tasks; p over permuted tasks; partial: "
    "without the text embedding's.",
}


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes:
        tables: name -> table.
        sentences: what they say.
        tower_layer: the last CoVFT layer.
        layer: of the decoder, chosen on the selection split.
    """

    tables: dict[str, pd.DataFrame]
    sentences: list[str]
    tower_layer: int
    layer: int


class JointWork(Kept):
    """Does the units of a study.

    Attributes:
        settings: resolved for the model.
        model: the model before fine-tuning.
        folder: with the CoVFT adapter.
    """

    def __init__(self, settings: JointSettings, run: Run, model: Model, folder: Path) -> None:
        super().__init__(run)
        self.settings, self.model, self.folder = settings, model, folder

    def units(self) -> list[Unit]:
        """All units; each comes after those that it needs."""
        reading: list[Unit] = [("read", split, task) for split in SPLITS for task in self.settings.tasks]
        return [*reading, ("decoded",), ("alike",)]

    def perform(self, unit: Unit) -> None:
        """Do a unit and record it."""
        if unit[0] == "read":
            s = self.settings
            items = asked_items(
                unit[2],
                n=s.items,
                split=unit[1],
                difficulty=s.difficulty(unit[2]),
                wording=s.wording,
                size=s.size,
                seed=s.seed,
            )
            self.write(unit, read_pairs(self.model, items, self.folder, neutral=s.neutral))
        elif unit[0] == "decoded":
            self.run.record(unit, self._decoded())
        else:
            self.run.record(unit, {"rows": self._alike()})

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Every split's pairs, of all tasks."""
        found = {}
        for split in SPLITS:
            read = [self.read(("read", split, task)) for task in self.settings.tasks]
            names = list(read[0])
            vectors = {name: np.concatenate([one[name].double().numpy() for one in read]) for name in names}
            counts = [len(one[names[0]]) for one in read]
            found[split] = Split(vectors, np.repeat(np.arange(len(read)), counts))
        return found

    @cached_property
    def tower_layers(self) -> list[int]:
        """The CoVFT layers."""
        return layers_of(list(self.splits["test"].vectors))

    def sources(self) -> list[str]:
        """The representations of the tower's side: contexts of every layer, and the controls."""
        last = self.tower_layers[-1]
        return [*(f"context/{layer}" for layer in self.tower_layers), f"neutral/{last}", f"blank/{last}", *CONTROLS]

    def targets(self) -> list[str]:
        """The decoder's side."""
        return [f"delimiter/{layer}" for layer in self.settings.layers]

    def _decoded(self) -> dict[str, Any]:
        train, seed = self.splits["train"], self.settings.seed
        probes: Probes = {}
        direct = {
            name: {split: decode(train, self.splits[split], name).right.tolist() for split in ("selection", "test")}
            for name in (*self.sources(), *self.targets())
        }
        cross = []
        for source in self.sources():
            for target in self.targets():
                for kind in MAPS:
                    for a, b in ((source, target), (target, source)):
                        found = cross_decode(self.splits, a, b, kind, seed=seed, probes=probes)
                        cross.append(
                            {
                                "source": a,
                                "target": b,
                                "map": kind,
                                "right": found.right.tolist(),
                                "chance": found.chance,
                            }
                        )
        return {"direct": direct, "cross": cross}

    def _alike(self) -> list[dict[str, Any]]:
        test, settings = self.splits["test"], self.settings
        rows = []
        for source in self.sources():
            for target in self.targets():
                found = alike(
                    test.vectors[source], test.vectors[target], test.tasks,
                    given=test.vectors[TEXT] if source != TEXT else None,
                    permutations=settings.permutations, seed=settings.seed,
                )  # fmt: skip
                rows.append(
                    {
                        "source": source,
                        "target": target,
                        "rho": found.rho.value,
                        "low": found.rho.low,
                        "high": found.rho.high,
                        "p": found.p,
                        "partial": found.partial,
                        "partial_p": found.partial_p,
                    }
                )
        return rows


def collect(work: JointWork) -> Found:
    """Tables and sentences of a study that is done."""
    payload, settings = work.payload(("decoded",)), work.settings
    chance = 1 / len(settings.names)
    direct = []
    for name, by_split in payload["direct"].items():
        for split, right in by_split.items():
            mean = bootstrap_mean(right, seed=settings.seed)
            direct.append((name, split, len(right), mean.value, mean.low, mean.high, chance))
    columns = ["representation", "split", "n", "accuracy", "low", "high", "chance"]
    tables = {
        "direct": pd.DataFrame(direct, columns=columns),
        "cross": cross_table(payload["cross"], seed=settings.seed),
        "rsa": pd.DataFrame(work.payload(("alike",))["rows"]),
    }
    selection = tables["direct"].query("split == 'selection'").set_index("representation")["accuracy"]
    layer = max(settings.layers, key=lambda m: (selection[f"delimiter/{m}"], -m))
    tower = work.tower_layers[-1]
    return Found(tables, _sentences(settings, tables, tower, layer), tower, layer)


def cross_table(entries: list[Mapping[str, Any]], *, seed: int = 0) -> pd.DataFrame:
    """Accuracies of cross-decoding with intervals over items, and differences to the text embedding in the same place.

    Args:
        entries: source, target, map, right (of each item) and chance.
        seed: of the bootstrap.
    """
    by_place = {(one["source"], one["target"], one["map"]): one for one in entries}
    rows = []
    for (source, target, kind), one in by_place.items():
        mean = bootstrap_mean(one["right"], seed=seed)
        row = {
            "source": source, "target": target, "map": kind, "n": len(one["right"]), "accuracy": mean.value,
            "low": mean.low, "high": mean.high, "chance": one["chance"],
        }  # fmt: skip
        place = (source, TEXT) if source.startswith("delimiter") else (TEXT, target)
        text = by_place.get((*place, kind))
        if text is not None and TEXT not in (source, target):
            change = bootstrap_mean(np.asarray(one["right"]) - np.asarray(text["right"]), seed=seed)
            row |= {"beyond_text": change.value, "beyond_low": change.low, "beyond_high": change.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _sentences(settings: JointSettings, tables: Mapping[str, pd.DataFrame], tower: int, layer: int) -> list[str]:
    direct = tables["direct"].query("split == 'test'").set_index("representation")
    context, vector = f"context/{tower}", f"delimiter/{layer}"
    lines = [
        f"{len(settings.names)} tasks, {settings.items} items of each in each split; {settings.model}. Contextual "
        f"vector of tower layer {tower}, end-delimiter state after decoder block {layer} (chosen on the selection "
        "split).",
        "Probes on one representation, on content that they have not seen: "
        + "; ".join(
            "{} {:.2f} ({:.2f} to {:.2f})".format(name, *direct.loc[name, ["accuracy", "low", "high"]])
            for name in (context, vector, TEXT, "features", "frozen")
        )
        + f"; chance {direct.loc[context, 'chance']:.2f}.",
    ]
    cross = tables["cross"].set_index(["source", "target", "map"])
    for a, b in ((context, vector), (vector, context)):
        said = "; ".join(_said(cross.loc[(a, b, kind)], kind) for kind in MAPS)
        lines.append(f"{a} read by the probe of {b}: {said}.")
    rsa = tables["rsa"].set_index(["source", "target"])
    said = "; ".join(
        f"{name} {rsa.loc[(name, vector), 'rho']:+.2f} (p {rsa.loc[(name, vector), 'p']:.3f})"
        for name in (context, TEXT, "features")
    )
    own = rsa.loc[(context, vector)]
    lines.append(
        f"Which tasks are alike, against {vector}: {said}; {context} without the text's share {own['partial']:+.2f} "
        f"(p {own['partial_p']:.3f})."
    )
    return lines


def _said(row: pd.Series, kind: str) -> str:
    beyond = ""
    if np.isfinite(row.get("beyond_text", np.nan)):
        beyond = f", {row['beyond_text']:+.2f} ({row['beyond_low']:+.2f} to {row['beyond_high']:+.2f}) beyond the text"
    return (
        f"map {kind} {row['accuracy']:.2f} ({row['low']:.2f} to {row['high']:.2f}; chance {row['chance']:.2f}{beyond})"
    )
