"""From the journal of a run to its tables. Pure arithmetic: the same journal always gives the same bytes.

sweep        one row per model, source model, task, source, query modality, seed and layer, on the selection split
layers       the layer chosen for each arm and query modality, pooled over tasks ("all") and per task
predictions  one row per answer on the test split
results      one row per arm, task, query modality and seed, with the Wilson interval of exact match over its items
summary      one row per arm and task, seeds combined, and task "all": the mean over tasks
paired       patch against the prompt with the same source, item by item

Several seeds ask the same items again, and the two tasks of a family share their items. So intervals of `summary` are
Wilson intervals at the number of distinct items, which treats the repeats as adding nothing (it is conservative), and
`paired` resamples and tests items, never answers.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pandas as pd

from interp.protocol.answers import constant_answers
from interp.protocol.plan import Plan
from interp.runs import Run
from interp.statistics import Interval, bootstrap_mean, compare_paired
from interp.statistics import wilson as wilson_interval

RULES = ["exact", "first_token", "prefix"]
wilson: Callable[[int, int], Interval] = cache(wilson_interval)  # a few pairs of numbers, thousands of times
ARM = ["method", "source_model", "source", "layer_choice"]


def sweep_table(plan: Plan, run: Run) -> pd.DataFrame:
    """Selection split: n, correct, each score's rate and the Wilson interval of exact match, per layer and arm."""
    rows = []
    for unit in plan.units():
        if unit.kind != "selection":
            continue
        record = _record(run, unit.key)
        for source_model, source in plan.arms():
            counts = record["counts"][f"{source_model} / {source}"]
            for index, layer in enumerate(record["layers"]):
                n, correct = record["n"], counts["exact"][index]
                interval = wilson(correct, n)
                rows.append(
                    {
                        "model": plan.settings.model,
                        "source_model": source_model,
                        "task": unit.task,
                        "source": source,
                        "query": unit.query,
                        "seed": unit.seed,
                        "layer": layer,
                        "n": n,
                        "correct": correct,
                        **{rule: counts[rule][index] / n for rule in RULES},
                        "wilson_low": interval.low,
                        "wilson_high": interval.high,
                    }
                )
    return pd.DataFrame(rows)


def layer_table(sweep: pd.DataFrame) -> pd.DataFrame:
    """The chosen layers with their selection accuracy, pooled over tasks ("all") and per task.

    Pooled accuracy is the mean over tasks of the mean over seeds, so that each task has the same weight. Ties go to
    the lowest layer.
    """
    arm = ["model", "source_model", "source", "query"]
    per_task = sweep.groupby([*arm, "task", "layer"], sort=False)["exact"].mean().reset_index()
    pooled = per_task.groupby([*arm, "layer"], sort=False)["exact"].mean().reset_index().assign(task="all")
    curves = pd.concat([pooled, per_task], ignore_index=True)
    curves["exact"] = curves["exact"].round(12)  # sums in another order must not break a tie
    best = curves.sort_values(["exact", "layer"], ascending=[False, True]).groupby([*arm, "task"], sort=False).head(1)
    return best.sort_index()[[*arm, "task", "layer", "exact"]].reset_index(drop=True)


def chosen_layers(plan: Plan, run: Run) -> dict[tuple[str, str, str, str], int]:
    """(source model, source, query, task or "all") -> layer."""
    table = layer_table(sweep_table(plan, run))
    return {(row.source_model, row.source, row.query, row.task): int(row.layer) for row in table.itertuples()}


def prediction_table(plan: Plan, run: Run) -> pd.DataFrame:
    """Every answer on the test split, with its scores; the majority answer is filled in without a model."""
    rows = []
    for unit in plan.units():
        if unit.kind not in ("prompt", "patch"):
            continue
        where: dict[str, Any] = {
            "model": plan.settings.model,
            "family": plan.tasks[unit.task].task.family,
            "task": unit.task,
        }
        where |= {"query": unit.query, "seed": unit.seed}
        rows += [where | answer for answer in _record(run, unit.key)["answers"]]
        if unit.kind == "prompt" and not unit.source:  # once per task, query modality and seed
            task = plan.tasks[unit.task]
            arm = dict.fromkeys(("source_model", "source", "layer_choice", "budget"), "")
            labels = where | {"method": "majority", **arm, "demonstrations": 0}
            rows += constant_answers(task.test, task.task.majority_answer, labels)
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def result_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per model, arm, task, query modality and seed; Wilson interval over the seed's distinct items."""
    keys = ["model", "source_model", "task", "source", "query", "method", "layer_choice", "layer", "seed"]
    grouped = predictions.groupby(keys, sort=False, dropna=False)
    table = grouped.agg(
        n=("exact", "size"),
        correct=("exact", "sum"),
        **{rule: (rule, "mean") for rule in RULES},
        demonstrations=("demonstrations", "first"),
        budget=("budget", "first"),
    ).reset_index()
    bounds = [wilson(k, n) for k, n in zip(table["correct"], table["n"], strict=True)]
    table["wilson_low"], table["wilson_high"] = [b.low for b in bounds], [b.high for b in bounds]
    return table[[*keys, "n", "correct", *RULES, "wilson_low", "wilson_high", "demonstrations", "budget"]]


def summary_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Seeds combined, per task and over all tasks with equal weight; `low` and `high` count each item once."""
    keys = ["model", "query", *ARM]
    what = {"layer": "first", "demonstrations": "first", "budget": "first", **dict.fromkeys(RULES, "mean")}
    predictions = predictions.assign(item=predictions["family"] + " / " + predictions["item"])
    per_task = predictions.groupby([*keys, "task"], sort=False).agg(what).reset_index()
    per_task["items"] = predictions.groupby([*keys, "task"], sort=False)["item"].nunique().to_numpy()
    overall = per_task.groupby(keys, sort=False).agg(what).reset_index().assign(task="all")
    overall["items"] = predictions.groupby(keys, sort=False)["item"].nunique().to_numpy()
    overall.loc[overall["layer_choice"] == "task", "layer"] = pd.NA
    table = pd.concat([overall, per_task], ignore_index=True)
    table["seeds"] = predictions["seed"].nunique()
    right = table["exact"] * table["items"]
    table["low"] = [wilson(math.floor(round(k, 9)), n).low for k, n in zip(right, table["items"], strict=True)]
    table["high"] = [wilson(math.ceil(round(k, 9)), n).high for k, n in zip(right, table["items"], strict=True)]
    return table[[*keys, "task", "layer", "seeds", "items", *RULES, "low", "high", "demonstrations", "budget"]]


def paired_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Patch minus prompt with the same source, on the same items and seeds.

    `difference` gives tasks equal weight and has a bootstrap interval over items. `p` is McNemar's exact test for one
    task and one seed, otherwise a sign-flip test over items (an item that both tasks of a family share is one).
    """
    rows = []
    patches = predictions[predictions["method"].isin(["patch_single", "patch_mean"])]
    prompts = predictions[predictions["method"] == "prompt"]
    keys = ["query", "family", "source", "task", "item", "seed"]
    joined = patches.merge(prompts[[*keys, "exact"]], on=keys, suffixes=("", "_prompt"))
    for arm, group in joined.groupby(["model", "query", *ARM], sort=False):
        for task, part in [("all", group), *group.groupby("task", sort=False)]:
            rows.append(dict(zip(["model", "query", *ARM], arm, strict=True)) | {"task": task} | _paired(part))
    return pd.DataFrame(rows)


def _paired(part: pd.DataFrame) -> dict[str, Any]:
    items, tasks = part["family"] + " / " + part["item"], part["task"].nunique()
    once = len(part) == items.nunique()
    test = compare_paired(list(part["exact"]), list(part["exact_prompt"]), groups=None if once else list(items))
    interval = test.difference
    if tasks > 1:
        # An item's share of the mean over tasks, scaled so that the mean of the shares is that mean.
        difference = part["exact"].astype(float) - part["exact_prompt"].astype(float)
        shares = difference / part.groupby("task")["exact"].transform("size") / tasks
        interval = bootstrap_mean((shares.groupby(items, sort=False).sum() * items.nunique()).to_numpy())
    rates = part.groupby("task")[["exact", "exact_prompt"]].mean().mean()
    return {
        "items": items.nunique(),
        "patch": float(rates["exact"]),
        "prompt": float(rates["exact_prompt"]),
        "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
        "only_patch": test.only_a,
        "only_prompt": test.only_b,
        "p": test.p_value,
    }


def _record(run: Run, key: str) -> dict[str, Any]:
    record = run.done(key)
    if record is None:
        raise LookupError(f"{key} is not in the journal")
    return record
