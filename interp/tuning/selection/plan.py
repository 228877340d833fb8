"""PGF-guided data selection: which sources are mixed for a target, and what the mixture is compared with.

1. A matrix measured on selection items gives each source its mean Perfection Gap Factor for the target,

       mu(i -> j) = [Acc(M(T_i), T_j) - Acc(M, T_j)] / [1 - Acc(M, T_j)],    mean over seeds

2. `guided`: the k sources with the highest positive factors, mixed; the target itself and the control sources are left
   out. `random`: k sources drawn from the same candidates, several draws. `direct`: the target's own data.
3. All have the same number of examples and steps, and are tested on test items, which played no part in the choice.

The paper's number of sources, shares and budget are not published; ours are settings and in the table.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp.errors import CrosstaskError
from interp.tasks.perception.base import generator
from interp.transfer.names import BASELINE, CONTROLS
from interp.transfer.tables import CELLS_FILE
from interp.tuning.matrix.plan import DIFFICULTY, Job, MatrixSettings, Variant, form_of, plain, scored, task_of

Weights = Literal["equal", "pgf"]
GUIDED, RANDOM, DIRECT = "guided", "random", "direct"


@dataclass(frozen=True)
class Arm:
    """One way of choosing training data for a target.

    Attributes:
        name: guided, direct, or random1, random2, ...
        shares: source -> its share of the examples, adding up to one.
    """

    name: str
    shares: Mapping[str, float]


@dataclass(frozen=True)
class SelectionSettings:
    """Everything that decides the numbers of a comparison.

    Attributes:
        matrix: settings of the matrix that chooses; training, model and difficulties are the same here.
        arms: target -> arms.
        factors: target -> source -> mean factor on selection items, as the choice was made.
        seeds: of the trainings.
        items: test items of each target.
    """

    matrix: MatrixSettings
    arms: Mapping[str, tuple[Arm, ...]]
    factors: Mapping[str, Mapping[str, float]]
    seeds: tuple[int, ...]
    items: int

    def config(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Matrix:
    """A measured matrix that may choose data.

    Attributes:
        settings: how it was measured.
        cells: its cells.
        folder: where it was read.
    """

    settings: MatrixSettings
    cells: pd.DataFrame = field(repr=False)
    folder: Path


def read_matrix(folder: Path) -> Matrix:
    """A folder of experiments.transfer_matrix that was measured on selection items.

    Raises:
        CrosstaskError: it is no such folder, not finished, or was measured on test items.
    """
    found: dict[str, Any] = {}
    for name in ("config.json", "extent.json"):
        try:
            found |= json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CrosstaskError(
                f"{folder} holds no transfer matrix ({name} cannot be read); measure one on selection items with "
                f"python -m experiments.transfer_matrix --split selection --out {folder}"
            ) from error
    if not (folder / CELLS_FILE).is_file():
        raise CrosstaskError(f"{folder} has no {CELLS_FILE}; run experiments.transfer_matrix to its end first")
    if found.get("split") != "selection":
        raise CrosstaskError(
            f"the matrix in {folder} was measured on {found.get('split')} items; data chosen by the items that are "
            "then scored would look too good, so measure one with --split selection"
        )
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return Matrix(MatrixSettings(**given), pd.read_csv(folder / CELLS_FILE), folder)


def factors(matrix: Matrix, target: str) -> dict[str, float]:
    """Mean factor of each source for a target, the highest first; the target and control sources are left out.

    Raises:
        CrosstaskError: the target was not tested on, or the frozen model has no room on it.
    """
    cells = matrix.cells
    here = cells[cells["target"] == task_of(target)]
    if form_of(target) is not None:
        here = here[here["form"] == form_of(target)]
    if here.empty:
        known = ", ".join(dict.fromkeys(cells["target"]))
        raise CrosstaskError(f"the matrix in {matrix.folder} has no target {target!r}; it has {known}")
    base = here.loc[here["source"] == BASELINE, "accuracy"].mean()
    if not base < 1:
        raise CrosstaskError(f"the frozen model is right on every item of {target!r}, so no source can help it")
    last = here[here["fraction"] == here.loc[here["source"] != BASELINE, "fraction"].max()]
    rows = last[~last["source"].isin([BASELINE, *CONTROLS])]
    mean = ((rows["accuracy"] - base) / (1 - base)).groupby(rows["source"]).mean()
    mean = mean[[task_of(source) != task_of(target) for source in mean.index]]
    return {str(source): float(value) for source, value in mean.sort_values(ascending=False, kind="stable").items()}


def arms(
    ranked: Mapping[str, float], target: str, *, sources: int, draws: int, weights: Weights = "equal", seed: int = 0
) -> tuple[Arm, ...]:
    """What is compared for a target.

    Args:
        ranked: factor of each candidate, see :func:`factors`.
        target: the target.
        sources: how many are mixed.
        draws: random mixtures; fewer where there are not so many others.
        weights: shares of the guided mixture: equal, or in proportion to the factors.
        seed: of the random mixtures.

    Raises:
        CrosstaskError: there are too few candidates, or none with a positive factor.
    """
    if not 1 <= sources < len(ranked):
        raise CrosstaskError(
            f"a mixture of {sources} sources cannot be chosen for {target!r} among {len(ranked)} candidates; expected "
            f"1 to {len(ranked) - 1}"
        )
    best = [source for source in sorted(ranked, key=lambda name: -ranked[name]) if ranked[source] > 0][:sources]
    if not best:
        raise CrosstaskError(f"no source has a positive factor for {target!r}, so there is nothing to select")
    total = sum(ranked[source] for source in best)
    shares = {source: ranked[source] / total if weights == "pgf" else 1 / len(best) for source in best}
    others = [mix for mix in itertools.combinations(sorted(ranked), len(best)) if set(mix) != set(best)]
    order = generator("random mixtures", target, seed).permutation(len(others))[:draws]
    drawn = [Arm(f"{RANDOM}{n + 1}", {name: 1 / len(best) for name in others[i]}) for n, i in enumerate(order)]
    return (Arm(GUIDED, shares), *drawn, Arm(DIRECT, {target: 1.0}))


def make_jobs(settings: SelectionSettings) -> list[Job]:
    """Trainings on each arm's mixture, and evaluations of all arms of a target together on test items."""
    matrix, jobs = settings.matrix, []
    shared = {"model": matrix.model, "loading": dict(matrix.loading), "size": matrix.size}
    for target, found in settings.arms.items():
        tested = {
            **shared,
            "target": target,
            "items": settings.items,
            "split": "test",
            "data_seed": matrix.data_seed,
            "difficulty": matrix.difficulties.get(task_of(target), DIFFICULTY),
            "wording": matrix.wording,
            "sha256": matrix.files.get(target),
            **scored(matrix),
        }
        place = plain(target)
        for seed in settings.seeds:
            for arm in found:
                mixed = {
                    **shared,
                    "source": arm.name,
                    "shares": dict(arm.shares),
                    "difficulties": {name: matrix.difficulties.get(task_of(name), DIFFICULTY) for name in arm.shares},
                    "difficulty": DIFFICULTY,
                    "wording": matrix.wording,
                    "seed": seed,
                    "training": dict(matrix.training),
                    "fraction": 1.0,
                    "checkpoints": [1.0],
                }
                jobs.append(Job("train", f"train/{place}/{arm.name}/seed{seed}", mixed))
            variants = tuple(Variant(arm.name, seed) for arm in found)
            trainings = tuple(f"train/{place}/{arm.name}/seed{seed}" for arm in found)
            jobs.append(Job("evaluate", f"evaluate/{place}/seed{seed}", tested, variants, trainings))
        jobs.append(Job("evaluate", f"evaluate/{place}/{BASELINE}", tested, (Variant(),), (None,)))
    return jobs


def counts(shares: Mapping[str, float], n: int) -> dict[str, int]:
    """Whole numbers of examples in the given shares that add up to n: largest remainders, the earlier first."""
    exact = np.array([share * n for share in shares.values()]) / sum(shares.values())
    whole = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: n - whole.sum()]] += 1
    return dict(zip(shares, whole.tolist(), strict=True))


def sources_of(arm: Arm) -> str:
    """An arm's sources and shares in one line."""
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in arm.shares.items())
