"""Every source x query combination, models and templates: the tables of Luo et al. 2025, with intervals and tests."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from pandas import DataFrame

    from interp.models.base import Model
    from interp.protocol.settings import Settings

MODULE = "experiments.transfer_table"
PLAIN = (r"Q: {x}\nA: {y}\n\n", r"Input: {x}\nOutput: {y}\n\n")
TEMPLATES = (*PLAIN, r"Q:{x}\nA:{y}\n\n", "chat")
QUICK: dict[str, Any] = {"seeds": (0,), "contexts": 2, "selection_items": 4, "test_items": 5}
FULL: dict[str, Any] = {"seeds": (0, 1, 2), "contexts": 10, "selection_items": None, "test_items": None}


@dataclass(frozen=True)
class Arguments:
    """Every source x query combination for several templates: the tables of Luo et al. 2025, with intervals and tests.

    Runs the protocol of experiments.cross_modal_patch once for each template and makes tables of the answers: image
    queries by method, vectors of the language model beside the VLM's, source by query modality, and templates, each
    with a bootstrap over items and seeds; and paired tests between the methods that the paper compares, with Holm's
    correction. The paper's own numbers stand beside ours where the model is one of theirs.

    Without options: the bundled pair, three tasks of 5 test items, two templates, one seed, every other layer of the
    second half.

    Example: python -m experiments.transfer_table --tasks country-capital animal-young --query image --contexts 5
    """

    model: str = "bundled"
    """The model that is patched: bundled (the VLM), bundled-llm, a hub id, or a folder."""
    source_model: Annotated[tuple[str, ...], arg("MODEL ...", "the model itself; for bundled also its base LLM")] = ()
    """Models whose task vectors are patched in; both are held at once."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "one of each family; with --full the six")] = ()
    """Task names, or folders with items.csv and instruction.txt."""
    wrong_tasks: Annotated[tuple[str, ...], arg("TASK ...", "--tasks, or the six if that is one task")] = ()
    """Tasks whose mean vector is the wrong-task control; the scored task is left out."""
    source: Annotated[tuple[str, ...], arg("{text,image,instruction,ensemble,heads} ...", "all but heads")] = ()
    """How the task is specified."""
    query: Annotated[tuple[str, ...], arg("{image,text} ...", "all that apply")] = ()
    """Modality of the query."""
    templates: Annotated[tuple[str, ...] | None, arg("TEMPLATE ...", "2; with --full 4, of which chat if it can")] = (
        None
    )
    r"""How an example is written, as --template of experiments.cross_modal_patch; the first is the main one."""
    shots: int = 5
    """Complete demonstrations that a prompt, and a vector read from one context, sees."""
    contexts: Annotated[int | None, arg("INT", "2; with --full 10")] = None
    """Contexts averaged in a mean vector (unmatched budget)."""
    seeds: Annotated[tuple[int, ...] | None, arg("INT ...", "0; with --full 0 1 2")] = None
    """Seeds of the contexts and of the random vectors."""
    layers: Annotated[
        tuple[int, ...] | Literal["all"] | None, arg("{all,INT ...}", "every other of the second half; with --full all")
    ] = None
    """Layers tried on the selection split, counted from 0."""
    selection_items: Annotated[int | None, arg("INT", "4; with --full all")] = None
    """Most items of a task that choose the layer."""
    test_items: Annotated[int | None, arg("INT", "5; with --full all")] = None
    """Most items of a task that are scored."""
    full: bool = False
    """All items, tasks and templates, and three seeds. Says beforehand how long it will take."""
    max_new_tokens: Annotated[int | None, arg("INT", "one more than the task's longest accepted answer")] = None
    """Longest generated answer, in tokens."""
    on_error: Annotated[str, tyro.conf.arg(metavar="{stop,continue}")] = "stop"
    """At an image that cannot be decoded: stop, or continue without the item."""
    out: Annotated[Path | None, arg("FOLDER", "runs/transfer_table/<name>")] = None
    """Folder of the run; each template has a run folder in its templates/. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)

    def settings(self, models: "Callable[[str], Model]") -> "list[Settings]":
        """The protocol's settings for every template."""
        templates = self.templates if self.templates is not None else TEMPLATES if self.full else PLAIN
        settings = common.protocol_settings(
            self,
            FULL if self.full else QUICK,
            second_half=True,
            source_models=self.source_model,
            **common.chosen_tasks(self),
            sources=self.source,
            queries=self.query,
        )
        model = models(self.model)
        settings = settings.resolve(takes_images=model.takes_images, n_layers=model.n_layers)
        chat = all(_can_chat(models(name)) for name in (self.model, *settings.source_models))
        kept = [name for name in templates if self.templates is not None or chat or not name.startswith("chat")]
        return [replace(settings, template=template) for template in kept]


def _can_chat(model: "Model") -> bool:
    from interp.errors import CrosstaskError

    try:
        return bool(model.chat_frame)
    except CrosstaskError:
        return False


def main(arguments: Arguments) -> None:
    """Runs the protocol for every template, and writes the tables, figures and the report of all of them."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    console.print(f"Loading {arguments.model} ...")

    from experiments.cross_modal_patch import perform
    from interp.backends.registry import backend_for
    from interp.errors import CrosstaskError
    from interp.protocol import tables, transfer
    from interp.protocol.plan import check_sources, make_plan
    from interp.protocol.work import Work
    from interp.runs import Run

    models = common.model_loader(arguments.loading, main=arguments.model)
    plans = [make_plan(settings, models(arguments.model)) for settings in arguments.settings(models)]
    if not plans or len({plan.template.text for plan in plans}) < len(plans):
        raise CrosstaskError(
            f"--templates names a template twice, or none: {' '.join(arguments.templates or ())}; expected one or more "
            "different ones."
        )
    settings = plans[0].settings
    remarks = check_sources(settings, models)
    for line in plans[0].skipped:
        console.print(f"Skipped: {line}", markup=False)
    folder = arguments.out or common.run_folder(arguments, "transfer_table")
    fingerprints = {name: models(name).fingerprint for name in (settings.model, *settings.source_models)}
    common_config = plans[0].config() | {"template": None, "templates": [plan.template.text for plan in plans]}
    answers, cosines, layers = [], [], []
    with (
        common.remarks_on(console),
        Run.open(folder, common_config, seeds=settings.seeds, models=fingerprints) as run,
    ):
        for index, plan in enumerate(plans):
            template = transfer.written(plan.template.text)
            console.print(f"Template {index + 1} of {len(plans)}: {template}", markup=False)
            part = run.folder / "templates" / str(index)
            with Run.open(part, plan.config(), seeds=settings.seeds, models=fingerprints) as inner:
                work = Work(plan, inner, models, backend_for(plan.settings.backend))
                perform(plan, work, models, console, alike=len(plans) - index - 1)
                chosen = work.layers
                answers.append(tables.prediction_table(plan, inner).assign(template=template))
                layers.append(tables.layer_table(tables.sweep_table(plan, inner)).assign(template=template))
                found = transfer.cosine_table(work.bank, lambda *arm, at=chosen: at[(*arm, "all")])
                cosines.append(found.assign(template=template))
            shutil.rmtree(part / "contexts", ignore_errors=True)
        path = _write(
            run,
            answers=_joined(answers),
            layers=_joined(layers),
            cosines=_joined(cosines),
            model=settings.model,
            source_models=settings.source_models,
            lead=[*plans[0].describe().split("\n"), f"Templates: {len(plans)}.", *remarks],
        )
    print(path)


def _joined(frames: "list[DataFrame]") -> "DataFrame":
    import pandas as pd

    return pd.concat(frames, ignore_index=True)


def _write(
    run: Any,
    *,
    answers: "DataFrame",
    layers: "DataFrame",
    cosines: "DataFrame",
    model: str,
    source_models: tuple[str, ...],
    lead: list[str],
) -> Path:
    """Tables, figures and the report, all from the answers."""
    from interp.protocol import transfer

    main_template = answers["template"].iloc[0]
    rates = transfer.transfer_rates(answers)
    comparisons = transfer.transfer_comparisons(answers, model, source_models)
    papers = {
        "image_queries": (1, "Image queries by method, at the main template (the paper's main table)."),
        "source_models": (3, "Vectors of the language model beside the VLM's, text examples."),
        "source_by_query": (4, "Every source and query modality, patched."),
        "templates": (5, "The same methods under each template."),
    }
    forms = {name: transfer.paper_table(rates, model, number, main_template) for name, (number, _) in papers.items()}
    forms = {name: table for name, table in forms.items() if len(table)}
    beside = (
        " Columns of tasks and all are exact match, all the mean over tasks, low to high its 95 % interval over items "
        "and seeds. Rows of Luo et al. are their numbers on their items (one token, prefix rule), "
        "their mean that over the tasks shown."
    )
    overall = comparisons[comparisons["task"] == "all"].drop(columns=["task"]) if len(comparisons) else comparisons
    run.write_jsonl("predictions.jsonl", common.plain_rows(answers))
    tables = {"rates": rates, "comparisons": comparisons, "comparisons_overall": overall, "layers": layers}
    tables |= forms | ({"cosines": cosines} if len(cosines) else {})
    notes = {name: papers[name][1] + beside for name in forms}
    notes["comparisons_overall"] = (
        "Means over tasks. Intervals resample items and seeds; p flips the signs of items; p_holm is Holm's over the "
        "comparisons of a template and query modality; seeds_above counts the seeds under which a is above b. Matched: "
        "vectors that saw as many demonstrations as the prompt. comparisons.csv has every task."
    )
    if len(cosines):
        notes["cosines"] = (
            "Cosine of the mean task vectors of two models at the patched layer: the same task, and different tasks as "
            "its baseline; centred: after the mean over tasks is taken off. Two random directions spread by "
            "random_spread around 0. luo: what the paper reports, where the pair is one of theirs."
        )
    return common.write_results(
        run,
        title=f"Transfer tables of {model}",
        lead=["Does a task read from one kind of prompt work on another kind of query?", *lead],
        tables=tables,
        figures=_figures(rates, comparisons, main_template),
        notes=notes,
    )


def _figures(rates: "DataFrame", comparisons: "DataFrame", template: str) -> "dict[str, tuple[Figure, str]]":
    from figures import cross_modal, transfer

    bars = "95 % bootstrap intervals over items and seeds"
    main_rates = rates[rates["template"] == template]
    drawn = {
        "methods": (
            cross_modal.method_comparison(main_rates, bars=bars),
            "Exact match of every arm at the main template, mean over tasks. Hollow markers: vectors of another model.",
        ),
    }
    if len(set(rates["template"])) > 1:
        drawn["templates"] = (
            transfer.templates(rates),
            "Prompts and patches under each template, mean over tasks.",
        )
    if len(comparisons):
        drawn["comparisons"] = (
            transfer.comparisons(comparisons, template=template),
            "Paired differences at the main template, mean over tasks; filled: p < .05 after Holm's correction.",
        )
    return drawn


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
