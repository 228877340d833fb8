"""The protocol behind `experiments.override`: a query asks one thing, and the patched vector another.

1. selection   for each set, on conflicts that are never scored: the vector's task, patched at every layer into queries
               that carry their own question; the layer with the highest rate of answers that are right for the vector,
               mean over the sets of a kind, is chosen for each (kind, source); ties go to the lowest layer
2. test        every answer is scored for *both* sides, the query's question and the vector's:
                   before    the query with its question, no patch
                   prefix    the vector's question as an instruction before everything
                   chat      the query with its question as a user's message, no patch
                   system    the same with the vector's question as the system message (as Luo et al. compare); both
                             only where the model's chat template takes a system message
                   patch     the vector at the chosen layer
                   random    a random direction of its norm there
                   wrong     the mean of the vectors of other tasks there (of VQA files: of another question)
                   majority  the most frequent answer to the vector's question on the selection split, without a model
3. judge       the same answers by a model, if one is named; layers are always chosen by the rule

Prompts and vectors are those of :mod:`interp.protocol.override_inputs`.
Source of the method: Luo et al. 2025, section on task conflicts; both accuracies as in Hendel et al. 2023, section 4.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp import vectors
from interp.errors import CrosstaskError
from interp.judging import Case, Judge, RuleJudge
from interp.patching import Generation, RowPatch, generate, sweep
from interp.protocol.override_inputs import OverrideInputs
from interp.protocol.override_tables import SIDES, layer_table, record_of, sweep_table
from interp.runs import Run
from interp.scoring import majority_answer
from interp.tasks.conflicts import Conflict, ConflictSet


class OverrideUnit(NamedTuple):
    """One resumable piece of work; its key names its record in the run's journal."""

    kind: str  # "selection", "test" or "judge"
    found: ConflictSet

    @property
    def key(self) -> str:
        return f"{self.kind} / {self.found.name}"


class OverrideWork:
    """Performs the units of a run, two or three a set, and makes its tables."""

    def __init__(self, inputs: OverrideInputs, run: Run, judge: Callable[[], Judge] | None = None) -> None:
        """
        Args:
            inputs: conflicts, prompts and vectors.
            run: its folder.
            judge: makes the judge when it is first needed.
        """
        self.inputs, self.run, self.make_judge = inputs, run, judge

    def units(self) -> list[OverrideUnit]:
        """All units in order; every layer is chosen before the first test."""
        kinds = ("selection", "test", *(["judge"] if self.inputs.settings.judge else []))
        return [OverrideUnit(kind, found) for kind in kinds for found in self.inputs.sets]

    def perform(self, unit: OverrideUnit) -> None:
        """Do a unit unless the journal holds it."""
        if self.run.done(unit.key) is None:
            steps = {"selection": self._selection, "test": self._test, "judge": self._judge}
            self.run.record(unit.key, steps[unit.kind](unit.found))

    def _selection(self, found: ConflictSet) -> dict[str, Any]:
        conflicts, sources = self.inputs.selected(found), self.inputs.sources(found)
        right = torch.tensor(
            [
                [found.vector_form.accepts(generation.text, conflict.vector.accepted) for generation in answers]
                for conflict, answers in zip(conflicts, self.by_layer(found, conflicts), strict=True)
            ]
        )
        counts = right.sum(0).view(len(sources), len(self.inputs.layers)).tolist()
        return {
            "n": len(conflicts),
            "layers": list(self.inputs.layers),
            "counts": dict(zip(sources, counts, strict=True)),
        }

    def by_layer(self, found: ConflictSet, conflicts: Sequence[Conflict]) -> list[list[Generation]]:
        """The answers to conflicts under each source's vector at each layer; hopeless ones end early."""
        rows = []
        for conflict in conflicts:
            read = [self.inputs.vector(found, conflict, source) for source in self.inputs.sources(found)]
            rows.append([RowPatch(layer, states[layer]) for states in read for layer in self.inputs.layers])
        may_become = found.vector_form.may_become
        return sweep(
            self.inputs.model,
            self.inputs.prompts(found, conflicts),
            rows,
            max_new_tokens=self.inputs.limit(found),
            keep=lambda query, row, text: may_become(text, conflicts[query].vector.accepted),
        )

    @cached_property
    def chosen(self) -> dict[tuple[str, str], int]:
        """(kind, source) -> layer; known when all selection units are done."""
        layers = layer_table(sweep_table(self.inputs.sets, self.run))
        return {(row.kind, row.source): int(row.layer) for row in layers.itertuples()}

    def _test(self, found: ConflictSet) -> dict[str, Any]:
        conflicts = self.inputs.tested(found)
        answers = self.answers(found, conflicts, {s: self.chosen[found.kind, s] for s in self.inputs.sources(found)})
        majority = majority_answer([c.vector.accepted for c in found.split("selection")])
        return {"answers": answers + [self._answer(found, c, majority, "majority") for c in conflicts]}

    def answers(
        self, found: ConflictSet, conflicts: Sequence[Conflict], layers: Mapping[str, int]
    ) -> list[dict[str, Any]]:
        """The scored answers of the model to conflicts, in every arm.

        Args:
            found: the set of the conflicts.
            conflicts: of the set.
            layers: where each source's vectors are patched.
        """
        limit, answers = self.inputs.limit(found), []
        for arm in self.inputs.prompted:
            told = generate(self.inputs.model, self.inputs.prompts(found, conflicts, arm), max_new_tokens=limit)
            answers += [self._answer(found, c, g, arm) for c, g in zip(conflicts, told, strict=True)]
        arms = [(arm, source, layer) for source, layer in layers.items() for arm in ("patch", "random", "wrong")]
        rows = [
            [RowPatch(layer, self._arm_vector(found, conflict, arm, source)[layer]) for arm, source, layer in arms]
            for conflict in conflicts
        ]
        patched = sweep(self.inputs.model, self.inputs.prompts(found, conflicts), rows, max_new_tokens=limit)
        for conflict, several in zip(conflicts, patched, strict=True):
            answers += [
                self._answer(found, conflict, generation, arm, source, layer)
                for (arm, source, layer), generation in zip(arms, several, strict=True)
            ]
        return answers

    def _arm_vector(self, found: ConflictSet, conflict: Conflict, arm: str, source: str) -> Float[Tensor, "L D"]:
        if arm == "wrong":
            return self.inputs.wrong(found, conflict, source)
        own = self.inputs.vector(found, conflict, source)
        seed = zlib.crc32(f"{found.name}, {conflict.item.input}, {source}, {self.inputs.settings.seed}".encode())
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
        conflicts = {conflict.item.input: conflict for conflict in self.inputs.tested(found)}
        answers = record_of(self.run, "test", found)["answers"]
        cases = [case for row in answers for case in _cases(found, conflicts[row["item"]], row["answer"])]
        verdicts = self.judge.judge(cases)
        if len(verdicts) != len(cases):
            raise CrosstaskError(
                f"the judge gave {len(verdicts)} verdicts; expected one for each of {len(cases)} cases."
            )
        return {name: [getattr(v, name) for v in verdicts] for name in ("right", "score", "said")}

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
