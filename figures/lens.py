"""Figures of the logit lens (Luo et al. 2025, their token evolution): curves over layers, and ranks over layers.

evolution = pandas.read_csv("evolution.csv")   one row per task, source, query, labels, layer and curve
switches  = pandas.read_csv("switches.csv")    one row per task, source, query, labels and switch
ranks     = pandas.read_csv("ranks.csv")       one row per task, vector, control, set of tokens and layer
tokens    = pandas.read_csv("tokens.csv")      one row per task, vector, layer and place
"""

import textwrap
from collections.abc import Sequence
from html import escape

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
CURVES = {"input": ("#666666", "input"), "task": ("#D55E00", "task"), "answer": ("#0072B2", "answer")}
CONTROLS = {"other_task": ("task", "another task's words"), "other_answer": ("answer", "another item's answer")}
VECTORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B")


def token_evolution(evolution: pd.DataFrame, switches: pd.DataFrame) -> Figure:
    """Relative probability of input, task and answer over layers, a panel per task (column) and query (row).

    Solid with bands: right labels. Dashed: labels shuffled among the demonstrations. Below each panel's top edge the
    layers of the two switches with their intervals (right labels): the end of the input in the task's colour, answer
    over task in the answer's.

    Args:
        evolution: table with columns task, source, query, labels, layer, curve, relative, low, high, sets.
        switches: table with columns task, query, labels, switch, layer, low, high.
    """
    figure, axes = _panels(evolution)
    for (query, task), ax in axes.items():
        panel = evolution[(evolution["query"] == query) & (evolution["task"] == task)]
        for curve, (colour, _) in CURVES.items():
            own = panel[panel["curve"] == curve]
            _line(ax, own[own["labels"] == "right"], colour, band=True)
            _line(ax, own[own["labels"] == "shuffled"], colour, style="--")
        found = switches[(switches["query"] == query) & (switches["task"] == task) & (switches["labels"] == "right")]
        last = panel["layer"].max()
        for row in found.itertuples():
            after, height = ("task", 1.09) if row.switch == "input ends" else ("answer", 1.04)
            _switch(ax, row, height, CURVES[after][0], last)
        ax.set_ylim(-0.02, 1.13)
    styles = [Line2D([], [], color=colour, label=f"{label} tokens") for colour, label in CURVES.values()]
    styles += [Line2D([], [], color="#888888", linestyle="--", label="with shuffled labels")]
    styles += [Line2D([], [], color="#888888", marker="|", label="switch with 95 % interval")]
    figure.legend(handles=styles, loc="outside lower center", ncols=5, frameon=False)
    _title(figure, f"What the delimiter says through the logit lens ({_sets(evolution)}; bands: 95 % bootstrap)")
    return figure


def evolution_controls(evolution: pd.DataFrame) -> Figure:
    """The task and the answer curve beside what other words in their place would get, right labels, same panels."""
    evolution = evolution[evolution["labels"] == "right"]
    figure, axes = _panels(evolution)
    for (query, task), ax in axes.items():
        panel = evolution[(evolution["query"] == query) & (evolution["task"] == task)]
        for control, (curve, _) in CONTROLS.items():
            colour = CURVES[curve][0]
            _line(ax, panel[panel["curve"] == curve], colour, band=True)
            _line(ax, panel[panel["curve"] == control], colour, style=":", band=True)
        ax.set_ylim(-0.02, 1.02)
    styles = [Line2D([], [], color=CURVES[curve][0], label=f"{curve} tokens") for curve in ("task", "answer")]
    styles += [
        Line2D([], [], color=CURVES[curve][0], linestyle=":", label=f"{label} in its place")
        for curve, label in CONTROLS.values()
    ]
    figure.legend(handles=styles, loc="outside lower center", ncols=4, frameon=False)
    _title(figure, f"Task and answer curves beside their controls ({_sets(evolution)}; bands: 95 % bootstrap)")
    return figure


def ranks_over_layers(ranks: pd.DataFrame, *, tokens: str) -> Figure:
    """Rank among the vocabulary of a set of tokens over layers, one panel per task and kind of vector.

    Args:
        ranks: table with columns task, vector, control, tokens, layer, rank, low, high.
        tokens: "task words" or "answers".

    Returns:
        The figure; the upper row has the vectors of specifications, the lower one differences of vectors. Controls
        are dashed (the same vector of the other tasks) and grey (random vectors).
    """
    shown = ranks[ranks["tokens"] == tokens].fillna({"control": ""})
    tasks, vectors = list(dict.fromkeys(shown["task"])), list(dict.fromkeys(shown["vector"]))
    kinds = {
        "specifications": [v for v in vectors if "minus" not in v],
        "differences": [v for v in vectors if "minus" in v],
    }
    kinds = {name: own for name, own in kinds.items() if own}
    colours = dict(zip(vectors, VECTORS * (1 + len(vectors) // len(VECTORS)), strict=False))
    figure = Figure(figsize=(2.6 * len(tasks) + 0.6, 2.3 * len(kinds) + 1.1))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(kinds), len(tasks), squeeze=False, sharex=True, sharey=True)
    for row, (kind, own) in enumerate(kinds.items()):
        for column, task in enumerate(tasks):
            ax, panel = axes[row, column], shown[shown["task"] == task]
            for vector in own:
                lines = panel[panel["vector"] == vector]
                _line(ax, lines[lines["control"] == ""], colours[vector], band=True, value="rank")
                _line(ax, lines[lines["control"] == "other tasks"], colours[vector], style="--", value="rank")
            _line(ax, panel[panel["control"] == "random"], "#999999", band=True, value="rank")
            ax.set_yscale("log")
            ax.grid(axis="y", **_GRID)
            if row == 0:
                ax.set_title(task, loc="left")
            if row == len(kinds) - 1:
                ax.set_xlabel("layer (block output)")
            if column == 0:
                ax.set_ylabel(f"rank, {kind}")
    axes[0, 0].invert_yaxis()
    styles = [Line2D([], [], color=colours[vector], label=vector) for own in kinds.values() for vector in own]
    styles += [Line2D([], [], color="#666666", linestyle="--", label="the same of the other tasks (control)")]
    styles += [Line2D([], [], color="#999999", label="random vector of the same norm (control)")]
    figure.legend(handles=styles, loc="outside lower center", ncols=4, frameon=False)
    what = "the most probable task word" if tokens == "task words" else "the answers' first tokens, geometric mean"
    _title(figure, f"Rank of {what} in task vectors read through the logit lens (1 is the most probable)")
    return figure


def token_table(tokens: pd.DataFrame, *, layers: Sequence[int], count: int = 5) -> str:
    """The top tokens of every vector at some layers, as an HTML table; task words bold, answers underlined.

    Args:
        tokens: table with columns task, vector, control, layer, place, token, probability, task_word, answer.
        layers: which layers make the columns.
        count: tokens a cell.
    """
    shown = tokens[tokens["layer"].isin(layers) & (tokens["place"] <= count)].fillna({"control": ""})
    head = "".join(f"<th class='text'>layer {layer}</th>" for layer in layers)
    rows, previous = [], None
    for (task, vector, control), group in shown.groupby(["task", "vector", "control"], sort=False):
        cells = "".join(f"<td class='text'>{_cell(group[group['layer'] == layer])}</td>" for layer in layers)
        first = " class='group'" if task != previous else ""
        previous = task
        name = f"control: {control}" if control else vector
        rows.append(f"<tr{first}><td>{escape(task)}</td><td class='text'>{escape(name)}</td>{cells}</tr>")
    return (
        f"<div class='scroll'><table><tr><th>task</th><th class='text'>vector</th>{head}</tr>{''.join(rows)}</table>"
        "</div><p class='note'>Most probable tokens through the logit lens with their probabilities, ▁ for a leading "
        "space. Bold: a task word. Underlined: the first token of an accepted answer. tokens.csv has all layers.</p>"
    )


def _cell(rows: pd.DataFrame) -> str:
    parts = []
    for row in rows.sort_values("place").itertuples():
        text = escape(str(row.token))
        text = f"<b>{text}</b>" if row.task_word else f"<u>{text}</u>" if row.answer else text
        parts.append(f"{text} <small>{f'{row.probability:.2f}'.removeprefix('0')}</small>")
    return "<br>".join(parts)


def _panels(evolution: pd.DataFrame) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """One axes per query modality (row) and task (column)."""
    queries, tasks = list(dict.fromkeys(evolution["query"])), list(dict.fromkeys(evolution["task"]))
    sources = dict(zip(evolution["query"], evolution["source"], strict=True))
    figure = Figure(figsize=(2.3 * len(tasks) + 0.8, 2.2 * len(queries) + 1.0))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(queries), len(tasks), squeeze=False, sharex=True, sharey=True)
    found = {}
    for row, query in enumerate(queries):
        for column, task in enumerate(tasks):
            ax = found[query, task] = axes[row, column]
            ax.grid(axis="y", **_GRID)
            if row == 0:
                ax.set_title("mean over tasks" if task == "all" else task, loc="left")
            if row == len(queries) - 1:
                ax.set_xlabel("layer (block output)")
            if column == 0:
                ax.set_ylabel(f"{query} query, {sources[query]} examples\nrelative probability")
    return figure, found


def _line(
    ax: Axes, rows: pd.DataFrame, colour: str, *, style: str = "-", band: bool = False, value: str = "relative"
) -> None:
    rows = rows.sort_values("layer")
    if band and rows["low"].notna().any():
        ax.fill_between(rows["layer"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
    ax.plot(rows["layer"], rows[value], color=colour, linestyle=style, linewidth=1.5 if style == "-" else 1.0)


def _switch(ax: Axes, row: object, height: float, colour: str, last: float) -> None:
    """A switch's layer and interval; an arrow-like end past the last layer where it may not happen at all."""
    low, layer, high = (getattr(row, name) for name in ("low", "layer", "high"))
    ends = [last + 0.5 if pd.isna(bound) else float(bound) for bound in (low, high)]
    ax.hlines(height, *ends, color=colour, linewidth=1.2)
    if not pd.isna(layer):
        ax.plot(float(layer), height, "|", color=colour, markersize=7, markeredgewidth=1.6)


def _sets(evolution: pd.DataFrame) -> str:
    tasks = evolution[evolution["task"] != "all"]
    items = sorted(set(tasks["items"]))
    span = str(items[0]) if len(items) == 1 else f"{items[0]} to {items[-1]}"
    return f"{int(tasks['sets'].max())} example sets a task, of {span} queries"


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(textwrap.fill(text, width=int(13 * figure.get_figwidth())))
