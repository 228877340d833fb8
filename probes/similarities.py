"""The protocol behind `experiments.similarity`: how alike task vectors are across models and ways to specify a task.

A *source* is a model with a way to specify the task: the base LLM by text examples or an instruction, the VLM by text
examples, image examples or an instruction. For every pair of sources and every layer

    cosines   of the mean task vector of every task with that of every task (:func:`interp.models.pairs.agreement`),
              raw and centred; *matched* is the mean over tasks of the same task's, and its baselines are *mismatched*
              (a wrong task), *same family* (a wrong task over the same items), random directions of the same norms, and
              for p all ways to match tasks with tasks. A source stands beside itself as the ceiling: the means over one
              half of the blocks and over the other
    CKA       of the states of single contexts, both sources reading the same ones, for both kinds of state
              (:mod:`probes.similarity`), beside the same with the contexts of one source permuted: among all, and
              among those of the same task, which asks for agreement beyond the task

Contexts and blocks are those of :mod:`interp.protocol.states`; the selection split's blocks choose the layer of the
matrices that are drawn and of the numbers in the text. Intervals resample blocks, with both sources reading the same:
a percentile bootstrap would lie below the cosine of the means, as resampled means are noisier than the mean, so the
*basic* interval is taken, which mirrors it about the value.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.pairs import agreement, check_pair, matched, mismatched
from interp.protocol.states import KINDS, Kind, StateBank, StatePlan, StateSettings
from interp.runs import Run
from interp.statistics import Interval
from interp.tasks import Split, Task
from interp.vectors import norm_matched_random
from probes.shuffles import p_value
from probes.similarity import Estimator, cka, cka_interval, cka_null

CENTRINGS = ("raw", "centred")
EXACT = 6
"""Most tasks of which all orders are tried for p; of more, PERMUTED orders are drawn."""
PERMUTED = 999
RANDOM_DRAWS = 100
NOTES = {
    "chosen_layers": "Mean cosine of mean task vectors at the chosen layer. Matched: the same task in both sources. "
    "Mismatched: different tasks; same family: different tasks over the same items. Random: 95 % of random directions "
    "in place of the second source. p: share of all ways to match tasks with tasks that give as high a mean. "
    "Intervals: basic bootstrap over blocks of items, none where neither source has more than its one instruction. A "
    "source beside itself: one half of its blocks against the other.",
    "chosen_cka": "Linear CKA of the states of single contexts at the chosen layer, both sources reading the same. "
    "Null: mean and 95th percentile with the contexts of one source permuted; within task: only among contexts of one "
    "task. The interval is a jackknife over blocks.",
}
"""What the report says below the tables that it shows."""


@dataclass(frozen=True)
class SimilaritySettings(StateSettings):
    """One run. Attributes as in :class:`interp.protocol.states.StateSettings`, and:

    Attributes:
        llm: the base language model, or "" for none.
        layer_map: source layer of the LLM for each layer of the model, where the depths differ.
        permutations: behind every null of CKA.
        resamples: of the bootstrap.
    """

    llm: str
    layer_map: tuple[int, ...]
    permutations: int
    resamples: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("permutations", "resamples"):
            if getattr(self, name) < 1:
                raise CrosstaskError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        if self.llm == self.model:
            raise CrosstaskError(f"--llm and --model are both {self.model!r}; name two models, or leave out --llm.")


@dataclass(frozen=True)
class Source:
    """A model and how it is given the task: text, image or instruction."""

    model: str
    modality: str

    @property
    def name(self) -> str:
        return f"{self.model} {self.modality}"


class SimilarityPlan(StatePlan):
    """The contexts of a run and who reads them, checked against the models.

    Attributes:
        sources: the LLM's first, then the model's; instructions where all tasks have one.
        layer_map: model -> the layer that stands for each layer of the VLM.
    """

    settings: SimilaritySettings

    def __init__(self, settings: SimilaritySettings, tasks: Sequence[Task], models: Callable[[str], Model]) -> None:
        """
        Raises:
            CrosstaskError: as :meth:`interp.protocol.states.StatePlan.check` and
                :func:`interp.models.pairs.check_pair`; or there is one source only, or too few items for three blocks.
        """
        super().__init__(settings, tasks)
        model = models(settings.model)
        instructed = all(task.instruction_text is not None for task in tasks)
        ways = ["text", *(["image"] if model.takes_images else []), *(["instruction"] if instructed else [])]
        of_llm = [Source(settings.llm, way) for way in ways if way != "image"] if settings.llm else []
        self.sources = of_llm + [Source(settings.model, way) for way in ways]
        self.layer_map = {settings.model: tuple(range(model.n_layers))}
        if len(self.sources) < 2:
            raise CrosstaskError(
                f"{settings.model!r} with text examples is the only source; name an --llm, or tasks with instructions."
            )
        for family, blocks in self.blocks["test"].items():
            if len(blocks) < 3:
                raise CrosstaskError(
                    f"{len(blocks)} blocks of {settings.shots} demonstrations and a dummy query of {family!r}; the "
                    "intervals of CKA leave blocks out in turn and need three. Use more --blocks or fewer --shots."
                )
        if settings.llm:
            llm = models(settings.llm)
            report = check_pair(llm, model, template=self.template, layer_map=settings.layer_map)
            self.layer_map[settings.llm] = report.layer_map
        self.check(model, ways)


class SimilarityWork:
    """Performs the units of a run, and makes its tables from the journal."""

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
        return [*self.extractions, *(f"{what} / {a.name} / {b.name}" for what, a, b in self._comparisons())]

    def _comparisons(self) -> list[tuple[str, Source, Source]]:
        cosines = [("cosines", a, b) for a, b in self.pairs()]
        aligned = [("cka", a, b) for a, b in self.pairs() if a != b and "instruction" not in (a.modality, b.modality)]
        return cosines + aligned

    def perform(self, key: str) -> None:
        """Do a unit unless the journal holds it."""
        if key in self.extractions:
            self.bank.perform(self.extractions[key])
        elif self.run.done(key) is None:
            what, a, b = next(c for c in self._comparisons() if key == f"{c[0]} / {c[1].name} / {c[2].name}")
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
                for name, measure, most in (("matched", matched, 1), ("mismatched", mismatched, 1), ("gap", _gap, 2)):
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
        within = cka_null(x, y, strata=labels, **options)
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

    # Tables

    def tables(self) -> dict[str, pd.DataFrame]:
        """choice, layers, cosines, cka; and of the chosen layer chosen_layers and chosen_cka."""
        tasks = list(self.plan.tasks)
        records = {(a, b): self._record(f"cosines / {a.name} / {b.name}") for a, b in self.pairs()}
        cosines = [
            {
                "layer": layer,
                "source": a.name,
                "target": b.name,
                "source_task": first,
                "target_task": second,
                **{centring: record[centring][layer][i][j] for centring in CENTRINGS},
            }
            for (a, b), record in records.items()
            for layer in self.layers
            for i, first in enumerate(tasks)
            for j, second in enumerate(tasks)
        ]
        aligned = [
            row
            for what, a, b in self._comparisons()
            if what == "cka"
            for row in self._record(f"cka / {a.name} / {b.name}")["rows"]
        ]
        layers = pd.DataFrame([row for record in records.values() for row in record["rows"]])
        cka_table = pd.DataFrame(aligned, columns=["kind", "layer", "source", "target", "n", *CKA_COLUMNS])
        found = {"choice": self.choice, "layers": layers, "cosines": pd.DataFrame(cosines), "cka": cka_table}
        for name in ("layers", "cka"):
            found[f"chosen_{name}"] = found[name][found[name]["layer"] == self.layer].drop(columns="layer")
        return found

    def _record(self, key: str) -> dict[str, Any]:
        record = self.run.done(key)
        if record is None:
            raise LookupError(f"{key} is not in the journal")
        return record

    def describe(self, tables: Mapping[str, pd.DataFrame]) -> list[str]:
        """What was run on how much, and the numbers of the chosen layer, in a few sentences."""
        settings, (a, b) = self.settings, self.compared
        blocks = {split: len(next(iter(found.values()))) for split, found in self.plan.blocks.items()}
        names = ", ".join(source.name for source in self.sources)
        lines = [
            f"How alike are task vectors of {len(settings.tasks)} tasks between {names}? Contexts of "
            f"{settings.shots} demonstrations; {blocks['test']} blocks of items a family, each read in "
            f"{settings.orders} orders by every source.",
            f"Layer {self.layer} of {len(self.layers)} was chosen on {blocks['selection']} other blocks a family, by "
            f"the centred gap between matched and mismatched tasks of {a.name} and {b.name}.",
        ]
        chosen = tables["chosen_layers"]
        for row in chosen[chosen["source"] != chosen["target"]].itertuples():
            if row.centring == "centred":
                interval = "" if pd.isna(row.gap_low) else f" [{row.matched_low:.2f}, {row.matched_high:.2f}]"
                raw = chosen[(chosen["source"] == row.source) & (chosen["target"] == row.target)].iloc[0]
                lines.append(
                    f"{row.source} and {row.target}: centred cosine {row.matched:.2f}{interval} for the same task "
                    f"against {row.mismatched:.2f} for different ones (raw {raw['matched']:.2f} against "
                    f"{raw['mismatched']:.2f}), p = {row.p:.2g}."
                )
        return lines


CKA_COLUMNS = (
    "cka", "low", "high", "null_mean", "null_high", "p", "within_task_null_mean", "within_task_null_high",
    "p_within_task", "biased", "biased_null_mean",
)  # fmt: skip


def basic_interval(
    value: float, resampled: Float[np.ndarray, " R"], *, least: float = -1.0, most: float = 1.0
) -> Interval:
    """The 95 % basic bootstrap interval, [2 v - q_97.5, 2 v - q_2.5], cut at `least` and `most`."""
    low, high = (2 * value - q for q in np.quantile(resampled, [0.975, 0.025]))
    return Interval(value, float(max(least, low)), float(min(most, high)))


def matching_p_value(cosines: Float[np.ndarray, "K K"], *, seed: int = 0) -> float:
    """The share of all ways to match tasks with tasks whose mean cosine is at least that of the right one.

    Of more than six tasks 999 ways are drawn, and the right one is counted among them.
    """
    k = len(cosines)
    if k <= EXACT:
        orders = np.array(list(itertools.permutations(range(k))))  # the first is the right one
    else:
        rng = np.random.default_rng(seed)
        orders = np.array([np.arange(k), *(rng.permutation(k) for _ in range(PERMUTED))])
    means = cosines[np.arange(k), orders].mean(axis=1)
    return p_value(float(means[0]), means[1:])


def _gap(cosines: Float[Tensor, "L K K"]) -> Float[Tensor, " L"]:
    return matched(cosines) - mismatched(cosines)
