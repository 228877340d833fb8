"""How far gradients point the same way, from their inner products G alone.

The paper (Zhou et al. 2026, supplement, figure A) plots the cosine of each update to "the dominant direction" and does
not define it. Two definitions that it may be, and a third that is about tasks:

    mean        cos(g_i, sum_{j != i} g_j). The gradient itself is left out: with it, n unrelated gradients would score
                1 / sqrt(n).
    principal   cos(g_i, v), v the first right-singular vector of the stacked gradients: with G u = lambda u,
                <g_i, v> = sqrt(lambda) u_i. v has no sign of its own; it is the one of <v, sum_j g_j> > 0. The
                gradient itself is in v, so unrelated gradients score above 0.
    others      cos(g_i, sum over the micro-batches j of other tasks of g_j): what the other tasks would do about it.

Chance: every gradient keeps its direction but for its sign, which is drawn at random. Nothing is common then, and norms
and whatever else n and G decide stay. A pair's cosine is negative half of the time.

Conflict is PCGrad's (Yu et al. 2020): P(cos(g_i, g_j) < 0) over pairs of micro-batches of two tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import CrosstaskError
from interp.statistics import Interval, bootstrap_mean

Definition: TypeAlias = Literal["mean", "principal", "others"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)
DRAWS = 500
"""Draws of signs behind the chance level, and resamples behind intervals of pairs."""


@dataclass(frozen=True)
class Aligned:
    """Cosines to a dominant direction.

    Attributes:
        cosines: of every gradient.
        mean: with its bootstrap interval over micro-batches; the direction is held fixed.
        std: standard deviation over micro-batches.
        chance: mean under random signs.
        chance_high: its 95th percentile.
        p_value: share of draws of signs that reach the mean, the mean itself among them.
    """

    cosines: Float[np.ndarray, " n"]
    mean: Interval
    std: float
    chance: float
    chance_high: float
    p_value: float


def unit(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Inner products of the gradients at length 1: their cosines."""
    size = np.sqrt(np.diag(gram))
    return gram / size[:, None] / size


def aligned(
    gram: Float[np.ndarray, "n n"], tasks: Sequence[str], definition: Definition, *, draws: int = DRAWS, seed: int = 0
) -> Aligned:
    """Cosines of all gradients to the dominant direction.

    Args:
        gram: inner products of n gradients.
        tasks: of each.
        definition: of the direction; see the module.
        draws: of signs, for the chance level.
        seed: of the draws and of the bootstrap.

    Raises:
        CrosstaskError: there are not as many tasks as gradients; or with `others`, one task alone.
    """
    n = len(gram)
    if len(tasks) != n:
        raise CrosstaskError(f"{n} gradients of {len(tasks)} tasks; expected the task of each")
    if definition == "others" and len(set(tasks)) < 2:
        raise CrosstaskError(f"every gradient is of task {tasks[0]!r}; 'others' needs a second task")
    found = _ways(gram, tasks)[definition](np.ones((1, n)))[0]
    signs = np.random.default_rng([seed, n]).choice([-1.0, 1.0], size=(draws, n))
    null = _ways(gram, tasks)[definition](signs).mean(axis=1)
    mean = bootstrap_mean(found, seed=seed)
    reached = int((null >= mean.value - 1e-12).sum())
    return Aligned(
        found, mean, float(found.std(ddof=1)), float(null.mean()), float(np.quantile(null, 0.95)),
        (reached + 1) / (draws + 1),
    )  # fmt: skip


def _ways(
    gram: Float[np.ndarray, "n n"], tasks: Sequence[str]
) -> dict[Definition, Callable[[Float[np.ndarray, "R n"]], Float[np.ndarray, "R n"]]]:
    """For each definition a function from R draws of signs to the cosines."""
    codes = np.unique(list(tasks), return_inverse=True)[1]
    return {
        "mean": lambda signs: np.stack([_to_rest(gram * np.outer(s, s), np.arange(len(gram))) for s in signs]),
        "others": lambda signs: np.stack([_to_rest(gram * np.outer(s, s), codes) for s in signs]),
        "principal": lambda signs: _principal(gram, signs),
    }


def _to_rest(gram: Float[np.ndarray, "n n"], groups: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Cosine of each gradient with the sum of those of other groups: <g_i, T - T_g> / |g_i| |T - T_g|."""
    alone = np.array_equal(groups, np.arange(len(gram)))
    to_groups = gram if alone else gram @ np.eye(groups.max() + 1)[groups]  # <g_i, T_g>
    sums = gram if alone else np.eye(groups.max() + 1)[groups].T @ to_groups  # <T_g, T_h>
    own = to_groups[np.arange(len(gram)), groups]
    length = np.sqrt(np.maximum(sums.sum() - 2 * sums.sum(axis=1) + np.diag(sums), 0))[groups]
    return (to_groups.sum(axis=1) - own) / np.maximum(length * np.sqrt(np.diag(gram)), np.finfo(float).tiny)


def _principal(gram: Float[np.ndarray, "n n"], signs: Float[np.ndarray, "R n"]) -> Float[np.ndarray, "R n"]:
    """Cosines with the first right-singular vector. Signs of gradients change its sign and no more."""
    values, vectors = np.linalg.eigh(gram)
    along = np.sqrt(max(values[-1], 0.0)) * vectors[:, -1] * signs  # <s_i g_i, v>
    turned = np.sign(along.sum(axis=1, keepdims=True))
    return along * np.where(turned == 0, 1.0, turned) / np.sqrt(np.diag(gram))


@dataclass(frozen=True)
class Pairs:
    """Pairs of micro-batches of some tasks.

    Attributes:
        cosine: mean cosine, with its bootstrap interval over the micro-batches of each task.
        rate: share of negative cosines, likewise; 0.5 by chance.
    """

    cosine: Interval
    rate: Interval


def between(gram: Float[np.ndarray, "n n"], tasks: Sequence[str], *, seed: int = 0) -> Pairs:
    """All pairs of micro-batches of different tasks."""
    codes = np.unique(list(tasks), return_inverse=True)[1]
    return _pairs(gram, codes, codes[:, None] != codes, seed)


def within(gram: Float[np.ndarray, "n n"], tasks: Sequence[str], *, seed: int = 0) -> Pairs:
    """All pairs of two micro-batches of one task: what noise leaves of a task's own direction."""
    codes = np.unique(list(tasks), return_inverse=True)[1]
    return _pairs(gram, codes, (codes[:, None] == codes) & ~np.eye(len(codes), dtype=bool), seed)


def pair(gram: Float[np.ndarray, "n n"], tasks: Sequence[str], a: str, b: str, *, seed: int = 0) -> Pairs:
    """All pairs of a micro-batch of task a and one of task b; with a = b, of two different ones."""
    if a == b:
        rows = np.flatnonzero(np.asarray(tasks) == a)
        return within(gram[np.ix_(rows, rows)], [a] * len(rows), seed=seed)
    rows = np.flatnonzero(np.isin(tasks, [a, b]))
    return between(gram[np.ix_(rows, rows)], [tasks[int(row)] for row in rows], seed=seed)


def mean_cosine(gram: Float[np.ndarray, "n n"], tasks: Sequence[str], a: str, b: str) -> float:
    """Cosine of the mean gradients of two tasks, in which the noise of single micro-batches is averaged away."""
    one, other = (np.asarray(tasks) == task for task in (a, b))
    sums = [gram[np.ix_(x, y)].sum() for x, y in ((one, other), (one, one), (other, other))]
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def _pairs(
    gram: Float[np.ndarray, "n n"], codes: Int[np.ndarray, " n"], counted: Bool[np.ndarray, "n n"], seed: int
) -> Pairs:
    """Means over counted pairs; resamples draw the micro-batches of each task, and pairs with them."""
    if not counted.any():
        raise CrosstaskError("there is no pair of micro-batches to compare; use two or more of each task")
    cosines = unit(gram)
    rng = np.random.default_rng([seed, len(codes)])
    weights = np.zeros((DRAWS, len(codes)))
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=DRAWS)
    # Copies of one micro-batch make no pair, so a resample counts pairs of different micro-batches alone.
    totals = np.einsum("ri,ij,rj->r", weights, counted.astype(float), weights)
    found = []
    for values in (cosines, (cosines < 0).astype(float)):
        drawn = np.einsum("ri,ij,rj->r", weights, values * counted, weights)[totals > 0] / totals[totals > 0]
        low, high = np.quantile(drawn, [0.025, 0.975])
        found.append(Interval(float(values[counted].mean()), float(low), float(high)))
    return Pairs(*found)
