"""The protocol behind `experiments.vqa`: question types as tasks of the cross-modal protocol.

A demonstration is a picture (or its caption) with an answer; the question is not written, so the type has to be
inferred from the examples, as in the in-the-wild tasks of Luo et al. (2025). Contexts, vectors, the choice of the layer
and most controls are those of :mod:`interp.protocol.work`. Added here:

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
from interp.prompts import Specification, render
from interp.protocol.plan import Plan, Unit
from interp.protocol.tables import ARM, prediction_table
from interp.protocol.work import Row, Work
from interp.runs import Run
from interp.statistics import bootstrap_mean
from interp.tasks import Split
from interp.tasks.vqa import (
    EASY_TYPES,
    FILE_TYPES,
    QuestionSet,
    TypeTask,
    easy_questions,
    question_type,
    read_questions,
    type_task,
    vqa_accuracy,
)

SIDE, GREY = 64, (128, 128, 128)


def load_types(
    names: Sequence[str],
    questions: Path | None,
    annotations: Path | None,
    images: Path | None,
    captions: Path | None,
) -> dict[str, TypeTask]:
    """The question types of easy-vqa, or of the user's files where they are given.

    Args:
        names: of the types; all three of the data by default.
        questions, annotations, images, captions: as in :func:`interp.tasks.vqa.read_questions`.

    Raises:
        CrosstaskError: some of the files are named and others not; what the loaders say.
    """
    files = asked_files(questions, annotations, images, captions)
    types = [question_type(name, easy=files is None) for name in names or (FILE_TYPES if files else EASY_TYPES)]
    if len({kind.name for kind in types}) < max(2, len(types)):
        raise CrosstaskError(
            f"--types names {' '.join(kind.name for kind in types)}; expected two different types or more, since one "
            "is the control of the other."
        )
    if files is None:
        sets: list[tuple[QuestionSet, Split | None]] = [
            (easy_questions("train"), "selection"),
            (easy_questions("test"), "test"),
        ]
    else:
        keep = [kind.fits for kind in types]
        read = read_questions(*files, captions=captions, keep=lambda text: any(fits(text) for fits in keep))
        sets = [(read, None)]
    return {kind.name: type_task(kind, sets) for kind in types}


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
            "--annotations and --images together, and without them easy-vqa is used, which brings its own captions."
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


def blank_units(plan: Plan) -> list[Unit]:
    """The units of the control with a blank picture, after all others; none without image queries."""
    if "image" not in plan.settings.queries:
        return []
    return [Unit("blank", task, seed, "image") for seed in plan.settings.seeds for task in plan.tasks]


class VqaWork(Work):
    """The work of the cross-modal protocol, and the blank picture."""

    def perform(self, unit: Unit) -> dict[str, Any]:
        """As :meth:`Work.perform`."""
        if unit.kind != "blank":
            return super().perform(unit)
        record = self.run.done(unit.key)
        if record is None:
            record = self._blank(unit)
            self.run.record(unit.key, record)
        return record

    def _blank(self, unit: Unit) -> dict[str, Any]:
        plan, model = self.plan, self.models(self.plan.settings.model)
        task = plan.tasks[unit.task]
        picture = Image(pixels=Pillow.new("RGB", (SIDE, SIDE), GREY))
        rows = self._mean_rows(unit)
        prompt = render(model, Specification(), picture, template=plan.template)
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
            | self._answer(item, generation)
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


def predictions(plan: Plan, run: Run, tasks: Mapping[str, TypeTask]) -> pd.DataFrame:
    """Every answer on the test split, with its scores and, in `vqa`, its VQA accuracy."""
    blank = []
    for unit in blank_units(plan):
        family = plan.tasks[unit.task].task.family
        where: dict[str, Any] = {"model": plan.settings.model, "family": family, "task": unit.task}
        where |= {"query": unit.query, "seed": unit.seed}
        record = run.done(unit.key)
        assert record is not None
        blank += [where | answer for answer in record["answers"]]
    table = pd.concat([prediction_table(plan, run), pd.DataFrame(blank)], ignore_index=True)
    given = zip(table["task"], table["item"], table["answer"], strict=True)
    table["vqa"] = [vqa_accuracy(answer, tasks[task].people[item]) for task, item, answer in given]
    return table.astype({"layer": "Int64"})


def accuracy_table(answers: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and type, seeds combined: VQA accuracy with its bootstrap interval over pictures."""
    rows = []
    for keys, group in answers.groupby(["model", "query", *ARM, "task"], sort=False):
        found = bootstrap_mean(group["vqa"].to_numpy(), groups=list(group["item"]))
        row = dict(zip(["model", "query", *ARM, "task"], keys, strict=True))
        row |= {"layer": group["layer"].iloc[0], "pictures": group["item"].nunique(), "vqa": found.value}
        rows.append(row | {"low": found.low, "high": found.high, "exact": group["exact"].mean()})
    return pd.DataFrame(rows)
