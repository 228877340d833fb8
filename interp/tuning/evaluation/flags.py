"""Cells whose accuracy is that of a constant answer, and what else a cell's accuracy does not show.

A model that always answers (A) is right as often as (A) is the key. In the published 3B matrix 36 of 52 cells of
Multi-view Reasoning have exactly 59 of 133 right, the number of its items whose key is (A). Both flags look at the
items as they are, without shifts, since averaging over the shifts removes the preference for a letter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.errors import CrosstaskError
from interp.transfer.tables import CONSTANT_SHARE
from interp.tuning.evaluation.records import Record


@dataclass(frozen=True)
class CellSummary:
    """A model on one target.

    Attributes:
        n: items.
        accuracy: mean of `correct`: over the shifts for forced choice.
        plain_accuracy: of the items without shifts; NaN where there are no letters.
        mean_log_p: mean log p(key); NaN for generated answers.
        brier: mean Brier score; NaN for generated answers.
        entropy: mean entropy in nats; NaN for generated answers.
        mass: mean probability of the letters among all tokens; NaN for generated answers.
        exact_accuracy: by BLINK's own scorer; NaN for forced choice.
        constant_letter: the letter that more than 90 % of the predictions are, or empty.
        equals_key_count: letters, joined by +, whose number of keys is the number of right answers, or empty.
        recall_sd: standard deviation of the recall of each letter (RStd); NaN for one letter.
    """

    n: int
    accuracy: float
    plain_accuracy: float
    mean_log_p: float
    brier: float
    entropy: float
    mass: float
    exact_accuracy: float
    constant_letter: str
    equals_key_count: str
    recall_sd: float


def constant_letter(predictions: Sequence[str], *, share: float = CONSTANT_SHARE) -> str:
    """The letter that more than this share of the predictions are, or empty."""
    if not predictions:
        return ""
    letter, count = Counter(predictions).most_common(1)[0]
    return letter if count > share * len(predictions) else ""


def equals_key_count(keys: Sequence[str], right: int) -> str:
    """Letters, joined by +, whose number of keys is the number of right answers, or empty."""
    return "+".join(letter for letter, count in sorted(Counter(keys).items()) if count == right)


def summarise(records: Sequence[Record]) -> CellSummary:
    """A cell of the matrix from its items.

    Raises:
        CrosstaskError: there are none, or two of one name.
    """
    if not records:
        raise CrosstaskError("a cell needs at least one item")
    names = Counter(record.item for record in records)
    (name, count), *_ = names.most_common(1)
    if count > 1:
        raise CrosstaskError(f"item {name!r} was answered {count} times in one cell")
    lettered = [record for record in records if record.key]
    plain = [(r.plain_prediction or r.prediction, r.key) for r in lettered]
    right = sum(predicted == key for predicted, key in plain)
    return CellSummary(
        n=len(records),
        accuracy=_mean([record.correct for record in records]),
        plain_accuracy=right / len(plain) if plain else float("nan"),
        mean_log_p=_mean([record.log_p_key for record in records]),
        brier=_mean([record.brier for record in records]),
        entropy=_mean([record.entropy for record in records]),
        mass=_mean([record.mass for record in records]),
        exact_accuracy=_mean([record.exact for record in records]),
        constant_letter=constant_letter([predicted for predicted, _ in plain]),
        equals_key_count=equals_key_count([key for _, key in plain], right) if plain else "",
        recall_sd=_recall_sd(plain),
    )


def _mean(values: Sequence[float | None]) -> float:
    """NaN unless there is a value for every item."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found and len(found) == len(values) else float("nan")


def _recall_sd(pairs: Sequence[tuple[str, str]]) -> float:
    keys = sorted({key for _, key in pairs})
    recalls = [np.mean([predicted == key for predicted, key in pairs if key == letter]) for letter in keys]
    return float(np.std(recalls)) if len(recalls) > 1 else float("nan")
