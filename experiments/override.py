"""Override a question by a patched vector (Luo et al. 2025): which of the two does the answer answer?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from pandas import DataFrame

    from interp.judging import Judge
    from interp.protocol.override import OverrideWork
    from interp.protocol.override_settings import OverrideSettings

MODULE = "experiments.override"
QUICK: dict[str, Any] = {"contexts": 4, "selection_items": 6, "test_items": 8, "layer_step": 2, "second_half": True}
FULL: dict[str, Any] = {"contexts": 10, "selection_items": 20, "test_items": 100, "layer_step": 1}


@dataclass(frozen=True)
class Arguments:
    """Override the question that a query carries by a patched vector that asks another.

    Every answer is scored for both questions: without a patch, with the vector's instruction as a system prompt (where
    the model has a chat template) and as a prefix, with the patch, and with random and wrong vectors. Four kinds of
    conflict: semantic (another attribute of the picture), syntactic (the same answer in another form), creative (a
    sentence of a given kind instead of the answer), factual (another fact). The layer is chosen on conflicts that are
    never scored.

    By default from the built-in tasks and easy-vqa, which is fetched once from the package index; with VQAv2 or OK-VQA
    files from the pairs of questions about one picture.

    Example: python -m experiments.override --kinds semantic factual --judge bundled-llm
    """

    model: str = "bundled"
    """The model: bundled (the VLM), bundled-llm (with --query text), a hub id, or a folder."""
    kinds: tuple[str, ...] = ("semantic", "syntactic", "creative", "factual")
    """Kinds of conflict."""
    sets: Annotated[tuple[str, ...], arg("QUERY:VECTOR ...", "all of --kinds")] = ()
    """Sets by name instead of kinds, e.g. food-color:food-flavor, or food-color:food-color.FORM with FORM one of upper,
    letter, plural, once, lovely. A task may be a folder too."""
    source: tuple[str, ...] = ("text", "instruction")
    """What the vector is read from: text, image (examples), instruction. VQA files have only instructions."""
    question: Annotated[
        str | None, arg("{instruction,examples}", "instruction; for the bundled pair, which follows none, examples")
    ] = None
    """How the query carries its own question: as an instruction, or by text examples."""
    query: str = "image"
    """The query: image or text."""
    shots: int = 5
    """Examples of a context."""
    contexts: Annotated[int | None, arg("INT", "4; with --full 10")] = None
    """Contexts averaged in a vector of examples."""
    seed: int = 0
    """Seed of the contexts and of the random vectors."""
    layers: Annotated[tuple[int, ...], arg("INT ...", "every other of the second half; with --full all")] = ()
    """Layers tried on the selection split, counted from 0."""
    selection_items: Annotated[int | None, arg("INT", "6; with --full 20")] = None
    """Most conflicts of a set that choose the layer."""
    test_items: Annotated[int | None, arg("INT", "8; with --full 100")] = None
    """Most conflicts of a set that are scored."""
    full: bool = False
    """More conflicts, contexts and layers. Says beforehand how long it will take."""
    template: str = r"Q: {x}\nA: {y}\n\n"
    r"""How an example is written, as in experiments.cross_modal_patch."""
    judge: Annotated[str, arg("MODEL", "the rules alone")] = ""
    """A model that judges every answer beside the rules, by its logits of yes and no."""
    judge_template: Annotated[str, arg("TEXT", "that of interp.judging")] = ""
    r"""Its prompt: {question}, {accepted} and {answer} once each, then a last line; chat: before it for a chat."""
    questions: Annotated[tuple[Path, ...], arg("FILE ...", "none")] = ()
    """Question file of VQAv2, of OK-VQA, or both (whose pairs are the factual kind), or their zips."""
    annotations: Annotated[tuple[Path, ...], arg("FILE ...", "none")] = ()
    """Annotation file of each, of the same split, or its zip."""
    images: Annotated[Path | None, arg("FOLDER", "none")] = None
    """Folder of their images."""
    on_error: Annotated[str, tyro.conf.arg(metavar="{stop,continue}")] = "stop"
    """At an image that is missing or cannot be decoded: stop, or continue without it."""
    out: Annotated[Path | None, arg("FOLDER", "runs/override/<name>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)

    def settings(self) -> "OverrideSettings":
        """The protocol's settings."""
        from interp.models.loading import BUNDLED
        from interp.protocol.override_settings import OverrideSettings

        preset = FULL if self.full else QUICK
        own = {name: getattr(self, name, None) for name in OverrideSettings.__dataclass_fields__}
        given = {name: value for name, value in own.items() if value is not None}
        follows = self.questions or self.model not in BUNDLED  # questions of files have no examples
        question = {"question": "instruction" if follows else "examples"}
        return OverrideSettings(**preset | question | given | {"sources": self.source})


def main(arguments: Arguments) -> None:
    """Makes the conflicts, does what is not yet done, and writes tables, figures and the report."""
    from rich.console import Console

    from interp.judging import ModelJudge
    from interp.protocol.override import OverrideWork
    from interp.protocol.override_estimate import seconds_left
    from interp.protocol.override_inputs import OverrideInputs
    from interp.protocol.override_settings import conflict_sets
    from interp.runs import Run

    console = Console(soft_wrap=True)
    a = arguments
    settings = a.settings()
    skipped: list[str] = []
    sets = conflict_sets(
        settings, a.questions, a.annotations, a.images, skipped=skipped if a.on_error == "continue" else None
    )
    if missing := [kind for kind in settings.kinds if not a.sets and kind not in {found.kind for found in sets}]:
        console.print(f"These files have no conflicts of the kind {' and '.join(missing)}, which is left out.")
    console.print(f"Loading {a.model} ...")
    models = common.model_loader(a.loading, main=a.model)
    fingerprints = {name: models(name).fingerprint for name in filter(None, (a.model, a.judge))}

    def judge() -> "Judge":
        return ModelJudge(models(a.judge), a.judge_template)

    if a.judge:
        judge()  # a bad template is said before any work
    inputs = OverrideInputs(settings, sets, models(a.model))
    common.print_skipped(console, [*skipped, *inputs.skipped])
    with (
        common.remarks_on(console),
        Run.open(
            a.out or common.run_folder(a, "override"), settings.config(sets), seeds=(a.seed,), models=fingerprints
        ) as run,
    ):
        work = OverrideWork(inputs, run, judge)
        if left := seconds_left(work):
            later = ", and the judge some time after" if a.judge else ""
            console.print(f"This should take about {common.duration(left)}{later}.")
        common.perform_units(run, work.units(), work.perform, console)
        report = _write(work)
    print(report)


def _write(work: "OverrideWork") -> Path:
    from figures import override as figures
    from interp.protocol import override_tables

    inputs = work.inputs
    settings, sets = inputs.settings, inputs.sets
    predictions = override_tables.prediction_table(sets, work.run, inputs.tested)
    sweep = override_tables.sweep_table(sets, work.run)
    layers = override_tables.layer_table(sweep)
    summary, paired = override_tables.summary_table(predictions), override_tables.paired_table(predictions)
    work.run.write_jsonl("predictions.jsonl", common.plain_rows(predictions))
    tables = {"summary": summary, "paired": paired, "layers": layers, "sweep": sweep}
    tables |= {"kinds": summary[summary["set"] == "all"], "tests": paired[paired["set"] == "all"]}
    tables["examples"] = _examples(predictions)
    notes = {
        "kinds": "query and vector: rates of answers that are right for the query's own question and for the vector's, "
        "mean over the sets of a kind, with 95 % Wilson intervals that count each item once. No answer can be right "
        "for both.",
        "tests": "Patch minus another arm, item by item, with a bootstrap interval; p is McNemar's exact test, or an "
        "item-wise sign-flip test where items are in several sets; p_holm is corrected for the rows of a side.",
        "layers": "The layer with the highest rate of answers right for the vector on the selection split; ties go to "
        "the lowest, so that a rate of 0 means that no layer worked.",
        "examples": "The first test item of each set; predictions.jsonl has every answer.",
    }
    if settings.judge:
        tables["judge"] = override_tables.judge_table(predictions)
        notes["judge"] = (
            f"How far {settings.judge} agrees with the rules; kappa is 0 for a judge that says the same whatever it "
            "reads, and empty where both give one verdict only. said: the mean probability with which it says yes or "
            "no at all; a judge that says something else has not judged."
        )
    sources = dict.fromkeys(source for found in sets for source in inputs.sources(found))
    counts = ", ".join(f"{found.name} ({found.kind}) {len(inputs.tested(found))}" for found in sets)
    return common.write_results(
        work.run,
        title=f"Overriding a question in {settings.model}",
        lead=[
            f"{settings.query.capitalize()} queries that carry their question by {settings.question}; vectors from "
            f"{' and '.join(sources)}, patched at one layer.",
            f"Scored conflicts: {counts}."
            + (f" Left out: {len(inputs.skipped)} pictures that cannot be decoded." if inputs.skipped else ""),
            "The system prompt is compared in the model's chat template, beside the bare query in a chat."
            if inputs.chat
            else "The model has no chat template that takes a system message; the prefix stands for it.",
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
