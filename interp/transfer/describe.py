"""An analysed matrix in sentences: what was read, what stands out, and what of it chance alone would give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.transfer.analysis import Analysis
from interp.transfer.scores import PERSONAS, default_top

_ROUNDED = 1e-9
_SOME = 0.2
_SHOWN = 6
NOTES = {
    "task_scores": "Scores of the matrix of means over runs, without and with what a task does to itself.",
    "categories": "Means of the scores over tasks. n_published: of how many tasks the paper's page names the category; "
    "the rest is our assignment.",
    "variance": "Shares of the variance off the diagonal, beside the share that unstructured noise would have.",
    "nulls": "p: how often a random matrix reaches the measured value, (b + 1) / (B + 1). p_fewer: or stays below it.",
    "score_nulls": "Each score with the values of every target (of every source, for malleability) dealt anew. "
    "p_family holds for the best of all tasks as well.",
    "constant_targets": "Cells (source and run) in which one letter is more than 90 % of the predictions, and in which "
    "as many answers are right as a letter has keys. A few of the second arise by chance.",
    "dose": "Spearman correlation of training steps with the scores of the sources.",
}


def describe(analysis: Analysis) -> list[str]:
    """Paragraphs for the head of a report and for the terminal."""
    return [
        said
        for said in (
            _read(analysis),
            _unusual(analysis),
            _cliques(analysis),
            _variance(analysis),
            _edges(analysis),
            _constant(analysis),
            _personas(analysis),
        )
        if said
    ]


def _read(analysis: Analysis) -> str:
    measured, settings = analysis.measured, analysis.settings
    kinds = {"pgf": "factors as they were read", "accuracy": "accuracies", "matrix": "a matrix folder"}
    said = (
        f"Read {kinds[measured.kind]}{' of ' + measured.model if measured.model else ''}: {len(analysis.tasks)} tasks, "
    )
    said += _count(len(measured.seeds), "run") + f" ({', '.join(measured.seeds)})"
    for names, what in ((measured.controls, "control source"), (measured.extras, "further target")):
        if names:
            said += f", {_count(len(names), what)} ({', '.join(map(measured.label, names))})"
    said += f". Measure: {settings.measure}, ceiling {settings.ceiling}, epsilon {settings.epsilon:g}."
    if len(analysis.others) > 1:
        listed = ", ".join(f"{100 * fraction:g} %" for fraction in analysis.others)
        said += f" Training fractions: {listed}; the numbers are those of {100 * measured.fraction:g} %."
    if measured.rebuilt:
        said += (
            " Accuracies were rebuilt from the factors, on the assumption of ceiling 1 and the items of BLINK's "
            "validation split."
        )
    return said


def _unusual(analysis: Analysis) -> str:
    said = []
    if analysis.undefined:
        said.append(
            f"The factor is undefined for the target{'s' if len(analysis.undefined) > 1 else ''} "
            f"{', '.join(analysis.undefined)}: the room above the baseline is under one item. Variance and nulls leave "
            "them out as tasks."
        )
    tiny = np.argwhere((np.abs(analysis.mu) < _ROUNDED) & (analysis.mu != 0))
    if len(tiny):
        cells = "; ".join(f"{analysis.labels[i]} to {analysis.labels[j]}" for i, j in tiny[:_SHOWN])
        said.append(
            f"{_count(len(tiny), 'mean')} {'is' if len(tiny) == 1 else 'are'} 0 but for rounding ({cells}) and "
            "count by the sign of the rounding, as in the published numbers; --zero 1e-9 gives them no sign."
        )
    if analysis.measured.pgf is not None and (high := analysis.measured.pgf.max()) > 1 + _ROUNDED:
        said.append(f"A factor of {high:.3g} is above 1, which a ceiling of 1 does not allow.")
    if apart := [f"{100 * f:g} %" for f in analysis.others if f not in analysis.comparable]:
        said.append(f"Other sources or targets were measured at {', '.join(apart)} of the training: not compared.")
    if len(analysis.measured.seeds) == 1:
        said.append("With one run there is no spread over runs, and no reliability.")
    return " ".join(said)


def _cliques(analysis: Analysis) -> str:
    found = [f"{len(cliques)} {sign}" for sign, cliques in analysis.cliques.items()]
    said = f"Maximal cliques of three tasks or more: {' and '.join(found)}."
    nulls = analysis.tables["nulls"]
    for sign in analysis.cliques:
        rows = nulls[(nulls["sign"] == sign) & (nulls["statistic"] == "largest")]
        if len(rows):
            shuffled, additive = (rows[rows["null"] == null].iloc[0] for null in ("shuffle", "additive"))
            said += (
                f" The largest {sign} one has {shuffled['observed']:g} tasks; with the values of every target dealt "
                f"anew it has {shuffled['null_mean']:.1f} on average (p = {shuffled['p']:.2g}), and with sources and "
                f"targets alone {additive['null_mean']:.1f} (p = {additive['p']:.2g})."
            )
    return said


def _variance(analysis: Analysis) -> str:
    table = analysis.tables["variance"]
    if table.empty:
        return ""
    share = table.set_index("part")["share"]
    said = (
        f"Off the diagonal, targets alone explain {share['target']:.0%} of the variance, sources alone "
        f"{share['source']:.0%}, both {share['additive']:.0%}; pairs add {share['symmetric']:.0%} the same in both "
        f"directions and {share['antisymmetric']:.0%} opposite."
    )
    if not np.isnan(share["reliability"]):
        said += f" What pairs add has reliability {share['reliability']:.2f} over runs."
    if not np.isnan(share["symmetric_ceiling"]):
        most = share["symmetric_ceiling"]
        said += f" A similarity of tasks without direction can correlate with it by {most:.2f} at most."
    return said


def _edges(analysis: Analysis) -> str:
    table = analysis.tables["edges"]
    cells = table[table["family"] == "transfer"]
    mean = cells["mean"]
    said = (
        f"Mean over cells off the diagonal {mean.mean():.3f}; {(mean > 0).mean():.0%} are positive, and "
        f"{(cells['same_sign'] == 1).mean():.0%} have their sign in every run."
    )
    if cells["p"].notna().any():
        significant = int((cells["q"] < 0.05).sum())
        said += (
            f" {significant} of {len(cells)} differ from the baseline item by item at a false discovery rate of 5 %."
        )
    elif cells["items_moved"].notna().any():
        few = (cells["items_moved"].abs() < 6 - _ROUNDED).mean()
        said += (
            f" {few:.0%} move fewer than 6 items, below which no exact paired test of a run can reach p = 0.05; paired "
            "tests themselves need the items."
        )
    return said


def _constant(analysis: Analysis) -> str:
    targets = analysis.tables["constant_targets"]
    said = []
    for row in targets.to_dict("records"):
        always, equal = row["constant_runs"], row["key_count_runs"]
        if always > 0 or equal > _SOME * row["cells"]:
            parts = [f"{int(always)} give one letter"] if always > 0 else []
            parts += [f"{int(equal)} have as many right answers as a letter has keys"] if equal > 0 else []
            said.append(f"{row['target']} ({' and '.join(parts)}, of {row['cells']})")
    return f"Cells that may always give one letter: {'; '.join(said)}." if said else ""


def _personas(analysis: Analysis) -> str:
    top = analysis.settings.top or default_top(len(analysis.tasks))
    scores = analysis.scores.assign(short=analysis.abbreviations)
    said = []
    for persona, score in PERSONAS.items():
        named = scores[[persona in names.split(" + ") for names in scores["persona"]]]
        order = named[score].abs().sort_values(ascending=False, kind="stable").index
        if len(order):
            said.append(f"{persona}s {', '.join(named.loc[order, 'short'])}")
    most = f"the {top} tasks" if top > 1 else "the task"
    return f"Personas ({most} strongest by each score, itself not counted): {'; '.join(said)}." if said else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def clique_names(cliques: Sequence[Sequence[str]]) -> str:
    """Cliques as AS-RR-VS, ..., or "none"."""
    return ", ".join("-".join(clique) for clique in cliques) or "none"
