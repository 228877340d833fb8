"""What task vectors and prompts bear: other templates, noisy instructions, wrong labels, fewer examples, strength."""

from collections.abc import Callable
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

    from interp.protocol.settings import Settings
    from interp.protocol.variations import Variations

MODULE = "experiments.robustness"
QUICK: dict[str, Any] = {"seeds": (0,), "contexts": 2, "selection_items": 6, "test_items": 4}
FULL: dict[str, Any] = {"seeds": (0, 1, 2), "contexts": 5, "selection_items": None, "test_items": None}
TEMPLATES = (r"Q: {x}\nA: {y}\n\n", r"Input: {x}\nOutput: {y}\n\n", r"{x}: {y}\n", r"{x} -> {y}\n")
VARIED: dict[str, tuple[Any, ...]] = {
    "templates": TEMPLATES[:3],
    "noise": (0.5, 1.0),
    "numbers": (1, 2, 5, 10),
    "wrong": (0.0, 0.5, 1.0),
    "scales": (0.5, 1.0, 2.0),
}
VARIED_FULL: dict[str, tuple[Any, ...]] = {
    "templates": TEMPLATES,
    "noise": (0.25, 0.5, 1.0),
    "numbers": (1, 2, 3, 5, 8, 12),
    "wrong": (0.0, 0.25, 0.5, 0.75, 1.0),
    "scales": (0.25, 0.5, 1.0, 2.0, 4.0),
}
PARTS: dict[str, tuple[str, str]] = {
    "template": (
        "Template portability",
        "Row: the template that the vector is read under; column: the template of the query. The diagonal is the "
        "ceiling.",
    ),
    "instruction": (
        "Noisy instructions",
        "Typos, synonyms and unrelated words in a share of the instruction's words, as prompt and as vector, alone and "
        "with examples.",
    ),
    "number": ("Number of demonstrations", "Demonstrations of one context, in the prompt and behind the vector."),
    "labels": ("Wrong labels", "A share of the demonstrations' labels is wrong, in the prompt and behind the vector."),
    "strength": ("Strength", "The vector times a factor, put in place of the state or added to it."),
}


@dataclass(frozen=True)
class Arguments:
    """What task vectors and prompts bear, in five parts.

    template: a vector read under one template in a query under another. instruction: typos, synonyms and unrelated
    words. number: demonstrations of a context. labels: a share of them wrong. strength: replace and add, times a
    factor. Each has its reference, bare queries, the majority answer, random and other tasks' vectors beside it.

    Without options: the bundled VLM, three tasks of 4 test items, one seed, every other layer of the second half, fewer
    conditions.

    Example: python -m experiments.robustness --parts template strength --tasks country-capital animal-young
    """

    model: str = "bundled"
    """The model: bundled (the VLM), bundled-llm, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "one of each family; with --full the six")] = ()
    """Task names, or folders with items.csv and instruction.txt."""
    parts: tuple[str, ...] = tuple(PARTS)
    """Which parts."""
    query: Annotated[tuple[str, ...], arg("{image,text} ...", "all that apply")] = ()
    """Modality of the query."""
    templates: Annotated[
        tuple[str, ...] | None, arg("TEMPLATE ...", "3, with --full 4, that the model can delimit")
    ] = None
    r"""Templates of the part template, as --template of experiments.cross_modal_patch; the first is that of all other
    parts, and its delimiter must end the instructions."""
    noise: Annotated[tuple[float, ...] | None, arg("SHARE ...", "0.5 1; with --full 0.25 0.5 1")] = None
    """Shares of an instruction's words that are changed, beside the clean one."""
    numbers: Annotated[tuple[int, ...] | None, arg("INT ...", "1 2 5 10; with --full 1 2 3 5 8 12")] = None
    """Demonstrations of a context."""
    wrong: Annotated[tuple[float, ...] | None, arg("SHARE ...", "0 0.5 1; with --full 0 0.25 0.5 0.75 1")] = None
    """Shares of wrong labels."""
    label_shots: int = 8
    """Demonstrations of a context whose labels are made wrong."""
    scales: Annotated[tuple[float, ...] | None, arg("FACTOR ...", "0.5 1 2; with --full 0.25 0.5 1 2 4")] = None
    """Factors of the vector; 1 is the reference."""
    shots: int = 5
    """Demonstrations of a context in all other parts."""
    contexts: Annotated[int | None, arg("INT", "2; with --full 5")] = None
    """Contexts a seed: averaged in a mean vector, and taken in turn by queries that see one alone."""
    seeds: Annotated[tuple[int, ...] | None, arg("INT ...", "0; with --full 0 1 2")] = None
    """Seeds of contexts, noise and random vectors."""
    layers: Annotated[
        tuple[int, ...] | Literal["all"] | None, arg("{all,INT ...}", "every other of the second half; with --full all")
    ] = None
    """Layers tried on the selection split, counted from 0."""
    selection_items: Annotated[int | None, arg("INT", "6; with --full all")] = None
    """Most items of a task that choose the layer."""
    test_items: Annotated[int | None, arg("INT", "4; with --full all")] = None
    """Most items of a task that are scored."""
    full: bool = False
    """All tasks, items and conditions, and three seeds. Says beforehand how long it will take."""
    on_error: Annotated[str, tyro.conf.arg(metavar="{stop,continue}")] = "stop"
    """At an image that cannot be decoded: stop, or continue without the item."""
    out: Annotated[Path | None, arg("FOLDER", "runs/robustness/<name>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)

    def variations(self) -> "Variations":
        """What is varied."""
        from interp.protocol.variations import Variations

        preset = VARIED_FULL if self.full else VARIED
        given = {name: preset[name] if getattr(self, name) is None else getattr(self, name) for name in preset}
        return Variations(parts=self.parts, label_shots=self.label_shots, **given)

    def settings(self, template: str) -> "Settings":
        """The protocol's settings, under a template."""
        return common.protocol_settings(
            self,
            FULL if self.full else QUICK,
            second_half=True,
            source_models=(self.model,),
            **common.chosen_tasks(self),
            sources=("text", "instruction") if "instruction" in self.parts else ("text",),
            queries=self.query,
            template=template,
        )


def main(arguments: Arguments) -> None:
    """Loads the model, does what is not yet done, and writes tables, figures and the report."""
    from dataclasses import asdict

    from rich.console import Console

    from interp.backends.registry import backend_for
    from interp.protocol import robustness_tables
    from interp.protocol.estimate import measure
    from interp.protocol.plan import make_plan
    from interp.protocol.robustness import RobustnessStudy
    from interp.protocol.study import Unit
    from interp.protocol.tables import layer_table
    from interp.protocol.transfer import written
    from interp.protocol.variations import check_variations, with_usable_templates
    from interp.runs import Run

    console = Console(soft_wrap=True)
    variations = arguments.variations()
    console.print(f"Loading {arguments.model} ...")
    models = common.model_loader(arguments.loading, main=arguments.model)
    model = models(arguments.model)
    if arguments.templates is None:
        with common.remarks_on(console):
            variations = with_usable_templates(variations, model)
    plan = make_plan(arguments.settings(variations.templates[0]), model)
    settings = plan.settings
    check_variations(plan, model, variations)
    for line in plan.skipped:
        console.print(f"Skipped: {line}", markup=False)
    folder = arguments.out or common.run_folder(arguments, "robustness")
    config = plan.config() | asdict(variations)
    with (
        common.remarks_on(console),
        Run.open(folder, config, seeds=settings.seeds, models={model.name: model.fingerprint}) as run,
    ):
        work = RobustnessStudy(plan, model, run, variations)
        items = sum(len(task.test) for task in plan.tasks.values())
        lead = [
            f"Model {settings.model}; tasks {', '.join(plan.tasks)}; {' and '.join(settings.queries)} queries; "
            f"{items} test items under {len(settings.seeds)} seeds, {settings.contexts} contexts each; "
            f"{len(settings.layers)} layers tried on at most {settings.selection_items or 'all'} selection items a "
            "task.",
            "Templates: "
            + "; ".join(f"{t} is {written(template.text)}" for t, template in enumerate(work.templates))
            + ".",
        ]
        for line in lead:
            console.print(line, markup=False)

        def timing() -> Callable[[Unit], float]:
            return partial(work.seconds, pace=measure(plan, models, backend_for(settings.backend)))

        common.perform_units(run, work.units(), work.perform, console, timing=timing)
        answers, curves = work.answers(), work.layer_curves()
        rates = robustness_tables.robustness_rates(answers)
        comparisons = robustness_tables.robustness_comparisons(answers)
        run.write_jsonl("predictions.jsonl", common.plain_rows(answers))
        tables = {"rates": rates, "comparisons": comparisons}
        tables |= {"layers": layer_table(curves), "layer_curves": curves}
        overall = rates[rates["task"] == "all"].drop(columns=["task"])
        notes = {}
        for part in variations.parts:
            tables[part] = overall[overall["part"] == part].drop(columns=["part"])
            notes[part] = f"{PARTS[part][0]}. {PARTS[part][1]} Means over tasks, intervals over items and seeds."
        if len(comparisons):
            tables["comparisons_overall"] = comparisons[comparisons["task"] == "all"].drop(columns=["task"])
            notes["comparisons_overall"] = (
                "Paired differences, means over tasks: a condition against the part's reference (its own template, the "
                "clean instruction, the fewest wrong labels, replacing at scale 1), and patch against prompt. p flips "
                "the signs of items; p_holm is Holm's over a part, query modality and kind of comparison."
            )
        path = common.write_results(
            run,
            title=f"Robustness of task vectors in {settings.model}",
            lead=["What may be changed about a task's specification before its vector, or its prompt, fails?", *lead],
            tables=tables,
            figures=_figures(rates, variations.parts, [written(template.text) for template in work.templates]),
            notes=notes,
        )
    print(path)


def _figures(rates: "DataFrame", parts: tuple[str, ...], templates: list[str]) -> "dict[str, tuple[Figure, str]]":
    from figures import robustness as figures

    drawn = {}
    for part in parts:
        shown = rates[rates["part"] == part]
        draw = {
            "template": lambda rows: figures.template_matrix(rows, templates),
            "instruction": figures.noisy_instructions,
            "strength": figures.strength,
        }.get(part, figures.by_level)
        drawn[part] = (draw(shown), f"{PARTS[part][0]}. {PARTS[part][1]}")
    return drawn


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
