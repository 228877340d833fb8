"""Several variants of a model on the same items: read once, batched once, pictures encoded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from interp.errors import CrosstaskError
from interp.memory import RETRIES
from interp.models.base import Model
from interp.models.bundled.stem_memory import remembered
from interp.tasks.perception.items import PerceptionItem
from interp.tuning.evaluation.forced_choice import Choices, choose, prepare
from interp.tuning.evaluation.generation import MAX_NEW_TOKENS, Questions, answer, prepare_questions
from interp.tuning.evaluation.reading import ItemReader
from interp.tuning.evaluation.records import Record
from interp.tuning.evaluation.variants import How, changes_vision, variants
from interp.tuning.evaluation.vision import PixelVision
from interp.tuning.features import FeatureStore
from interp.tuning.pixels import pixel_limits
from interp.tuning.run import compiled

Scoring = Literal["choice", "generation"]
Progress = Callable[[int], object]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """How items are scored and how that is computed.

    Attributes:
        scoring: "choice" by the likelihood of the option letters, "generation" by what is written. Items without
            options (numbers) are generated in any case.
        shifts: a choice is averaged over all cyclic shifts of the options.
        max_new_tokens: most tokens of a generated answer.
        how: adapters are added to the weights, or stay beside them.
        budget: most tokens of a forward pass; by the memory that is free by default.
        compile_blocks: compile the decoder blocks.
        min_pixels, max_pixels: limits of a picture, as the adapters were trained with
            (:mod:`interp.tuning.pixels`); the processor's own if None.
    """

    scoring: Scoring = "choice"
    shifts: bool = True
    max_new_tokens: int = MAX_NEW_TOKENS
    how: How = "auto"
    budget: int | None = None
    compile_blocks: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(eq=False)
class Prepared:
    """Items made ready: those whose letters are scored, and those that are generated."""

    names: tuple[str, ...]
    choices: Choices | None
    questions: Questions | None

    @property
    def n_tokens(self) -> int:
        """Tokens that a variant runs."""
        return sum(part.n_tokens for part in (self.choices, self.questions) if part is not None)

    def score(self, progress: Progress | None = None) -> list[Record]:
        """The model as it stands, on all items in their order.

        Where a GPU runs out of memory the passes are halved, twice at most.

        Raises:
            CrosstaskError: it does not fit even so.
        """
        for _ in range(RETRIES):
            try:
                return self._score(progress)
            except torch.OutOfMemoryError:
                pass  # while it is handled, its traceback keeps the tensors of the failed pass
            torch.cuda.empty_cache()
            self.choices = self.choices and replace(self.choices, budget=max(1, self.choices.budget // 2))
            self.questions = self.questions and replace(self.questions, budget=max(1, self.questions.budget // 2))
            logger.warning("the evaluation ran out of memory; its passes are halved")
        try:
            return self._score(progress)
        except torch.OutOfMemoryError as error:
            raise CrosstaskError("the evaluation ran out of memory, with halved passes too; set a --budget") from error

    def _score(self, progress: Progress | None) -> list[Record]:
        found = choose(self.choices, progress=progress) if self.choices is not None else []
        found += answer(self.questions, progress=progress) if self.questions is not None else []
        by_name = {record.item: record for record in found}
        return [by_name[name] for name in self.names]


def prepare_items(
    model: Model,
    items: Sequence[PerceptionItem],
    options: EvaluationOptions,
    *,
    store: FeatureStore | None = None,
    pixels: bool = False,
) -> Prepared:
    """Make items ready for any number of variants.

    Args:
        model: the model.
        items: of unique names.
        options: how they are scored.
        store: where features of pictures are kept on disk as well.
        pixels: encode pictures in every pass, for variants that change the tower or the projector.

    Raises:
        CrosstaskError: there are no items, or two of one name.
    """
    names = tuple(item.name for item in items)
    if not names:
        raise CrosstaskError("there are no items to evaluate on")
    if len(set(names)) < len(names):
        raise CrosstaskError(f"two items are called {next(name for name in names if names.count(name) > 1)!r}")
    reader = ItemReader(model)
    scored = [item for item in items if item.options and options.scoring == "choice"]
    written = [item for item in items if not item.options or options.scoring == "generation"]
    vision = PixelVision(model, reader.pictures) if pixels else None
    choices = questions = None
    if scored:
        choices = prepare(
            model, scored, reader=reader, vision=vision, store=store, shifts=options.shifts, budget=options.budget
        )
    if written:
        questions = prepare_questions(
            model, written, reader=reader, vision=vision, store=store, budget=options.budget,
            max_new_tokens=options.max_new_tokens,
        )  # fmt: skip
    return Prepared(names, choices, questions)


def evaluate(
    model: Model,
    items: Sequence[PerceptionItem],
    folders: Mapping[str, Path | None],
    options: EvaluationOptions | None = None,
    *,
    store: FeatureStore | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[str, list[Record]]]:
    """Evaluate variants of a model on items.

    Args:
        model: the base model, which is as before in the end.
        items: of unique names.
        folders: name -> folder with an adapter; None stands for the model itself.
        options: how items are scored.
        store: where features of pictures are kept on disk as well.
        progress: is told the tokens of each batch.

    Yields:
        Each variant's name with one record for each item, in their order.

    Raises:
        CrosstaskError: an adapter does not match the model, or an item cannot be read.
    """
    options = options or EvaluationOptions()
    ready: dict[bool, Prepared] = {}
    limits = pixel_limits(model, options.min_pixels, options.max_pixels)
    with limits, remembered(model.module), compiled(model, options.compile_blocks):
        for name in variants(model, folders, how=options.how):
            pixels = changes_vision(folders[name])
            if pixels not in ready:
                ready[pixels] = prepare_items(model, items, options, store=store, pixels=pixels)
            yield name, ready[pixels].score(progress)
