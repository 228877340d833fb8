"""What a family has to say about its architecture; the defaults are those of a Llama-like language model.

Positions come from here: a family turns a picture into the *text* that its processor would put in place of the
picture (for LLaVA one placeholder per image token). The prompt is then tokenised as one string, and the tokens whose
character offsets fall into that text are the image's. Nothing is counted, and adjacent images stay apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from accelerate.utils import align_module_device
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from interp.errors import CrosstaskError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """One picture after the processor: the text that stands for it, and every tensor that the processor returned."""

    text: str
    features: dict[str, Tensor]


BLOCK_ARGUMENTS = {"hidden_states", "attention_mask", "position_ids", "position_embeddings", "cache_position"}
BLOCK_ARGUMENTS |= {"past_key_values", "use_cache", "kwargs"}
"""What :func:`interp.hooks.narrow` knows how to give to a block for some of the columns."""


class Family:
    """A decoder-only language model laid out like Llama. Subclasses say what is different."""

    name: ClassVar[str] = "text"
    image_placeholder: ClassVar[str] = ""
    """What stands for an image in a prompt's text; empty for a family that takes no images."""
    image_frame: ClassVar[tuple[str, str]] = ("", "")
    """What the prompts of the family write before and after an image, where the processor leaves that to them."""
    several_images: ClassVar[bool] = True
    """Whether a prompt may hold more than one image."""
    alone_differs: ClassVar[bool] = False
    """Whether an image is processed otherwise when it is the only one of its prompt."""
    bos_after_images: ClassVar[bool] = False
    """Whether a prompt's beginning of sequence stands behind its last image, and not at its start."""
    continues_with_images: ClassVar[bool] = False
    """Whether an image may stand in a sequence that is continued from a cache."""
    causal_prefix: ClassVar[bool] = True
    """Whether no token of a prompt sees a later one of its text. Only then can a prefix be run once and shared."""
    vision_between_blocks: ClassVar[bool] = False
    """Whether image features are also added *between* blocks: at an image's tokens, a block's output is then not what
    the next block reads. Text tokens, and so the delimiter, are not concerned."""
    blocks_at: ClassVar[str] = "layers"
    norm_at: ClassVar[str] = "norm"
    projection_at: ClassVar[str] = "self_attn.o_proj"
    examples: ClassVar[tuple[str, ...]] = ("HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-0.5B")
    """Hub names offered when the user mistypes one."""

    def blocks(self, module: PreTrainedModel) -> nn.ModuleList:
        """The decoder blocks, in order; their outputs are the residual stream."""
        decoder = module.get_decoder()
        blocks = getattr(decoder, self.blocks_at, None)
        expected = module.config.get_text_config().num_hidden_layers
        if not isinstance(blocks, nn.ModuleList) or len(blocks) != expected:
            raise CrosstaskError(
                f"expected {expected} decoder blocks at get_decoder().{self.blocks_at} of {type(module).__name__}, "
                f"found {len(blocks) if isinstance(blocks, nn.ModuleList) else 'none'}; its family needs a file in "
                "interp/models/families that says where they are"
            )
        return blocks

    def final_norm(self, module: PreTrainedModel) -> nn.Module:
        """The norm between the last block and the head.

        Raises:
            CrosstaskError: if there is none of that name.
        """
        norm = getattr(module.get_decoder(), self.norm_at, None)
        if not isinstance(norm, nn.Module):
            raise CrosstaskError(
                f"found no final norm at get_decoder().{self.norm_at} of {type(module).__name__}, so its residual "
                "stream cannot be read as logits; its family needs a file in interp/models/families that says where "
                "it is"
            )
        return norm

    def head(self, module: PreTrainedModel) -> nn.Module:
        """The unembedding: normed residual stream to logits."""
        return module.get_output_embeddings()

    def logits(self, module: PreTrainedModel, normed: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """The head, and what the model makes of its output: Gemma 2 caps it, ``c tanh(x / c)``, others scale it."""
        config = module.config.get_text_config()
        logits = self.head(module)(normed)
        for name, factor in LOGIT_FACTORS.items():
            if (scale := getattr(config, name, None)) is not None:
                logits = logits * factor(scale)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def projections(self, module: PreTrainedModel, blocks: nn.ModuleList) -> list[nn.Module]:
        """The attention's output projection of each block.

        Raises:
            CrosstaskError: where a block has none of that name, or one whose input is not a row of equal heads.
        """
        found = []
        for index, block in enumerate(blocks):
            try:
                projection = block.get_submodule(self.projection_at)
            except AttributeError as error:
                raise CrosstaskError(
                    f"block {index} of {type(module).__name__} has no attention output projection "
                    f"{self.projection_at!r}, so its heads cannot be read"
                ) from error
            heads = module.config.get_text_config().num_attention_heads
            if self.projection_width(projection) % heads:
                raise CrosstaskError(
                    f"{self.projection_at} of block {index} takes {self.projection_width(projection)} "
                    f"features, which {heads} heads cannot share equally"
                )
            found.append(projection)
        return found

    def projection_width(self, projection: nn.Module) -> int:
        """How many features the projection takes, heads * D_head."""
        assert isinstance(projection, nn.Linear)
        return projection.in_features

    def projection_weight(self, projection: nn.Module) -> Tensor:
        """The projection's weight as ``[D, heads * D_head]``, quantised or put off by accelerate as it may be.

        Quantised weights are laid out for the device that computes with them, so they are read from what the projection
        makes of unit vectors.
        """
        with align_module_device(projection):
            weight = projection.weight
            assert isinstance(weight, Tensor)
            if weight.is_floating_point():
                return weight
            dtype = getattr(projection, "compute_dtype", None) or torch.float16  # 8 bits compute in float16
            rows = projection(torch.eye(self.projection_width(projection), dtype=dtype, device=weight.device))
            return (rows if projection.bias is None else rows - projection.bias.to(rows)).T

    def packs(self, module: PreTrainedModel, n_tokens: int) -> bool:
        """Whether packed rows (a 4-D mask over shared positions) are exact for sequences of this many tokens.

        They are when the attention takes masks as transformers' common interface hands them over, positions enter
        through ``position_ids`` alone, and no sliding window cuts into the prefix.
        """
        config: PretrainedConfig = module.config.get_text_config()
        return (
            self.continues(module)
            and n_tokens <= (getattr(config, "sliding_window", None) or n_tokens)
            and getattr(module, "_supports_attention_backend", False)
            and config._attn_implementation in ("sdpa", "eager")
        )

    def narrows(self, module: PreTrainedModel) -> bool:
        """Whether blocks can be run on some of the columns: it is known what else they are given."""
        given = set(inspect.signature(self.blocks(module)[0].forward).parameters)
        return {"attention_mask", "position_embeddings"} <= given <= BLOCK_ARGUMENTS

    def caches(self, module: PreTrainedModel) -> bool:
        """Whether every block keeps the keys and values of all positions, so that a prefix can be continued at will.

        Not so for recurrent and chunked layers, and for layers that read the cache of another.
        """
        config: PretrainedConfig = module.config.get_text_config()
        shared = getattr(config, "kv_sharing_modes", None) or getattr(config, "num_kv_shared_layers", None)
        return set(self.layer_kinds(module)) <= {"full_attention", "sliding_attention"} and not shared

    def continues(self, module: PreTrainedModel) -> bool:
        """Whether running a prefix first and the rest under a patch later gives what one forward pass gives."""
        return self.causal_prefix and self.caches(module)

    def layer_kinds(self, module: PreTrainedModel) -> tuple[str, ...]:
        """The kind of each block's attention; more than one where, say, windows and full attention take turns."""
        config: PretrainedConfig = module.config.get_text_config()
        return tuple(getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers)

    def check(self, module: PreTrainedModel, processor: ProcessorMixin | None) -> None:
        """Compare model and processor once, at load; raise a CrosstaskError where they disagree."""

    def image(self, processor: ProcessorMixin, picture: Picture, *, among: int = 1) -> ImageInputs:
        """Preprocess one RGB picture, one of so many in its prompt."""
        raise NotImplementedError(f"the {self.name} family takes no images")

    def after_image(self, text: str) -> str:
        """The text right behind an image as the processor would write it."""
        return text

    def token_inputs(
        self, module: PreTrainedModel, ids: Int[Tensor, " T"], images: list[dict[str, Tensor]]
    ) -> dict[str, Int[Tensor, "... T"]]:
        """What the module takes for each token of a whole prompt besides its id: ``position_ids`` at least.

        It is found once, for the prompt alone. Padding fills up on the left, and a part of the prompt, run or continued
        by itself, takes its part; so position ids count from the prompt's beginning, whatever else is in the batch.
        The last token's position has to be the same on all axes, and tokens written later count on from it.
        """
        return {"position_ids": torch.arange(len(ids))}

    def collate(self, images: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The vision inputs of a batch, from those of its images in reading order (row by row).

        Where images differ in size or in their number of tiles, zeros fill up the smaller ones, as processors do; that
        the model cuts or masks them off is part of what the tests of each family hold.
        """
        if not images:
            return {}
        return {name: _joined([image[name] for image in images]) for name in images[0]}

    def tower_images(self, features: dict[str, Tensor]) -> int:
        """How many pictures the vision tower is given for one picture: its tiles, where it is cut into tiles."""
        if "image_grid_thw" in features:
            return len(features["image_grid_thw"])
        pixels = features["pixel_values"]
        return pixels.shape[:-3].numel()

    def bos_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """What a prompt must begin with.

        A first token draws attention whatever it is, and loses its own content (an attention sink), so the query must
        not be first. The tokenizer's own prefix is used if it adds one, else its document start: ``bos_token``,
        except where that token opens a chat turn (SmolLM2-Instruct) and documents began with ``<|endoftext|>``.
        """
        prefixed, bare = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
        for start in range(len(prefixed) - len(bare) + 1):
            if start and prefixed[start : start + len(bare)] == bare:
                return tuple(prefixed[:start])
        vocabulary = tokenizer.get_vocab()
        for bos in (DOCUMENT_START.get(tokenizer.bos_token or ""), tokenizer.bos_token):
            if bos in vocabulary:
                return (vocabulary[bos],)
        return ()

    def reset_state(self, module: PreTrainedModel) -> None:
        """Forget what an earlier run left on the module (the multimodal rotary offset of the Qwen-VL line)."""
        for owner in (module, module.base_model):
            if getattr(owner, "rope_deltas", None) is not None:
                owner.rope_deltas = None


LOGIT_FACTORS: dict[str, Callable[[float], float]] = {
    "logit_scale": lambda scale: scale,  # Cohere
    "logits_scaling": lambda scale: 1 / scale,  # Granite
    "lm_head_multiplier": lambda scale: scale,  # Falcon-H1
}
"""What logits are multiplied by, from a text configuration's attribute. Another architecture is caught by
:func:`interp.lens.check_lens`, which holds the lens to the model's own logits."""


def _joined(tensors: list[Tensor]) -> Tensor:
    """Concatenated along the first dimension, zeros at the end of all others where they differ."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    missing = [[length - size for size, length in zip(t.shape[1:], shape, strict=True)] for t in tensors]
    pads = [[n for by in reversed(short) for n in (0, by)] for short in missing]
    padded = [functional.pad(t, pad) if any(pad) else t for t, pad in zip(tensors, pads, strict=True)]
    return torch.cat(padded)


DOCUMENT_START = {"<|im_start|>": "<|endoftext|>"}
"""A ``bos_token`` that opens a chat turn, and the token that documents began with in pretraining."""
