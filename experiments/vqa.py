"""Task vectors of question types (Luo et al. 2025): is "what color" inferred from pictures and answers alone?"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments import common

if TYPE_CHECKING:
    from interp.protocol.plan import Plan
    from interp.runs import Run
    from interp.tasks.vqa import TypeTask

MODULE = "experiments.vqa"


def _arg(metavar: str, default: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class Arguments:
    """Task vectors of the question types of a VQA set, with the question left unwritten.

    Examples are pictures (or captions of them) with answers, so that the type has to be inferred. Its vector is patched
    into a bare picture, beside prompts with the same examples, and beside random, wrong-type, shuffled-label,
    blank-picture and majority-answer controls. The layer is chosen on pictures that are never scored.

    By default the colour, shape and presence questions of easy-vqa, which is fetched once from the package index. With
    VQAv2 or OK-VQA files: food-class, shirt-color and man-holding.

    Example: python -m experiments.vqa --types colour shape
    """

    model: str = "bundled"
    """The model: bundled (the VLM), a hub id, or a folder."""
    types: Annotated[tuple[str, ...], _arg("TYPE ...", "all three of the data")] = ()
    """Question types: colour, shape, presence, presence-<shape or colour> (easy-vqa); food-class, shirt-color,
    man-holding (files). At least two, as one is the other's control."""
    questions: Annotated[Path | None, _arg("FILE", "easy-vqa")] = None
    """Question file of VQAv2 or OK-VQA."""
    annotations: Annotated[Path | None, _arg("FILE", "none")] = None
    """Annotation file of the same split."""
    images: Annotated[Path | None, _arg("FOLDER", "none")] = None
    """Folder of its images."""
    captions: Annotated[Path | None, _arg("FILE", "none")] = None
    """Captions of the images in COCO's format, which text examples need."""
    source: Annotated[tuple[str, ...], _arg("{text,image,instruction,ensemble} ...", "text image instruction")] = ()
    """How the type is specified; text examples are captions."""
    query: tuple[str, ...] = ("image",)
    """The query: image, or text for its caption."""
    shots: int = 5
    """Examples that a prompt, and a vector read from one context, sees."""
    contexts: int = 4
    """Contexts averaged in a mean vector."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the contexts and of the random vectors."""
    layers: Annotated[tuple[int, ...], _arg("INT ...", "every other")] = ()
    """Layers tried on the selection split, counted from 0."""
    selection_items: int = 12
    """Most pictures of a type that choose the layer."""
    test_items: int = 24
    """Most pictures of a type that are scored."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    out: Annotated[Path | None, _arg("FOLDER", "runs/vqa/<model>[-<question file>]")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Reads the questions, does what is not yet done, and writes tables, figures and the report."""
    from rich.console import Console
    from rich.progress import track

    from interp.protocol.bank import slug
    from interp.protocol.plan import make_plan
    from interp.protocol.settings import Settings
    from interp.protocol.vqa import VqaWork, blank_units, check_captions, load_types
    from interp.runs import Run

    console = Console(soft_wrap=True)
    a = arguments
    tasks = load_types(a.types, a.questions, a.annotations, a.images, a.captions)
    captioned = all(item.caption is not None for found in tasks.values() for item in found.task.items)
    names = tuple(tasks)
    settings = Settings(
        model=a.model,
        source_models=(a.model,),
        tasks=names,
        wrong_tasks=names,
        sources=a.source or (("text", "image", "instruction") if captioned else ("image", "instruction")),
        queries=a.query,
        shots=a.shots,
        contexts=a.contexts,
        seeds=a.seeds,
        layers=a.layers,
        layer_step=2,
        selection_items=a.selection_items,
        test_items=a.test_items,
        template=a.template,
        loading=a.loading,
    )
    check_captions(tasks, sources=settings.sources, queries=settings.queries)
    console.print(f"Loading {a.model} ...")
    models = common.model_loader(a.loading, main=a.model)
    plan = make_plan(settings, models(a.model), load=lambda name: tasks[name].task)
    name = slug(a.model) + (f"-{slug(a.questions.stem)}" if a.questions else "")
    with (
        common.remarks_on(console),
        Run.open(
            a.out or Path("runs") / "vqa" / name,
            plan.config(),
            seeds=a.seeds,
            models={a.model: models(a.model).fingerprint},
        ) as run,
    ):
        work = VqaWork(plan, run, models)
        for unit in track([*plan.units(), *blank_units(plan)], "question types", console=console, transient=True):
            work.perform(unit)
        report = _write(plan, run, tasks)
        shutil.rmtree(run.folder / "contexts", ignore_errors=True)  # only a run that goes on needs them
    print(report)


def _write(plan: "Plan", run: "Run", tasks: "dict[str, TypeTask]") -> Path:
    from figures import cross_modal as figures
    from interp.protocol import tables
    from interp.protocol.vqa import accuracy_table, predictions

    answers = predictions(plan, run, tasks)
    sweep = tables.sweep_table(plan, run)
    layers, summary = tables.layer_table(sweep), tables.summary_table(answers)
    plain = answers.astype({"layer": object})
    run.write_jsonl("predictions.jsonl", plain.where(plain.notna(), None).to_dict("records"))
    drawn = {
        "methods": (figures.method_comparison(summary), "Exact match of every arm, mean over question types."),
        "layers": (
            figures.accuracy_per_layer(sweep, layers),
            "Exact match after patching the mean vector at each layer, on pictures that are not scored elsewhere.",
        ),
    }
    for query in plan.settings.queries:
        drawn[f"methods_{query}"] = (figures.method_comparison(summary, query=query), f"{query} queries, per type.")
    return common.write_results(
        run,
        title=f"Question types of a VQA set: {plan.settings.model}",
        lead=plan.describe().split("\n"),
        tables={
            "accuracy": accuracy_table(answers),
            "summary": summary,
            "paired": tables.paired_table(answers),
            "layers": layers,
            "sweep": sweep,
        },
        figures=drawn,
        notes={
            "summary": "Exact match: three people or more, or most, gave the answer. low and high: 95 % Wilson "
            "interval that counts each picture once. Patches of one context saw as many examples as the prompt.",
            "accuracy": "vqa: VQA accuracy, min(people who gave the answer / 3, 1), mean over leave-one-out sets of "
            "people, with a bootstrap interval over pictures; easy-vqa has one right answer, so that it equals exact "
            "match there but for spelling.",
            "paired": "Patch minus prompt with the same source, picture by picture; p as in the cross-modal report, "
            "uncorrected for the number of rows.",
        },
    )


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
