"""Figures of the cross-modal patching experiment (Luo, Darrell & Bar 2025, arXiv 2410.22330; their tables 1 to 4).

Every function takes the tidy tables that `python -m experiments.cross_modal_patch` saves and returns a matplotlib
`Figure`, so that a figure can be redrawn, or changed in a notebook, without running a model:

    sweep   = pandas.read_csv("sweep.csv")     one row per layer, source model, source, task, query modality and seed
    layers  = pandas.read_csv("layers.csv")    the layer chosen on the selection split
    summary = pandas.read_csv("summary.csv")   one row per arm and task ("all" is the mean over tasks), seeds combined

Colour always means the source of the task (Okabe and Ito's palette, safe for colour-blind readers). Numbers of items
stand in the titles, intervals are drawn wherever a rate is, and no legend lies over data.
"""

import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

SOURCES = {
    "text": "text examples",
    "image": "image examples",
    "instruction": "instruction",
    "ensemble": "instruction + text examples",
    "heads": "heads of text examples, added",
}
COLOURS = {
    "text": "#0072B2",
    "image": "#D55E00",
    "instruction": "#009E73",
    "ensemble": "#CC79A7",
    "heads": "#E69F00",
    "": "#444444",
}
MARKERS = {"text": "o", "image": "s", "instruction": "^", "ensemble": "D", "heads": "P", "": "o"}
METHODS = {
    "no_context": "no context",
    "majority": "majority answer",
    "question": "the question itself",
    "question_blank": "the question, blank image",
    "prompt": "prompt",
    "patch_single": "patch, one context",
    "patch_mean": "patch, mean of contexts",
    "control_random": "control: random vector",
    "control_wrong_task": "control: wrong task",
    "control_shuffled": "control: shuffled labels",
    "control_blank": "control: blank image",
}
_GRID: dict[str, Any] = {"color": "#E2E2E2", "linewidth": 0.6}

_Line = Literal["-", "--", ""]


def accuracy_per_layer(sweep: pd.DataFrame, layers: pd.DataFrame, *, task: str = "all") -> Figure:
    """Exact-match accuracy of patched selection queries against the patched layer.

    One panel per query modality (row) and source model (column), one line per source, seeds and (for "all") tasks
    combined with equal weight to each task. Bands are 95 % Wilson intervals that count each item once, whatever the
    number of seeds. A dashed line marks the chosen layer.

    Args:
        sweep: table with columns source_model, task, source, query, seed, layer, n, exact.
        layers: table with columns source_model, source, query, task, layer.
        task: a task's name, or "all".

    Returns:
        The figure, one axes per (query, source model).
    """
    shown = sweep if task == "all" else sweep[sweep["task"] == task]
    queries, models = _ordered(shown["query"], ("image", "text")), list(dict.fromkeys(shown["source_model"]))
    figure, axes = _grid(len(queries), len(models), size=(4.6, 2.7))
    chosen = layers[layers["task"] == task].set_index(["source_model", "source", "query"])["layer"]
    top = 0.0
    for row, query in enumerate(queries):
        for column, model in enumerate(models):
            panel, ax = shown[(shown["query"] == query) & (shown["source_model"] == model)], axes[row, column]
            for source in _ordered(panel["source"], SOURCES):
                top = max(top, _curve(ax, panel[panel["source"] == source], source, chosen.get((model, source, query))))
            ax.set_title(f"{query} queries, vectors from {model_name(model)}", loc="left")
            ax.grid(axis="y", **_GRID)
            if row == len(queries) - 1:
                ax.set_xlabel("patched layer (block output, 0-based)")
            if column == 0:
                ax.set_ylabel("exact match")
    for ax in axes.flat:
        ax.set_ylim(0, min(1.02, max(0.1, 1.08 * top)))
    _source_legend(figure, _ordered(shown["source"], SOURCES), extra=[("chosen layer", "--")])
    subject = "mean over tasks" if task == "all" else task
    _title(figure, f"Accuracy per patched layer, {subject} (selection split, {_count(shown)})")
    return figure


def accuracy_per_layer_and_task(sweep: pd.DataFrame, layers: pd.DataFrame, *, source_model: str) -> Figure:
    """The curves of `accuracy_per_layer` for one source model, a panel per task (column) and query modality (row)."""
    shown = sweep[sweep["source_model"] == source_model]
    queries, tasks = _ordered(shown["query"], ("image", "text")), list(dict.fromkeys(shown["task"]))
    figure, axes = _grid(len(queries), len(tasks), size=(2.5, 2.3))
    for row, query in enumerate(queries):
        for column, task in enumerate(tasks):
            panel, ax = shown[(shown["query"] == query) & (shown["task"] == task)], axes[row, column]
            chosen = layers[(layers["task"] == task) & (layers["source_model"] == source_model)]
            for source in _ordered(panel["source"], SOURCES):
                layer = chosen[(chosen["source"] == source) & (chosen["query"] == query)]["layer"]
                place = layer.iloc[0] if len(layer) else None
                _curve(ax, panel[panel["source"] == source], source, place, shade=0.06)
            ax.set_title(f"{task}\n{query} queries, n = {_items(panel)}", loc="left")
            ax.set_ylim(0, 1.02)
            ax.grid(axis="y", **_GRID)
            if row == len(queries) - 1:
                ax.set_xlabel("patched layer")
            if column == 0:
                ax.set_ylabel("exact match")
    _source_legend(figure, _ordered(shown["source"], SOURCES), extra=[("layer chosen for the task", "--")])
    _title(
        figure,
        f"Accuracy per patched layer, vectors from {model_name(source_model)} (selection split, {_count(shown)})",
    )
    return figure


def method_comparison(
    summary: pd.DataFrame,
    *,
    query: str | None = None,
    bars: str = "95 % Wilson intervals, each item counted once",
    score: str = "exact match",
) -> Figure:
    """Every arm's accuracy on the test split with its interval, one labelled line per arm.

    Args:
        summary: table with columns source_model, task, source, query, method, layer_choice, items, seeds, exact, low,
            high, demonstrations. Patches are shown at the layer pooled over tasks.
        query: None compares the means over tasks, one panel per query modality; "image" or "text" compares that
            modality's queries, one panel per task.
        bars: what low and high are.
        score: what the column exact holds.

    Returns:
        The figure; all panels share the list of arms on the left.
    """
    shown = summary[summary["layer_choice"].fillna("").isin(["", "pooled"])].fillna({"source": "", "source_model": ""})
    if query is None:
        shown = shown[shown["task"] == "all"]
        panels = [
            (f"{name} queries", shown[shown["query"] == name]) for name in _ordered(shown["query"], ("image", "text"))
        ]
        subject = "mean over tasks"
    else:
        shown = shown[(shown["query"] == query) & (shown["task"] != "all")]
        panels = [(name, shown[shown["task"] == name]) for name in dict.fromkeys(shown["task"])]
        subject = f"{query} queries"
    separator = ", " if query is None else "\n"
    arms = _arms(shown)
    places = _places(arms)
    figure = Figure(figsize=(3.1 + (4.2 if query is None else 2.1) * len(panels), 1.6 + 0.19 * (places[-1] + 1)))
    figure.set_layout_engine("constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True, sharex=True))
    for ax, (title, panel) in zip(axes, panels, strict=True):
        _dots(ax, panel, arms, places)
        ax.set_title(f"{title}{separator}n = {_span(panel['items'])}", loc="left")
        ax.set_xlabel(score)
    axes[0].set_ylim(places[-1] + 0.8, -0.8)
    axes[0].set_xlim(-0.02, min(1.02, max(0.2, 1.08 * shown["high"].max())))
    axes[0].set_yticks(places, [arm_name(*arm) for arm in arms])
    seeds = int(shown["seeds"].max())
    _title(
        figure,
        f"Methods compared, {subject} (test split, {seeds} seed{'s' if seeds > 1 else ''}; bars: {bars})",
    )
    return figure


def paired_differences(paired: pd.DataFrame, *, method: str = "patch_single") -> Figure:
    """Patch minus prompt, item by item: the difference in exact match with its bootstrap interval over items.

    Args:
        paired: table with columns task, query, source, source_model, method, layer_choice, items, difference, low,
            high, p. Patches are shown at the layer pooled over tasks.
        method: "patch_single" (as many demonstrations as the prompt) or "patch_mean".

    Returns:
        The figure, one panel per query modality, one line per task and source; filled markers have p < .05.
    """
    shown = paired[(paired["method"] == method) & (paired["layer_choice"] == "pooled")]
    queries, models = _ordered(shown["query"], ("image", "text")), list(dict.fromkeys(shown["source_model"]))
    tasks = [*[task for task in dict.fromkeys(shown["task"]) if task != "all"], "all"]
    figure, axes = _grid(len(models), len(queries), size=(4.4, 1.3 + 0.42 * len(tasks)), sharey=True)
    for row, model in enumerate(models):
        for column, query in enumerate(queries):
            ax, panel = axes[row, column], shown[(shown["query"] == query) & (shown["source_model"] == model)]
            sources = _ordered(panel["source"], SOURCES)
            for index, source in enumerate(sources):
                rows = panel[panel["source"] == source].set_index("task").reindex(tasks)
                offset = (index - (len(sources) - 1) / 2) * 0.17
                y = np.arange(len(tasks)) + offset
                ax.hlines(y, rows["low"], rows["high"], color=COLOURS[source], linewidth=1.2)
                for place, value, p in zip(y, rows["difference"], rows["p"], strict=True):
                    face = COLOURS[source] if p < 0.05 else "white"
                    ax.plot(value, place, MARKERS[source], color=COLOURS[source], markerfacecolor=face, markersize=4.5)
            ax.axvline(0, color="#444444", linewidth=0.8)
            ax.grid(axis="x", **_GRID)
            ax.set_yticks(range(len(tasks)), [*tasks[:-1], "all tasks"])
            ax.set_ylim(len(tasks) - 0.4, -0.6)
            ax.set_title(f"{query} queries, vectors from {model_name(model)}", loc="left")
            if row == len(models) - 1:
                ax.set_xlabel("exact match, patch minus prompt")
    _source_legend(figure, _ordered(shown["source"], SOURCES), line="")
    _title(
        figure,
        f"{METHODS[method].capitalize()}, against the prompt with the same source "
        f"(test split, {_span(shown[shown['task'] != 'all']['items'])} items a task; filled: p < .05)",
    )
    return figure


def arm_name(method: str, source: str, source_model: str) -> str:
    """An arm in words, e.g. "patch, one context · text examples (bundled)"."""
    if method == "patch_single" and source == "instruction":
        method = "patch"  # an instruction is read once
    name = METHODS.get(method, method)
    label = f"{name} · {SOURCES[source]}" if source else name
    return f"{label} ({model_name(source_model)})" if source_model else label


def model_name(model: str) -> str:
    """The part of a hub id or path that tells models apart."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def _curve(ax: Axes, rows: pd.DataFrame, source: str, chosen: float | None, *, shade: float = 0.13) -> float:
    """One source's curve with its band and chosen layer; returns the highest point of the band."""
    rate, low, high = _pool(rows)
    colour = COLOURS[source]
    ax.fill_between(rate.index, low, high, color=colour, alpha=shade, linewidth=0)
    every = max(1, len(rate) // 8)
    ax.plot(rate.index, rate, color=colour, linewidth=1.5, marker=MARKERS[source], markersize=3.5, markevery=every)
    if chosen is not None and not np.isnan(chosen):
        ax.axvline(chosen, color=colour, linestyle="--", linewidth=0.9, alpha=0.8)
    return float(high.max())


def _pool(rows: pd.DataFrame) -> tuple[pd.Series, np.ndarray, np.ndarray]:
    """Rate per layer, the mean over tasks of the mean over seeds, and its Wilson interval at the number of items."""
    rate = rows.groupby(["layer", "task"])["exact"].mean().groupby("layer").mean()
    items = rows.groupby(["layer", "task"])["n"].max().groupby("layer").sum()
    z = 1.959963984540054
    centre = (rate + z**2 / (2 * items)) / (1 + z**2 / items)
    half = z / (1 + z**2 / items) * np.sqrt(rate * (1 - rate) / items + z**2 / (4 * items**2))
    return rate, (centre - half).clip(0, 1).to_numpy(), (centre + half).clip(0, 1).to_numpy()


def _dots(ax: Axes, panel: pd.DataFrame, arms: Sequence[tuple[str, str, str]], places: Sequence[float]) -> None:
    """One marker with its interval per arm; hollow markers are vectors from another model than the patched one."""
    rows = panel.set_index(["method", "source", "source_model"])
    for arm, place in zip(arms, places, strict=True):
        if arm not in rows.index:
            continue
        value, low, high = rows.loc[arm, ["exact", "low", "high"]].astype(float).to_numpy().reshape(-1)[:3]
        own = arm[2] in ("", rows.loc[arm, "model"]) if "model" in rows.columns else True
        colour = COLOURS[arm[1]]
        ax.hlines(place, low, high, color=colour, linewidth=1.3)
        ax.plot(value, place, MARKERS[arm[1]], color=colour, markerfacecolor=colour if own else "white", markersize=5)
    for upper, lower in zip(range(len(arms) - 1), range(1, len(arms)), strict=True):
        if arms[upper][0] != arms[lower][0] and "no_context" not in arms[upper][0]:
            ax.axhline((places[upper] + places[lower]) / 2, color="#BBBBBB", linewidth=0.6)
    ax.grid(axis="x", **_GRID)
    ax.tick_params(axis="y", length=0)


def _arms(summary: pd.DataFrame) -> list[tuple[str, str, str]]:
    """The (method, source, source model) triples of a table, in the order of the legend, own model first."""
    present = {(row.method, row.source, row.source_model): row.model for row in summary.itertuples()}
    methods, sources = list(METHODS), list(SOURCES)
    return sorted(
        present,
        key=lambda arm: (
            methods.index(arm[0]),
            arm[2] not in ("", present[arm]),
            arm[2],
            sources.index(arm[1]) if arm[1] else -1,
        ),
    )


def _places(arms: Sequence[tuple[str, str, str]]) -> list[float]:
    """Vertical places: one unit per arm and an extra gap where the method changes."""
    places, place = [], 0.0
    for index, arm in enumerate(arms):
        if index and arm[0] != arms[index - 1][0]:
            place += 0.6
        places.append(place)
        place += 1.0
    return places


def _title(figure: Figure, text: str) -> None:
    """A title over the whole figure, broken where a narrow figure needs it."""
    figure.suptitle(textwrap.fill(text, width=int(10 * figure.get_figwidth())))


def _grid(rows: int, columns: int, *, size: tuple[float, float], sharey: bool = False) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(size[0] * columns + 0.6, size[1] * rows + 0.9))
    figure.set_layout_engine("constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=sharey)


def _source_legend(
    figure: Figure, sources: Sequence[str], *, extra: Sequence[tuple[str, _Line]] = (), line: _Line = "-"
) -> None:
    handles = [
        Line2D([], [], color=COLOURS[s], marker=MARKERS[s], markersize=4, linestyle=line, label=SOURCES[s])
        for s in sources
    ]
    handles += [Line2D([], [], color="#444444", linestyle=style, linewidth=0.9, label=label) for label, style in extra]
    columns = max(1, min(len(handles), 5, int(figure.get_figwidth() / 1.9)))  # the longest label takes 1.9 inches
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _ordered(values: pd.Series, order: Sequence[str] | dict[str, str]) -> list[str]:
    present = set(values)
    return [value for value in order if value in present]


def _items(panel: pd.DataFrame) -> str:
    return _span(panel["n"])


def _count(sweep: pd.DataFrame) -> str:
    seeds = sweep["seed"].nunique()
    return f"n = {_span(sweep['n'])} items a task, {seeds} seed{'s' if seeds > 1 else ''}"


def _span(values: pd.Series) -> str:
    if not len(values):
        return "0"
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"
