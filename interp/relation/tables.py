"""The tables of one model's transfer matrix: correlations, regressions, leave-one-out, prediction, variance, pairs.

A measure of several layers has a summary row besides: that of the whole model if it was given ("all"), else the mean
over its layers ("pooled"). No layer was chosen for it. It is that one which predicts and which is drawn; the rows of
single layers are corrected by max-T.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.relation.alignment import Aligned, Transfer
from interp.relation.mantel import is_symmetric, symmetric_part
from interp.relation.matrices import ALL_LAYERS, FAMILIES, POOLED, TaskMatrix
from interp.relation.permutation import PERMUTATIONS, Tested, qap
from interp.relation.prediction import BASELINE, LOGME, SIMILARITY, Predictor, baselines, prediction_tables, ridge
from interp.relation.regression import COVARIATES_ALONE, covariate_terms, similarity_terms
from interp.relation.robustness import Structure, jackknife_interval, leave_one_out, noise_ceiling, structure_test
from interp.transfer.variance import reciprocity, reliability, residual, symmetric_ceiling, variance_shares

COVARIATE = "covariate"
"""Family of covariates in the table of correlations."""
FORMAT = "format"


@dataclass(frozen=True, eq=False)
class ModelRelation:
    """One transfer matrix with everything that is held against it.

    Attributes:
        transfer: as it was read.
        aligned: everything about the common tasks.
        matrices: what the aligned similarities are, in their order.
        covariates: what the aligned covariates are.
        remarks: what was left out or assumed, in sentences.
        permutations: of every test, from nine tasks on.
        seed: of all randomness.
    """

    transfer: Transfer
    aligned: Aligned
    matrices: tuple[TaskMatrix, ...]
    covariates: tuple[TaskMatrix, ...]
    remarks: tuple[str, ...]
    permutations: int = PERMUTATIONS
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the model."""
        return self.transfer.name

    @cached_property
    def summaries(self) -> tuple[int, ...]:
        """The one matrix of each measure that no choice of a layer stands behind: all, else pooled, else the first."""
        order = {ALL_LAYERS: 0, POOLED: 1}
        best: dict[str, int] = {}
        for index, matrix in enumerate(self.matrices):
            held = best.get(matrix.measure)
            if held is None or order.get(matrix.layer, 2) < order.get(self.matrices[held].layer, 2):
                best[matrix.measure] = index
        return tuple(best.values())

    @cached_property
    def structure(self) -> Structure:
        """Whether runs agree beyond row and column effects."""
        return structure_test(self.aligned.runs, **self._given)

    @cached_property
    def ceiling(self) -> float:
        """What noise allows any predictor to correlate."""
        return noise_ceiling(self.aligned.runs)

    @property
    def _given(self) -> dict[str, Any]:
        return {"count": self.permutations, "seed": self.seed}

    # Correlations

    def relation(self) -> pd.DataFrame:
        """Every similarity and every covariate with transfer."""
        families = [matrix.family for matrix in self.matrices]
        parts = [self._correlations(self.aligned.similarities, self.matrices, families)]
        if self.covariates:
            kinds = [COVARIATE] * len(self.covariates)
            parts.append(self._correlations(self.aligned.covariates, self.covariates, kinds))
        table = (
            pd.concat([part for part in parts if len(part)], ignore_index=True) if any(map(len, parts)) else parts[0]
        )
        return self._of_model(table)

    def _correlations(
        self, values: Float[np.ndarray, "N K K"], matrices: Sequence[TaskMatrix], families: Sequence[str]
    ) -> pd.DataFrame:
        if not len(values):
            return pd.DataFrame(columns=RELATION_COLUMNS[1:-1])
        transfer = self.aligned.transfer
        tested = qap(values, transfer, groups=families, **self._given)
        raw = qap(values, transfer, centre=False, **self._given)
        left_out = leave_one_out(values, transfer)
        low, high = jackknife_interval(tested.r, left_out)
        symmetric = np.array([is_symmetric(matrix) for matrix in values])
        pairs = qap(values, symmetric_part(transfer), **self._given)
        upper = symmetric_ceiling(transfer)
        single = families[0] == COVARIATE
        return pd.DataFrame(
            {
                "family": families,
                "measure": [matrix.measure for matrix in matrices],
                "layer": [matrix.layer for matrix in matrices],
                "summary": [True if single else index in self.summaries for index in range(len(matrices))],
                "tasks": len(self.aligned.tasks),
                "r": tested.r, "low": low, "high": high,
                "leave_one_out_low": left_out.min(0), "leave_one_out_high": left_out.max(0),
                "p": tested.p, "p_family": tested.p_group, "p_maxt": tested.p_largest,
                "null": tested.null, "null_maxt": tested.null_largest,
                "r_raw": raw.r, "p_raw": raw.p,
                "symmetric": symmetric,
                "mantel_r": np.where(symmetric, pairs.r, np.nan), "mantel_p": np.where(symmetric, pairs.p, np.nan),
                "ceiling": self.ceiling, "r_over_ceiling": tested.r / self.ceiling,
                "symmetric_ceiling": np.where(symmetric, upper, np.nan),
                "r_over_symmetric": np.where(symmetric, tested.r / upper, np.nan),
                "permutations": tested.permutations, "exact": tested.exact,
            }
        )  # fmt: skip

    def maxt(self) -> pd.DataFrame:
        """The largest correlation of all, of each family and of each measure, against the largest under the null."""
        if not self.matrices:
            return pd.DataFrame(columns=MAXT_COLUMNS)
        kinds: dict[str, Callable[[TaskMatrix], str]] = {
            "all": lambda _: "all similarities",
            "family": lambda matrix: matrix.family,
            "measure": lambda matrix: matrix.measure,
        }
        rows = []
        for kind, label in kinds.items():
            groups = [label(matrix) for matrix in self.matrices]
            tested = qap(self.aligned.similarities, self.aligned.transfer, groups=groups, **self._given)
            for group in dict.fromkeys(groups):
                members = [index for index, other in enumerate(groups) if other == group]
                if kind == "family" and len(members) == len(groups):
                    continue  # the same as all
                rows.append({"kind": kind, "scope": group} | self._largest(members, tested))
        return self._of_model(pd.DataFrame(rows))

    def _largest(self, members: Sequence[int], tested: Tested) -> dict[str, object]:
        best = max(members, key=lambda index: abs(np.nan_to_num(tested.r[index])))
        return {
            "matrices": len(members),
            "measure": self.matrices[best].measure,
            "layer": self.matrices[best].layer,
            "r": tested.r[best],
            "null": tested.null_group[best],
            "p": tested.p_group[best],
        }

    def leave_one_out(self) -> pd.DataFrame:
        """Every correlation without each task."""
        columns = ["model", "family", "measure", "layer", "left_out", "r"]
        every = [*self.matrices, *self.covariates]
        if not every:
            return pd.DataFrame(columns=columns)
        found = leave_one_out(
            np.concatenate([self.aligned.similarities, self.aligned.covariates]), self.aligned.transfer
        )
        rows = [
            {"family": matrix.family if n < len(self.matrices) else COVARIATE, "measure": matrix.measure}
            | {"layer": matrix.layer, "left_out": task, "r": found[k, n]}
            for n, matrix in enumerate(every)
            for k, task in enumerate(self.labels)
        ]
        return self._of_model(pd.DataFrame(rows))

    # Regressions

    def mrqap(self) -> pd.DataFrame:
        """Similarities beside covariates, and covariates beside each other and beside each measure's summary."""
        if not self.covariates:
            return pd.DataFrame(columns=MRQAP_COLUMNS)
        z, transfer = self.aligned.covariates, self.aligned.transfer
        names = [matrix.measure for matrix in self.covariates]
        alone = covariate_terms(z, transfer, names=names, **self._given)
        parts = [alone.assign(regression=COVARIATES_ALONE, role="covariate", layer="")]
        if self.matrices:
            table, _ = similarity_terms(self.aligned.similarities, transfer, z, **self._given)
            table = table.assign(
                regression=[matrix.name for matrix in self.matrices],
                term=[matrix.measure for matrix in self.matrices],
                layer=[matrix.layer for matrix in self.matrices],
                role="similarity",
            )
            parts.append(table)
        for index in self.summaries:
            beside = self.aligned.similarities[index]
            table = covariate_terms(z, transfer, names=names, beside=beside, **self._given)
            matrix = self.matrices[index]
            parts.append(table.assign(regression=matrix.name, role="covariate", layer=matrix.layer))
        return self._of_model(pd.concat(parts, ignore_index=True)).reindex(columns=MRQAP_COLUMNS[:-1])

    # Prediction

    @cached_property
    def predictors(self) -> tuple[Predictor, ...]:
        """Baselines, the summary of each measure, and combinations."""
        transfer = self.aligned.transfer
        named = {matrix.measure: self.aligned.covariates[n] for n, matrix in enumerate(self.covariates)}
        found = baselines(transfer, named.get(FORMAT))
        summaries = [(self.matrices[index], self.aligned.similarities[index]) for index in self.summaries]
        known = [(matrix, values) for matrix, values in summaries if matrix.measure.lower().startswith(LOGME)]
        found += [Predictor(matrix.measure, BASELINE, values, (matrix.measure,)) for matrix, values in known]
        others = [(matrix, values) for matrix, values in summaries if not matrix.measure.lower().startswith(LOGME)]
        chosen = {matrix.measure: values for matrix, values in others}
        found += [Predictor(measure, SIMILARITY, values, (measure,)) for measure, values in chosen.items()]
        for family in FAMILIES:
            part = {matrix.measure: values for matrix, values in others if matrix.family == family}
            if 1 < len(part) < len(chosen):
                found.append(ridge(part, transfer, name=f"ridge: {family}"))
        if len(chosen) > 1:
            found.append(ridge(chosen, transfer, name="ridge: all similarities"))
        if chosen:
            found.append(ridge(chosen, transfer, name="ridge: similarities and source mean", with_source_mean=True))
        if named:
            found.append(ridge(named, transfer, name="ridge: covariates"))
        if named and chosen:
            every = {**chosen, **{f"{name} (covariate)": values for name, values in named.items()}}
            found.append(ridge(every, transfer, name="ridge: everything", with_source_mean=True))
        return tuple(found)

    def prediction(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """How well sources are ranked, and the same for each target."""
        tables = prediction_tables(self.predictors, self.aligned.runs, tasks=self.labels, seed=self.seed)
        return self._of_model(tables[0]), self._of_model(tables[1])

    # The matrix itself

    def variance(self) -> pd.DataFrame:
        """Shares of the variance, and what can be had of it."""
        runs, transfer = self.aligned.runs, self.aligned.transfer
        halves, stepped = reliability(runs)
        more: list[tuple[str, Any, str]] = [
            ("reciprocity", reciprocity(transfer), "correlation of the two directions of a pair"),
            ("residual_reciprocity", reciprocity(residual(transfer)), "the same of what sources and targets leave"),
            ("split_half", halves, "correlation of what they leave in two halves of the runs"),
            ("reliability", stepped, "the same stepped up to all runs (Spearman-Brown)"),
            ("noise_ceiling", self.ceiling, "most that any predictor can correlate with it: the root of reliability"),
            ("symmetric_ceiling", symmetric_ceiling(transfer), "most that a similarity without direction can"),
            ("structure", self.structure.r, "mean correlation of what they leave between two runs"),
            ("structure_null", self.structure.null, "95th percentile of it with the tasks of each run permuted"),
            ("structure_p", self.structure.p, "p of it"),
        ]
        rows = [{"part": part, "share": float(value), "chance": np.nan, "meaning": said} for part, value, said in more]
        return self._of_model(pd.concat([variance_shares(runs), pd.DataFrame(rows)], ignore_index=True))

    def pairs(self) -> pd.DataFrame:
        """Every pair of tasks in every matrix that is drawn: its value, and what row and column effects leave of it."""
        drawn: list[tuple[str, str, Float[np.ndarray, "K K"]]] = [("transfer", "transfer", self.aligned.transfer)]
        runs = self.aligned.runs
        if len(runs) > 1:
            half = len(runs) // 2
            drawn += [("half", "first half of the runs", runs[:half].mean(0))]
            drawn += [("half", "second half of the runs", runs[half:].mean(0))]
        for index in self.summaries:
            matrix = self.matrices[index]
            drawn.append((matrix.family, matrix.measure, self.aligned.similarities[index]))
        drawn += [(COVARIATE, m.measure, self.aligned.covariates[n]) for n, m in enumerate(self.covariates)]
        drawn += [("prediction", predictor.name, predictor.scores) for predictor in self.predictors]
        short = self.aligned.short
        rows = [
            {"kind": kind, "matrix": name, "source": source, "target": target}
            | {"value": values[i, j], "left": left[i, j]}
            for kind, name, values in drawn
            for left in [residual(values)]
            for i, source in enumerate(short)
            for j, target in enumerate(short)
            if i != j
        ]
        return self._of_model(pd.DataFrame(rows))

    @property
    def labels(self) -> tuple[str, ...]:
        """Tasks as the transfer matrix spells them."""
        return tuple(self.transfer.labels.get(task, task) for task in self.aligned.tasks)

    def _of_model(self, table: pd.DataFrame) -> pd.DataFrame:
        table.insert(0, "model", self.name)
        return table


RELATION_COLUMNS = [
    "model", "family", "measure", "layer", "summary", "tasks", "r", "low", "high", "leave_one_out_low",
    "leave_one_out_high", "p", "p_family", "p_maxt", "null", "null_maxt", "r_raw", "p_raw", "symmetric", "mantel_r",
    "mantel_p", "ceiling", "r_over_ceiling", "symmetric_ceiling", "r_over_symmetric", "permutations", "exact", "p_holm",
]  # fmt: skip
MAXT_COLUMNS = ["model", "kind", "scope", "matrices", "measure", "layer", "r", "null", "p", "p_holm"]
MRQAP_COLUMNS = [
    "model", "regression", "role", "term", "layer", "coefficient", "partial_r", "t", "degrees", "share", "added", "p",
    "p_maxt", "p_holm",
]  # fmt: skip
NOTES: Mapping[str, str] = {
    "relation": "r: correlation of what row and column effects leave of both, over ordered pairs. low and high: "
    "jackknife over tasks, 95 %. p: two-sided, tasks permuted; p_family and p_maxt hold for the best of the family and "
    "of all; p_holm is p over models. null: 95th percentile of |r| under the null. r_raw, p_raw: without removing row "
    "and column effects. mantel: over unordered pairs, for similarities without direction.",
    "maxt": "The largest |r| of each scope against the largest under the null in the same scope.",
    "mrqap": "Regressions of transfer on similarity and covariates, row and column effects removed. Standardised "
    "coefficients; share: of what row and column effects leave, by the whole regression; added: by the term. p: double "
    "semi-partialling.",
    "prediction": "Means over targets, with intervals that resample targets. random: the value of a random order. "
    "regret: how much less the best of the first three sources gives than the best of all; less is better.",
    "variance": "Shares of the variance off the diagonal, beside those of unstructured noise; then what can be had.",
}
