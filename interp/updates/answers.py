"""LogME of tuned states: how well what an update makes of a target's prompts explains the answers, before any transfer.

Features are the residual stream after the last block at the end of each prompt, labels the letters of the right answers
(:mod:`interp.relation.logme`). It costs the same passes as the change of states does, and is a baseline of prediction:
it knows the target's labels and nothing of its transfer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.relation.logme import logme_table
from interp.updates.states import States

LETTER = re.compile(r"\([A-H]\)")


class LastStates:
    """States that remember those after the last block, of every update that was asked for.

    Attributes:
        last: name of an update -> states `[N, D]`.
    """

    def __init__(self, states: States) -> None:
        """Wrap states."""
        self._states = states
        self.last: dict[str, Float[np.ndarray, "N D"]] = {}

    def __call__(self, name: str | None) -> Float[np.ndarray, "N L D"]:
        found = self._states(name)
        if name is not None:
            self.last[name] = found[:, -1].astype(np.float32)
        return found


def answer_logme(
    last: Mapping[str, Float[np.ndarray, "N D"]],
    sources: Mapping[str, str],
    targets: Sequence[str],
    answers: Sequence[str],
) -> pd.DataFrame:
    """LogME of every source for every target, in the long form that `relate` reads: the mean over a source's updates.

    Args:
        last: name of an update -> states of the same N prompts.
        sources: name of an update -> its task.
        targets: task of each prompt.
        answers: right answer of each prompt. Targets whose answers are no letters in brackets, or all the same letter,
            are left out.

    Raises:
        CrosstaskError: an update has other prompts.
    """
    rows = {task: np.array([i for i, one in enumerate(targets) if one == task]) for task in dict.fromkeys(targets)}
    labels = {task: np.array([answers[i] for i in found]) for task, found in rows.items()}
    labels = {
        task: found
        for task, found in labels.items()
        if len(set(found)) > 1 and all(LETTER.fullmatch(answer) for answer in found)
    }
    parts = []
    for name, states in last.items():
        if len(states) != len(targets):
            raise CrosstaskError(f"update {name!r} has states of {len(states)} prompts, and {len(targets)} were asked")
        parts.append(logme_table({(sources[name], task): states[rows[task]] for task in labels}, labels))
    columns = ["measure", "layer", "source", "target"]
    if not parts:
        return pd.DataFrame(columns=[*columns, "value"])
    return pd.concat(parts).groupby(columns, sort=False, as_index=False)["value"].mean()
