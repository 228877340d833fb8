"""What the overriding experiment puts into the model: conflicts, contexts, prompts of every arm, and vectors.

A vector is the mean over contexts of examples (with a leak mask on selection items), or is read from the instruction.
Examples come from the selection split, whose pictures are never scored.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from interp import vectors
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.prompts import Prompt, Specification, Template, render
from interp.protocol.contexts import Context, content, draw, examples_of, picture, source_prompts
from interp.protocol.override_settings import OverrideSettings
from interp.protocol.plan import longest_answer
from interp.protocol.settings import every
from interp.tasks import Item, Task
from interp.tasks.conflicts import Conflict, ConflictSet

INVENTED_TOKENS = 16
"""Longest answer where a sentence is asked for."""


class OverrideInputs:
    """The conflicts of a run, checked against its model, with their prompts and vectors."""

    def __init__(self, settings: OverrideSettings, sets: Sequence[ConflictSet], model: Model) -> None:
        """
        Args:
            settings: of the run.
            sets: the conflicts.
            model: the patched model, which vectors are read from too.

        Raises:
            CrosstaskError: the sets do not fit the settings or the model, or a picture cannot be decoded.
        """
        self.settings, self.sets, self.model = settings, list(sets), model
        self.template = Template.parse(settings.template)
        self.layers = settings.layers or every(settings.layer_step, model.n_layers, second_half=settings.second_half)
        self.skipped: list[str] = []
        self._decoded: dict[Path | None, bool] = {}
        self._chosen: dict[tuple[str, str], list[Conflict]] = {}
        self._states: dict[tuple[str, str], Float[Tensor, "C L D"]] = {}
        self._check()

    @cached_property
    def chat(self) -> Template | None:
        """The template inside the model's chat, or None where that takes no system message."""
        try:
            return replace(self.template, turns="chat") if self.model.system_frame else None
        except CrosstaskError:
            return None

    @property
    def prompted(self) -> tuple[str, ...]:
        """The arms that are prompts."""
        if self.chat is None:
            return ("before", "prefix")
        return ("before", "prefix", *(() if self.chat == self.template else ("chat",)), "system")

    def _check(self) -> None:
        settings, model = self.settings, self.model
        if not model.takes_images and "image" in (settings.query, *settings.sources):
            raise CrosstaskError(f"{model.name!r} takes no images; use --query text and --source text instruction.")
        outside = [layer for layer in self.layers if not 0 <= layer < model.n_layers]
        if outside:
            raise CrosstaskError(
                f"--layers {outside[0]} is out of range: {model.name!r} has {model.n_layers} layers, "
                f"0 to {model.n_layers - 1}."
            )
        for found in self.sets:
            if not self.sources(found):
                raise CrosstaskError(
                    f"the set {found.name!r} has questions of its own for each picture, which only --source "
                    f"instruction can say, and the source is {' '.join(settings.sources)}."
                )
            if found.query_task is None and settings.question == "examples":
                raise CrosstaskError(
                    f"the set {found.name!r} has questions of its own for each picture; use --question instruction."
                )
            for split, items in (("selection", self.selected(found)), ("test", self.tested(found))):
                if not items:
                    raise CrosstaskError(
                        f"the set {found.name!r} has no conflicts in the {split} split; use other --kinds, or more "
                        "questions."
                    )
            if settings.query == "text" and any(
                found.query_task is None and c.item.caption is None for c in found.conflicts
            ):
                raise CrosstaskError(f"the pictures of the set {found.name!r} have no captions; use --query image.")
            if found.vector_task is not None:
                self._other_tasks(found)
            for conflict in self.tested(found) if found.vector_task is None else ():
                self._other_questions(found, conflict)
            for arm in self.prompted:
                self.prompts(found, self.tested(found)[:1], arm)

    def sources(self, found: ConflictSet) -> tuple[str, ...]:
        """The sources that the set's vectors can be read from."""
        return tuple(s for s in self.settings.sources if s == "instruction" or found.vector_task is not None)

    # Items, contexts, prompts

    def contexts(self, task: Task) -> tuple[Context, ...]:
        """The contexts of a task, the same for all sets that it is in."""
        s = self.settings
        pool = task.split("selection")
        if "image" in s.sources:
            pool = tuple(item for item in pool if self._decodes(item))
        return draw(pool, shots=s.shots, contexts=s.contexts, seed=s.seed, task=task.name)

    def _decodes(self, item: Item) -> bool:
        """Whether the item's picture can be decoded; with --on-error continue one that cannot is left out."""
        if item.image not in self._decoded:
            try:
                picture(item).load()
                self._decoded[item.image] = True
            except CrosstaskError as error:
                if self.settings.on_error == "stop":
                    raise
                self._decoded[item.image] = False
                self.skipped.append(str(error))
        return self._decoded[item.image]

    def _first(self, conflicts: Iterable[Conflict], limit: int | None) -> list[Conflict]:
        """The first conflicts, of which a picture that cannot be decoded is left out."""
        if self.settings.query == "image":
            conflicts = (conflict for conflict in conflicts if self._decodes(conflict.item))
        return list(islice(conflicts, limit))

    def selected(self, found: ConflictSet) -> list[Conflict]:
        """Selection conflicts whose item at least one context of each side leaves out."""
        if ("selection", found.name) in self._chosen:
            return self._chosen["selection", found.name]
        tasks = [found.vector_task] if found.vector_task and set(self.sources(found)) - {"instruction"} else []
        if found.query_task and self.settings.question == "examples":
            tasks.append(found.query_task)
        drawn = [self.contexts(task) for task in tasks]
        clean = (
            conflict
            for conflict in found.split("selection")
            if all(any(conflict.item.input not in context.items for context in contexts) for contexts in drawn)
        )
        return self._chosen.setdefault(("selection", found.name), self._first(clean, self.settings.selection_items))

    def tested(self, found: ConflictSet) -> list[Conflict]:
        """The conflicts that are scored."""
        if ("test", found.name) not in self._chosen:
            self._chosen["test", found.name] = self._first(found.split("test"), self.settings.test_items)
        return self._chosen["test", found.name]

    def prompts(self, found: ConflictSet, conflicts: Sequence[Conflict], arm: str = "before") -> list[Prompt]:
        """The queries with their own question, and the vector's question where the arm puts it."""
        prompts = []
        template = self.template if arm in ("before", "prefix") else self.chat
        for place, conflict in enumerate(conflicts):
            before = conflict.vector.question if arm == "prefix" else None
            if self.settings.question == "examples" and found.query_task is not None:
                clean = [c for c in self.contexts(found.query_task) if conflict.item.input not in c.items]
                shown = examples_of(clean[place % len(clean)], "text").examples
                specification = Specification(shown, before)
            else:
                lines = [before, conflict.query.question] if before else [conflict.query.question]
                specification = Specification(instruction="\n".join(lines))
            if arm == "system":
                specification = replace(specification, system=conflict.vector.question)
            query = content(conflict.item, self.settings.query)
            prompts.append(render(self.model, specification, query, template=template))
        return prompts

    def limit(self, found: ConflictSet) -> int:
        """Longest answer to generate, in tokens."""
        conflicts = [*self.selected(found), *self.tested(found)]
        spelled = [a for one in conflicts for side in (one.query, one.vector) for a in side.accepted]
        longest = 1 + longest_answer(self.model, spelled)
        return max(longest, INVENTED_TOKENS) if found.vector_form.invents else longest

    # Vectors

    def vector(self, found: ConflictSet, conflict: Conflict, source: str) -> Float[Tensor, "L D"]:
        """The vector of the conflict's other question; contexts that show its item are left out."""
        if source == "instruction":
            return self._instruction(conflict.vector.question)
        assert found.vector_task is not None
        return self._mean(found.vector_task, source, exclude=conflict.item.input)

    def wrong(self, found: ConflictSet, conflict: Conflict, source: str) -> Float[Tensor, "L D"]:
        """The mean vector of other tasks; with questions of its own, the vector of another item's question."""
        if found.vector_task is None:
            others = self._other_questions(found, conflict)
            return self._instruction(others[zlib.crc32(conflict.item.input.encode()) % len(others)])
        tasks = self._other_tasks(found)
        read = [self._instruction(t.instruction) if source == "instruction" else self._mean(t, source) for t in tasks]
        return torch.stack(read).mean(0)

    def _other_tasks(self, found: ConflictSet) -> list[Task]:
        """The vector tasks of other sets that are neither of this set's two tasks.

        Raises:
            CrosstaskError: there is none.
        """
        assert found.vector_task is not None
        assert found.query_task is not None
        own = {found.vector_task.name, found.query_task.name}
        tasks = {s.vector_task.name: s.vector_task for s in self.sets if s.vector_task is not None}
        others = [task for name, task in tasks.items() if name not in own]
        if not others:
            raise CrosstaskError(
                f"the wrong vector of {found.name!r} needs a set whose vector asks for something else; name one more "
                "with --sets, or another kind with --kinds."
            )
        return others

    def _other_questions(self, found: ConflictSet, conflict: Conflict) -> list[str]:
        """What the vectors of other conflicts ask, of the same set if they differ there, else of other sets.

        Raises:
            CrosstaskError: they all ask the same.
        """
        own = {conflict.query.question, conflict.vector.question}
        for sets in ([found], self.sets):
            asked = [one.vector.question for each in sets for one in self.tested(each)]
            if others := [question for question in dict.fromkeys(asked) if question not in own]:
                return others
        raise CrosstaskError(
            f"the wrong vector of {found.name!r} needs a question that is neither of a conflict's own; use more "
            "--test-items, or another kind with --kinds."
        )

    def _instruction(self, text: str) -> Float[Tensor, "L D"]:
        key = (text, "instruction")
        if key not in self._states:
            prompt = render(self.model, Specification(instruction=text), None, template=self.template)
            self._states[key] = vectors.extract(self.model, [prompt])
        return self._states[key][0]

    def _mean(self, task: Task, source: str, exclude: str | None = None) -> Float[Tensor, "L D"]:
        key, contexts = (task.name, source), self.contexts(task)
        if key not in self._states:
            prompts = source_prompts(self.model, task, source, contexts, template=self.template)
            self._states[key] = vectors.extract(self.model, prompts)
        return vectors.mean(self._states[key], items=[context.items for context in contexts], exclude=exclude)
