"""The protocol behind `experiments.vqa`: question types as tasks of the cross-modal protocol.

A demonstration is a picture (or its caption) with an answer; the question is not written, so the type has to be
inferred from the examples, as in the in-the-wild tasks of Luo et al. (2025). Contexts, vectors, the choice of the layer
and most controls are those of :mod:`interp.protocol.work`. Added here:

    question         the question itself, as it was asked about this picture, before the picture: ordinary VQA
    question_blank   the question with a plain grey picture: what the question alone gives away
    control_blank    the mean vector, at the pooled layer, patched into a query whose picture is plain grey: what it
                     says without seeing the picture, scored against the answers to every test picture
    VQA accuracy     how many people gave the answer (:mod:`interp.tasks.vqa.scoring`), beside exact match, for which an
                     answer is right that at least three people gave or most did
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image as Pillow

from interp.errors import CrosstaskError
from interp.images import Image
from interp.prompts import Content, Specification, render
from interp.protocol.contexts import content
from interp.protocol.plan import Plan, Unit
from interp.protocol.rates import comparison_rows, rate_table, with_holm
from interp.protocol.tables import ARM, prediction_table
from interp.protocol.work import Row, Work
from interp.runs import Run
from interp.tasks import Split
from interp.tasks.vqa import (
    EASY_TYPES,
    FILE_TYPES,
    PICTURE_TYPES,
    QuestionSet,
    TypeTask,
    easy_questions,
    picture_questions,
    question_type,
    read_questions,
    type_task,
    vqa_accuracy,
)

QUICK_TYPES = (*EASY_TYPES, "food-class", "animal-class")
"""Question types without options; the last two are of pictures that the bundled model knows."""
SIDE, GREY = 64, (128, 128, 128)


def load_types(
    names: Sequence[str],
    questions: Path | None,
    annotations: Path | None,
    images: Path | None,
    captions: Path | None,
    *,
    full: bool = False,
    skipped: list[str] | None = None,
) -> dict[str, TypeTask]:
    """Question types of easy-vqa and of the built-in pictures, or of the user's files where they are given.

    Args:
        names: of the types; all three of files, else `QUICK_TYPES`, or all with `full`.
        questions, annotations, images, captions, skipped: as in :func:`interp.tasks.vqa.read_questions`.
        full: every type of the data by default.

    Raises:
        CrosstaskError: some of the files are named and others not; what the loaders say.
    """
    files = asked_files(questions, annotations, images, captions)
    everything = (*EASY_TYPES, *PICTURE_TYPES) if full else QUICK_TYPES
    usual = everything if files is None else tuple(FILE_TYPES)
    types = [question_type(name, files=files is not None) for name in names or usual]
    if len({kind.name for kind in types}) < max(2, len(types)):
        raise CrosstaskError(
            f"--types names {' '.join(kind.name for kind in types)}; expected two different types or more, since one "
            "is the control of the other."
        )
    if files is not None:
        keep = [kind.fits for kind in types]
        read = read_questions(
            *files, captions=captions, keep=lambda text: any(fits(text) for fits in keep), skipped=skipped
        )
        return {kind.name: type_task(kind, [(read, None)]) for kind in types}
    found = {}
    for kind in types:
        if kind.name in PICTURE_TYPES:
            selection, test = picture_questions("selection"), picture_questions("test")
        else:
            selection, test = easy_questions("train"), easy_questions("test")
        sets: list[tuple[QuestionSet, Split | None]] = [(selection, "selection"), (test, "test")]
        found[kind.name] = type_task(kind, sets)
    return found


def check_sizes(tasks: Mapping[str, TypeTask], *, shots: int) -> None:
    """Every type has pictures for its contexts, a query of the layer choice, and a scored one.

    Raises:
        CrosstaskError: a type has too few.
    """
    for name, found in tasks.items():
        selection, test = (len(found.task.split(split)) for split in ("selection", "test"))
        if selection < shots + 2 or not test:
            raise CrosstaskError(
                f"the question type {name!r} has {selection + test} pictures in {found.task.source}, {selection} to "
                f"show and to choose the layer by and {test} to score; --shots {shots} needs {shots + 2} and 1, so use "
                "fewer shots, or leave the type out with --types."
            )


def asked_files(
    questions: Path | None, annotations: Path | None, images: Path | None, captions: Path | None = None
) -> tuple[Path, Path, Path] | None:
    """The user's question file, annotation file and image folder, or None if there are none.

    Raises:
        CrosstaskError: some of them are named and others not.
    """
    given = {"--questions": questions, "--annotations": annotations, "--images": images}
    missing = [name for name, path in given.items() if path is None]
    if questions is not None and annotations is not None and images is not None:
        return questions, annotations, images
    if len(missing) < len(given) or captions is not None:
        raise CrosstaskError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; a VQA set needs --questions, "
            "--annotations and --images together, and what is asked without them brings its own captions."
        )
    return None


def check_captions(tasks: Mapping[str, TypeTask], *, sources: tuple[str, ...], queries: tuple[str, ...]) -> None:
    """Captions are there wherever a picture is to be written.

    Raises:
        CrosstaskError: text examples or queries are asked for, and an item has no caption.
    """
    if "text" not in queries and not {"text", "ensemble", "heads"} & set(sources):
        return
    for name, found in tasks.items():
        for item in found.task.items:
            if item.caption is None:
                raise CrosstaskError(
                    f"picture {item.input!r} of the question type {name!r} has no caption, which stands for it in a "
                    "text; name a file with --captions, or use --source image instruction and --query image."
                )


def added_units(plan: Plan) -> list[Unit]:
    """The units of this module, after all others: the questions themselves, and the vectors without a picture."""
    settings = plan.settings
    asked = [Unit("question", task, settings.seeds[0], query) for task in plan.tasks for query in settings.queries]
    if "image" not in settings.queries:
        return asked
    return [*asked, *(Unit("blank", task, seed, "image") for seed in settings.seeds for task in plan.tasks)]


class VqaWork(Work):
    """The work of the cross-modal protocol, the questions themselves, and the blank picture."""

    def __init__(self, plan: Plan, run: Run, models: Any, tasks: Mapping[str, TypeTask], backend: Any = None) -> None:
        super().__init__(plan, run, models, backend)
        self.tasks = tasks

    def perform(self, unit: Unit) -> dict[str, Any]:
        """As :meth:`Work.perform`."""
        if unit.kind not in ("question", "blank"):
            return super().perform(unit)
        record = self.run.done(unit.key)
        if record is None:
            record = self._question(unit) if unit.kind == "question" else self._blank(unit)
            self.run.record(unit.key, record)
        return record

    def _question(self, unit: Unit) -> dict[str, Any]:
        plan, model = self.plan, self.models(self.plan.settings.model)
        task, asked = plan.tasks[unit.task], self.tasks[unit.task].asked
        rows: list[tuple[str, Content]] = [(asked[item.input], content(item, unit.query)) for item in task.test]
        methods = {"question": rows}
        if unit.query == "image":
            methods["question_blank"] = [(text, _blank_picture()) for text, _ in rows]
        answers = []
        for method, given in methods.items():
            distinct = list(dict.fromkeys(given))
            prompts = [
                render(model, Specification(instruction=text), query, template=plan.template)
                for text, query in distinct
            ]
            told = self.backend.generate(model, prompts, max_new_tokens=task.max_new_tokens)
            said = dict(zip(distinct, told, strict=True))
            arm = dict.fromkeys(("source_model", "source", "layer_choice", "budget"), "")
            answers += [
                {"method": method, **arm, "layer": None, "demonstrations": 0, **self.scorer.answer(item, said[row])}
                for item, row in zip(task.test, given, strict=True)
            ]
        return {"answers": answers}

    def _blank(self, unit: Unit) -> dict[str, Any]:
        plan, model = self.plan, self.models(self.plan.settings.model)
        task = plan.tasks[unit.task]
        rows = self._mean_rows(unit)
        prompt = render(model, Specification(), _blank_picture(), template=plan.template)
        (found,) = self.backend.sweep(
            model, [prompt], [[row.patch for row in rows]], max_new_tokens=task.max_new_tokens
        )
        answers = [
            {
                "method": row.method,
                "source_model": row.source_model,
                "source": row.source,
                "layer_choice": "pooled",
                "layer": row.layer,
                "demonstrations": row.demonstrations,
                "budget": row.budget,
            }
            | self.scorer.answer(item, generation)
            for row, generation in zip(rows, found, strict=True)
            for item in task.test
        ]
        return {"answers": answers}

    def _mean_rows(self, unit: Unit) -> list[Row]:
        """Each arm's mean vector at its pooled layer."""
        plan, rows = self.plan, []
        for arm in plan.arms():
            layer = self.layers[(*arm, unit.query, "all")]
            shown = 0 if arm[1] == "instruction" else plan.settings.shots * plan.settings.contexts
            vector = self.bank.vector(*arm, unit.task, unit.seed)[layer]
            rows.append(Row("control_blank", *arm, layer, ("pooled",), shown, "", vector))
        return rows


def _blank_picture() -> Image:
    return Image(pixels=Pillow.new("RGB", (SIDE, SIDE), GREY))


def predictions(plan: Plan, run: Run, tasks: Mapping[str, TypeTask]) -> pd.DataFrame:
    """Every answer on the test split, with its scores and, in `vqa`, its VQA accuracy.

    What needs no context is asked once and stands under every seed.
    """
    added = []
    for unit in added_units(plan):
        family = plan.tasks[unit.task].task.family
        where: dict[str, Any] = {"model": plan.settings.model, "family": family, "task": unit.task}
        record = run.done(unit.key)
        assert record is not None
        for seed in plan.settings.seeds if unit.kind == "question" else (unit.seed,):
            added += [where | {"query": unit.query, "seed": seed} | answer for answer in record["answers"]]
    table = pd.concat([prediction_table(plan, run), pd.DataFrame(added)], ignore_index=True)
    given = zip(table["task"], table["item"], table["answer"], strict=True)
    table["vqa"] = [vqa_accuracy(answer, tasks[task].people[item]) for task, item, answer in given]
    return table.astype({"layer": "Int64"})


def accuracy_table(answers: pd.DataFrame) -> pd.DataFrame:
    """VQA accuracy of every arm: over all types with equal weight, and per type.

    Returns:
        model, query, arm, task, layer, seeds, items (pictures), vqa with its 95 % interval over pictures and seeds
        (low, high), exact (exact match), demonstrations, budget.
    """
    keys = ["model", "query", *ARM]
    table = rate_table(_by_vqa(answers), keys, carry=["layer", "demonstrations", "budget"])
    exact = rate_table(answers, keys)["exact"]
    table = table.rename(columns={"exact": "vqa"}).assign(exact=exact)
    table.loc[(table["layer_choice"] == "task") & (table["task"] == "all"), "layer"] = pd.NA
    shown = ["layer", "seeds", "items", "vqa", "low", "high", "exact", "demonstrations", "budget"]
    return table[[*keys, "task", *shown]].astype({"layer": "Int64"})


def comparison_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Patches at the pooled layer against prompts, questions and controls, picture by picture, in VQA accuracy.

    Returns:
        query, source, method, against, task and the columns of :func:`interp.protocol.rates.comparison_rows`, p
        corrected by Holm's method over the comparisons of a query modality.
    """
    rows = []
    shown = _by_vqa(answers[answers["layer_choice"].isin(["", "pooled"])])
    for (query, source, method), patch in shown.groupby(["query", "source", "method"], sort=False):
        if not str(method).startswith("patch_"):
            continue
        beside = shown[(shown["query"] == query) & shown["source"].isin(["", source])]
        for against, other in beside.groupby("method", sort=False):
            if not str(against).startswith("patch_"):
                labels = {"query": query, "source": source, "method": method, "against": against}
                rows += comparison_rows(patch, other, labels)
    return with_holm(rows, ["query"])


def _by_vqa(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers with VQA accuracy in the place of exact match, for tables that are made of that."""
    return answers.assign(exact=answers["vqa"].astype(float))
