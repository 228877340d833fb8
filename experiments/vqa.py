"""Task vectors of question types (Luo et al. 2025): is "what color" inferred from pictures and answers alone?"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from interp.protocol.plan import Plan
    from interp.protocol.settings import Settings
    from interp.runs import Run
    from interp.tasks.vqa import TypeTask

MODULE = "experiments.vqa"
QUICK: dict[str, Any] = {"seeds": (0,), "contexts": 4, "selection_items": 8, "test_items": 20}
FULL: dict[str, Any] = {"seeds": (0, 1, 2), "contexts": 10, "selection_items": 40, "test_items": 100}


@dataclass(frozen=True)
class Arguments:
    """Task vectors of the question types of a VQA set, with the question left unwritten.

    Examples are pictures (or captions of them) with answers, so that the type has to be inferred. Its vector is patched
    into a bare picture, beside prompts with the same examples, the question itself with and without the picture, and
    beside random, wrong-type, shuffled-label, blank-picture and majority-answer controls. The layer is chosen on
    pictures that are never scored. VQA accuracy with intervals, and paired differences from everything beside it.

    By default the colour, shape and presence questions of easy-vqa, which is fetched once from the package index, and
    two questions about pictures that come with the package. With VQAv2 or OK-VQA files: food-class, shirt-color and
    man-holding.

    Example: python -m experiments.vqa --types colour shape food-class
    """

    model: str = "bundled"
    """The model: bundled (the VLM), a hub id, or a folder."""
    types: Annotated[tuple[str, ...], arg("TYPE ...", "five; with --full all; with files all three")] = ()
    """Question types: colour, shape, presence, presence-<shape or colour> (easy-vqa); food-class, animal-class,
    food-color, flag-country (pictures of the package); food-class, shirt-color, man-holding (files). At least two, as
    one is the other's control."""
    questions: Annotated[Path | None, arg("FILE", "easy-vqa and the package's pictures")] = None
    """Question file of VQAv2 or OK-VQA, or its zip."""
    annotations: Annotated[Path | None, arg("FILE", "none")] = None
    """Annotation file of the same split, or its zip."""
    images: Annotated[Path | None, arg("FOLDER", "none")] = None
    """Folder of its images."""
    captions: Annotated[Path | None, arg("FILE", "none")] = None
    """Captions of the images in COCO's format, which text examples need."""
    source: Annotated[tuple[str, ...], arg("{text,image,instruction,ensemble} ...", "text image instruction")] = ()
    """How the type is specified; text examples are captions."""
    query: tuple[str, ...] = ("image",)
    """The query: image, or text for its caption."""
    shots: int = 5
    """Examples that a prompt, and a vector read from one context, sees."""
    contexts: Annotated[int | None, arg("INT", "4; with --full 10")] = None
    """Contexts averaged in a mean vector."""
    seeds: Annotated[tuple[int, ...] | None, arg("INT ...", "0; with --full 0 1 2")] = None
    """Seeds of the contexts and of the random vectors."""
    layers: Annotated[tuple[int, ...], arg("INT ...", "every other; with --full all")] = ()
    """Layers tried on the selection split, counted from 0."""
    selection_items: Annotated[int | None, arg("INT", "8; with --full 40")] = None
    """Most pictures of a type that choose the layer."""
    test_items: Annotated[int | None, arg("INT", "20; with --full 100")] = None
    """Most pictures of a type that are scored."""
    full: bool = False
    """All types, three seeds and all layers. Says beforehand how long it will take."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    on_error: Annotated[str, tyro.conf.arg(metavar="{stop,continue}")] = "stop"
    """At an image that is missing or cannot be decoded: stop, or continue without it."""
    out: Annotated[Path | None, arg("FOLDER", "runs/vqa/<name>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)

    def settings(self, names: tuple[str, ...], *, captioned: bool) -> "Settings":
        """The protocol's settings for these question types."""
        from interp.protocol.settings import Settings

        preset = FULL if self.full else QUICK
        given = {name: preset[name] if getattr(self, name) is None else getattr(self, name) for name in preset}
        return Settings(
            model=self.model,
            source_models=(self.model,),
            tasks=names,
            wrong_tasks=names,
            sources=self.source or (("text", "image", "instruction") if captioned else ("image", "instruction")),
            queries=self.query,
            shots=self.shots,
            layers=self.layers,
            layer_step=1 if self.full else 2,
            template=self.template,
            on_error=self.on_error,
            loading=self.loading,
            **given,
        )


def main(arguments: Arguments) -> None:
    """Reads the questions, does what is not yet done, and writes tables, figures and the report."""
    from rich.console import Console

    from experiments.cross_modal_patch import perform
    from interp.protocol.plan import make_plan
    from interp.protocol.vqa import VqaWork, added_units, check_captions, check_sizes, load_types
    from interp.runs import Run

    console = Console(soft_wrap=True)
    a = arguments
    skipped: list[str] = []
    tasks = load_types(
        a.types,
        a.questions,
        a.annotations,
        a.images,
        a.captions,
        full=a.full,
        skipped=skipped if a.on_error == "continue" else None,
    )
    captioned = all(item.caption is not None for found in tasks.values() for item in found.task.items)
    settings = a.settings(tuple(tasks), captioned=captioned)
    check_captions(tasks, sources=settings.sources, queries=settings.queries)
    check_sizes(tasks, shots=settings.shots)
    console.print(f"Loading {a.model} ...")
    models = common.model_loader(a.loading, main=a.model)
    plan = make_plan(settings, models(a.model), load=lambda name: tasks[name].task)
    common.print_skipped(console, [*skipped, *plan.skipped])
    fingerprints = {a.model: models(a.model).fingerprint}
    with (
        common.remarks_on(console),
        Run.open(
            a.out or common.run_folder(a, "vqa"), plan.config(), seeds=plan.settings.seeds, models=fingerprints
        ) as run,
    ):
        work = VqaWork(plan, run, models, tasks)
        perform(plan, work, models, console)
        for unit in added_units(plan):
            work.perform(unit)
        report = _write(plan, run, tasks)
        shutil.rmtree(run.folder / "contexts", ignore_errors=True)  # only a run that goes on needs them
    print(report)


def _write(plan: "Plan", run: "Run", tasks: "dict[str, TypeTask]") -> Path:
    from figures import cross_modal as figures
    from interp.protocol import tables
    from interp.protocol.vqa import accuracy_table, comparison_table, predictions

    answers = predictions(plan, run, tasks)
    sweep = tables.sweep_table(plan, run)
    layers, accuracy, comparisons = tables.layer_table(sweep), accuracy_table(answers), comparison_table(answers)
    run.write_jsonl("predictions.jsonl", common.plain_rows(answers))
    shown = accuracy.drop(columns=["exact"]).rename(columns={"vqa": "exact"})
    how = {"score": "VQA accuracy", "bars": "95 % bootstrap intervals over pictures and seeds"}
    drawn = {
        "methods": (figures.method_comparison(shown, **how), "VQA accuracy of every arm, mean over question types."),
        "layers": (
            figures.accuracy_per_layer(sweep, layers),
            "Exact match after patching the mean vector at each layer, on pictures that are not scored elsewhere.",
        ),
    }
    for query in plan.settings.queries:
        figure = figures.method_comparison(shown, query=query, **how)
        drawn[f"methods_{query}"] = (figure, f"{query.capitalize()} queries, per question type.")
    overall = accuracy["task"] == "all"
    return common.write_results(
        run,
        title=f"Question types of a VQA set: {plan.settings.model}",
        lead=[
            "Does a model infer from pictures and answers alone what is asked, and is that read from one state?",
            *plan.describe().split("\n"),
            *_left_out(plan),
        ],
        tables={
            "accuracy": accuracy,
            "comparisons": comparisons,
            "summary": tables.summary_table(answers),
            "layers": layers,
            "sweep": sweep,
            "overall": accuracy[overall].drop(columns=["task"]),
            "comparisons_overall": comparisons[comparisons["task"] == "all"].drop(columns=["task"]),
        },
        figures=drawn,
        notes={
            "overall": "vqa: VQA accuracy, min(people who gave the answer / 3, 1), mean over leave-one-out sets of "
            "people, mean over question types; low and high: 95 % bootstrap interval over pictures and seeds. "
            "Where each question has one right answer (easy-vqa, pictures of the package) it is 1 or 0. exact: the "
            "answer is one that three people or more, or most, gave. accuracy.csv has every type.",
            "comparisons_overall": "Patch minus what stands beside it, picture by picture, in VQA accuracy; p flips "
            "the signs of pictures, p_holm is Holm's over all rows of a query modality. Patches of one context "
            "(patch_single) saw as many examples as the prompt. comparisons.csv has every type.",
            "layers": "The layers with the highest exact match on the selection split; ties go to the lowest, so that "
            "a rate of 0 means that no layer worked.",
        },
    )


def _left_out(plan: "Plan") -> list[str]:
    return [f"Left out: {len(plan.skipped)} pictures that cannot be decoded."] if plan.skipped else []


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
