"""Relate similarities of tasks to measured transfer: do task vectors, updates or answer formats explain it?"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments import common
from experiments.common import arg
from interp.errors import CrosstaskError

MODULE = "experiments.relate"
_FILES = ("transfer", "similarity", "task_vectors", "updates")


@dataclass(frozen=True)
class Arguments:
    """Hold similarities of tasks against a measured transfer matrix, with tasks as the sample.

    Row and column effects are removed from both, tasks are permuted (QAP), layers and measures are corrected for by
    max-T, covariates such as the answer format are adjusted for (MRQAP), and sources are ranked for each target before
    any is trained on. The page answers in order: is there structure beyond main effects; do task vectors relate to it;
    do updates; does format explain it; how well can transfer be predicted beforehand.

    A similarity is a CSV with columns measure, layer, source, target, value; or a square CSV with task names at both
    axes; or a folder of such files. Tasks may be named as in BLINK, by abbreviation, or in any way of your own.

    Example: python -m experiments.relate --similarity cosine.csv --transfer pgf_qwen2.5vl_7b.csv --out runs/relation
    """

    transfer: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=]FILE|FOLDER ...")]
    """Measured transfer: a folder of experiments.transfer_matrix, a CSV in a long form of experiments.analyse_transfer,
    or a square CSV. Of several models, each with a name."""
    similarity: Annotated[tuple[str, ...], arg("[NAME=]FILE|FOLDER ...", "none")] = ()
    """Similarities; NAME is the model whose transfer they are for. Their family is told by the beginning of the
    measure's name: task_vector, vector, patch; update, lora, delta, gradient, gain, adapter."""
    task_vectors: Annotated[tuple[str, ...], arg("[NAME=]FILE|FOLDER ...", "none")] = ()
    """Similarities of the family of task vectors, whatever their measures are called."""
    updates: Annotated[tuple[str, ...], arg("[NAME=]FILE|FOLDER ...", "none")] = ()
    """Similarities of the family of updates."""
    covariate: Annotated[tuple[str, ...] | None, arg("NAME|[NAME=]FILE ...", "what is known of published tasks")] = None
    """What is adjusted for: format, options, images, marks, words, dose, norms; CSV files, square, long, or with a
    column task and one more; or none. By default the first four if all tasks are published ones, and words if the
    transfer is a matrix folder."""
    without: Annotated[tuple[str, ...], arg("TASK ...", "none")] = ()
    """Tasks to leave out."""
    measure: Literal["pgf", "chance", "log_p", "brier", "log_odds"] = "pgf"
    """What is made of accuracies, as in experiments.analyse_transfer."""
    form: Annotated[str | None, arg("FORM", "all, weighted by their items")] = None
    """Only targets asked in this form; of a matrix folder."""
    permutations: int = 9999
    """Permutations of the tasks behind every test, from nine tasks on; below nine all are done."""
    seed: int = 0
    """Seed of permutations and resampling."""
    out: Annotated[Path | None, arg("FOLDER", "runs/relate/<name>")] = None
    """Folder of the results."""


def main(arguments: Arguments) -> None:
    """Reads and relates the matrices, then writes tables, figures and the page; nothing is written of a bad input."""
    from rich.console import Console

    from figures import relation_report
    from interp.relation.study import relate
    from interp.relation.tables import NOTES
    from interp.runs import Run

    covariates = arguments.covariate
    if covariates is not None and "none" in covariates:
        covariates = ()
    found = relate(
        _similarities(arguments),
        _transfers(arguments.transfer),
        covariates=covariates,
        without=arguments.without,
        measure=arguments.measure,
        form=arguments.form,
        permutations=arguments.permutations,
        seed=arguments.seed,
    )
    tables, answers = found.tables, found.sentences
    drawn = relation_report.all_figures(tables)
    lead = [_read(model) for model in found.models] + found.remarks
    config = {"options": _options(arguments), "input": _inputs(arguments)}
    with Run.open(arguments.out or _folder(arguments), config, seeds=(arguments.seed,)) as run:
        for name, table in tables.items():
            run.write_csv(f"{name}.csv", table)
        pictures = {}
        for name, (figure, caption) in drawn.items():
            png, _ = run.write_figure(f"figures/{name}", figure)
            pictures[name] = (png.read_bytes(), caption)
        run.write_json("answers.json", answers)
        details = {"Configuration": "config.json", "Environment": "environment.json"}
        html = relation_report.report(
            title=f"What explains transfer: {', '.join(model.name for model in found.models)}",
            lead=lead,
            answers=answers,
            tables=tables,
            figures=pictures,
            notes=NOTES,
            details={heading: (run.folder / name).read_text() for heading, name in details.items()},
        )
        report = run.write_text("report.html", html)
    console = Console(soft_wrap=True)
    for line in lead + [line for question, lines in answers.items() for line in (question, *lines)]:
        console.print(line, markup=False, highlight=False)
    print(report)


def _similarities(arguments: Arguments) -> list[Any]:
    """Matrices with their family and model."""
    from dataclasses import replace

    from interp.relation.matrices import TASK_VECTORS, UPDATES, read_matrices

    given = {"": arguments.similarity, TASK_VECTORS: arguments.task_vectors, UPDATES: arguments.updates}
    found = []
    for family, paths in given.items():
        for path in paths:
            model, file = _named(path)
            for matrix in read_matrices(file):
                found.append(replace(matrix, model=model, **({"family": family} if family else {})))
    return found


def _transfers(paths: Sequence[str]) -> Mapping[str, str]:
    """Name -> file; a file without a name is called as its model or itself."""
    named = [_named(path) for path in paths]
    found: dict[str, str] = {}
    for name, path in named:
        key = name or (Path(path).stem if len(named) > 1 else "")
        if key in found:
            raise CrosstaskError(f"Two transfer matrices are called {key!r}; give each a name: NAME={path}.")
        found[key] = path
    return found


def _named(text: str) -> tuple[str, str]:
    """A name before =, unless a file of that name is there."""
    name, sign, path = text.partition("=")
    return (name, path) if sign and not Path(text).exists() else ("", text)


def _read(model: Any) -> str:
    """What was read of a model, in a sentence."""
    runs = len(model.aligned.runs)
    measures = len({matrix.measure for matrix in model.matrices})
    names = ", ".join(matrix.measure for matrix in model.covariates) or "none"
    return (
        f"{model.name}: {len(model.aligned.tasks)} tasks ({' '.join(model.aligned.short)}), "
        f"{runs} run{'' if runs == 1 else 's'} ({model.transfer.what}); {len(model.matrices)} similarities of "
        f"{measures} measure{'' if measures == 1 else 's'}; covariates: {names}."
    )


def _options(arguments: Arguments) -> dict[str, Any]:
    """What decides the numbers besides the files."""
    return {name: value for name, value in vars(arguments).items() if name not in ("out", *_FILES, "covariate")}


def _inputs(arguments: Arguments) -> dict[str, Any]:
    """Every file that the numbers come from, by the last part of its name, with its sha256."""
    from interp.files import sha256_of

    found: dict[str, Any] = {}
    for option in (*_FILES, "covariate"):
        found[option] = []
        for text in getattr(arguments, option) or ():
            name, given = _named(text)
            path = Path(given)
            files = sorted(path.glob("*.csv")) if path.is_dir() else [path] if path.is_file() else []
            hashes = {file.name: sha256_of(file) for file in files}
            found[option].append({"name": name, "given": path.name, "sha256": hashes})
    return found


def _folder(arguments: Arguments) -> Path:
    """runs/relate/<transfer>-<what the options hash to>; the same command, the same folder."""
    options = _options(arguments) | {name: getattr(arguments, name) for name in (*_FILES, "covariate")}
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:6]
    path = Path(_named(arguments.transfer[0])[1])
    return Path("runs") / "relate" / f"{path.resolve().name if path.is_dir() else path.stem}-{digest}"


if __name__ == "__main__":
    raise SystemExit(common.run(Arguments, main, module=MODULE))
