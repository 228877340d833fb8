"""Draw sheets of perception items to look at: pictures, prompts and answers of a task, from easy to hard."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from interp.tasks.perception.base import Form, PerceptionTask

MODULE = "experiments.contact_sheets"


@dataclass(frozen=True)
class Arguments:
    """Draw sheets of procedural perception items: one for each task and form, with a row for each difficulty.

    Whether a person can tell the answer, and whether it gets harder, is seen here before a model is trained on it. A
    sheet is a PNG such as contact_sheets/RD_marks.png; the same command gives the same items.

    Example: python -m experiments.contact_sheets --tasks RD JG --difficulty 0 0.5 1 --size 160
    """

    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the thirteen")] = ()
    """Procedural tasks by name or abbreviation, or "all" for extra targets and control sources as well."""
    form: Annotated[Literal["pictures", "marks", "words", "yes_no"] | None, arg("FORM", "all that a task has")] = None
    """How the tasks are asked; tasks without this form are left out."""
    difficulty: tuple[float, ...] = (0.0, 0.5, 1.0)
    """From 0 (easiest) to 1 (hardest); a row for each."""
    items: int = 4
    """Items in a row."""
    split: Literal["train", "selection", "test", "build"] = "train"
    """Whose content is drawn."""
    size: int = 160
    """Side of the pictures in pixels."""
    marks: Literal["red", "neutral"] = "red"
    """How points and boxes are marked."""
    seed: int = 0
    """Seed of the items."""
    out: Path = Path("runs/contact_sheets")
    """Folder of the sheets. A sheet of the same task and form is replaced."""


def main(arguments: Arguments) -> None:
    """Draws the sheets and prints where they are."""
    from interp.errors import CrosstaskError
    from interp.files import atomic_file

    if arguments.items < 1:
        raise CrosstaskError(f"--items {arguments.items} is no number of items; expected 1 or more.")
    if not arguments.difficulty:
        raise CrosstaskError("--difficulty has no value; expected one or more numbers from 0 to 1.")
    wanted = _wanted(arguments)
    for task, form in wanted:
        figure = _sheet(arguments, task, form)
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"{task.abbreviation}_{form}.png"
        with atomic_file(path) as draft:
            figure.savefig(draft, format="png", dpi=150)
        print(path)


def _wanted(arguments: Arguments) -> "list[tuple[PerceptionTask, Form]]":
    """The tasks, each in the forms that are asked for."""
    from interp.errors import CrosstaskError
    from interp.tasks.perception.registry import perception_task, perception_tasks

    if arguments.tasks in ((), ("all",)):
        tasks = perception_tasks(core=None if arguments.tasks else True)
    else:
        tasks = {task.name: task for task in map(perception_task, arguments.tasks)}
    wanted = [(task, form) for task in tasks.values() for form in task.forms if arguments.form in (None, form)]
    if not wanted:
        have = "; ".join(f"{task.name}: {', '.join(task.forms)}" for task in tasks.values())
        raise CrosstaskError(f"None of the tasks has the form {arguments.form!r}; they have {have}.")
    return wanted


def _sheet(arguments: Arguments, task: "PerceptionTask", form: "Form") -> "Figure":
    """A row of items for each difficulty."""
    import numpy as np

    from figures.contact_sheet import contact_sheet

    items = []
    for difficulty in arguments.difficulty:
        given = {"difficulty": difficulty, "size": arguments.size, "seed": arguments.seed, "marks": arguments.marks}
        for item in task.items(arguments.split, arguments.items, form=form, **given):
            items.append(([np.asarray(image.load().convert("RGB")) for image in item.images], item.prompt, item.answer))
    return contact_sheet(
        items,
        title=f"{task.title} ({task.abbreviation}), form {form}, {arguments.split}",
        columns=arguments.items,
        heads=[f"difficulty {difficulty:g}" for difficulty in arguments.difficulty],
    )


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
