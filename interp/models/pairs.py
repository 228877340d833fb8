"""Which VLM was fine-tuned from which language model, and whether a vector of the one may be read by the other.

A pair is *known* when its model card says so. Any pair can be checked:

    width        the residual streams must be equally wide
    depth        equally many blocks, or a layer map that names for each target layer the source layer to take
    delimiter    both tokenizers must give the template's delimiter the same single token
    weights      relative distance of each block's parameters (:mod:`interp.models.comparison`)
    vectors      cosine of the two models' task vectors at each layer, raw and centred (:func:`agreement`)

Task vectors of different tasks are already alike (Luo et al. 2025, section 4.2, report .58 for mismatched pairs of
Vicuna and LLaVA-1.5 against .95 for matched ones), so a raw cosine says little without the mismatched one beside it;
centring removes what all tasks share, and a random pair of directions then has cosine 0 with a spread of 1/sqrt(D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.models.comparison import Comparison, compare
from interp.prompts import Template


@dataclass(frozen=True)
class KnownPair:
    """A base language model and a VLM made from it.

    Attributes:
        llm: hub id, or the name of a bundled model.
        vlm: hub id, or the name of a bundled model.
        layer_map: source layer for each target layer, where the depths differ; empty for layer by layer.
    """

    llm: str
    vlm: str
    layer_map: tuple[int, ...] = ()


KNOWN = (
    KnownPair("bundled-llm", "bundled"),
    KnownPair("lmsys/vicuna-7b-v1.5", "llava-hf/llava-1.5-7b-hf"),
    KnownPair("lmsys/vicuna-13b-v1.5", "llava-hf/llava-1.5-13b-hf"),
    KnownPair("mistralai/Mistral-7B-v0.1", "HuggingFaceM4/idefics2-8b"),
    KnownPair("mistralai/Mistral-7B-v0.1", "HuggingFaceM4/idefics2-8b-base"),
    KnownPair("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-VL-3B-Instruct"),
    KnownPair("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-VL-7B-Instruct"),
    KnownPair("Qwen/Qwen2.5-32B", "Qwen/Qwen2.5-VL-32B-Instruct"),
    KnownPair("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolVLM-256M-Instruct"),
    KnownPair("HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolVLM-500M-Instruct"),
    KnownPair("HuggingFaceTB/SmolLM2-1.7B-Instruct", "HuggingFaceTB/SmolVLM-Instruct"),
)


def base_of(vlm: str) -> str | None:
    """The base language model of a known VLM, or None."""
    return next((pair.llm for pair in KNOWN if pair.vlm == vlm), None)


@dataclass(frozen=True)
class PairReport:
    """Whether vectors of `source` can be patched into `target`.

    Attributes:
        weights: widths, depths, tokenizers and weight distances.
        layer_map: the source layer for each target layer.
        delimiter: the template's delimiter.
        delimiter_ids: its token ids in the source and in the target.
    """

    source: str
    target: str
    weights: Comparison
    layer_map: tuple[int, ...]
    delimiter: str
    delimiter_ids: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def same_delimiter(self) -> bool:
        """The delimiter is one token in both, and the same one."""
        source, target = self.delimiter_ids
        return source == target and len(source) == 1


def check_pair(
    source: Model, target: Model, *, template: Template | None = None, layer_map: Sequence[int] = ()
) -> PairReport:
    """Compare two models before vectors of one are patched into the other.

    Args:
        source: the model that vectors are read from.
        target: the model that they are patched into.
        template: whose delimiter is compared; the default one otherwise.
        layer_map: the source layer for each target layer; by default the known pair's own, else layer by layer.

    Raises:
        CrosstaskError: for another width, for another depth without a layer map, and for a layer map of the wrong
            length or with a layer that the source does not have.
    """
    template = template or Template()
    known = next((pair.layer_map for pair in KNOWN if (pair.llm, pair.vlm) == (source.name, target.name)), ())
    mapped = tuple(layer_map) or known or tuple(range(target.n_layers))
    if source.width != target.width:
        raise CrosstaskError(
            f"vectors of {source.name!r} have width {source.width} and {target.name!r} has width {target.width}, so "
            "neither can read the other's"
        )
    if not (layer_map or known) and source.n_layers != target.n_layers:
        raise CrosstaskError(
            f"{source.name!r} has {source.n_layers} blocks and {target.name!r} has {target.n_layers}; give a layer map "
            "that names the source layer for each target layer"
        )
    if len(mapped) != target.n_layers or not all(0 <= layer < source.n_layers for layer in mapped):
        raise CrosstaskError(
            f"a layer map of {len(mapped)} layers from {min(mapped)} to {max(mapped)} does not fit; expected "
            f"{target.n_layers} layers between 0 and {source.n_layers - 1}"
        )
    ids = tuple(_delimiter_ids(model, template) for model in (source, target))
    return PairReport(source.name, target.name, compare(source, target), mapped, template.delimiter, (ids[0], ids[1]))


def _delimiter_ids(model: Model, template: Template) -> tuple[int, ...]:
    """The tokens that touch the delimiter where it stands in a prompt, after an input and the template's frame."""
    text = "x" + template.output_prefix
    found = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start = len(text) - len(template.delimiter)
    return tuple(i for i, (_, stop) in zip(found.input_ids, found.offset_mapping, strict=True) if stop > start)


@dataclass(frozen=True, eq=False)
class Agreement:
    """Cosines of every task vector of one model with every one of another, at each layer, ``[L, K, K]`` each.

    Attributes:
        raw: cos(source vector of task i, target vector of task j).
        centred: the same after each model's mean over tasks has been taken off, which centres off-diagonals at
            -1/(K - 1) when nothing but the tasks differs.
        random_spread: standard deviation of the cosine of two random directions, 1/sqrt(D).
    """

    raw: Float[Tensor, "L K K"]
    centred: Float[Tensor, "L K K"]
    random_spread: float


def agreement(source: Float[Tensor, "K L D"], target: Float[Tensor, "K L D"]) -> Agreement:
    """Compare the task vectors of K tasks in two models.

    Raises:
        CrosstaskError: if the shapes differ, or there are fewer than two tasks.
    """
    if source.shape != target.shape or source.ndim != 3 or len(source) < 2:
        raise CrosstaskError(
            f"the vectors have shapes {tuple(source.shape)} and {tuple(target.shape)}; expected the same [K, L, D], "
            "with at least two tasks"
        )

    def cosines(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("ild,jld->lij", functional.normalize(a, dim=-1), functional.normalize(b, dim=-1))

    a, b = source.double(), target.double()
    return Agreement(cosines(a, b), cosines(a - a.mean(0), b - b.mean(0)), random_spread=source.shape[-1] ** -0.5)


def matched(cosines: Float[Tensor, "L K K"]) -> Float[Tensor, " L"]:
    """The mean over tasks of the cosine with the same task."""
    return cosines.diagonal(dim1=1, dim2=2).mean(-1)


def mismatched(cosines: Float[Tensor, "L K K"]) -> Float[Tensor, " L"]:
    """The baseline: the mean over pairs of different tasks."""
    return cosines[:, ~torch.eye(cosines.shape[1], dtype=torch.bool)].mean(-1)
