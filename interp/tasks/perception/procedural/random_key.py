"""The control of format: items of the thirteen tasks in turn, whose answers are random.

Pictures, prompts and the balance of keys are those of the tasks, but the key that is taught says nothing about the
pictures. What a model gains from these items is the form of an answer and no skill.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from interp.errors import CrosstaskError
from interp.images import Image
from interp.tasks.perception.base import Draft, Form, PerceptionTask, Request, Split, balanced_key
from interp.tasks.perception.items import PerceptionItem


class RandomKey(PerceptionTask):
    """Items of the thirteen tasks with random keys.

    The number of options is that of the task whose turn it is; the form "marks" stands for each task's own one.
    """

    name, title, abbreviation, level, granularity = "random_key", "Random Key", "RK", "low", "image"
    forms: ClassVar = {"marks": 4, "yes_no": 2}
    modules: ClassVar[frozenset[str]] = frozenset()
    core = False

    def item(
        self, split: Split, index: int, *, form: Form | None = None, seed: int = 0, **given: Any
    ) -> PerceptionItem:
        """The item of the task whose turn it is, with a random key; see the base for the options.

        Its own key is kept in `meta["true_key"]`. Where letters are drawn, the pictures are as the task drew them, and
        a shift by some letters moves the marks by as many.

        Raises:
            CrosstaskError: a form other than "marks" and "yes_no", or a value out of range.
        """
        from interp.tasks.perception.registry import perception_tasks

        form = form or self.form
        if form not in self.forms:
            raise CrosstaskError(f"{self.name} has no form {form!r}; it has {', '.join(self.forms)}")
        if index < 0:
            raise CrosstaskError(f"an item's index is 0 or more, not {index}")
        tasks = list(perception_tasks(core=True).values())
        inner_index, turn = divmod(index, len(tasks))
        task = tasks[turn]
        inner_form = task.form if form == self.form else form
        item = task.item(split, inner_index, form=inner_form, seed=seed, **given)
        n = len(item.options)
        key = balanced_key(inner_index, n, of=(self.name, form, task.name, split, seed))
        draw = item.redraw
        moved = (item.key - key) % n

        def redraw(key: int) -> tuple[Image, ...]:
            assert draw is not None
            return draw((key + moved) % n)

        return replace(
            item,
            name=f"{self.name}/{form}/{split}/{seed}/{index}",
            task=self.name,
            key=key,
            meta={**item.meta, "true_key": item.key, "drawn_by": task.name},
            redraw=redraw if draw is not None else None,
        )

    def draw(self, request: Request) -> Draft:
        """It draws nothing of its own."""
        raise NotImplementedError(f"{self.name} takes its items from the other tasks")

    def oracle(self, item: PerceptionItem) -> int:
        """There is none.

        Raises:
            CrosstaskError: always.
        """
        raise CrosstaskError(f"the keys of {self.name} are random: nothing in item {item.name!r} tells the right one")


TASK = RandomKey()
