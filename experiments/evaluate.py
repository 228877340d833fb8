"""Evaluate adapters on perception tasks: accuracy with intervals, and paired differences from the frozen model."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    import pandas as pd

    from interp.models.base import Model
    from interp.runs import Run
    from interp.tasks.perception.items import PerceptionItem
    from interp.tuning.evaluation.records import Record

MODULE = "experiments.evaluate"


@dataclass(frozen=True)
class Arguments:
    """Evaluate the frozen model and any number of adapters on the same items of perception tasks.

    Forced choice: the likelihood of the option letters, averaged over all cyclic shifts of the options. Or generated
    answers, read by rules in place of a judge. All adapters share batches, pictures and vision features. The table has
    Wilson intervals, differences from the frozen model with the exact McNemar test, and flags of constant answers;
    every item has its record.

    Example: python -m experiments.evaluate --adapters runs/finetune/relative_depth/adapter --tasks RD JG --items 200
    """

    model: str = "bundled"
    """The model: bundled, a hub id, or a folder."""
    adapters: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER ...")] = ()
    """Folders of experiments.finetune, or of peft; the frozen model is always evaluated."""
    tasks: Annotated[tuple[str, ...], arg("TASK ...", "the 13")] = ()
    """Tasks by name or abbreviation, task/form (RD/yes_no), blink:Relative_Depth, vsi:FILE, or a file of items."""
    items: int = 200
    """Items of each task; of published data at most so many."""
    split: Literal["test", "selection"] = "test"
    """Whose items."""
    difficulty: float = 0.5
    """Of drawn tasks: 0 (easiest) to 1."""
    wording: Literal["brief", "described"] = "brief"
    """How drawn tasks ask: in brief, or with the pictures described first."""
    difficulties: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Difficulty by task, as experiments.transfer_matrix --calibrate writes them."""
    size: Annotated[int | None, arg("PIXELS", "the tower's")] = None
    """Side of drawn pictures."""
    min_pixels: Annotated[int | None, arg("PIXELS", "as the adapters were trained")] = None
    """Fewest pixels of a picture; for the Qwen-VL line."""
    max_pixels: Annotated[int | None, arg("PIXELS", "as the adapters were trained")] = None
    """Most pixels of a picture; for the Qwen-VL line."""
    data_seed: int = 0
    """Seed of the items."""
    scoring: Literal["choice", "generation"] = "choice"
    """By the likelihood of the option letters, or by generated answers."""
    shifts: bool = True
    """Average choices over all cyclic shifts of the options."""
    max_new_tokens: int = 16
    """Most tokens of a generated answer."""
    budget: Annotated[int | None, arg("TOKENS", "by the free memory")] = None
    """Most tokens of a forward pass."""
    apply: Literal["auto", "merge", "beside"] = "auto"
    """Add updates to the weights, or leave them beside; auto adds them in 32 bits."""
    compile: bool = False
    """Compile the decoder blocks."""
    threads: Annotated[int | None, arg("N", "PyTorch's")] = None
    """Threads of PyTorch on a CPU."""
    out: Annotated[Path | None, arg("FOLDER", "runs/evaluate/<model>-<what the settings hash to>")] = None
    """Folder of the run. The same command continues a killed run."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Evaluates what is not yet evaluated, and writes records, table and figure."""
    from rich.console import Console

    from figures import evaluation as figures
    from interp.runs import Run
    from interp.tuning.evaluation.comparison import comparison_table
    from interp.tuning.matrix.plan import task_of

    console = Console(soft_wrap=True)
    folders, config = named(arguments.adapters), settings(arguments)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:6]
    model_name = "--".join(Path(arguments.model).parts[-2:]).strip("/-")
    folder = arguments.out or Path("runs") / "evaluate" / f"{model_name}-{digest}"
    if arguments.threads is not None:
        import torch

        torch.set_num_threads(arguments.threads)
    console.print(f"Loading {arguments.model} ...")
    model = common.model_loader(arguments.loading, main=arguments.model)(arguments.model)
    data = {name: items_of(name, config, model) for name in config["tasks"]}
    with common.remarks_on(console), Run.open(folder, config, models={model.name: model.fingerprint}) as run:
        records = _evaluate(arguments, run, model, data, {"frozen": None, **folders})
        table = comparison_table(records)
        chance = {task_of(name): sum(item.chance for item in items) / len(items) for name, items in data.items()}
        report = common.write_results(
            run,
            title=f"Perception tasks with {arguments.model}",
            lead=[f"{len(folders)} adapters beside the frozen model on {len(data)} tasks.", *warnings_of(table)],
            tables={"accuracy": table},
            figures={"accuracy": (figures.accuracies(table, chance=chance), "Accuracy with 95 % intervals.")},
            notes={"accuracy": "p_value: exact McNemar test against the frozen model; p_holm: corrected for all rows."},
        )
    shown = ["task", "form", "model", "n", "accuracy", "low", "high", "difference", "difference_low", "difference_high"]
    print(common.markdown(table[[*shown, "p_value", "constant_letter"]].round(3).astype(object).fillna("")))
    for line in warnings_of(table):
        console.print(line, markup=False)
    print(report)


def settings(arguments: Arguments) -> dict[str, Any]:
    """What decides the numbers, as JSON values.

    Raises:
        CrosstaskError: a task that does not exist, or a folder without an adapter.
    """
    from interp.files import sha256_of
    from interp.tasks.perception.registry import perception_tasks
    from interp.tuning.adapters import trained_limits
    from interp.tuning.matrix.calibration import difficulties_of
    from interp.tuning.matrix.plan import task_of
    from interp.tuning.matrix.work import canonical, file_of

    tasks = [canonical(name) for name in arguments.tasks] or list(perception_tasks(core=True))
    chosen = difficulties_of(tasks, arguments.difficulties, otherwise=arguments.difficulty)
    taken = ("model", "items", "split", "size", "wording", "data_seed", "scoring", "shifts", "max_new_tokens")
    weights = {
        name: {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}
        for name, folder in named(arguments.adapters).items()
    }
    limits = {"min_pixels": arguments.min_pixels, "max_pixels": arguments.max_pixels}
    if limits == {"min_pixels": None, "max_pixels": None}:
        limits = trained_limits(named(arguments.adapters))
    return {
        **{name: getattr(arguments, name) for name in taken},
        **limits,
        "tasks": list(dict.fromkeys(tasks)),
        "difficulties": {task_of(name): chosen[task_of(name)] for name in tasks},
        "files": {name: sha256_of(path) for name in tasks if (path := file_of(name)) is not None},
        "adapters": weights,
        "loading": arguments.loading.config(),
    }


def named(folders: tuple[Path, ...]) -> dict[str, Path]:
    """A short name for each adapter's folder: the part of its path that tells it from the others.

    Raises:
        CrosstaskError: a folder is missing, or given twice.
    """
    from interp.errors import CrosstaskError

    for folder in folders:
        if not folder.is_dir():
            raise CrosstaskError(f"there is no folder {str(folder)!r} with an adapter")
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise CrosstaskError("an adapter is given twice; each is evaluated once")
    common_tail = 0
    while len(parts) > 1 and len({part[len(part) - 1 - common_tail] for part in parts}) == 1:
        common_tail += 1  # such as .../adapter
    if len(parts) == 1 and parts[0][-1] == "adapter":
        common_tail = 1
    names = ["/".join(part[: len(part) - common_tail][-1:]) for part in parts]
    if len(set(names)) < len(names) or "frozen" in names:
        names = ["/".join(part[-3:]) for part in parts]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return dict(zip(names, folders, strict=True))


def items_of(name: str, config: dict[str, Any], model: "Model") -> "list[PerceptionItem]":
    """The items of a task."""
    from interp.tuning.matrix.plan import Job, task_of
    from interp.tuning.matrix.work import target_items

    asked = {key: config[key] for key in ("items", "split", "data_seed", "size", "wording")}
    difficulty, sha256 = config["difficulties"][task_of(name)], config["files"].get(name)
    asked |= {"target": name, "difficulty": difficulty, "sha256": sha256}
    return target_items(Job("evaluate", name, asked), model)


def warnings_of(table: "pd.DataFrame") -> list[str]:
    """What should make a reader careful."""
    said = []
    for row in table.to_dict("records"):
        where = f"{row['model']} on {row['task']}"
        if row["constant_letter"]:
            said.append(f"{where}: more than 90 % of the answers are ({row['constant_letter']}).")
    return said


def _evaluate(
    arguments: Arguments,
    run: "Run",
    model: "Model",
    data: "dict[str, list[PerceptionItem]]",
    folders: dict[str, Path | None],
) -> "dict[tuple[str, str, str], list[Record]]":
    """Records of every task and model, from the run's folder where they are there."""
    from rich.progress import Progress

    from interp.files import sha256_of
    from interp.tuning.evaluation.evaluate import EvaluationOptions, evaluate
    from interp.tuning.evaluation.records import Record
    from interp.tuning.matrix.plan import form_of, plain, task_of

    options = EvaluationOptions(
        scoring=arguments.scoring,
        shifts=arguments.shifts,
        max_new_tokens=arguments.max_new_tokens,
        how=arguments.apply,
        budget=arguments.budget,
        compile_blocks=arguments.compile,
        min_pixels=run.config["min_pixels"],
        max_pixels=run.config["max_pixels"],
    )
    found: dict[tuple[str, str, str], list[Record]] = {}
    with Progress(transient=True) as progress:
        bar = progress.add_task("evaluating", total=len(data) * len(folders))
        for name, items in data.items():
            form = form_of(name) or str(items[0].meta.get("form", ""))
            left = {model_name: path for model_name, path in folders.items() if run.done((name, model_name)) is None}
            progress.advance(bar, len(folders) - len(left))
            for model_name, records in evaluate(model, items, left, options) if left else ():
                path = run.write_jsonl(_file(plain(name), model_name), (record.row() for record in records))
                run.record((name, model_name), {"n": len(records), "sha256": sha256_of(path)})
                progress.advance(bar)
            for model_name in folders:
                path = run.folder / _file(plain(name), model_name)
                lines = path.read_text(encoding="utf-8").splitlines()
                found[task_of(name), form, model_name] = [Record.from_row(json.loads(line)) for line in lines]
    return found


def _file(task: str, model: str) -> str:
    return f"records/{task}/{model.replace('/', '-')}.jsonl"


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
