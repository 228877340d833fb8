"""Tables of the overriding experiment, from the journal of a run. Pure arithmetic.

predictions   one row per answer on the test split, with whether it is right for either side
sweep         one row per set, source and layer, on the selection split
layers        the layer chosen for each kind and source
summary       both accuracies of every arm: over all, per kind (set "all"), per set
paired        the patch against every other arm, item by item
judge         how far the judge agrees with the rules
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from interp.protocol.rates import difference_with_width
from interp.runs import Run
from interp.statistics import compare_paired, holm, wilson
from interp.tasks.conflicts import Conflict, ConflictSet

SIDES = ("query", "vector")


def record_of(run: Run, kind: str, found: ConflictSet) -> dict[str, Any]:
    """What the journal holds of a set's unit.

    Raises:
        LookupError: the unit is not done.
    """
    record = run.done(f"{kind} / {found.name}")
    if record is None:
        raise LookupError(f"{kind} / {found.name} is not in the journal")
    return record


def sweep_table(sets: Sequence[ConflictSet], run: Run) -> pd.DataFrame:
    """Selection split: per set, source and layer the rate of answers that are right for the vector."""
    rows = []
    for found in sets:
        record = record_of(run, "selection", found)
        for source, counts in record["counts"].items():
            for layer, correct in zip(record["layers"], counts, strict=True):
                rate = wilson(correct, record["n"])
                where = {"kind": found.kind, "set": found.name, "source": source, "layer": layer}
                bounds = {"wilson_low": rate.low, "wilson_high": rate.high}
                rows.append(where | {"n": record["n"], "correct": correct, "vector": rate.value} | bounds)
    return pd.DataFrame(rows)


def layer_table(sweep: pd.DataFrame) -> pd.DataFrame:
    """The chosen layer of each kind and source, with its rate on the selection split."""
    curves = sweep.groupby(["kind", "source", "layer"], sort=False)["vector"].mean().round(12)
    ordered = curves.reset_index().sort_values(["vector", "layer"], ascending=[False, True], kind="stable")
    best = ordered.groupby(["kind", "source"], sort=False).head(1)
    return best.sort_values(["kind", "source"]).reset_index(drop=True)


def prediction_table(
    sets: Sequence[ConflictSet], run: Run, tested: Callable[[ConflictSet], Sequence[Conflict]]
) -> pd.DataFrame:
    """Every answer on the test split, with whether it is right for either side.

    Args:
        sets: the sets of the run.
        run: its folder.
        tested: the scored conflicts of a set.
    """
    rows = []
    for found in sets:
        where = {"kind": found.kind, "set": found.name, "family": found.family}
        asked = {conflict.item.input: conflict for conflict in tested(found)}
        answers = record_of(run, "test", found)["answers"]
        judged = run.done(f"judge / {found.name}")
        for place, answer in enumerate(answers):
            conflict = asked[answer["item"]]
            sides: dict[str, Any] = {
                "query_question": conflict.query.question,
                "query_accepted": " | ".join(conflict.query.accepted),
                "vector_question": conflict.vector.question,
                "vector_accepted": " | ".join(conflict.vector.accepted),
            }
            for i, side in enumerate(SIDES):
                if judged is None:
                    continue
                sides[f"judged_{side}"] = judged["right"][2 * place + i]
                sides[f"said_{side}"] = judged["said"][2 * place + i]
            rows.append(where | answer | sides)
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def summary_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Both accuracies of every arm: per set, per kind and over all, sets with equal weight.

    Intervals are Wilson's at the number of distinct items, as sets of a family share their pictures. Columns `judged_`
    hold the rates by the judge, where there was one.
    """
    judged = [f"judged_{side}" for side in SIDES if f"judged_{side}" in predictions]
    rows = []
    for (kind, name), part in _levels(predictions):
        for (arm, source), group in part.groupby(["arm", "source"], sort=False):
            items = (group["family"] + " / " + group["item"]).nunique()
            row: dict[str, Any] = {"kind": kind, "set": name, "arm": arm, "source": source}
            row["layer"] = group["layer"].iloc[0] if len(set(group["layer"])) == 1 else pd.NA
            row |= {"sets": group["set"].nunique(), "items": items}
            for side in SIDES:
                rate = float(group.groupby("set")[side].mean().mean())
                right = round(rate * items, 9)
                row[side] = rate
                row[f"{side}_low"] = wilson(math.floor(right), items).low
                row[f"{side}_high"] = wilson(math.ceil(right), items).high
            row |= {column: float(group.groupby("set")[column].mean().mean()) for column in judged}
            rows.append(row)
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def paired_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """The patch against every other arm, item by item, for both sides; p as in :func:`compare_paired`.

    Where an item is in several sets, its differences are averaged first and the sign-flip test takes items. p_holm is
    corrected by Holm's method over the comparisons of a level (over all, of the kinds, of the sets) and side.
    """
    rows = []
    key = ["set", "family", "item"]
    for (kind, name), part in _levels(predictions):
        patches = part[part["arm"] == "patch"]
        for source, patch in patches.groupby("source", sort=False):
            for against in (arm for arm in dict.fromkeys(part["arm"]) if arm != "patch"):
                other = part[(part["arm"] == against) & part["source"].isin(["", source])]
                joined = patch.merge(other[[*key, *SIDES]], on=key, suffixes=("", "_other"), validate="one_to_one")
                items = list(joined["family"] + " / " + joined["item"])
                groups = items if len(set(items)) < len(items) else None
                for side in SIDES:
                    test = compare_paired(list(joined[side]), list(joined[f"{side}_other"]), groups=groups)
                    found = difference_with_width(test.difference, test.n)
                    row = {"kind": kind, "set": name, "source": source, "against": against, "side": side}
                    row |= {"items": test.n, "difference": found.value, "low": found.low, "high": found.high}
                    row |= {"only_patch": test.only_a, "only_other": test.only_b, "p": test.p_value}
                    rows.append(row)
    table = pd.DataFrame(rows)
    level = [table["kind"].eq("all"), table["set"].eq("all"), table["side"]]
    return table.assign(p_holm=table["p"].groupby(level).transform(lambda p: holm(list(p))))


def judge_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """How far the judge agrees with the rules: per kind and side the rate of equal verdicts and Cohen's kappa.

    said is the mean probability with which the judge says yes or no at all, of the answers that it was asked about.
    """
    from sklearn.metrics import cohen_kappa_score

    rows = []
    for kind, part in [*predictions.groupby("kind", sort=False), ("all", predictions)]:
        for side in SIDES:
            rule, judged = part[side].astype(bool), part[f"judged_{side}"].astype(bool)
            equal = wilson(int((rule == judged).sum()), len(part))
            constant = len({*rule, *judged}) == 1
            kappa = float("nan") if constant else float(cohen_kappa_score(rule, judged))
            row = {"kind": kind, "side": side, "answers": len(part), "agreement": equal.value, "low": equal.low}
            row |= {"high": equal.high, "kappa": kappa, "right_by_rule": rule.mean(), "right_by_judge": judged.mean()}
            row["said"] = part[f"said_{side}"].astype(float).mean()
            rows.append(row)
    return pd.DataFrame(rows)


def _levels(predictions: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """(kind, set) and its answers: everything, each kind, each set."""
    kinds = list(predictions.groupby("kind", sort=False))
    if len(kinds) > 1:
        yield ("all", "all"), predictions
    for kind, part in kinds:
        yield (kind, "all"), part
        for name, one in part.groupby("set", sort=False):
            yield (kind, name), one
