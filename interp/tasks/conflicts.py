"""Conflicts: a query asks one thing of a picture, and the vector that is patched into it asks another.

Four kinds, after the overriding benchmark of Luo et al. (2025), here built so that rules can score both sides:

    semantic    another attribute of what is seen: the colour of a food, or its flavour; the colour of a shape, or which
    syntactic   the same answer in another form: in capital letters, its first letter, its plural
    creative    a sentence that begins with, or contains, a given word, instead of the answer
    factual     another fact about what is seen: the capital of a flag's country, or its currency; the Latin name of an
                animal, or the name of its young

A set is called query:vector, for example `country-capital:country-currency` or `food-color:food-color.upper`.
A conflict is kept only if no text could be right for both sides. Sets are made of the tasks that come with the package
and of easy-vqa, or of pairs of questions about one picture in VQAv2 and OK-VQA files (the factual kind is a question
of OK-VQA, which asks for knowledge, against one of VQAv2); there each conflict has an instruction of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from interp.errors import CrosstaskError
from interp.scoring import normalise
from interp.tasks.base import Item, Split, Task
from interp.tasks.forms import FORMS, Form, form
from interp.tasks.loader import load_task
from interp.tasks.vqa.files import Question, QuestionSet
from interp.tasks.vqa.types import EASY_TYPES, item, split_of

KINDS = ("semantic", "syntactic", "creative", "factual")
TABLE: dict[str, tuple[str, ...]] = {
    "semantic": ("food-color:food-flavor", "food-flavor:food-color", "colour:shape", "shape:colour"),
    "syntactic": (
        "food-color:food-color.upper",
        "country-capital:country-capital.letter",
        "animal-young:animal-young.plural",
    ),
    "creative": (
        "food-color:food-color.once",
        "animal-young:animal-young.once",
        "country-capital:country-capital.lovely",
    ),
    "factual": (
        "country-capital:country-currency",
        "country-currency:country-capital",
        "animal-latin:animal-young",
        "animal-young:animal-latin",
    ),
}
"""The sets that are made of tasks, by kind."""
FILE_FORMS = {"syntactic": ("upper", "letter"), "creative": ("once", "lovely")}
"""The forms that are asked of the questions of VQA files."""


@dataclass(frozen=True)
class Side:
    """What one side asks of an item.

    Attributes:
        question: as an instruction, ending in a colon.
        accepted: accepted answers in the side's form, the canonical one first.
    """

    question: str
    accepted: tuple[str, ...]


@dataclass(frozen=True)
class Conflict:
    """One item with two questions.

    Attributes:
        item: the picture, with its split; its `outputs` are the query's plain answers.
        query: what the prompt asks.
        vector: what the patched vector asks.
    """

    item: Item
    query: Side
    vector: Side


@dataclass(frozen=True)
class ConflictSet:
    """Conflicts of one kind between the same two questions, or between questions of one VQA set.

    Attributes:
        kind: one of `KINDS`.
        name: "query:vector".
        family: sets of one family share pictures.
        query_form, vector_form: forms of the answers of each side.
        conflicts: all of both splits.
        query_task, vector_task: each side as a task, whose selection items can be examples; None where each conflict
            has questions of its own, which only an instruction can say.
    """

    kind: str
    name: str
    family: str
    query_form: Form
    vector_form: Form
    conflicts: tuple[Conflict, ...]
    query_task: Task | None = None
    vector_task: Task | None = None

    def split(self, name: Split) -> tuple[Conflict, ...]:
        """The conflicts of one split, in the order of a hash of their items."""
        chosen = (conflict for conflict in self.conflicts if conflict.item.split == name)
        return tuple(sorted(chosen, key=lambda one: hashlib.sha256(one.item.input.encode()).digest()))


def set_names(kinds: Sequence[str]) -> list[str]:
    """Names of the sets of these kinds that are made of tasks."""
    return [name for kind in kinds for name in TABLE[kind]]


def task_sets(names: Sequence[str], easy: Callable[[], tuple[QuestionSet, QuestionSet]]) -> list[ConflictSet]:
    """The sets of these names.

    Args:
        names: from `TABLE`, or made alike: two tasks about the same things, or a task and a form of it. A task is
            named, or is a folder; an item of which one task is scored and the other is not is left out.
        easy: the training and the test part of easy-vqa; called only if a set needs it.

    Raises:
        CrosstaskError: a name is no pair of tasks, or nothing is left of a set.
    """
    known = {name: kind for kind, listed in TABLE.items() for name in listed}
    tasks: dict[str, Task] = {}

    def task(name: str) -> Task:
        if name not in tasks:
            if name in _EASY:
                tasks.update(easy_tasks(*easy()))
            else:
                tasks[name] = load_task(name)
        return tasks[name]

    found = []
    for name in names:
        query, colon, vector = name.partition(":")
        if not (query and colon and vector):
            raise CrosstaskError(
                f"--sets {name!r} is no pair; expected query:vector, such as {' or '.join(set_names(KINDS)[:2])}."
            )
        base, dot, shape = vector.rpartition(".")
        reshaped = bool(dot) and base == query
        asked = form(shape if reshaped else "plain")
        kind = known.get(name) or ("creative" if asked.invents else "syntactic" if reshaped else "semantic")
        found.append(_pair(kind, task(query), task(query if reshaped else vector), asked))
    return found


_EASY = ("colour", "shape")


def easy_tasks(train: QuestionSet, test: QuestionSet) -> dict[str, Task]:
    """Colour and shape of every picture of easy-vqa, from its caption: both are known of each."""
    found = {}
    for place, name in enumerate(_EASY):
        parts: tuple[tuple[QuestionSet, Split], ...] = ((train, "selection"), (test, "test"))
        items = {
            question.image_name: replace(item(question, split), outputs=(str(question.caption).split()[1 + place],))
            for part, split in parts
            for question in part.questions
        }
        found[name] = Task(name, train.name, tuple(items.values()), EASY_TYPES[name].instruction, train.source)
    return found


def in_form(task: Task, asked: Form) -> Task:
    """The task with its answers in a form, and an instruction that asks for it."""
    if asked.name == "plain":
        return task
    items = [
        replace(one, outputs=asked.write((one.caption or one.input).removeprefix("a "), one.outputs))
        for one in task.items
    ]
    return replace(
        task, name=f"{task.name}.{asked.name}", items=tuple(items), instruction_text=asked.ask(task.instruction)
    )


def _pair(kind: str, query: Task, base: Task, asked: Form) -> ConflictSet:
    vector = in_form(base, asked)
    name = f"{query.name}:{vector.name}"
    other = {(one.input, one.split): one for one in vector.items}
    both = [(one, other[one.input, one.split]) for one in query.items if (one.input, one.split) in other]
    if not both:
        raise CrosstaskError(
            f"--sets {name!r} asks about different things: the tasks {query.name!r} and {base.name!r} share no item."
        )
    conflicts = [
        Conflict(one, Side(query.instruction, one.outputs), Side(vector.instruction, two.outputs)) for one, two in both
    ]
    kept = tuple(conflict for conflict in conflicts if _differ(conflict, FORMS["plain"], asked))
    if not kept:
        raise CrosstaskError(f"--sets {name!r}: no item has different answers to the two questions.")
    return ConflictSet(kind, name, query.family, FORMS["plain"], asked, kept, query, vector)


def _differ(conflict: Conflict, query: Form, vector: Form) -> bool:
    """Whether no canonical or other accepted answer of one side is right for the other."""
    ours = any(vector.accepts(answer, conflict.vector.accepted) for answer in conflict.query.accepted)
    theirs = any(query.accepts(answer, conflict.query.accepted) for answer in conflict.vector.accepted)
    return not (ours or theirs)


def file_sets(sets: Sequence[QuestionSet], kinds: Sequence[str]) -> list[ConflictSet]:
    """Conflicts of VQA sets: two questions about one picture, or one question and a form of its answer.

    Two questions of VQAv2 are the semantic kind. One of VQAv2 and, for the vector, one of OK-VQA about the same picture
    are the factual kind; without VQAv2 two of OK-VQA are, which has few such pictures. Of each picture the first two
    questions are taken that no answer could satisfy both, unless both are answered by yes or no. Pictures are divided
    between the splits by a hash of their names. A kind without conflicts is left out.

    Raises:
        CrosstaskError: no kind has conflicts, or two sets have one name.
    """
    names, found = [one.name for one in sets], []
    if len(set(names)) < len(names):
        raise CrosstaskError(f"two files are {names[0]} questions; expected VQAv2, OK-VQA, or one of each.")
    family, plain = " and ".join(names), FORMS["plain"]
    asked = {one.name: _by_picture(one) for one in sets}
    knowing, seeing = ([name for name in names if (name == "OK-VQA") == knows] for knows in (True, False))
    pairs = {"semantic": [(name, name) for name in seeing]}
    pairs["factual"] = [(one, other) for one in seeing or knowing for other in knowing]
    for kind in kinds:
        for one, other in pairs.get(kind, ()):
            both = [_first_pair(asked[one][name], asked[other][name]) for name in asked[one] if name in asked[other]]
            if kept := tuple(conflict for conflict in both if conflict is not None):
                found.append(ConflictSet(kind, f"{one}:{other}", family, plain, plain, kept))
        for shape, name in product(FILE_FORMS.get(kind, ()), names):
            wanted = form(shape)
            reshaped = [_reshaped(several[0], wanted) for several in asked[name].values()]
            if kept := tuple(conflict for conflict in reshaped if _differ(conflict, plain, wanted)):
                found.append(ConflictSet(kind, f"{name}:{name}.{shape}", family, plain, wanted, kept))
    if not found:
        raise CrosstaskError(
            f"--kinds {' '.join(kinds)} has nothing in {family} files: semantic takes two questions of VQAv2 about one "
            "picture, factual one of VQAv2 and one of OK-VQA, or two of OK-VQA; syntactic and creative take any."
        )
    return found


def _by_picture(questions: QuestionSet) -> dict[str, list[Question]]:
    pictures: dict[str, list[Question]] = {}
    for question in questions.questions:
        pictures.setdefault(question.image_name, []).append(question)
    return pictures


def instruction(question: str) -> str:
    """A question as an instruction: "What is on the meat?" becomes "What is on the meat:"."""
    return question.rstrip(" ?.:!") + ":"


def _side(question: Question) -> Side:
    return Side(instruction(question.text), question.accepted)


def _first_pair(queries: Sequence[Question], vectors: Sequence[Question]) -> Conflict | None:
    for first, second in product(queries, vectors):
        found = Conflict(item(first, split_of(first.image_name)), _side(first), _side(second))
        closed = all(
            {normalise(answer) for answer in side.accepted} <= {"yes", "no"} for side in (found.query, found.vector)
        )
        if first is not second and not closed and _differ(found, FORMS["plain"], FORMS["plain"]):
            return found
    return None


def _reshaped(question: Question, asked: Form) -> Conflict:
    plain = _side(question)
    vector = Side(asked.ask(plain.question), asked.write("thing", question.accepted))
    return Conflict(item(question, split_of(question.image_name)), plain, vector)
