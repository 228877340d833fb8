"""Accuracy against the number of examples, for examples, instruction and their ensemble (Luo et al. 2025, figure 6)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from interp.protocol.settings import Settings

MODULE = "experiments.ensemble_curve"
QUICK: dict[str, Any] = {"seeds": (0, 1), "selection_items": 4, "test_items": 5}
FULL: dict[str, Any] = {"seeds": (0, 1, 2), "selection_items": None, "test_items": None}


@dataclass(frozen=True)
class Arguments:
    """Accuracy against the number of examples, for examples, instruction and their ensemble.

    Vectors over n examples are means over n / shots contexts; the ensemble is the mean of that vector and the
    instruction's. Beside them: prompts with the same n examples, without and with the instruction, random vectors and
    other tasks' vectors. The layer of each is chosen once, at n = shots, on items that are not scored. Bands are
    bootstraps over items and seeds.

    Without options: the bundled VLM, image and text queries, three tasks of 5 test items, two seeds; patched
    at every other layer of the second half.

    Example: python -m experiments.ensemble_curve --tasks country-capital animal-young --query text
    """

    model: str = "bundled"
    """The model: bundled (the VLM), bundled-llm, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "one of each family; with --full the six")] = ()
    """Task names, or folders with items.csv and instruction.txt."""
    query: Annotated[tuple[str, ...], arg("{image,text} ...", "all that apply")] = ()
    """Modality of the query."""
    examples: tuple[int, ...] = (0, 1, 2, 5, 10, 15, 20, 25, 30)
    """Numbers of examples: below --shots, or multiples of it. 0 is the instruction alone, or nothing."""
    shots: int = 5
    """Examples of one context."""
    seeds: Annotated[tuple[int, ...] | None, arg("INT ...", "0 1; with --full 0 1 2")] = None
    """Seeds of the contexts and of the random vectors."""
    layers: Annotated[
        tuple[int, ...] | Literal["all"] | None, arg("{all,INT ...}", "every other of the second half; with --full all")
    ] = None
    """Layers tried on the selection split, counted from 0."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    selection_items: Annotated[int | None, arg("INT", "4; with --full all")] = None
    """Most items of a task that choose the layer."""
    test_items: Annotated[int | None, arg("INT", "5; with --full all")] = None
    """Most items of a task that are scored."""
    full: bool = False
    """All tasks and items. Says beforehand how long it will take."""
    on_error: Annotated[str, tyro.conf.arg(metavar="{stop,continue}")] = "stop"
    """At an image that cannot be decoded: stop, or continue without the item."""
    out: Annotated[Path | None, arg("FOLDER", "runs/ensemble_curve/<name>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)

    def settings(self, *, takes_images: bool) -> "Settings":
        """The protocol's settings."""
        return common.protocol_settings(
            self,
            FULL if self.full else QUICK,
            second_half=True,
            source_models=(self.model,),
            **common.chosen_tasks(self),
            sources=("text", "instruction"),
            queries=self.query or (("image", "text") if takes_images else ("text",)),
            contexts=1,
        )


def main(arguments: Arguments) -> None:
    """Loads the model, does what is not yet done, and writes tables, figures and the report."""
    from rich.console import Console

    from figures import cross_modal
    from figures import ensembles as figures
    from interp.backends.registry import backend_for
    from interp.protocol import ensembles
    from interp.protocol.estimate import measure
    from interp.protocol.plan import make_plan
    from interp.protocol.study import Unit
    from interp.protocol.tables import layer_table
    from interp.runs import Run

    console = Console(soft_wrap=True)
    ensembles.check_examples(arguments.examples, arguments.shots)
    console.print(f"Loading {arguments.model} ...")
    models = common.model_loader(arguments.loading, main=arguments.model)
    model = models(arguments.model)
    plan = make_plan(arguments.settings(takes_images=model.takes_images), model)
    ensembles.check_length(plan, model, arguments.examples)
    settings = plan.settings
    for line in plan.skipped:
        console.print(f"Skipped: {line}", markup=False)
    folder = arguments.out or common.run_folder(arguments, "ensemble_curve")
    config = plan.config() | {"examples": list(arguments.examples)}
    with (
        common.remarks_on(console),
        Run.open(folder, config, seeds=settings.seeds, models={model.name: model.fingerprint}) as run,
    ):
        work = ensembles.EnsembleStudy(plan, model, run, arguments.examples)
        items = sum(len(task.test) for task in plan.tasks.values())
        lead = [
            f"Model {settings.model}; tasks {', '.join(plan.tasks)}; {' and '.join(settings.queries)} queries; "
            f"{items} test items under {len(settings.seeds)} seeds; {len(settings.layers)} layers tried on at most "
            f"{settings.selection_items or 'all'} selection items a task.",
            f"Examples: {' '.join(map(str, work.examples))}, in contexts of {work.size} for vectors and in one context "
            "for prompts.",
        ]
        for line in lead:
            console.print(line, markup=False)

        def timing() -> Callable[[Unit], float]:
            return partial(work.seconds, pace=measure(plan, models, backend_for(settings.backend)))

        common.perform_units(run, work.units(), work.perform, console, timing=timing)
        answers, curves = work.answers(), work.layer_curves()
        layers, rates = layer_table(curves), ensembles.curve_rates(answers)
        comparisons = ensembles.curve_comparisons(answers)
        run.write_jsonl("predictions.jsonl", common.plain_rows(answers))
        shown = rates[rates["task"] == "all"].drop(columns=["task"])
        chosen = ", ".join(f"{layer} for {source} ({query} queries)" for (source, query), layer in work.layers.items())
        drawn = {}
        for query in settings.queries:
            where = rates[rates["query"] == query]
            drawn[f"curve_{query}"] = (
                figures.examples_curve(where),
                f"Exact match on {query} queries against the number of examples, mean over tasks, with 95 % bootstrap "
                "bands over items and seeds; the darker bands are one standard deviation over seeds alone, and thin "
                "lines are controls.",
            )
            drawn[f"curve_{query}_tasks"] = (figures.examples_curve_by_task(where), "The patched curves per task.")
        drawn["layers"] = (
            cross_modal.accuracy_per_layer(curves, layers),
            f"Exact match at each layer on selection items, at {work.size} examples; dashed: the chosen layer.",
        )
        path = common.write_results(
            run,
            title=f"Examples, instruction and their ensemble in {settings.model}",
            lead=["How many examples does a task vector need, and does an instruction save some?", *lead],
            tables={
                "rates": rates,
                "rates_overall": shown,
                "comparisons": comparisons,
                "comparisons_overall": comparisons[comparisons["task"] == "all"].drop(columns=["task"]),
                "layers": layers,
                "layer_curves": curves,
            },
            figures=drawn,
            notes={
                "rates_overall": "Means over tasks; low to high: 95 % interval over items and seeds; seed_sd: standard "
                f"deviation over seeds. Patched layers: {chosen}.",
                "comparisons_overall": "Paired differences; p flips the signs of items, p_holm is Holm's over all rows "
                "of a query modality; seeds_above counts the seeds under which a is above b.",
            },
        )
    console.print(f"Patched layers: {chosen}.", markup=False)
    print(path)


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
