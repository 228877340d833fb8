"""Patch task vectors across modalities and models (Luo et al. 2025): does a task read from text work on an image?"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.console import Console
    from rich.table import Table

    from interp.models.base import Model
    from interp.protocol.plan import Plan, Unit
    from interp.protocol.settings import Settings
    from interp.protocol.work import Work
    from interp.runs import Run

MODULE = "experiments.cross_modal_patch"
QUICK: dict[str, Any] = {"seeds": (0,), "contexts": 4, "selection_items": 6, "test_items": 8}
FULL: dict[str, Any] = {"seeds": (0, 1, 2), "contexts": 10, "selection_items": None, "test_items": None}


@dataclass(frozen=True)
class Arguments:
    """Patch task vectors across modalities and models, with matched budgets and controls.

    A task vector is the residual stream at the delimiter after `shots` demonstrations and a dummy query (or at the end
    of an instruction). It replaces the residual stream at the end of a bare image or text query, at one layer, and the
    model goes on from there. Prompting with the same demonstrations, random, wrong-task and shuffled-label vectors,
    and the majority answer stand beside it. The layer is chosen on items that are never scored.

    Without options: the bundled pair, six tasks, a subset of items and one seed, about five minutes on two cores.

    Example: python -m experiments.cross_modal_patch --tasks country-capital food-color --query image
    """

    model: str = "bundled"
    """The model that is patched: bundled (the VLM), bundled-llm, a hub id, or a folder."""
    source_model: Annotated[tuple[str, ...], arg("MODEL ...", "the model itself; for bundled also its base LLM")] = ()
    """Models whose task vectors are patched in."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the six built-in tasks")] = ()
    """Task names, or folders with items.csv (input, output, image) and instruction.txt."""
    wrong_tasks: Annotated[tuple[str, ...], arg("TASK ...", "the six and --tasks")] = ()
    """Tasks whose mean vector is the wrong-task control; the scored task is left out."""
    source: Annotated[tuple[str, ...], arg("{text,image,instruction,ensemble,heads} ...", "all but heads")] = ()
    """How the task is specified; ensemble is the mean of the text and the instruction vector, and heads the sum of the
    task's ten strongest attention heads over text examples, added instead of put in place."""
    query: Annotated[tuple[str, ...], arg("{image,text} ...", "all that apply")] = ()
    """Modality of the query."""
    shots: int = 5
    """Complete demonstrations that a prompt, and a vector read from one context, sees."""
    contexts: Annotated[int | None, arg("INT", "4; with --full 10")] = None
    """Contexts averaged in a mean vector."""
    seeds: Annotated[tuple[int, ...] | None, arg("INT ...", "0; with --full 0 1 2")] = None
    """Seeds of the contexts and of the random vectors."""
    layers: Annotated[tuple[int, ...] | Literal["all"] | None, arg("{all,INT ...}", "every other; with --full all")] = (
        None
    )
    """Layers tried on the selection split, counted from 0."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written: {x} is the input, {y} the output, \n a new line. A query ends where {y} begins.
    chat: before it, or chat alone, puts the model's chat template around the prompt."""
    selection_items: Annotated[int | None, arg("INT", "6; with --full all")] = None
    """Most items of a task that choose the layer."""
    test_items: Annotated[int | None, arg("INT", "8; with --full all")] = None
    """Most items of a task that are scored."""
    full: bool = False
    """All items and three seeds. Says beforehand how long it will take."""
    max_new_tokens: Annotated[int | None, arg("INT", "one more than the task's longest accepted answer")] = None
    """Longest generated answer, in tokens."""
    on_error: Annotated[str, tyro.conf.arg(metavar="{stop,continue}")] = "stop"
    """At an image that cannot be decoded: stop, or continue without the item."""
    out: Annotated[Path | None, arg("FOLDER", "runs/cross_modal_patch/<name>")] = None
    """Folder of the run. The same command continues a killed run."""
    backend: Annotated[str, tyro.conf.arg(metavar="{hooks,nnsight,transformer_lens}")] = "hooks"
    """What captures and patches: our hooks, or another tool, which checks them and takes longer."""
    loading: common.Loading = field(default_factory=common.LoadOptions)

    def settings(self) -> "Settings":
        """The protocol's settings, with the defaults of a quick or a full run filled in."""
        return common.protocol_settings(
            self,
            FULL if self.full else QUICK,
            source_models=self.source_model,
            tasks=self.tasks,
            wrong_tasks=self.wrong_tasks,
            sources=self.source,
            queries=self.query,
        )


def main(arguments: Arguments) -> None:
    """Loads the model, checks everything, does what is not yet done, and writes tables, figures and the report."""
    from rich.console import Console

    settings = arguments.settings()
    console = Console(soft_wrap=True)
    console.print(f"Loading {settings.model} ...")

    from interp.backends.registry import backend_for
    from interp.protocol.plan import check_sources, make_plan
    from interp.protocol.work import Work
    from interp.runs import Run

    backend = backend_for(settings.backend)
    models = common.model_loader(settings.loading, main=settings.model)
    plan = make_plan(settings, models(settings.model))
    remarks = check_sources(plan.settings, models)
    for line in plan.skipped:
        console.print(f"Skipped: {line}", markup=False)
    folder = arguments.out or common.run_folder(arguments, "cross_modal_patch")
    fingerprints = {name: models(name).fingerprint for name in (settings.model, *plan.settings.source_models)}
    with (
        common.remarks_on(console),
        Run.open(folder, plan.config(), seeds=settings.seeds, models=fingerprints) as run,
    ):
        perform(plan, Work(plan, run, models, backend), models, console)
        _write(plan, run, console, lead=[*plan.describe().split("\n"), *remarks])
        shutil.rmtree(run.folder / "contexts", ignore_errors=True)  # only a run that goes on needs them


def perform(
    plan: "Plan", work: "Work", models: "Callable[[str], Model]", console: "Console", *, alike: int = 0
) -> None:
    """Does the units that the journal does not hold yet.

    Args:
        plan, work, models: of the run.
        console: where the progress is shown.
        alike: how many more runs of the same size come after this one.
    """
    from interp.protocol.estimate import measure

    def timing() -> "Callable[[Unit], float]":
        console.print(plan.describe())
        return partial(measure(plan, models, work.backend).of, plan)

    common.perform_units(work.run, list(plan.units()), work.perform, console, timing=timing, alike=alike)


def _write(plan: "Plan", run: "Run", console: "Console", *, lead: list[str]) -> None:
    """Tables, figures, report and the terminal's summary, all from the journal."""
    from figures import report
    from interp.protocol import tables

    predictions = tables.prediction_table(plan, run)
    sweep = tables.sweep_table(plan, run)
    layers = tables.layer_table(sweep)
    summary, paired = tables.summary_table(predictions), tables.paired_table(predictions)
    for name, table in {
        "results": tables.result_table(predictions),
        "summary": summary,
        "paired": paired,
        "layers": layers,
        "sweep": sweep,
    }.items():
        run.write_csv(f"{name}.csv", table)
    run.write_jsonl("predictions.jsonl", common.plain_rows(predictions))
    drawn = {}
    for name, (figure, caption) in _figures(plan, summary, paired, sweep, layers).items():
        png, _ = run.write_figure(f"figures/{name}", figure)
        drawn[name] = (png.read_bytes(), caption)
    page = report.cross_modal_report(
        title=f"Cross-modal patching of {plan.settings.model}",
        lead=lead,
        summary=summary,
        paired=paired,
        layers=layers,
        predictions=predictions,
        figures=drawn,
        pictures=_pictures(plan, report.example_items(predictions)),
        details={
            "Configuration": (run.folder / "config.json").read_text(),
            "Environment": (run.folder / "environment.json").read_text(),
            "Skipped items": "\n".join(plan.skipped) or "none",
        },
    )
    run.write_text("summary.md", report.markdown_table(summary))
    path = run.write_text("report.html", page)
    console.print(_terminal_table(summary))
    print(f"Table: {run.folder / 'results.csv'}; picture: {run.folder / 'figures' / 'methods.png'}; report:")
    print(path)


def _figures(
    plan: "Plan", summary: "DataFrame", paired: "DataFrame", sweep: "DataFrame", layers: "DataFrame"
) -> "dict[str, tuple[Figure, str]]":
    """Name -> figure and caption."""
    from figures import cross_modal

    drawn = {
        "methods": (
            cross_modal.method_comparison(summary),
            "Exact match of every arm, mean over tasks. Hollow markers: vectors read in another model.",
        ),
        "layers": (
            cross_modal.accuracy_per_layer(sweep, layers),
            "Exact match after patching the mean vector at each layer, on items that are not scored elsewhere.",
        ),
        "paired": (
            cross_modal.paired_differences(paired),
            "Patch minus prompt with the same demonstrations, per task.",
        ),
    }
    for query in plan.settings.queries:
        drawn[f"methods_{query}"] = (
            cross_modal.method_comparison(summary, query=query),
            f"{query.capitalize()} queries, per task.",
        )
    for place, name in enumerate(plan.settings.source_models):
        figure = cross_modal.accuracy_per_layer_and_task(sweep, layers, source_model=name)
        drawn[f"layers_by_task_{place}"] = (figure, f"The curves per task, vectors from {name}.")
    return drawn


def _pictures(plan: "Plan", pairs: "Iterable[tuple[str, str]]") -> dict[tuple[str, str], bytes]:
    """Thumbnails of the example items, as PNG."""
    import io

    from interp.protocol.contexts import picture

    items = {(name, item.input): item for name, task in plan.tasks.items() for item in task.test}
    pictures = {}
    for pair in pairs:
        if items[pair].image is not None:
            thumbnail, buffer = picture(items[pair]).load(), io.BytesIO()
            thumbnail.thumbnail((192, 192))
            thumbnail.save(buffer, format="PNG")
            pictures[pair] = buffer.getvalue()
    return pictures


def _terminal_table(summary: "DataFrame") -> "Table":
    """Mean over tasks of every arm at the pooled layer, one column per query modality."""
    from rich.table import Table

    from figures.cross_modal import METHODS, SOURCES, arm_name

    shown = summary[(summary["task"] == "all") & summary["layer_choice"].isin(["", "pooled"])]
    queries = list(dict.fromkeys(shown["query"]))
    table = Table(
        "method",
        "shown",
        *(f"{query} queries" for query in queries),
        title="Exact match on test items, mean over tasks [95 % interval]; shown: demonstrations",
    )
    previous = None
    found = {(row.method, row.source, row.source_model, row.query): row for row in shown.itertuples()}
    for arm in sorted(
        {key[:3]: None for key in found}, key=lambda arm: (list(METHODS).index(arm[0]), ["", *SOURCES].index(arm[1]))
    ):
        rows = [found[(*arm, query)] for query in queries]
        rates = [f"{row.exact:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in rows]
        if previous not in (None, arm[0]):
            table.add_section()
        previous = arm[0]
        table.add_row(arm_name(*arm), str(rows[0].demonstrations), *rates)
    return table


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
