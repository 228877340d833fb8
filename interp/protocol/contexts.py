"""Contexts: which items demonstrate a task, and how they are written as a prompt.

A context is `shots` demonstrations and a dummy query, all drawn without replacement from the selection split. The task
vector is read at the dummy query's delimiter, so that it has seen exactly `shots` complete demonstrations and never the
real query. A prompt gets the same demonstrations followed by the real query, which is what "matched budget" means.
(Luo et al. read the vector at the last *example's* delimiter, after 4 of 5 demonstrations, and prompt with 5.)
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.prompts import Content, Example, Image, Prompt, Specification, Template, render
from interp.scoring import normalise
from interp.tasks import Item, Task


@dataclass(frozen=True)
class Context:
    """Demonstrations (items with the outputs they are shown with) and a dummy query."""

    demonstrations: tuple[Item, ...]
    outputs: tuple[str, ...]
    dummy: Item

    @property
    def items(self) -> frozenset[str]:
        """Inputs of everything the context shows, the dummy query included; the leak mask compares with these."""
        return frozenset(item.input for item in (*self.demonstrations, self.dummy))

    def first(self, shots: int) -> "Context":
        """The context with its first demonstrations only, and the same dummy query."""
        return replace(self, demonstrations=self.demonstrations[:shots], outputs=self.outputs[:shots])


def draw(pool: Sequence[Item], *, shots: int, contexts: int, seed: int, task: str) -> tuple[Context, ...]:
    """Draws contexts; context c of a (task, seed) is the same whatever the number of contexts, tasks or sources.

    Raises:
        CrosstaskError: the pool has fewer items than a context needs.
    """
    if len(pool) < shots + 2:
        remedy = f"Use --shots {len(pool) - 2} or add items." if len(pool) > 2 else "Add items."
        raise CrosstaskError(
            f"Task {task!r} has {len(pool)} selection items; {shots} demonstrations, a dummy query and "
            f"a query that is in neither need {shots + 2}. {remedy}"
        )
    drawn = []
    for index in range(contexts):
        items = random.Random(f"{task}, seed {seed}, context {index}").sample(list(pool), shots + 1)
        demonstrations = tuple(items[:shots])
        drawn.append(Context(demonstrations, tuple(item.outputs[0] for item in demonstrations), items[shots]))
    return tuple(drawn)


def draw_apart(pool: Sequence[Item], *, shots: int, contexts: int, seed: int, task: str) -> tuple[Context, ...]:
    """Draws contexts that show no demonstration twice before the pool is used up; a dummy query may recur.

    Context c is the same whatever the number of contexts, and no context shows an item twice.

    Raises:
        CrosstaskError: the pool has fewer items than a context needs.
    """
    draw(pool, shots=shots, contexts=1, seed=seed, task=task)
    rng, left, drawn = random.Random(f"{task}, seed {seed}, apart"), list[Item](), list[Context]()
    for index in range(contexts):
        shown: list[Item] = []
        while len(shown) < shots:
            fresh = next((item for item in left if item not in shown), None)
            if fresh is None:
                left += rng.sample(list(pool), len(pool))
            else:
                left.remove(fresh)
                shown.append(fresh)
        others = [item for item in pool if item not in shown]
        dummy = random.Random(f"{task}, seed {seed}, dummy {index}").choice(others)
        drawn.append(Context(tuple(shown), tuple(item.outputs[0] for item in shown), dummy))
    return tuple(drawn)


def shuffle_labels(context: Context, *, seed: int) -> Context:
    """The same context with its outputs permuted among the demonstrations, as many changed as 20 tries can change."""
    rng = random.Random(f"shuffle, seed {seed}, " + ", ".join(item.input for item in context.demonstrations))
    tries = [tuple(rng.sample(context.outputs, len(context.outputs))) for _ in range(20)]
    changed = [sum(a != b for a, b in zip(shuffled, context.outputs, strict=True)) for shuffled in tries]
    return replace(context, outputs=tries[changed.index(max(changed))])


def wrong_labels(context: Context, pool: Sequence[Item], *, wrong: int, seed: int, task: str) -> Context:
    """The same context with wrong outputs for so many of its demonstrations: canonical answers of other items.

    More wrong labels keep those of fewer.

    Raises:
        CrosstaskError: every answer of the pool is right for a demonstration.
    """
    rng = random.Random(f"{task}, wrong, seed {seed}, " + ", ".join(item.input for item in context.demonstrations))
    order = rng.sample(range(len(context.outputs)), len(context.outputs))
    outputs = list(context.outputs)
    for place in order[:wrong]:
        right = {normalise(output) for output in context.demonstrations[place].outputs}
        others = [item.outputs[0] for item in pool if normalise(item.outputs[0]) not in right]
        if not others:
            raise CrosstaskError(
                f"Task {task!r} has no wrong answer for {context.demonstrations[place].input!r}: all its "
                "selection items share their answers. Leave out the labels."
            )
        outputs[place] = rng.choice(others)
    return replace(context, outputs=tuple(outputs))


def content(item: Item, modality: str) -> Content:
    """The item as a text or as its image."""
    if modality != "text":
        return picture(item)
    return item.input if item.caption is None else item.caption


def picture(item: Item) -> Image:
    """The item's image.

    Raises:
        CrosstaskError: the table gives the item no image.
    """
    if item.image is None:
        raise CrosstaskError(
            f"Item {item.input!r} has no image; ask without images: --query text, and where sources can be chosen "
            "--source text instruction ensemble."
        )
    return Image(path=item.image)


def demonstrated(source: str) -> str:
    """How the demonstrations of a source are written: those behind an ensemble or a sum of heads are texts."""
    return "text" if source in ("ensemble", "heads") else source


def source_prompts(
    model: Model, task: Task, modality: str, contexts: Sequence[Context], *, template: Template
) -> list[Prompt]:
    """The prompts whose last delimiter holds the task vector: one per context, or the instruction alone."""
    if modality == "instruction":
        return [render(model, Specification(instruction=task.instruction), None, template=template)]
    return [
        render(model, examples_of(context, modality), content(context.dummy, modality), template=template)
        for context in contexts
    ]


def query_prompt(
    model: Model, task: Task, item: Item, query: str, *, source: str, context: Context, template: Template
) -> Prompt:
    """The query as the model is asked it: bare (source ""), or after the demonstrations, the instruction, or both."""
    return render(model, _specification(task, source, context), content(item, query), template=template)


def _specification(task: Task, source: str, context: Context) -> Specification:
    if source == "":
        return Specification()
    if source == "instruction":
        return Specification(instruction=task.instruction)
    if source == "ensemble":
        return Specification(examples_of(context, "text").examples, task.instruction)
    return examples_of(context, source)


def examples_of(context: Context, modality: str) -> Specification:
    """The demonstrations of a context as texts or images, without its dummy query."""
    pairs = zip(context.demonstrations, context.outputs, strict=True)
    return Specification(tuple(Example(content(item, modality), output) for item, output in pairs))
