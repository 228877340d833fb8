"""What the overriding experiment is asked to do, checked before a model is loaded, and the conflicts it asks for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from interp.errors import CrosstaskError
from interp.judging import TEMPLATE
from interp.models.options import LoadOptions
from interp.protocol.settings import known
from interp.protocol.vqa import asked_files
from interp.tasks.conflicts import KINDS, ConflictSet, file_sets, set_names, task_sets
from interp.tasks.vqa import easy_questions, read_questions

SOURCES = ("text", "image", "instruction")


@dataclass(frozen=True)
class OverrideSettings:
    """One run. Attributes as in :class:`interp.protocol.settings.Settings`, and:

    Attributes:
        kinds: kinds of conflict.
        sets: names of the sets; empty for all of the kinds.
        question: how the query carries its own question: as an instruction, or by text examples.
        query: modality of the query.
        layers, layer_step, second_half: layers tried, as in the protocol's settings.
        selection_items, test_items: most conflicts of a set; None is all.
        judge: a model that judges every answer too; empty for none.
        judge_template: its prompt; empty for that of :mod:`interp.judging`.
    """

    model: str
    kinds: tuple[str, ...]
    sets: tuple[str, ...]
    sources: tuple[str, ...]
    question: str
    query: str
    shots: int
    contexts: int
    seed: int
    layers: tuple[int, ...]
    selection_items: int | None
    test_items: int | None
    template: str
    judge: str = ""
    judge_template: str = ""
    on_error: str = "stop"
    layer_step: int = 2
    second_half: bool = False
    loading: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        for name in ("shots", "contexts", "selection_items", "test_items"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CrosstaskError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        known("--kinds", self.kinds, KINDS)
        known("--source", self.sources, SOURCES)
        known("--question", (self.question,), ("instruction", "examples"))
        known("--query", (self.query,), ("image", "text"))
        known("--on-error", (self.on_error,), ("stop", "continue"))
        for name, values in (("--kinds", self.kinds), ("--source", self.sources), ("--sets", self.sets)):
            if len(set(values)) < len(values):
                raise CrosstaskError(f"{name} names a value twice: {' '.join(values)}.")

    def config(self, sets: Sequence[ConflictSet]) -> dict[str, Any]:
        """What decides the numbers, the conflicts included."""
        given = asdict(self)
        del given["loading"], given["on_error"]
        given["judge_template"] = (self.judge_template or TEMPLATE) if self.judge else ""
        items = [
            (found.name, one.item.input, one.item.split, one.query.accepted, one.vector.accepted, one.vector.question)
            for found in sets
            for one in found.conflicts
        ]
        digest = hashlib.sha256(json.dumps(items).encode()).hexdigest()
        return given | {"sets": [found.name for found in sets], "items_sha256": digest} | self.loading.config()


def conflict_sets(
    settings: OverrideSettings,
    questions: Sequence[Path],
    annotations: Sequence[Path],
    images: Path | None,
    *,
    skipped: list[str] | None = None,
) -> list[ConflictSet]:
    """The sets that are asked for, from VQA files where they are given.

    Args:
        settings: of the run.
        questions: question files, of VQAv2, OK-VQA or both.
        annotations: the annotation file of each.
        images: the folder of the images of all.
        skipped: as in :func:`interp.tasks.vqa.read_questions`.

    Raises:
        CrosstaskError: what the loaders say; sets named beside files.
    """
    pairs = list(zip_longest(questions, annotations)) or [(None, None)]
    files = [found for one, other in pairs if (found := asked_files(one, other, images)) is not None]
    if not files:
        names = settings.sets or set_names(settings.kinds)
        return task_sets(names, lambda: (easy_questions("train"), easy_questions("test")))
    if settings.sets:
        raise CrosstaskError(f"--sets {settings.sets[0]!r} names tasks, and VQA files are given; use --kinds for them.")
    return file_sets([read_questions(*each, skipped=skipped) for each in files], settings.kinds)
