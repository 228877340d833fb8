"""Synthetic tables of the cross-modal experiment, in the columns that the protocol writes."""

import itertools

import numpy as np
import pandas as pd

MODEL, LLM = "bundled", "bundled-llm"
TASKS = ["country-capital", "country-currency", "animal-latin", "animal-young", "food-color", "food-flavor"]
ARMS = [
    (MODEL, "text"),
    (MODEL, "image"),
    (MODEL, "instruction"),
    (MODEL, "ensemble"),
    (LLM, "text"),
    (LLM, "instruction"),
]
QUERIES = ["image", "text"]


def sweep(*, layers: int = 30, n: int = 10) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for (model, source), task, query, layer in itertools.product(ARMS, TASKS, QUERIES, range(layers)):
        height = 0.7 * np.exp(-(((layer - 22) / 4) ** 2)) * (0.5 if query == "image" else 1.0)
        correct = rng.binomial(n, height)
        rows.append((MODEL, model, task, source, query, 0, layer, n, correct, correct / n))
    columns = ["model", "source_model", "task", "source", "query", "seed", "layer", "n", "correct", "exact"]
    return pd.DataFrame(rows, columns=columns)


def layers() -> pd.DataFrame:
    rows = [
        (MODEL, model, source, query, task, 22, 0.5)
        for (model, source), query, task in itertools.product(ARMS, QUERIES, ["all", *TASKS])
    ]
    return pd.DataFrame(rows, columns=["model", "source_model", "source", "query", "task", "layer", "exact"])


def arms() -> list[tuple[str, str, str, str]]:
    """(method, source model, source, layer choice) of every arm."""
    found = [("no_context", "", "", ""), ("majority", "", "", "")]
    found += [("prompt", "", source, "") for source in ("text", "image", "instruction", "ensemble")]
    for model, source in ARMS:
        for choice in ("pooled", "task"):
            found.append(("patch_single", model, source, choice))
            if source != "instruction":
                found.append(("patch_mean", model, source, choice))
        found += [("control_random", model, source, "pooled"), ("control_wrong_task", model, source, "pooled")]
        if source in ("text", "image"):
            found.append(("control_shuffled", model, source, "pooled"))
    return found


def predictions(*, items: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for arm, task, query, item in itertools.product(arms(), TASKS, QUERIES, range(items)):
        good = arm[0].startswith("patch") or arm[0] == "prompt"
        exact = bool(rng.random() < (0.5 if good else 0.05))
        layer = 22 if arm[3] else None
        shots = 5 if good and arm[2] != "instruction" else 0
        where = (MODEL, task.split("-")[0], task, query, 0)
        answer = ("right" if exact else "wrong <b>", ["right"], exact, exact, exact)
        rows.append((*where, *arm, layer, shots, "", f"item {item}", *answer))
    columns = ["model", "family", "task", "query", "seed", "method", "source_model", "source", "layer_choice", "layer"]
    columns += ["demonstrations", "budget", "item", "answer", "accepted", "exact", "first_token", "prefix"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})
