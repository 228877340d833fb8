"""Does CoVFT leave other task vectors, patch-transfer and transfer than another strategy does at equal dose?

Two adapters make a pair if they were trained on the same task with the same seed, on the same data for as many steps;
then the strategy is what differs. Each is held against the model before training:

    change, cosine, towards   of the task vectors (:mod:`interp.perception_vectors.moves`)
    patch_own, patch_other    change of log p(key) when the own or another task's vector is patched into test items, at
                              the delimiter or the last token before the letter, where the vectors are read as well
                              (:mod:`interp.perception_vectors.transfer`), under the adapter
    accuracy, pgf             on test items of every task, and the share of the room that is filled (A.1)

Task vectors of an adapter are read under it, from the same contexts (content of training, items as they are asked).
Differences are paired by task and seed of the training and by target; intervals resample trained tasks and targets,
each by themselves, or trained tasks where the target is the trained one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from interp.context_vectors.kept import Kept, Unit, asked_items
from interp.context_vectors.pairing import item_states
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.perception_vectors.moves import moves
from interp.perception_vectors.patches import patch_answers
from interp.perception_vectors.settings import Position, last_patchable
from interp.perception_vectors.states import halves
from interp.perception_vectors.transfer import OTHER, OWN, arms_for, scored, transfer_table
from interp.runs import Run
from interp.statistics import bootstrap_mean, bootstrap_two_way
from interp.tasks.perception.wording import Wording
from interp.transfer.pgf import pgf
from interp.tuning.adapters import RECORD, attached
from interp.tuning.dataset import picture_side
from interp.tuning.evaluation.forced_choice import choose, prepare
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.variants import changes_vision
from interp.tuning.evaluation.vision import PixelVision
from interp.tuning.matrix.plan import DIFFICULTY, task_of
from interp.tuning.matrix.work import canonical

COVFT, SETTING = "covft", "item"
DOSE = ("steps", "examples_seen")
"""What of a run's record is a dose; the data's fingerprint is compared as well."""
MEASURES = ("change", "cosine", "towards", "patch_own", "patch_other", "patch_specific", "accuracy", "pgf")


@dataclass(frozen=True)
class Trained:
    """An adapter of a comparison.

    Attributes:
        folder: with its weights and record.
        strategy: by which it was trained.
        task: on what.
        seed: of the training.
        dose: steps, examples and data of the training.
    """

    folder: Path
    strategy: str
    task: str
    seed: int
    dose: tuple[Any, ...]

    @property
    def label(self) -> str:
        return f"{self.strategy} {self.task}@{self.seed}"

    @classmethod
    def read(cls, folder: Path) -> Trained:
        """What the runner's record says.

        Raises:
            CrosstaskError: there is no record.
        """
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            dose = (*(record[name] for name in DOSE), record["data"]["sha256"])
            task = str(record["config"]["task"])
            with contextlib.suppress(CrosstaskError):  # a mixture has a label of its own
                task = canonical(task)
            return cls(folder, record["strategy"], task_of(task), record["config"]["seed"], dose)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CrosstaskError(f"folder {str(folder)!r} has no {RECORD} of a training ({error})") from error


def paired(folders: Sequence[Path]) -> list[tuple[Trained, Trained]]:
    """Adapters of CoVFT, each with its counterpart of another strategy.

    Raises:
        CrosstaskError: a CoVFT adapter is given twice, or has no counterpart, or more than one, or one of another dose.
    """
    found = [Trained.read(folder) for folder in folders]
    ours, others = ([one for one in found if (one.strategy == COVFT) == is_ours] for is_ours in (True, False))
    if not ours or not others:
        raise CrosstaskError(
            f"to compare are adapters of {', '.join(sorted({one.strategy for one in found})) or 'no strategy'}; "
            "expected one or more of covft, and for each one of another strategy on the same task"
        )
    labels = [one.label for one in ours]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise CrosstaskError(
            f"adapter {twice!r} is given {labels.count(twice)} times; expected each task and seed once"
        )
    pairs = []
    for one in ours:
        like = [other for other in others if (other.task, other.seed) == (one.task, one.seed)]
        if len(like) != 1:
            raise CrosstaskError(
                f"adapter {one.label!r} has {len(like)} counterparts of another strategy; expected one of the same "
                "task and seed"
            )
        if like[0].dose != one.dose:
            raise CrosstaskError(
                f"adapters {one.label!r} and {like[0].label!r} have different doses ({', '.join(DOSE)}, data): "
                f"{one.dose} and {like[0].dose}; only equal ones can be compared"
            )
        pairs.append((one, like[0]))
    return pairs


@dataclass(frozen=True)
class CompareSettings:
    """Everything that decides the numbers.

    Attributes:
        model: name of the model.
        adapters: label -> sha256 of the weights.
        tasks: targets; three or more.
        contexts: items that a task vector is the mean of; even.
        items: test items of each task that answers are scored on.
        patch_layer: decoder block that is patched; the middle one by default, resolved.
        position: where vectors are read and patched: at the end delimiter, or at the last token before the letter.
        shifts: whether answers are averaged over all shifts of the options.
        difficulties: task -> difficulty of its drawn items, 0 to 1; of the others 0.5.
        wording: how tasks ask.
        size: side of their pictures; resolved.
        seed: of items and resampling.
    """

    model: str
    adapters: Mapping[str, str]
    tasks: tuple[str, ...]
    contexts: int = 40
    items: int = 40
    patch_layer: int = -1
    position: Position = "delimiter"
    shifts: bool = True
    difficulties: Mapping[str, float] = field(default_factory=dict)
    wording: Wording = "brief"
    size: int = 0
    seed: int = 1000

    def __post_init__(self) -> None:
        if len(set(self.names)) < max(3, len(self.tasks)):
            raise CrosstaskError(f"tasks {', '.join(self.tasks) or '(none)'}: expected three or more, each once")
        if self.contexts < 2 or self.contexts % 2 or self.items < 1:
            raise CrosstaskError(
                f"{self.contexts} contexts and {self.items} items: expected an even number of contexts, and 1 item"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks as tables call them."""
        return tuple(task_of(name) for name in self.tasks)

    def difficulty(self, asked: str) -> float:
        """Of the items of "task" or "task/form"."""
        return self.difficulties.get(task_of(asked), DIFFICULTY)

    def resolve(self, model: Model) -> CompareSettings:
        """With what the model decides.

        Raises:
            CrosstaskError: what the chosen block writes at the position reaches no answer, or there is none.
        """
        layer = (model.n_layers - 1) // 2 if self.patch_layer == -1 else self.patch_layer
        last = last_patchable(model, self.position)
        if not 0 <= layer <= last:
            raise CrosstaskError(
                f"layer {layer} cannot be patched at the {self.position} of {model.name!r}: expected 0 to {last}"
            )
        return replace(self, patch_layer=layer, size=self.size or picture_side(model))

    def config(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


class CompareWork(Kept):
    """Does the units of a comparison: `("under", <label>)` for every adapter, and for the model itself (`base`).

    Attributes:
        settings: resolved for the model.
        model: the model before training.
        pairs: of adapters.
    """

    def __init__(
        self, settings: CompareSettings, run: Run, model: Model, pairs: Sequence[tuple[Trained, Trained]]
    ) -> None:
        super().__init__(run)
        self.settings, self.model, self.pairs = settings, model, list(pairs)

    def units(self) -> list[Unit]:
        labels = dict.fromkeys(one.label for pair in self.pairs for one in pair)
        return [("under", BASE), *(("under", label) for label in labels)]

    def perform(self, unit: Unit) -> None:
        """Read vectors and answers under an adapter."""
        label = unit[1]
        folders = {one.label: one.folder for pair in self.pairs for one in pair if one.label == label}
        with attached(self.model, folders) as held, held.use(label if folders else None):
            vectors = {task: self._vectors(asked) for task, asked in self._tasks()}
            answers = {
                task: self._answers(asked, task, vectors, pixels=changes_vision(folders.get(label)))
                for task, asked in self._tasks()
            }
        self.write(unit, vectors, answers=answers)

    def _tasks(self) -> list[tuple[str, str]]:
        return list(zip(self.settings.names, self.settings.tasks, strict=True))

    def _items(self, asked: str, split: str, n: int) -> Any:
        s = self.settings
        return asked_items(
            asked, n=n, split=split, difficulty=s.difficulty(asked), wording=s.wording, size=s.size, seed=s.seed
        )

    def _vectors(self, asked: str) -> Float[torch.Tensor, "2 L D"]:
        items = self._items(asked, "train", self.settings.contexts)
        return halves(item_states(self.model, items, self.settings.position))

    def _answers(self, asked: str, target: str, vectors: Mapping[str, torch.Tensor], *, pixels: bool) -> dict[str, Any]:
        """Right answers, log p(key), and both under every patch."""
        settings, reader = self.settings, ItemReader(self.model)
        items = self._items(asked, "test", settings.items)
        vision = PixelVision(self.model, reader.pictures) if pixels else None
        choices = prepare(self.model, items, reader=reader, vision=vision, shifts=settings.shifts)
        records = choose(choices)
        means = {task: found.mean(0) for task, found in vectors.items()}
        arms = arms_for(means, target, layers=[settings.patch_layer], items=len(items), seed=settings.seed)
        return {
            "correct": [record.correct for record in records],
            "log_p": [record.log_p_key for record in records],
            "patched": scored(arms, patch_answers(choices, arms, position=settings.position)),
        }


BASE = "base"


def compare_tables(work: CompareWork) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Every measure of every adapter and target, the paired differences, and what they say."""
    rows = pd.concat([_rows(work, one) for pair in work.pairs for one in dict.fromkeys(pair)], ignore_index=True)
    table = differences(rows, seed=work.settings.seed)
    return {"compare_rows": rows, "compare": table}, _sentences(work, table)


def _rows(work: CompareWork, one: Trained) -> pd.DataFrame:
    """Measures of one adapter by target."""
    names = work.settings.names
    base, tuned = (work.read(("under", label)) for label in (BASE, one.label))
    stacked = [np.stack([found[name].double().numpy() for name in names]) for found in (base, tuned)]
    moved = moves({SETTING: stacked[0]}, {(one.task, one.seed): {SETTING: stacked[1]}}, names)
    moved = moved[moved["layer"] == work.settings.patch_layer].set_index("target")
    before, after = (work.payload(("under", label))["answers"] for label in (BASE, one.label))
    patches = transfer_table(
        {(SETTING, name): after[name]["patched"] for name in names}, tasks=names, seed=work.settings.seed
    )
    rows = []
    for name in names:
        at = patches[patches["target"] == name]
        own, other = (at[at["control"] == kind]["log_p_change"].mean() for kind in (OWN, OTHER))
        right, was = (float(np.mean(answers[name]["correct"])) for answers in (after, before))
        n = len(after[name]["correct"])
        found = {
            **{measure: moved.loc[name, measure] for measure in ("change", "cosine", "towards")},
            "patch_own": own,
            "patch_other": other,
            "patch_specific": own - other,
            "accuracy": right,
            "pgf": float(pgf(np.array([right]), np.array([was]), n=np.array([n]))[0]),
        }
        rows += [(one.strategy, one.task, one.seed, name, measure, float(value)) for measure, value in found.items()]
    return pd.DataFrame(rows, columns=["strategy", "source", "seed", "target", "measure", "value"])


def differences(rows: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """CoVFT minus the other strategy, by measure, on the trained task and on others.

    Args:
        rows: strategy, source, seed, target, measure, value.
        seed: of the bootstrap.

    Returns:
        Rows of measure, targets ("own", "others"), pairs, covft, other (means over cells), difference, low, high
        (bootstrap over trained tasks and targets, :func:`interp.statistics.bootstrap_two_way`, or over trained tasks
        where they are the targets; NaN of a single one), and scale: the standard deviation of the differences.
    """
    ours, others = (rows[(rows["strategy"] == COVFT) == is_ours] for is_ours in (True, False))
    both = ours.merge(others, on=["source", "seed", "target", "measure"], suffixes=("", "_other"))
    both = both.dropna(subset=["value", "value_other"])
    both = both.assign(
        difference=both["value"] - both["value_other"],
        targets=np.where(both["source"] == both["target"], "own", "others"),
    )
    found = []
    for (measure, targets), part in both.groupby(["measure", "targets"], sort=False):
        sources, held, values = (part[name].tolist() for name in ("source", "target", "difference"))
        if targets == "own":
            mean = bootstrap_mean(values, groups=sources, seed=seed)
        else:
            mean = bootstrap_two_way(values, rows=sources, columns=held, seed=seed)
        cells = part.groupby(["source", "target"], sort=False)[["value", "value_other"]].mean().mean()
        single = len(set(held)) < 2
        scale = float(part["difference"].std(ddof=1)) if len(part) > 1 else float("nan")
        found.append(
            (
                measure, targets, len(part), cells["value"], cells["value_other"], mean.value,
                np.nan if single else mean.low, np.nan if single else mean.high, scale if scale > 0 else np.nan,
            )
        )  # fmt: skip
    columns = ["measure", "targets", "pairs", "covft", "other", "difference", "low", "high", "scale"]
    return pd.DataFrame(found, columns=columns)


def _sentences(work: CompareWork, table: pd.DataFrame) -> list[str]:
    trained = ", ".join(f"{one.task}@{one.seed} (against {other.strategy})" for one, other in work.pairs)
    lines = [
        f"CoVFT at equal dose: trained on {trained}; {len(work.settings.names)} targets, {work.settings.items} test "
        f"items of each; vectors and patches at the {work.settings.position} after decoder block "
        f"{work.settings.patch_layer}, fixed beforehand."
    ]
    for targets, rows in table.groupby("targets", sort=False):
        said = "; ".join(
            f"{row['measure']} {row['covft']:+.3f} and {row['other']:+.3f}, difference {row['difference']:+.3f}"
            + (f" ({row['low']:+.3f} to {row['high']:+.3f})" if np.isfinite(row["low"]) else " (one target)")
            for _, row in rows.iterrows()
        )
        lines.append(f"On {'the trained task' if targets == 'own' else 'other tasks'}, CoVFT and the other: {said}.")
    return lines
