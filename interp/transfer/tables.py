"""What a measured transfer matrix looks like on disk. This file is the one place of the schema.

Our own matrix is a folder with two tables (written by `python -m experiments.transfer_matrix`):

    cells.csv                         a row for each source, seed, training fraction, target and form
        model           name of the model
        source          the task trained on; "baseline" is the model before any training
        seed            of the training run; the baseline may have rows of one seed alone, or of every seed
        fraction        share of the training that the source has had, 0 to 1; 1 is all of it; the baseline's is ignored
        target          the task tested on
        form            how the target was asked (pictures, marks, words, yes_no, blink, ...)
        n               items
        accuracy        share of right answers, 0 to 1
        mean_log_p      mean over items of log p(key) (natural logarithm)
        brier           mean over items of the Brier score, sum over options of (p - 1[key])^2
        constant_letter the letter that more than 90 % of the predictions are, or empty
        equals_key_count letters, joined by +, whose number of keys is the number of right answers, or empty
        dose_steps      optimiser steps of the source; may be empty
        update_norm     Frobenius norm of the source's weight change; may be empty
    items.csv.gz or items.parquet     a row for each item of each cell
        source, seed, fraction, target, form    as above
        item            name of the item, the same under every source
        key             the right letter
        prediction      the predicted letter
        correct         1 or 0 (true and false are read as well)
        log_p_key       log p(key)
        brier           of this item
        rule            what found the prediction in a generated answer; empty for forced choice

Two forms of one CSV are read as well, see `interp.transfer.reading`: published Perfection Gap Factors
(`seed,ft_task,task,perfection_gap_factor`) and accuracies with baselines (`seed,ft_task,task,accuracy`).
"""

from __future__ import annotations

CELLS_FILE = "cells.csv"
ITEMS_FILES = ("items.parquet", "items.csv.gz", "items.csv")
CELL_COLUMNS = (
    "model", "source", "seed", "fraction", "target", "form", "n", "accuracy", "mean_log_p", "brier",
    "constant_letter", "equals_key_count", "dose_steps", "update_norm",
)  # fmt: skip
ITEM_COLUMNS = (
    "source", "seed", "fraction", "target", "form", "item", "key", "prediction", "correct", "log_p_key", "brier", "rule",
)  # fmt: skip
CONSTANT_SHARE = 0.9
"""A cell answers with a constant letter if more than this share of its predictions is that letter."""

PGF_COLUMNS = ("seed", "ft_task", "task", "perfection_gap_factor")
"""The published long form. A column `fraction` may follow."""
ACCURACY_COLUMNS = ("seed", "ft_task", "task", "accuracy")
"""Accuracies; rows whose ft_task is "baseline" or empty are the frozen model. Columns `n` and `fraction` may follow."""
