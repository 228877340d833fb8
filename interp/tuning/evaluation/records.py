"""One row for each item: what was answered, how sure, and how far from the key.

Forced choice gives for each cyclic shift k a distribution over the letters; option p stands at letter (p + k) mod n.
Averaged over the shifts,

    p(o) = 1/n sum_k p_k(letter (o + k) mod n)

a preference for a letter adds the same to every option, and what is left is the preference for the option (the
permutation average of Zheng et al. 2024, "Large language models are not robust multiple choice selectors"). From p come
prediction, log p(key), the Brier score sum_o (p(o) - 1[o = key])^2 (0 to 2) and the entropy in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.tasks.perception.items import LETTERS

LEAST_LOG_P = -100.0
"""In place of the logarithm of a probability that is 0 in floating point."""


@dataclass(frozen=True)
class Record:
    """What a model did on one item.

    Attributes:
        item: name of the item.
        key: right letter (of the item as it is, without a shift); empty where the answer is a number or a text.
        prediction: predicted letter; "Z" where a generated answer names none; the text of a predicted number.
        correct: 1 or 0, or for a number its mean relative accuracy.
        log_p_key: log p(key), natural logarithm; None for generated answers.
        brier: Brier score; None for generated answers.
        entropy: of the distribution over the options, in nats; None for generated answers.
        rule: what found the prediction in a generated answer; empty for forced choice.
        plain_prediction: predicted letter of the item without a shift.
        plain_correct: whether that is right.
        letters: mean probability of each letter over the shifts, which is the model's preference for letters.
        mass: probability of the option letters among all tokens, mean over the shifts: low where a model would have
            answered otherwise.
        reply: the generated answer.
        exact: by BLINK's own scorer, for generated answers.
    """

    item: str
    key: str
    prediction: str
    correct: float
    log_p_key: float | None = None
    brier: float | None = None
    entropy: float | None = None
    rule: str = ""
    plain_prediction: str = ""
    plain_correct: float | None = None
    letters: tuple[float, ...] = ()
    mass: float | None = None
    reply: str = ""
    exact: float | None = None

    def row(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"letters": list(self.letters)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Record:
        """From JSON values."""
        return cls(**{**row, "letters": tuple(row["letters"])})


def option_probabilities(shifts: Float[np.ndarray, "shifts n"]) -> Float[np.ndarray, " n"]:
    """Mean probability of each option.

    Args:
        shifts: row k holds the distribution over the letters when the options are moved on by k.
    """
    n = shifts.shape[1]
    return np.mean([np.roll(row, -k) for k, row in enumerate(shifts)], axis=0) if n else shifts.mean(0)


def choice_record(
    item: str,
    key: int,
    shifts: Float[np.ndarray, "shifts n"],
    *,
    mass: Sequence[float] = (),
) -> Record:
    """The record of a forced choice.

    Args:
        item: name of the item.
        key: index of the right option.
        shifts: a distribution over the n letters for each shift, beginning with the item as it is.
        mass: for each shift the probability of the letters among all tokens.

    Raises:
        CrosstaskError: a value is not a number, as from a model whose weights have diverged.
    """
    if not np.isfinite(shifts).all():
        raise CrosstaskError(f"item {item!r} has letter probabilities that are no numbers: the model has diverged")
    p = option_probabilities(shifts)
    truth = np.eye(len(p))[key]
    chosen, plain = int(np.argmax(p)), int(np.argmax(shifts[0]))
    logs = np.log(np.clip(p, np.exp(LEAST_LOG_P), None))
    return Record(
        item=item,
        key=LETTERS[key],
        prediction=LETTERS[chosen],
        correct=float(chosen == key),
        log_p_key=float(logs[key]),
        brier=float(((p - truth) ** 2).sum()),
        entropy=float(-(p * logs).sum()),
        plain_prediction=LETTERS[plain],
        plain_correct=float(plain == key),
        letters=tuple(float(share) for share in shifts.mean(0)),
        mass=float(np.mean(mass)) if len(mass) else None,
    )
