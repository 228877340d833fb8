"""What a family has to say about its architecture; the defaults are those of a Llama-like language model.

Positions come from here: a family turns a picture into the *text* that its processor would put in place of the
picture (for LLaVA one placeholder per image token). The prompt is then tokenised as one string, and the tokens whose
character offsets fall into that text are the image's. Nothing is counted, and adjacent images stay apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
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


class Family:
    """A decoder-only language model laid out like Llama. Subclasses say what is different."""

    name: ClassVar[str] = "text"
    image_placeholder: ClassVar[str] = ""
    """What stands for an image in a prompt's text; empty for a family that takes no images."""
    continues_with_images: ClassVar[bool] = False
    """Whether an image may stand in a sequence that is continued from a cache, its positions counted on like text's."""
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
        """The norm between the last block and the head."""
        return getattr(module.get_decoder(), self.norm_at)

    def head(self, module: PreTrainedModel) -> nn.Module:
        """The unembedding: normed residual stream to logits."""
        return module.get_output_embeddings()

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
            if self.projection_weight(projection).shape[1] % heads:
                raise CrosstaskError(
                    f"{self.projection_at} of block {index} takes {self.projection_weight(projection).shape[1]} "
                    f"features, which {heads} heads cannot share equally"
                )
            found.append(projection)
        return found

    def projection_weight(self, projection: nn.Module) -> Tensor:
        """The projection's weight as ``[D, heads * D_head]``."""
        assert isinstance(projection.weight, Tensor)
        return projection.weight

    def packs(self, module: PreTrainedModel, n_tokens: int) -> bool:
        """Whether packed rows (a 4-D mask over shared positions) are exact for sequences of this many tokens.

        They are when the attention takes masks as transformers' common interface hands them over, positions enter
        through ``position_ids`` alone, and no sliding window cuts into the prefix.
        """
        config: PretrainedConfig = module.config.get_text_config()
        return (
            self.caches(module)
            and n_tokens <= (getattr(config, "sliding_window", None) or n_tokens)
            and getattr(module, "_supports_attention_backend", False)
            and config._attn_implementation in ("sdpa", "eager")
        )

    def caches(self, module: PreTrainedModel) -> bool:
        """Whether every block keeps the keys and values of all positions, so that a prefix can be continued at will.

        Not so for recurrent and chunked layers, and for layers that read the cache of another.
        """
        config: PretrainedConfig = module.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        shared = getattr(config, "kv_sharing_modes", None) or getattr(config, "num_kv_shared_layers", None)
        return kinds <= {"full_attention", "sliding_attention"} and not shared

    def check(self, module: PreTrainedModel, processor: ProcessorMixin | None) -> None:
        """Compare model and processor once, at load; raise a CrosstaskError where they disagree."""

    def image(self, processor: ProcessorMixin, picture: Picture) -> ImageInputs:
        """Preprocess one RGB picture."""
        raise NotImplementedError(f"the {self.name} family takes no images")

    def collate(self, images: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The vision inputs of a batch, from those of its images in reading order (row by row)."""
        if not images:
            return {}
        return {name: torch.cat([image[name] for image in images]) for name in images[0]}

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


DOCUMENT_START = {"<|im_start|>": "<|endoftext|>"}
"""A ``bos_token`` that opens a chat turn, and the token that documents began with in pretraining."""
