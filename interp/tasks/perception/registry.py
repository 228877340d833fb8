"""The procedural tasks by name: every module of `procedural/` that has a `TASK` adds one."""

from __future__ import annotations

import difflib
import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from interp.errors import CrosstaskError
from interp.tasks.perception import procedural
from interp.tasks.perception.base import PerceptionTask

ORDER = ("VS", "AS", "VC", "RD", "RR", "SR", "JG", "CN", "FC", "SC", "MR", "OL", "FD")
"""The thirteen in the order of the paper's matrices."""


@cache
def _found() -> dict[str, PerceptionTask]:
    modules = [
        import_module(f"{procedural.__name__}.{found.name}") for found in pkgutil.iter_modules(procedural.__path__)
    ]
    tasks = [module.TASK for module in modules if hasattr(module, "TASK")]
    places = {abbreviation: place for place, abbreviation in enumerate(ORDER)}
    tasks.sort(key=lambda task: (places.get(task.abbreviation, len(ORDER)), task.name))
    return {task.name: task for task in tasks}


def perception_tasks(*, core: bool | None = True) -> dict[str, PerceptionTask]:
    """Name -> task: the thirteen in the paper's order, or (core=False) the others, or (None) all."""
    return {name: task for name, task in _found().items() if core is None or task.core == core}


def perception_task(name: str) -> PerceptionTask:
    """A task by its name or abbreviation.

    Raises:
        CrosstaskError: there is none of that name; the nearest are offered.
    """
    tasks = _found()
    spelt = name.strip().lower().replace("-", "_").replace(" ", "_")
    for task in tasks.values():
        if spelt in (task.name, task.abbreviation.lower()):
            return task
    close = difflib.get_close_matches(spelt, tasks, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"the tasks are {', '.join(tasks)}."
    raise CrosstaskError(f"There is no perception task {name!r}; {hint}")


def task_name(text: str) -> str:
    """A task as settings hold it, "task" or "task/form", from its name or abbreviation; a file's name as it is.

    Raises:
        CrosstaskError: there is none of that name.
    """
    if Path(text).expanduser().is_file():
        return text
    short, sign, form = text.partition("/")
    return perception_task(short).name + sign + form
