"""Figures of the robustness experiment: rates = pandas.read_csv("rates.csv"), the rows of one part.

One row per query modality, method, source, setting, level, query template and task; what is drawn is the mean over
tasks, and bands are bootstraps over items and seeds.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.cross_modal import COLOURS, SOURCES

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
_STYLES = {"patch": "-", "prompt": "--"}
_GREY = {"control_wrong_task": (":", "control: wrong task"), "control_random": ("-.", "control: random vector")}
_CROSSES = {"control_wrong_task": ("x", "control: wrong task"), "control_random": ("+", "control: random vector")}
_FLAT = {"no_context": ((0, (1, 3)), "#444444", "no context"), "majority": ((0, (4, 2)), "#BBBBBB", "majority answer")}
_AXES = {"number": "demonstrations in one context", "labels": "share of wrong labels"}
_TITLES = {"number": "Number of demonstrations", "labels": "Wrong labels"}


def template_matrix(rates: pd.DataFrame, templates: Sequence[str]) -> Figure:
    """Exact match of a vector read under one template (row) in queries under another (column), with its controls.

    Args:
        rates: the rows of part "template".
        templates: what template 0, 1, ... are.
    """
    shown = rates[rates["task"] == "all"]
    queries, n = list(dict.fromkeys(shown["query"])), len(templates)
    beside = {"prompt": "prompt", "control_wrong_task": "wrong task", "control_random": "random", "no_context": "bare"}
    figure = Figure(figsize=(3.2 + (1.2 + 0.75 * n) * len(queries), 2.0 + 0.42 * (n + len(beside))))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, len(queries), squeeze=False, sharey=True)[0]
    top = max(0.1, float(shown["exact"].max()))
    for ax, query in zip(axes, queries, strict=True):
        panel = shown[shown["query"] == query]
        patch = panel[panel["method"] == "patch"].assign(
            read=lambda rows: rows["setting"].str.removeprefix("template ").astype(int)
        )
        matrix = patch.pivot_table("exact", "read", "query_template")
        under = [
            panel[panel["method"] == method].set_index("query_template")["exact"].reindex(range(n)) for method in beside
        ]
        table = pd.concat([matrix, pd.DataFrame(under)]).to_numpy(float)
        image = ax.imshow(table, cmap="Blues", vmin=0, vmax=top, aspect="auto")
        for row in range(table.shape[0]):
            for column in range(table.shape[1]):
                value = table[row, column]
                ink = "white" if value > 0.6 * top else "black"
                weight = "bold" if row == column else "normal"
                ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, weight=weight, fontsize=8)
        ax.axhline(n - 0.5, color="#444444", linewidth=1.2)
        ax.set_xticks(range(n), [f"query {t}" for t in range(n)])
        ax.set_title(f"{query} queries, n = {int(panel['items'].max())} items", loc="left")
    axes[0].set_yticks(
        range(n + len(beside)), [*(f"{t}: {name}" for t, name in enumerate(templates)), *beside.values()]
    )
    figure.colorbar(image, ax=list(axes), label="exact match")
    figure.suptitle("Vector read under the template of the row, query under that of the column")
    return figure


def noisy_instructions(rates: pd.DataFrame) -> Figure:
    """Exact match against the share of changed words; a panel per kind of noise (column) and query modality (row)."""
    shown = rates[rates["task"] == "all"]
    queries = list(dict.fromkeys(shown["query"]))
    kinds = [kind for kind in dict.fromkeys(shown["setting"].fillna("")) if kind not in ("", "clean")]
    figure, axes = _grid(len(queries), len(kinds))
    for row, query in enumerate(queries):
        for column, kind in enumerate(kinds):
            ax, panel = axes[row][column], shown[shown["query"] == query]
            for source in ("instruction", "ensemble"):
                for method in _STYLES:
                    arm = panel[(panel["source"] == source) & (panel["method"] == method)]
                    line = arm[arm["setting"].isin(["clean", kind])].sort_values("level")
                    _line(ax, line, COLOURS[source], _STYLES[method])
                for method, (mark, _) in _CROSSES.items():
                    control = panel[(panel["method"] == method) & (panel["source"] == source)]
                    ax.plot(control["level"], control["exact"], mark, color=COLOURS[source], markersize=5)
            _flat(ax, panel)
            ax.set_title(f"{kind}, {query} queries", loc="left")
            ax.set_xlabel("share of changed words")
        axes[row][0].set_ylabel("exact match")
    _finish(figure, shown, ["instruction", "ensemble"], crosses=True)
    figure.suptitle("Noisy instructions, mean over tasks")
    return figure


def by_level(rates: pd.DataFrame) -> Figure:
    """Prompt and patch against the number of demonstrations, or the share of wrong labels; a panel per query modality.

    Args:
        rates: the rows of part "number" or "labels".
    """
    part, shown = rates["part"].iloc[0], rates[rates["task"] == "all"]
    queries = list(dict.fromkeys(shown["query"]))
    figure, axes = _grid(1, len(queries))
    for ax, query in zip(axes[0], queries, strict=True):
        panel = shown[shown["query"] == query]
        for method, style in _STYLES.items():
            _line(ax, panel[panel["method"] == method].sort_values("level"), COLOURS["text"], style)
        _flat(ax, panel)
        for method, (style, _) in _GREY.items():
            for value in panel[panel["method"] == method]["exact"]:
                ax.axhline(value, color="#888888", linestyle=style, linewidth=1)
        ax.set_title(f"{query} queries, n = {int(panel['items'].max())} items", loc="left")
        ax.set_xlabel(_AXES[part])
    axes[0][0].set_ylabel("exact match")
    _finish(figure, shown, ["text"], grey=True)
    figure.suptitle(f"{_TITLES[part]}, mean over tasks")
    return figure


def strength(rates: pd.DataFrame) -> Figure:
    """Exact match against the factor of the vector; a panel per way of writing it (column) and query modality (row)."""
    shown = rates[rates["task"] == "all"]
    queries = list(dict.fromkeys(shown["query"]))
    modes = [mode for mode in ("replace", "add") if mode in set(shown["setting"])]
    figure, axes = _grid(len(queries), len(modes))
    for row, query in enumerate(queries):
        for column, mode in enumerate(modes):
            ax, panel = axes[row][column], shown[shown["query"] == query]
            here = panel[panel["setting"] == mode].sort_values("level")
            _line(ax, here[here["method"] == "patch"], COLOURS["text"], "-")
            for method, (style, _) in _GREY.items():
                _line(ax, here[here["method"] == method], "#888888", style, band=False)
            _flat(ax, panel)
            ax.set_xscale("log", base=2)
            ax.set_xticks(sorted(set(here["level"])), [f"{level:g}" for level in sorted(set(here["level"]))])
            layer = int(here["layer"].dropna().iloc[0])
            ax.set_title(f"{mode}, {query} queries, layer {layer}", loc="left")
            ax.set_xlabel("factor of the vector")
        axes[row][0].set_ylabel("exact match")
    _finish(figure, shown, ["text"], grey=True, methods=("patch",))
    figure.suptitle("Strength of the patch, mean over tasks")
    return figure


def _grid(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(3.5 * columns + 0.6, 2.7 * rows + 1.1))
    figure.set_layout_engine("constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).tolist()


def _line(ax: Axes, line: pd.DataFrame, colour: str, style: str, *, band: bool = True) -> None:
    if band:
        ax.fill_between(line["level"], line["low"], line["high"], color=colour, alpha=0.12, linewidth=0)
    ax.plot(line["level"], line["exact"], color=colour, linestyle=style, marker="o", markersize=3.5, linewidth=1.4)


def _flat(ax: Axes, panel: pd.DataFrame) -> None:
    for method, (style, colour, _) in _FLAT.items():
        value = panel[panel["method"] == method]["exact"]
        if len(value):
            ax.axhline(value.iloc[0], color=colour, linestyle=style, linewidth=1)
    ax.grid(axis="y", **_GRID)


def _finish(
    figure: Figure,
    shown: pd.DataFrame,
    sources: Sequence[str],
    *,
    grey: bool = False,
    crosses: bool = False,
    methods: Sequence[str] = ("patch", "prompt"),
) -> None:
    """Limits and the legend below."""
    for ax in figure.axes:
        ax.set_ylim(0, min(1.02, max(0.1, 1.08 * float(shown["high"].max()))))
    handles = [
        Line2D([], [], color=COLOURS[source], linestyle=_STYLES[method], label=f"{method} · {SOURCES[source]}")
        for source in sources
        for method in methods
    ]
    if grey:
        handles += [Line2D([], [], color="#888888", linestyle=style, label=label) for style, label in _GREY.values()]
    if crosses:
        handles += [
            Line2D([], [], color="#444444", marker=mark, linestyle="", label=label) for mark, label in _CROSSES.values()
        ]
    handles += [Line2D([], [], color=colour, linestyle=style, label=label) for style, colour, label in _FLAT.values()]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3 if figure.get_figwidth() > 10 else 2, frameon=False
    )
