"""Load the bundled vision-language model from the weights that ship with the package.

The folder ``weights/`` holds, in float16: the tower, the projector, and the language model's update as a PEFT LoRA
adapter, which is merged into SmolLM2 here. `manifest.json` has each file's sha256 and the base model's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from interp.errors import CrosstaskError
from interp.files import sha256_of
from interp.models.bundled.assemble import assemble

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

PARTS = {"tower.safetensors": "vision_tower", "projector.safetensors": "multi_modal_projector"}
ADAPTER = "adapter"
MANIFEST = "manifest.json"


def weights_folder() -> Path:
    """The folder of the package that holds the shipped weights."""
    return Path(str(resources.files("interp.models.bundled").joinpath("weights")))


def save_weights(folder: Path, model: LlavaForConditionalGeneration, adapted: PeftModel, *, base_sha256: str) -> None:
    """Write tower, projector and adapter in float16, and the manifest.

    Args:
        folder: Where to; created when missing.
        model: The assembled model with trained tower and projector.
        adapted: The PEFT wrapper that holds the LoRA.
        base_sha256: The sha256 of the base language model's weights that the adapter was trained on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file, part in PARTS.items():
        state = {k: v.detach().half().contiguous() for k, v in getattr(model.model, part).state_dict().items()}
        save_file(state, folder / file)
    adapted.save_pretrained(str(folder / ADAPTER), save_embedding_layers=False)
    adapter = folder / ADAPTER / "adapter_model.safetensors"
    save_file({k: v.half().contiguous() for k, v in load_file(adapter).items()}, adapter)
    (folder / ADAPTER / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours describes the whole model
    files = [*PARTS, f"{ADAPTER}/adapter_config.json", f"{ADAPTER}/adapter_model.safetensors"]
    manifest = {"base_sha256": base_sha256, "files": {name: sha256_of(folder / name) for name in files}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def load_bundled_vlm(
    folder: Path | None = None, *, merge: bool = True
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor, str]:
    """The bundled VLM in float32 and evaluation mode, its processor, and a fingerprint of all its weights.

    Args:
        folder: Weights to load; None takes the ones that ship.
        merge: Merge the language model's update. False leaves the base language model in place, which is useful to
            see what the update does.

    Raises:
        CrosstaskError: If a file is missing or differs from the manifest, or the update is empty.
    """
    folder = folder or weights_folder()
    manifest = checked_manifest(folder, "the bundled model", "build_bundled_vlm")
    model, processor, base_sha256 = assemble()
    if base_sha256 != manifest["base_sha256"]:
        raise CrosstaskError(
            f"the cached base language model has sha256 {base_sha256[:12]}..., but the VLM's update was trained on "
            f"{manifest['base_sha256'][:12]}...: delete the crosstask cache folder, so that it is made anew"
        )
    for file, part in PARTS.items():
        state = {k: v.float() for k, v in load_file(folder / file).items()}
        getattr(model.model, part).load_state_dict(state)
    if merge:
        model = _merged(model, folder / ADAPTER)
    model.requires_grad_(False)
    fingerprint = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return model.eval(), processor, fingerprint


def checked_manifest(folder: Path, what: str, made_by: str) -> dict:
    """The manifest of a folder of weights, once every file of it has the sha256 that it names.

    Args:
        folder: the weights.
        what: whose, for messages.
        made_by: the experiment that makes them.

    Raises:
        CrosstaskError: there is no manifest, or a file is missing or differs.
    """
    if not (folder / MANIFEST).is_file():
        raise CrosstaskError(
            f"{what}'s weights are not in {folder}: reinstall crosstask, or make them with "
            f"`python -m experiments.{made_by}`"
        )
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != expected:
            raise CrosstaskError(
                f"{folder / name} is missing or damaged (its sha256 is not {expected[:12]}...): reinstall crosstask"
            )
    return manifest


@contextmanager
def _unsaid(package: str) -> Iterator[None]:
    """Leaves out what a package logs below errors."""
    logger = logging.getLogger(package)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _merged(model: LlavaForConditionalGeneration, adapter: Path) -> LlavaForConditionalGeneration:
    with _unsaid("bitsandbytes"):  # which PEFT imports, and which speaks of kernels that only quantised weights need
        from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # PEFT asks for it
        adapted = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
    ups = [p for n, p in adapted.named_parameters() if "lora_B" in n]
    if not ups or not any(torch.count_nonzero(p) for p in ups):
        raise CrosstaskError(
            f"the adapter in {adapter} changes nothing: all of its B matrices are zero or matched no module"
        )
    return adapted.float().merge_and_unload()
