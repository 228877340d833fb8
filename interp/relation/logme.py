"""LogME: how well a Bayesian linear head on frozen features explains a target's labels, without training it.

    log p(y | F, a, b) = n/2 log b + D/2 log a - n/2 log 2 pi - b/2 |F m - y|^2 - a/2 m'm - 1/2 log |A|
    A = a I + b F'F,   m = b A^-1 F'y

is maximised over the prior's precision a and the noise's precision b by MacKay's fixed point

    gamma = sum_d b s_d / (a + b s_d),   a = gamma / m'm,   b = (n - gamma) / |F m - y|^2

with s the eigenvalues of F'F, so that one singular value decomposition serves all iterations and classes. LogME is the
maximum over n, mean over classes (one against the rest) or columns.

You, Liu, Wang & Long (2021), section 4. Features are those of the source's model on the target's items.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from interp.errors import CrosstaskError

_ITERATIONS = 1000
_CLOSE = 1e-9
_LIMIT = 1e12
"""Of a / b beside the largest eigenvalue, and of that beside a / b. Where features say nothing of the labels the
maximum lies at infinity, and where as many features as items explain all of them it can lie at 0 (no noise); the
evidence is flat by then."""


def logme(features: Float[np.ndarray, "n D"], labels: Shaped[np.ndarray, " n"]) -> float:
    """LogME of features for labels, in nats an item.

    Args:
        features: of the items.
        labels: classes (whole numbers, words or booleans), or real numbers to be regressed on.

    Raises:
        CrosstaskError: the two do not match, a feature is not finite, or there is a single class.
    """
    inputs = np.asarray(features, dtype=float)
    given = np.asarray(labels)
    if inputs.ndim != 2 or given.ndim != 1 or len(inputs) != len(given) or len(given) < 2:
        raise CrosstaskError(
            f"LogME needs features (items x width) and a label for each item; got shapes {inputs.shape} and "
            f"{given.shape}."
        )
    if not np.isfinite(inputs).all():
        raise CrosstaskError("LogME needs finite features; a feature is NaN or infinite.")
    u, sizes, _ = np.linalg.svd(inputs, full_matrices=False)
    return float(np.mean([_evidence(u, sizes**2, y, inputs.shape[1]) for y in _columns(given)]))


def logme_table(
    features: Mapping[tuple[str, str], Float[np.ndarray, "n D"]], labels: Mapping[str, Shaped[np.ndarray, " n"]]
) -> pd.DataFrame:
    """LogME of every source for every target, in the long form that `relate` reads.

    Args:
        features: (source, target) -> features of the source's model on the target's items.
        labels: target -> its labels.

    Raises:
        CrosstaskError: a target has no labels.
    """
    for _, target in features:
        if target not in labels:
            raise CrosstaskError(f"There are features of the target {target!r} and no labels; expected both.")
    rows = [(source, target, logme(found, labels[target])) for (source, target), found in features.items()]
    return pd.DataFrame(rows, columns=["source", "target", "value"]).assign(measure="logme", layer="all")


def _columns(labels: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "C n"]:
    """One column of real labels, or one of 0 and 1 for each class."""
    if labels.dtype.kind == "f":
        return labels[None].astype(float)
    classes = np.unique(labels)
    if len(classes) < 2:
        raise CrosstaskError(f"LogME needs two classes or more; all labels are {labels[0]!r}.")
    return (labels[None] == classes[:, None]).astype(float)


def _evidence(
    u: Float[np.ndarray, "n r"], eigenvalues: Float[np.ndarray, " r"], y: Float[np.ndarray, " n"], width: int
) -> float:
    """The largest log evidence over n."""
    n = len(y)
    along = (u.T @ y) ** 2  # of y in the directions of the features
    beyond = max(float(y @ y - along.sum()), 0.0)
    largest = float(eigenvalues.max()) or 1.0
    lowest, highest = largest / _LIMIT, largest * _LIMIT
    alpha, beta = largest, 1.0
    for _ in range(_ITERATIONS):
        ratio = alpha / beta
        gamma = float((eigenvalues / (eigenvalues + ratio)).sum())
        left = n - len(eigenvalues) + float((ratio / (eigenvalues + ratio)).sum())  # n - gamma, without cancellation
        weights, error = _fit(eigenvalues, along, beyond, ratio)
        if gamma * error < lowest * left * weights:  # no noise is left to speak of
            new_alpha = n / (weights + error / lowest)
            new_beta = new_alpha / lowest
        else:
            new_beta = left / max(error, 1e-300)
            new_alpha = min(max(gamma / max(weights, 1e-300), lowest * new_beta), highest * new_beta)
        done = abs(np.log(new_alpha / alpha)) + abs(np.log(new_beta / beta)) < _CLOSE
        alpha, beta = new_alpha, new_beta
        if done:
            break
    weights, error = _fit(eigenvalues, along, beyond, alpha / beta)
    determinant = np.log(alpha + beta * eigenvalues).sum() + (width - len(eigenvalues)) * np.log(alpha)
    value = n * np.log(beta) + width * np.log(alpha) - n * np.log(2 * np.pi) - beta * error - alpha * weights
    return float((value - determinant) / 2 / n)


def _fit(
    eigenvalues: Float[np.ndarray, " r"], along: Float[np.ndarray, " r"], beyond: float, ratio: float
) -> tuple[float, float]:
    """m'm and the squared error of the head at a / b = ratio."""
    weights = (eigenvalues * along / (eigenvalues + ratio) ** 2).sum()
    error = ((ratio / (eigenvalues + ratio)) ** 2 * along).sum() + beyond
    return float(weights), float(error)
