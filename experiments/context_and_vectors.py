"""Does a CoVFT tower's contextual vector know the task that the language model's end-delimiter state encodes?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from experiments import common
from experiments.common import arg
from interp.errors import CrosstaskError

MODULE = "experiments.context_and_vectors"


@dataclass(frozen=True)
class Arguments:
    """Compare the tower's contextual vectors with the decoder's task vectors, item by item and task by task.

    Cross-decoding: a linear probe learns tasks from the one, and reads the other through a linear map that was fitted
    on other content. A map of all tasks says that both know the task; a map of other tasks than those that are told
    apart says that they share a code. Representational similarity, with tasks permuted and the text's share taken out,
    needs no map. Controls: the text embedding, the mean features of the pictures, pairs that are no pairs.

    Example: python -m experiments.context_and_vectors --adapter runs/finetune/perception-mixture-covft/adapter
    """

    adapter: Annotated[Path | None, arg("FOLDER", "none")] = None
    """Folder with a CoVFT adapter, as experiments.finetune --strategy covft writes it."""
    compare: Annotated[tuple[Path, ...], arg("FOLDER ...", "none")] = ()
    """Folders of adapters: of covft, and for each one of another strategy that was trained on the same task with the
    same seed, data and steps."""
    model: str = "perception"
    """The model that it was trained on: perception, bundled, a hub id, or a folder."""
    tasks: Annotated[tuple[str, ...], arg("TASK[/FORM] ...", "the thirteen")] = ()
    """Perception tasks by name or abbreviation, in a form of theirs or their own; four or more."""
    items: int = 40
    """Items of each task in each of three splits: probes learn on one, maps on the next, all is tested on the last.
    With --compare: test items of each task."""
    contexts: int = 40
    """With --compare: items that a task vector is the mean of; even."""
    patch_layer: Annotated[int, arg("LAYER", "the middle one")] = -1
    """With --compare: decoder block after which vectors are read and patched."""
    position: Literal["delimiter", "letter"] = "delimiter"
    """With --compare: where: at the end delimiter, or at the last token before the letter."""
    shifts: bool = True
    """With --compare: average answers over all cyclic shifts of the options."""
    layers: Annotated[tuple[int, ...], arg("LAYER ...", "all, or twelve, evenly spaced")] = ()
    """Decoder blocks, from 0."""
    neutral: str = "What is in the picture?"
    """The question that is asked of every item where the picture alone should decide."""
    permutations: int = 999
    """Permutations of the tasks."""
    difficulty: float = 0.5
    """Of the items of tasks that --difficulties does not name: 0 (easiest) to 1."""
    difficulties: Annotated[Path | None, arg("FILE", "none")] = None
    """Difficulty by task: a JSON object, or a CSV with columns task and difficulty, as transfer_matrix --calibrate
    writes them."""
    wording: Literal["brief", "described"] = "brief"
    """How tasks ask; see interp/tasks/perception/wording.py."""
    size: Annotated[int | None, arg("PIXELS", "what the model's tower takes")] = None
    """Side of drawn pictures."""
    seed: int = 1000
    """Seed of the items and of resampling; training draws with small seeds."""
    out: Annotated[Path | None, arg("FOLDER", "runs/context_and_vectors/<name>")] = None
    """Folder of the results. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Reads what is left to read, decodes and compares, and writes tables, figures and the report."""
    if arguments.adapter is None and not arguments.compare:
        raise CrosstaskError(
            "there is nothing to look at: give --adapter, a CoVFT adapter's folder, or --compare, several"
        )
    if arguments.adapter is not None:
        _joint(arguments, arguments.adapter)
    if arguments.compare:
        _compare(arguments)


def _joint(arguments: Arguments, adapter: Path) -> None:
    """Contextual vectors beside task vectors under one adapter."""
    from rich.console import Console

    from figures import context_and_vectors as figures
    from interp.context_vectors.joint_settings import JointSettings
    from interp.context_vectors.joint_work import NOTES, JointWork, collect
    from interp.context_vectors.kept import adapter_fingerprint, check_seed, results_folder
    from interp.models.bundled.stem_memory import ROOMY_BYTES, StemMemory, remembered
    from interp.runs import Run
    from interp.tuning.adapters import check_base, trained_limits
    from interp.tuning.pixels import pixel_limits

    console = Console(soft_wrap=True)
    settings = JointSettings(**_given(arguments, JointSettings) | {"adapter": adapter_fingerprint(adapter)})
    check_seed(adapter, settings.seed)
    limits = trained_limits({"covft": adapter})
    console.print(f"Loading {settings.model} ...")
    model = common.model_loader(arguments.loading, main=settings.model)(settings.model)
    check_base(model, adapter, "covft")
    settings = settings.resolve(model)
    folder = arguments.out or results_folder("context_and_vectors", settings.model, settings.config())
    with (
        common.remarks_on(console),
        remembered(model.module, StemMemory(ROOMY_BYTES)),
        pixel_limits(model, limits["min_pixels"], limits["max_pixels"]),
        Run.open(folder, settings.config(), seeds=(settings.seed,), models={model.name: model.fingerprint}) as run,
    ):
        work = JointWork(settings, run, model, adapter)
        common.perform_units(run, work.units(), work.perform, console)
        found = collect(work)
        report = common.write_results(
            run,
            title=f"Contextual vectors and task vectors of {settings.model}",
            lead=found.sentences,
            tables=found.tables,
            figures=figures.all_figures(found.tables),
            notes=NOTES,
        )
    for line in found.sentences:
        console.print(line, markup=False, highlight=False)
    print(report)


def _compare(arguments: Arguments) -> None:
    """Adapters of CoVFT against those of another strategy."""
    from rich.console import Console

    from figures import context_and_vectors as figures
    from interp.context_vectors.compare import CompareSettings, CompareWork, compare_tables, paired
    from interp.context_vectors.kept import adapter_fingerprint, check_seed, results_folder
    from interp.models.bundled.stem_memory import ROOMY_BYTES, StemMemory, remembered
    from interp.runs import Run
    from interp.tuning.adapters import check_base, trained_limits
    from interp.tuning.pixels import pixel_limits

    console = Console(soft_wrap=True)
    pairs = paired(arguments.compare)
    adapters = {one.label: one.folder for pair in pairs for one in pair}
    fingerprints = {label: adapter_fingerprint(folder) for label, folder in adapters.items()}
    settings = CompareSettings(**_given(arguments, CompareSettings) | {"adapters": fingerprints})
    for folder in adapters.values():
        check_seed(folder, settings.seed)
    limits = trained_limits(adapters)
    console.print(f"Loading {settings.model} ...")
    model = common.model_loader(arguments.loading, main=settings.model)(settings.model)
    for label, folder in adapters.items():
        check_base(model, folder, label)
    settings = settings.resolve(model)
    place = results_folder("context_and_vectors", f"{settings.model}-compare", settings.config())
    with (
        common.remarks_on(console),
        remembered(model.module, StemMemory(ROOMY_BYTES)),
        pixel_limits(model, limits["min_pixels"], limits["max_pixels"]),
        Run.open(
            arguments.out / "compare" if arguments.out else place,
            settings.config(),
            seeds=(settings.seed,),
            models={model.name: model.fingerprint},
        ) as run,
    ):
        work = CompareWork(settings, run, model, pairs)
        common.perform_units(run, work.units(), work.perform, console)
        tables, sentences = compare_tables(work)
        report = common.write_results(
            run,
            title=f"CoVFT and other strategies at equal dose in {settings.model}",
            lead=sentences,
            tables=tables,
            figures=figures.all_figures(tables),
            notes={
                "compare": "CoVFT minus the other strategy, paired by task, seed and target; 95 % over trained "
                "tasks and targets."
            },
        )
    for line in sentences:
        console.print(line, markup=False, highlight=False)
    print(report)


def _given(arguments: Arguments, settings: "type[Any]") -> "dict[str, Any]":
    """The settings that the command line gives."""
    from interp.tasks.perception.registry import perception_tasks, task_name
    from interp.tuning.matrix.calibration import difficulties_of

    given = {name: value for name, value in vars(arguments).items() if name in settings.__dataclass_fields__}
    tasks = tuple(task_name(name) for name in arguments.tasks) or tuple(perception_tasks())
    levels = difficulties_of(tasks, arguments.difficulties, otherwise=arguments.difficulty)
    return given | {"tasks": tasks, "difficulties": levels, "size": arguments.size or 0}


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
