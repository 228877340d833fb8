"""Save and load the perception model's weights.

A folder of weights holds, in float16, what was trained: the tower without its stem, the projector, and the decoder's
blocks with the projection of SmolLM2's embeddings. The stem (ImageNet) and the embeddings come from their packages.
`manifest.json` has each file's sha256 and those of the packages' weights.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from interp.errors import CrosstaskError
from interp.files import atomic_file, sha256_of
from interp.models.bundled.build import EFFICIENTNET, imagenet_weights
from interp.models.bundled.load import MANIFEST, checked_manifest
from interp.models.bundled.tower import load_blocks
from interp.models.perception.assemble import assemble

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

TOWER, PROJECTOR, DECODER = "tower.safetensors", "projector.safetensors", "decoder.safetensors"
STEM = ("embeddings.stem.", "embeddings.blocks.")
DIRECTIONS = "directions"
WEIGHTS = Path(__file__).parent / "weights"
"""Of the model that comes with the package."""


def with_stem(model: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """The model with the ImageNet weights in its stem."""
    load_blocks(model.model.vision_tower.embeddings, imagenet_weights())
    return model


def save_weights(
    folder: Path, model: LlavaForConditionalGeneration, directions: torch.Tensor, *, base_sha256: str
) -> None:
    """Write what was trained, and the manifest.

    Args:
        folder: where to; created when missing.
        model: the trained model.
        directions: the projection of SmolLM2's embeddings that it was assembled with.
        base_sha256: of SmolLM2's weights.
    """
    llava = model.model
    tower = {name: t for name, t in llava.vision_tower.state_dict().items() if not name.startswith(STEM)}
    decoder = {name: t for name, t in llava.language_model.state_dict().items() if not name.startswith("embed_tokens")}
    parts = {
        TOWER: tower,
        PROJECTOR: llava.multi_modal_projector.state_dict(),
        DECODER: {**decoder, DIRECTIONS: directions},
    }
    for file, state in parts.items():
        with atomic_file(folder / file) as draft:
            save_file({name: t.detach().half().contiguous() for name, t in state.items()}, draft)
    manifest = {
        "base_sha256": base_sha256,
        "stem": {"package": "==".join(EFFICIENTNET[:2]), "sha256": EFFICIENTNET[2]},
        "files": {file: sha256_of(folder / file) for file in parts},
    }
    with atomic_file(folder / MANIFEST) as draft:
        draft.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def load_perception_vlm(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor, str]:
    """The perception model in float32 and evaluation mode, its processor, and a fingerprint of all its weights.

    Args:
        folder: of weights that were saved.

    Raises:
        CrosstaskError: a file is missing or differs from the manifest, or SmolLM2's weights are others.
    """
    manifest = checked_manifest(folder, "the perception model", "build_perception_vlm")
    states = {file: {n: t.float() for n, t in load_file(folder / file).items()} for file in manifest["files"]}
    directions = states[DECODER].pop(DIRECTIONS)
    model, processor, _, base_sha256 = assemble(directions)
    if base_sha256 != manifest["base_sha256"]:
        raise CrosstaskError(
            f"the cached SmolLM2 has sha256 {base_sha256[:12]}..., but the perception model was trained on the "
            f"embeddings of {manifest['base_sha256'][:12]}...: delete the crosstask cache folder, so that it is made "
            "anew"
        )
    with_stem(model)
    parts = {
        TOWER: model.model.vision_tower,
        PROJECTOR: model.model.multi_modal_projector,
        DECODER: model.model.language_model,
    }
    for file, part in parts.items():
        report = part.load_state_dict(states[file], strict=False)
        lacking = [n for n in report.missing_keys if not n.startswith((*STEM, "embed_tokens"))]
        if lacking or report.unexpected_keys:
            raise CrosstaskError(f"{folder / file} does not fit the model: {(lacking + report.unexpected_keys)[0]}")
    model.requires_grad_(False)
    fingerprint = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return model.eval(), processor, fingerprint
