"""What did fine-tuning write, and how alike are the updates of different tasks?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments import common
from experiments.common import arg

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from rich.console import Console

    from interp.tuning.dataset import Example
    from interp.updates import Comparison, Measured, Update

MODULE = "experiments.lora_geometry"


@dataclass(frozen=True)
class Arguments:
    """Compare what fine-tuning on different tasks added to a model's weights.

    An update is compared as what it adds, dW = (alpha / r) B A, never as A or B alone (which are there, and labelled):
    cosines, norms, effective rank, overlap of subspaces with principal angles and chance, and the share of one update's
    energy in another's column and row spaces, by layer, by projection and over the whole model, with and without what
    all updates have in common. Two seeds of a task tell how alike two updates can be. No dW is ever formed, so that the
    adapters of a large model compare in seconds.

    Adapters may have different ranks, alphas and target modules. A folder may also hold a whole checkpoint (with
    --base) or what the strategies full and bitfit write. It is called by its task and seed if the runner's record says
    so, else by its own name (counting-seed1 is seed 1 of counting); or give NAME=FOLDER, NAME@SEED=FOLDER.

    Example: python -m experiments.lora_geometry --adapters runs/transfer_matrix/bundled --gains 32 --states 32
    """

    adapters: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FOLDER ...")]
    """Folders of peft adapters, of the runner's runs or of whole checkpoints; a folder of such folders, or of a
    transfer matrix, stands for all in it."""
    base: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(only for checkpoints)")] = None
    """The base model of whole checkpoints: a folder with model.safetensors or its shards."""
    fraction: float = 1.0
    """Share of the training whose adapters a matrix gives."""
    rank: int = 16
    """Directions of a whole weight's update that its subspace has; factors have their own."""
    gains: Annotated[int, tyro.conf.arg(metavar="ITEMS")] = 0
    """Items of each task on which the first-order gain of every update is taken: minus the product of the loss's
    gradient with dW. 0 for none, which needs no model."""
    states: Annotated[int, tyro.conf.arg(metavar="ITEMS")] = 0
    """Items of each task on which the change of the hidden states is taken. 0 for none."""
    model: Annotated[str | None, arg("MODEL", "the one that the adapters name")] = None
    """The base model for --gains and --states: bundled, a hub id, or a folder."""
    targets: Annotated[tuple[str, ...], arg("TASK ...", "the adapters' tasks")] = ()
    """Tasks whose loss the gains are of."""
    difficulty: Annotated[float | None, arg("0..1", "the trainings' own, else 0.5")] = None
    """Of the items, 0 (easiest) to 1."""
    batch: int = 8
    """Items that are read together."""
    seed: int = 1000
    """Seed of the items; training draws with small seeds."""
    out: Annotated[Path | None, arg("FOLDER", "runs/lora_geometry/<name>")] = None
    """Folder of the results."""
    loading: common.Loading = field(default_factory=common.LoadOptions)


def main(arguments: Arguments) -> None:
    """Reads and compares the updates, then writes tables, figures and the report; nothing is written of a bad input."""
    from rich.console import Console

    from figures import updates as figures
    from interp.runs import Run
    from interp.transfer.names import abbreviation
    from interp.updates import (
        angle_table,
        ceiling_table,
        compare,
        long_table,
        norm_table,
        read_updates,
        similarity_table,
    )

    console = Console(soft_wrap=True)
    updates = read_updates(arguments.adapters, base=arguments.base, fraction=arguments.fraction)
    comparison = compare(updates, rank=arguments.rank)
    more, foretold, models = _on_the_model(arguments, updates, comparison, console)
    similarity = similarity_table(comparison, more=more)
    tables = {
        "similarity": similarity,
        "similarity_long": long_table(similarity),
        **foretold,
        "norms": norm_table(comparison),
        "ceilings": ceiling_table(comparison, more=more),
        "angles": angle_table(comparison),
    }
    lead = _lead(updates, tables)
    short = {name.task: abbreviation(name.task) for name in comparison.names}
    with Run.open(_folder(arguments, updates), _config(arguments, updates), seeds=(arguments.seed,)) as run:
        run.record_models(models)
        report = common.write_results(
            run,
            title=f"What fine-tuning wrote: {len(updates)} updates of {len(short)} tasks",
            lead=lead,
            tables=tables,
            figures=figures.all_figures(tables, short=short),
            html={"Sizes": _sizes(tables["norms"])},
        )
    for line in lead:
        console.print(line, markup=False, highlight=False)
    print(report)


def _on_the_model(
    arguments: Arguments, updates: "Sequence[Update]", comparison: "Comparison", console: "Console"
) -> "tuple[list[Measured], dict[str, pd.DataFrame], dict[str, str]]":
    """What needs the base model and items: gains and changes of states; LogME; and the model's fingerprint."""
    if not (arguments.gains or arguments.states):
        return [], {}, {}
    from interp.errors import CrosstaskError
    from interp.transfer.names import identity
    from interp.updates.answers import LastStates, answer_logme
    from interp.updates.comparison import centring, norms_of
    from interp.updates.gains import answer_losses, gains, measured_gains
    from interp.updates.states import end_states, measured_changes, state_changes

    named = arguments.model or next((update.base for update in updates if update.base), None)
    if named is None:
        raise CrosstaskError("no adapter names its base model, which --gains and --states need: give it with --model")
    console.print(f"Loading {named} ...")
    model = common.model_loader(arguments.loading, main=named)(named)
    tasks = [identity(task) for task in arguments.targets] or list(dict.fromkeys(u.name.task for u in updates))
    found: list[Measured] = []
    tables: dict[str, pd.DataFrame] = {}
    if arguments.gains:
        items = {task: _items(arguments, updates, task, arguments.gains, model) for task in tasks}
        losses = {task: answer_losses(model, shown, batch=arguments.batch) for task, shown in items.items()}
        slopes = gains(model, updates, losses, progress=lambda task: console.print(f"Gradients on {task}."))
        norms = {where: norms_of([one]) for where, one in comparison.modules.items()}
        found += measured_gains(slopes, updates, norms)
    if arguments.states:
        asked = {task: _items(arguments, updates, task, arguments.states, model) for task in tasks}
        shown = [item for items in asked.values() for item in items]
        folders = {str(update.name): update.folder for update in updates}
        centre = centring([update.name for update in updates])
        states, leave = end_states(model, folders, shown, batch=arguments.batch)
        recorded = LastStates(states)
        try:
            found += measured_changes(state_changes(list(folders), recorded), centre=centre)
        finally:
            leave()
        tables["logme_long"] = answer_logme(
            recorded.last,
            {str(update.name): update.name.task for update in updates},
            [task for task, items in asked.items() for _ in items],
            [item.turns[-1][1] for item in shown],
        )
    return found, tables, {model.name: model.fingerprint}


def _items(arguments: Arguments, updates: "Sequence[Update]", task: str, n: int, model: Any) -> "list[Example]":
    """Items of a task with their answers, as its adapter was trained on: same form, difficulty and size."""
    from interp.tasks.perception.datasets import training_data
    from interp.tuning.dataset import as_example, picture_side

    trained = next((u.record["config"] for u in updates if u.name.task == task and "config" in u.record), {})
    own = trained.get("difficulty", 0.5) if arguments.difficulty is None else arguments.difficulty
    size = trained.get("size") or picture_side(model)
    form = trained.get("form") or str(trained.get("task", "")).partition("/")[2] or None
    asked = {"form": form, "difficulty": own, "wording": trained.get("wording", "brief"), "size": size}
    data = training_data(task, n=n, seed=arguments.seed, **asked)
    return [as_example(data[index]) for index in range(len(data))]


def _lead(updates: "Sequence[Update]", tables: "dict[str, pd.DataFrame]") -> list[str]:
    """What was compared, and what came out over the whole model."""
    similarity, ceilings, norms = tables["similarity"], tables["ceilings"], tables["norms"]
    tasks = list(dict.fromkeys(update.name.task for update in updates))
    seeds = sorted({update.name.seed for update in updates})
    whole = norms[(norms["layer"] == "all") & (norms["projection"] == "all")]
    lines = [
        f"How alike is what fine-tuning on {len(tasks)} tasks wrote into the model? {len(updates)} updates (seeds "
        f"{', '.join(map(str, seeds))}), compared as dW; |dW| from {whole['norm'].min():.3g} to "
        f"{whole['norm'].max():.3g}."
    ]
    if not ceilings["measure"].eq("cosine").any():
        lines.append(
            "There is one seed of each task, so there is no ceiling; and if all were trained with one seed, all began "
            "with the same A, which makes them alike on the input side from the start."
        )
    for measure, centred in (("cosine", False), ("cosine", True), ("overlap_output", False), ("energy_output", False)):
        said = _said(similarity, ceilings, measure, centred)
        if said:
            lines.append(said)
    return lines


def _said(similarity: "pd.DataFrame", ceilings: "pd.DataFrame", measure: str, centred: bool) -> str:
    """A measure over the whole model in a sentence; empty where it is not defined."""
    rows, most = (
        table[
            (table["measure"] == measure)
            & (table["centred"] == centred)
            & (table["layer"].astype(str) == "all")
            & (table["projection"] == "all")
        ]
        for table in (similarity, ceilings)
    )
    different = rows[rows["seeds"] == "different"]
    rows = different if len(different) else rows
    if rows.empty:
        return ""
    top = rows.loc[rows["value"].idxmax()]
    name = measure.replace("_", ", ") + (" without the common mean" if centred else "")
    ceiling = f"; two seeds of a task {most['value'].mean():.3f}" if len(most) else ""
    return (
        f"{name[0].upper()}{name[1:]}: mean {rows['value'].mean():.3f} over pairs of tasks, from "
        f"{rows['value'].min():.3f} to {top['value']:.3f} ({top['source']}, {top['target']}); chance "
        f"{rows['chance'].mean():.3f}{ceiling}."
    )


def _sizes(norms: "pd.DataFrame") -> str:
    """Norm and ranks of each update over the whole model, as an HTML table."""
    whole = norms[(norms["layer"] == "all") & (norms["projection"] == "all")].drop(columns=["layer", "projection"])
    return whole.to_html(index=False, float_format="{:.4g}".format, border=0)


def _config(arguments: Arguments, updates: "Sequence[Update]") -> dict[str, Any]:
    """What decides the numbers: the settings, and the updates by their files."""
    settings = {name: value for name, value in vars(arguments).items() if name not in ("adapters", "out", "loading")}
    of_model = {name: settings.pop(name) for name in ("model", "targets", "difficulty", "seed", "batch")}
    del of_model["batch"]
    if arguments.gains or arguments.states:
        settings |= of_model | {"dtype": arguments.loading.dtype, "quantize": arguments.loading.quantize}
    return {"settings": settings, "updates": {str(update.name): _fingerprint(update) for update in updates}}


def _fingerprint(update: "Update") -> dict[str, str]:
    """sha256 of an update's files, by name."""
    from interp.files import sha256_of

    names = ("adapter_config.json", "adapter_model.safetensors", "delta.safetensors", "model.safetensors")
    kept = [path for path in (update.folder / name for name in names) if path.is_file()]
    return {path.name: sha256_of(path) for path in kept or sorted(update.folder.glob("*.safetensors"))}


def _folder(arguments: Arguments, updates: "Sequence[Update]") -> Path:
    """runs/lora_geometry/<name>: of the matrix, or of the folder that the adapters are in."""
    import hashlib
    import json

    if arguments.out is not None:
        return arguments.out
    given = Path(arguments.adapters[0].rpartition("=")[2]).resolve()
    name = given.name if len(arguments.adapters) == 1 else given.parent.name or "adapters"
    config = json.dumps(_config(arguments, updates), default=str, sort_keys=True)
    return Path("runs") / "lora_geometry" / f"{name}-{hashlib.sha256(config.encode()).hexdigest()[:6]}"


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
