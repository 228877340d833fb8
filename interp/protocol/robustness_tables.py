"""Tables of the robustness experiment, from the answers of :class:`interp.protocol.robustness.RobustnessStudy`."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from interp.protocol.noise import CLEAN
from interp.protocol.rates import WHERE, comparison_rows, rate_table, with_holm

KEYS = ["part", "query", "method", "source", "setting", "level", "query_template"]


def robustness_rates(answers: pd.DataFrame) -> pd.DataFrame:
    """One row per part, condition, arm and task; see :func:`interp.protocol.rates.rate_table`.

    Of instructions `changed` is the mean number of words that are not those of the clean one.
    """
    table = rate_table(answers, KEYS, carry=("layer",))
    if "changed" not in answers:
        return table
    counts = [answers, answers.assign(task="all")]
    changed = pd.concat(counts).groupby([*KEYS, "task"])["changed"].mean()
    return table.join(changed, on=[*KEYS, "task"])


REFERENCES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "template": lambda rows: rows["setting"].eq("template " + rows["query_template"].astype(str)),
    "instruction": lambda rows: rows["setting"].eq(CLEAN),
    "labels": lambda rows: rows["level"].eq(rows["level"].min()),
    "strength": lambda rows: rows["setting"].eq("replace") & rows["level"].eq(1.0),
}
"""The condition that the others of a part are compared with; numbers of demonstrations are not compared with one."""


def robustness_comparisons(answers: pd.DataFrame) -> pd.DataFrame:
    """Every condition against the reference of its part, and patch against prompt; Holm's over a part and query.

    References: the query's own template, the clean instruction, the smallest share of wrong labels, and replacing at
    scale 1.
    """
    rows: list[dict[str, Any]] = []
    arms = answers[answers["method"].isin(["prompt", "patch"])]
    condition = ["setting", "level", "query_template"]
    for (part, query), group in arms.groupby(["part", "query"], sort=False):
        for (method, source), arm in group.groupby(["method", "source"], sort=False):
            is_reference = REFERENCES[part](arm) if part in REFERENCES else pd.Series(False, index=arm.index)
            for values, here in arm[~is_reference].groupby(condition, sort=False):
                labels = {"part": part, "query": query, "method": method, "source": source}
                labels |= dict(zip(condition, values, strict=True))
                reference = arm[is_reference]
                reference = reference[reference["query_template"] == values[2]]
                rows += comparison_rows(here, reference, {**labels, "comparison": "condition - reference"})
        for values, here in group.groupby(["source", *condition], sort=False):
            patch, prompt = (here[here["method"] == method] for method in ("patch", "prompt"))
            labels = {"part": part, "query": query, "method": "patch"}
            labels |= dict(zip(["source", *condition], values, strict=True))
            if not patch.duplicated(WHERE).any():
                rows += comparison_rows(patch, prompt, {**labels, "comparison": "patch - prompt"})
    return with_holm(rows, ["part", "query", "comparison"])
