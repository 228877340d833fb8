"""A loaded model: frozen weights, tokenizer and processor, with its parts under one set of names.

``model.blocks[l]`` is a decoder block, whose output is the residual stream after layer ``l`` (so ``blocks[-1]`` comes
*before* the final norm, unlike ``output_hidden_states[-1]``); ``model.head(model.final_norm(x))`` are the logits.
Nothing is re-implemented: ``model.module`` is the transformers model itself.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from interp.errors import CrosstaskError
from interp.models.families import Family, ImageInputs, family_for
from interp.models.loading import load_parts
from interp.models.options import LoadOptions

if TYPE_CHECKING:
    from interp.images import Image

IMAGE_CACHE_BYTES = 256 * 2**20
"""Preprocessed images are kept up to this size, since a demonstration's picture is shown in many prompts."""


CHAT_MARK, SYSTEM_MARK = "(message)", "(system message)"
"""Stand for the messages while a chat template's frame is looked up."""


@dataclass(frozen=True, eq=False)
class Model:
    """A vision-language or language model in eval mode, without gradients.

    Attributes:
        name: as the user gave it: ``bundled``, ``bundled-llm``, a hub id or a local folder.
        module: the transformers model.
        tokenizer: a fast tokenizer (character offsets are needed).
        processor: the processor of a model that takes images, else None.
        family: what is particular to the architecture.
        fingerprint: sha256 over the weights.
        bos_ids: token ids that every prompt begins with; by default what the family says.
    """

    name: str
    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    processor: ProcessorMixin | None
    family: Family
    fingerprint: str
    bos_ids: tuple[int, ...] | None = None
    _images: OrderedDict[tuple[str, int], ImageInputs] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        if not self.tokenizer.is_fast:
            raise CrosstaskError(f"model {self.name!r} has a slow tokenizer, which knows no character offsets")
        self.family.check(self.module, self.processor)
        if self.dtype == torch.float64 and self.module.config.get_text_config()._attn_implementation == "eager":
            raise CrosstaskError("eager attention takes its softmax in float32, where float64 masks overflow; use sdpa")
        self.module.eval().requires_grad_(False)
        if self.bos_ids is None:
            object.__setattr__(self, "bos_ids", self.family.bos_ids(self.tokenizer))
        _ = self.blocks, self.head  # the layout is asserted now, not in the middle of a run

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks, L of them."""
        return self.family.blocks(self.module)

    @cached_property
    def final_norm(self) -> nn.Module:
        """The norm after the last block."""
        return self.family.final_norm(self.module)

    @cached_property
    def head(self) -> nn.Module:
        """The unembedding, [.., D] -> [.., V]."""
        return self.family.head(self.module)

    @cached_property
    def projections(self) -> list[nn.Module]:
        """The attention's output projection of each block, L of them; a head is a slice of its input."""
        return self.family.projections(self.module, self.blocks)

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        """Attention (query) heads of a block."""
        return self.module.config.get_text_config().num_attention_heads

    @cached_property
    def head_width(self) -> int:
        """Width of one head at the input of the output projection; not always D / heads."""
        return self.family.projection_width(self.projections[0]) // self.n_heads

    @property
    def width(self) -> int:
        """Width D of the residual stream."""
        return self.module.config.get_text_config().hidden_size

    @property
    def device(self) -> torch.device:
        """Where inputs go; on the CPU they wait to be sent to a model that is held elsewhere."""
        if self.is_remote:
            return torch.device("cpu")
        return self.devices[0] if self.is_spread else self.module.device

    @property
    def devices(self) -> list[torch.device]:
        """Every device that computes; the first takes the inputs and gives the logits."""
        if not self.is_spread:
            return [self.device]
        places = (place for place in self.module.hf_device_map.values() if place not in ("cpu", "disk"))
        found = [torch.device(f"cuda:{place}" if isinstance(place, int) else place) for place in places]
        return list(dict.fromkeys(found)) or [torch.device("cpu")]

    @property
    def is_spread(self) -> bool:
        """Whether accelerate holds the weights, on several devices or, in part, off them (then on the meta device)."""
        return len(set((getattr(self.module, "hf_device_map", None) or {}).values())) > 1

    @property
    def is_remote(self) -> bool:
        """Whether the weights are held elsewhere: the module is here in outline, on the meta device."""
        return self.module.device.type == "meta" and not self.is_spread

    @property
    def is_whole(self) -> bool:
        """Whether the parameters are here and hold the weights as they are, neither quantised nor put off."""
        quantised = getattr(self.module, "is_quantized", False)
        return not quantised and not any(parameter.is_meta for parameter in self.module.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """Of the residual stream; quantised weights are integers, the embeddings are not."""
        return self.module.get_input_embeddings().weight.dtype

    @property
    def takes_images(self) -> bool:
        return bool(self.family.image_placeholder) and self.processor is not None

    @cached_property
    def bos_text(self) -> str:
        """The beginning of every prompt as text, e.g. ``<|endoftext|>``; empty when there is none."""
        return self.tokenizer.decode(list(self.bos_ids or ()))

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a generation: every end of sequence that configuration or tokenizer know, and BOS."""
        config = self.module.generation_config
        eos = config.eos_token_id if config is not None else None
        listed = eos if isinstance(eos, list) else [eos]
        ids = {*listed, self.tokenizer.eos_token_id, *(self.bos_ids or ())}
        return frozenset(i for i in ids if i is not None)

    @cached_property
    def base_vocabulary(self) -> dict[str, int]:
        """The tokenizer's vocabulary without the tokens that were added to it (a VLM adds ``<image>``)."""
        return self.tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """sha256 over the base vocabulary: equal for a language model and the VLM that was made from it."""
        return hashlib.sha256(json.dumps(sorted(self.base_vocabulary.items())).encode()).hexdigest()

    @cached_property
    def special_tokens(self) -> dict[int, str]:
        """Tokens that a prompt's text must not spell out, by id: special ones and the image placeholder."""
        special = {i: t.content for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        if self.family.image_placeholder:
            placeholder = self.family.image_placeholder
            special[self.tokenizer.convert_tokens_to_ids(placeholder)] = placeholder
        return special

    @cached_property
    def chat_frame(self) -> tuple[str, str]:
        """What the model's chat template writes before a user's only message and after it, up to the answer.

        Raises:
            CrosstaskError: if there is no chat template, or it changes the message.
        """
        before, after = self._chat_parts(("user", CHAT_MARK))
        return before, after

    @cached_property
    def system_frame(self) -> tuple[str, str, str]:
        """What the chat template writes before a system message, between it and a user's message, and after that.

        Raises:
            CrosstaskError: if there is no chat template, it takes no system message, or it changes a message.
        """
        before, between, after = self._chat_parts(("system", SYSTEM_MARK), ("user", CHAT_MARK))
        return before, between, after

    def _chat_parts(self, *messages: tuple[str, str]) -> list[str]:
        """What the chat template writes around these messages (role, text), up to the answer.

        Processors take a message as a list of parts, and the chat templates of language models, which a VLM may have
        kept, as a text; both are tried.
        """
        writer = self.tokenizer if self.processor is None else self.processor
        if not getattr(writer, "chat_template", None):
            raise CrosstaskError(f"model {self.name!r} has no chat template; use a template without 'chat:'")
        listed = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in messages]
        plain = [{"role": role, "content": text} for role, text in messages]
        written: list[str] = []
        for turns in (plain,) if self.processor is None else (listed, plain):
            try:
                text = str(writer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
            except (TemplateError, TypeError, KeyError, ValueError) as error:
                written.append(f"it says {error}")
                continue
            marks = "|".join(re.escape(mark) for _, mark in messages)
            if re.findall(marks, text) == [mark for _, mark in messages]:
                return re.split(marks, text)
            written.append(repr(text))
        what = "the message" if len(messages) == 1 else "a system message and a user's"
        raise CrosstaskError(f"the chat template of model {self.name!r} changes {what}: {written[0]}")

    @cached_property
    def pad_id(self) -> int:
        """What fills the left of a short row; it is masked, so any id will do."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id or 0

    @cached_property
    def _accepts(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.module.forward).parameters)

    def image_inputs(self, image: Image, *, among: int = 1) -> ImageInputs:
        """The processor's output for one image, computed once per image content.

        Args:
            image: the image.
            among: how many images its prompt holds.

        Raises:
            CrosstaskError: if the model takes no images, or the image cannot be decoded.
        """
        if not self.takes_images:
            raise CrosstaskError(f"model {self.name!r} takes no images, but the prompt holds {image}")
        assert self.processor is not None
        key = image.key, among if self.family.alone_differs else 1
        if key not in self._images:
            self._images[key] = self.family.image(self.processor, image.load(), among=among)
            size = sum(t.nbytes for t in self._images[key].features.values())
            while len(self._images) > max(1, IMAGE_CACHE_BYTES // max(1, size)):
                self._images.popitem(last=False)
        self._images.move_to_end(key)
        return self._images[key]

    def tower_images(self, image: Image, *, among: int = 1) -> int:
        """How many pictures the vision tower is given for one image, one of so many in its prompt."""
        return self.family.tower_images(self.image_inputs(image, among=among).features)

    def reset_state(self) -> None:
        """Forget whatever an earlier run left on the module."""
        self.family.reset_state(self.module)

    @torch.no_grad()
    def forward(self, inputs: dict[str, Tensor], *, fresh: bool = True, logits: int | None = 1, **options: Any) -> Any:
        """One forward pass.

        Args:
            inputs: the module's keyword arguments.
            fresh: a new sequence begins, so state that an earlier run left on the module is reset.
            logits: compute those of so many last columns (they take V numbers a token); None for all.
            **options: passed on, e.g. ``past_key_values`` and ``use_cache``.

        Returns:
            The module's output, with ``logits`` and ``past_key_values``.
        """
        if self.is_remote:
            raise CrosstaskError(f"model {self.name!r} was loaded without weights; only backend nnsight can run it")
        if fresh:
            self.reset_state()
        if logits is not None and "logits_to_keep" in self._accepts:
            # An index, where a number would make a strided slice, of which a linear layer multiplies every row alone.
            width = inputs["input_ids"].shape[1]
            options["logits_to_keep"] = 1 if logits == 1 else torch.arange(width - logits, width)
        return self.module(**inputs, **options)


def load_model(
    name: str,
    *,
    device: str = "auto",
    device_map: str | None = None,
    dtype: str = "float32",
    quantize: Literal["4bit", "8bit"] | None = None,
    attention: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a model, ready for capture and patching.

    Args:
        name: ``bundled`` (the VLM), ``bundled-llm`` (its base language model), a local folder, or a hub id.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``remote`` (no weights:
            NDIF holds them, and backend nnsight traces it).
        device_map: spread over several devices by accelerate, instead of ``device``: ``auto``, ``balanced``,
            ``balanced_low_0``, ``sequential``, or module: device as JSON.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``float64``; of quantised weights, what they compute in.
        quantize: ``4bit`` (NF4) or ``8bit`` (LLM.int8), through bitsandbytes.
        attention: the attention implementation, e.g. ``sdpa`` or ``eager``; transformers' own choice by default.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run model code that comes with the weights; off unless asked for.

    Raises:
        CrosstaskError: for unknown names (the nearest known ones are offered), unsupported architectures, missing
            weights, options that are unknown, contradict each other or cannot be met, and missing packages.
    """
    options = LoadOptions(device, device_map, dtype, quantize, attention, revision, trust_remote_code)
    module, tokenizer, processor, fingerprint = load_parts(name, options)
    return Model(name, module, tokenizer, processor, family_for(module.config), fingerprint)
