"""LoRA adapters in peft's format, from anywhere: dW = (alpha / r) B A, or (alpha / sqrt(r)) B A of rsLoRA.

The rank of a weight is that of its own factors, and its alpha what `alpha_pattern` says, so that adapters of different
ranks, alphas and target modules stand side by side. What is not of that form is refused, with the reason.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import CrosstaskError
from interp.updates.deltas import LowRank
from interp.updates.places import Place, places
from interp.updates.update import Name, TensorFile, Update

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

_FACTOR = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?$")
_REFUSED = {
    "use_dora": "DoRA rescales each column of W + BA by a learnt magnitude, so its update depends on W and is no BA",
    "lora_bias": "it trains a bias beside each B, which no BA holds",
    "modules_to_save": "it keeps whole copies of those modules, and their base weights are not in the folder",
    "trainable_token_indices": "it keeps rows of the embeddings, and their base rows are not in the folder",
    "target_parameters": "its factors belong to stacked parameters and not to layers",
    "layer_replication": "it adds layers that the base model has not",
    "use_qalora": "QALoRA pools the input in groups, so its update is no BA of the layer's shape",
    "use_bdlora": "its factors are block-diagonal",
    "kasa_config": "KaSA changes the base weights before it trains",
    "monteclora_config": "its factors are drawn anew at each step",
}
_MOVED = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that take something off the base weights, so that BA is not what training added."""


@dataclass(eq=False)
class LoraUpdate(Update):
    """An adapter in peft's format.

    Attributes:
        config: what adapter_config.json says.
        file: the weights.
        keys: place -> names of the tensors A and B, and whether they are an embedding's.
    """

    config: Mapping[str, Any] = field(kw_only=True)
    file: TensorFile = field(kw_only=True)
    keys: Mapping[Place, tuple[str, str, bool]] = field(kw_only=True)

    def _read(self, where: Place) -> LowRank:
        key_a, key_b, embedding = self.keys[where]
        a, b = self.file.tensor(key_a), self.file.tensor(key_b)
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise CrosstaskError(
                f"{self.sources[where]!r} of update {str(self.name)!r} has factors A of shape {a.shape} and B of shape "
                f"{b.shape}; expected [r, in] and [out, r]"
            )
        scale = self._scale(self.sources[where], len(a))
        if embedding:  # the weight is [vocabulary, width], and so is (BA)^T
            return LowRank(a.T, b.T, scale, swapped=True)
        return LowRank(b, a, scale, as_stored=not self.config.get("fan_in_fan_out"))

    def _scale(self, name: str, rank: int) -> float:
        """alpha / r or alpha / sqrt(r); the first pattern that the end of the name matches gives alpha."""
        alphas = self.config.get("alpha_pattern") or {}
        match = next((key for key in alphas if re.match(rf"(.*\.)?({key})$", name)), None)
        alpha = float(self.config["lora_alpha"] if match is None else alphas[match])
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def read_lora(folder: Path, name: Name, *, record: Mapping[str, Any] | None = None) -> LoraUpdate:
    """An adapter's update.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        name: task and seed.
        record: the runner's record, if there is one.

    Raises:
        CrosstaskError: a file is missing or damaged, the adapter is not of a form whose update is BA alone, it matched
            no weight, or it holds something else besides its factors.
    """
    config = read_json(folder / CONFIG, str(name))
    _check_form(config, name)
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLED).is_file():
            raise CrosstaskError(
                f"update {str(name)!r} in {folder} is kept as {PICKLED}, which is a pickle and could run any code: "
                "load it with peft where you trust it, and save it again (save_pretrained writes safetensors)"
            )
        raise CrosstaskError(f"update {str(name)!r} in {folder} has {CONFIG} but no {WEIGHTS}")
    file = TensorFile(folder / WEIGHTS, of=str(name))
    sources, keys = _factors(file, name)
    base = str(config.get("base_model_name_or_path") or "")
    return LoraUpdate(name, folder, sources, base, record or {}, config=config, file=file, keys=keys)


def read_json(path: Path, of: str) -> dict[str, Any]:
    """A file of an update.

    Raises:
        CrosstaskError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrosstaskError(f"{path.name} of update {of!r} in {path.parent} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise CrosstaskError(f"{path.name} of update {of!r} in {path.parent} holds no settings")
    return found


def _check_form(config: Mapping[str, Any], name: Name) -> None:
    """Refuse what is not (alpha / r) B A, with the reason."""
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise CrosstaskError(
            f"update {str(name)!r} is of peft's type {kind}, and only LORA is a product BA; merge it into its base "
            "model, and give the checkpoint with --base"
        )
    if "lora_alpha" not in config:
        raise CrosstaskError(f"{CONFIG} of update {str(name)!r} has no lora_alpha, so its scale is not known")
    for option, reason in _REFUSED.items():
        if config.get(option):
            raise CrosstaskError(
                f"update {str(name)!r} was trained with {option}, and cannot be compared as BA: {reason}; merge it "
                "into its base model, and give the checkpoint with --base"
            )
    if config.get("bias", "none") != "none":
        raise CrosstaskError(
            f"update {str(name)!r} was trained with bias={config['bias']!r}: whole biases are kept, and those of the "
            "base are not in the folder; merge it into its base model, and give the checkpoint with --base"
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_MOVED):
        raise CrosstaskError(
            f"update {str(name)!r} began with init_lora_weights={start!r}, which moves the base weights, so BA is not "
            "what training added; save it with peft's path_initial_model_for_weight_conversion"
        )


def _factors(file: TensorFile, name: Name) -> tuple[dict[Place, str], dict[Place, tuple[str, str, bool]]]:
    """Place -> module, and place -> keys of A and B; every tensor of the file has to be one of them."""
    found: dict[str, dict[str, str]] = {}
    embeddings = set()
    for key in file.keys:
        match = _FACTOR.match(key)
        if match is None:
            raise CrosstaskError(f"update {str(name)!r} holds {key!r}, which is neither A nor B of a LoRA layer")
        found.setdefault(match[1], {})[match[3]] = key
        if match[2]:
            embeddings.add(match[1])
    if not found:
        raise CrosstaskError(
            f"update {str(name)!r} in {file.path.parent} holds no weights: its targets matched nothing"
        )
    for module, factors in found.items():
        if len(factors) < 2:
            raise CrosstaskError(f"update {str(name)!r} has only {min(factors)} of the factors A and B of {module!r}")
    sources = places(found, of=f"update {str(name)!r}")
    keys = {where: (found[module]["A"], found[module]["B"], module in embeddings) for where, module in sources.items()}
    return sources, keys
