"""The five questions, answered from the tables in sentences: effect sizes with intervals, nulls, and what was not seen.

A verdict follows p < .05 of the test that holds for the best of its family (max-T); the numbers stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from interp.relation.matrices import FAMILIES, OTHER, TASK_VECTORS, UPDATES
from interp.relation.prediction import BASELINE, CEILING, OTHER_RUNS, SOURCE_MEAN
from interp.relation.regression import COVARIATES_ALONE

STRUCTURE, VECTORS, OF_UPDATES, OTHERS, FORMAT, PREDICTION = (
    "Is there structure beyond main effects?",
    "Do task vectors relate to it?",
    "Do updates relate to it?",
    "Do other similarities relate to it?",
    "Does format explain it?",
    "How well can transfer be predicted beforehand?",
)
QUESTIONS = {TASK_VECTORS: VECTORS, UPDATES: OF_UPDATES, OTHER: OTHERS}
_ALPHA = 0.05
_SHOWN = 4
Tables = Mapping[str, pd.DataFrame]


def answers(tables: Tables) -> dict[str, list[str]]:
    """Question -> sentences, one or more for each model.

    Args:
        tables: of `study.Relation`.
    """
    models = list(dict.fromkeys(tables["variance"]["model"]))
    asked: dict[str, Callable[[Tables], list[str]]] = {STRUCTURE: _structure}
    asked |= {QUESTIONS[family]: _of_family(family) for family in FAMILIES}
    asked |= {FORMAT: _format, PREDICTION: _prediction}
    found = {}
    for question, answer in asked.items():
        said = []
        for model in models:
            mine = {name: table[table["model"] == model] for name, table in tables.items()}
            prefix = f"{model}: " if len(models) > 1 else ""
            said += [prefix + sentence for sentence in answer(mine)]
        found[question] = list(dict.fromkeys(said))
    if found[OTHERS] == [_NONE[OTHER]] or not tables["relation"]["family"].eq(OTHER).any():
        del found[OTHERS]
    return found


_NONE = {
    TASK_VECTORS: "No similarity of task vectors was given.",
    UPDATES: "No similarity of updates was given.",
    OTHER: "No other similarity was given.",
}


def _structure(tables: Tables) -> list[str]:
    share = tables["variance"].set_index("part")["share"]
    pairs = share["symmetric"] + share["antisymmetric"]
    said = [
        f"Which target is tested makes up {_per_cent(share['target'])} of the variance between cells, which source was "
        f"trained {_per_cent(share['source_after_target'])} more, and {_per_cent(pairs)} is left to pairs."
    ]
    if np.isnan(share["structure"]):
        return [*said, "There is one run, so that what pairs add cannot be told from noise, and has no ceiling."]
    verdict = "Runs agree in what pairs add" if share["structure_p"] < _ALPHA else "Runs do not agree in what pairs add"
    said.append(
        f"{verdict}: its mean correlation between two runs is {_number(share['structure'])} "
        f"({_p(share['structure_p'])}; 95 % of permuted runs stay below {_number(share['structure_null'])}). "
        f"Reliability of the mean of the runs is {_number(share['reliability'])}, so that no predictor can correlate "
        f"more than {_number(share['noise_ceiling'])} with it, and one without direction no more than "
        f"{_number(share['symmetric_ceiling'])}. Runs share their items, so that other items would agree less."
    )
    return said


def _of_family(family: str) -> Callable[[Tables], list[str]]:
    def answer(tables: Tables) -> list[str]:
        rows = tables["relation"][tables["relation"]["family"] == family]
        if not len(rows):
            return [_NONE[family]]
        summary = rows[rows["summary"].astype(bool)]
        best = summary.loc[summary["r"].abs().idxmax()]
        largest = rows.loc[rows["r"].abs().idxmax()]
        related = largest["p_family"] < _ALPHA
        verdict = "A relation is seen" if related else "No relation is seen beyond what permuted tasks give"
        said = [
            f"{verdict}: the largest of {len(rows)} correlations is {_named(largest)} with r = {_number(largest['r'])} "
            f"({_p(largest['p_family'])} for the largest of the family, {_p(largest['p_maxt'])} for that of all; "
            f"95 % of permuted tasks stay below {_number(largest['null'])} for it alone)."
        ]
        span = f"from {_number(best['leave_one_out_low'])} to {_number(best['leave_one_out_high'])}"
        said.append(
            f"Without any choice of a layer: {_named(best)}, r = {_interval(best)}, {_p(best['p'])}"
            f"{_over_models(best)}; {span} when any one task is left out{_of_ceiling(best)}.{_others(summary, best)}"
        )
        return said + _beside(tables["mrqap"], best)

    return answer


def _beside(mrqap: pd.DataFrame, best: pd.Series) -> list[str]:
    """What the similarity adds to covariates."""
    rows = mrqap[
        (mrqap["role"] == "similarity") & (mrqap["term"] == best["measure"]) & (mrqap["layer"] == best["layer"])
    ]
    if not len(rows):
        return []
    row = rows.iloc[0]
    if np.isnan(row["partial_r"]):
        return ["Beside the covariates it cannot be tested: with so few tasks too little is left."]
    names = ", ".join(dict.fromkeys(mrqap.loc[mrqap["regression"] == COVARIATES_ALONE, "term"]))
    return [
        f"Beside the covariates ({names}) its partial correlation is {_number(row['partial_r'])} ({_p(row['p'])}), and "
        f"it adds {_per_cent(row['added'])} to what they explain."
    ]


def _others(summary: pd.DataFrame, best: pd.Series) -> str:
    rest = summary.drop(index=best.name).sort_values("r", key=np.abs, ascending=False)
    if not len(rest):
        return ""
    listed = "; ".join(f"{_named(row)} {_interval(row)}, {_p(row['p'])}" for _, row in rest.head(_SHOWN).iterrows())
    return f" The others: {listed}{'; ...' if len(rest) > _SHOWN else ''}."


def _format(tables: Tables) -> list[str]:
    rows = tables["relation"][tables["relation"]["family"] == "covariate"]
    if not len(rows):
        return ["No covariate was given."]
    listed = "; ".join(
        f"{row['measure']} r = {_interval(row)}, {_p(row['p'])} ({_p_value(row['p_maxt'])} for the largest of "
        f"{len(rows)})"
        for _, row in rows.iterrows()
    )
    alone = tables["mrqap"][tables["mrqap"]["regression"] == COVARIATES_ALONE]
    said = [f"Each by itself: {listed}."]
    if len(alone) and np.isnan(alone["share"].iloc[0]):
        said.append("Beside each other they cannot be told apart: with so few tasks some follow from the others.")
    elif len(alone):
        terms = "; ".join(f"{row['term']} {_number(row['partial_r'])} ({_p(row['p'])})" for _, row in alone.iterrows())
        said.append(
            f"Together they explain {_per_cent(alone['share'].iloc[0])} of what sources and targets leave; partial "
            f"correlations: {terms}."
        )
    return said


def _prediction(tables: Tables) -> list[str]:
    table = tables["prediction"]
    by = {metric: rows.set_index("predictor") for metric, rows in table.groupby("metric")}
    rank = by["spearman"]
    means, own = rank.loc[SOURCE_MEAN], rank[~rank["kind"].isin([BASELINE, CEILING])]
    said = [
        f"The mean effect of a source on other targets ranks sources with a Spearman correlation of {_spread(means)} "
        f"over {int(means['targets'])} targets (0 is a random order)"
        + (
            f"; half of the runs rank them for the other half with {_number(rank.loc[OTHER_RUNS, 'value'])}."
            if OTHER_RUNS in rank.index
            else "."
        )
    ]
    if not len(own):
        return [*said, "No similarity was given to predict from."]
    name = own["value"].idxmax()
    best, gain = own.loc[name], by["ndcg"].loc[name]
    lost, chance = by["regret"].loc[name], by["regret"].loc[SOURCE_MEAN]
    gained = "a gain" if best["minus_low"] > 0 else "a loss" if best["minus_high"] < 0 else "no difference"
    first = f"The best of {len(own)} other predictors, {name}," if len(own) > 1 else f"The other predictor, {name},"
    said.append(
        f"{first} has {_spread(best)}; minus the source mean {_number(best['minus_source_mean'])} "
        f"[{_number(best['minus_low'])}, {_number(best['minus_high'])}], {gained} that can be told from none. "
        f"NDCG {_spread(gain)} (random order {_number(gain['random'])}), regret of its first three sources "
        f"{_spread(lost)} (random order {_number(lost['random'])}, source mean {_number(chance['value'])})."
        + (" It is the best of several, and not corrected for that." if len(own) > 1 else "")
    )
    return said


def _named(row: pd.Series) -> str:
    layer = {"": "", "all": "", "pooled": " (layers pooled)"}.get(row["layer"], f" (layer {row['layer']})")
    return f"{row['measure']}{layer}"


def _over_models(row: pd.Series) -> str:
    return f" ({_p_value(row['p_holm'])} over models)" if row["p_holm"] != row["p"] else ""


def _of_ceiling(row: pd.Series) -> str:
    over = abs(row["r_over_ceiling"])
    said = "" if np.isnan(over) else f"; {_number(over)} of the noise ceiling"
    if over > 1:
        said = "; more than the noise ceiling, which so few runs estimate roughly"
    if np.isnan(row["r_over_symmetric"]):
        return said
    return f"{said}; {_number(abs(row['r_over_symmetric']))} of what a similarity without direction can reach"


def _interval(row: pd.Series) -> str:
    if np.isnan(row["low"]):  # nothing of the matrix is left without some task
        return f"{_number(row['r'])} (no interval)"
    return f"{_number(row['r'])} [{_number(row['low'])}, {_number(row['high'])}]"


def _spread(row: pd.Series) -> str:
    return f"{_number(row['value'])} [{_number(row['low'])}, {_number(row['high'])}]"


def _p(value: float) -> str:
    return "no p" if np.isnan(value) else f"p = {_p_value(value)}"


def _p_value(value: float) -> str:
    return (f"{value:.1g}" if value < 0.001 else f"{value:.3f}").replace("0.", ".", 1)


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _number(value: float) -> str:
    shown = f"{value:.2f}"
    return (
        shown[2:]
        if float(shown) == 0 and shown.startswith("-")
        else shown.replace("0.", ".", 1)
        if abs(float(shown)) < 1
        else shown
    )
