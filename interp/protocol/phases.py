"""From what the delimiter says at every layer to curves, and to the layers where one phase gives way to the next.

evolution   one row per task ("all": their mean), source, query, labels, layer and curve: relative probability with its
            interval, and the mean probability that the lens gives the set among the whole vocabulary
switches    one row per task, source, query, labels and switch: its layer with interval, and in which share of the
            resamples there is none
labels      right minus shuffled labels, in the same example sets, per layer, of the task and the answer curve
tokens      the tokens of the input set and of each task's words, which may be whole words or the first of several

Curves and switches are those of :mod:`interp.protocol.evolution`. Each query counts once, whatever its number of sets;
intervals are percentiles over resamples of queries. All is arithmetic on what the run holds.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.special import softmax

from interp.lens import is_word, spell
from interp.protocol.evolution import LABELS, EvolutionWork
from interp.statistics import bootstrap_means, group_means, percentiles

CURVES = ("input", "task", "answer", "other_task", "other_answer")
SWITCHES = {"input ends": (("input",), ("task", "answer")), "answer over task": (("task",), ("answer",))}
"""Curves before and after each switch; several are added up. A task that is never said ends no input by itself."""

LEAD = 0.05
"""How far a phase's curve leads at one layer at least, in relative probability."""

Curves = tuple[Float[np.ndarray, "L 5"], Float[np.ndarray, "R L 5"]]
"""The mean of each curve, and the same in resamples."""


def shares(logs: Float[np.ndarray, "S L C"]) -> Float[np.ndarray, "S L 5"]:
    """The relative probability of every curve, from the log-probabilities of the token sets.

    Args:
        logs: of input, task, answer, another item's answer, and each other task's words, in this order.

    Returns:
        In the order of `CURVES`; the first three add up to 1. `other_task` is NaN where there is no other task.
    """
    own = softmax(logs[..., :3], axis=-1)
    answer = softmax(logs[..., [0, 1, 3]], axis=-1)[..., 2]
    others = [softmax(logs[..., [0, other, 2]], axis=-1)[..., 1] for other in range(4, logs.shape[-1])]
    task = np.mean(others, axis=0) if others else np.full(answer.shape, np.nan)
    return np.concatenate([own, task[..., None], answer[..., None]], axis=-1)


def probabilities(logs: Float[np.ndarray, "S L C"]) -> Float[np.ndarray, "S L 5"]:
    """The probability of every curve's tokens among the whole vocabulary, in the order of `CURVES`."""
    chances = np.exp(logs)
    task = chances[..., 4:].mean(-1) if logs.shape[-1] > 4 else np.full(logs.shape[:-1], np.nan)
    return np.concatenate([chances[..., :3], task[..., None], chances[..., 3:4]], axis=-1)


def switch_layer(before: Float[np.ndarray, "... L"], after: Float[np.ndarray, "... L"]) -> Int[np.ndarray, " ..."]:
    """The layer s that tells two curves apart best; L where one of them never leads by `LEAD` on its side.

    It has the greatest ``sum over l >= s of (after_l - before_l) - sum over l < s of (after_l - before_l)``, which is
    where the running sum of the differences is smallest; the lowest of equals. Where both curves are nearly nothing at
    first, as that of a task which is never said, there is no phase that could end, and no switch.
    """
    gain = after - before
    running = np.concatenate([np.zeros((*gain.shape[:-1], 1)), np.cumsum(gain, axis=-1)], axis=-1)
    found = np.argmin(running, axis=-1)
    later = np.arange(gain.shape[-1]) >= found[..., None]
    leads = [np.where(side, lead, 0.0).max(-1) for side, lead in ((~later, -gain), (later, gain))]
    return np.where(np.minimum(*leads) >= LEAD, found, gain.shape[-1])


def sides(values: Float[np.ndarray, "... L 5"], switch: str) -> list[Float[np.ndarray, "... L"]]:
    """What the curves before and after a switch add up to."""
    return [values[..., [CURVES.index(name) for name in names]].sum(-1) for names in SWITCHES[switch]]


def tables(work: EvolutionWork) -> dict[str, pd.DataFrame]:
    """All tables by name, as the module describes them."""
    evolution: list[dict[str, Any]] = []
    switches: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for query in work.settings.queries:
        logs = {labels: {t.name: work.logs(t, query, labels) for t in work.tasks} for labels in LABELS}
        right, shuffled = (logs[labels] for labels in LABELS)
        for labels, own in logs.items():
            found = _curves(work, query, {task: shares(values) for task, values in own.items()})
            chances = _curves(work, query, {task: probabilities(values) for task, values in own.items()}, resamples=1)
            for task, curves in found.items():
                where = _where(work, task, query, labels)
                evolution += _curve_rows(where, curves, "relative", CURVES, probability=chances[task][0])
                switches += [where | {"switch": name} | _switch(*curves, name) for name in SWITCHES]
        gains = {task: shares(right[task]) - shares(shuffled[task]) for task in right}
        for task, curves in _curves(work, query, gains).items():
            where = _where(work, task, query, "right minus shuffled")
            differences += _curve_rows(where, curves, "difference", ("task", "answer"))
    return {
        "evolution": pd.DataFrame(evolution).dropna(subset=["relative"]).reset_index(drop=True),
        "switches": pd.DataFrame(switches).astype(dict.fromkeys(("layer", "low", "high"), "Int64")),
        "labels": pd.DataFrame(differences),
        "tokens": _token_table(work),
    }


def _curves(
    work: EvolutionWork, query: str, values: Mapping[str, Float[np.ndarray, "S L 5"]], *, resamples: int = 2000
) -> dict[str, Curves]:
    """For each task, and for their mean ("all") where there are several."""
    found: dict[str, Curves] = {}
    for task in work.tasks:
        own, groups = values[task.name], work.queries(task, query)
        seed = zlib.crc32(f"{task.family}, seed {work.settings.seed}".encode())  # a family's tasks share their queries
        resampled = bootstrap_means(own, groups=groups, resamples=resamples, seed=seed)
        found[task.name] = group_means(own, groups).mean(0), resampled
    if len(found) > 1:
        means, resampled_means = zip(*found.values(), strict=True)
        found["all"] = np.mean(means, axis=0), np.mean(resampled_means, axis=0)
    return found


def _where(work: EvolutionWork, task: str, query: str, labels: str) -> dict[str, Any]:
    """The columns that say what a row is of."""
    tasks = [entry for entry in work.tasks if task in (entry.name, "all")]
    return {
        "model": work.model.name,
        "task": task,
        "source": work.settings.source_of(query),
        "query": query,
        "labels": labels,
        "sets": work.settings.sets * len(tasks),
        "items": len({(entry.family, name) for entry in tasks for name in work.queries(entry, query)}),
    }


def _curve_rows(
    where: dict[str, Any],
    curves: Curves,
    value: str,
    names: tuple[str, ...],
    **more: Float[np.ndarray, "L 5"],
) -> list[dict[str, Any]]:
    mean, resampled = curves
    low, high = percentiles(resampled)
    columns = {value: mean, "low": low, "high": high, **more}
    return [
        where | {"curve": name, "layer": layer} | {key: found[layer, c] for key, found in columns.items()}
        for name, c in ((name, CURVES.index(name)) for name in names)
        for layer in range(len(mean))
    ]


def _switch(mean: Float[np.ndarray, "L 5"], resampled: Float[np.ndarray, "R L 5"], switch: str) -> dict[str, Any]:
    """The switch's layer with its interval; missing where there is none."""
    n_layers = len(mean)
    found = switch_layer(*sides(resampled, switch))
    low, high = percentiles(found)
    bounds = {
        "layer": int(switch_layer(*sides(mean, switch))),
        "low": int(np.floor(low)),
        "high": int(np.ceil(high)),
    }
    shown = {name: value if value < n_layers else None for name, value in bounds.items()}
    return shown | {"never": float(np.mean(found == n_layers))}


def _token_table(work: EvolutionWork) -> pd.DataFrame:
    tokenizer, rows = work.model.tokenizer, list[dict[str, Any]]()
    for task in work.tasks:
        for token in work.words[task.name]:
            rows.append({"set": "task", "of": task.name, "token_id": token, "token": spell(tokenizer, token)})
            rows[-1]["whole_word"] = is_word(tokenizer, token, task.words)
    for query in work.settings.queries if work.settings.input == "delimiter" else ():
        for token in work.input_tokens(query):
            rows.append({"set": "input", "of": f"{query} queries", "token_id": token, "token": spell(tokenizer, token)})
    return pd.DataFrame(rows)
