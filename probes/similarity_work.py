"""The units of the similarity experiment: states, then cosines and CKA of every pair of sources.

The questions are those of :mod:`probes.similarities`; what each unit finds is kept in the run's journal.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.models.base import Model
from interp.models.pairs import agreement, matched, mismatched
from interp.protocol.states import KINDS, Kind, StateBank
from interp.runs import Run
from interp.tasks import Split
from interp.vectors import norm_matched_random
from probes.shuffles import p_value
from probes.similarities import SimilarityPlan, Source
from probes.similarity import Estimator, basic_interval, cka, cka_interval, cka_null, matching_p_value

CENTRINGS = ("raw", "centred")
RANDOM_DRAWS = 100
CKA_COLUMNS = (
    "cka", "low", "high", "null_mean", "null_high", "p", "within_task_null_mean", "within_task_null_high",
    "p_within_task", "biased", "biased_null_mean",
)  # fmt: skip

Measure: TypeAlias = Callable[[Float[Tensor, "L K K"]], Float[Tensor, " L"]]


class SimilarityWork:
    """Performs the units of a run, and gives what the journal holds."""

    def __init__(self, plan: SimilarityPlan, run: Run, models: Callable[[str], Model]) -> None:
        self.plan, self.settings, self.run = plan, plan.settings, run
        self.sources, self.layer_map = plan.sources, plan.layer_map
        self.bank = StateBank(plan, run, models)
        read: dict[str, list[str]] = {}
        for source in self.sources:
            read.setdefault(source.model, []).append(source.modality)
        self.extractions = {unit.key: unit for unit in self.bank.units(dict(read))}

    @property
    def layers(self) -> range:
        return range(len(self.layer_map[self.settings.model]))

    def pairs(self) -> list[tuple[Source, Source]]:
        """Every source with itself and with every later one."""
        return list(itertools.combinations_with_replacement(self.sources, 2))

    def units(self) -> list[str]:
        """The keys of all units in order: states, then cosines and CKA of every pair."""
        return [*self.extractions, *(f"{what} / {a.name} / {b.name}" for what, a, b in self.comparisons())]

    def comparisons(self) -> list[tuple[str, Source, Source]]:
        """What is compared: cosines of every pair, and CKA of two sources that read contexts."""
        cosines = [("cosines", a, b) for a, b in self.pairs()]
        aligned = [("cka", a, b) for a, b in self.pairs() if a != b and "instruction" not in (a.modality, b.modality)]
        return cosines + aligned

    def seconds(self) -> float:
        """How long reading the states that are not yet there should take."""
        return self.bank.seconds(self.extractions.values())

    def record(self, what: str, a: Source, b: Source) -> dict[str, Any]:
        """What the journal holds of a comparison: rows, and of cosines the matrices raw and centred."""
        found = self.run.done(f"{what} / {a.name} / {b.name}")
        if found is None:
            raise LookupError(f"{what} of {a.name} and {b.name} are not in the journal")
        return found

    def perform(self, key: str) -> None:
        """Do a unit unless the journal holds it."""
        if key in self.extractions:
            self.bank.perform(self.extractions[key])
        elif self.run.done(key) is None:
            what, a, b = next(c for c in self.comparisons() if key == f"{c[0]} / {c[1].name} / {c[2].name}")
            self.run.record(key, self._cosines(a, b) if what == "cosines" else {"rows": self._cka(a, b)})

    # States

    def contexts(self, source: Source, split: Split, kind: Kind = "task_vector") -> Float[Tensor, "K N L D"]:
        """States of every task and block, the mean over the block's orders; one per task of an instruction."""
        found = self.bank.states(source.model, [source.modality], split).by_kind[kind]
        found = found[:, list(self.layer_map[source.model])].double()
        once = source.modality == "instruction"
        blocks = 1 if once else len(next(iter(self.plan.blocks[split].values())))
        orders = 1 if once else self.settings.orders
        return found.view(len(self.plan.tasks), blocks, orders, *found.shape[1:]).mean(dim=2)

    # The layer

    @cached_property
    def choice(self) -> pd.DataFrame:
        """One row per layer: centred cosines of the first two comparable sources on the selection split's blocks."""
        a, b = self.compared
        found = agreement(*(self.contexts(source, "selection").mean(dim=1) for source in (a, b)))
        gap = matched(found.centred) - mismatched(found.centred)
        table = pd.DataFrame(
            {
                "layer": self.layers,
                "source": a.name,
                "target": b.name,
                "matched": matched(found.centred).tolist(),
                "mismatched": mismatched(found.centred).tolist(),
                "gap": gap.tolist(),
            }
        )
        table["chosen"] = table.index == table["gap"].idxmax()
        return table

    @property
    def compared(self) -> tuple[Source, Source]:
        """Text and image of the model where it has both, otherwise the first two sources."""
        own = [source for source in self.sources if source.model == self.settings.model]
        own = own if own[1:] and own[1].modality == "image" else self.sources
        return own[0], own[1]

    @property
    def layer(self) -> int:
        """The chosen layer: the greatest centred gap of matched over mismatched; ties go to the lowest."""
        return int(self.choice.loc[self.choice["chosen"], "layer"].iloc[0])

    # Cosines

    def _cosines(self, a: Source, b: Source) -> dict[str, Any]:
        first, second = self.contexts(a, "test"), self.contexts(b, "test")
        if a == b and first.shape[1] > 1:
            first, second = first[:, ::2], second[:, 1::2]
        found = agreement(first.mean(dim=1), second.mean(dim=1))
        rows = [] if a == b and a.modality == "instruction" else self._statistics(a, b, first, second)
        return {"rows": rows, **{centring: getattr(found, centring).tolist() for centring in CENTRINGS}}

    def _statistics(
        self, a: Source, b: Source, first: Float[Tensor, "K N L D"], second: Float[Tensor, "K M L D"]
    ) -> list[dict[str, Any]]:
        rows, family = [], self._same_family()
        measures = self._measures(family)
        for layer in self.layers:
            x, y = first[:, :, layer], second[:, :, layer]
            whole = agreement(x.mean(dim=1)[:, None], y.mean(dim=1)[:, None])
            drawn = self._resampled(x, y, together=a != b)
            noise = norm_matched_random(
                y.mean(dim=1)[:, None].repeat(1, RANDOM_DRAWS, 1), seed=self.settings.seed + layer
            )
            random = agreement(x.mean(dim=1)[:, None].expand_as(noise), noise)
            for centring in CENTRINGS:
                cosines = getattr(whole, centring)
                row: dict[str, Any] = {"layer": layer, "source": a.name, "target": b.name, "centring": centring}
                for name, (measure, most) in measures.items():
                    value = float(measure(cosines)[0])
                    row |= {name: value, f"{name}_low": None, f"{name}_high": None}
                    if drawn is not None:
                        resampled = measure(getattr(drawn, centring)).numpy()
                        interval = basic_interval(value, resampled, least=-most, most=most)
                        row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
                chance = matched(getattr(random, centring)).numpy()
                row |= {
                    "same_family": float(cosines[0][family].mean()) if family.any() else None,
                    "random_low": float(np.quantile(chance, 0.025)),
                    "random_high": float(np.quantile(chance, 0.975)),
                    "p": matching_p_value(cosines[0].numpy(), seed=self.settings.seed),
                }
                rows.append(row)
        return rows

    def _measures(self, family: Bool[Tensor, "K K"]) -> dict[str, tuple[Measure, float]]:
        """Name -> mean of the cosines of every layer, and the most that it can be."""
        measures: dict[str, tuple[Measure, float]] = {
            "matched": (matched, 1),
            "mismatched": (mismatched, 1),
            "gap": (lambda cosines: matched(cosines) - mismatched(cosines), 2),
        }
        if family.any():
            measures["family_gap"] = lambda cosines: matched(cosines) - cosines[:, family].mean(-1), 2
        return measures

    def _same_family(self) -> Bool[Tensor, "K K"]:
        families = [task.family for task in self.plan.tasks.values()]
        same = torch.tensor([[first == second for second in families] for first in families])
        return same & ~torch.eye(len(families), dtype=torch.bool)

    def _resampled(self, x: Float[Tensor, "K N D"], y: Float[Tensor, "K M D"], *, together: bool) -> Any:
        """Cosines of the means over resampled blocks, a resample in the place of a layer; None for lone instructions.

        Args:
            together: both sources have read the same blocks, so a block is drawn for both.
        """
        if x.shape[1] == y.shape[1] == 1:
            return None
        families = [task.family for task in self.plan.tasks.values()]
        rng = np.random.default_rng(self.settings.seed)

        def weights(blocks: int) -> Float[Tensor, "K R N"]:
            of = {
                family: rng.multinomial(blocks, [1 / blocks] * blocks, size=self.settings.resamples) / blocks
                for family in dict.fromkeys(families)
            }
            return torch.tensor(np.stack([of[family] for family in families]))

        first = weights(x.shape[1])
        second = first if together and x.shape[1] == y.shape[1] else weights(y.shape[1])
        return agreement(torch.bmm(first, x), torch.bmm(second, y))

    # CKA

    def _cka(self, a: Source, b: Source) -> list[dict[str, Any]]:
        rows = []
        for kind in KINDS:
            first, second = (self.contexts(source, "test", kind) for source in (a, b))
            tasks, blocks = first.shape[:2]
            families = [task.family for task in self.plan.tasks.values()]
            labels = np.repeat(np.arange(tasks), blocks)
            groups = [f"{family} {block}" for family in families for block in range(blocks)]
            for layer in self.layers:
                x, y = (states[:, :, layer].flatten(0, 1).numpy() for states in (first, second))
                row: dict[str, Any] = {"kind": kind, "layer": layer, "source": a.name, "target": b.name, "n": len(x)}
                rows.append(row | self._aligned(x, y, labels, groups))
        return rows

    def _aligned(self, x: Any, y: Any, labels: Any, groups: Sequence[str]) -> dict[str, Any]:
        options: dict[str, Any] = {"permutations": self.settings.permutations, "seed": self.settings.seed}
        interval = cka_interval(x, y, groups=groups)
        estimators: tuple[Estimator, ...] = ("debiased", "biased")
        nulls = {estimator: cka_null(x, y, estimator=estimator, **options) for estimator in estimators}
        within = cka_null(x, y, strata=labels, together=groups, **options)
        values = (
            interval.value,
            interval.low,
            interval.high,
            float(nulls["debiased"].mean()),
            float(np.quantile(nulls["debiased"], 0.95)),
            p_value(interval.value, nulls["debiased"]),
            float(within.mean()),
            float(np.quantile(within, 0.95)),
            p_value(interval.value, within),
            cka(x, y, estimator="biased"),
            float(nulls["biased"].mean()),
        )
        return dict(zip(CKA_COLUMNS, values, strict=True))
