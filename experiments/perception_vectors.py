"""Are vectors of perception tasks alike, does fine-tuning move them, and does patching one task's change another's?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from experiments import common
from experiments.common import arg
from interp.errors import CrosstaskError

if TYPE_CHECKING:
    from interp.updates.folders import Found

MODULE = "experiments.perception_vectors"
Setting = Literal["item", "examples", "instruction", "both"]


@dataclass(frozen=True)
class Arguments:
    """Read the end-delimiter vectors of perception tasks, compare them, and patch each into the items of every other.

    A vector is the mean state at the last token before the answer, over contexts that specify the task by one item, by
    answered examples, by an instruction without pictures, or by both; its two halves tell how reliable it is. Patching
    replaces that state in test items, at several layers, beside the task's own vector, a random one of the same norm
    and the mean over tasks; the layer that is shown is chosen on the selection split. With adapters, the vectors are
    read again under each: how far they move, and whether towards the trained task's.

    similarity_long.csv, patch_transfer_long.csv and moves_long.csv are what experiments.relate reads.

    Example: python -m experiments.perception_vectors --model perception --matrix runs/transfer_matrix/perception
    """

    model: str = "bundled"
    """The model: bundled, perception, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], arg("TASK[/FORM] ...", "the thirteen")] = ()
    """Perception tasks by name or abbreviation, in a form of theirs or their own; or files of items."""
    settings: Annotated[tuple[Setting, ...], tyro.conf.arg(metavar="{item,examples,instruction,both} ...")] = (
        "item", "examples", "instruction", "both",
    )  # fmt: skip
    """How contexts specify the task."""
    patched: Annotated[tuple[Setting, ...], tyro.conf.arg(metavar="{item,examples,instruction,both} ...")] = ("item",)
    """Settings whose vectors are patched and followed through fine-tuning; the first is the one that figures show."""
    matrix: Annotated[tuple[Path, ...], arg("FOLDER ...", "none")] = ()
    """Folder of a transfer matrix, all of whose adapters the vectors are followed through."""
    adapters: Annotated[tuple[str, ...], arg("[NAME[@SEED]=]FOLDER ...", "none")] = ()
    """Adapters one by one, as for experiments.lora_geometry."""
    fraction: float = 1.0
    """Share of the training whose adapters a matrix gives."""
    contexts: int = 48
    """Contexts that a vector is the mean of; even, for two halves."""
    shots: int = 3
    """Answered items of a context with examples."""
    position: Literal["delimiter", "letter"] = "delimiter"
    """Where vectors are read and patched: the end delimiter (the colon of "Answer:", or a chat template's last token
    before an answer), or the last token before the letter (the bracket that all replies begin with)."""
    layers: Annotated[tuple[int, ...], arg("LAYER ...", "six, evenly spaced")] = ()
    """Blocks that are patched, from 0."""
    items: int = 60
    """Test items of each task that patches are scored on; 0 for no patching."""
    selection_items: int = 24
    """Selection items of each task, on which the layer is chosen."""
    shifts: bool = True
    """Average answers over all cyclic shifts of the options."""
    difficulty: Annotated[float | None, arg("0..1", "the trainings' own, else 0.5")] = None
    """Of the items, 0 (easiest) to 1."""
    difficulties: Annotated[Path | None, arg("FILE", "as --difficulty says")] = None
    """Difficulty by task, as for experiments.transfer_matrix; of the tasks that it does not name, as --difficulty
    says."""
    wording: Annotated[Literal["brief", "described"] | None, arg("{brief,described}", "the trainings' own")] = None
    """How the items ask: in brief, or with the pictures described first."""
    size: Annotated[int | None, arg("PIXELS", "what the model's tower takes")] = None
    """Side of drawn pictures."""
    seed: int = 1000
    """Seed of the items and of the random vectors; training draws with small seeds."""
    out: Annotated[Path | None, arg("FOLDER", "runs/perception_vectors/<name>")] = None
    """Folder of the results. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Loads the model, does what is not yet done, and writes vectors, tables, figures and the report."""
    from rich.console import Console

    from figures import perception_vectors as figures
    from interp.perception_vectors import VectorSettings, VectorWork
    from interp.perception_vectors.tables import NOTES, collect
    from interp.runs import Run
    from interp.tasks.perception.registry import perception_tasks
    from interp.transfer.names import abbreviation
    from interp.tuning.adapters import check_base, trained_limits
    from interp.tuning.pixels import pixel_limits

    console = Console(soft_wrap=True)
    found = _adapters(arguments)
    folders = {(one.name.task, one.name.seed): one.folder for one in found}
    limits = trained_limits({str(one.name): one.folder for one in found})
    given = {name: value for name, value in vars(arguments).items() if name in VectorSettings.__dataclass_fields__}
    tasks = tuple(_task(name) for name in arguments.tasks) or tuple(perception_tasks())
    settings = VectorSettings(
        **given
        | {"tasks": tasks, "size": arguments.size or 0, "limits": limits, "files": _files(tasks)}
        | {"difficulties": _difficulties(arguments, tasks, found), "wording": _wording(arguments, found)}
    )
    console.print(f"Loading {settings.model} ...")
    model = common.model_loader(arguments.loading, main=settings.model)(settings.model)
    for one in found:
        check_base(model, one.folder, str(one.name))
    settings = settings.resolve(model)
    config = settings.config() | {"adapters": {str(one.name): _fingerprint(one) for one in found}}
    config |= {"loading": {"dtype": arguments.loading.dtype, "quantize": arguments.loading.quantize}}
    fingerprints = {model.name: model.fingerprint}
    with (
        common.remarks_on(console),
        pixel_limits(model, limits["min_pixels"], limits["max_pixels"]),
        Run.open(
            arguments.out or common.run_folder(arguments, "perception_vectors"),
            config,
            seeds=(settings.seed,),
            models=fingerprints,
        ) as run,
    ):
        work = VectorWork(settings, run, model, folders)
        common.perform_units(run, work.units(), work.perform, console)
        work.write_vectors()
        results = collect(work)
        drawn = figures.all_figures(
            results.tables,
            main=settings.main,
            layer=results.layer,
            patch_layer=results.patch_layer,
            short={name: abbreviation(name) for name in (*settings.names, *(task for task, _ in folders))},
        )
        report = common.write_results(
            run,
            title=f"Vectors of perception tasks in {settings.model}",
            lead=results.sentences,
            tables=results.tables,
            figures=drawn,
            notes={name: note for name, note in NOTES.items() if name in results.tables},
        )
    for line in results.sentences:
        console.print(line, markup=False, highlight=False)
    print(report)


def _adapters(arguments: Arguments) -> "list[Found]":
    """The adapters, each of a task and a seed of its own."""
    if not (arguments.matrix or arguments.adapters):
        return []
    from interp.updates.folders import find_folders

    places: tuple[Path | str, ...] = (*arguments.matrix, *arguments.adapters)
    found = [one for given in places for one in find_folders(given, fraction=arguments.fraction)]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CrosstaskError(f"two adapters are called {str(twice)!r}: name them, as {twice.task}@1=FOLDER for seed 1")
    return found


def _task(name: str) -> str:
    """A task as the settings hold it: procedural ones by their names, files as they are."""
    from interp.tasks.perception.registry import perception_task

    if Path(name).expanduser().is_file():
        return name
    short, sign, form = name.partition("/")
    return perception_task(short).name + sign + form


def _difficulties(arguments: Arguments, tasks: tuple[str, ...], found: "list[Found]") -> dict[str, float]:
    """Task -> difficulty: of the file, else the given one, else what its adapters were trained at, else the default."""
    from interp.tuning.matrix.calibration import difficulties_of
    from interp.tuning.matrix.plan import DIFFICULTY, task_of

    if arguments.difficulty is not None and not 0 <= arguments.difficulty <= 1:
        raise CrosstaskError(f"--difficulty lies between 0 and 1, and was given as {arguments.difficulty:g}")
    known = difficulties_of((), arguments.difficulties, otherwise=DIFFICULTY)
    own: dict[str, float] = {}
    for one in found if arguments.difficulty is None else []:
        trained = one.record.get("config", {}).get("difficulty")
        if trained is not None and own.setdefault(one.name.task, trained) != trained and one.name.task not in known:
            raise CrosstaskError(
                f"adapters of {one.name.task!r} were trained at difficulties {own[one.name.task]:g} and {trained:g}: "
                "say with --difficulty or --difficulties at which one its items are asked"
            )
    usual = DIFFICULTY if arguments.difficulty is None else arguments.difficulty
    return {name: known.get(name, own.get(name, usual)) for name in map(task_of, tasks)}


def _wording(arguments: Arguments, found: "list[Found]") -> str:
    """The given one, else the one of all trainings, else the brief one."""
    if arguments.wording is not None:
        return arguments.wording
    used = {str(one.name): one.record.get("config", {}).get("wording", "brief") for one in found}
    if len(set(used.values())) > 1:
        first, other = (next(n for n, wording in used.items() if wording == w) for w in sorted(set(used.values())))
        raise CrosstaskError(
            f"adapter {first!r} was trained with wording {used[first]!r} and adapter {other!r} with {used[other]!r}: "
            "say with --wording how the items ask"
        )
    return next(iter(used.values()), "brief")


def _files(tasks: tuple[str, ...]) -> dict[str, str]:
    """sha256 of the tasks that are files."""
    from interp.files import sha256_of

    return {name: sha256_of(Path(name).expanduser()) for name in tasks if Path(name).expanduser().is_file()}


def _fingerprint(found: "Found") -> dict[str, str]:
    """sha256 of an adapter's files, by name."""
    from interp.files import sha256_of

    return {path.name: sha256_of(path) for path in sorted(found.folder.glob("*.safetensors"))}


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
