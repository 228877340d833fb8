"""Every figure of an analysed transfer matrix, from the tables that `python -m experiments.analyse_transfer` saves."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from figures.pgf import accuracy_heatmap, difference_heatmap, factor_heatmap
from figures.pgf_graph import transfer_graphs
from figures.pgf_nulls import null_histograms, variance_bars
from figures.pgf_scores import category_trends, dose_scatter, fraction_curves, score_bars

MEASURES = {
    "pgf": "PGF",
    "chance": "PGF above chance",
    "log_p": "PGF on log p",
    "brier": "PGF on Brier score",
    "log_odds": "log-odds difference",
}


def all_figures(
    tables: Mapping[str, pd.DataFrame],
    graph: Mapping[str, Any],
    *,
    short: Mapping[str, str],
    steps: Mapping[str, float] | None = None,
    measure: str = "pgf",
) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, in the order of the report; what the tables are empty for is left out.

    Args:
        tables: name -> table.
        graph: of graph.json.
        short: task -> what to write for it.
        steps: task -> training steps.
        measure: what stands in the cells.
    """
    edges, scores, categories = tables["edges"], tables["task_scores"], tables["categories"]
    drawn: dict[str, tuple[Figure, str]] = {
        "pgf": (
            factor_heatmap(edges, short=short, constant=tables["constant_cells"], measure=MEASURES[measure]),
            "Mean over runs with the standard deviation below; rows are sources, columns targets, boxes a task on "
            "itself. * differs from the baseline item by item (false discovery rate 5 %, where items are known). An "
            "orange corner: the cell may always give one letter.",
        )
    }
    if edges["accuracy"].notna().any():
        drawn["accuracy"] = (
            accuracy_heatmap(edges, short=short),
            "Accuracies with standard deviations over runs; the first row is the model before fine-tuning.",
        )
    drawn["scores"] = (
        score_bars(scores, short=short),
        "Transferability and malleability of every task, what it does to itself not counted; hollow marks count it.",
    )
    if categories["axis"].isin(["level", "granularity"]).any():
        drawn["categories"] = (
            category_trends(categories, scores, graph["nodes"]),
            "Mean scores by perceptual level and granularity. Most categories are our assignment; see categories.csv.",
        )
    drawn["graph"] = (transfer_graphs(graph), "The strongest edges by absolute weight, in each panel a larger share.")
    if len(tables["nulls"]):
        drawn["nulls"] = (
            null_histograms(tables["nulls"], tables["null_values"]),
            "Clique statistics of the measured matrix and of random ones without pair-specific transfer. A measured "
            "value within the curves is what such matrices give.",
        )
    if len(tables["variance"]):
        drawn["variance"] = (
            variance_bars(tables["variance"]),
            "Shares of the variance of cells off the diagonal (social relations model).",
        )
    if len(tables["dose"]):
        drawn["dose"] = (
            dose_scatter(scores, steps or {}, tables["dose"], short=short),
            "Transferability against the training steps of the source.",
        )
    if len(tables["fractions"]):
        drawn["fractions"] = (
            fraction_curves(tables["fractions"], short=short),
            "Scores at every share of the training; the thick lines are means over tasks.",
        )
    columns = {"pgf": "PGF", "pgf_best_bound": "PGF, best-bound"} | {k: v for k, v in MEASURES.items() if k != "pgf"}
    drawn["measures"] = (
        difference_heatmap(tables["measures"], short=short, columns=columns),
        "The same cells with other ceilings and on other scales. Grey: undefined.",
    )
    return drawn
