"""How good a ranking of sources is for a target: Spearman's correlation, NDCG, and the regret of the best three.

Ties in the scores count as what breaking them at random gives on average; a predictor that cannot tell sources apart
therefore gets exactly the value of a random order.
"""

from __future__ import annotations

from math import comb

import numpy as np
from jaxtyping import Float
from scipy import stats

METRICS = ("spearman", "ndcg", "regret")
TOP = 3


def ranking_scores(
    truth: Float[np.ndarray, " n"], scores: Float[np.ndarray, " n"], *, top: int = TOP
) -> Float[np.ndarray, " 3"]:
    """METRICS of a ranking.

    Args:
        truth: measured transfer from each source.
        scores: predicted, in any unit.
        top: how many sources are tried for the regret.
    """
    return np.array([spearman(truth, scores), ndcg(truth, scores), regret(truth, scores, top=top)])


def spearman(truth: Float[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> float:
    """Spearman's correlation; 0 where the scores are all alike, NaN where the truth is."""
    if np.ptp(truth) == 0:
        return np.nan
    return float(stats.spearmanr(truth, scores).statistic) if np.ptp(scores) > 0 else 0.0


def ndcg(truth: Float[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> float:
    """Normalised discounted cumulative gain; the gain of a source is its transfer above the worst source's.

    1 for the best order. A random one is far from 0: compare with that.
    """
    from sklearn.metrics import ndcg_score

    gains = truth - truth.min()
    return float(ndcg_score(gains[None], scores[None])) if gains.any() else np.nan


def regret(truth: Float[np.ndarray, " n"], scores: Float[np.ndarray, " n"], *, top: int = TOP) -> float:
    """How much less the best of the first `top` sources transfers than the best of all, in the unit of the truth."""
    top = min(top, len(truth))
    least = np.sort(scores)[-top]
    sure, tied = truth[scores > least], np.sort(truth[scores == least])[::-1]
    drawn, ways = top - len(sure), comb(len(tied), top - len(sure))
    held = sure.max() if len(sure) else -np.inf
    # the best of the tied that are drawn is the k-th best with this probability
    chances = np.array([comb(len(tied) - 1 - k, drawn - 1) / ways for k in range(len(tied))])
    return float(truth.max() - (chances * np.maximum(tied, held)).sum())
