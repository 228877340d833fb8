"""Figures of the CoVFT study: arms against their reference, shares of the data, types of task, costs, expectations.

arms = pandas.read_csv("arms.csv")                   mean over tasks of each arm
comparisons = pandas.read_csv("comparisons.csv")     differences from the table's reference, by task and on average
costs = pandas.read_csv("costs.csv")                 time, memory and FLOPs of each arm
expectations = pandas.read_csv("expectations.csv")   contrasts that should be above zero, and their answers
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
_ANSWERS = {"held": "#009E73", "not held": "#D55E00", "not decidable": "#777777"}
_MACRO, _FROZEN, _COVFT = "macro", "frozen", "covft"
_DEFAULT_EXPERTS = 4
NAMES = {
    "A": ("strategies", "Strategies"),
    "B": ("context", "What the router reads"),
    "C": ("routing", "Routing"),
    "D": ("layers", "Layers with experts"),
    "F": ("experts", "Number of experts"),
    "G": ("data", "Shares of the data"),
    "H": ("types", "Experts against types of task"),
    "I": ("parameters", "As many trained parameters"),
}
"""Table -> name of its figure, and its title. Costs (E) are in "costs", and answers in "answers"."""


def all_figures(tables: Mapping[str, pd.DataFrame]) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, of what the tables hold."""
    found: dict[str, tuple[Figure, str]] = {}
    expected = tables["expectations"]
    if expected["contrast"].notna().any():
        caption = "Contrasts that the paper's orderings put above zero, with 95 % intervals over items and seeds."
        found["answers"] = (answers(expected), caption)
    for table, (name, title) in NAMES.items():
        shown = tables["comparisons"].query("table == @table")
        if shown.empty:
            continue
        if table in ("G", "H"):
            along = "fraction" if table == "G" else "types"
            figure = lines(tables["arms"].query("table == @table"), along=along)
            found[name] = figure, f"{title}: accuracy, mean over tasks, with 95 % intervals over items and seeds."
        else:
            reference = next((one for one in shown["reference"] if one != _FROZEN), _FROZEN)  # of a single arm
            figure = differences(shown[shown["reference"] == reference])
            found[name] = figure, f"{title}: accuracy minus that of {reference}, paired by item and seed."
    if "costs" in tables and len(tables["costs"]):
        found["costs"] = costs(tables["costs"]), "Costs relative to training the whole tower; medians over repeats."
    return found


def rates(table: pd.DataFrame) -> Figure:
    """Accuracy on selection items by learning rate, a line for each strategy, the chosen rate marked.

    Args:
        table: columns strategy, learning_rate, accuracy, low, high, chosen, as `interp.covft.rates.table` makes it.
    """
    figure = Figure(figsize=(6.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (name, rows) in enumerate(table.groupby("strategy", sort=False)):
        rows, colour = rows.sort_values("learning_rate"), _COLOURS[number % len(_COLOURS)]
        style = "-" if number < len(_COLOURS) else "--"
        axes.plot(rows["learning_rate"], rows["accuracy"], style, color=colour, linewidth=1.2, label=name)
        axes.fill_between(rows["learning_rate"], rows["low"], rows["high"], color=colour, alpha=0.08, linewidth=0)
        best = rows[rows["chosen"].astype(bool)]
        axes.plot(best["learning_rate"], best["accuracy"], "o", color=colour, markersize=5)
    axes.set_xscale("log")
    grid = sorted(set(table["learning_rate"]))
    axes.set_xticks(grid, [f"{rate:g}" for rate in grid])
    axes.minorticks_off()
    axes.set_xlabel("learning rate", fontsize=9)
    axes.set_ylabel("accuracy on selection items, mean over tasks", fontsize=9)
    axes.grid(**_GRID)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def differences(table: pd.DataFrame) -> Figure:
    """Each arm's difference from the reference: the mean over tasks with its interval, and by task.

    Args:
        table: comparisons with one reference; columns arm, reference, mixture, task, difference, low, high.
    """
    mixtures = list(dict.fromkeys(table["mixture"]))
    arms = list(dict.fromkeys(table["arm"]))
    tasks = {m: [t for t in dict.fromkeys(table.loc[table["mixture"] == m, "task"]) if t != _MACRO] for m in mixtures}
    widest = max(map(len, tasks.values()))
    figure = Figure(figsize=(6.0 + 0.55 * widest, max(1, len(mixtures)) * (1.6 + 0.32 * len(arms))))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(mixtures), 2, squeeze=False, width_ratios=(3, max(1.0, 0.5 * widest)))
    for (left, right), mixture in zip(axes, mixtures, strict=True):
        here = table[table["mixture"] == mixture]
        macro = here[here["task"] == _MACRO].set_index("arm").reindex(arms)
        _forest(left, macro["difference"], macro["low"], macro["high"], ["#0072B2"] * len(arms))
        left.set_yticks(range(len(arms)), arms, fontsize=8)
        left.set_xlabel(f"accuracy minus {here['reference'].iloc[0]}, mean over tasks", fontsize=8)
        grid = here[here["task"] != _MACRO].pivot_table(index="arm", columns="task", values="difference", sort=False)
        values = grid.reindex(index=arms, columns=tasks[mixture]).to_numpy(dtype=float)
        top = max(0.05, float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.05)
        right.imshow(values, cmap="RdBu", vmin=-top, vmax=top, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.65 * top else "black"
                right.text(column, row, f"{100 * value:+.0f}", ha="center", va="center", fontsize=7, color=colour)
        right.set_xticks(range(len(tasks[mixture])), [t.replace("_", " ") for t in tasks[mixture]], fontsize=7)
        right.tick_params(axis="x", rotation=40)
        for label in right.get_xticklabels():
            label.set_ha("right")
        right.set_yticks([])
        right.set_title("by task, in points", fontsize=8)
    return figure


def lines(table: pd.DataFrame, *, along: str) -> Figure:
    """Mean accuracy of each arm along the share of the data ("fraction") or the number of types of task ("types").

    Args:
        table: arms of one table; columns arm, accuracy, low, high, and the one named.
        along: the column that is drawn to the right.
    """
    figure = Figure(figsize=(6.6, 3.8))
    figure.set_layout_engine("constrained")
    ax = figure.subplots()
    arms = sorted(dict.fromkeys(table["arm"]), key=_experts)
    places = sorted(set(table[along]))
    colours = dict(zip([arm for arm in arms if arm != _FROZEN], _COLOURS * len(arms), strict=False))
    for number, arm in enumerate(arms):
        here = table[table["arm"] == arm].sort_values(along)
        x = np.array([places.index(place) for place in here[along]]) + 0.05 * (number - len(arms) / 2)
        errors = [(here["accuracy"] - here["low"]).clip(lower=0), (here["high"] - here["accuracy"]).clip(lower=0)]
        colour, style = colours.get(arm, "#777777"), "--" if arm == _FROZEN else "-"
        ax.errorbar(
            x,
            here["accuracy"],
            yerr=errors,
            fmt=f"o{style}",
            markersize=4,
            capsize=2,
            color=colour,
            label=_labelled(arm, along),
        )
    named = [f"{100 * place:g} %" if along == "fraction" else f"{place}" for place in places]
    ax.set_xticks(range(len(places)), named)
    ax.set_xlabel("share of the examples and steps" if along == "fraction" else "types of task in the mixture")
    ax.set_ylabel("accuracy, mean over tasks")
    ax.grid(axis="y", **_GRID)
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _experts(arm: str) -> tuple[int, int]:
    """Arms of CoVFT by their number of experts behind the frozen model; then the others, as they come."""
    if not arm.startswith(_COVFT):
        return (0 if arm == _FROZEN else 2), 0
    return 1, int(arm.partition("num_experts=")[2].partition(" ")[0] or _DEFAULT_EXPERTS)


def _labelled(arm: str, along: str) -> str:
    return f"{_COVFT} num_experts={_DEFAULT_EXPERTS}" if (arm, along) == (_COVFT, "types") else arm


def costs(table: pd.DataFrame, *, reference: str = "vision_full") -> Figure:
    """Time of a step, time of an item, peak memory and tower FLOPs of each arm, relative to the reference.

    Args:
        table: columns arm, step_seconds, item_seconds, peak_bytes, tower_flops.
        reference: the arm that has 1 everywhere; the first one if it was not measured.
    """
    measures = {
        "step_seconds": "time of a step",
        "item_seconds": "time of a tested item",
        "peak_bytes": "peak memory above the model",
        "tower_flops": "FLOPs of the tower",
    }
    by_arm = table.set_index("arm")
    base = reference if reference in by_arm.index else by_arm.index[0]
    figure = Figure(figsize=(10.5, 1.3 + 0.28 * len(by_arm)))
    figure.set_layout_engine("constrained")
    for ax, (name, title) in zip(figure.subplots(1, 4, sharey=True), measures.items(), strict=True):
        ratio = by_arm[name] / by_arm.loc[base, name]
        ax.barh(range(len(by_arm)), ratio, color="#0072B2", height=0.65)
        ax.set_axisbelow(True)
        ax.axvline(1, color="#444444", linewidth=0.8)
        ax.set_title(f"{title} / {base}", fontsize=8)
        ax.set_yticks(range(len(by_arm)), list(by_arm.index), fontsize=8)
        ax.grid(axis="x", **_GRID)
    ax.invert_yaxis()
    return figure


def answers(table: pd.DataFrame) -> Figure:
    """Every expectation's contrast with its interval; costs, which have another scale, beside.

    Args:
        table: columns key, table, claim, contrast, low, high, answer.
    """
    measured = table[table["contrast"].notna()]
    parts = [part for part in (measured[measured["table"] != "E"], measured[measured["table"] == "E"]) if len(part)]
    heights = [len(part) for part in parts]
    figure = Figure(figsize=(7.6, 1.2 * len(parts) + 0.24 * sum(heights)))
    figure.set_layout_engine("constrained")
    for ax, part in zip(figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0], parts, strict=True):
        colours = [_ANSWERS[answer] for answer in part["answer"]]
        _forest(ax, part["contrast"], part["low"], part["high"], colours)
        said = [f"{row.key}  {row.claim}: {row.answer}" for row in part.itertuples()]
        ax.set_yticks(range(len(part)), said, fontsize=7)
        relative = part["table"].iloc[0] == "E"
        ax.set_xlabel("relative cost, minus 1" if relative else "contrast of accuracies", fontsize=8)
    return figure


def _forest(ax: Axes, values: pd.Series, low: pd.Series, high: pd.Series, colours: list[str]) -> None:
    """Points with intervals, from top to bottom, around a line at zero."""
    for place, (value, least, most, colour) in enumerate(zip(values, low, high, colours, strict=True)):
        ax.plot([least, most], [place, place], color=colour, linewidth=1.6)
        ax.plot(value, place, "o", color=colour, markersize=4)
    ax.axvline(0, color="#444444", linewidth=0.8)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(axis="x", **_GRID)
