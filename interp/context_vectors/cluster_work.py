"""A study of how contextual vectors cluster: its units, its tables and what they say in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.context_vectors.clusters import (
    Agreement,
    Clustered,
    agreements,
    principal_plane,
    random_routers,
    similarity_correlation,
)
from interp.context_vectors.kept import Kept, Unit, asked_items
from interp.context_vectors.reading import layers_of, read_items
from interp.context_vectors.settings import ClusterSettings
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.runs import Run
from interp.tasks.perception.items import PerceptionItem
from interp.tasks.perception.wording import Wording
from interp.tuning.text_context import context_text

REPRESENTATIONS = {
    "context": "context",
    "text": "text embedding alone",
    "neutral": "context of the picture alone",
    "blank": "context of the question alone",
    "features": "mean feature",
    "frozen": "mean feature, frozen tower",
}
"""Name -> what it is; the first is the one in question, the others are its controls."""
LABELS = ("task", "form", "wording", "question", "pictures")
NOTES = {
    "agreement": "Adjusted mutual information of k-means clusters with what is known of the items (0 by chance, 1 for "
    "the same partition), with jackknife intervals; shuffled: the same for shuffled labels.",
    "routing": "Correlation over pairs of items of how alike they are routed and how alike another representation is; "
    "permuted: 95th percentile over permuted items; random routers: what any router of the context would give.",
}


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes:
        tables: name -> table.
        sentences: what they say.
        layer: whose vectors were clustered.
    """

    tables: dict[str, pd.DataFrame]
    sentences: list[str]
    layer: int


class ClusterWork(Kept):
    """Does the units of a study.

    Attributes:
        settings: resolved for the model.
        model: the model before fine-tuning.
        folder: with the CoVFT adapter.
    """

    def __init__(self, settings: ClusterSettings, run: Run, model: Model, folder: Path) -> None:
        super().__init__(run)
        self.settings, self.model, self.folder = settings, model, folder

    def units(self) -> list[Unit]:
        """One for each task and form in each wording."""
        return [("read", asked, wording) for wording in self.settings.wordings for asked in self.settings.asked]

    def perform(self, unit: Unit) -> None:
        """Read the items of a task."""
        found = read_items(self.model, self.items(*unit[1:]), self.folder, neutral=self.settings.neutral)
        self._chosen(layers_of(list(found)))  # before anything is kept
        self.write(unit, found)

    def items(self, asked: str, wording: Wording = "brief") -> list[PerceptionItem]:
        """The items of a task and form; those of two wordings have the same names and pictures."""
        s = self.settings
        return asked_items(
            asked, n=s.items, split="test", difficulty=s.difficulty(asked), wording=wording, size=s.size, seed=s.seed
        )

    def layer(self) -> int:
        """The layer whose vectors are clustered.

        Raises:
            CrosstaskError: there is no CoVFT layer of that number.
        """
        return self._chosen(layers_of(list(self.read(self.units()[0]))))

    def _chosen(self, layers: list[int]) -> int:
        chosen = layers[-1] if self.settings.layer == -1 else self.settings.layer
        if chosen not in layers:
            raise CrosstaskError(f"layer {chosen} has no contextual vectors; expected {', '.join(map(str, layers))}")
        return chosen

    def vectors(self, layer: int) -> dict[str, Float[np.ndarray, "N D"]]:
        """Every representation of all items, and `routing`."""
        read = [self.read(unit) for unit in self.units()]
        names = {name: f"{name}/{layer}" if f"{name}/{layer}" in read[0] else name for name in REPRESENTATIONS}
        names["routing"] = f"routing/{layer}"
        return {name: np.concatenate([one[key].double().numpy() for one in read]) for name, key in names.items()}

    def known(self) -> pd.DataFrame:
        """Item, task, form, wording, question and number of pictures, in the order of the vectors."""
        rows = []
        for _, asked, wording in self.units():
            task, form = self.settings.labels_of(asked)
            rows += [
                (item.name, asked, task, form, wording, context_text(item.prompt), str(len(item.images)))
                for item in self.items(asked, wording)
            ]
        return pd.DataFrame(rows, columns=["item", "asked", "task", "form", "wording", "question", "pictures"])


def collect(work: ClusterWork) -> Found:
    """Tables and sentences of a study that is done."""
    settings, layer, known = work.settings, work.layer(), work.known()
    vectors = work.vectors(layer)
    labels = {kind: known[kind].tolist() for kind in LABELS if len(set(known[kind])) > 1}
    groups = known["item"].tolist()
    clustered: dict[str, Clustered] = {}
    rows, planes = [], []
    for name in REPRESENTATIONS:
        whole, found = agreements(
            vectors[name], labels, settings.clusters, groups=groups, shuffles=settings.shuffles, seed=settings.seed
        )
        clustered[name] = whole
        rows += [_agreement_row(name, kind, one, whole) for kind, one in found.items()]
        places, shares = principal_plane(vectors[name])
        planes.append(
            known[["item", "task", "form", "wording"]].assign(
                representation=name,
                x=places[:, 0],
                y=places[:, 1],
                cluster=whole.labels,
                share_x=shares[0],
                share_y=shares[1],
            )
        )
    tables = {
        "agreement": pd.DataFrame(rows),
        "clusterings": _clusterings(clustered),
        "composition": _composition(clustered["context"], known),
        "nearest": _nearest(clustered["context"], known, settings.nearest),
        "routing": _routing(vectors, groups, settings),
        "projection": pd.concat(planes, ignore_index=True),
    }
    return Found(tables, _sentences(settings, layer, tables, vectors["routing"]), layer)


def _agreement_row(name: str, kind: str, one: Agreement, whole: Clustered) -> dict[str, object]:
    return {
        "representation": name,
        "label": kind,
        "clusters": len(set(whole.labels.tolist())),
        "n": len(whole.labels),
        "ami": one.ami.value,
        "low": one.ami.low,
        "high": one.ami.high,
        "shuffled": one.shuffled,
        "shuffled_high": one.shuffled_high,
        "within": whole.inertia,
    }


def _clusterings(clustered: Mapping[str, Clustered]) -> pd.DataFrame:
    """How far the clusters of any two representations are the same."""
    from sklearn.metrics import adjusted_mutual_info_score as ami

    names = list(clustered)
    rows = [
        (a, b, float(ami(clustered[a].labels, clustered[b].labels)))
        for place, a in enumerate(names)
        for b in names[place + 1 :]
    ]
    return pd.DataFrame(rows, columns=["a", "b", "ami"])


def _composition(whole: Clustered, known: pd.DataFrame) -> pd.DataFrame:
    """What each cluster holds: its size, and the share of each task and form."""
    counts = known.assign(cluster=whole.labels).groupby(["cluster", "task", "form"], sort=True).size()
    found = counts.rename("n").reset_index()
    sizes = found.groupby("cluster")["n"].transform("sum")
    return found.assign(share=found["n"] / sizes, size=sizes)


def _nearest(whole: Clustered, known: pd.DataFrame, n: int) -> pd.DataFrame:
    """The items nearest to each centre."""
    rows = []
    for number in range(len(whole.centres)):
        for rank, index in enumerate(whole.nearest(number, n)):
            item = known.iloc[index]
            rows.append(
                (number, rank, *item[["item", "asked", "task", "form", "wording", "question"]], whole.distances[index])
            )
    columns = ["cluster", "rank", "item", "asked", "task", "form", "wording", "question", "distance"]
    return pd.DataFrame(rows, columns=columns)


def _routing(
    vectors: Mapping[str, Float[np.ndarray, "N D"]], groups: list[str], settings: ClusterSettings
) -> pd.DataFrame:
    """How alike items are routed, against how alike each representation is."""
    rows = []
    for name in REPRESENTATIONS:
        r, permuted = similarity_correlation(
            vectors[name], vectors["routing"], groups=groups, permutations=settings.shuffles, seed=settings.seed
        )
        drawn = random_routers(vectors[name], vectors["routing"], seed=settings.seed) if name == "context" else None
        rows.append(
            {
                "representation": name,
                "r": r.value,
                "low": r.low,
                "high": r.high,
                "permuted_high": permuted,
                "random_routers": float(drawn.mean()) if drawn is not None else np.nan,
                "random_routers_high": float(np.quantile(drawn, 0.95)) if drawn is not None else np.nan,
            }
        )
    return pd.DataFrame(rows)


def _sentences(
    settings: ClusterSettings, layer: int, tables: Mapping[str, pd.DataFrame], routing: Float[np.ndarray, "N E"]
) -> list[str]:
    table = tables["agreement"]
    lines = [
        f"Contextual vectors of layer {layer} of {len(routing)} test items, {settings.items} of each of "
        f"{len(settings.asked)} tasks and forms, in {settings.clusters} clusters (k-means); {settings.model}."
    ]
    for kind, rows in table.groupby("label", sort=False):
        said = "; ".join(
            f"{REPRESENTATIONS[str(row['representation'])]} {row['ami']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
            for _, row in rows.iterrows()
        )
        lines.append(
            f"Adjusted mutual information with the {kind}: {said}; shuffled labels reach "
            f"{rows['shuffled_high'].max():.2f}."
        )
    first = tables["routing"].set_index("representation")
    own, text = first.loc["context"], first.loc["text"]
    drawn = np.isfinite(own["random_routers"])  # not for sparse routing
    lines.append(
        f"Items with like contexts are routed alike: r = {own['r']:.2f} ({own['low']:.2f} to {own['high']:.2f}); "
        + (f"random routers of the same contexts give {own['random_routers']:.2f}; " if drawn else "")
        + f"with the text embedding r = {text['r']:.2f}."
    )
    spread = routing.std(0)
    lines.append(
        f"Mean routing weights {', '.join(f'{w:.2f}' for w in routing.mean(0))}, standard deviations over items "
        f"{', '.join(f'{s:.3f}' for s in spread)} (uniform: {1 / routing.shape[1]:.2f} and 0)."
    )
    return lines
