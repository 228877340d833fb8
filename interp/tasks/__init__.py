"""What is asked of a model: a task maps an input (a name, or the picture of the thing named) to an output."""

from interp.tasks.base import Item, Split, Task
from interp.tasks.loader import load_task, task_names

__all__ = ["Item", "Split", "Task", "load_task", "task_names"]
