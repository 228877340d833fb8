"""All stages of making the perception model, each skipped when its result lies in the folder, and the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from interp.files import atomic_file
from interp.models.base import Model
from interp.models.bundled.build import same_recipe
from interp.models.bundled.load import MANIFEST
from interp.models.families import family_for
from interp.models.perception.assemble import IMAGE_SIZE, assemble
from interp.models.perception.heads import words_of
from interp.models.perception.load import load_perception_vlm, save_weights, with_stem
from interp.models.perception.optimise import Course, Log
from interp.models.perception.scaffold import Marker
from interp.models.perception.shards import draw_shards, load_shard, plans, watched_plans
from interp.models.perception.train_decoder import see, train_decoder
from interp.models.perception.train_tower import train_tower
from interp.statistics import wilson
from interp.tasks.perception.registry import perception_tasks

NAME = "perception"
CARD_DIFFICULTIES = (0.0, 0.5, 1.0)
WATCHED = 200
"""Selection items of each task that trainings are measured on as they go."""


def drawing_model() -> Model:
    """The untrained model, whose stem and tokenizer the drawn items pass through."""
    torch.manual_seed(0)
    module, processor, _, base_sha256 = assemble()
    with_stem(module).to(memory_format=torch.channels_last)
    module.model.vision_tower.embeddings.bfloat16()
    return Model(NAME, module, processor.tokenizer, processor, family_for(module.config), base_sha256)


def build(folder: Path, *, recipe: dict[str, Any], processes: int, log: Log) -> Path:
    """Run every stage that is not done; returns the folder of finished weights.

    Args:
        folder: of shards, checkpoint and weights.
        recipe: seed, items, other_items, tower_items, easiest, hardest, tower_steps, decoder_steps, batch,
            parts, decoder_stop, tower_peak, decoder_peak, fact_weight.
        processes: how many draw at a time.
        log: called with one dict for each thing done.

    Raises:
        CrosstaskError: the folder was begun with another recipe, or a package cannot be had.
    """
    same_recipe(folder, recipe)
    weights = folder / "weights"
    if (weights / MANIFEST).exists():
        return weights
    difficulties = (recipe["easiest"], recipe["hardest"])
    wanted = plans(recipe["items"], others=recipe["other_items"], difficulties=difficulties)
    others = watched_plans(WATCHED, difficulties=difficulties)
    draw_shards(folder / "shards", [*others, *wanted], drawing_model, processes=processes, log=log)
    shards, watched = ([load_shard(folder / "shards", plan) for plan in some] for some in (wanted, others))
    torch.manual_seed(recipe["seed"])
    model, processor, directions, base_sha256 = assemble()
    how = {"folder": folder, "log": log, "batch": recipe["batch"]}
    words = words_of(processor.tokenizer, model.get_input_embeddings().weight)
    course = Course(recipe["tower_steps"], recipe["tower_peak"], recipe["seed"])
    first = [shard for shard in shards if shard.plan.start < recipe["tower_items"]]
    train_tower(with_stem(model), first, course, words=words, watched=watched, **how)
    marker = Marker(processor.tokenizer, model.config.image_token_id)
    seen, watched_seen = (see(model, some, marker, kept=folder / "seen") for some in (shards, watched))
    course = Course(recipe["decoder_steps"], recipe["decoder_peak"], recipe["seed"], recipe["decoder_stop"])
    train_decoder(
        model, seen, course, parts=recipe["parts"], fact_weight=recipe["fact_weight"], watched=watched_seen, **how
    )
    save_weights(weights, model, directions, base_sha256=base_sha256)
    return weights


def measure(weights: Path, *, items: int, log: Log) -> pd.DataFrame:
    """Forced choice on selection items of every task and form.

    Returns:
        Columns task, form, difficulty, n, accuracy, low, high (Wilson 95 %), chance.
    """
    from interp.tuning.evaluation.evaluate import evaluate

    module, processor, fingerprint = load_perception_vlm(weights)
    model = Model(NAME, module, processor.tokenizer, processor, family_for(module.config), fingerprint)
    rows = []
    for name, task in perception_tasks().items():
        for form, options in task.forms.items():
            for difficulty in CARD_DIFFICULTIES:
                shown = task.items("selection", items, form=form, difficulty=difficulty, size=IMAGE_SIZE)
                ((_, records),) = evaluate(model, shown, {NAME: None})
                right = sum(bool(record.correct) for record in records)
                interval = wilson(right, items)
                row = {"task": name, "form": form, "difficulty": difficulty, "n": items, "accuracy": right / items}
                rows.append({**row, "low": interval.low, "high": interval.high, "chance": 1 / options})
                log({"stage": "card", **rows[-1]})
    return pd.DataFrame(rows)


def write_card(weights: Path, table: pd.DataFrame, *, recipe: dict[str, Any]) -> None:
    """Write `README.md` (the model card) and `card.csv` beside the weights."""
    with atomic_file(weights / "card.csv") as draft:
        table.round(4).to_csv(draft, index=False)
    with atomic_file(weights / "README.md") as draft:
        draft.write_text(_card(table, recipe), encoding="utf-8")


def _card(table: pd.DataFrame, recipe: dict[str, Any]) -> str:
    cells = table.assign(
        shown=[f"{r.accuracy:.2f} ({r.low:.2f} to {r.high:.2f})" for r in table.itertuples()],
        chance=[f"{r.chance:.2f}" for r in table.itertuples()],
    )
    wide = cells.pivot_table(index=["task", "form", "chance"], columns="difficulty", values="shown", aggfunc="first")
    lines = [
        "| task | form | chance | " + " | ".join(f"difficulty {d:g}" for d in wide.columns) + " |",
        "|" + "---|" * (3 + len(wide.columns)),
        *("| " + " | ".join([*key, *row]) + " |" for key, row in zip(wide.index, wide.to_numpy(), strict=True)),
    ]
    return f"""---
license: apache-2.0
pipeline_tag: image-text-to-text
---
# crosstask perception model

A LLaVA (`LlavaForConditionalGeneration`) for experiments on perception tasks: a vision transformer on
EfficientNet-lite0 at three resolutions ({IMAGE_SIZE} pixels, 25 tokens an image), a two-layer projector, and a decoder
of six blocks that was trained from scratch on SmolLM2's projected embeddings. It answers short questions about drawn
pictures with a letter, and is no language model. It is an instrument for interpretability research and nothing else; it
must not be used to decide anything.

## What it sees
Forced choice over all cyclic shifts of the options, {int(table.n.iloc[0])} selection items a cell, Wilson 95 %
intervals. Content (shapes, palettes, textures, species, ...) is other than that of training.

{chr(10).join(lines)}

## Training
`python -m experiments.build_perception_vlm` with {", ".join(f"{k} {v}" for k, v in recipe.items())}: items of the
`build` split of the thirteen tasks in both forms, and the truths of their drawings. No study trains, chooses or tests
on that split.

## Data
Everything is drawn by `interp/tasks/perception/`. Weights: EfficientNet-lite0 (ImageNet, Apache-2.0) and the token
embeddings of SmolLM2-135M-Instruct (Apache-2.0).
"""
