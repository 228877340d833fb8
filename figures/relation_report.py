"""The page of `python -m experiments.relate`: its questions in order, each with a scatter and two matrices."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from figures import relation as draw
from figures.page import Section, page

CLAIMS = {
    "task vectors": ("vectors_scatter", "vectors_heatmaps"),
    "updates": ("updates_scatter", "updates_heatmaps"),
    "other": ("others_scatter", "others_heatmaps"),
    "covariate": ("format_scatter", "format_heatmaps"),
}
"""Family -> figures that show it."""
_QUESTIONS = {
    "structure": ("structure_scatter", "structure_heatmaps"),
    "task vectors": CLAIMS["task vectors"],
    "updates": CLAIMS["updates"],
    "other similarities": CLAIMS["other"],
    "format": CLAIMS["covariate"],
    "predicted": ("prediction_scatter", "prediction_heatmaps", "predictors"),
}
"""Word of a question -> figures below it."""
_COLUMNS = {
    "relation": (
        "model", "family", "measure", "layer", "r", "low", "high", "leave_one_out_low", "leave_one_out_high", "p",
        "p_family", "p_maxt", "p_holm", "null", "r_over_ceiling",
    ),
    "maxt": ("model", "scope", "matrices", "measure", "layer", "r", "null", "p", "p_holm"),
    "mrqap": ("model", "regression", "term", "coefficient", "partial_r", "t", "share", "added", "p"),
    "prediction": ("model", "predictor", "kind", "metric", "value", "low", "high", "random", "minus_source_mean",
                   "minus_low", "minus_high"),
    "variance": ("model", "part", "share", "chance", "meaning"),
}  # fmt: skip


def all_figures(tables: Mapping[str, pd.DataFrame]) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, in the order of the page; what no similarity was given for is left out.

    Args:
        tables: pairs, relation and prediction.
    """
    pairs, relation, prediction = tables["pairs"], tables["relation"], tables["prediction"]
    drawn: dict[str, tuple[Figure, str]] = {
        "structure_scatter": (
            draw.structure_scatter(pairs),
            "What row and column effects leave, in two halves of the runs (of one run: in the two directions).",
        ),
        "structure_heatmaps": (
            draw.structure_heatmaps(pairs),
            "Transfer (rows: trained on; columns: tested on), and what row and column effects leave of it.",
        ),
    }
    for family, (points, matrices) in CLAIMS.items():
        if not draw.chosen_matrix(relation, family):
            continue
        drawn[points] = (
            draw.scatter(pairs, relation, family=family),
            "A point for every ordered pair of tasks, row and column effects removed; the line is least squares. p: "
            "tasks permuted. Named are the pairs that decide the line most."
            + (" Orange: the same format." if family == "covariate" else ""),
        )
        drawn[matrices] = (
            draw.heatmaps(pairs, relation, family=family),
            "The same two matrices. A relation shows as the same colours in the same places.",
        )
    if len(relation):
        drawn["correlations"] = (
            draw.forest(relation),
            "Every measure without a choice of layer: r with its jackknife interval over tasks; grey: 95 % of permuted "
            "tasks.",
        )
    curves = draw.layer_curves(relation)
    if curves is not None:
        drawn["layers"] = (
            curves,
            "Correlations over layers; outside of the grey band after correction for all of them.",
        )
    drawn["prediction_scatter"] = (
        draw.prediction_scatter(pairs, prediction),
        "The best predictor of sources against what was measured, target means removed from both.",
    )
    drawn["prediction_heatmaps"] = (
        draw.prediction_heatmaps(pairs, prediction),
        "Sources ranked within each column: by the best predictor, and as measured. Blue: the better half.",
    )
    drawn["predictors"] = (
        draw.predictor_bars(prediction),
        "Means over targets with 95 % intervals that resample targets. Dashed: a random order. Grey: baselines; blue: "
        "similarities; orange: combinations; black: half of the runs for the other half.",
    )
    return drawn


def report(
    *,
    title: str,
    lead: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, tuple[bytes, str]],
    notes: Mapping[str, str],
    details: Mapping[str, str],
) -> str:
    """The page.

    Args:
        title: heading.
        lead: what was read, and what was left out.
        answers: question -> sentences, in order.
        tables: of the run.
        figures: name -> PNG bytes and caption.
        notes: table -> what is said below it.
        details: heading -> text of the folded sections at the end.

    Returns:
        A complete HTML document.
    """
    sections = []
    for number, (question, sentences) in enumerate(answers.items(), 1):
        names = next(names for word, names in _QUESTIONS.items() if word in question.lower())
        shown = [figures[name] for name in names if name in figures]
        sections.append(Section(f"{number}. {question}", paragraphs=sentences, figures=shown))
    overview = [figures[name] for name in ("correlations", "layers") if name in figures]
    if overview:
        sections.append(Section("All measures", figures=overview))
    listed = [(_table(name, tables[name]), notes[name]) for name in _COLUMNS if name in notes and len(tables[name])]
    sections.append(Section("Tables", tables=listed))
    return page(title, lead, [section for section in sections if section.has_content], details)


def _table(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The columns that a reader wants; of one model without its name, of many layers the summaries alone."""
    columns = [column for column in _COLUMNS[name] if column in table]
    if len(set(table["model"])) == 1:
        columns.remove("model")
    if name == "relation" and len(table) > 40:
        table = table[table["summary"].astype(bool)]
    if name == "mrqap" and len(table) > 60:
        table = table[(table["role"] == "covariate") | table["layer"].isin(["all", "pooled"])]
    return table[columns]
