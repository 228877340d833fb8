"""The plan of a run: which items serve for what, and the list of units of work in their order.

Everything that can be wrong with the input is found here, before the run folder is opened.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.pairs import check_pair
from interp.prompts import Template
from interp.protocol.contexts import Context, demonstrated, draw, picture, query_prompt, source_prompts
from interp.protocol.settings import HEADS, Settings
from interp.tasks import Item, Split, Task, load_task, task_names


@dataclass(frozen=True)
class TaskPlan:
    """A task with the items the run uses.

    Attributes:
        pool: selection items, from which every demonstration and dummy query is drawn.
        selection: selection items in the order in which they serve as queries of the layer choice.
        test: the scored queries; never in a context.
        max_new_tokens: longest answer that is generated.
    """

    task: Task
    pool: tuple[Item, ...]
    selection: tuple[Item, ...]
    test: tuple[Item, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class Unit:
    """One resumable piece of work; its key names its record in the run's journal."""

    kind: str  # "extract", "selection", "prompt" or "patch"
    task: str
    seed: int
    query: str = ""
    source: str = ""
    source_model: str = ""
    shuffled: bool = False

    @property
    def key(self) -> str:
        parts = (self.kind, self.source_model, self.task, self.source, self.query, f"seed {self.seed}")
        return " / ".join((*filter(None, parts), *(["shuffled labels"] if self.shuffled else [])))


@dataclass(frozen=True)
class Plan:
    """Settings with everything filled in, the tasks' items, and what was skipped (with --on-error continue)."""

    settings: Settings
    tasks: dict[str, TaskPlan]
    wrong_tasks: dict[str, TaskPlan]
    template: Template
    skipped: tuple[str, ...]

    def config(self) -> dict[str, Any]:
        """What the run folder is bound to: everything that decides the numbers, the tasks' items included."""
        used = {name: (*task.pool, *task.test) for name, task in {**self.wrong_tasks, **self.tasks}.items()}
        items = [
            (name, item.input, item.outputs, *(() if item.caption is None else (item.caption,)))
            for name, chosen in used.items()
            for item in chosen
        ]
        digest = hashlib.sha256(json.dumps(items).encode()).hexdigest()
        return {**self.settings.config(), "items_sha256": digest, "skipped": list(self.skipped)}

    def describe(self) -> str:
        """What will be run on how much, in a few lines."""
        s = self.settings
        counts = [f"{name} {len(task.test)} of {len(task.task.split('test'))}" for name, task in self.tasks.items()]
        return (
            f"Model {s.model}, vectors from {', '.join(s.source_models)}. Sources: {', '.join(s.sources)}; queries: "
            f"{', '.join(s.queries)}; {s.shots} demonstrations; mean vectors over {s.contexts} contexts; "
            f"seed{'s' if len(s.seeds) > 1 else ''} {' '.join(map(str, s.seeds))}; {len(s.layers)} layers.\n"
            f"Scored test items: {', '.join(counts)}. At most {s.selection_items or 'all'} selection items "
            "a task choose the layer."
        )

    def either(self, task: str) -> TaskPlan:
        """The plan of a task that is scored, or of one that only lends its vectors."""
        return self.tasks.get(task) or self.wrong_tasks[task]

    def others(self, task: str) -> list[str]:
        """The tasks whose vectors are the wrong-task control of a task."""
        return [name for name in {**self.wrong_tasks, **self.tasks} if name != task]

    def contexts(self, task: str, seed: int) -> tuple[Context, ...]:
        """The contexts of a task and seed, the same for every source, model and phase."""
        plan = self.either(task)
        return draw(
            plan.pool, shots=self.settings.shots, contexts=self.settings.contexts, seed=seed, task=plan.task.name
        )

    def arms(self) -> list[tuple[str, str]]:
        """(source model, source) of every task vector; image examples are read by the patched model only."""
        s = self.settings
        return [(m, source) for m in s.source_models for source in s.sources if source != "image" or m == s.model]

    def selection_queries(self, task: str, seed: int) -> list[Item]:
        """Selection items that at least one context of this seed leaves out, at most `selection_items` of them."""
        contexts = self.contexts(task, seed)
        clean = [item for item in self.tasks[task].selection if any(item.input not in c.items for c in contexts)]
        return clean[: self.settings.selection_items]

    def units(self) -> Iterator[Unit]:
        """Every unit: vectors first, then the layer sweep on the selection split, then the test split."""
        s = self.settings
        for source_model in sorted(s.source_models, key=lambda name: name == s.model):
            for seed in s.seeds:
                for task in {**self.tasks, **self.wrong_tasks}:
                    for modality, shuffled in self._states_needed(source_model, controls=task in self.tasks):
                        yield Unit("extract", task, seed, source=modality, source_model=source_model, shuffled=shuffled)
        cells = [(task, query, seed) for seed in s.seeds for task in self.tasks for query in s.queries]
        for task, query, seed in cells:
            yield Unit("selection", task, seed, query)
        for task, query, seed in cells:
            for source in ("", *(source for source in s.sources if source != HEADS)):  # heads are read from text
                yield Unit("prompt", task, seed, query, source)
            yield Unit("patch", task, seed, query)

    def _states_needed(self, source_model: str, *, controls: bool) -> list[tuple[str, bool]]:
        sources = [source for model, source in self.arms() if model == source_model]
        needed = [(source, False) for source in sources if source != "ensemble"]
        if "ensemble" in sources:
            needed += [(source, False) for source in ("text", "instruction") if source not in sources]
        if controls:
            needed += [(source, True) for source in sources if source in ("text", "image")]
        return needed


def make_plan(settings: Settings, model: Model, load: Callable[[str], Task] = load_task) -> Plan:
    """Loads the tasks, picks their items and checks them against the model.

    Args:
        settings: as asked for; empty tuples are filled in.
        model: the patched model.
        load: finds a task by its name.

    Returns:
        The plan. Both tasks of a family use the same items, whatever the limits.

    Raises:
        CrosstaskError: unknown task, too few items, an image missing or (with on_error "stop") undecodable, a bad
            template, a layer out of range, or images asked of a model that takes none.
    """
    template = Template.parse(settings.template)
    settings = settings.resolve(takes_images=model.takes_images, n_layers=model.n_layers)
    tasks = _load(settings.tasks or tuple(task_names()), load)
    wrong = _load(settings.wrong_tasks or tuple(task_names()), load)
    skipped: list[str] = []
    images = "image" in (*settings.sources, *settings.queries)
    plans = {name: _task_plan(task, settings, model, images, skipped) for name, task in tasks.items()}
    others = {
        name: _task_plan(task, settings, model, "image" in settings.sources, skipped)
        for name, task in wrong.items()
        if name not in plans
    }
    if len(plans) + len(others) < 2:
        raise CrosstaskError("The wrong-task control needs another task; name one with --wrong-tasks.")
    plan = Plan(settings, plans, others, template, tuple(dict.fromkeys(skipped)))
    _render_once(plan, model)
    return plan


def check_sources(settings: Settings, models: Callable[[str], Model]) -> tuple[str, ...]:
    """Compares every other source model with the patched one, and says how they differ.

    Raises:
        CrosstaskError: a source model has another width or number of layers than the patched model.
    """
    target, remarks = models(settings.model), []
    for source in (models(name) for name in settings.source_models if name != settings.model):
        if (source.n_layers, source.width) != (target.n_layers, target.width):
            raise CrosstaskError(
                f"Vectors of {source.name!r} ({source.n_layers} layers of width {source.width}) do not fit "
                f"{target.name!r} ({target.n_layers} layers of width {target.width}); choose another --source-model."
            )
        report = check_pair(source, target, template=Template.parse(settings.template))
        found = report.weights
        vocabulary = "the same vocabulary" if found.same_tokenizer else "another vocabulary"
        weights = (
            f"{target.name}'s block weights differ from its by {100 * found.distance:.1f} %"
            if found.distance is not None
            else "the weights are not both here as they are, so they were not compared"
        )
        shared = "" if report.same_delimiter else f" The delimiter {report.delimiter!r} is another token in it."
        remarks.append(f"{source.name} has {vocabulary}; {weights}.{shared}")
    return tuple(remarks)


def _load(names: Sequence[str], load: Callable[[str], Task]) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for name in names:
        task = load(name)
        if task.name in tasks:
            raise CrosstaskError(f"Two tasks are called {task.name!r}; rename the folder of one of them.")
        tasks[task.name] = task
    return tasks


def _task_plan(task: Task, settings: Settings, model: Model, images: bool, skipped: list[str]) -> TaskPlan:
    pool = _usable(task, "selection", settings, images, skipped)
    test = _usable(task, "test", settings, images, skipped)
    draw(pool, shots=settings.shots, contexts=1, seed=0, task=task.name)
    if not test:
        raise CrosstaskError(f"Task {task.name!r} has no test items; mark some with split=test.")
    chosen = _in_fixed_order(test)[: settings.test_items]
    limit = settings.max_new_tokens
    if limit is None:
        limit = 1 + longest_answer(model, [answer for item in (*chosen, *pool) for answer in item.outputs])
    return TaskPlan(task, pool, _in_fixed_order(pool), chosen, limit)


def _usable(task: Task, split: Split, settings: Settings, images: bool, skipped: list[str]) -> tuple[Item, ...]:
    """The split's items, without those whose image cannot be decoded when the run continues at errors."""
    kept = []
    for item in task.split(split):
        try:
            if images:
                picture(item).load()
            kept.append(item)
        except CrosstaskError as error:
            if settings.on_error == "stop":
                raise
            skipped.append(f"{task.name}, {item.input}: {error}")
    return tuple(kept)


def longest_answer(model: Model, answers: Sequence[str]) -> int:
    """Tokens of the longest answer, with or without the space that some models begin it with."""
    spelled = model.tokenizer([*answers, *(" " + a for a in answers)], add_special_tokens=False)["input_ids"]
    return max(map(len, spelled))


def _in_fixed_order(items: Sequence[Item]) -> tuple[Item, ...]:
    """Items in the order of a hash of their input: a subset does not depend on the table's order or the task."""
    return tuple(sorted(items, key=lambda item: hashlib.sha256(item.input.encode()).digest()))


def _render_once(plan: Plan, model: Model) -> None:
    """Renders one prompt of each kind, so that a template the tokenizer cannot delimit fails before any work."""
    for name, task in {**plan.wrong_tasks, **plan.tasks}.items():
        contexts = plan.contexts(name, plan.settings.seeds[0])[:1]
        for source in plan.settings.sources:
            source_prompts(model, task.task, demonstrated(source), contexts, template=plan.template)
        for query in plan.settings.queries if name in plan.tasks else ():
            query_prompt(model, task.task, task.test[0], query, source="", context=contexts[0], template=plan.template)
