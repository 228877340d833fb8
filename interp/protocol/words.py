"""Tables of decoded task vectors, from the journal of :class:`interp.protocol.vocabulary.DecodeWork`.

tokens    one row per task, vector, control, layer and place: the most probable tokens with their probabilities
ranks     one row per task, vector, control, set of tokens and layer: its rank with interval, and what that is over
words     the tokens of each task's words, and whether a token is a whole word or the first of several
summary   ranks over tasks at a few layers fixed by the number of blocks, beside their controls
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.lens import is_word, spell
from interp.protocol.vocabulary import ANSWERS, OTHERS, RANDOM, WORDS, DecodeWork
from interp.tasks import Task


def tables(work: DecodeWork) -> dict[str, pd.DataFrame]:
    """All tables by name."""
    tokens: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for task in work.tasks:
        for vector in work.settings.vectors:
            record = work.record(vector, task)
            where = {"model": work.model.name, "task": task.name, "vector": vector}
            tokens += _token_rows(work, task, where | {"control": ""}, record["tokens"])
            if "random_tokens" in record:
                tokens += _token_rows(work, task, where | {"control": RANDOM}, record["random_tokens"])
            rows += [where | row for found in record["ranks"] for row in _by_layer(found)]
    ranks = pd.DataFrame(rows).astype(dict.fromkeys(("rank", "low", "high"), float))
    found = {"tokens": pd.DataFrame(tokens), "ranks": ranks, "words": _word_table(work)}
    summary = summary_table(found["ranks"], report_layers(work.model.n_layers), work.settings.top)
    return {**found, "summary": summary}


def report_layers(n_layers: int) -> list[int]:
    """Where words are shown: after a quarter, a half and three quarters of the blocks, and after the last."""
    return sorted({max(0, n_layers * quarter // 4 - 1) for quarter in (1, 2, 3, 4)})


def summary_table(ranks: pd.DataFrame, layers: Sequence[int], top: int) -> pd.DataFrame:
    """Geometric means over tasks of the ranks at some layers; `in top` counts the tasks whose rank is within `top`.

    Tasks whose difference has no direction there are not counted.

    Random vectors stand beside every vector: only their direction is read.
    """
    shown = ranks[ranks["layer"].isin(layers)].assign(log=np.log(ranks["rank"]))
    rows = []
    for tokens in (WORDS, ANSWERS):
        part = shown[shown["tokens"] == tokens]
        for (vector, layer), own in part[part["control"] == ""].groupby(["vector", "layer"], sort=False):
            beside = part[part["layer"] == layer]
            control = beside[(beside["control"] == OTHERS) & (beside["vector"] == vector)]
            rows.append(
                {
                    "tokens": tokens,
                    "vector": vector,
                    "layer": layer,
                    "tasks": int(own["rank"].notna().sum()),
                    f"in_top_{top}": int((own["rank"] <= top).sum()),
                    "rank": np.exp(own["log"].mean()),
                    "rank_in_other_tasks": np.exp(control["log"].mean()),
                    "rank_in_random_vectors": np.exp(beside.loc[beside["control"] == RANDOM, "log"].mean()),
                }
            )
    return pd.DataFrame(rows)


def _token_rows(work: DecodeWork, task: Task, where: dict[str, Any], found: dict[str, Any]) -> list[dict[str, Any]]:
    words, answers = set(work.words[task.name]), {token for own in work.answers[task.name] for token in own}
    return [
        where
        | {"layer": layer, "place": place, "token_id": token, "token": spell(work.model.tokenizer, token)}
        | {"probability": chance, "task_word": token in words, "answer": token in answers}
        for layer, (ids, chances) in enumerate(zip(found["ids"], found["probabilities"], strict=True))
        for place, (token, chance) in enumerate(zip(ids, chances, strict=True), 1)
    ]


def _word_table(work: DecodeWork) -> pd.DataFrame:
    tokenizer = work.model.tokenizer
    rows = [
        {"task": task.name, "token_id": token, "token": spell(tokenizer, token)}
        | {"whole_word": is_word(tokenizer, token, task.words)}
        for task in work.tasks
        for token in work.words[task.name]
    ]
    return pd.DataFrame(rows)


def _by_layer(found: dict[str, Any]) -> list[dict[str, Any]]:
    curves = {name: found[name] for name in ("rank", "low", "high")}
    fixed = {name: found[name] for name in ("tokens", "control", "n", "over")}
    return [
        fixed | {"layer": layer} | {name: None if c is None else c[layer] for name, c in curves.items()}
        for layer in range(len(found["rank"]))
    ]
