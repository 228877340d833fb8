"""The protocol behind `experiments.override`: a query asks one thing, and the patched vector another.

1. selection   for each set, on conflicts that are never scored: the vector's task, patched at every layer into queries
               that carry their own question; the layer with the highest rate of answers that are right for the vector,
               mean over the sets of a kind, is chosen for each (kind, source); ties go to the lowest layer
2. test        every answer is scored for *both* sides, the query's question and the vector's:
                   before    the query with its question, no patch
                   prefix    the vector's question as an instruction before everything (the system prompt of Luo et al.)
                   patch     the vector at the chosen layer
                   random    a random direction of its norm there
                   wrong     the mean of the vectors of other tasks there (of VQA files: of another question)
                   majority  the most frequent answer to the vector's question on the selection split, without a model
3. judge       the same answers by a model, if one is named; layers are always chosen by the rule

A vector is the mean over contexts of examples (with a leak mask on selection items), or is read from the instruction.
Source of the method: Luo et al. 2025, section on task conflicts; both accuracies as in Hendel et al. 2023, section 4.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp import vectors
from interp.errors import CrosstaskError
from interp.judging import Case, Judge, RuleJudge
from interp.models.base import Model
from interp.patching import Generation, RowPatch, generate, sweep
from interp.prompts import Prompt, Specification, Template, render
from interp.protocol.contexts import Context, content, draw, examples_of, source_prompts
from interp.protocol.override_settings import OverrideSettings
from interp.protocol.override_tables import SIDES, layer_table, record_of, sweep_table
from interp.protocol.plan import longest_answer
from interp.runs import Run
from interp.scoring import majority_answer
from interp.tasks import Task
from interp.tasks.conflicts import Conflict, ConflictSet

INVENTED_TOKENS = 16
"""Longest answer where a sentence is asked for."""


class OverrideWork:
    """Performs the units of a run, two or three a set, and makes its tables."""

    def __init__(
        self,
        settings: OverrideSettings,
        sets: Sequence[ConflictSet],
        model: Model,
        run: Run,
        judge: Callable[[], Judge] | None = None,
    ) -> None:
        """
        Args:
            settings: of the run.
            sets: the conflicts.
            model: the patched model, which vectors are read from too.
            run: its folder.
            judge: makes the judge when it is first needed.
        """
        self.settings, self.sets, self.model, self.run = settings, list(sets), model, run
        self.template = Template.parse(settings.template)
        self.layers = settings.layers or tuple(range(0, model.n_layers, 2))
        self.make_judge = judge
        self._states: dict[tuple[str, str], Float[Tensor, "C L D"]] = {}
        self._check()

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
            for split, items in (("selection", self._selected(found)), ("test", self.tested(found))):
                if not items:
                    raise CrosstaskError(f"the set {found.name!r} has no conflicts in the {split} split.")
            if settings.query == "text" and any(
                found.query_task is None and c.item.caption is None for c in found.conflicts
            ):
                raise CrosstaskError(f"the pictures of the set {found.name!r} have no captions; use --query image.")
            if found.vector_task is not None:
                self._other_tasks(found)
            for conflict in self.tested(found) if found.vector_task is None else ():
                self._other_questions(found, conflict)
            self._prompts(found, self.tested(found)[:1])

    def units(self) -> list[str]:
        """The keys of all units in order; every layer is chosen before the first test."""
        kinds = ("selection", "test", *(["judge"] if self.settings.judge else []))
        return [f"{kind} / {found.name}" for kind in kinds for found in self.sets]

    def perform(self, key: str) -> None:
        """Do a unit unless the journal holds it."""
        if self.run.done(key) is not None:
            return
        kind, _, name = key.partition(" / ")
        found = next(found for found in self.sets if found.name == name)
        steps = {"selection": self._selection, "test": self._test, "judge": self._judge}
        self.run.record(key, steps[kind](found))

    def sources(self, found: ConflictSet) -> tuple[str, ...]:
        """The sources that the set's vectors can be read from."""
        return tuple(s for s in self.settings.sources if s == "instruction" or found.vector_task is not None)

    # Items, contexts, prompts

    def contexts(self, task: Task) -> tuple[Context, ...]:
        """The contexts of a task, the same for all sets that it is in."""
        s = self.settings
        return draw(task.split("selection"), shots=s.shots, contexts=s.contexts, seed=s.seed, task=task.name)

    def _selected(self, found: ConflictSet) -> list[Conflict]:
        """Selection conflicts whose item at least one context of each side leaves out."""
        tasks = [found.vector_task] if found.vector_task and set(self.sources(found)) - {"instruction"} else []
        if found.query_task and self.settings.question == "examples":
            tasks.append(found.query_task)
        drawn = [self.contexts(task) for task in tasks]
        clean = [
            conflict
            for conflict in found.split("selection")
            if all(any(conflict.item.input not in context.items for context in contexts) for contexts in drawn)
        ]
        return clean[: self.settings.selection_items]

    def tested(self, found: ConflictSet) -> list[Conflict]:
        """The conflicts that are scored."""
        return list(found.split("test")[: self.settings.test_items])

    def _prompts(self, found: ConflictSet, conflicts: Sequence[Conflict], *, prefix: bool = False) -> list[Prompt]:
        """The queries with their own question, and with the vector's before it for the baseline."""
        prompts = []
        for place, conflict in enumerate(conflicts):
            before = conflict.vector.question if prefix else None
            if self.settings.question == "examples" and found.query_task is not None:
                clean = [c for c in self.contexts(found.query_task) if conflict.item.input not in c.items]
                shown = examples_of(clean[place % len(clean)], "text").examples
                specification = Specification(shown, before)
            else:
                lines = [before, conflict.query.question] if before else [conflict.query.question]
                specification = Specification(instruction="\n".join(lines))
            query = content(conflict.item, self.settings.query)
            prompts.append(render(self.model, specification, query, template=self.template))
        return prompts

    def _limit(self, found: ConflictSet) -> int:
        """Longest answer to generate, in tokens."""
        conflicts = [*self._selected(found), *self.tested(found)]
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

    # Units

    def _selection(self, found: ConflictSet) -> dict[str, Any]:
        conflicts, sources = self._selected(found), self.sources(found)
        rows = []
        for conflict in conflicts:
            read = [self.vector(found, conflict, source) for source in sources]
            rows.append([RowPatch(layer, states[layer]) for states in read for layer in self.layers])
        accepts, may_become = found.vector_form.accepts, found.vector_form.may_become
        generations = sweep(
            self.model,
            self._prompts(found, conflicts),
            rows,
            max_new_tokens=self._limit(found),
            keep=lambda query, row, text: may_become(text, conflicts[query].vector.accepted),
        )
        right = torch.tensor(
            [
                [accepts(generation.text, conflict.vector.accepted) for generation in answers]
                for conflict, answers in zip(conflicts, generations, strict=True)
            ]
        )
        counts = right.sum(0).view(len(sources), len(self.layers)).tolist()
        return {"n": len(conflicts), "layers": list(self.layers), "counts": dict(zip(sources, counts, strict=True))}

    @cached_property
    def chosen(self) -> dict[tuple[str, str], int]:
        """(kind, source) -> layer; known when all selection units are done."""
        layers = layer_table(sweep_table(self.sets, self.run))
        return {(row.kind, row.source): int(row.layer) for row in layers.itertuples()}

    def _test(self, found: ConflictSet) -> dict[str, Any]:
        conflicts, limit = self.tested(found), self._limit(found)
        answers: list[dict[str, Any]] = []
        prompts = self._prompts(found, conflicts)
        for arm, asked in (("before", prompts), ("prefix", self._prompts(found, conflicts, prefix=True))):
            told = generate(self.model, asked, max_new_tokens=limit)
            answers += [self._answer(found, c, g, arm) for c, g in zip(conflicts, told, strict=True)]
        arms = list(self._arms(found))
        rows = [
            [RowPatch(layer, self._arm_vector(found, conflict, arm, source)[layer]) for arm, source, layer in arms]
            for conflict in conflicts
        ]
        for conflict, told in zip(conflicts, sweep(self.model, prompts, rows, max_new_tokens=limit), strict=True):
            answers += [
                self._answer(found, conflict, generation, arm, source, layer)
                for (arm, source, layer), generation in zip(arms, told, strict=True)
            ]
        majority = majority_answer([c.vector.accepted for c in found.split("selection")])
        answers += [self._answer(found, conflict, majority, "majority") for conflict in conflicts]
        return {"answers": answers}

    def _arms(self, found: ConflictSet) -> Iterator[tuple[str, str, int]]:
        for source in self.sources(found):
            layer = self.chosen[found.kind, source]
            yield from ((arm, source, layer) for arm in ("patch", "random", "wrong"))

    def _arm_vector(self, found: ConflictSet, conflict: Conflict, arm: str, source: str) -> Float[Tensor, "L D"]:
        if arm == "wrong":
            return self.wrong(found, conflict, source)
        own = self.vector(found, conflict, source)
        seed = zlib.crc32(f"{found.name}, {conflict.item.input}, {source}, {self.settings.seed}".encode())
        return own if arm == "patch" else vectors.norm_matched_random(own, seed=seed)

    def _answer(
        self,
        found: ConflictSet,
        conflict: Conflict,
        said: Generation | str,
        arm: str,
        source: str = "",
        layer: int | None = None,
    ) -> dict[str, Any]:
        """One answer, scored for both sides by the rules."""
        text = said if isinstance(said, str) else said.text
        row = {"arm": arm, "source": source, "layer": layer, "item": conflict.item.input, "answer": text}
        for side, verdict in zip(SIDES, RuleJudge().judge(_cases(found, conflict, text)), strict=True):
            row[side] = verdict.right
        return row

    def _judge(self, found: ConflictSet) -> dict[str, Any]:
        conflicts = {conflict.item.input: conflict for conflict in self.tested(found)}
        answers = record_of(self.run, "test", found)["answers"]
        cases = [case for row in answers for case in _cases(found, conflicts[row["item"]], row["answer"])]
        verdicts = self.judge.judge(cases)
        return {"right": [v.right for v in verdicts], "score": [v.score for v in verdicts]}

    @cached_property
    def judge(self) -> Judge:
        assert self.make_judge is not None
        return self.make_judge()


def _cases(found: ConflictSet, conflict: Conflict, text: str) -> list[Case]:
    """The answer as a case for each side."""
    return [
        Case(conflict.query.question, conflict.query.accepted, text, found.query_form),
        Case(conflict.vector.question, conflict.vector.accepted, text, found.vector_form),
    ]
