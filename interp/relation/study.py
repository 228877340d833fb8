"""Do task vectors or updates explain transfer? From matrices to tables, for notebooks and the command line.

    >>> import numpy as np, pandas as pd
    >>> from interp.relation.study import relate
    >>> tasks = ["counting", "jigsaw", "art_style", "relative_depth", "my own task", "yours"]
    >>> rng = np.random.default_rng(0)
    >>> cosine = pd.DataFrame(rng.normal(size=(6, 6)), tasks, tasks)
    >>> transfer = pd.DataFrame(0.5 * cosine + rng.normal(0, 0.1, (6, 6)) + rng.normal(0, 1, 6), tasks, tasks)
    >>> found = relate({"task vectors": cosine}, transfer)
    >>> found.tables["relation"][["measure", "r", "p"]].round(3).to_dict("records")
    [{'measure': 'task vectors', 'r': 0.961, 'p': 0.001}]

With six tasks all 720 permutations are done. `found.sentences` says it in words, `found.remarks` what was left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from interp.errors import CrosstaskError
from interp.relation.alignment import Transfer, align, read_transfer_matrix
from interp.relation.covariates import covariate
from interp.relation.matrices import FAMILIES, TaskMatrix, matrices_of, pooled, read_matrices
from interp.relation.permutation import EXACT_BELOW, PERMUTATIONS, centred_cells
from interp.relation.tables import MAXT_COLUMNS, MRQAP_COLUMNS, RELATION_COLUMNS, ModelRelation
from interp.statistics import holm
from interp.transfer.measures import Measure
from interp.transfer.names import find_task

Given: TypeAlias = "Path | str | pd.DataFrame | TaskMatrix"
BY_DEFAULT = ("format", "options", "images", "marks")
"""Covariates that are adjusted for when none are named and all tasks are published ones."""


@dataclass(frozen=True, eq=False)
class Relation:
    """Similarities held against the transfer of one model or several.

    Attributes:
        models: one for each transfer matrix.
    """

    models: tuple[ModelRelation, ...]

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """relation, maxt, mrqap, leave_one_out, prediction, prediction_targets, variance, pairs."""
        predicted = [model.prediction() for model in self.models]
        tables = {
            "relation": _holm(_stacked([model.relation() for model in self.models]), ["family", "measure", "layer"]),
            "maxt": _holm(_stacked([model.maxt() for model in self.models]), ["kind", "scope"]),
            "mrqap": _holm(_stacked([model.mrqap() for model in self.models]), ["regression", "term"]),
            "leave_one_out": _stacked([model.leave_one_out() for model in self.models]),
            "prediction": _stacked([table for table, _ in predicted]),
            "prediction_targets": _stacked([table for _, table in predicted]),
            "variance": _stacked([model.variance() for model in self.models]),
            "pairs": _stacked([model.pairs() for model in self.models]),
        }
        columns = {"relation": RELATION_COLUMNS, "maxt": MAXT_COLUMNS, "mrqap": MRQAP_COLUMNS}
        return {name: table.reindex(columns=columns.get(name, table.columns)) for name, table in tables.items()}

    @property
    def remarks(self) -> list[str]:
        """What was left out or assumed."""
        several = len(self.models) > 1
        said = [f"{model.name}: {remark}" if several else remark for model in self.models for remark in model.remarks]
        return list(dict.fromkeys(said))

    @cached_property
    def sentences(self) -> dict[str, list[str]]:
        """Question -> its answer in sentences, in the order of the page."""
        from interp.relation.describe import answers

        return answers(self.tables)


def relate(
    similarities: Given | Sequence[Given] | Mapping[str, Given | Sequence[Given]],
    transfer: Given | Transfer | Mapping[str, Given | Transfer],
    *,
    covariates: Sequence[str | Path | pd.DataFrame] | None = None,
    without: Sequence[str] = (),
    measure: Measure = "pgf",
    form: str | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Relation:
    """Hold similarities of tasks against measured transfer.

    Args:
        similarities: tables of pandas or CSV files, long or square; by family ("task vectors", "updates", "other"), or
            else by measure; a family that is not named follows from the beginning of a measure's name.
        transfer: a table or file in any form that `alignment.read_transfer_matrix` reads; of several models by name.
        covariates: adjusted for: names of `covariates.BUILT_IN`, CSV files, tables. By default answer format, options,
            pictures and marks where all tasks are published ones, and words where a matrix folder says the wording.
        without: tasks to leave out.
        measure: what is made of accuracies.
        form: of a matrix folder: only targets asked in this form.
        permutations: from nine tasks on; below nine all are done.
        seed: of all randomness.

    Raises:
        CrosstaskError: anything is wrong with the input.
    """
    if permutations < PERMUTATIONS:
        raise CrosstaskError(f"{permutations} permutations were asked for; expected {PERMUTATIONS:,} or more.")
    given = gather(similarities)
    named = transfer if isinstance(transfer, Mapping) else {"": transfer}
    models = []
    for name, source in named.items():
        read = source if isinstance(source, Transfer) else _read(source, name, measure, form)
        mine = [matrix for matrix in given if matrix.model in ("", read.name)]
        models.append(_model(read, mine, covariates, without, permutations, seed))
    names = [model.name for model in models]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise CrosstaskError(f"Two transfer matrices are called {sorted(twice)[0]!r}; give each a name of its own.")
    lone = [matrix for matrix in given if matrix.model and matrix.model not in names]
    if lone:
        raise CrosstaskError(f"{lone[0].origin} is for the model {lone[0].model!r}; there are {', '.join(names)}.")
    return Relation(tuple(models))


def gather(similarities: Given | Sequence[Given] | Mapping[str, Given | Sequence[Given]]) -> list[TaskMatrix]:
    """Matrices with their families, each measure and layer once for each model.

    Raises:
        CrosstaskError: a file cannot be read, or holds a measure that another holds in the same family.
    """
    named = similarities if isinstance(similarities, Mapping) else {"": similarities}
    found: list[TaskMatrix] = []
    for name, group in named.items():
        items = [group] if isinstance(group, str | Path | pd.DataFrame | TaskMatrix) else list(group)
        for item in items:
            read = _matrices(item, name)
            found += [replace(matrix, family=name) for matrix in read] if name in FAMILIES else read
    return _told_apart(found)


def _matrices(item: Given, name: str) -> list[TaskMatrix]:
    if isinstance(item, TaskMatrix):
        return [item]
    if isinstance(item, pd.DataFrame):
        return matrices_of(item, name=name or "similarity")
    return read_matrices(item)


def _told_apart(matrices: Sequence[TaskMatrix]) -> list[TaskMatrix]:
    """Measures of one name from several families or files are called after these as well."""
    keys = [(matrix.model, matrix.measure, matrix.layer) for matrix in matrices]
    clash = {measure for (model, measure, layer) in keys if keys.count((model, measure, layer)) > 1}
    # a name is one measure in every family, for tables are by measure
    families: dict[str, set[str]] = {}
    for matrix in matrices:
        families.setdefault(matrix.measure, set()).add(matrix.family)
    clash |= {measure for measure, members in families.items() if len(members) > 1}
    found = [
        replace(m, measure=f"{m.family if len(families[m.measure]) > 1 else Path(m.origin).stem}: {m.measure}")
        if m.measure in clash
        else m
        for m in matrices
    ]
    seen: set[tuple[str, str, str]] = set()
    for matrix in found:
        key = (matrix.model, matrix.measure, matrix.layer)
        if key in seen:
            raise CrosstaskError(
                f"Measure {matrix.measure!r}, layer {matrix.layer}, is there twice ({matrix.origin}); expected once."
            )
        seen.add(key)
    return found


def _read(source: Given, name: str, measure: Measure, form: str | None) -> Transfer:
    if isinstance(source, TaskMatrix):
        return Transfer(name or source.measure, source.tasks, source.cells[None], source.labels, origin=source.origin)
    return read_transfer_matrix(source, name=name, measure=measure, form=form)


def _model(
    transfer: Transfer,
    given: Sequence[TaskMatrix],
    covariates: Sequence[str | Path | pd.DataFrame] | None,
    without: Sequence[str],
    permutations: int,
    seed: int,
) -> ModelRelation:
    matrices = [*given, *pooled(given)]
    tasks = align(transfer, matrices, without=without).tasks
    remarks = [
        f"{matrix.origin} gives one direction of each pair of {matrix.name}, which stands for both."
        for matrix in given
        if matrix.mirrored
    ]
    known = all(find_task(task) for task in tasks)
    usual = (*BY_DEFAULT, *(("words",) if transfer.wording else ())) if known else ()
    chosen = covariates if covariates is not None else usual
    wording = transfer.wording or "brief"
    extra = [covariate(c, tasks=tasks, steps=transfer.steps, norms=transfer.norms, wording=wording) for c in chosen]
    names = [matrix.measure for matrix in extra]
    if twice := [name for name in names if names.count(name) > 1]:
        raise CrosstaskError(f"Covariate {twice[0]!r} is given twice; expected once.")
    if "dose" in names and not transfer.steps:
        remarks.append("Dose is that of the published schedules, since the transfer matrix does not hold steps.")
    aligned = align(transfer, matrices, extra, without=without)
    keep = _varying(aligned.similarities), _varying(aligned.covariates)
    for every, kept in ((matrices, keep[0]), (extra, keep[1])):
        flat = [matrix.name for matrix, varies in zip(every, kept, strict=True) if not varies]
        if flat:
            listed = "; ".join(flat[:4]) + (f"; and {len(flat) - 4} more" if len(flat) > 4 else "")
            remarks.append(f"Left out, since row and column effects explain all of it: {listed}.")
    aligned = replace(aligned, similarities=aligned.similarities[keep[0]], covariates=aligned.covariates[keep[1]])
    if given and not keep[0].any():
        raise CrosstaskError(
            f"No similarity of {transfer.name} varies beyond row and column effects; expected one that does."
        )
    if len(aligned.tasks) < EXACT_BELOW:
        remarks.append(f"All permutations of the {len(aligned.tasks)} tasks are done.")
    return ModelRelation(
        transfer,
        aligned,
        tuple(matrix for matrix, varies in zip(matrices, keep[0], strict=True) if varies),
        tuple(matrix for matrix, varies in zip(extra, keep[1], strict=True) if varies),
        (*aligned.remarks, *remarks),
        permutations,
        seed,
    )


def _varying(matrices: np.ndarray) -> np.ndarray:
    """Whether anything is left of each matrix."""
    return ~np.isnan(centred_cells(matrices)).any(1) if len(matrices) else np.zeros(0, bool)


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    whole = [table for table in tables if len(table)]
    return pd.concat(whole, ignore_index=True) if whole else tables[0]


def _holm(table: pd.DataFrame, same: Sequence[str]) -> pd.DataFrame:
    """p over models of the same test, by Holm."""
    table = table.assign(p_holm=np.nan)
    for _, rows in table.groupby([table[column] for column in same], sort=False):
        known = rows.index[rows["p"].notna()]
        table.loc[known, "p_holm"] = holm(rows.loc[known, "p"].tolist())
    return table
