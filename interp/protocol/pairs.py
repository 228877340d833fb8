"""The protocol behind `experiments.compare_pair`: what two models share, and how alike their task vectors are.

Both models read the same contexts of every task; the vector is the mean over contexts at the delimiter of the dummy
query. Under a layer map target layer l stands beside source layer map[l].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.options import LoadOptions
from interp.models.pairs import Agreement, PairReport, matched, mismatched
from interp.prompts import Template
from interp.protocol.contexts import draw, source_prompts
from interp.protocol.settings import at_least, decisive, known
from interp.tasks import Task
from interp.vectors import extract


@dataclass(frozen=True)
class PairSettings:
    """One comparison. Attributes as in :class:`interp.protocol.settings.Settings`, and:

    Attributes:
        source, target: the models; vectors of the first would be patched into the second.
        layer_map: the source layer for each target layer; empty for the known pair's own, else layer by layer.
        source_modality, target_modality: how each model is given the task: text, image or instruction.
    """

    source: str
    target: str
    layer_map: tuple[int, ...]
    tasks: tuple[str, ...]
    source_modality: str
    target_modality: str
    shots: int
    contexts: int
    seed: int
    template: str
    loading: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        at_least(self, 1, "shots", "contexts")
        for name in ("source_modality", "target_modality"):
            known(f"--{name.replace('_', '-')}", (getattr(self, name),), ("text", "image", "instruction"))
        if len(self.tasks) < 2:
            raise CrosstaskError(
                f"--tasks names {len(self.tasks)} task; a comparison needs two, as matched is told from mismatched."
            )

    def config(self) -> dict[str, Any]:
        """What decides the numbers."""
        return decisive(self)


def task_vectors(model: Model, tasks: Sequence[Task], modality: str, settings: PairSettings) -> Float[Tensor, "K L D"]:
    """The mean vector of every task in one model."""
    if modality == "image" and not model.takes_images:
        raise CrosstaskError(f"{model.name!r} takes no images; read its vectors from text.")
    template, found = Template.parse(settings.template), []
    for task in tasks:
        pool, name = task.split("selection"), task.name
        contexts = draw(pool, shots=settings.shots, contexts=settings.contexts, seed=settings.seed, task=name)
        prompts = source_prompts(model, task, modality, contexts, template=template)
        found.append(extract(model, prompts).mean(0))
    return torch.stack(found)


def layer_table(report: PairReport, found: Agreement) -> pd.DataFrame:
    """One row per target layer: weight distance of the block, and mean cosines of matched and mismatched tasks."""
    distances = report.weights.block_distances or [None] * len(report.layer_map)
    columns = {
        "raw_matched": matched(found.raw),
        "raw_mismatched": mismatched(found.raw),
        "centred_matched": matched(found.centred),
        "centred_mismatched": mismatched(found.centred),
    }
    return pd.DataFrame(
        {
            "layer": range(len(report.layer_map)),
            "source_layer": report.layer_map,
            "weight_distance": distances,
            **{name: values.tolist() for name, values in columns.items()},
            "random_spread": found.random_spread,
        }
    )


def cosine_table(names: Sequence[str], found: Agreement) -> pd.DataFrame:
    """One row per target layer and pair of tasks, for a test of one's own."""
    return pd.DataFrame(
        {
            "layer": layer,
            "source_task": source,
            "target_task": target,
            "raw": found.raw[layer, i, j].item(),
            "centred": found.centred[layer, i, j].item(),
        }
        for layer in range(len(found.raw))
        for i, source in enumerate(names)
        for j, target in enumerate(names)
    )


def sentences(report: PairReport) -> list[str]:
    """What the comparison says in words."""
    weights = report.weights
    source, target = report.delimiter_ids
    said = [
        f"Tokenizers: {'the same vocabulary' if weights.same_tokenizer else 'different vocabularies'}.",
        f"Delimiter {report.delimiter!r}: "
        + (
            f"token {source[0]} in both."
            if report.same_delimiter
            else f"tokens {list(source)} in the source and {list(target)} in the target, so they do not share it."
        ),
    ]
    if weights.distance is not None:
        said.append(f"Weights: the blocks differ by {100 * weights.distance:.1f} % on average.")
    else:
        said.append("Weights: not compared, because the depths differ or they are held elsewhere.")
    return said
