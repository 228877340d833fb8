"""Low-rank updates of the language model's linear layers, through peft (Hu et al. 2022).

    W -> W + (alpha / r) B A,    A in R^{r x in}, B in R^{out x r} with B = 0 at first

Targets are matched by their full path below the decoder's blocks, so that the layers of a vision tower, which go by the
same names (a CLIP tower has a `q_proj` too), never are. Quantised weights stay as they are under the update (QLoRA).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.errors import CrosstaskError
from interp.tuning.strategies.base import Strategy
from interp.tuning.strategies.registry import register

if TYPE_CHECKING:
    from interp.models.base import Model


@register
class Lora(Strategy):
    """An adapter in peft's own format."""

    name = "lora"
    needs_weights = False
    summary = "low-rank updates of the language model's attention projections"

    def attach(self) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,  # type: ignore[arg-type]
            lora_dropout=self.config.dropout,
            target_modules=target_pattern(self.model, self.config.targets),
            bias="none",
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.config.start_seed)
            self.adapted: Any = get_peft_model(self.model.module, config)
        written = self.adapted.peft_config["default"]
        written.base_model_name_or_path = self.model.name
        written.revision = self.config.loading.revision
        return self.adapted

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        # "auto" would ask the hub for the base model's vocabulary, to see whether embeddings were trained.
        self.adapted.save_pretrained(str(folder), state_dict=dict(state), save_embedding_layers=False)

    def update_norm(self, state: Mapping[str, Tensor]) -> float:
        scale, total = self.config.alpha / self.config.rank, 0.0
        for name, a in state.items():
            if ".lora_A." in name:
                b = state[name.replace(".lora_A.", ".lora_B.")]
                a, b = a.detach().double().cpu(), b.detach().double().cpu()
                total += float(((b.T @ b) * (a @ a.T)).sum())  # ||BA||^2 without the product
        return scale * total**0.5

    def detach(self) -> None:
        self.adapted.unload()
        if hasattr(self.model.module, "peft_config"):
            del self.model.module.peft_config
        self.model.module.requires_grad_(False)


def target_pattern(model: Model, targets: tuple[str, ...]) -> str:
    """A regular expression that matches the targets in the decoder's blocks, whole path by whole path.

    Raises:
        CrosstaskError: a target is not the name of a linear layer there; the names are listed.
    """
    blocks = next(name for name, part in model.module.named_modules() if part is model.blocks)
    linear = {
        name.rpartition(".")[2]
        for name, part in model.blocks.named_modules()
        if isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"
    }
    for target in targets:
        if target not in linear:
            raise CrosstaskError(
                f"the blocks of {model.name!r} have no linear layer {target!r} that LoRA could adapt; they have "
                f"{', '.join(sorted(linear))}"
            )
    return rf"{re.escape(blocks)}\.\d+\.(?:.*\.)?(?:{'|'.join(map(re.escape, targets))})"


def targeted_layers(model: Model, targets: tuple[str, ...]) -> dict[str, nn.Module]:
    """The layers that `target_pattern` matches, by their names in the module.

    Raises:
        CrosstaskError: a target is not the name of a linear layer of the decoder's blocks.
    """
    pattern = re.compile(target_pattern(model, targets))
    return {name: part for name, part in model.module.named_modules() if pattern.fullmatch(name)}
