"""Override a question by a patched vector (Luo et al. 2025): which of the two does the answer answer?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments import common

if TYPE_CHECKING:
    from pandas import DataFrame

    from interp.judging import Judge
    from interp.protocol.override import OverrideWork
    from interp.tasks.conflicts import ConflictSet

MODULE = "experiments.override"


def _arg(metavar: str, default: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class Arguments:
    """Override the question that a query carries by a patched vector that asks another.

    Every answer is scored for both questions: without a patch, with the vector's instruction as a prefix, with the
    patch, and with random and wrong vectors. Four kinds of conflict: semantic (another attribute of the picture),
    syntactic (the same answer in another form), creative (a sentence of a given kind instead of the answer), factual
    (another fact). The layer is chosen on conflicts that are never scored.

    By default from the built-in tasks and easy-vqa, which is fetched once from the package index; with VQAv2 or OK-VQA
    files from the pairs of questions about one picture.

    Example: python -m experiments.override --kinds semantic factual --judge bundled-llm
    """

    model: str = "bundled"
    """The model: bundled (the VLM), bundled-llm (with --query text), a hub id, or a folder."""
    kinds: tuple[str, ...] = ("semantic", "syntactic", "creative", "factual")
    """Kinds of conflict."""
    sets: Annotated[tuple[str, ...], _arg("QUERY:VECTOR ...", "all of --kinds")] = ()
    """Sets by name instead of kinds, e.g. food-color:food-flavor, or food-color:food-color.FORM with FORM one of upper,
    letter, plural, once, lovely. A task may be a folder too."""
    source: tuple[str, ...] = ("text", "instruction")
    """What the vector is read from: text, image (examples), instruction. VQA files have only instructions."""
    question: str = "instruction"
    """How the query carries its own question: as an instruction, or by text examples (instruction, examples)."""
    query: str = "image"
    """The query: image or text."""
    shots: int = 5
    """Examples of a context."""
    contexts: int = 4
    """Contexts averaged in a vector of examples."""
    seed: int = 0
    """Seed of the contexts and of the random vectors."""
    layers: Annotated[tuple[int, ...], _arg("INT ...", "every other")] = ()
    """Layers tried on the selection split, counted from 0."""
    selection_items: int = 6
    """Most conflicts of a set that choose the layer."""
    test_items: int = 12
    """Most conflicts of a set that are scored."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    judge: Annotated[str, _arg("MODEL", "the rules alone")] = ""
    """A model that judges every answer beside the rules, by its logits of yes and no."""
    judge_template: Annotated[str, _arg("TEXT", "that of interp.judging")] = ""
    r"""Its prompt: {question}, {accepted} and {answer} once each, then a last line; chat: before it for a chat."""
    questions: Annotated[Path | None, _arg("FILE", "none")] = None
    """Question file of VQAv2 or OK-VQA."""
    annotations: Annotated[Path | None, _arg("FILE", "none")] = None
    """Annotation file of the same split."""
    images: Annotated[Path | None, _arg("FOLDER", "none")] = None
    """Folder of its images."""
    out: Annotated[Path | None, _arg("FOLDER", "runs/override/<model>[-<question file>]")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Makes the conflicts, does what is not yet done, and writes tables, figures and the report."""
    from rich.console import Console
    from rich.progress import track

    from interp.judging import ModelJudge
    from interp.protocol.bank import slug
    from interp.protocol.override import OverrideWork
    from interp.protocol.override_settings import OverrideSettings, conflict_sets
    from interp.runs import Run

    console = Console(soft_wrap=True)
    a = arguments
    settings = OverrideSettings(
        **{name: getattr(a, name) for name in OverrideSettings.__dataclass_fields__ if name != "sources"},
        sources=a.source,
    )
    sets = conflict_sets(settings, a.questions, a.annotations, a.images)
    console.print(f"Loading {a.model} ...")
    models = common.model_loader(a.loading, main=a.model)
    fingerprints = {name: models(name).fingerprint for name in filter(None, (a.model, a.judge))}

    def judge() -> "Judge":
        return ModelJudge(models(a.judge), a.judge_template)

    if a.judge:
        judge()  # a bad template is said before any work
    name = slug(a.model) + (f"-{slug(a.questions.stem)}" if a.questions else "")
    folder = a.out or Path("runs") / "override" / name
    with (
        common.remarks_on(console),
        Run.open(folder, settings.config(sets), seeds=(a.seed,), models=fingerprints) as run,
    ):
        work = OverrideWork(settings, sets, models(a.model), run, judge)
        for key in track(work.units(), "conflicts", console=console, transient=True):
            work.perform(key)
        report = _write(work, sets)
    print(report)


def _write(work: "OverrideWork", sets: "list[ConflictSet]") -> Path:
    from figures import override as figures
    from interp.protocol import override_tables

    settings = work.settings
    predictions = override_tables.prediction_table(sets, work.run, work.tested)
    sweep = override_tables.sweep_table(sets, work.run)
    layers = override_tables.layer_table(sweep)
    summary, paired = override_tables.summary_table(predictions), override_tables.paired_table(predictions)
    answers = predictions.astype({"layer": object})
    work.run.write_jsonl("predictions.jsonl", answers.where(answers.notna(), None).to_dict("records"))
    tables = {"summary": summary, "paired": paired, "layers": layers, "sweep": sweep}
    tables |= {"kinds": summary[summary["set"] == "all"], "tests": paired[paired["set"] == "all"]}
    tables["examples"] = _examples(predictions)
    notes = {
        "kinds": "query and vector: rates of answers that are right for the query's own question and for the vector's, "
        "mean over the sets of a kind, with 95 % Wilson intervals that count each item once. No answer can be right "
        "for both.",
        "tests": "Patch minus another arm, item by item, with a bootstrap interval; p is McNemar's exact test, or an "
        "item-wise sign-flip test where items are in several sets, uncorrected for the number of rows.",
        "layers": "The layer with the highest rate of answers right for the vector on the selection split; ties go to "
        "the lowest, so that a rate of 0 means that no layer worked.",
        "examples": "The first test item of each set; predictions.jsonl has every answer.",
    }
    if settings.judge:
        tables["judge"] = override_tables.judge_table(predictions)
        notes["judge"] = (
            f"How far {settings.judge} agrees with the rules; kappa is 0 for a judge that says the same whatever it "
            "reads, and empty where both give one verdict only."
        )
    counts = ", ".join(f"{found.name} ({found.kind}) {len(work.tested(found))}" for found in sets)
    return common.write_results(
        work.run,
        title=f"Overriding a question in {settings.model}",
        lead=[
            f"{settings.query.capitalize()} queries that carry their question by {settings.question}; vectors from "
            f"{' and '.join(settings.sources)}, patched at one layer.",
            f"Scored conflicts: {counts}.",
        ],
        tables=tables,
        figures={
            "both": (figures.both_accuracies(summary), "Answers that are right for either question, per kind."),
            "layers": (figures.accuracy_by_layer(sweep, layers), "Where the patch overrides the question."),
        },
        notes=notes,
    )


def _examples(predictions: "DataFrame") -> "DataFrame":
    """The answers of all arms to the first item of each set."""
    first = predictions.groupby("set", sort=False)["item"].transform("first") == predictions["item"]
    columns = ["set", "item", "query_accepted", "vector_accepted", "arm", "source", "answer", "query", "vector"]
    return predictions[first][columns]


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
