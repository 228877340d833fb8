"""Which sources will help a target, said before any of them is trained on for it.

Every predictor ranks the other tasks as sources for a target, without a look at the target's column; the ranking is
scored by `interp.relation.ranking`, and the mean over targets gets an interval that resamples targets.

    target mean     the same for all sources of a target, and so a random order
    source mean     what the source does for the other targets (their means removed)
    same format     sources with the target's answer format first
    a similarity    of source and target; of several layers their mean, so that none was chosen
    ridge           a combination of similarities, fitted to the other targets: leave-one-task-out, the held-out task
                    neither as target nor as source; target means removed, since a ranking has none; penalty by
                    efficient leave-one-out within the other targets
    other runs      the ranking that half of the runs give for the other half: what noise allows

A measure whose name begins with logme (You et al. 2021, see `interp.relation.logme`) is a baseline, and in no ridge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.relation.ranking import METRICS, ranking_scores
from interp.statistics import bootstrap_means, percentiles
from interp.transfer.cliques import off_diagonal

BASELINE, SIMILARITY, COMBINATION, CEILING = "baseline", "similarity", "combination", "ceiling"
TARGET_MEAN, SOURCE_MEAN, SAME_FORMAT, OTHER_RUNS = "target mean", "source mean", "same format", "other runs"
LOGME = "logme"
"""Beginning of the name of measures that are baselines."""
_RESAMPLES = 5000
_PENALTIES = tuple(10.0**power for power in range(-2, 5))


@dataclass(frozen=True, eq=False)
class Predictor:
    """Scores of sources for targets.

    Attributes:
        name: of the predictor.
        kind: baseline, similarity, combination or ceiling.
        scores: rows sources, columns targets; only the order within a column matters.
        made_of: similarities that it uses.
    """

    name: str
    kind: str
    scores: Float[np.ndarray, "K K"]
    made_of: tuple[str, ...] = ()


def baselines(transfer: Float[np.ndarray, "K K"], same_format: Float[np.ndarray, "K K"] | None) -> list[Predictor]:
    """What is known without any similarity."""
    side = len(transfer)
    means = np.column_stack([source_means(transfer, held_out=target)[:, target] for target in range(side)])
    found = [Predictor(TARGET_MEAN, BASELINE, np.zeros((side, side))), Predictor(SOURCE_MEAN, BASELINE, means)]
    return found + ([Predictor(SAME_FORMAT, BASELINE, same_format)] if same_format is not None else [])


def source_means(transfer: Float[np.ndarray, "K K"], *, held_out: int) -> Float[np.ndarray, "K K"]:
    """[i, j]: mean transfer from i, less each target's mean, over targets other than i, j and the held-out task."""
    side = len(transfer)
    known = off_diagonal(side)
    known[held_out] = known[:, held_out] = False
    values = np.where(known, transfer, 0.0)
    counts = np.maximum(known.sum(0), 1)
    left = np.where(known, transfer - values.sum(0) / counts, 0.0)
    total, number = left.sum(1, keepdims=True) - left, known.sum(1, keepdims=True) - known
    return total / np.maximum(number, 1)


def ridge(
    features: Mapping[str, Float[np.ndarray, "K K"]],
    transfer: Float[np.ndarray, "K K"],
    *,
    name: str,
    with_source_mean: bool = False,
) -> Predictor:
    """A combination of similarities by ridge regression, leave-one-task-out.

    Args:
        features: name -> matrix.
        transfer: what is predicted; column j is not used for the scores in column j, nor is row j.
        name: of the predictor.
        with_source_mean: whether the source mean is a feature too.
    """
    from sklearn.linear_model import RidgeCV

    side = len(transfer)
    scores = np.zeros((side, side))
    for target in range(side):
        stack = [*features.values()] + ([source_means(transfer, held_out=target)] if with_source_mean else [])
        others = [task for task in range(side) if task != target]
        inputs, outputs = [], []
        for other in others:
            sources = [task for task in others if task != other]
            x = np.array([matrix[sources, other] for matrix in stack]).T
            inputs.append(x - x.mean(0))
            outputs.append(transfer[sources, other] - transfer[sources, other].mean())
        x, y = np.concatenate(inputs), np.concatenate(outputs)
        spread = x.std(0)
        spread[spread < 1e-12] = 1.0
        model = RidgeCV(alphas=_PENALTIES, fit_intercept=False).fit(x / spread, y)
        scores[:, target] = np.array([matrix[:, target] for matrix in stack]).T / spread @ model.coef_
    return Predictor(name, COMBINATION, scores, tuple(features) + ((SOURCE_MEAN,) if with_source_mean else ()))


def by_target(transfer: Float[np.ndarray, "K K"], scores: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K 3"]:
    """METRICS of each target's ranking of the other tasks."""
    side = len(transfer)
    rows = [np.delete(np.arange(side), target) for target in range(side)]
    return np.array([ranking_scores(transfer[r, j], scores[r, j]) for j, r in enumerate(rows)])


def run_ceiling(runs: Float[np.ndarray, "S K K"]) -> Float[np.ndarray, "K 3"] | None:
    """METRICS of each target's ranking by half of the runs, for the other half: mean over halves; None of one run."""
    n = len(runs)
    if n < 2:
        return None
    found = []
    for half in combinations(range(n), n // 2):
        other = [run for run in range(n) if run not in half]
        found.append(by_target(runs[other].mean(0), runs[list(half)].mean(0)))
    return np.mean(found, axis=0)


def prediction_tables(
    predictors: Sequence[Predictor], runs: Float[np.ndarray, "S K K"], *, tasks: Sequence[str], seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How good the rankings of predictors are.

    Args:
        predictors: with the baselines among them.
        runs: transfer of every run.
        tasks: names.
        seed: of the resampling of targets.

    Returns:
        Means over targets: predictor, kind, made_of, metric, value, low, high (95 %), random (the value of a random
        order), minus_source_mean, minus_low, minus_high (paired by target; of regret less is better), targets (those
        that sources differ for). And a row for each predictor and target: predictor, target, and METRICS.
    """
    transfer = runs.mean(0)
    every = [(p.name, p.kind, ", ".join(p.made_of), by_target(transfer, p.scores)) for p in predictors]
    ceiling = run_ceiling(runs)
    if ceiling is not None:
        every.append((OTHER_RUNS, CEILING, "", ceiling))
    names = [name for name, *_ in every]
    values = np.array([found for *_, found in every])  # predictors, targets, metrics
    # Where all sources do alike there is nothing to rank; in half of the runs that is so for more targets.
    known = ~np.isnan(values).any(2)
    rows = []
    for mask in np.unique(known[known.any(1)], axis=0)[::-1]:
        among = values[:, mask]
        against = among - among[names.index(SOURCE_MEAN)]
        members = np.flatnonzero((known == mask).all(1))
        drawn = bootstrap_means(
            np.moveaxis(np.stack([among, against])[:, members], 2, 0), resamples=_RESAMPLES, seed=seed
        )
        low, high = percentiles(drawn)
        random = among[names.index(TARGET_MEAN)].mean(0)
        rows += [
            dict(zip(("predictor", "kind", "made_of"), every[p][:3], strict=True))
            | {"metric": metric, "value": among[p, :, m].mean(), "low": low[0, at, m], "high": high[0, at, m]}
            | {"random": random[m], "minus_source_mean": against[p, :, m].mean()}
            | {"minus_low": low[1, at, m], "minus_high": high[1, at, m], "targets": int(mask.sum())}
            for at, p in enumerate(members)
            for m, metric in enumerate(METRICS)
        ]
    rows.sort(key=lambda row: names.index(str(row["predictor"])))
    each = [
        {"predictor": name, "target": task} | dict(zip(METRICS, found[j].tolist(), strict=True))
        for name, _, _, found in every
        for j, task in enumerate(tasks)
    ]
    return pd.DataFrame(rows), pd.DataFrame(each)
