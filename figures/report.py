"""The cross-modal experiment as one self-contained HTML page: tables, figures and example answers with their pictures.

Pure: takes the saved tables, figures and pictures as PNG bytes, and returns a string.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from figures.cross_modal import METHODS, SOURCES, arm_name, model_name
from figures.page import Section, data_uri, page

EXAMPLES = 2  # items a task
CHOICES = {"": "", "pooled": "", "task": ", at each task's own layer"}


def cross_modal_report(
    *,
    title: str,
    lead: Sequence[str],
    summary: pd.DataFrame,
    paired: pd.DataFrame,
    layers: pd.DataFrame,
    predictions: pd.DataFrame,
    figures: Mapping[str, tuple[bytes, str]],
    pictures: Mapping[tuple[str, str], bytes],
    details: Mapping[str, str],
) -> str:
    """The report of one run.

    Args:
        title: heading of the page.
        lead: paragraphs that say what was run on how much.
        summary: the run's table of that name.
        paired: likewise.
        layers: likewise.
        predictions: likewise.
        figures: name -> PNG bytes and caption; those called "layers..." go to the section on layers.
        pictures: (task, input of an item) -> its picture as PNG bytes; items without one are shown by name.
        details: heading -> text of the folded sections at the end.

    Returns:
        A complete HTML document.
    """
    overview = {name: figures[name] for name in figures if not name.startswith("layers")}
    curves = {name: figures[name] for name in figures if name.startswith("layers")}
    return page(
        title,
        lead,
        [
            Section(
                "Methods compared",
                figures=list(overview.values()),
                html=[_accuracies(summary, query) for query in dict.fromkeys(summary["query"])],
            ),
            Section("Patch against prompt, item by item", html=[_paired(paired)]),
            Section("Which layer carries the task", figures=list(curves.values()), html=[_layers(layers)]),
            Section("Examples", html=[_examples(predictions, pictures)]),
        ],
        details,
    )


def markdown_table(summary: pd.DataFrame) -> str:
    """The arms at the pooled layer as Markdown, one table per query modality: exact match per task and their mean."""
    shown = summary[summary["layer_choice"].fillna("").isin(["", "pooled"])].fillna({"source": "", "source_model": ""})
    tasks = ["all", *[task for task in dict.fromkeys(shown["task"]) if task != "all"]]
    lines = []
    for query in dict.fromkeys(shown["query"]):
        cells = {
            (row.method, row.source, row.source_model, row.task): row
            for row in shown[shown["query"] == query].itertuples()
        }
        lines += [f"\n{query.capitalize()} queries, exact match [95 % interval]\n"]
        lines += ["| method | demonstrations | mean over tasks | " + " | ".join(tasks[1:]) + " |"]
        lines += ["|---" * (2 + len(tasks)) + "|"]
        for arm in sorted({key[:3]: None for key in cells}, key=lambda arm: list(METHODS).index(arm[0])):
            first = cells[(*arm, "all")]
            mean = f"{_rate(first.exact)} [{_rate(first.low)}, {_rate(first.high)}]"
            rates = [_rate(cells[(*arm, task)].exact) if (*arm, task) in cells else "" for task in tasks[1:]]
            lines += ["| " + " | ".join((arm_name(*arm), str(first.demonstrations), mean, *rates)) + " |"]
    return "\n".join(lines).lstrip("\n") + "\n"


def _accuracies(summary: pd.DataFrame, query: str) -> str:
    """Arms by tasks: exact match with its interval, shaded by height."""
    shown = summary[summary["query"] == query].fillna({"source": "", "source_model": "", "layer_choice": ""})
    tasks = ["all", *[task for task in dict.fromkeys(shown["task"]) if task != "all"]]
    cells = {(row.method, row.source, row.source_model, row.layer_choice, row.task): row for row in shown.itertuples()}
    order = sorted({key[:4]: None for key in cells}, key=lambda arm: list(METHODS).index(arm[0]))
    head = "".join(f"<th>{_heading(task, 'mean over tasks')}</th>" for task in tasks)
    rows, previous = [], None
    for arm in order:
        first = cells[(*arm, "all")]
        row = "".join(_accuracy(cells.get((*arm, task))) for task in tasks)
        layer = "" if arm[3] != "pooled" else str(int(first.layer))
        group = ' class="group"' if previous not in (None, arm[0]) else ""
        previous = arm[0]
        rows.append(
            f"<tr{group}><td>{escape(arm_name(*arm[:3]) + CHOICES[arm[3]])}</td>"
            f"<td>{layer}</td><td>{first.demonstrations}</td>"
            f'<td class="text">{escape(first.budget or "")}</td>{row}</tr>'
        )
    return (
        f"<h3>{escape(query.capitalize())} queries</h3><div class='scroll'><table class='arms'><tr><th>method</th>"
        f"<th>layer</th><th>demon-<br>strations</th><th class='text'>budget</th>{head}</tr>"
        f"{''.join(rows)}</table></div>"
        "<p class='note'>Exact match on the test split after normalisation, with 95 % Wilson intervals that count each "
        "item once (a task's shows when the pointer rests on its number). Patches are at the layer that the selection "
        "items of all tasks choose, unless it says otherwise. Demonstrations are those of the task itself that the "
        "arm has seen: matched arms saw as many as the prompt.</p>"
    )


def _accuracy(row: Any) -> str:
    if row is None:
        return "<td></td>"
    interval = f"{_rate(row.low)}–{_rate(row.high)}"
    beside = f" <small>{interval}</small>" if row.task == "all" else ""
    shade = f"background: rgba(0, 114, 178, {0.45 * row.exact:.2f})"
    return f'<td style="{shade}" title="{interval}, n = {row.items}">{_rate(row.exact)}{beside}</td>'


def _heading(task: str, overall: str) -> str:
    """A task as a column heading; long names may break at their hyphens."""
    return escape(overall if task == "all" else task).replace("-", "-<wbr>")


def _rate(value: float) -> str:
    return "1.0" if value > 0.995 else f"{value:.2f}".removeprefix("0")


def _paired(paired: pd.DataFrame) -> str:
    shown = paired[paired["layer_choice"] == "pooled"]
    overall = "".join(_pair(row) for row in shown[shown["task"] == "all"].itertuples())
    by_task = "".join(_pair(row) for row in shown[shown["task"] != "all"].itertuples())
    names = ("items", "patch", "prompt", "difference", "only patch : only prompt right", "p")
    head = '<tr><th class="text">patch</th><th class="text">query</th><th class="text">task</th>'
    head += "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    return (
        f"<div class='scroll'><table>{head}{overall}</table></div>"
        f"<details><summary>Per task</summary><div class='scroll'><table>{head}{by_task}</table></div></details>"
        "<p class='note'>The prompt has the same source. Intervals resample items; p is McNemar's exact test, or with "
        "several seeds or tasks an item-wise sign-flip test, uncorrected for the number of rows. Patches are at the "
        "pooled layer; paired.csv has the others.</p>"
    )


def _pair(row: Any) -> str:
    strong = ("<b>", "</b>") if row.p < 0.05 else ("", "")
    cells = [
        arm_name(row.method, row.source, row.source_model),
        f"{row.query} queries",
        "all tasks" if row.task == "all" else row.task,
    ]
    numbers = [
        row.items,
        _rate(row.patch),
        _rate(row.prompt),
        f"{row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}]",
        f"{row.only_patch} : {row.only_prompt}",
        f"{strong[0]}{row.p:.2g}{strong[1]}",
    ]
    texts = "".join(f'<td class="text">{escape(cell)}</td>' for cell in cells)
    return f"<tr>{texts}{''.join(f'<td>{number}</td>' for number in numbers)}</tr>"


def _layers(layers: pd.DataFrame) -> str:
    tasks = list(dict.fromkeys(layers["task"]))
    rows = []
    for (model, source, query), group in layers.groupby(["source_model", "source", "query"], sort=False):
        found = group.set_index("task")
        cells = "".join(
            f"<td>{int(found.loc[t, 'layer'])} <small>{_rate(found.loc[t, 'exact'])}</small></td>" for t in tasks
        )
        name = escape(f"{SOURCES[source]} ({model_name(model)})")
        rows.append(f"<tr><td>{name}</td><td class='text'>{escape(query)}</td>{cells}</tr>")
    head = "".join(f"<th>{_heading(task, 'pooled over tasks')}</th>" for task in tasks)
    return (
        f"<div class='scroll'><table><tr><th>vectors</th><th class='text'>query</th>{head}</tr>{''.join(rows)}"
        "</table></div>"
        "<p class='note'>Chosen layer with its exact match on the selection split; ties go to the lowest layer, so "
        "that a layer with .00 means that no layer worked.</p>"
    )


def example_items(predictions: pd.DataFrame) -> list[tuple[str, str]]:
    """The (task, item) pairs that the report shows: the first test items of every task."""
    pairs = predictions[["task", "item"]].drop_duplicates().groupby("task", sort=False).head(EXAMPLES)
    return list(pairs.itertuples(index=False, name=None))


def _examples(predictions: pd.DataFrame, pictures: Mapping[tuple[str, str], bytes]) -> str:
    """What each arm answered to the example items, for one seed and the pooled layer."""
    shown = predictions[predictions["layer_choice"].isin(["", "pooled"])]
    query = "image" if "image" in set(shown["query"]) else "text"
    shown = shown[(shown["query"] == query) & (shown["seed"] == shown["seed"].min())]
    cards = []
    for task, item in example_items(predictions):
        answers = shown[(shown["task"] == task) & (shown["item"] == item)]
        picture = pictures.get((task, item))
        drawn = f'<img alt="{escape(item)}" src="{data_uri(picture)}">' if picture and query == "image" else ""
        lines = "".join(
            _answer_line(row) for row in answers.sort_values("method", key=_method_order, kind="stable").itertuples()
        )
        accepted = " / ".join(answers["accepted"].iloc[0])
        cards.append(
            f'<div class="card">{drawn}<b>{escape(task)}</b><br>{escape(item)}<br>'
            f"<small>accepted: {escape(accepted)}</small><table>{lines}</table></div>"
        )
    note = f"{query.capitalize()} queries, first seed, patches at the pooled layer; predictions.jsonl has every answer."
    return f'<p class="note">{note}</p><div class="cards">{"".join(cards)}</div>'


def _answer_line(row: Any) -> str:
    name = arm_name(row.method, row.source, row.source_model)
    verdict = "right" if row.exact else "wrong"
    sign = "✓ " if row.exact else ""
    answer = row.answer.strip() or "(nothing)"
    return f'<tr><td>{escape(name)}</td><td class="{verdict}">{sign}{escape(answer)}</td></tr>'


def _method_order(methods: pd.Series) -> pd.Series:
    return methods.map(list(METHODS).index)
