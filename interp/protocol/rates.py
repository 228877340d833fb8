"""From answers to rates and comparisons with intervals over items and seeds.

A table of answers has one row per arm, task, item and seed, with columns family, task, item, seed and the scores
exact, first_token and prefix. Tasks of a family share their items, and every seed asks them again, so intervals come
from a bootstrap that resamples items and seeds, crossed (:func:`interp.statistics.bootstrap_crossed`). Where nothing
varies, so that resampling would give an interval of no width, it is Wilson's at the number of distinct items instead,
and for a difference of nothing plus and minus Wilson's bound of no right answer.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.protocol.tables import RULES, wilson
from interp.statistics import Interval, bootstrap_crossed, compare_crossed, holm

WHERE = ["family", "task", "item", "seed"]


def rate_table(answers: pd.DataFrame, keys: Sequence[str], *, carry: Sequence[str] = ()) -> pd.DataFrame:
    """One row per arm and task, and task "all": the mean over tasks with equal weight.

    Args:
        answers: the answers.
        keys: columns that tell arms apart; together with task, item and seed they name an answer.
        carry: columns whose first value is kept, such as the number of demonstrations.

    Returns:
        keys, task, seeds, items (distinct ones), exact with its 95 % interval (low, high), first_token, prefix,
        seed_sd (standard deviation of exact over seeds; missing for one seed), carry.
    """
    rows = []
    answers = _named(answers)
    for arm, group in answers.groupby(list(keys), sort=False, dropna=False):
        for task, part in [("all", group), *group.groupby("task", sort=False)]:
            rows.append(dict(zip(keys, arm, strict=True)) | {"task": task} | _rate(part, carry))
    table = pd.DataFrame(rows)
    order = table["task"].ne("all")
    return pd.concat([table[~order], table[order]], ignore_index=True)


def _rate(part: pd.DataFrame, carry: Sequence[str]) -> dict[str, Any]:
    items = part["item"].nunique()
    interval = with_width(bootstrap_crossed(part["exact"].to_numpy(float), **_where(part)), items)
    by_seed = {rule: _by_seed(part, rule) for rule in RULES}
    exact = by_seed["exact"]
    return {
        "seeds": len(exact),
        "items": items,
        "exact": interval.value,
        "low": interval.low,
        "high": interval.high,
        **{rule: float(values.mean()) for rule, values in by_seed.items() if rule != "exact"},
        "seed_sd": float(exact.std(ddof=1)) if len(exact) > 1 else np.nan,
        **{name: part[name].iloc[0] for name in carry},
    }


def comparison_rows(a: pd.DataFrame, b: pd.DataFrame, labels: dict[str, Any]) -> list[dict[str, Any]]:
    """Arm A against arm B on the answers that both have: a row for all tasks together, and one per task.

    Returns:
        Rows of labels, task, items, seeds, the rates a and b, difference with its interval (low, high), only_a and
        only_b (answers that one alone gets right), seeds_above (seeds under which a is above b) and p, of a sign-flip
        test over items; none if the arms share no answer.
    """
    joined = _named(a).merge(_named(b)[[*WHERE, "exact"]], on=WHERE, suffixes=("", "_b"))
    rows = []
    parts = [("all", joined), *joined.groupby("task", sort=False)] if len(joined) else []
    for task, part in parts:
        test = compare_crossed(list(part["exact"]), list(part["exact_b"]), **_where(part))
        interval = difference_with_width(test.difference, test.n)
        above, below = _by_seed(part, "exact"), _by_seed(part, "exact_b")
        rows.append(
            {
                **labels,
                "task": task,
                "items": test.n,
                "seeds": len(above),
                "a": float(above.mean()),
                "b": float(below.mean()),
                "difference": interval.value,
                "low": interval.low,
                "high": interval.high,
                "only_a": test.only_a,
                "only_b": test.only_b,
                "seeds_above": int(np.sum(above > below + 1e-12)),
                "p": test.p_value,
            }
        )
    return rows


def with_holm(rows: Sequence[dict[str, Any]], family: Sequence[str]) -> pd.DataFrame:
    """The comparisons as a table, with p_holm: corrected for all comparisons that agree in these columns.

    The rows of single tasks are a family of their own, beside those of all tasks together.
    """
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    overall = table["task"].eq("all").rename("overall")
    table["p_holm"] = table.groupby([*family, overall], sort=False)["p"].transform(lambda p: holm(list(p)))
    return table


def _named(answers: pd.DataFrame) -> pd.DataFrame:
    """With items that are the same in all tasks of a family, and in no other."""
    return answers.assign(item=answers["family"] + " / " + answers["item"])


def _where(part: pd.DataFrame) -> dict[str, Any]:
    return {"tasks": list(part["task"]), "items": list(part["item"]), "seeds": list(part["seed"])}


def with_width(interval: Interval, n: int) -> Interval:
    """A rate's interval; Wilson's for n items where resampling finds none."""
    if interval.low < interval.high:
        return interval
    right = round(interval.value * n, 9)
    return interval._replace(low=wilson(math.floor(right), n).low, high=wilson(math.ceil(right), n).high)


def difference_with_width(interval: Interval, n: int) -> Interval:
    """A difference's interval; from Wilson's for n items that all agree, where resampling finds none."""
    if interval.low < interval.high:
        return interval
    bound = wilson(0, n).high
    return interval._replace(low=max(-1.0, interval.value - bound), high=min(1.0, interval.value + bound))


def _by_seed(part: pd.DataFrame, column: str) -> Float[np.ndarray, " S"]:
    """The mean over tasks, under each seed."""
    task, tasks = pd.factorize(part["task"])
    seed, seeds = pd.factorize(part["seed"])
    cells = task * len(seeds) + seed
    size = len(tasks) * len(seeds)
    sums = np.bincount(cells, weights=part[column].to_numpy(float), minlength=size)
    return (sums / np.bincount(cells, minlength=size)).reshape(len(tasks), len(seeds)).mean(0)
